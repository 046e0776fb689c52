"""The sink for Pinecone keeps the contracts of sinks and of generations, over HTTP. What it cannot is waived."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from pinecone_rig import INDEX, NAMESPACE, build, stored_in

from connector.model import EmbeddedRecord, RecordId
from connector.ports import GenerationSink
from connector.testing.generations import GenerationContract
from connector.testing.pinecone_server import PineconeServer, Status
from connector.testing.sinks import DIMENSION, SinkContract, record
from sinks.pinecone_records import RecordFormat
from sinks.pinecone_sink import PineconeSink

if TYPE_CHECKING:
    from connector.model import Vectors

FOREIGN = "somebody#else"
FOREIGN_METADATA = {"text": "somebody else's", "_vs_source": "another sync", "_vs_index": 0}


class Harness:
    """The sink, an emulator, and what is done behind the sink's back."""

    def __init__(self, server: PineconeServer, folder: Path, **settings: Any) -> None:
        self._server = server
        self._folder = folder
        self._settings = settings
        self.sink = self._build()
        self.sink.prepare(DIMENSION)

    def stored(self) -> Mapping[RecordId, EmbeddedRecord]:
        return stored_in(self._server)

    def exists(self) -> bool:
        return INDEX in self._server.indexes and bool(self._server.records(INDEX, NAMESPACE))

    def reopen(self) -> PineconeSink:
        self.sink.close()
        self.sink = self._build()
        return self.sink

    def remove(self) -> None:
        self.sink.close()
        self._server.indexes[INDEX].namespaces.pop(NAMESPACE)

    def unacceptable(self) -> EmbeddedRecord:
        return record("bad", vector=np.full(DIMENSION, np.nan, dtype=np.float32), metadata={"nan": float("nan")})

    def fail_next_call(self, *, passing: bool, retry_after_seconds: float | None = None) -> None:
        fault = Status(429, retry_after=retry_after_seconds) if passing else Status(403)
        self._server.on("*", fault)

    def plant_foreign(self, vector: Vectors) -> None:
        self._server.put(INDEX, NAMESPACE, {FOREIGN: (vector.tolist(), FOREIGN_METADATA)})

    def foreign_is_intact(self) -> bool:
        return dict(self._server.records(INDEX, NAMESPACE)[FOREIGN].metadata) == FOREIGN_METADATA

    def damage(self, id: RecordId) -> None:
        name = RecordFormat.of("docs sync").vector_id(id)
        assert name is not None
        found = self._server.records(INDEX, NAMESPACE)[name]
        altered = {**found.metadata, "_vs_index": 7.5}
        self._server.put(INDEX, NAMESPACE, {name: (found.values.tolist(), altered)})

    def _build(self) -> PineconeSink:
        return build(self._server, self._folder, **self._settings)


@pytest.fixture
def server() -> Iterator[PineconeServer]:
    with PineconeServer() as server:
        yield server


NO_COUNT = "Pinecone counts late, and the records of others as well, so it cannot tell"


class TestPineconeSink(SinkContract):
    waived: ClassVar[Mapping[str, str]] = {"S14": NO_COUNT}

    @pytest.fixture
    def harness(self, server: PineconeServer, tmp_path: Path) -> Iterator[Harness]:
        harness = Harness(server, tmp_path)
        yield harness
        harness.sink.close()


class TestPineconeSinkThatAlters(SinkContract):
    """What is said to be altered is, and nothing else."""

    waived: ClassVar[Mapping[str, str]] = {
        "S14": NO_COUNT,
        "S1_rich_metadata_can_be_read_back": "the settings drop what Pinecone does not have",
    }

    @pytest.fixture(params=["truncate", "drop"])
    def harness(self, request: pytest.FixtureRequest, server: PineconeServer, tmp_path: Path) -> Iterator[Harness]:
        harness = Harness(server, tmp_path, unsupported="drop", oversized=request.param, records_per_call=50)
        yield harness
        harness.sink.close()


class GenerationHarness:
    """Several generations of one collection, and where readers are led."""

    def __init__(self, server: PineconeServer, folder: Path, alias: str | None, dimension: int | None) -> None:
        self._server = server
        self._folder = folder
        self._alias = alias
        self._built: dict[int, PineconeSink] = {}
        if dimension is not None:
            server.create(INDEX, dimension)

    def build(self, generation: int) -> PineconeSink:
        if generation in self._built:
            self._built[generation].close()
        self._built[generation] = build(self._server, self._folder, generation=generation, alias=self._alias)
        return self._built[generation]

    def stored(self, generation: int) -> Mapping[RecordId, EmbeddedRecord] | None:
        namespace = NAMESPACE if generation == 1 else f"{NAMESPACE}@{generation}"
        there = [
            index
            for index in (INDEX, f"{INDEX}-{generation}")
            if index in self._server.indexes and self._server.records(index, namespace)
        ]
        assert len(there) <= 1
        return stored_in(self._server, namespace, index=there[0]) if there else None

    def live(self) -> int | None:
        if INDEX not in self._server.indexes:
            return None
        at = self._server.indexes[INDEX]
        if self._alias is not None:
            target = at.aliases.get(self._alias)
            return None if target is None else generation_of(target.target)
        pointer = self._server.records(INDEX, f"{NAMESPACE}@live").get(RecordFormat.of("docs sync").pointer_id)
        if pointer is not None:
            return int(str(pointer.metadata["_vs_generation"]).partition(".")[0])
        return 1 if self._server.records(INDEX, NAMESPACE) else None

    def leave_half_dropped(self, generation: int) -> None:
        self._built[generation].close()
        namespace = f"{NAMESPACE}@{generation}"
        marker = RecordFormat.of("docs sync").marker_id
        for index in (INDEX, f"{INDEX}-{generation}"):
            if index in self._server.indexes and namespace in self._server.indexes[index].namespaces:
                self._server.remove(index, namespace, [marker])

    def never_live(self) -> tuple[GenerationSink, int]:
        settings = {"alias": self._alias} if self._alias is not None else {"create": False}
        self._server.indexes.pop(INDEX, None)
        self._server.create(INDEX, DIMENSION)
        self._built[9] = build(self._server, self._folder, generation=9, **settings)
        return self._built[9], DIMENSION + 1

    def close(self) -> None:
        for sink in self._built.values():
            sink.close()


def generation_of(namespace: str) -> int:
    return 1 if namespace == NAMESPACE else int(namespace.removeprefix(f"{NAMESPACE}@"))


class TestPineconeGenerations(GenerationContract):
    """In namespaces of one index, led to by a namespace alias or by our own pointer."""

    @pytest.fixture(params=["docs-live", None], ids=["alias", "pointer"])
    def harness(
        self, request: pytest.FixtureRequest, server: PineconeServer, tmp_path: Path
    ) -> Iterator[GenerationHarness]:
        harness = GenerationHarness(server, tmp_path, request.param, dimension=None)
        yield harness
        harness.close()
