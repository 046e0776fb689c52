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

from connector.model import DocumentId, EmbeddedRecord, RecordId, record_id
from connector.plugins import BuildContext
from connector.testing.sinks import DIMENSION, SinkContract, record
from sinks.memory import MemorySink
from sinks.qdrant_edge import QdrantEdgeSettings, QdrantEdgeSink

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


class TestMemorySink(SinkContract):
    waived: ClassVar[Mapping[str, str]] = {
        "S7": "a dictionary does not fail",
        "S4_foreign_records_are_left_alone_and_never_found": "nobody else can write to it",
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
        ours = [_decoded(point) for point in self._points() if point.payload["_vs_source"] == "docs sync"]
        assert len({each.id for each in ours}) == len(ours)
        return {each.id: each for each in ours}

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

    def foreign_is_intact(self) -> bool:
        return [point.payload for point in self._points() if point.id == FOREIGN] == [FOREIGN_PAYLOAD]

    def _build(self) -> QdrantEdgeSink:
        return QdrantEdgeSettings(path=Path("index")).build(self._context)

    def _points(self) -> list[qdrant_edge.Record]:
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._folder / "shard", self._copy, copy_function=copy_sparse)
        shard = qdrant_edge.EdgeShard.load(str(self._copy))
        points, _ = shard.scroll(qdrant_edge.ScrollRequest(limit=100_000, with_payload=True, with_vector=True))
        shard.close()
        return points


def copy_sparse(source: str, target: str) -> str:
    """Copy a file without its holes: the engine's files are 32 MiB of which a few pages are written."""
    with Path(source).open("rb") as reading, Path(target).open("wb") as writing:
        size = reading.seek(0, os.SEEK_END)
        writing.truncate(size)
        start = 0
        while start < size:
            try:
                start = os.lseek(reading.fileno(), start, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                break
            end = os.lseek(reading.fileno(), start, os.SEEK_HOLE)
            os.pwrite(writing.fileno(), os.pread(reading.fileno(), end - start, start), start)
            start = end
    return target


def _decoded(point: qdrant_edge.Record) -> EmbeddedRecord:
    payload = dict(point.payload)
    assert payload.pop("_vs_source") == "docs sync"
    document, index = DocumentId(payload.pop("_vs_document")), payload.pop("_vs_index")
    digest, text = bytes.fromhex(payload.pop("_vs_digest")), payload.pop("text")
    vector = np.array(point.vector, dtype=np.float32)
    return EmbeddedRecord(record_id(document, index), document, index, vector, text, payload, digest)


class TestQdrantEdgeSink(SinkContract):
    waived: ClassVar[Mapping[str, str]] = {
        "S7_a_passing_failure_is_transient": "there is no service that could be busy",
    }

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Iterator[EdgeHarness]:
        harness = EdgeHarness(tmp_path)
        yield harness
        harness.sink.close()
