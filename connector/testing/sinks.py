"""The sink contract as a pytest class, to which anyone's sink can be held.

    from connector.testing.sinks import SinkContract

    class TestMySink(SinkContract):
        @pytest.fixture
        def harness(self):
            yield MyHarness()

A rule that a sink cannot keep is waived by name and with a reason, which the run prints. It cannot be
overridden: a test redefined in a subclass is an error.
"""

from __future__ import annotations

import pytest

from connector.errors import ConfigError, RejectedError, SinkError, TransientError
from connector.model import HASH_BYTES, EmbeddedRecord
from connector.ports import Sink
from connector.testing.sink_reading import ReadingRules
from connector.testing.sink_records import (
    AWKWARD_IDS,
    DIMENSION,
    METADATA,
    RICH_METADATA,
    TOLERANCE,
    VECTORS,
    SinkHarness,
    assert_stored,
    foreign,
    ours,
    record,
    stored,
)

__all__ = [
    "AWKWARD_IDS",
    "DIMENSION",
    "METADATA",
    "RICH_METADATA",
    "TOLERANCE",
    "VECTORS",
    "SinkContract",
    "SinkHarness",
    "assert_stored",
    "call",
    "foreign",
    "ours",
    "record",
    "stored",
]


class SinkContract(ReadingRules):
    """The rules S1 to S11 of `connector.ports.Sink`, and with them all others."""

    def test_S1_what_is_written_can_be_read_back(self, harness: SinkHarness) -> None:
        records = [record(index=index) for index in range(3)]
        harness.sink.upsert(records)
        assert_stored(harness, records)

    def test_S1_rich_metadata_can_be_read_back(self, harness: SinkHarness) -> None:
        rich = record(metadata=RICH_METADATA, text="")
        harness.sink.upsert([rich])
        assert_stored(harness, [rich])
        [hit] = harness.sink.search(rich.vector, 1)
        assert (hit.text, hit.metadata) == (rich.text, rich.metadata)

    def test_S1_a_full_call_fits(self, harness: SinkHarness) -> None:
        records = [record(index=index) for index in range(harness.sink.limits.records_per_call)]
        harness.sink.upsert(records)
        assert_stored(harness, records)

    def test_S1_a_scan_gives_every_record_once(self, harness: SinkHarness) -> None:
        per_call = harness.sink.limits.records_per_call
        records = [record(index=index) for index in range(2 * per_call + 1)]
        for start in range(0, len(records), per_call):
            harness.sink.upsert(records[start : start + per_call])
        assert ours(harness.sink.scan()) == [stored(each) for each in sorted(records, key=lambda each: each.id)]

    def test_S1_a_scan_gives_the_latest_digest(self, harness: SinkHarness) -> None:
        changed = record(text="new", digest=bytes(range(HASH_BYTES)))
        harness.sink.upsert([record()])
        harness.sink.upsert([changed])
        assert list(harness.sink.scan()) == [stored(changed)]

    @pytest.mark.parametrize("asked", [0, 5])
    def test_S1_a_search_finds_the_nearest_first(self, harness: SinkHarness, asked: int) -> None:
        harness.sink.upsert([record(index=index) for index in reversed(range(len(VECTORS)))])
        hits = harness.sink.search(VECTORS[asked], 5)
        nearness = [float(VECTORS[hit.index] @ VECTORS[asked]) for hit in hits]
        assert nearness == [1, 0.5, 0.5, 0.5, 0.5]  # itself, and the four that differ in one part
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        best, found = hits[0], record(index=asked)
        assert (best.id, best.document_id, best.index) == (found.id, found.document_id, found.index)
        assert (best.text, best.metadata) == (found.text, found.metadata)

    def test_S2_an_upsert_replaces_the_whole_record(self, harness: SinkHarness) -> None:
        harness.sink.upsert([record()])
        changed = record(vector=VECTORS[-1], text="new", metadata={"only": "this"}, digest=bytes(HASH_BYTES))
        harness.sink.upsert([changed])
        assert_stored(harness, [changed])

    def test_S3_the_same_call_twice_leaves_what_once_leaves(self, harness: SinkHarness) -> None:
        records = [record(index=index) for index in range(3)]
        for _ in range(2):
            harness.sink.upsert(records)
        assert_stored(harness, records)
        for _ in range(2):
            harness.sink.delete([records[0].id])
        assert_stored(harness, records[1:])

    def test_S4_other_records_are_left_alone(self, harness: SinkHarness) -> None:
        mine, sibling, other = record("mine"), record("mine", index=1), record("other")
        harness.sink.upsert([mine, sibling, other])
        harness.sink.upsert([record("mine", text="new")])
        assert_stored(harness, [record("mine", text="new"), sibling, other])
        harness.sink.delete([mine.id])
        assert_stored(harness, [sibling, other])

    def test_S4_foreign_records_are_left_alone_and_never_found(self, harness: SinkHarness) -> None:
        mine = record()
        harness.plant_foreign(mine.vector)
        harness.sink.upsert([mine])
        assert ours(harness.sink.scan()) == [stored(mine)]
        assert [hit.id for hit in harness.sink.search(mine.vector, 5)] == [mine.id]
        harness.sink.delete([mine.id])
        harness.reopen().prepare(DIMENSION)
        assert harness.foreign_is_intact()

    @pytest.mark.parametrize("position", [0, 1, 2])
    def test_S5_an_unacceptable_record_is_rejected(self, harness: SinkHarness, position: int) -> None:
        good, bad = [record(index=index) for index in range(2)], harness.unacceptable()
        with pytest.raises(RejectedError) as caught:
            harness.sink.upsert([*good[:position], bad, *good[position:]])
        assert str(caught.value)
        harness.sink.upsert(good)
        assert_stored(harness, good)

    def test_S6_what_is_deleted_is_gone(self, harness: SinkHarness) -> None:
        records = [record(index=index) for index in range(harness.sink.limits.records_per_call)]
        harness.sink.upsert(records)
        harness.sink.delete([each.id for each in records])
        assert_stored(harness, [])
        assert list(harness.sink.scan()) == []
        assert harness.sink.search(VECTORS[0], 5) == []

    def test_S6_a_deletion_outlives_the_sink(self, harness: SinkHarness) -> None:
        kept, gone = record(index=0), record(index=1)
        harness.sink.upsert([kept, gone])
        harness.sink.delete([gone.id])
        harness.reopen().prepare(DIMENSION)
        assert_stored(harness, [kept])

    def test_S6_deleting_what_is_not_there_is_no_error(self, harness: SinkHarness) -> None:
        harness.sink.upsert([record(index=0), record(index=1)])
        harness.sink.delete([record(index=1).id, record("never").id])
        assert_stored(harness, [record()])

    @pytest.mark.parametrize("operation", ["upsert", "delete"])
    def test_S7_a_passing_failure_is_transient(self, harness: SinkHarness, operation: str) -> None:
        harness.sink.upsert([record(), record("other")])
        harness.fail_next_call(passing=True, retry_after_seconds=7)
        with pytest.raises(TransientError) as caught:
            call(harness.sink, operation, record(text="new"))
        assert caught.value.retry_after_seconds == 7
        call(harness.sink, operation, record(text="new"))  # and the same call then works
        assert_stored(harness, [record(text="new")] * (operation == "upsert") + [record("other")])

    @pytest.mark.parametrize("operation", ["upsert", "delete"])
    def test_S7_a_lasting_failure_is_a_sink_error(self, harness: SinkHarness, operation: str) -> None:
        harness.sink.upsert([record(), record("other")])
        harness.fail_next_call(passing=False)
        with pytest.raises(SinkError) as caught:
            call(harness.sink, operation, record(text="new"))
        assert str(caught.value)
        call(harness.sink, operation, record(text="new"))  # as the next run does, once the operator has acted
        assert_stored(harness, [record(text="new")] * (operation == "upsert") + [record("other")])

    def test_S8_check_refuses_a_collection_of_another_dimension(self, harness: SinkHarness) -> None:
        harness.sink.check(DIMENSION)
        sink = harness.reopen()
        sink.check(DIMENSION)
        with pytest.raises(ConfigError) as caught:
            sink.check(DIMENSION + 1)
        assert str(DIMENSION) in str(caught.value)
        assert str(DIMENSION + 1) in str(caught.value)

    def test_S8_check_writes_nothing(self, harness: SinkHarness) -> None:
        harness.sink.upsert([record()])
        harness.reopen().check(DIMENSION)
        assert_stored(harness, [record()])
        harness.remove()
        harness.reopen().check(DIMENSION)
        assert not harness.exists()

    def test_S9_an_empty_call_does_nothing(self, harness: SinkHarness) -> None:
        harness.sink.upsert([])
        harness.sink.delete([])
        assert_stored(harness, [])
        harness.sink.upsert([record()])
        harness.sink.upsert([])
        harness.sink.delete([])
        assert_stored(harness, [record()])

    def test_S10_ids_are_kept_apart(self, harness: SinkHarness) -> None:
        records = [record(document) for document in AWKWARD_IDS]
        for each in records:
            harness.sink.upsert([each])
        assert_stored(harness, records)
        assert ours(harness.sink.scan()) == [stored(each) for each in sorted(records, key=lambda each: each.id)]
        harness.sink.delete([records[0].id])
        assert_stored(harness, records[1:])

    def test_S11_the_incarnation_lasts_as_long_as_the_collection(self, harness: SinkHarness) -> None:
        first = harness.sink.prepare(DIMENSION)
        assert first
        harness.sink.upsert([record()])
        assert harness.sink.prepare(DIMENSION) == first
        assert harness.reopen().prepare(DIMENSION) == first
        assert_stored(harness, [record()])

    def test_S11_a_collection_made_anew_has_another_incarnation(self, harness: SinkHarness) -> None:
        first = harness.sink.prepare(DIMENSION)
        harness.sink.upsert([record()])
        harness.remove()
        assert harness.reopen().prepare(DIMENSION) != first
        assert harness.exists()
        assert_stored(harness, [])


def call(sink: Sink, operation: str, record: EmbeddedRecord) -> None:
    """Upsert one record, or delete it."""
    if operation == "upsert":
        sink.upsert([record])
    else:
        sink.delete([record.id])
