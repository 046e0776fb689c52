"""The embedded sink in trouble: kills, strangers' folders, full disks, locks, and an engine that fails half-way."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias
from uuid import UUID

import numpy as np
import pytest
import qdrant_edge

from connector.errors import BusyError, ConfigError, RejectedError, SinkError
from connector.model import (
    Detail,
    DocumentId,
    Draft,
    EmbeddedRecord,
    Fit,
    ForeignRecord,
    RecordId,
    StoredRecord,
    record_id,
)
from connector.plugins import BuildContext
from connector.testing.sinks import DIMENSION, VECTORS, record
from sinks.qdrant_edge import QdrantEdgeSettings, QdrantEdgeSink
from sinks.qdrant_edge_folder import MARKER
from sinks.qdrant_edge_opened import MIB
from sinks.qdrant_edge_shard import Shard
from sinks.qdrant_payload import NESTING, Payload, PointFormat

if TYPE_CHECKING:
    from connector.model import Vectors

PLENTY = 1 << 40
Build: TypeAlias = Callable[..., QdrantEdgeSink]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index" / "docs"


@pytest.fixture
def build(folder: Path) -> Iterator[Build]:
    """Build sinks on one folder, as runs do one after the other; all are closed in the end."""
    built: list[QdrantEdgeSink] = []

    def build(
        *,
        owner: str = "docs sync",
        distance: str = "cosine",
        engine: type[Shard] = Shard,
        min_free_bytes: int = 0,
        free_bytes: Callable[[Path], int] = lambda path: PLENTY,
    ) -> QdrantEdgeSink:
        sink = QdrantEdgeSink(
            "main",
            folder,
            owner=owner,
            distance=distance,  # type: ignore[arg-type]  # the tests' own words
            min_free_bytes=min_free_bytes,
            engine=engine,
            free_bytes=free_bytes,
        )
        built.append(sink)
        return sink

    yield build
    for sink in built:
        sink.close()


def ids_in(sink: QdrantEdgeSink) -> list[str]:
    return sorted(each.id for each in sink.scan())


def tree(folder: Path) -> list[tuple[str, int, int]]:
    """List everything in a folder, with sizes and times of change."""
    entries = [folder, *folder.rglob("*")] if folder.exists() else []
    return sorted((str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in entries)


# --- whose folder it is -----------------------------------------------------------------------------------


def test_a_folder_that_vector_sync_did_not_make_is_refused_and_left_alone(build: Build, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    before = tree(folder)
    for attempt in (build().check, build().prepare):
        with pytest.raises(ConfigError, match="was not made by vector-sync"):
            attempt(DIMENSION)
    assert tree(folder) == before


def test_a_file_in_the_place_of_the_folder_is_refused(build: Build, folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("a file")
    with pytest.raises(ConfigError, match="was not made by vector-sync"):
        build().check(DIMENSION)


def test_a_path_below_a_file_is_refused(build: Build, folder: Path) -> None:
    folder.parent.write_text("a file")
    with pytest.raises(ConfigError, match="index is not a folder"):
        build().check(DIMENSION)


@pytest.mark.parametrize(
    "change,said",
    [
        ({"owner": "another sync"}, 'belongs to the sync "another sync", this one is "docs sync"'),
        ({"format": 2}, "has format 2, this version of vector-sync knows format 1"),
        ({"dimension": 7}, "holds vectors of 7 dimensions, the embedder makes 4"),
        ({"distance": "dot"}, 'was made for the distance "dot", the settings say "cosine"'),
        ({"dimension": "four"}, "is damaged"),
        ({"incarnation": None}, "is damaged"),
        ({"format": "x"}, "is damaged"),
    ],
)
def test_a_marker_that_does_not_fit_is_refused_in_one_line_and_nothing_is_written(
    build: Build, folder: Path, change: dict[str, object], said: str
) -> None:
    made = build()
    made.prepare(DIMENSION)
    made.close()
    marker = json.loads((folder / MARKER).read_bytes())
    (folder / MARKER).write_text(json.dumps(marker | change))
    before = tree(folder)
    for attempt in (build().check, build().prepare):
        with pytest.raises(ConfigError) as caught:
            attempt(DIMENSION)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    assert tree(folder) == before


@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff\xfe", b"[]", b'{"format": 1}'])
def test_a_marker_that_is_not_json_is_refused(build: Build, folder: Path, damaged: bytes) -> None:
    made = build()
    made.prepare(DIMENSION)
    made.close()
    (folder / MARKER).write_bytes(damaged)
    with pytest.raises(ConfigError, match="is damaged"):
        build().check(DIMENSION)


@pytest.mark.parametrize("damage", ["edge_config.json", "segments/*/segment.json", "segments/*/version.info", "panic"])
def test_a_shard_that_cannot_be_opened_is_named_in_one_line(build: Build, folder: Path, damage: str) -> None:
    made = build()
    made.prepare(DIMENSION)
    made.upsert([record()])
    made.close()
    pattern = "segments/*/vector_storage/vectors/status.dat" if damage == "panic" else damage
    [file] = (folder / "shard").glob(pattern)
    file.write_bytes(b"" if damage == "panic" else b"garbage")
    with pytest.raises(ConfigError) as caught:
        build().prepare(DIMENSION)
    assert str(caught.value).startswith(f"the index {folder} cannot be opened by qdrant-edge-py ")
    assert "\n" not in str(caught.value)


def test_a_shard_that_has_vanished_is_not_silently_replaced(build: Build, folder: Path) -> None:
    made = build()
    made.prepare(DIMENSION)
    made.close()
    shutil.rmtree(folder / "shard")
    with pytest.raises(ConfigError, match="restore the folder from a backup, or remove it"):
        build().prepare(DIMENSION)


def test_a_folder_that_is_removed_while_open_is_not_vouched_for(build: Build, folder: Path) -> None:
    sink = build()
    sink.prepare(DIMENSION)
    shutil.rmtree(folder)
    with pytest.raises(SinkError, match="was removed or replaced while it was open"):
        sink.upsert([record()])


def test_a_folder_that_is_removed_during_a_call_is_not_vouched_for(build: Build, folder: Path) -> None:
    class Removed(Shard):
        def flush(self) -> None:
            super().flush()
            folder.rename(folder.with_name("moved away"))

    sink = build(engine=Removed)
    sink.prepare(DIMENSION)
    with pytest.raises(SinkError, match="was removed or replaced while it was open"):
        sink.upsert([record()])
    folder.with_name("moved away").rename(folder)


def test_before_the_first_run_there_is_nothing_to_find_and_nothing_is_made(build: Build, folder: Path) -> None:
    sink = build()
    assert list(sink.scan()) == []
    assert sink.search(VECTORS[0], 3) == []
    with pytest.raises(SinkError, match="never prepared"):
        sink.upsert([record()])
    assert not folder.parent.exists()


def test_two_collections_in_one_path_do_not_meet(tmp_path: Path) -> None:
    context = BuildContext(base_path=tmp_path, state_path=tmp_path, name="main")
    sinks = [QdrantEdgeSettings(path=Path("index"), collection=name).build(context) for name in ("docs", "docs-2")]
    assert len({sink.prepare(DIMENSION) for sink in sinks}) == 2
    sinks[0].upsert([record()])
    assert [len(ids_in(sink)) for sink in sinks] == [1, 0]
    for sink in sinks:
        sink.close()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", ".hidden", "docs.creating-1", "x" * 65, "docs\n"])
def test_a_collection_name_that_is_no_plain_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="collection"):
        QdrantEdgeSettings(collection=name)


def test_without_the_client_the_settings_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_edge", None)
    monkeypatch.delitem(sys.modules, "sinks.qdrant_edge_shard", raising=False)
    with pytest.raises(ConfigError, match=r'pip install "vector-sync\[edge\]"'):
        QdrantEdgeSettings().build(BuildContext(tmp_path, tmp_path, name="main"))


# --- what is let through ----------------------------------------------------------------------------------


def nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    "metadata,said",
    [
        ({"price": decimal.Decimal("1.10")}, '"price" holds a Decimal'),
        ({"raw": b"bytes"}, '"raw" holds a bytes'),
        ({"when": dt.date(2026, 11, 22)}, '"when" holds a date'),
        ({"pair": (1, 2)}, '"pair" holds a tuple'),
        ({"score": float("nan")}, '"score" holds nan'),
        ({"score": [float("-inf")]}, '"score" holds -inf'),
        ({"big": 2**64}, '"big" holds an integer of more than 64 bits'),
        ({"big": {"in": -(2**63) - 1}}, '"big" holds an integer of more than 64 bits'),
        ({1: "one"}, '"1" has a name that is not text'),
        ({"by id": {1: "one"}}, '"by id" holds a name that is not text'),
        ({"emoji": "half \ud83d"}, '"emoji" is not valid Unicode'),
        ({"deep": nested(NESTING + 1)}, f'"deep" is nested deeper than {NESTING} levels'),
        ({"text": "mine"}, '"text" has a name that is reserved'),
        ({"_vs_source": "mine"}, '"_vs_source" has a name that is reserved'),
    ],
)
def test_metadata_that_would_not_read_back_is_rejected_by_document_and_field(
    build: Build, metadata: dict[str, object], said: str
) -> None:
    sink = build()
    sink.prepare(DIMENSION)
    with pytest.raises(RejectedError) as caught:
        sink.upsert([record("good"), record("bad", metadata=metadata)])  # type: ignore[arg-type]  # that is the point
    assert str(caught.value).startswith(f'document "bad": the metadata field {said}')
    assert ids_in(sink) == []


def test_metadata_of_the_greatest_depth_reads_back_after_reopening(build: Build) -> None:
    deep = record(metadata={"deep": nested(NESTING)})  # type: ignore[dict-item]  # a list of lists of ...
    sink = build()
    sink.prepare(DIMENSION)
    sink.upsert([deep])
    sink.close()
    [hit] = build().search(deep.vector, 1)
    assert hit.metadata == deep.metadata


@pytest.mark.parametrize(
    "vector,distance,said",
    [
        ([1, 2, 3], "cosine", "has the shape (3,), the collection 4 dimensions"),
        ([[1, 2, 3, 4]], "cosine", "has the shape (1, 4)"),
        ([np.nan, 0, 0, 1], "dot", "is not finite"),
        ([np.inf, 0, 0, 1], "euclid", "is not finite"),
        ([0, 0, 0, 0], "cosine", "is zero"),
        ([1e-5, 0, 0, 0], "cosine", "is zero, or too small"),
        ([3e38, 3e38, 0, 0], "cosine", "is zero, or too small or too long to have a direction"),
    ],
)
def test_a_vector_that_cannot_be_searched_is_rejected_by_document(
    build: Build, vector: list[float], distance: str, said: str
) -> None:
    sink = build(distance=distance)
    sink.prepare(DIMENSION)
    with pytest.raises(RejectedError) as caught:
        sink.upsert([record("good"), record("bad", 3, vector=np.array(vector, dtype=np.float32))])
    assert str(caught.value).startswith(f'document "bad", passage 3: its vector {said}')
    assert ids_in(sink) == []


def test_a_zero_vector_is_kept_where_length_counts(build: Build) -> None:
    sink = build(distance="dot")
    sink.prepare(DIMENSION)
    sink.upsert([record(vector=np.zeros(DIMENSION, dtype=np.float32))])
    assert ids_in(sink) == ["doc#0"]


def test_a_record_named_after_another_document_is_rejected(build: Build) -> None:
    sink = build()
    sink.prepare(DIMENSION)
    odd = EmbeddedRecord(RecordId("other#0"), DocumentId("doc"), 0, VECTORS[0], "", {}, bytes(16))
    with pytest.raises(RejectedError, match='"other#0" is not named after its document "doc"'):
        sink.upsert([odd])


def test_a_document_whose_name_is_not_unicode_is_rejected_and_there_is_nothing_of_it_to_delete(build: Build) -> None:
    sink = build()
    sink.prepare(DIMENSION)
    odd = record(os.fsdecode(b"caf\xe9.txt"), text="", digest=bytes(16))
    with pytest.raises(RejectedError, match="its id is not valid Unicode") as caught:
        sink.upsert([odd])
    assert str(caught.value).isprintable()
    sink.delete([odd.id])
    with pytest.raises(RejectedError, match='document "doc": its text is not valid Unicode'):
        sink.upsert([record(text="half \ud83d")])


def test_a_question_of_another_dimension_is_rejected(build: Build) -> None:
    sink = build()
    sink.prepare(DIMENSION)
    with pytest.raises(RejectedError, match="has 4 dimensions"):
        sink.search(np.ones(3, dtype=np.float32), 1)


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
def test_a_higher_score_is_nearer_for_every_distance(build: Build, distance: str) -> None:
    sink = build(distance=distance)
    sink.prepare(DIMENSION)
    sink.upsert([record(index=index) for index in range(len(VECTORS))])
    hits = sink.search(VECTORS[3], len(VECTORS))
    assert hits[0].index == 3
    assert hits[-1].index == len(VECTORS) - 1 - 3  # the opposite
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


OURS = PointFormat.of("docs sync")
WHOLE: Payload = OURS.payload(record())
ALTERED: tuple[tuple[Payload, str | None], ...] = (
    ({"_vs_source": "another sync"}, "another sync"),
    ({"_vs_source": None}, None),
    ({"_vs_source": ["docs sync"]}, None),
    ({"_vs_document": "another"}, "docs sync"),
    ({"_vs_document": 7}, "docs sync"),
    ({"_vs_index": 1000}, "docs sync"),
    ({"_vs_index": True}, "docs sync"),
    ({"_vs_index": "0"}, "docs sync"),
    ({"_vs_digest": "not hexadecimal"}, "docs sync"),
    ({"_vs_digest": "00"}, "docs sync"),
    ({"_vs_digest": None}, "docs sync"),
)
"""What somebody writes over our marks, and whose the record then says it is."""


@pytest.mark.parametrize("detail", list(Detail))
def test_what_we_would_not_have_written_is_foreign_and_never_found(build: Build, detail: Detail) -> None:
    sink = build()
    sink.prepare(DIMENSION)
    sink.upsert([record("mine")])
    expected = {ForeignRecord("1", None), ForeignRecord("2", "docs sync"), ForeignRecord(str(UUID(int=3)), "docs sync")}
    plant(sink, 1, {"title": "no marks"})
    plant(sink, 2, WHOLE)
    plant(sink, UUID(int=3), WHOLE)
    for index, (altered, owner) in enumerate(ALTERED):
        point = OURS.point_id(record(index=index).id)
        plant(sink, point, OURS.payload(record(index=index)) | altered)
        expected.add(ForeignRecord(str(point), owner))
    scanned = list(sink.scan(detail))
    assert {each for each in scanned if isinstance(each, ForeignRecord)} == expected
    assert [each.id for each in scanned if isinstance(each, StoredRecord)] == ["mine#0"]
    assert [hit.id for hit in sink.search(VECTORS[0], 1)] == ["mine#0"]


@pytest.mark.parametrize("payload", [{name: it for name, it in WHOLE.items() if name != "text"}, WHOLE | {"text": 7}])
def test_a_record_whose_text_is_gone_is_foreign_to_whoever_asks_for_the_text(build: Build, payload: Payload) -> None:
    sink = build()
    sink.prepare(DIMENSION)
    plant(sink, OURS.point_id(record().id), payload)
    assert list(sink.scan(Detail.CONTENTS)) == [ForeignRecord(str(OURS.point_id(record().id)), "docs sync")]
    assert sink.search(VECTORS[0], 1) == []


def test_a_record_whose_vector_is_gone_is_foreign_to_whoever_asks_for_the_vector(build: Build) -> None:
    sink = build()
    sink.prepare(DIMENSION)
    sink.upsert([record()])
    sink._collection.shard._opened.update(
        qdrant_edge.UpdateOperation.delete_vectors([OURS.point_id(record().id)], [""])
    )
    assert list(sink.scan(Detail.VECTORS)) == [ForeignRecord(str(OURS.point_id(record().id)), "docs sync")]


def plant(sink: QdrantEdgeSink, point: UUID | int, payload: Payload) -> None:
    """Put a point into the collection behind the sink's back, nearest to the first of VECTORS."""
    planted = qdrant_edge.Point(point, VECTORS[0].tolist(), payload)
    sink._collection.shard._opened.update(qdrant_edge.UpdateOperation.upsert_points([planted]))


