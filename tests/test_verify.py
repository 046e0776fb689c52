"""Verify finds exactly what somebody did to an index, and repair undoes it without embedding anything."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crashes import Crash, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig import FlakySink, Rig
from verify_rig import SharedSink, VerifyRig, found

from connector import scratch as scratch_module
from connector.checkpoint import Checkpoints
from connector.drift import Drift, Expected, Finding, Mark, Reason, judge, merge
from connector.engine import Options
from connector.errors import ConfigError, ExitCode, LeaseError, SinkError, TransientError
from connector.ledger_walk import ENTRIES_PER_PAGE, expected, walk
from connector.model import UNKNOWN, Detail, DocumentId, Entry, ForeignRecord, RecordId, Rejection, StoredRecord
from connector.plan import record_digest
from connector.scratch import Scratch
from connector.soundness import is_same_vector

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
DOC = DocumentId("doc")
MEMORY = Path("/dev/shm")


def entry(*passages: bytes, fingerprint: bytes | None = b"f" * 16, problem: str | None = None) -> Entry:
    return Entry(DOC, fingerprint, A, passages, problem)


def mark(index: int, digest: bytes, *, is_altered: bool = False) -> Mark:
    return Mark(DOC, index, digest, None, Reason.VECTOR if is_altered else None)


def passages(letters: str) -> str:
    """A text that is split into one passage a letter."""
    return "\n\n".join(letter * 24 for letter in letters)


# --- the table --------------------------------------------------------------------------------------

CASES = {
    "in step": (entry(A, B), [mark(0, A), mark(1, B)], {}, 2, 0, None),
    "missing": (entry(A, B), [mark(0, A)], {"doc#1": Drift.MISSING}, 1, 0, (A, UNKNOWN)),
    "all missing": (entry(A), [], {"doc#0": Drift.MISSING}, 0, 0, (UNKNOWN,)),
    "stale": (entry(A, B), [mark(0, C), mark(1, B)], {"doc#0": Drift.STALE}, 1, 0, (UNKNOWN, B)),
    "swapped": (
        entry(A, B),
        [mark(0, B), mark(1, A)],
        {"doc#0": Drift.STALE, "doc#1": Drift.STALE},
        0,
        0,
        (UNKNOWN,) * 2,
    ),
    "altered": (entry(A), [mark(0, A, is_altered=True)], {"doc#0": Drift.ALTERED}, 0, 0, (UNKNOWN,)),
    "extra": (entry(A), [mark(0, A), mark(2, C)], {"doc#2": Drift.EXTRA}, 1, 0, (A, UNKNOWN, UNKNOWN)),
    "of a document it has not": (None, [mark(1, A)], {"doc#1": Drift.EXTRA}, 0, 0, (UNKNOWN, UNKNOWN)),
    "of a rejected document": (entry(problem="no"), [mark(0, A)], {"doc#0": Drift.EXTRA}, 0, 0, (UNKNOWN,)),
    "in doubt, and there": (entry(A, UNKNOWN), [mark(0, A), mark(1, C)], {}, 1, 1, None),
    "in doubt, and not there": (entry(UNKNOWN, fingerprint=None), [], {}, 0, 1, None),
    "begun, but known": (entry(A, UNKNOWN, fingerprint=None), [], {"doc#0": Drift.MISSING}, 0, 1, (UNKNOWN, UNKNOWN)),
    "twice, once wrong": (entry(A), [mark(0, A), mark(0, B)], {"doc#0": Drift.STALE}, 0, 0, (UNKNOWN,)),
    "twice, right": (entry(A), [mark(0, A), mark(0, A)], {}, 1, 0, None),
}


@pytest.mark.parametrize("case", CASES)
def test_each_row_of_the_table(case: str) -> None:
    line, held, names, in_step, in_doubt, doubt = CASES[case]
    verdict = judge(DOC, line, held)
    assert {it.name: it.kind for it in verdict.findings} == names
    assert (verdict.in_step, verdict.in_doubt) == (in_step, in_doubt)
    assert (verdict.doubt.passages if verdict.doubt else None) == doubt
    assert all((it.reason is Reason.VECTOR) == (it.kind is Drift.ALTERED) for it in verdict.findings)


def test_a_place_that_is_in_doubt_is_told_if_nothing_of_ours_is_there() -> None:
    assert judge(DOC, entry(A, UNKNOWN, UNKNOWN), [mark(0, A), mark(2, C)]).unseen == ("doc#1",)
    assert judge(DOC, entry(A, UNKNOWN), []).unseen == ("doc#1",)


def test_a_doubt_keeps_what_is_known_and_forgets_the_fingerprint() -> None:
    doubt = judge(DOC, entry(A, problem="no"), []).doubt
    assert doubt == Entry(DOC, None, A, (UNKNOWN,), "no")
    assert judge(DOC, None, [mark(0, A)]).doubt == Entry(DOC, None, None, (UNKNOWN,), None)


@given(st.sets(st.text(max_size=3)), st.sets(st.text(max_size=3)))
def test_a_merge_judges_every_document_of_either_side_once(ledger: set[str], sink: set[str]) -> None:
    entries = [Entry(DocumentId(id), b"f", A, (A,)) for id in sorted(ledger)]
    groups = [(DocumentId(id), [Mark(DocumentId(id), 0, A)]) for id in sorted(sink)]
    verdicts = list(merge(entries, groups))
    named = {it.name.removesuffix("#0"): it.kind for verdict in verdicts for it in verdict.findings}
    assert named == dict.fromkeys(ledger - sink, Drift.MISSING) | dict.fromkeys(sink - ledger, Drift.EXTRA)
    assert sum(verdict.in_step for verdict in verdicts) == len(ledger & sink)
    assert len(verdicts) == len(ledger | sink)


@pytest.mark.parametrize(
    "records,exact,counted,objects",
    [
        (3, True, 3, False),
        (3, True, 2, True),
        (3, True, 4, True),
        (3, True, None, False),
        (3, False, 2, False),
        (3, False, 4, True),
    ],
)
def test_a_count_speaks_only_where_it_proves_something(
    records: int, exact: bool, counted: int | None, objects: bool
) -> None:
    assert (Expected(records, exact).objection(counted) is not None) == objects


def test_a_digest_is_made_again_from_what_a_record_holds(rig: Rig) -> None:
    rig.sync({"x": ("some text", {"b": 1, "a": [None, 2.5, {"z": "ü"}]})})
    (record,) = rig.sinks[0].records.values()
    from connector.plan import sha256_16

    assert record_digest(rig.embedder.identity, record.metadata, sha256_16(record.text.encode())) == record.digest


# --- walks ------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=4), unique=True, min_size=1))
def test_ledger_and_scratch_are_walked_in_one_order(ids: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        checkpoints = Checkpoints.open(Path(name))
        try:
            checkpoints.open_ledger("main", "x")
            checkpoints.commit("main", [Entry(DocumentId(id), A, A, (A,)) for id in ids])
            with Scratch.open(Path(name)) as scratch:
                scratch.write(Mark(DocumentId(id), 0, A) for id in reversed(ids))
                assert [it.document_id for it in walk(checkpoints, "main")] == sorted(ids)
                assert [id for id, _ in scratch.documents()] == sorted(ids)
        finally:
            checkpoints.close()


def test_a_ledger_of_several_pages_is_walked_to_its_end_while_it_is_written(folder: Path) -> None:
    with contextlib.closing(Checkpoints.open(folder)) as checkpoints:
        checkpoints.open_ledger("main", "x")
        for sink in ("main", "other"):
            checkpoints.open_ledger(sink, "x")
            ids = [f"{number:05}" for number in range(2 * ENTRIES_PER_PAGE)]
            checkpoints.commit(sink, [Entry(DocumentId(id), A, A, (A, B)) for id in ids])
        assert expected(checkpoints, "main") == Expected(4 * ENTRIES_PER_PAGE, exact=True)
        walked = []
        for line in walk(checkpoints, "main"):
            walked.append(line.document_id)
            if len(walked) % 500 == 0:  # behind the reader's back, as a repair does
                checkpoints.begin("main", [Entry(line.document_id, None, A, (UNKNOWN,))])
        assert walked == ids
        assert expected(checkpoints, "main") == Expected(4 * ENTRIES_PER_PAGE - 4, exact=False)


def test_a_scratch_file_has_no_name_that_a_kill_could_leave_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch_module, "MEMORY_KIB", 256)
    with Scratch.open(folder) as scratch:
        scratch.write(
            Mark(DocumentId(f"{number:060}"), 0, A) for number in random.Random(1).sample(range(50_000), 30_000)
        )
        first, _ = next(iter(scratch.documents()))
        names = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(256) if os.path.lexists(f"/proc/self/fd/{fd}")]  # noqa: PTH115
        ours = [name for name in names if name.startswith(str(folder))]
        assert ours
        assert all(name.endswith(" (deleted)") for name in ours)
        assert list(folder.iterdir()) == []
        assert int(first) < 100


def test_without_a_folder_to_write_to_the_scratch_file_is_elsewhere(folder: Path) -> None:
    with Scratch.open(folder / "absent") as scratch:
        scratch.write([Mark(DOC, 0, A)])
        scratch.note("main", [Finding(Drift.FOREIGN, "x")])
        assert [id for id, _ in scratch.documents()] == [DOC]
        assert list(scratch.findings("main")) == [Finding(Drift.FOREIGN, "x")]
    assert list(folder.iterdir()) == []


def test_what_was_set_aside_is_claimed_once_and_the_rest_is_given_as_it_came(folder: Path) -> None:
    with Scratch.open(folder) as scratch:
        scratch.write([])
        assert not scratch.claim("a")
        rest = [Finding(Drift.STRAY, "b", owner="us"), Finding(Drift.FOREIGN, "half \ud800", owner="half \udfff")]

        def marks() -> Iterator[Mark]:
            scratch.set_aside(Finding(Drift.FOREIGN, "a"))
            yield Mark(DOC, 0, A, altered=Reason.VECTOR)
            for finding in rest:
                scratch.set_aside(finding)

        scratch.write(marks())
        assert [marks for _, marks in scratch.documents()] == [[Mark(DOC, 0, A, altered=Reason.VECTOR)]]
        assert [scratch.claim("a"), scratch.claim("a"), scratch.claim("c")] == [True, False, False]
        assert list(scratch.still_set_aside()) == rest
        scratch.note("main", rest)
        assert list(scratch.findings("main")) == rest
        scratch.write([])
        assert list(scratch.still_set_aside()) == []


# --- verify and repair ------------------------------------------------------------------------------

DOCUMENTS = {f"docs/{number:03}": passages("abc"[: 1 + number % 3]) + f"\n\n{number}" for number in range(40)}


@pytest.fixture
def sink() -> SharedSink:
    return SharedSink()


@pytest.fixture
def index(rig: Rig, sink: SharedSink) -> VerifyRig:
    rig.sinks = [sink]
    rig.sync(DOCUMENTS)
    return VerifyRig(rig)


def test_an_index_that_nobody_touched_is_in_step(index: VerifyRig, sink: SharedSink) -> None:
    verified = index.verify(contents=True)
    assert found(verified) == {}
    assert verified.sinks[0].in_step == len(sink.records)
    assert verified.exit_code is ExitCode.IN_STEP


def test_a_tenth_deleted_altered_and_foreign_is_named_exactly_and_healed_for_nothing(
    index: VerifyRig, sink: SharedSink
) -> None:
    paid = len(index.rig.embedder.texts_seen)
    names = sorted(sink.records)
    random.Random(5).shuffle(names)
    tenth = len(names) // 10
    missing, stale, edited, renamed = (set(names[n * tenth : (n + 1) * tenth]) for n in range(4))
    for id in missing:
        sink.remove(id)
    for id in stale:
        sink.change(id, digest=b"s" * 16)
    for id in edited:
        sink.change(id, text="edited")
    for id in renamed:
        sink.change(id, metadata={"title": "edited"})
    extra = {str(sink.add("docs/001", 9)), str(sink.add("unheard of", 2))}
    foreign = {sink.add_foreign(f"point {number}") for number in range(tenth)}

    by_marks = {"missing": missing, "stale": stale, "extra": extra, "foreign": foreign}
    verified = index.verify()
    assert found(verified) == by_marks
    assert verified.exit_code is ExitCode.DRIFT
    everything = {**by_marks, "altered": edited | renamed}
    assert found(index.verify(contents=True)) == everything

    repaired = index.repair(contents=True)
    assert found(repaired.found) == everything
    assert found(repaired.left) == {"foreign": foreign}
    assert repaired.exit_code is ExitCode.IN_STEP
    assert len(index.rig.embedder.texts_seen) == paid
    assert index.rig.in_step()
    assert {it.name for it in sink.foreign} == foreign
    assert index.repair(contents=True).synced is None


def test_verify_writes_nothing(index: VerifyRig, sink: SharedSink) -> None:
    sink.remove(RecordId("docs/001#0"))
    del sink.upserts[:]
    before = {file.name: file.read_bytes() for file in index.rig.folder.iterdir() if "-" not in file.name}
    index.verify()
    assert {file.name: file.read_bytes() for file in index.rig.folder.iterdir() if "-" not in file.name} == before
    assert sink.calls == 0


def test_foreign_records_alone_are_no_drift(index: VerifyRig, sink: SharedSink) -> None:
    sink.add_foreign("theirs")
    verified = index.verify()
    assert found(verified) == {"foreign": {"theirs"}}
    assert verified.exit_code is ExitCode.IN_STEP
    assert index.repair().synced is None


def test_marks_that_no_ledger_could_keep_are_not_taken_for_ours(index: VerifyRig, sink: SharedSink) -> None:
    far = sink.add("docs/001", 10**12)
    half = sink.add("half \ud800", 0)
    negative = sink.add("docs/001", -1)
    short = sink.add("short", 0)
    sink.change(short, digest=b"short")
    assert found(index.verify(contents=True)) == {
        "stray": {sink.record_name(id) for id in (far, half, negative, short)}
    }


def test_a_record_whose_marks_were_damaged_in_its_place_is_named_once_and_healed(
    index: VerifyRig, sink: SharedSink
) -> None:
    paid = len(index.rig.embedder.texts_seen)
    ids = sorted(sink.records)[:3]
    for id in ids[:2]:
        sink.damage(id)
    sink.remove(ids[2])
    sink.add_foreign(sink.record_name(ids[2]))  # in its place, and of somebody else as it says
    others = {sink.add_foreign(f"point {number}") for number in range(12)}
    seen = index.verify()
    assert found(seen) == {"stale": {*ids}, "foreign": others}
    assert {it.reason for it in seen.sinks[0].first[Drift.STALE]} == {Reason.DAMAGED}
    sink.foreign = [it for it in sink.foreign if it.name in others]  # as an upsert to that place does
    assert found(index.repair().left) == {"foreign": others}
    assert index.rig.in_step()
    assert len(index.rig.embedder.texts_seen) == paid


def test_stray_records_are_drift_that_no_repair_mends(index: VerifyRig, sink: SharedSink) -> None:
    foreign, stray = sink.add_foreign("theirs"), sink.copy("a copy")
    repaired = index.repair()
    assert found(repaired.found) == {"foreign": {foreign}, "stray": {stray}}
    assert (repaired.synced, repaired.exit_code) == (None, ExitCode.DRIFT)
    sink.remove(RecordId("docs/001#0"))
    repaired = index.repair()
    assert found(repaired.left) == {"foreign": {foreign}, "stray": {stray}}
    assert (repaired.synced is not None, repaired.exit_code) == (True, ExitCode.DRIFT)
    assert index.rig.in_step()


def test_a_sink_that_names_no_records_has_foreign_ones_only(rig: Rig) -> None:
    class Nameless(FlakySink):
        def scan(self, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord | ForeignRecord]:  # type: ignore[override]
            yield ForeignRecord("docs/001#0", "main")
            yield from super().scan(detail)

    rig.sinks = [Nameless()]
    rig.sync(DOCUMENTS)
    rig.sinks[0].records.pop(RecordId("docs/001#0"))
    assert found(VerifyRig(rig).verify()) == {"missing": {"docs/001#0"}, "foreign": {"docs/001#0"}}


def test_a_vector_that_was_replaced_is_altered_and_a_rounded_one_is_not(index: VerifyRig, sink: SharedSink) -> None:
    paid = len(index.rig.embedder.texts_seen)
    ids = sorted(sink.records)
    for id in ids:
        vector = sink.records[id].vector
        sink.change(id, vector=(vector / np.linalg.norm(vector)).astype(np.float16).astype(np.float32))
    assert found(index.verify(contents=True)) == {}
    turned, longer, text = ids[0], ids[1], ids[2]
    sink.change(turned, vector=np.roll(sink.records[turned].vector, 1))
    sink.change(longer, vector=sink.records[longer].vector * 3)
    sink.change(text, text="edited", vector=np.roll(sink.records[text].vector, 1))
    assert found(index.verify()) == {}
    seen = index.verify(contents=True)
    assert found(seen) == {"altered": {turned, longer, text}}
    reasons = {it.name: it.reason for it in seen.sinks[0].first[Drift.ALTERED]}
    assert reasons == {turned: Reason.VECTOR, longer: Reason.VECTOR, text: Reason.CONTENTS}
    assert index.repair(contents=True).exit_code is ExitCode.IN_STEP
    assert len(index.rig.embedder.texts_seen) == paid
    assert found(index.verify(contents=True)) == {}


def test_vectors_that_the_store_has_not_are_not_compared_and_counted(index: VerifyRig, sink: SharedSink) -> None:
    sink.change(RecordId("docs/001#0"), vector=np.roll(sink.records[RecordId("docs/001#0")].vector, 1))
    with contextlib.closing(index.rig._vectors()) as vectors:
        vectors.prune(keep="undelivered", max_bytes=None)
    seen = index.verify(contents=True)
    assert found(seen) == {}
    assert seen.sinks[0].vectors_unchecked == len(sink.records)


SAME = {
    "itself": ([3, 4], [3, 4], True),
    "its direction": ([0.6, 0.8], [3, 4], True),
    "rounded": ([3.001, 3.999], [3, 4], True),
    "turned": ([4, 3], [3, 4], False),
    "turned a little": ([3.2, 3.8], [3, 4], False),
    "turned round": ([-3, -4], [3, 4], False),
    "longer": ([6, 8], [3, 4], False),
    "nothing of something": ([0, 0], [3, 4], False),
    "something of nothing": ([3, 4], [0, 0], False),
    "nothing of nothing": ([0, 0], [0, 0], True),
    "not a number": ([float("nan"), 4], [3, 4], False),
    "of another dimension": ([3, 4, 0], [3, 4], False),
    "beyond a float's square": ([3e30, 4e30], [3e30, 4e30], True),
}


@pytest.mark.parametrize("case", SAME)
def test_which_vectors_are_the_same(case: str) -> None:
    held, sent, same = SAME[case]
    assert is_same_vector(np.array(held, dtype=np.float32), np.array(sent, dtype=np.float32)) is same


def test_a_run_that_is_under_way_is_not_compared(index: VerifyRig) -> None:
    with (
        contextlib.closing(Checkpoints.open(index.rig.folder)),
        pytest.raises(LeaseError, match="a run is under way"),
    ):
        index.verify()


def test_a_run_that_wrote_meanwhile_is_not_taken_for_drift(index: VerifyRig, sink: SharedSink) -> None:
    def sync_once() -> None:
        sink.before_scan = lambda: None
        index.rig.sync({**DOCUMENTS, "docs/001": "another text"})

    sink.before_scan = sync_once
    with pytest.raises(LeaseError, match="a run wrote to the ledger of main"):
        index.verify()
    assert found(index.verify()) == {}


def test_a_run_that_wrote_nothing_does_not_disturb(index: VerifyRig, sink: SharedSink) -> None:
    def sync_once() -> None:
        sink.before_scan = lambda: None
        index.rig.sync()

    sink.before_scan = sync_once
    assert found(index.verify()) == {}


def test_a_scan_that_broke_off_begins_anew(index: VerifyRig, sink: SharedSink) -> None:
    sink.add_foreign("theirs")
    errors = [TransientError("reset"), TransientError("busy", retry_after_seconds=7)]
    scan = sink.scan

    def breaking(detail: object = None) -> object:
        for number, record in enumerate(scan()):
            if number == 20 and errors:
                raise errors.pop()
            yield record

    sink.scan = breaking  # type: ignore[assignment,method-assign]
    verified = index.verify()
    assert found(verified) == {"foreign": {"theirs"}}
    assert index.rig.waits_seconds[0] == 7


def test_a_sink_that_cannot_be_read_is_behind_and_the_others_are_compared(rig: Rig) -> None:
    down, up = SharedSink("down"), SharedSink("up")
    rig.sinks = [down, up]
    rig.sync(DOCUMENTS)

    def refuse() -> None:
        raise SinkError("the key was revoked")

    down.before_scan = refuse
    index = VerifyRig(rig)
    verified = index.verify()
    assert verified.sinks[0].error == "the key was revoked"
    assert verified.exit_code is ExitCode.BEHIND
    up.remove(RecordId("docs/001#0"))
    assert found(index.verify(), 1) == {"missing": {"docs/001#0"}}
    repaired = index.repair()
    assert rig.in_step()
    assert repaired.exit_code is ExitCode.BEHIND


def test_one_sink_of_several_is_compared_alone(rig: Rig) -> None:
    rig.sinks = [SharedSink("one"), SharedSink("two")]
    rig.sync(DOCUMENTS)
    index = VerifyRig(rig)
    assert [it.sink for it in index.verify(sinks=["two"]).sinks] == ["two"]
    with pytest.raises(ConfigError, match='no sink "three" in the settings; there are: one, two'):
        index.verify(sinks=["three"])


def test_records_of_a_document_that_a_cut_off_run_did_not_write_are_compared(
    index: VerifyRig, sink: SharedSink
) -> None:
    title = DOCUMENTS["docs/002"].split(" ")[0]
    grown = (DOCUMENTS["docs/002"] + "\n\nmore" * 9, {"title": title})
    world = World()
    world.install(index.rig)
    world.crash_at = 7  # at the first upsert, once the ledger says that it may come
    with pytest.raises(Crash, match="upsert"):
        index.rig.sync({**DOCUMENTS, "docs/002": grown})
    assert index.verify().in_doubt
    assert found(index.verify()) == {}
    sink.remove(RecordId("docs/002#0"))
    assert found(index.verify()) == {"missing": {"docs/002#0"}}
    assert index.repair().exit_code is ExitCode.IN_STEP
    assert index.rig.in_step()


def test_a_collection_that_was_removed_is_filled_again(index: VerifyRig, sink: SharedSink) -> None:
    paid = len(index.rig.embedder.texts_seen)
    index.rig.sinks = [SharedSink()]
    verified = index.verify()
    assert verified.sinks[0].is_anew
    assert found(verified)["missing"] == sink.records.keys()
    repaired = index.repair()
    assert repaired.exit_code is ExitCode.IN_STEP
    assert index.rig.in_step()
    assert len(index.rig.embedder.texts_seen) == paid


def test_what_a_collection_made_anew_holds_already_is_put_right_too(index: VerifyRig, sink: SharedSink) -> None:
    other = SharedSink()
    other.prepare(index.rig.embedder.dimension)
    other.records = dict(sink.records)
    other.remove(RecordId("docs/001#0"))
    other.add("gone long ago", 0)
    index.rig.sinks = [other]
    assert index.verify().exit_code is ExitCode.DRIFT
    assert index.repair().exit_code is ExitCode.IN_STEP
    assert index.rig.in_step()


def test_an_extra_document_is_deleted_only_under_the_guard(index: VerifyRig, sink: SharedSink) -> None:
    extra = [sink.add(f"unheard of {number}", 0) for number in range(30)]
    guarded = index.repair(options=Options(threads=False, max_delete_fraction=0.1, min_delete_count=5))
    assert guarded.exit_code is ExitCode.SAFETY
    assert guarded.synced is not None
    assert "confirm with --confirm-deletes 30" in guarded.synced.problems[-1]
    assert set(extra) <= sink.records.keys()
    confirmed = index.repair(options=Options(threads=False, confirm_deletes=30))
    assert confirmed.exit_code is ExitCode.IN_STEP
    assert index.rig.in_step()


def test_records_of_a_rejected_document_go(index: VerifyRig, sink: SharedSink) -> None:
    index.rig.source.rejected["docs/001"] = Rejection(DocumentId("docs/001"), b"", "no title")
    index.rig.sync({**DOCUMENTS, "docs/001": "changed"}, options=index.options)
    extra = sink.add("docs/001", 1)
    assert found(index.verify()) == {"extra": {extra}}
    assert index.repair().exit_code is ExitCode.IN_STEP
    assert not any(it.document_id == "docs/001" for it in sink.records.values())


def test_what_is_left_in_doubt_by_a_source_that_broke_off_is_not_called_healed(
    index: VerifyRig, sink: SharedSink
) -> None:
    sink.remove(RecordId("docs/030#0"))
    index.rig.source.breaks_off_after = 6
    repaired = index.repair()
    assert repaired.exit_code is ExitCode.BEHIND
    assert found(repaired.left) == {}
    index.rig.source.breaks_off_after = None
    assert index.repair().exit_code is ExitCode.IN_STEP
    assert index.rig.in_step()


def test_contents_that_a_sink_does_not_give_as_sent_are_compared_by_their_marks(
    index: VerifyRig, sink: SharedSink
) -> None:
    scan = sink.scan

    def shy(detail: object = None) -> object:
        for record in scan():
            assert isinstance(record, StoredRecord)
            yield StoredRecord(record.id, record.document_id, record.index, record.digest, "text", None)

    sink.scan = shy  # type: ignore[assignment,method-assign]
    verified = index.verify(contents=True)
    assert found(verified) == {}
    assert verified.sinks[0].unchecked == len(sink.records)


# --- random damage ----------------------------------------------------------------------------------

DAMAGE = ("leave", "remove", "stale", "edit")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from([*"abcde"]), st.text("uvwxyz", min_size=1, max_size=4), max_size=5),
    st.lists(st.sampled_from(DAMAGE), min_size=20, max_size=20),
    st.sets(st.tuples(st.sampled_from([*"abcdefgh"]), st.integers(0, 6)), max_size=4),
    st.booleans(),
)
def test_random_damage_is_named_exactly_and_undone(
    texts: dict[str, str], damage: list[str], added: set[tuple[str, int]], contents: bool
) -> None:
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    try:
        sink = SharedSink()
        index = VerifyRig(Rig(folder, sinks=[sink]))
        index.rig.sync({id: passages(text) for id, text in texts.items()})
        paid = len(index.rig.embedder.texts_seen)
        wanted: dict[str, set[str]] = {}
        extra = [(id, number) for id, number in sorted(added) if f"{id}#{number}" not in sink.records and sink.records]
        for id, what in zip(sorted(sink.records), itertools.cycle(damage)):
            match what:
                case "remove":
                    sink.remove(id) if len(sink.records) > 1 else sink.change(id, digest=b"s" * 16)
                    wanted.setdefault("stale" if id in sink.records else "missing", set()).add(id)
                case "stale":
                    sink.change(id, digest=b"s" * 16)
                    wanted.setdefault("stale", set()).add(id)
                case "edit":
                    sink.change(id, text="edited")
                    if contents:
                        wanted.setdefault("altered", set()).add(id)
        for id, number in extra:
            wanted.setdefault("extra", set()).add(sink.add(id, number))
        assert found(index.verify(contents=contents)) == wanted
        repaired = index.repair(contents=contents)
        assert found(repaired.found) == wanted
        assert repaired.exit_code is ExitCode.IN_STEP
        assert found(index.verify(contents=contents)) == {}
        assert len(index.rig.embedder.texts_seen) == paid
        if contents:
            assert index.rig.in_step()
    finally:
        shutil.rmtree(folder)


# --- kills ------------------------------------------------------------------------------------------


def damaged(folder: Path) -> tuple[VerifyRig, SharedSink, World]:
    """An index of which somebody removed, altered and added some, in a world that can crash."""
    sink = SharedSink()
    index = VerifyRig(Rig(folder, sinks=[sink]))
    index.rig.sync({"x": passages("abc"), "y": passages("d"), "z": passages("ef")})
    sink.remove(RecordId("x#1"))
    sink.change(RecordId("y#0"), digest=b"s" * 16)
    sink.change(RecordId("z#1"), text="edited")
    sink.add("z", 4)
    sink.add("unheard of", 1)
    world = World()
    world.install(index.rig)
    return index, sink, world


def test_a_kill_anywhere_in_a_repair_is_put_right_by_a_sync_or_another_repair(folder: Path) -> None:
    dry, _, world = damaged(folder / "dry")
    assert dry.repair(contents=True).exit_code is ExitCode.IN_STEP
    effects = len(world.touched)
    assert {"begin", "upsert", "delete", "commit"} <= set(world.touched)
    for number, after, by_sync in itertools.product(range(1, effects + 1), (False, True), (False, True)):
        index, _, world = damaged(folder / f"{number}{after}{by_sync}")
        paid = len(index.rig.embedder.texts_seen)
        world.crash_at, world.after = number, after
        with pytest.raises(Crash):
            index.repair(contents=True)
        foreseen = found(index.verify(contents=True))
        if by_sync and not foreseen:
            assert index.rig.sync(options=index.options).exit_code is ExitCode.IN_STEP
        else:
            assert index.repair(contents=True).exit_code is ExitCode.IN_STEP
        assert found(index.verify(contents=True)) == {}
        assert index.rig.in_step(), (number, after)
        assert len(index.rig.embedder.texts_seen) == paid
        assert world.paid_though_stored == []
