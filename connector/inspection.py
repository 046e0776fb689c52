"""What can be seen without a run: checks, status, search, and why a document is or is not in an index.

Nothing here writes. All but `check` and `search` of an embedded index may run beside a sync.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec
import numpy as np

from .checkpoint import Checkpoints, LedgerStatus, Rejected, Run
from .composition import build_context, open_search, open_sync
from .config import Settings
from .errors import ConfigError, ConnectorError, ExitCode
from .filters import Condition
from .generation_book import GenerationBook
from .generations import live_of, names_for_people
from .job_book import JobBook
from .model import DocumentId, DocumentRef, Hit, InputType, JsonValue, ListingComplete, Rejection, Unreadable
from .parts import Parts
from .plan import Kind, Wanted, compare, want, want_nothing
from .ports import BilledEmbedder, Embedder, GenerationSink, JobEmbedder, Source
from .retry import Retry
from .vectors import SqliteVectors

PATIENCE = Retry(attempts=4, first_wait_seconds=0.25, longest_named_wait_seconds=5.0)
"""Of somebody who waits for an answer: about a second."""
OUT_OF_DATE = {
    Kind.ADDED: "its text was never delivered",
    Kind.CHANGED: "its text has changed since the last sync",
    Kind.METADATA_ONLY: "its metadata has changed since the last sync",
    Kind.REJECTED: "the source can no longer give it",
}


@runtime_checkable
class CheckedEmbedder(Protocol):
    """An embedder that can tell beforehand whether its service would take what it sends."""

    def check(self) -> None:
        """Ask whether the key, the model and the dimension are right; ConfigError. Nothing is billed."""
        ...


@dataclass(frozen=True, slots=True)
class Check:
    """One part of a sync, and what is wrong with it, if anything is."""

    part: str
    found: str = ""
    error: ConnectorError | None = None


def check(settings: Settings) -> list[Check]:
    """Look at every part; nothing is written and nothing is paid for."""
    context = build_context(settings, read_only=True)
    dimension = 0

    def source() -> str:
        settings.source.build(context).check()
        return settings.source.kind

    def embedder() -> str:
        nonlocal dimension
        with closing(settings.embedder.build(context)) as built:
            dimension = built.dimension
            if isinstance(built, CheckedEmbedder):
                built.check()
            return ", ".join((settings.embedder.kind, f"{dimension} dimensions", *_terms(built)))

    def sink(name: str) -> str:
        with closing(settings.sinks[name].build(replace(context, name=name))) as built:
            if not dimension:
                return f"{settings.sinks[name].kind}; not compared with the embedder"
            if not isinstance(built, GenerationSink):
                built.check(dimension)
                return settings.sinks[name].kind
        return _check_generation(settings, name, dimension)

    def state() -> str:
        Checkpoints.open(settings.state_path, read_only=True).close()
        _open_vectors(settings).close()
        _check_writable(settings.state_path)
        return str(settings.state.path)

    return [
        _checked("source", source),
        _checked("embedder", embedder),
        *[_checked(f"sink {name}", partial(sink, name)) for name in settings.sinks],
        _checked("state", state),
    ]


def _check_generation(settings: Settings, name: str, dimension: int) -> str:
    """Check the generation of a sink that the settings ask for, which may be one that is yet to be built."""
    with open_sync(settings, read_only=True) as opened:
        words = opened.words([name])
        decision = opened.decide_for([name], opened.generations(words), words, accepted=True)
        opened.sink(name, decision.target).check(dimension)
    kind = settings.sinks[name].kind
    if decision.live in (None, decision.target):
        return kind
    return f"{kind}; generation {decision.live} is live, and the settings ask for generation {decision.target}"


def _terms(embedder: Embedder) -> Iterator[str]:
    """Say when jobs are used, and what is billed, where that is so."""
    if isinstance(embedder, JobEmbedder):
        yield f"embed jobs from {embedder.job_limits.jobs_from:,} texts"
    if isinstance(embedder, BilledEmbedder):
        price = embedder.price
        if price is None:
            yield "its price is not known"
        elif price.per_million_tokens:
            yield f"{price.per_million_tokens:g} {price.currency} a million tokens by {price.source}"
        else:
            yield f"costs nothing: {price.source}"


def exit_code_of(checks: Sequence[Check]) -> ExitCode:
    """What the operator has to mend comes before what passes by itself."""
    codes = [check.error.exit_code for check in checks if check.error]
    return min(codes, default=ExitCode.IN_STEP)


def _checked(part: str, look: Callable[[], str]) -> Check:
    try:
        return Check(part, look())
    except ConnectorError as error:
        return Check(part, error=error)


def _check_writable(folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{existing} is not a folder that this user may write to; check its mode, or [state] path")


def _open_vectors(settings: Settings) -> SqliteVectors:
    """Open the vector store for counting, which needs no embedder."""
    return SqliteVectors.open(settings.state_path, embedder_identity="", dimension=0, read_only=True)


@dataclass(frozen=True, slots=True)
class Status:
    """How a sync stands, by its own memory; no service is asked."""

    sinks: tuple[LedgerStatus, ...]
    runs: tuple[Run, ...]  # latest first
    vectors: int
    vectors_bytes: int
    running: str | None  # who holds the lease
    open_jobs: int
    oldest_open_job_seconds: int | None  # since it was planned

    def as_json(self) -> dict[str, JsonValue]:
        """Plain JSON values; times are ISO 8601 in UTC."""
        return {
            "sinks": {ledger.sink: _without(asdict(ledger), "sink") for ledger in self.sinks},
            "vectors": self.vectors,
            "vectors_bytes": self.vectors_bytes,
            "running": self.running,
            "open_jobs": self.open_jobs,
            "oldest_open_job_seconds": self.oldest_open_job_seconds,
            "runs": [_run_json(run) for run in self.runs],
        }


def status(settings: Settings, *, runs: int = 5, before: Status | None = None) -> Status:
    """Tell how every sink stands; one that is in the settings and was never synced stands at nothing.

    `before` spares the counting, which reads all: what was found before a run that changed nothing.
    """
    with (
        closing(Checkpoints.open(settings.state_path, read_only=True)) as checkpoints,
        closing(_open_vectors(settings)) as vectors,
    ):
        open_jobs = JobBook(checkpoints).open_jobs()
        oldest_at = min((job.created_at for job in open_jobs), default=None)
        return Status(
            sinks=before.sinks if before else _ledgers(settings, checkpoints),
            runs=tuple(checkpoints.last_runs(runs)),
            vectors=before.vectors if before else vectors.count(),
            vectors_bytes=vectors.size_bytes(),
            running=checkpoints.holder(),
            open_jobs=len(open_jobs),
            oldest_open_job_seconds=None if oldest_at is None else max(0, round(time.time() - oldest_at)),
        )


def _ledgers(settings: Settings, checkpoints: Checkpoints) -> tuple[LedgerStatus, ...]:
    ledgers = checkpoints.ledger_status()
    names = _names(checkpoints, [ledger.sink for ledger in ledgers])
    known = {names[ledger.sink]: replace(ledger, sink=names[ledger.sink]) for ledger in ledgers}
    never = {name: LedgerStatus(name, documents=0, records=0, in_doubt=0, rejected=0) for name in settings.sinks}
    return tuple((never | known).values())


def rejected(settings: Settings) -> list[Rejected]:
    """Every document and place that is in no sink, or not in one, and why."""
    with closing(Checkpoints.open(settings.state_path, read_only=True)) as checkpoints:
        names = _names(checkpoints, checkpoints.ledger_names()) | {"": ""}
        return [replace(it, sink=names[it.sink]) for it in checkpoints.rejected()]


def _names(checkpoints: Checkpoints, ledgers: Collection[str]) -> dict[str, str]:
    """Name ledgers for people, by what is remembered of the generations: the live one has the sink's plain name."""
    live = live_of(GenerationBook(checkpoints).all())
    return names_for_people(ledgers, live.number if live else None)