def test_damaged_points_take_no_place_from_what_is_found(build: Build) -> None:
    sink = build()
    sink.prepare(DIMENSION)
    sink.upsert([record("near", vector=VECTORS[1]), record("far", vector=VECTORS[-1])])
    for number in range(50):
        plant(sink, number, WHOLE)
    assert [hit.document_id for hit in sink.search(VECTORS[0], 2)] == ["near", "far"]


def test_what_is_refused_beforehand_is_refused_in_the_same_words(build: Build) -> None:
    sink = build()
    sink.prepare(DIMENSION)
    for bad in (
        record("doc", metadata={"price": decimal.Decimal("1.10")}),  # type: ignore[dict-item]  # that is the point
        record("doc", text="half \ud83d"),
        record("half \ud83d", text="", digest=bytes(16)),
    ):
        with pytest.raises(RejectedError) as caught:
            sink.upsert([bad])
        assert sink.fit(Draft(bad.document_id, ("fine", bad.text), bad.metadata)) == Fit(refusal=str(caught.value))


# --- an engine that fails half-way ------------------------------------------------------------------------


class HalfWritten(Shard):
    """Makes the engine fail as it was seen to: a point that was there is replaced, others may come from the log."""

    failures: ClassVar[int] = 0
    failing_deletions: ClassVar[int] = 0

    def upsert(self, ids: Sequence[UUID], vectors: Vectors, payloads: Sequence[Payload]) -> None:
        if type(self).failures:
            type(self).failures -= 1
            vectors = [vectors[0], *(np.ones(DIMENSION + 1, dtype=np.float32) for _ in ids[1:])]  # type: ignore[assignment]
        super().upsert(ids, vectors, payloads)

    def delete(self, ids: Sequence[UUID]) -> None:
        if type(self).failing_deletions:
            type(self).failing_deletions -= 1
            raise SinkError("the index refused a deletion: no")
        super().delete(ids)


