"""From settings to opened parts, and from parts to a run: the only place where parts are put together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from .config import Settings
from .errors import ConfigError
from .events import Emit, ignore
from .generation_parts import OpenSync, build_context, open_sync
from .generation_run import plan_generations, sync_generations
from .generations import Generation, Step
from .money import Ceilings
from .parts import Options, Parts
from .ports import Embedder, Sink
from .report import PlanReport, Report
from .stopping import Stop

__all__ = ["build_context", "open_parts", "open_search", "open_sync", "plan_sync", "run_options", "sync"]

N = TypeVar("N", int, float)


def sync(
    settings: Settings,
    *,
    confirm_deletes: int | None = None,
    accept_reembed: bool = False,
    max_tokens: int | None = None,
    max_cost: float | None = None,
    confirm_cost: bool = False,
    wait_for_jobs: bool = True,
    plan_jobs: bool = True,
    emit: Emit | None = None,
    stop: Stop | None = None,
) -> Report:
    """Bring every sink to what the source has now. The report says how it ended, also where something is left undone.

    `confirm_deletes` lets up to so many documents be deleted where the guard would ask, and
    `accept_reembed` a changed embedder or splitter embed everything anew. `max_tokens` and `max_cost` are
    ceilings, where lower ones are not in the settings; a first run that costs more than the settings let it
    asks, unless `confirm_cost`. Without `wait_for_jobs`, embed jobs that run are left to a later run; without
    `plan_jobs`, none is begun. `emit` is told what happens as it happens, one event at a time, from any thread;
    `stop` ends the run early, from another thread.

    Raises:
        ConfigError: something cannot work as the settings say; nothing was embedded.
        SafetyError: every document would be embedded anew, and that was not accepted.
        LeaseError: another run has the state; come back later.
    """
    options = run_options(settings)
    ceilings = replace(
        options.ceilings,
        max_tokens=_lower(max_tokens, settings.sync.max_tokens),
        max_cost=_lower(max_cost, settings.sync.max_cost),
        confirmed=confirm_cost,
    )
    options = replace(
        options,
        confirm_deletes=confirm_deletes,
        accept_reembed=accept_reembed,
        ceilings=ceilings,
        wait_for_jobs=wait_for_jobs,
        plan_jobs=plan_jobs,
    )
    with open_sync(settings) as opened:
        return sync_generations(opened, options, emit=emit or ignore, stop=stop)


def plan_sync(settings: Settings, *, verbose: bool = False, emit: Emit | None = None) -> PlanReport:
    """Find what `sync` would do, and write nothing; `verbose` lists the documents."""
    with open_sync(settings, read_only=True) as opened:
        return plan_generations(opened, run_options(settings), verbose=verbose, emit=emit or ignore)


def _lower(one: N | None, other: N | None) -> N | None:
    """Give the lower of two ceilings, either of which may not be there."""
    return min((it for it in (one, other) if it is not None), default=None)


def run_options(settings: Settings) -> Options:
    """Take from the settings what they decide for every run."""
    return Options(
        max_delete_fraction=settings.sync.max_delete_fraction,
        min_delete_count=settings.sync.min_delete_count,
        ceilings=Ceilings(settings.sync.max_tokens, settings.sync.max_cost, settings.sync.ask_above_cost),
        keep_vectors=settings.state.keep,
        max_vector_bytes=settings.state.max_bytes,
    )


@contextmanager
def open_parts(settings: Settings, *, read_only: bool = False) -> Iterator[Parts]:
    """Open everything a run on one generation needs, and close it in the reverse order, whatever happens.

    It is the generation that the settings ask for; while there is none, the live one, with its own embedder.
    """
    with open_sync(settings, read_only=read_only) as opened, opened.parts(_generation(opened)) as parts:
        yield parts


def _generation(opened: OpenSync) -> Generation:
    opened.asked_embedder  # noqa: B018 - opened before the sinks, and closed after them
    words = opened.words()
    generations = opened.generations(words)
    decision = opened.decide(generations, words, accepted=False)
    if decision.step is Step.ASK:
        return next(it for it in generations if it.number == decision.live)
    return opened.target(decision, generations, 0.0)


@contextmanager
def open_search(settings: Settings, sink_name: str | None = None) -> Iterator[tuple[Embedder, Sink]]:
    """Open what a search needs: one sink, by default the first, as its readers get it, and the embedder that made it.

    A switch to another generation does not reach what is open already: it goes on with the one that was live before.
    """
    name = sink_name or next(iter(settings.sinks))
    if name not in settings.sinks:
        raise ConfigError(f'there is no sink "{name}" in the settings; there are: {", ".join(settings.sinks)}')
    with open_sync(settings, read_only=True) as opened:
        reading = opened.read_generation(name)
        yield reading.embedder, reading.sink
