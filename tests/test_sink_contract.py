"""Our own sinks keep the sink contract. What a sink cannot be asked is waived, with the reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from uuid import UUID

import numpy as np
import pytest
import qdrant_edge
from edge_rig import decoded, points_in

from connector.model import EmbeddedRecord, RecordId
from connector.plugins import BuildContext
from connector.testing.sinks import DIMENSION, SinkContract, record
from sinks.memory import MemorySink
from sinks.qdrant_edge import QdrantEdgeSettings, QdrantEdgeSink
from sinks.qdrant_payload import PointFormat

if TYPE_CHECKING:
    from connector.model import Vectors

FOREIGN = UUID(int=7)
FOREIGN_PAYLOAD = {"text": "somebody else's", "_vs_source": "another sync"}


class MemoryHarness:
    """The collection is the sink object itself, so reopening it gives the same one."""

    def __init__(self) -> None:
        self.remove()
        self.sink.prepare(DIMENSION)

    def stored(self) -> Mapping[RecordId, EmbeddedRecord]:
        return dict(self.sink.records)

    def exists(self) -> bool:
        return self.sink._dimension is not None

    def reopen(self) -> MemorySink:
        return self.sink

    def remove(self) -> None:
        self.sink = MemorySink()

    def unacceptable(self) -> EmbeddedRecord:
        return record("bad", vector=np.full(DIMENSION, np.nan, dtype=np.float32))

    def fail_next_call(self, *, passing: bool, retry_after_seconds: float | None = None) -> None:
        raise AssertionError("waived")

    def plant_foreign(self, vector: Vectors) -> None:
        raise AssertionError("waived")

    def foreign_is_intact(self) -> bool:
        raise AssertionError("waived")

    def damage(self, id: RecordId) -> None:
        raise AssertionError("waived")


class TestMemorySink(SinkContract):
    waived: ClassVar[Mapping[str, str]] = {
        "S7": "a dictionary does not fail",
        "S12_fit_asks_no_service": "there is none",
        **dict.fromkeys(
            (
                "S4_foreign_records_are_left_alone_and_never_found",
                "S13_a_scan_gives_each_foreign_record_as_foreign",
                "S13_a_damaged_record_ends_no_scan_and_no_search",
                "S14_foreign_records_are_not_counted",
            ),
            "nobody else can write to it",
        ),
    }

    @pytest.fixture
    def harness(self) -> MemoryHarness:
        return MemoryHarness()


class FailingShard:
    """Stands in front of an open shard of the engine, and fails as the engine does: after it has written."""

    def __init__(self, opened: qdrant_edge.EdgeShard) -> None:
        self._opened = opened
        self.failures = 0

    def update(self, operation: qdrant_edge.UpdateOperation) -> None:
        self._opened.update(operation)
        if self.failures:
            self.failures -= 1
            raise Exception("Service runtime error: the disk\nis on fire")  # noqa: TRY002 - what the engine raises

    def __getattr__(self, name: str) -> object:
        return getattr(self._opened, name)


class EdgeHarness:
    """Reads a copy of the folder with the engine alone: the original can be opened only once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "index" / "docs"
        self._copy = folder / "copy"
        self._context = BuildContext(base_path=folder, state_path=folder, name="main", owner="docs sync")
        self.sink = self._build()
        self.sink.prepare(DIMENSION)

    def stored(self) -> Mapping[RecordId, EmbeddedRecord]:
        return decoded(self._points(), owner="docs sync")

    def exists(self) -> bool:
        return os.path.lexists(self._folder.parent)

    def reopen(self) -> QdrantEdgeSink:
        self.sink.close()
        self.sink = self._build()
        return self.sink

    def remove(self) -> None:
        self.sink.close()
        shutil.rmtree(self._folder.parent)

    def unacceptable(self) -> EmbeddedRecord:
        return record("bad", metadata={"raw": [b"bytes"]})  # type: ignore[list-item]  # that is what is wrong with it

    def fail_next_call(self, *, passing: bool, retry_after_seconds: float | None = None) -> None:
        shard = self.sink._collection.shard
        shard._opened = failing = FailingShard(shard._opened)
        failing.failures = 1

    def plant_foreign(self, vector: Vectors) -> None:
        shard = self.sink._collection.shard._opened
        point = qdrant_edge.Point(FOREIGN, vector.tolist(), FOREIGN_PAYLOAD)
        shard.update(qdrant_edge.UpdateOperation.upsert_points([point]))
        shard.flush()

    def damage(self, id: RecordId) -> None:
        shard, point = self.sink._collection.shard._opened, PointFormat.of("docs sync").point_id(id)
        shard.update(qdrant_edge.UpdateOperation.set_payload([point], {"_vs_document": "another", "text": "mine now"}))
        shard.flush()

    def foreign_is_intact(self) -> bool:
        return [point.payload for point in self._points() if point.id == FOREIGN] == [FOREIGN_PAYLOAD]

    def _build(self) -> QdrantEdgeSink:
        return QdrantEdgeSettings(path=Path("index")).build(self._context)

    def _points(self) -> list[qdrant_edge.Record]:
        return points_in(self._folder / "shard", self._copy)


class TestQdrantEdgeSink(SinkContract):
    waived: ClassVar[Mapping[str, str]] = {
        "S7_a_passing_failure_is_transient": "there is no service that could be busy",
    }

    @pytest.fixture
    def harness(self, folder: Path) -> Iterator[EdgeHarness]:
        harness = EdgeHarness(folder)
        yield harness
        harness.sink.close()