@pytest.fixture
def half_written() -> Iterator[type[HalfWritten]]:
    yield HalfWritten
    HalfWritten.failures = HalfWritten.failing_deletions = 0


def test_the_engine_applies_half_of_a_failed_call(build: Build, half_written: type[HalfWritten]) -> None:
    """What the next tests guard against; if this one fails, the engine has been mended."""
    sink = build(engine=half_written)
    sink.prepare(DIMENSION)
    sink.upsert([record()])
    half_written.failures, half_written.failing_deletions = 1, 2
    with pytest.raises(SinkError):
        sink.upsert([record(digest=bytes(16)), record(index=1)])
    [(_, payload, _)] = sink._collection.shard.page(None, 10, Detail.MARKS)[0]
    assert payload["_vs_digest"] == bytes(16).hex()


def test_a_failed_call_leaves_no_ghost_not_even_after_reopening(build: Build, half_written: type[HalfWritten]) -> None:
    sink = build(engine=half_written)
    sink.prepare(DIMENSION)
    sink.upsert([record("kept"), record("doc", 0)])
    half_written.failures = 1
    with pytest.raises(SinkError, match="the index refused an upsert: Vector dimension error"):
        sink.upsert([record("doc", index) for index in range(3)])
    assert ids_in(sink) == ["kept#0"]
    sink.close()
    reopened = build()
    assert ids_in(reopened) == ["kept#0"]
    reopened.upsert([record("doc", index) for index in range(3)])
    assert ids_in(reopened) == ["doc#0", "doc#1", "doc#2", "kept#0"]


