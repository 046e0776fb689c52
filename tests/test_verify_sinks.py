"""On every database: a tenth deleted, altered and foreign, named exactly and healed for nothing; and rebuilt."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from behind import OWNER, Behind, EdgeBehind, MemoryBehind, PineconeBehind, QdrantBehind
from rig import Rig
from verify_rig import VerifyRig, found

from connector.checkpoint import Checkpoints
from connector.errors import ExitCode
from connector.model import UNKNOWN, Detail, DocumentId, Entry, RecordId, StoredRecord

METADATA = {"number": 2.0, "year": 2019, "tags": ["a", "b"], "nested": {"x": [1, None, 2.5]}, "none": None, "name": "ü"}
DOCUMENTS = {f"docs/{number:03} ü.md": (f"the text of {number}", {**METADATA, "n": number}) for number in range(60)}


@pytest.fixture(params=["memory", "qdrant-edge", "qdrant", "pinecone"])
def behind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Behind]:
    with contextlib.ExitStack() as opened:
        made: MemoryBehind | EdgeBehind | QdrantBehind | PineconeBehind
        if request.param == "memory":
            made = MemoryBehind()
        elif request.param == "qdrant-edge":
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


def test_a_tenth_deleted_a_tenth_altered_and_a_tenth_foreign_is_named_exactly_and_healed_for_nothing(
    opened: Opened, behind: Behind
) -> None:
    with opened.command() as index:
        assert found(index.verify(contents=True)) == {}
    ids = opened.ids()
    random.Random(3).shuffle(ids)
    tenth = len(ids) // 10
    assert tenth == 6
    missing, altered = ids[:tenth], ids[tenth : 2 * tenth]
    stale, edited, renamed, turned, renumbered, disowned = ([id] for id in altered)
    behind.remove(missing)
    behind.alter(stale, _vs_digest=(b"s" * 16).hex())
    behind.alter(edited, text="edited by hand")
    behind.alter(renamed, name="renamed by hand")
    behind.turn(turned)
    behind.alter(renumbered, _vs_index=-7)
    behind.alter(disowned, _vs_source="somebody", _vs_document="other")
    foreign = behind.add_foreign(tenth)

    by_marks = {"missing": {*missing}, "stale": {*stale, *renumbered, *disowned}, "foreign": foreign}
    by_contents = {**by_marks, "altered": {*edited, *renamed, *turned}}
    with opened.command() as index:
        assert found(index.verify()) == by_marks
        seen = index.verify(contents=True)
        assert found(seen) == by_contents
        assert (seen.drifted, seen.sinks[0].vectors_unchecked) == (2 * tenth, 0)
        repaired = index.repair(contents=True)
    assert found(repaired.found) == by_contents
    assert found(repaired.left) == {"foreign": foreign}
    assert repaired.exit_code is ExitCode.IN_STEP
    assert opened.rig.embedder.texts_seen == []
    assert behind.foreign() == foreign
    assert opened.holds_what_it_should()


def test_a_copy_that_bears_our_mark_is_drift_until_somebody_deletes_it(opened: Opened, behind: Behind) -> None:
    copied = opened.ids()[:2]
    copies = behind.copy(copied)
    with opened.command() as index:
        counts = opened.rig.sinks[0].count() is not None
        # Some sinks are counted only by a run that writes.
        synced = index.rig.sync({**DOCUMENTS, "new": ("one more", METADATA)})
        del opened.rig.embedder.texts_seen[:]
        assert synced.exit_code is (ExitCode.DRIFT if counts else ExitCode.IN_STEP)
        seen = index.verify(contents=True)
        assert found(seen) == {"stray": copies}
        assert {it.owner for first in seen.sinks[0].first.values() for it in first} == {OWNER}
        assert seen.exit_code is ExitCode.DRIFT
        assert (index.repair().synced, index.repair().exit_code) == (None, ExitCode.DRIFT)
    behind.remove(opened.ids()[5:6])
    with opened.command() as index:
        repaired = index.repair()
        assert (found(repaired.left), repaired.exit_code) == ({"stray": copies}, ExitCode.DRIFT)
    behind.remove_by_name(copies)
    with opened.command() as index:
        assert index.rig.sync().exit_code is ExitCode.IN_STEP
        assert index.verify(contents=True).exit_code is ExitCode.IN_STEP
    assert opened.rig.embedder.texts_seen == []


def test_a_damaged_record_that_is_in_doubt_is_neither_stray_nor_foreign(opened: Opened, behind: Behind) -> None:
    ids = opened.ids()[:2]
    behind.alter(ids[:1], _vs_index=-7)
    behind.alter(ids[1:], _vs_source="somebody")
    with opened.command() as index:
        with contextlib.closing(Checkpoints.open(opened.rig.folder)) as checkpoints:
            doubts = [Entry(DocumentId(id.removesuffix("#0")), None, None, (UNKNOWN,)) for id in ids]
            checkpoints.begin("main", doubts)
        seen = index.verify()
        assert (found(seen), seen.in_doubt) == ({}, 2)
        assert index.rig.sync().exit_code is ExitCode.IN_STEP
        assert found(index.verify(contents=True)) == {}
    assert opened.holds_what_it_should()


@pytest.mark.parametrize("behind", ["pinecone"], indirect=True)
def test_a_note_that_a_killed_removal_left_is_no_stray(opened: Opened, behind: PineconeBehind) -> None:
    behind.put("_vs:last:docs%20sync:0123", {"_vs_marker": OWNER})
    behind.put("_vs:last:another:0123", {"_vs_marker": "another"})
    with opened.command() as index:
        assert found(index.verify()) == {"foreign": {"_vs:last:another:0123"}}


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
