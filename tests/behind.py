"""Databases with a side door: what somebody does to an index behind our back, through the engine's own client."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import numpy as np
from verify_rig import SharedSink

from connector.model import RecordId
from connector.plugins import BuildContext
from connector.ports import Sink

OWNER = "docs sync"
DIMENSION = 8


class Behind(Protocol):
    """One database, with the collection of a sink."""

    def sink(self) -> Sink:
        """Build the sink, as the next command does."""
        ...

    def remove(self, ids: Sequence[RecordId]) -> None: ...

    def remove_by_name(self, names: Collection[str]) -> None:
        """Delete by the names of the database."""
        ...

    def alter(self, ids: Sequence[RecordId], **fields: Any) -> None:
        """Set fields of what is stored beside the vectors: the text, a mark, or metadata."""
        ...

    def turn(self, ids: Sequence[RecordId]) -> None:
        """Give records another vector."""
        ...

    def add_foreign(self, count: int) -> set[str]:
        """Add records of somebody else; give their names."""
        ...

    def copy(self, ids: Sequence[RecordId]) -> set[str]:
        """Copy records, marks and all, to names of nobody; give these."""
        ...

    def foreign(self) -> set[str]:
        """Name the records of somebody else that are there."""
        ...


class MemoryBehind:
    """The rig's own sink, which is the database as well."""

    def __init__(self) -> None:
        self._shared = SharedSink()

    def sink(self) -> Sink:
        return self._shared

    def remove(self, ids: Sequence[RecordId]) -> None:
        for id in ids:
            self._shared.remove(id)

    def remove_by_name(self, names: Collection[str]) -> None:
        self._shared.foreign = [it for it in self._shared.foreign if it.name not in names]

    def alter(self, ids: Sequence[RecordId], **fields: Any) -> None:
        for id in ids:
            if fields.keys() & {"_vs_source", "_vs_document", "_vs_index"}:
                self._shared.damage(id)
            elif "_vs_digest" in fields:
                self._shared.change(id, digest=bytes.fromhex(fields["_vs_digest"]))
            elif "text" in fields:
                self._shared.change(id, text=fields["text"])
            else:
                self._shared.change(id, metadata={**self._shared.records[id].metadata, **fields})

    def turn(self, ids: Sequence[RecordId]) -> None:
        for id in ids:
            self._shared.change(id, vector=np.array(_turned(self._shared.records[id].vector), dtype=np.float32))

    def add_foreign(self, count: int) -> set[str]:
        return {self._shared.add_foreign(f"theirs {number}") for number in range(count)}

    def copy(self, ids: Sequence[RecordId]) -> set[str]:
        return {self._shared.copy(f"copy of {id}") for id in ids}

    def foreign(self) -> set[str]:
        return {it.name for it in self._shared.foreign if it.owner != OWNER}

    def close(self) -> None:
        pass