@pytest.mark.parametrize(
    "operation",
    [
        ids_in,
        lambda sink: sink.search(VECTORS[0], 5),
        lambda sink: sink.upsert([record("other")]),
        lambda sink: sink.delete([record("other").id]),
        lambda sink: sink.prepare(DIMENSION),
        lambda sink: sink.close(),
    ],
    ids=["scan", "search", "upsert", "delete", "prepare", "close"],
)
def test_what_could_not_be_undone_at_once_is_undone_by_the_next_operation(
    build: Build, half_written: type[HalfWritten], operation: Callable[[QdrantEdgeSink], object]
) -> None:
    sink = build(engine=half_written)
    sink.prepare(DIMENSION)
    sink.upsert([record()])
    half_written.failures, half_written.failing_deletions = 1, 2
    with pytest.raises(SinkError, match=r"a failed call to the index .* cannot be undone"):
        sink.upsert([record(index=0), record(index=1)])
    with pytest.raises(SinkError, match=r"a failed call to the index .* cannot be undone"):
        list(sink.scan())
    operation(sink)
    sink.close()
    assert "doc#0" not in ids_in(build())


class Interrupted(Shard):
    def upsert(self, ids: Sequence[UUID], vectors: Vectors, payloads: Sequence[Payload]) -> None:
        super().upsert(ids, vectors, payloads)
        raise KeyboardInterrupt


