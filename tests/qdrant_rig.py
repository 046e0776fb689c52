"""What the contracts need of a Qdrant, besides the sink: in this process, at the emulator, or at a real server.

It looks through the official client alone, and never through the sink.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
from qdrant_client import QdrantClient, models

from connector.model import DocumentId, EmbeddedRecord, RecordId, record_id
from connector.plugins import BuildContext
from connector.testing.qdrant_server import QdrantServer
from connector.testing.sink_records import DIMENSION, record
from sinks.qdrant import QdrantSettings, QdrantSink
from sinks.qdrant_payload import PointFormat

if TYPE_CHECKING:
    from connector.model import Vectors

OWNER = "docs sync"
FOREIGN = UUID(int=7)
FOREIGN_PAYLOAD = {"text": "somebody else's", "_vs_source": "another sync"}


class KeptClient(QdrantClient):
    """A client in process that outlives the sinks it is lent to, as a server does; it can be told to fail."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.failures = 0

    def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
        pass

    def upsert(self, *args: Any, **kwargs: Any) -> models.UpdateResult:
        self._fail()
        return super().upsert(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> models.UpdateResult:
        self._fail()
        return super().delete(*args, **kwargs)

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise ValueError("Collection docs@1 not found")  # what the client in process says of one that is gone


def raw_client(url: str, api_key: str | None = None) -> QdrantClient:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a key goes over plain HTTP
        return QdrantClient(url=url, api_key=api_key, check_compatibility=False, timeout=10)


def build(settings: QdrantSettings, raw: QdrantClient | None = None, **context: Any) -> QdrantSink:
    """Build a sink; in process it is lent the client that the test looks through."""
    sink = settings.build(BuildContext(Path(), Path(), **{"name": "main", "owner": OWNER} | context))
    if settings.url == ":memory:":
        assert raw is not None
        sink._server._connect = lambda: raw
    return sink


class QdrantHarness:
    """One collection, generation 1 of its name."""

    def __init__(self, settings: QdrantSettings, raw: QdrantClient, server: QdrantServer | None = None) -> None:
        self.raw = raw
        self._settings = settings
        self._server = server
        self._name = f"{settings.collection}@1"
        self.sink = build(settings, raw)
        self.sink.prepare(DIMENSION)

    def stored(self) -> Mapping[RecordId, EmbeddedRecord]:
        return ours(self.raw, self._name, self._settings.vector)

    def exists(self) -> bool:
        return self.raw.collection_exists(self._name) or self.raw.collection_exists(self._settings.collection)

    def reopen(self) -> QdrantSink:
        self.sink.close()
        self.sink = build(self._settings, self.raw)
        return self.sink

    def remove(self) -> None:
        self.sink.close()
        self.raw.delete_collection(self._name)

    def unacceptable(self) -> EmbeddedRecord:
        return record("bad", metadata={"raw": [b"bytes"]})  # type: ignore[list-item]  # that is what is wrong with it

    def fail_next_call(self, *, passing: bool, retry_after_seconds: float | None = None) -> None:
        if isinstance(self.raw, KeptClient):
            self.raw.failures = 1
            return
        assert self._server is not None
        if passing:
            self._server.faults.answer(429, "slow down", retry_after=f"{retry_after_seconds:.0f}")
        else:
            self._server.faults.answer(403, "Forbidden: Global manage access is required")

    def plant_foreign(self, vector: Vectors) -> None:
        self.raw.upsert(self._name, [point(FOREIGN, vector, self._settings.vector, FOREIGN_PAYLOAD)])

    def foreign_is_intact(self) -> bool:
        return [found.payload for found in self.raw.retrieve(self._name, [str(FOREIGN)])] == [FOREIGN_PAYLOAD]

    def damage(self, id: RecordId) -> None:
        damaged = [str(PointFormat.of(OWNER).point_id(id))]
        self.raw.set_payload(self._name, {"_vs_index": 17}, points=damaged)

    def close(self) -> None:
        self.sink.close()


class GenerationsHarness:
    """The generations of one collection."""

    def __init__(self, settings: QdrantSettings, raw: QdrantClient) -> None:
        self._settings = settings
        self._raw = raw
        self._built: dict[int, QdrantSink] = {}

    def build(self, generation: int) -> QdrantSink:
        if generation in self._built:
            self._built[generation].close()
        self._built[generation] = build(self._settings, self._raw, generation=generation)
        return self._built[generation]

    def stored(self, generation: int) -> Mapping[RecordId, EmbeddedRecord] | None:
        name = f"{self._settings.collection}@{generation}"
        return ours(self._raw, name) if self._raw.collection_exists(name) else None

    def live(self) -> int | None:
        aliases = {each.alias_name: each.collection_name for each in self._raw.get_aliases().aliases}
        target = aliases.get(self._settings.collection)
        return int(target.rpartition("@")[2]) if target else None

    def leave_half_dropped(self, generation: int) -> None:
        """Nothing: the server deletes a collection whole."""

    def never_live(self) -> tuple[QdrantSink, int]:
        vectors = models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
        self._raw.create_collection(self._settings.collection, vectors_config=vectors)
        return self.build(2), DIMENSION

    def close(self) -> None:
        for sink in self._built.values():
            sink.close()
        for each in self._raw.get_collections().collections:
            if each.name.partition("@")[0] == self._settings.collection:
                self._raw.delete_collection(each.name)


def point(id: UUID, vector: Vectors, name: str, payload: dict[str, Any]) -> models.PointStruct:
    row = vector.tolist()
    return models.PointStruct(id=str(id), vector={name: row} if name else row, payload=payload)


def ours(raw: QdrantClient, collection: str, vector: str = "") -> dict[RecordId, EmbeddedRecord]:
    """Read the records of our sync as they stand in the database."""
    points, _ = raw.scroll(collection, limit=100_000, with_payload=True, with_vectors=True)
    read = [_decoded(found, vector) for found in points if (found.payload or {}).get("_vs_source") == OWNER]
    assert len({each.id for each in read}) == len(read)
    return {each.id: each for each in read}


def _decoded(found: models.Record, name: str) -> EmbeddedRecord:
    payload = dict(found.payload or {})
    del payload["_vs_source"]
    document, index = DocumentId(payload.pop("_vs_document")), payload.pop("_vs_index")
    digest, text = bytes.fromhex(payload.pop("_vs_digest")), payload.pop("text")
    row = found.vector[name] if isinstance(found.vector, dict) else found.vector
    vector = np.array(row, dtype=np.float32)
    return EmbeddedRecord(record_id(document, index), document, index, vector, text, payload, digest)
