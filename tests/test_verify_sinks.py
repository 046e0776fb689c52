"""On every database: a tenth deleted, altered and foreign, named exactly and healed for nothing; and rebuilt."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from behind import Behind, EdgeBehind, PineconeBehind, QdrantBehind
from rig import Rig
from verify_rig import VerifyRig, found

from connector.errors import ExitCode
from connector.model import Detail, RecordId, StoredRecord

METADATA = {"number": 2.0, "year": 2019, "tags": ["a", "b"], "nested": {"x": [1, None, 2.5]}, "none": None, "name": "ü"}
DOCUMENTS = {f"docs/{number:03} ü.md": (f"the text of {number}", {**METADATA, "n": number}) for number in range(60)}


@pytest.fixture(params=["qdrant-edge", "qdrant", "pinecone"])
def behind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Behind]:
    with contextlib.ExitStack() as opened:
        made: EdgeBehind | QdrantBehind | PineconeBehind
        if request.param == "qdrant-edge":
            made = EdgeBehind(tmp_path)
        elif request.param == "qdrant":
            from connector.testing.qdrant_server import QdrantServer

            made = QdrantBehind(opened.enter_context(QdrantServer()).url)
        else:
            from connector.testing.pinecone_sdk import without_waiting
            from connector.testing.pinecone_server import PineconeServer

            opened.enter_context(without_waiting())
            made = PineconeBehind(opened.enter_context(PineconeServer()), tmp_path)
        opened.callback(made.close)
        yield made


class Opened:
    """A rig whose sink is built anew for each command, and closed after it."""

    def __init__(self, behind: Behind, folder: Path) -> None:
        self._behind = behind
        self.rig = Rig(folder)
        self.index = VerifyRig(self.rig)

    @contextlib.contextmanager
    def command(self) -> Iterator[VerifyRig]:
        sink = self._behind.sink()
        self.rig.sinks = [sink]  # type: ignore[list-item]  # whichever it is
        with contextlib.closing(sink):
            yield self.index

    def ids(self) -> list[RecordId]:
        with self.command():
            return sorted(it.id for it in self.rig.sinks[0].scan() if isinstance(it, StoredRecord))

    def holds_what_it_should(self) -> bool:
        with self.command():
            records = [it for it in self.rig.sinks[0].scan(Detail.CONTENTS) if isinstance(it, StoredRecord)]
        held = {it.id: (it.text, it.metadata) for it in records}
        assert len(held) == len(records)
        return held == self.rig.expected()


@pytest.fixture
def opened(behind: Behind, folder: Path) -> Opened:
    made = Opened(behind, folder)
    with made.command() as index:
        index.rig.sync(DOCUMENTS)
    del made.rig.embedder.texts_seen[:]
    return made


def test_what_was_deleted_altered_and_added_is_named_exactly_and_healed_for_nothing(
    opened: Opened, behind: Behind
) -> None:
    with opened.command() as index:
        assert found(index.verify(contents=True)) == {}
    ids = opened.ids()
    random.Random(3).shuffle(ids)
    tenth = len(ids) // 10
    missing, stale, edited, renamed = (ids[n * tenth : (n + 1) * tenth] for n in range(4))
    behind.remove(missing)
    behind.alter(stale, _vs_digest=(b"s" * 16).hex())
    behind.alter(edited, text="edited by hand")
    behind.alter(renamed, name="renamed by hand")
    foreign = behind.add_foreign(tenth)

    by_marks = {"missing": {*missing}, "stale": {*stale}, "foreign": foreign}
    with opened.command() as index:
        assert found(index.verify()) == by_marks
        assert found(index.verify(contents=True)) == {**by_marks, "altered": {*edited, *renamed}}
        repaired = index.repair(contents=True)
    assert found(repaired.left) == {"foreign": foreign}
    assert repaired.exit_code is ExitCode.IN_STEP
    assert opened.rig.embedder.texts_seen == []
    assert behind.foreign() == foreign
    assert opened.holds_what_it_should()


def test_records_whose_marks_were_wiped_are_missing_and_foreign_and_are_written_again(
    opened: Opened, behind: Behind
) -> None:
    wiped = opened.ids()[:5]
    behind.alter(wiped, _vs_source="somebody", _vs_document="other")
    with opened.command() as index:
        seen = found(index.verify())
        assert seen["missing"] == {*wiped}
        assert len(seen["foreign"]) == 5
        assert found(index.repair().left) == {}
    assert opened.holds_what_it_should()


def test_a_lost_state_is_made_again_and_the_next_sync_embeds_and_writes_nothing(opened: Opened, behind: Behind) -> None:
    foreign = behind.add_foreign(3)
    opened.index.lose_the_state()
    with opened.command() as index:
        (rebuilt,) = index.rebuild()
        assert (rebuilt.documents, rebuilt.records, rebuilt.foreign) == (len(DOCUMENTS), len(DOCUMENTS), 3)
        assert (rebuilt.in_doubt, rebuilt.is_ours, rebuilt.without_vectors) == (0, True, "")
        assert found(index.verify(contents=True)) == {"foreign": foreign}
    del opened.rig.embedder.texts_seen[:]
    with opened.command() as index:
        report = index.rig.sync()
        assert (report.exit_code, report.texts_embedded) == (ExitCode.IN_STEP, 0)
        assert (report.sinks["main"].upserted, report.sinks["main"].deleted) == (0, 0)
    behind.remove(opened.ids()[:3])
    with opened.command() as index:
        assert index.repair().exit_code is ExitCode.IN_STEP
    assert opened.rig.embedder.texts_seen == []  # the vectors were made again as well
    assert opened.holds_what_it_should()