def test_an_interrupted_call_is_undone_by_the_next_operation(build: Build) -> None:
    sink = build(engine=Interrupted)
    sink.prepare(DIMENSION)
    with pytest.raises(KeyboardInterrupt):
        sink.upsert([record()])
    assert ids_in(sink) == []


class Noting(Shard):
    """Notes the order in which the engine is called."""

    calls: ClassVar[list[str]] = []

    def upsert(self, ids: Sequence[UUID], vectors: Vectors, payloads: Sequence[Payload]) -> None:
        super().upsert(ids, vectors, payloads)
        self.calls.append("upsert")

    def delete(self, ids: Sequence[UUID]) -> None:
        super().delete(ids)
        self.calls.append("delete")

    def flush(self) -> None:
        super().flush()
        self.calls.append("flush")


def test_every_call_is_flushed_before_it_returns(build: Build) -> None:
    sink = build(engine=Noting)
    sink.prepare(DIMENSION)
    Noting.calls.clear()
    sink.upsert([record()])
    assert Noting.calls == ["upsert", "flush"]
    sink.delete([record().id])
    assert Noting.calls == ["upsert", "flush", "delete", "flush"]


# --- a full disk ------------------------------------------------------------------------------------------


def test_a_call_that_may_fill_the_disk_is_refused_before_it_writes(build: Build, folder: Path) -> None:
    free = [PLENTY]
    sink = build(min_free_bytes=100 * MIB, free_bytes=lambda path: free[0])
    sink.prepare(DIMENSION)
    sink.upsert([record("kept")])
    free[0] = 164 * MIB
    large = record("large", text="x" * MIB)
    with pytest.raises(SinkError) as caught:
        sink.upsert([large])
    assert str(caught.value) == (
        f"the disk of {folder} has 164 MiB free, and 168 MiB are needed; make room, or lower min_free_bytes"
    )
    assert ids_in(sink) == ["kept#0"]
    free[0] = 169 * MIB
    sink.upsert([large])
    free[0] = 163 * MIB
    with pytest.raises(SinkError, match="make room"):
        sink.delete([large.id])


