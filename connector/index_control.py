"""Verify, repair and rebuild outside of a run: every generation that a sync keeps in step, each with its own parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from . import rebuild as rebuilding
from . import verification
from .composition import open_parts, open_sync, run_options
from .config import Settings
from .drift import SinkFindings, Verified
from .errors import ConfigError, SafetyError
from .events import Emit, ignore
from .generation_parts import OpenSync
from .generation_run import sync_generations
from .generations import Decision, Generation, Step, names_for_people
from .parts import Parts
from .rebuild import Rebuilt
from .scratch import Scratch
from .stopping import Stop
from .verification import Repaired, Show, show_nothing


@dataclass(frozen=True, slots=True)
class Looking:
    """What is to be looked at, and how."""

    sinks: tuple[str, ...] = ()  # none: all
    contents: bool = False  # compare also texts and metadata with the digests
    keep_all: bool = False  # keep every finding, not only the first of each kind


def verify(settings: Settings, scratch: Scratch, looking: Looking, *, show: Show = show_nothing) -> Verified:
    """Compare what the sinks hold with their ledgers; nothing is written.

    Raises:
        LeaseError: a run is under way, or wrote meanwhile.
        ConfigError: a sink cannot work as the settings say, or is not in them.
    """
    found: list[SinkFindings] = []
    with open_sync(settings, read_only=True) as opened:
        kept, notes = _kept(opened)
        for opens in kept:
            with opens() as parts:
                found += verification.verify(
                    parts,
                    scratch,
                    sinks=looking.sinks,
                    contents=looking.contents,
                    keep_all=looking.keep_all,
                    show=show,
                ).sinks
        names = _names(opened, [it.sink for it in found])
    return Verified(tuple(found), notes, names)


def repair(
    settings: Settings,
    scratch: Scratch,
    looking: Looking,
    *,
    confirm_deletes: int | None = None,
    wait_for_jobs: bool = True,
    stop: Stop | None = None,
    showing: Callable[[], AbstractContextManager[Show]] = lambda: nullcontext(show_nothing),
    telling: Callable[[], AbstractContextManager[Emit]] = lambda: nullcontext(ignore),
) -> Repaired:
    """Verify, sync what was found, and verify again, all with the lease; see `verification.repair`.

    Raises:
        SafetyError: a sync would first ask whether to build a new generation; nothing was written.
        ConfigError, TransientError, LeaseError: as a sync.
    """
    options = replace(run_options(settings), confirm_deletes=confirm_deletes, wait_for_jobs=wait_for_jobs)
    with open_sync(settings) as opened:
        if _decide(opened)[1].step in (Step.ASK, Step.REPLACE):
            raise SafetyError(
                "the settings ask for another embedder or splitter than the index was made with, and a sync would ask "
                "first; repair it with the settings that made it, or build the new one by `sync --accept-reembed`"
            )
        kept, notes = _kept(opened)
        done = verification.repair(
            kept,
            lambda emit: sync_generations(opened, options, emit=emit, stop=stop),
            scratch,
            sinks=looking.sinks,
            contents=looking.contents,
            keep_all=looking.keep_all,
            showing=showing,
            telling=telling,
        )
        names = _names(opened, [it.sink for it in done.found.sinks])
        return replace(done, found=replace(done.found, notes=notes, names=names))


def rebuild(
    settings: Settings,
    *,
    sinks: Sequence[str] = (),
    trust_vectors: bool = False,
    show: Show = show_nothing,
) -> list[Rebuilt]:
    """Make lost ledgers again; see `rebuild.rebuild`."""
    with open_parts(settings) as parts, Scratch.open(settings.state_path) as scratch:
        return rebuilding.rebuild(
            parts,
            scratch,
            sinks=sinks,
            keep_vectors=settings.state.keep == "all",
            trust_vectors=trust_vectors,
            show=show,
        )


def _decide(opened: OpenSync) -> tuple[list[Generation], Decision]:
    """Tell which generations there are, and which a sync would keep in step."""
    opened.asked_embedder  # noqa: B018 - opened before the sinks, and closed after them
    words = opened.words()
    generations = opened.generations(words)
    return generations, opened.decide(generations, words, accepted=False)


def _names(opened: OpenSync, ledgers: Sequence[str]) -> dict[str, str]:
    """Name ledgers as `status` does."""
    _, decision = _decide(opened)
    return names_for_people(ledgers, decision.live)


def _kept(opened: OpenSync) -> tuple[list[Callable[[], AbstractContextManager[Parts]]], tuple[str, ...]]:
    """Give what opens the parts of each generation that a sync keeps in step; of the first one, before any sync.

    A generation whose embedder is gone receives no changes; it is passed over, with a note.
    """
    generations, decision = _decide(opened)
    there = {it.number: it for it in generations}
    if decision.target not in there and decision.live not in there:
        return [partial(opened.parts, opened.target(decision, generations, 0.0))], ()
    if decision.target in there:
        there[decision.target] = opened.target(decision, generations, 0.0)
    whole = decision.target if decision.target in there else decision.live
    kept: list[Callable[[], AbstractContextManager[Parts]]]
    kept = [partial(opened.parts, there[number]) for number in (whole,) if number in there]
    notes = []
    for number in dict.fromkeys([decision.live, *decision.others]):
        if number in there and number != whole:
            try:
                opened.embedder(there[number])
            except ConfigError as error:
                notes.append(f"generation {number} is not compared: {error}")
            else:
                kept.append(partial(opened.parts, there[number], is_target=False))
    return kept, tuple(notes)