def search(
    settings: Settings,
    text: str,
    *,
    limit: int = 5,
    sink: str | None = None,
    where: Sequence[Condition] = (),
    retry: Retry = PATIENCE,
) -> list[Hit]:
    """Find the passages nearest to a text whose metadata holds all conditions; in the first sink, if none is named."""
    with open_search(settings, sink) as (embedder, opened):
        (tokens,) = embedder.count_tokens([text])
        if tokens > embedder.limits.tokens_per_text:
            raise ConfigError(
                f"the text has {tokens} tokens, the embedder takes {embedder.limits.tokens_per_text}; shorten it"
            )
        retry(f"check {opened.name}", lambda: opened.check(embedder.dimension))
        (vector,) = embedder.embed([text], InputType.SEARCH_QUERY)
        return retry(f"search {opened.name}", lambda: opened.search(vector, limit, where))


def hit_json(hit: Hit) -> dict[str, JsonValue]:
    """Plain JSON values."""
    return {**msgspec.structs.asdict(hit), "metadata": dict(hit.metadata)}


@dataclass(frozen=True, slots=True)
class Standing:
    """How one sink stands with one document."""

    sink: str
    state: str  # "in step", "out of date", "in doubt", "rejected" or "not there"
    records: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a document is, or is not, in the indexes."""

    document_id: DocumentId
    place: str | None  # where the source lists it; None: it does not
    refusal: str | None  # why the source cannot give it
    sinks: tuple[Standing, ...]
    unreadable: tuple[Unreadable, ...]  # while the source does not list it: places that may hide it
    last_run: Run | None

    def as_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return {
            "document_id": self.document_id,
            "listed": self.place is not None,
            "place": self.place,
            "refusal": self.refusal,
            "sinks": {standing.sink: _without(asdict(standing), "sink") for standing in self.sinks},
            "unreadable": [msgspec.structs.asdict(place) for place in self.unreadable],
            "last_run": _run_json(self.last_run) if self.last_run else None,
        }


def explain(settings: Settings, document_id: DocumentId) -> Explanation:
    """Look a document up in the source, whose whole listing is read, and in every ledger."""
    with open_sync(settings, read_only=True) as opened:
        found, unreadable = _find(opened.source, document_id)
        refusal, standings = None, []
        for opens in opened.kept():
            with opens() as parts:
                wanted = _wanted(parts, found[1]) if found else None
                refusal = wanted.problem if wanted else refusal
                standings += [_standing(parts, sink.name, document_id, wanted) for sink in parts.sinks]
        ledgers = {*opened.checkpoints.ledger_names(), *(standing.sink for standing in standings)}
        names = _names(opened.checkpoints, ledgers)
        return Explanation(
            document_id,
            found[0] if found else None,
            refusal,
            tuple(replace(standing, sink=names[standing.sink]) for standing in standings),
            () if found else tuple(unreadable),
            next(iter(opened.checkpoints.last_runs(1)), None),
        )


def _find(source: Source, document_id: DocumentId) -> tuple[tuple[str, DocumentRef] | None, list[Unreadable]]:
    """Find where the source lists a document first; or else all the places that it could not read."""
    unreadable: list[Unreadable] = []
    for batch in source.list():
        if isinstance(batch, ListingComplete):
            continue
        for position, ref in enumerate(batch.refs(np.arange(len(batch.versions), dtype=np.intp))):
            if isinstance(ref, Unreadable):
                unreadable.append(ref)
            elif ref.id == document_id:
                return (batch.place(position), ref), unreadable
    return None, unreadable


def _wanted(parts: Parts, ref: DocumentRef) -> Wanted | None:
    """Work out what the sinks should hold of a document now; None if it vanished while it was looked at."""
    recipe_hash = parts.recipe.hash()
    for fetched in parts.source.fetch([ref]):
        if isinstance(fetched, Rejection):
            return want_nothing(fetched, recipe_hash)
        (split,) = parts.splitter.split_many([fetched])
        return want(fetched, split.passages, split.tokens, parts.recipe, recipe_hash)
    return None


def _standing(parts: Parts, sink: str, document_id: DocumentId, wanted: Wanted | None) -> Standing:
    """Compare one line of a ledger with what the source has.

    the ledger has   the source has           state
    ---------------  -----------------------  -----------
    nothing          the document, or not     not there
    a problem        the document, or not     rejected
    no fingerprint   the document, or not     in doubt
    some records     what they are made of    in step
    some records     another state, or none   out of date
    """
    entry = parts.checkpoints.entry(sink, document_id)
    if entry is None:
        return Standing(sink, "not there", reason="the next sync adds it" if wanted and not wanted.problem else "")
    if entry.problem is not None:
        return Standing(sink, "rejected", entry.extent, entry.problem)
    if entry.fingerprint is None:
        return Standing(sink, "in doubt", entry.extent, "a write was cut off; the next sync puts it right")
    reason = "the source no longer has it" if wanted is None else OUT_OF_DATE.get(compare(wanted, entry).kind, "")
    return Standing(sink, "out of date" if reason else "in step", entry.extent, reason)


def _run_json(run: Run) -> dict[str, JsonValue]:
    return {
        "id": run.id,
        "started_at": _iso(run.started_at),
        "ended_at": _iso(run.ended_at) if run.ended_at is not None else None,
        "exit_code": run.exit_code,
        "report": run.report,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _without(table: dict[str, JsonValue], name: str) -> dict[str, JsonValue]:
    return {key: value for key, value in table.items() if key != name}