def test_an_index_is_not_opened_on_a_full_disk(build: Build) -> None:
    made = build()
    made.prepare(DIMENSION)
    made.close()
    with pytest.raises(SinkError, match="make room"):
        build(free_bytes=lambda path: 64 * MIB - 1).prepare(DIMENSION)


def test_on_a_full_disk_nothing_is_created(build: Build, folder: Path) -> None:
    with pytest.raises(SinkError, match="make room"):
        build(free_bytes=lambda path: 64 * MIB - 1).prepare(DIMENSION)
    assert list(folder.parent.iterdir()) == []


# --- other processes --------------------------------------------------------------------------------------

PROGRAM = """
import os, sys
from pathlib import Path
import numpy as np
from connector.plugins import BuildContext
from connector.testing.sinks import DIMENSION, record
from sinks.qdrant_edge import QdrantEdgeSettings

folder = Path(sys.argv[1])
def build():
    settings = QdrantEdgeSettings(path=folder.parent, collection=folder.name, min_free_bytes=0)
    return settings.build(BuildContext(folder, folder, name="main", owner="docs sync"))
"""


def start(program: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )


def test_an_index_that_another_process_has_open_is_left_to_it_unharmed(build: Build, folder: Path) -> None:
    """The engine alone would refuse the second one too, but damage the shard of the first."""
    with start(
        """
sink = build()
sink.prepare(DIMENSION)
sink.upsert([record(index=0)])
print("open", flush=True)
input()
sink.delete([record(index=0).id])
sink.upsert([record(index=n) for n in range(1, 5)])
sink.close()
print("closed", flush=True)
""",
        folder,
    ) as process:
        assert process.stdout.readline() == "open\n"
        for attempt in (
            lambda: build().check(DIMENSION),
            lambda: build().prepare(DIMENSION),
            lambda: list(build().scan()),
        ):
            with pytest.raises(BusyError, match="is open in another process"):
                attempt()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "closed\n"
    assert ids_in(build()) == ["doc#1", "doc#2", "doc#3", "doc#4"]


