"""The sink for a Qdrant server keeps the contracts: in this process, at the emulator, and at a real server if given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest
from qdrant_rig import GenerationsHarness, KeptClient, QdrantHarness, raw_client
from real_servers import RealServer, real_qdrant, unique

from connector.testing.generations import GenerationContract
from connector.testing.qdrant_server import QdrantServer
from connector.testing.sinks import SinkContract
from sinks.qdrant import QdrantSettings

__all__ = ["real_qdrant"]


@pytest.fixture
def emulator() -> Iterator[QdrantServer]:
    with QdrantServer() as server:
        yield server


def at(server: RealServer) -> QdrantSettings:
    return QdrantSettings.model_validate(
        {"url": server.url, "api_key": server.api_key, "collection": unique("vector-sync-test")}
    )


class TestQdrantInProcess(SinkContract):
    """With a vector that has a name."""

    waived: ClassVar[Mapping[str, str]] = {
        "S7_a_passing_failure_is_transient": "there is no service that could be busy",
    }

    @pytest.fixture
    def harness(self) -> Iterator[QdrantHarness]:
        harness = QdrantHarness(QdrantSettings(url=":memory:", vector="body", records_per_call=100), KeptClient())
        yield harness
        harness.close()


class TestQdrantOverHttp(SinkContract):
    @pytest.fixture
    def harness(self, emulator: QdrantServer) -> Iterator[QdrantHarness]:
        raw = raw_client(emulator.url)
        harness = QdrantHarness(QdrantSettings(url=emulator.url, records_per_call=100), raw, emulator)
        yield harness
        harness.close()
        raw.close()


class TestQdrantServer(SinkContract):
    waived: ClassVar[Mapping[str, str]] = {
        "S7": "a real server does not fail on demand",
        "S12_fit_asks_no_service": "the same",
    }

    @pytest.fixture
    def harness(self, real_qdrant: RealServer) -> Iterator[QdrantHarness]:
        raw = raw_client(real_qdrant.url, real_qdrant.api_key)
        harness = QdrantHarness(at(real_qdrant), raw)
        yield harness
        harness.close()
        raw.delete_collection(f"{harness._settings.collection}@1")
        raw.close()


class TestGenerationsInProcess(GenerationContract):
    waived: ClassVar[Mapping[str, str]] = {
        "G3_a_reader_gets_the_one_or_the_other": "the client in process is not for several threads",
    }

    @pytest.fixture
    def harness(self) -> Iterator[GenerationsHarness]:
        harness = GenerationsHarness(QdrantSettings(url=":memory:"), KeptClient())
        yield harness
        harness.close()


class TestGenerationsOverHttp(GenerationContract):
    @pytest.fixture
    def harness(self, emulator: QdrantServer) -> Iterator[GenerationsHarness]:
        raw = raw_client(emulator.url)
        harness = GenerationsHarness(QdrantSettings(url=emulator.url), raw)
        yield harness
        harness.close()
        raw.close()


class TestGenerationsAtAServer(GenerationContract):
    @pytest.fixture
    def harness(self, real_qdrant: RealServer) -> Iterator[GenerationsHarness]:
        raw = raw_client(real_qdrant.url, real_qdrant.api_key)
        harness = GenerationsHarness(at(real_qdrant), raw)
        yield harness
        harness.close()
        raw.close()
