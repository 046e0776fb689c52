"""What a sync would do: the survey, the comparison and the guard of a run, without a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from .ahead import Missing, foresee, texts_to_write
from .errors import SinkError, TransientError
from .events import Emit, SinkStopped, ignore
from .parts import Options, Parts
from .report import MAX_ALTERATIONS, Alteration, PlannedDocument, PlanReport, SinkPlan
from .retry import Retry
from .stopping import Stop
from .summary import objections, reembed_objection, source_problems
from .survey import Survey, Update
from .tally import Departures, Tally, exit_code


def plan(
    parts: Parts,
    options: Options = Options(),  # noqa: B008  # frozen
    *,
    verbose: bool = False,
    retry: Retry = Retry(),  # noqa: B008  # frozen
    emit: Emit = ignore,
    clock: Callable[[], float] = time.monotonic,
) -> PlanReport:
    """Find what a sync would do. Writes nothing; `verbose` names the documents.

    A sink that does not answer is named, and the rest is planned without it.

    Raises:
        ConfigError: the source or a sink cannot work as configured.
    """
    started = clock()
    checkpoints = parts.checkpoints
    parts.source.check()
    held, stopped = _check_sinks(parts, retry, emit)
    anew = frozenset(name for name, incarnation in held.items() if incarnation != checkpoints.incarnation(name))
    survey = survey_of(parts, emit, anew=anew, left_out=stopped)
    tally = Tally()
    missing = Missing(parts.vectors)
    sinks = {name: _Sent() for name in held}
    documents: list[PlannedDocument] = []
    for group in survey.groups() if held else ():
        missing.add(texts_to_write(group))
        tally.add(group)
        for name, sent in sinks.items():
            sent.add(name, group, tally)
        if verbose:
            documents += [PlannedDocument(u.wanted.document_id, str(u.kind), u.problem or "") for u in group]
    departures = tally.departures(survey, options.guard)
    if verbose:
        documents += _those_that_go(survey, departures)
    counts = tally.counts(survey, replace(departures, objection=None))  # what a sync would ask about counts, too
    reembed = None if options.accept_reembed else reembed_objection(parts, without=stopped)
    forecast = foresee(parts.embedder, missing)
    is_first = not any(checkpoints.count(sink.name) for sink in parts.sinks)
    spending = options.ceilings.objection(forecast, first_run=is_first) or options.ceilings.short_of(forecast)
    return PlanReport(
        counts=counts,
        texts_to_embed=missing.texts,
        texts_reused=missing.reused,
        tokens_to_embed=missing.tokens,
        forecast=forecast,
        sinks={
            sink.name: SinkPlan(stopped=stopped[sink.name])
            if sink.name in stopped
            else sinks[sink.name].plan(sink.name, departures)
            for sink in parts.sinks
        },
        seconds=clock() - started,
        exit_code=exit_code(
            rejected=counts.rejected,
            behind=not survey.complete or bool(stopped),
            objection=departures.objection or reembed or spending,
        ),
        problems=(
            *(source_problems([survey], counts.rejected) if held else ()),
            *(f"sink {name} cannot be planned for: {reason}" for name, reason in stopped.items()),
            *objections([departures]),
            *filter(None, (reembed, spending)),
        ),
        documents=tuple(documents),
        altered=tuple(alteration for sent in sinks.values() for alteration in sent.alterations),
    )


@dataclass(slots=True)
class _Sent:
    """What one sink would be sent."""

    upserts: int = 0  # records
    leftovers: int = 0  # records
    refused: int = 0
    altered: int = 0
    alterations: list[Alteration] = field(default_factory=list)

    def add(self, name: str, group: Sequence[Update], tally: Tally) -> None:
        for change in tally.due(name, group):
            self.upserts += len(change.upserts)
            if change.touches_sink:
                self.leftovers += max(0, change.extent_before - len(change.wanted.digests))
        for update in group:
            if (found := update.changes.get(name)) is None:
                continue
            self.refused += update.wanted.problem is None and found.wanted.problem is not None
            if found.alterations:
                self.altered += 1
                if len(self.alterations) < MAX_ALTERATIONS:
                    self.alterations.append(Alteration(name, update.wanted.document_id, found.alterations))

    def plan(self, name: str, departures: Departures) -> SinkPlan:
        leaving = sum(entry.extent for entry in departures.gone[name])
        leaving += sum(change.extent_before for change in departures.removals[name])
        return SinkPlan(self.upserts, self.leftovers + leaving, self.refused, self.altered)


def _check_sinks(parts: Parts, retry: Retry, emit: Emit) -> tuple[dict[str, str | None], dict[str, str]]:
    """Ask every sink for its incarnation; tell also why some did not answer."""
    held: dict[str, str | None] = {}
    stopped: dict[str, str] = {}
    for sink in parts.sinks:
        try:
            held[sink.name] = retry(f"check {sink.name}", lambda s=sink: s.check(parts.embedder.dimension), emit)  # type: ignore[misc]
        except (TransientError, SinkError) as error:
            stopped[sink.name] = str(error) or type(error).__name__
            emit(SinkStopped(sink.name, stopped[sink.name]))
    return held, stopped


def _those_that_go(survey: Survey, departures: Departures) -> Iterator[PlannedDocument]:
    gone = {entry.document_id for entries in departures.gone.values() for entry in entries}
    yield from [PlannedDocument(id, "deleted") for id in sorted(gone)]
    yield from [PlannedDocument(place, "rejected", why) for place, why in survey.unreadable + survey.duplicates]


def survey_of(
    parts: Parts,
    emit: Emit,
    *,
    sinks: Sequence[str] | None = None,
    anew: frozenset[str] = frozenset(),
    left_out: Iterable[str] = (),
    stop: Stop | None = None,
) -> Survey:
    """Begin a walk over the source, for some sinks or for all."""
    fits = {sink.name: sink.fit for sink in parts.sinks}
    names = list(fits) if sinks is None else sinks
    survey = Survey(parts.source, parts.splitter, parts.recipe, parts.checkpoints, names, emit, anew, fits)
    survey.stop = stop or survey.stop
    for name in left_out:
        survey.leave_out(name)
    return survey
