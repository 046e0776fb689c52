"""A whole sync in a folder, from fakes: each run opens the state anew, as a new process would."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connector.checkpoint import Checkpoints
from connector.engine import Options, Parts, plan, sync
from connector.events import Event
from connector.model import Document, DocumentId, EmbeddedRecord, InputType, JsonValue, RecordId, record_id
from connector.passages import PassageSplitter
from connector.ports import CheckpointStore, Limits, VectorStore
from connector.report import PlanReport, Report
from connector.retry import Retry
from connector.stopping import Stop
from connector.testing.dict_source import DictSource, RowValue
from connector.testing.fakes import HashEmbedder
from connector.vectors import SqliteVectors
from sinks.memory import MemorySink

Wrap = Callable[[Any, str], Any]
"""Puts something around a part, given the part and its name, to count or to break its calls."""


class FlakySink(MemorySink):
    """A memory sink as if behind a service, which can be down, busy or picky; counts what it was asked."""

    limits = Limits()

    def __init__(self, name: str = "main") -> None:
        super().__init__(name)
        self.before_upsert: Callable[[Sequence[EmbeddedRecord]], None] = lambda _records: None
        self.before_delete: Callable[[Sequence[RecordId]], None] = lambda _ids: None
        self.upserts: list[list[RecordId]] = []
        self.deletes: list[list[RecordId]] = []

    def upsert(self, records: Sequence[EmbeddedRecord]) -> None:
        self.before_upsert(records)
        super().upsert(records)
        self.upserts.append([record.id for record in records])

    def delete(self, ids: Sequence[RecordId]) -> None:
        self.before_delete(ids)
        super().delete(ids)
        self.deletes.append(list(ids))

    @property
    def calls(self) -> int:
        """How many calls succeeded."""
        return len(self.upserts) + len(self.deletes)


@dataclass(slots=True)
class Rig:
    """A source, an embedder and sinks with knobs, and the state folder between runs."""

    folder: Path
    source: DictSource = field(default_factory=DictSource)
    embedder: HashEmbedder = field(default_factory=lambda: HashEmbedder(tokens_per_text=8))  # 24 to 31 characters
    sinks: list[FlakySink] = field(default_factory=lambda: [FlakySink()])
    source_settings: str = "{}"
    options: Options = field(default_factory=lambda: Options(threads=False))
    waits_seconds: list[float] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    wrap: Wrap = field(default=lambda part, _name: part)
    clock: Callable[[], float] = time.monotonic
    while_asleep: Callable[[float], None] = field(default=lambda _seconds: None)
    emit: Callable[[Event], None] = field(default=lambda _event: None)  # besides the list
    stop: Stop | None = None

    def sync(self, documents: Mapping[str, str | RowValue] | None = None, options: Options | None = None) -> Report:
        """Sync once, after setting what the source has."""
        if documents is not None:
            self.source.set(dict(documents))
        retry = Retry(attempts=3, sleep=self._sleep, random=lambda: 1.0)
        with closing(Checkpoints.open(self.folder)) as checkpoints, closing(self._vectors()) as vectors:
            return sync(
                self._parts(checkpoints, vectors),
                options or self.options,
                retry=retry,
                emit=self._emit,
                clock=self.clock,
                stop=self.stop,
            )

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self.emit(event)

    def _sleep(self, seconds: float) -> None:
        self.waits_seconds.append(seconds)
        self.while_asleep(seconds)

    def plan(self, options: Options | None = None) -> PlanReport:
        """Plan, with everything opened to be read only."""
        with (
            closing(Checkpoints.open(self.folder, read_only=True)) as checkpoints,
            closing(self._vectors(read_only=True)) as vectors,
        ):
            return plan(self._parts(checkpoints, vectors), options or self.options, verbose=True)

    def _vectors(self, *, read_only: bool = False) -> SqliteVectors:
        return SqliteVectors.open(
            self.folder,
            embedder_identity=self.embedder.identity,
            dimension=self.embedder.dimension,
            read_only=read_only,
        )

    def _parts(self, checkpoints: CheckpointStore, vectors: VectorStore) -> Parts:
        embedder = self.embedder
        return Parts(
            source=self.source,
            embedder=self.wrap(embedder, "embedder"),
            splitter=PassageSplitter(embedder.limits.tokens_per_text, embedder.count_tokens),
            sinks=[self.wrap(sink, sink.name) for sink in self.sinks],
            checkpoints=self.wrap(checkpoints, "checkpoints"),
            vectors=self.wrap(vectors, "vectors"),
            source_settings=self.source_settings,
        )

    def expected(self) -> dict[RecordId, tuple[str, dict[str, JsonValue]]]:
        """What every sink should hold of the source as it is, worked out without the engine."""
        split = PassageSplitter(self.embedder.tokens_per_text, self.embedder.count_tokens)
        return {
            record_id(DocumentId(row.id), passage.index): (passage.text, row.metadata)
            for row in self.source.rows
            if row.id is not None
            for passage in split(Document(DocumentId(row.id), row.version, row.text, row.metadata))
        }

    def in_step(self) -> bool:
        """Tell whether every sink holds exactly what the source has, vectors included."""
        wanted = self.expected()
        return all(self.held(n) == wanted and self._vectors_fit(n) for n in range(len(self.sinks)))

    def _vectors_fit(self, sink: int) -> bool:
        records = list(self.sinks[sink].records.values())
        right = HashEmbedder(
            self.embedder.dimension, self.embedder.tokens_per_text, len(records) + 1, self.embedder.identity
        )
        vectors = right.embed([record.text for record in records], InputType.SEARCH_DOCUMENT)
        return all((record.vector == vector).all() for record, vector in zip(records, vectors, strict=True))

    def held(self, sink: int = 0) -> dict[RecordId, tuple[str, dict[str, JsonValue]]]:
        """What a sink holds, read behind its back."""
        return {id: (r.text, dict(r.metadata)) for id, r in self.sinks[sink].records.items()}
