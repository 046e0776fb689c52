"""From settings to opened parts, and from parts to a run: the only place where parts are put together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TypeVar

from . import engine
from .checkpoint import Checkpoints
from .config import Settings, canonical
from .engine import Options, Parts
from .errors import ConfigError
from .events import Emit, ignore
from .money import Ceilings
from .passages import PassageSplitter
from .plugins import BuildContext
from .ports import Embedder, Sink
from .report import PlanReport, Report
from .vectors import SqliteVectors

N = TypeVar("N", int, float)


def sync(
    settings: Settings,
    *,
    confirm_deletes: int | None = None,
    accept_reembed: bool = False,
    max_tokens: int | None = None,
    max_cost: float | None = None,
    confirm_cost: bool = False,
    emit: Emit | None = None,
) -> Report:
    """Bring every sink to what the source has now. The report says how it ended, also where something is left undone.

    `confirm_deletes` lets up to so many documents be deleted where the guard would ask, and
    `accept_reembed` a changed embedder or splitter embed everything anew. `max_tokens` and `max_cost` are
    ceilings, where lower ones are not in the settings; a first run that costs more than the settings let it
    asks, unless `confirm_cost`. `emit` is told what happens as it happens, one event at a time, from any thread.

    Raises:
        ConfigError: something cannot work as the settings say; nothing was embedded.
        SafetyError: every document would be embedded anew, and that was not accepted.
        LeaseError: another run has the state; come back later.
    """
    options = _options(settings)
    ceilings = replace(
        options.ceilings,
        max_tokens=_lower(max_tokens, settings.sync.max_tokens),
        max_cost=_lower(max_cost, settings.sync.max_cost),
        confirmed=confirm_cost,
    )
    options = replace(options, confirm_deletes=confirm_deletes, accept_reembed=accept_reembed, ceilings=ceilings)
    with open_parts(settings) as parts:
        return engine.sync(parts, options, emit=emit or ignore)


def plan_sync(settings: Settings, *, verbose: bool = False, emit: Emit | None = None) -> PlanReport:
    """Find what `sync` would do, and write nothing; `verbose` lists the documents."""
    with open_parts(settings, read_only=True) as parts:
        return engine.plan(parts, _options(settings), verbose=verbose, emit=emit or ignore)


def _lower(one: N | None, other: N | None) -> N | None:
    """Give the lower of two ceilings, either of which may not be there."""
    return min((it for it in (one, other) if it is not None), default=None)


def _options(settings: Settings) -> Options:
    return Options(
        max_delete_fraction=settings.sync.max_delete_fraction,
        min_delete_count=settings.sync.min_delete_count,
        ceilings=Ceilings(settings.sync.max_tokens, settings.sync.max_cost, settings.sync.ask_above_cost),
        keep_vectors=settings.state.keep,
        max_vector_bytes=settings.state.max_bytes,
    )


@contextmanager
def open_parts(settings: Settings, *, read_only: bool = False) -> Iterator[Parts]:
    """Open everything a run needs, and close it in the reverse order, whatever happens.

    The checkpoints come first: open for writing they hold the lease, so all that follows has one writer.
    """
    with ExitStack() as opened:
        checkpoints = opened.enter_context(closing(Checkpoints.open(settings.state_path, read_only=read_only)))
        context = build_context(settings, seed=checkpoints.seed, read_only=read_only)
        source = settings.source.build(context)
        embedder = opened.enter_context(closing(settings.embedder.build(context)))
        sinks = [
            opened.enter_context(closing(sink.build(replace(context, name=name))))
            for name, sink in settings.sinks.items()
        ]
        vectors = opened.enter_context(
            closing(
                SqliteVectors.open(
                    settings.state_path,
                    embedder_identity=embedder.identity,
                    dimension=embedder.dimension,
                    read_only=read_only,
                )
            )
        )
        splitter = PassageSplitter(embedder.limits.tokens_per_text, embedder.count_tokens)
        yield Parts(source, embedder, splitter, sinks, checkpoints, vectors, canonical(settings.source))


@contextmanager
def open_search(settings: Settings, sink_name: str | None = None) -> Iterator[tuple[Embedder, Sink]]:
    """Open what a search needs: the embedder, and one sink, by default the first."""
    name = sink_name or next(iter(settings.sinks))
    if name not in settings.sinks:
        raise ConfigError(f'there is no sink "{name}" in the settings; there are: {", ".join(settings.sinks)}')
    context = build_context(settings, read_only=True)
    with ExitStack() as opened:
        embedder = opened.enter_context(closing(settings.embedder.build(context)))
        sink = opened.enter_context(closing(settings.sinks[name].build(replace(context, name=name))))
        yield embedder, sink


def build_context(settings: Settings, *, seed: int = 0, read_only: bool) -> BuildContext:
    """Tell a plug-in what it may know besides its own settings; a sink is also told its name."""
    return BuildContext(
        base_path=settings.base_path,
        state_path=settings.state_path,
        owner=settings.sync.name,
        seed=seed,
        read_only=read_only,
    )