def test_an_index_that_some_other_program_has_open_is_left_to_it_unharmed(build: Build, folder: Path) -> None:
    sink = build()
    sink.prepare(DIMENSION)
    sink.close()
    other = qdrant_edge.EdgeShard.load(str(folder / "shard"))
    for attempt in (build().check, build().prepare):
        with pytest.raises(BusyError):
            attempt(DIMENSION)
    other.update(qdrant_edge.UpdateOperation.upsert_points([qdrant_edge.Point(1, [1.0, 0, 0, 0], {"a": 1})]))
    other.flush()
    other.update(qdrant_edge.UpdateOperation.delete_points([1]))
    other.flush()
    other.close()


def test_an_index_that_is_just_being_opened_is_left_to_whoever_was_first(build: Build) -> None:
    refused = []

    class Overtaken(Shard):
        @classmethod
        def load(cls, path: Path) -> Shard:
            with pytest.raises(BusyError) as caught:
                build().prepare(DIMENSION)
            refused.append(caught.value)
            return super().load(path)

    first = build(engine=Overtaken)
    first.prepare(DIMENSION)
    first.upsert([record()])
    assert ids_in(first) == ["doc#0"]
    assert len(refused) == 1


def test_a_check_does_not_keep_the_index(build: Build) -> None:
    first, second = build(), build()
    first.prepare(DIMENSION)
    first.close()
    first.check(DIMENSION)
    second.prepare(DIMENSION)
    second.check(DIMENSION)


def test_a_forked_child_is_refused_and_the_parent_goes_on(folder: Path) -> None:
    with start(
        """
from connector.errors import SinkError
sink = build()
sink.prepare(DIMENSION)
sink.upsert([record(index=0)])
child = os.fork()
if not child:
    for attempt in (lambda: sink.upsert([record(index=1)]), lambda: sink.delete([]) or list(sink.scan())):
        try:
            attempt()
        except SinkError as error:
            print("refused" if "forked" in str(error) else error, flush=True)
    sink._collection.shard.close = lambda: print("closed", flush=True)
    sink.close()
    os._exit(0)
os.waitpid(child, 0)
sink.upsert([record(index=2)])
sink.close()
sink.prepare(DIMENSION)
print(sorted(each.id for each in sink.scan()), flush=True)
sink.close()
""",
        folder,
    ) as process:
        assert process.stdout.read() == "refused\nrefused\n['doc#0', 'doc#2']\n"


