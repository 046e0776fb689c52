"""A reader that queries in a loop while an index is embedded anew with another dimension, on sinks that people use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from cli_rig import install
from generation_rig import NAMES, GenerationRig, reader
from generation_rig import rig as rig  # noqa: PLC0414 - a fixture

from connector.generation_control import drop, roll_back
from connector.query_config import query_config


def test_in_a_folder(rig: GenerationRig) -> None:
    pytest.importorskip("qdrant_edge", reason="the extra `edge` is not installed")
    rig.sinks = {"main": {"kind": "qdrant-edge", "min_free_bytes": 0}}
    re_embed_beside_a_reader(rig)
    assert {path.name for path in (rig.folder / "state" / "index").iterdir()} == {"docs@2", "docs@live"}


@pytest.fixture
def url(rig: GenerationRig, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("qdrant_client", reason="the extra `qdrant` is not installed")
    from connector.testing.qdrant_server import QdrantServer
    from sinks.qdrant import QdrantSettings

    install(monkeypatch, {"sinks": {"qdrant": QdrantSettings}})
    with QdrantServer() as server:
        yield server.url


def test_on_a_server(rig: GenerationRig, url: str) -> None:
    from qdrant_client import QdrantClient

    rig.sinks = {"main": {"kind": "qdrant", "url": url, "collection": "docs"}}
    re_embed_beside_a_reader(rig)
    told = query_config(rig.settings).sink
    assert (told["collection"], told["alias"]) == ("docs@2", "docs")
    with closing(QdrantClient(url=url, check_compatibility=False)) as client:
        assert client.count("docs").count == len(NAMES)
        assert [each.name for each in client.get_collections().collections] == ["docs@2"]


def re_embed_beside_a_reader(rig: GenerationRig) -> None:
    rig.sync()
    assert query_config(rig.settings).embedder["dimension"] == 8
    with reader(rig.read) as found:
        rig.dimension = 12
        report = rig.sync(accept=True)
        assert (report.exit_code, rig.states()) == (0, {1: "retained", 2: "live"}), report.problems
    assert set(found) <= {8, 12}
    told = query_config(rig.settings)
    assert (told.embedder["dimension"], told.sink["generation"]) == (12, 2)
    paid = len(rig.paid(8)), len(rig.paid(12))
    roll_back(rig.settings)
    assert rig.read() == 8
    rig.write("new", "Something new.")
    rig.sync()
    assert (len(rig.paid(8)), len(rig.paid(12))) == (paid[0] + 1, paid[1] + 1)
    (rig.folder / "docs" / "new.md").unlink()
    rig.sync()
    roll_back(rig.settings)
    drop(rig.settings, 1)
    assert rig.read() == 12
    assert rig.states() == {2: "live"}
