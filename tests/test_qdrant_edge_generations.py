"""Generations of the embedded sink: folders beside each other, a pointer, and kills at every step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import UUID

import pytest
from edge_rig import decoded, points_in

from connector.errors import BusyError, ConfigError, SinkError
from connector.model import EmbeddedRecord, RecordId
from connector.plugins import BuildContext
from connector.ports import GenerationSink
from connector.testing.generations import GenerationContract
from connector.testing.sinks import DIMENSION, VECTORS, record
from sinks.qdrant_edge import QdrantEdgeSettings, QdrantEdgeSink


class Harness:
    """Reads the folders and the pointer by itself."""

    def __init__(self, folder: Path) -> None:
        self.index = folder / "index"
        self._copy = folder / "copy"
        self._built: dict[int, QdrantEdgeSink] = {}
        self.owner = "docs sync"

    def build(self, generation: int) -> QdrantEdgeSink:
        self.close(generation)
        context = BuildContext(self.index, self.index, name="main", owner=self.owner, generation=generation)
        sink = QdrantEdgeSettings(path=self.index, min_free_bytes=0).build(context)
        self._built[generation] = sink
        return sink

    def close(self, *generations: int) -> None:
        for generation in generations or tuple(self._built):
            if generation in self._built:
                self._built.pop(generation).close()

    def folder(self, generation: int) -> Path:
        return self.index / ("docs" if generation == 1 else f"docs@{generation}")

    @property
    def pointer(self) -> Path:
        return self.index / "docs@live"

    def stored(self, generation: int) -> Mapping[RecordId, EmbeddedRecord] | None:
        if not self.folder(generation).exists():
            return None
        return decoded(points_in(self.folder(generation) / "shard", self._copy), owner="docs sync")

    def live(self) -> int | None:
        try:
            generation: int = json.loads(self.pointer.read_bytes())["generation"]
        except FileNotFoundError:
            generation = 1
        return generation if self.folder(generation).exists() else None

    def leave_half_dropped(self, generation: int) -> None:
        self.close(generation)
        doomed = self.folder(generation).rename(self.index / f"docs@{generation}.dropping-{UUID(int=1).hex}")
        (doomed / "vector-sync.json").unlink()

    def never_live(self) -> tuple[QdrantEdgeSink, int]:
        self.index.mkdir()
        self.pointer.write_text("{")
        return self.build(2), DIMENSION

    def names(self) -> list[str]:
        return sorted(path.name for path in self.index.iterdir())


@pytest.fixture
def harness(folder: Path) -> Iterator[Harness]:
    harness = Harness(folder)
    yield harness
    harness.close()


class TestQdrantEdgeGenerations(GenerationContract):
    @pytest.fixture
    def harness(self, folder: Path) -> Iterator[Harness]:
        harness = Harness(folder)
        yield harness
        harness.close()


def prepared(harness: Harness, generation: int) -> QdrantEdgeSink:
    sink = harness.build(generation)
    sink.prepare(DIMENSION)
    return sink


def test_the_sink_has_generations(harness: Harness) -> None:
    assert isinstance(harness.build(1), GenerationSink)


def test_a_folder_from_before_there_were_generations_is_live_and_stays_as_it_is(harness: Harness) -> None:
    sink = prepared(harness, 1)
    assert harness.names() == ["docs"]
    assert sink.live() == 1
    sink.make_live()
    assert harness.names() == ["docs"]


def test_generations_of_different_dimensions_stand_beside_each_other_and_are_open_at_one_time(harness: Harness) -> None:
    old, new = prepared(harness, 1), harness.build(2)
    new.prepare(7)
    old.upsert([record()])
    assert harness.names() == ["docs", "docs@2"]
    with pytest.raises(ConfigError, match=r"docs@2 holds vectors of 7 dimensions, the embedder makes 4"):
        new.check(DIMENSION)
    assert (old.count(), new.count()) == (1, 0)


def test_a_live_folder_that_was_removed_leaves_nothing_live_until_the_next_is_prepared(harness: Harness) -> None:
    prepared(harness, 1)
    prepared(harness, 2).make_live()
    harness.close()
    shutil.rmtree(harness.folder(2))
    old = harness.build(1)
    assert old.live() is None
    old.prepare(DIMENSION)
    assert (old.live(), harness.live()) == (1, 1)


def test_what_is_asked_before_there_is_anything_makes_nothing(harness: Harness) -> None:
    sink = harness.build(2)
    sink.check(DIMENSION)
    assert (sink.live(), sink.count(), list(sink.scan())) == (None, 0, [])
    sink.drop()
    with pytest.raises(SinkError, match=r"no index .*docs@2 to make live"):
        sink.make_live()
    assert not harness.index.exists()


@pytest.mark.parametrize(
    "written,said",
    [
        ("", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1, "owner": "docs sync", "generation": "2"}', "is damaged"),
        ('{"format": 1, "owner": "docs sync", "generation": 0}', "names generation 0"),
        ('{"format": 2, "owner": "docs sync", "generation": 2}', "has format 2"),
        ('{"format": 1, "owner": "another sync", "generation": 2}', 'belongs to the sync "another sync"'),
    ],
)
def test_a_pointer_that_is_not_ours_is_refused_in_one_line_and_left_as_it_is(
    harness: Harness, written: str, said: str
) -> None:
    prepared(harness, 1).close()
    harness.pointer.write_text(written)
    sink = harness.build(2)
    for attempt in (sink.live, lambda: sink.check(DIMENSION), lambda: sink.prepare(DIMENSION), sink.drop):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    assert harness.pointer.read_text() == written
    assert harness.names() == ["docs", "docs@live"]


def test_a_folder_in_the_place_of_the_pointer_is_refused(harness: Harness) -> None:
    harness.pointer.mkdir(parents=True)
    with pytest.raises(ConfigError, match="docs@live cannot be read"):
        harness.build(1).check(DIMENSION)


def test_a_collection_of_another_sync_gets_no_generation_of_ours(harness: Harness) -> None:
    prepared(harness, 1).close()
    harness.owner = "another sync"
    with pytest.raises(ConfigError, match='belongs to the sync "docs sync"'):
        harness.build(2).check(DIMENSION)


def test_a_generation_that_somebody_has_open_is_not_dropped(harness: Harness, folder: Path) -> None:
    prepared(harness, 1)
    reader = prepared(harness, 2)
    reader.upsert([record()])
    another = Harness(folder).build(2)
    with pytest.raises(BusyError, match="is open in another process"):
        another.drop()
    assert [hit.id for hit in reader.search(VECTORS[0], 1)] == [record().id]
    reader.close()
    another.drop()
    assert harness.names() == ["docs"]


def test_what_another_process_is_dropping_is_left_to_it(harness: Harness) -> None:
    prepared(harness, 1)
    prepared(harness, 2)
    harness.close()
    doomed = harness.folder(2).rename(harness.index / f"docs@2.dropping-{UUID(int=1).hex}")
    held = os.open(doomed, os.O_RDONLY)
    try:
        import fcntl

        fcntl.flock(held, fcntl.LOCK_EX)
        harness.build(2).drop()
        assert harness.names() == ["docs", doomed.name]
    finally:
        os.close(held)
    harness.build(2).drop()
    assert harness.names() == ["docs"]


def test_a_folder_that_vector_sync_did_not_make_is_not_dropped(harness: Harness) -> None:
    prepared(harness, 1)
    harness.folder(2).mkdir()
    (harness.folder(2) / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="was not made by vector-sync"):
        harness.build(2).drop()
    assert (harness.folder(2) / "thesis.txt").read_text() == "years of work"


def test_a_client_is_told_where_its_generation_is(harness: Harness) -> None:
    told = {"collection": "docs@2", "folder": str(harness.folder(2)), "live": str(harness.pointer)}
    assert harness.build(2).address() == told


KILLED = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from connector.plugins import BuildContext
from connector.testing.sinks import DIMENSION, VECTORS, record
from sinks.qdrant_edge import QdrantEdgeSettings
from sinks.qdrant_edge_shard import Shard
import sinks.qdrant_edge_folder as folder_module
import sinks.qdrant_edge_generations as generations_module

index, whole = Path(sys.argv[1]), Path(sys.argv[2])
folder_module.sync = generations_module.sync = lambda path: None  # a kill does not ask what is on disk
os.fsync = lambda descriptor: None

def build(generation):
    context = BuildContext(index, index, name="main", owner="docs sync", generation=generation)
    return QdrantEdgeSettings(path=index, min_free_bytes=0).build(context)

def in_child(work):
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def made():
    old = build(1)
    old.prepare(DIMENSION)
    old.upsert([record("old")])
    old.close()
    os._exit(0)

def switched():
    new = build(2)
    new.prepare(DIMENSION)
    new.upsert([record("new")])
    new.make_live()
    new.close()
    build(1).drop()

def killed_at(step):
    steps = itertools.count()
    def counted(function):
        def wrapped(*args, **kwargs):
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return wrapped
    for owner, name in [(Path, "mkdir"), (Path, "rename"), (Path, "replace"), (Path, "write_bytes"), (Path, "open"),
                        (os, "fsync"), (os, "rmdir"), (Shard, "create"), (Shard, "upsert"), (Shard, "close")]:
        setattr(owner, name, counted(getattr(owner, name)))
    switched()
    os._exit(0)

def seen():
    live = build(1).live()
    assert live in (1, 2), live
    reader = build(live)
    [hit] = reader.search(VECTORS[0], 5)
    assert hit.document_id == {1: "old", 2: "new"}[live], (live, hit)
    reader.close()
    os._exit(0)

def taken_over():
    switched()
    assert sorted(each.name for each in index.iterdir()) == ["docs@2", "docs@live"], list(index.iterdir())
    reader = build(1)
    assert reader.live() == 2
    reader = build(2)
    assert [each.id for each in reader.scan()] == [record("new").id]
    reader.close()
    os._exit(0)

sys.path.insert(0, "tests")
from edge_rig import copy_sparse
assert in_child(made) == 0
shutil.copytree(index, whole, copy_function=copy_sparse)
for step in itertools.count():
    shutil.rmtree(index)
    shutil.copytree(whole, index, copy_function=copy_sparse)
    ended = in_child(lambda: killed_at(step))
    if ended == 0:
        break
    assert ended == -signal.SIGKILL, ended
    assert in_child(seen) == 0, step
    assert in_child(taken_over) == 0, step
print(step, flush=True)
"""


def test_a_switch_killed_at_any_step_leaves_one_whole_generation_live_and_the_next_run_ends_it(
    folder: Path,
) -> None:
    """Each child is killed before its n-th step that changes the disk; a reader looks, and then a run takes over."""
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder / "index"), str(folder / "whole")],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    assert int(ran.stdout or 0) > 25