@pytest.mark.parametrize("acknowledged_calls", [1, 4, 9])
def test_after_a_kill_every_acknowledged_record_is_there(build: Build, folder: Path, acknowledged_calls: int) -> None:
    per_call = 20
    with start(
        f"""
import itertools
sink = build()
sink.prepare(DIMENSION)
for number in itertools.count():
    sink.upsert([record(f"d{{number}}", index) for index in range({per_call})])
    if number:
        sink.delete([record(f"d{{number - 1}}", 0).id])
    print(number, flush=True)
""",
        folder,
    ) as process:
        acknowledged = -1
        while acknowledged < acknowledged_calls:
            acknowledged = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])

    sink = build()
    sink.check(DIMENSION)
    sink.prepare(DIMENSION)
    found = {each.id: each for each in sink.scan()}
    for number in range(acknowledged + 1):
        wanted = {record(f"d{number}", index).id for index in range(1, per_call)}
        assert wanted <= set(found)
    assert not {record(f"d{number}", 0).id for number in range(acknowledged)} & set(found)
    assert all(each.digest == record(each.document_id, each.index).digest for each in found.values())
    assert len(sink.search(VECTORS[0], len(found) + 1)) == len(found)  # every one has its vector


def test_a_creation_killed_at_any_step_does_not_block_the_next_run(folder: Path) -> None:
    """Each child is killed before its n-th step that changes the disk; then an unharmed one takes over."""
    with start(
        """
import itertools, signal
import sinks.qdrant_edge_folder as module
from sinks.qdrant_edge_shard import Shard

module.sync = lambda path: None  # a kill, unlike a power cut, does not ask what is on disk

def in_child(work):
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def killed_at(step):
    steps = itertools.count()
    def counted(function):
        def wrapped(*args, **kwargs):
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return wrapped
    for owner, name in [(Path, "mkdir"), (Path, "rename"), (Path, "write_bytes"), (module, "sync"),
                        (Shard, "load"), (Shard, "create"), (Shard, "close")]:
        setattr(owner, name, counted(getattr(owner, name)))
    build().prepare(DIMENSION)
    os._exit(0)

def taken_over():
    sink = build()
    sink.check(DIMENSION)
    assert sink.prepare(DIMENSION)
    sink.upsert([record()])
    sink.close()
    assert [each.name for each in folder.parent.iterdir()] == [folder.name], list(folder.parent.iterdir())
    os._exit(0)

import shutil
for step in itertools.count():
    shutil.rmtree(folder.parent, ignore_errors=True)
    ended = in_child(lambda: killed_at(step))
    if ended == 0:
        break
    assert ended == -signal.SIGKILL, ended
    assert in_child(taken_over) == 0, step
print(step, flush=True)
""",
        folder,
    ) as process:
        steps = int(process.stdout.read() or 0)
    assert steps > 20


def test_a_creation_that_is_still_going_on_is_not_removed(build: Build, folder: Path) -> None:
    class Racing(Shard):
        """While its shard is being made, another run comes along, and wins."""

        @classmethod
        def create(cls, path: Path, *arguments: object) -> Shard:
            made = super().create(path, *arguments)  # type: ignore[arg-type]  # passed on as they came
            winner.prepare(DIMENSION)
            return made

    winner = build()
    with pytest.raises(BusyError, match="another process has just made the index"):
        build(engine=Racing).prepare(DIMENSION)
    winner.upsert([record()])
    winner.close()
    next_run = build()
    next_run.prepare(DIMENSION)
    assert ids_in(next_run) == ["doc#0"]
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]


def test_what_only_looks_like_an_unfinished_creation_is_left_alone(build: Build, folder: Path) -> None:
    foreign = folder.with_name(f"{folder.name}.creating-{'0' * 32}")
    foreign.mkdir(parents=True)
    (foreign / "thesis.txt").write_text("years of work")
    build().prepare(DIMENSION)
    assert (foreign / "thesis.txt").read_text() == "years of work"


def test_a_scan_of_many_pages_gives_every_record_once(build: Build) -> None:
    sink = build()
    sink.prepare(DIMENSION)
    ids = [record_id(DocumentId("doc"), index) for index in range(2500)]
    for start in range(0, len(ids), 500):
        sink.upsert([record(index=index) for index in range(start, start + 500)])
    assert ids_in(sink) == sorted(ids)