class EdgeBehind:
    """The embedded engine. It lets one in at a time, so the side door opens when the sink is closed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: Any = None

    def sink(self) -> Sink:
        from sinks.qdrant_edge import QdrantEdgeSettings

        self.close()
        settings = QdrantEdgeSettings(path=self._folder, collection="docs", min_free_bytes=0)
        self._built = settings.build(BuildContext(self._folder, self._folder, name="main", owner=OWNER))
        return self._built  # type: ignore[no-any-return]

    def remove(self, ids: Sequence[RecordId]) -> None:
        import qdrant_edge

        self._update(qdrant_edge.UpdateOperation.delete_points(_points(ids)))

    def remove_by_name(self, names: Collection[str]) -> None:
        import qdrant_edge

        self._update(qdrant_edge.UpdateOperation.delete_points([UUID(name) for name in names]))

    def alter(self, ids: Sequence[RecordId], **fields: Any) -> None:
        import qdrant_edge

        self._update(qdrant_edge.UpdateOperation.set_payload(_points(ids), fields))

    def add_foreign(self, count: int) -> set[str]:
        import qdrant_edge

        payload = {"text": "theirs", "_vs_source": "another sync"}
        points = [qdrant_edge.Point(UUID(int=number), _row(number), payload) for number in range(1, count + 1)]
        self._update(qdrant_edge.UpdateOperation.upsert_points(points))
        return {str(UUID(int=number)) for number in range(1, count + 1)}

    def turn(self, ids: Sequence[RecordId]) -> None:
        import qdrant_edge

        with self._opened() as shard:
            found = shard.retrieve(_points(ids), with_payload=True, with_vector=True)
            points = [qdrant_edge.Point(it.id, _turned(it.vector), it.payload) for it in found]
            shard.update(qdrant_edge.UpdateOperation.upsert_points(points))

    def copy(self, ids: Sequence[RecordId]) -> set[str]:
        import qdrant_edge

        with self._opened() as shard:
            found = shard.retrieve(_points(ids), with_payload=True, with_vector=True)
            points = [
                qdrant_edge.Point(UUID(int=2**64 + number), it.vector, it.payload) for number, it in enumerate(found)
            ]
            shard.update(qdrant_edge.UpdateOperation.upsert_points(points))
        return {str(point.id) for point in points}

    def foreign(self) -> set[str]:
        import qdrant_edge

        with self._opened() as shard:
            points, _ = shard.scroll(qdrant_edge.ScrollRequest(limit=100_000, with_payload=True))
        return {str(point.id) for point in points if (point.payload or {}).get("_vs_source") != OWNER}

    def close(self) -> None:
        if self._built is not None:
            self._built.close()

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        import qdrant_edge

        self.close()
        shard = qdrant_edge.EdgeShard.load(str(self._folder / "docs" / "shard"))
        try:
            yield shard
        finally:
            shard.flush()
            shard.close()

    def _update(self, operation: Any) -> None:
        with self._opened() as shard:
            shard.update(operation)


class QdrantBehind:
    """A Qdrant over HTTP, and its official client."""

    def __init__(self, url: str) -> None:
        from qdrant_client import QdrantClient

        self._url = url
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._raw = QdrantClient(url=url, check_compatibility=False, timeout=10)

    def sink(self) -> Sink:
        from sinks.qdrant import QdrantSettings

        settings = QdrantSettings(url=self._url, collection="docs")
        return settings.build(BuildContext(Path(), Path(), name="main", owner=OWNER))

    def remove(self, ids: Sequence[RecordId]) -> None:
        self._raw.delete("docs", [str(point) for point in _points(ids)])

    def remove_by_name(self, names: Collection[str]) -> None:
        self._raw.delete("docs", list(names))

    def alter(self, ids: Sequence[RecordId], **fields: Any) -> None:
        self._raw.set_payload("docs", fields, [str(point) for point in _points(ids)])

    def add_foreign(self, count: int) -> set[str]:
        from qdrant_client import models

        payload = {"text": "theirs", "_vs_source": "another sync"}
        ids = [str(UUID(int=number)) for number in range(1, count + 1)]
        rows = [models.PointStruct(id=id, vector=_row(number), payload=payload) for number, id in enumerate(ids, 1)]
        self._raw.upsert("docs", rows)
        return set(ids)

    def turn(self, ids: Sequence[RecordId]) -> None:
        from qdrant_client import models

        turned = [models.PointVectors(id=it.id, vector=_turned(it.vector)) for it in self._read(ids)]
        self._raw.update_vectors("docs", turned)

    def copy(self, ids: Sequence[RecordId]) -> set[str]:
        from qdrant_client import models

        rows = [
            models.PointStruct(id=str(UUID(int=2**64 + number)), vector=it.vector, payload=it.payload)
            for number, it in enumerate(self._read(ids))
        ]
        self._raw.upsert("docs", rows)
        return {str(row.id) for row in rows}

    def _read(self, ids: Sequence[RecordId]) -> list[Any]:
        points = [str(point) for point in _points(ids)]
        return self._raw.retrieve("docs", points, with_payload=True, with_vectors=True)

    def foreign(self) -> set[str]:
        points, _ = self._raw.scroll("docs", limit=100_000)
        return {str(point.id) for point in points if (point.payload or {}).get("_vs_source") != OWNER}

    def close(self) -> None:
        self._raw.close()


class PineconeBehind:
    """A Pinecone over HTTP, and what its emulator keeps."""

    def __init__(self, server: Any, folder: Path) -> None:
        self._server, self._folder = server, folder

    def sink(self) -> Sink:
        from pinecone_rig import build

        return build(self._server, self._folder)

    def remove(self, ids: Sequence[RecordId]) -> None:
        self._server.remove("passages", "docs", [self._name(id) for id in ids])

    def remove_by_name(self, names: Collection[str]) -> None:
        self._server.remove("passages", "docs", list(names))

    def alter(self, ids: Sequence[RecordId], **fields: Any) -> None:
        records = self._server.records("passages", "docs")
        for id in ids:
            found = records[self._name(id)]
            self._server.put(
                "passages", "docs", {self._name(id): (found.values.tolist(), {**found.metadata, **fields})}
            )

    def add_foreign(self, count: int) -> set[str]:
        metadata = {"text": "theirs", "_vs_source": "another sync"}
        made = {f"theirs {number}": (_row(number), metadata) for number in range(count)}
        self._server.put("passages", "docs", made)
        return set(made)

    def turn(self, ids: Sequence[RecordId]) -> None:
        records = self._server.records("passages", "docs")
        for name in map(self._name, ids):
            found = records[name]
            self._server.put("passages", "docs", {name: (_turned(found.values), dict(found.metadata))})

    def copy(self, ids: Sequence[RecordId]) -> set[str]:
        records = self._server.records("passages", "docs")
        found = [records[self._name(id)] for id in ids]
        made = {f"copy {number}": (it.values.tolist(), dict(it.metadata)) for number, it in enumerate(found)}
        self._server.put("passages", "docs", made)
        return set(made)

    def put(self, name: str, metadata: dict[str, Any]) -> None:
        self._server.put("passages", "docs", {name: (_row(0), metadata)})

    def foreign(self) -> set[str]:
        return {id for id in self._server.records("passages", "docs") if id.startswith("theirs")}

    def close(self) -> None:
        pass

    @staticmethod
    def _name(id: RecordId) -> str:
        from sinks.pinecone_records import RecordFormat

        name = RecordFormat.of(OWNER).vector_id(id)
        assert name is not None
        return name


def _points(ids: Sequence[RecordId]) -> list[UUID]:
    from sinks.qdrant_payload import PointFormat

    return [PointFormat.of(OWNER).point_id(id) for id in ids]


def _turned(vector: Any) -> list[float]:
    turned: list[float] = np.roll(np.asarray(vector), 1).tolist()
    return turned


def _row(number: int) -> list[float]:
    row: list[float] = np.roll([1.0] + [0.0] * (DIMENSION - 1), number).tolist()
    return row
