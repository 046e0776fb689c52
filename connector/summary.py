"""Say how a run ended, and what is to be done about it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from .delivery import Delivery
from .errors import ConnectorError
from .parts import Parts
from .ports import Sink
from .survey import Survey
from .tally import Departures


def source_problems(surveys: Sequence[Survey], rejected: int) -> Iterator[str]:
    """Say what is wrong with the source and its documents, by all walks over it."""
    for survey in surveys:
        if survey.error is not None:
            yield f"{survey.error}"
        if not survey.complete:
            yield "the source was not read to its end, so nothing was deleted"
        if survey.skipped:
            yield (
                f"{len(survey.skipped)} documents changed or vanished while they were read, "
                f"such as {survey.skipped[0]}; the next run looks again"
            )
    if waiting := max((survey.waiting for survey in surveys), default=0):
        wait = "document waits" if waiting == 1 else "documents wait"
        yield f"{waiting} {wait} for embed jobs that are under way; the run after their end takes them in"
    if rejected:
        are = "document is" if rejected == 1 else "documents are"
        yield f"{rejected} {are} rejected; `vector-sync rejected` tells why"


def sink_problems(deliveries: Mapping[str, Delivery]) -> Iterator[str]:
    """Say which sinks were given up for this run."""
    for name, delivery in deliveries.items():
        if delivery.stopped:
            yield (
                f"sink {name} stopped, {delivery.behind} documents behind; "
                f"run again when this is mended: {delivery.stopped}"
            )


def objections(all_departures: Iterable[Departures]) -> Iterator[str]:
    """Say why nothing was deleted, if that was asked about; once."""
    yield from dict.fromkeys(filter(None, (departures.objection for departures in all_departures)))


def reembed_objection(parts: Parts, without: Collection[str] = ()) -> str | None:
    """Say that a sync would embed everything again, and why; None if it would not."""
    for sink in parts.sinks:
        changed = None if sink.name in without else parts.recipe.reembeds(parts.checkpoints.recipe(sink.name))
        if changed and (documents := parts.checkpoints.count(sink.name)):
            return (
                f"{changed}, so all {documents} documents of sink {sink.name} would be split and embedded again; "
                "see what it costs with `vector-sync plan`, and accept it with --accept-reembed"
            )
    return None


def drift(sink: Sink, expected: int | None) -> tuple[int | None, str | None]:
    """Compare how many records a sink has with how many were written; and say so if that is not the same.

    It finds what came or went behind our back, unless as many came as went: `verify` finds that, too. Sinks count what
    bears our mark, so a stray record is drift here as it is there. A sink that cannot tell has not drifted.
    """
    try:
        count = None if expected is None else sink.count()
    except ConnectorError:
        return None, None
    if count is None or expected is None:
        return None, None
    if count == expected:
        return 0, None
    return count - expected, (
        f"sink {sink.name} holds {count} records of this sync, and {expected} were written: something else "
        "changed it; `vector-sync verify` names what, and `vector-sync verify --repair` mends it, or says what is left "
        "to you"
    )
