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

import itertools
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

from connector.errors import ConfigError, RejectedError, SinkError, TransientError
from connector.model import HASH_BYTES, DocumentId, EmbeddedRecord, Metadata, RecordId, StoredRecord, record_id
from connector.ports import Sink
from connector.testing.contract import Contract

if TYPE_CHECKING:
    from connector.model import Vectors

DIMENSION = 4

# Unit vectors whose parts float32 holds exactly: sinks that normalise, and sinks that keep four bytes a
# part, still give back what they were given.
VECTORS: tuple[Vectors, ...] = tuple(
    np.array(parts, dtype=np.float32) for parts in itertools.product((0.5, -0.5), repeat=DIMENSION)
)
TOLERANCE = 1e-6

METADATA: Metadata = {"title": "Größe & “quotes”", "page": 7, "score": 0.1, "draft": False, "tags": ["a", "b"]}
RICH_METADATA: Metadata = {
    "nothing": None,
    "empty": "",
    "an empty list": [],
    "nested": {"deeper": [{"a.b": 1}, None, [1.5, -0.0]]},
    "2^53 + 1": 2**53 + 1,
    "most negative": -(2**63),
    "tiny": 5e-324,
    "a.dotted[0]name": "kept",
    "astral": "🚢\N{NULL}\u2028",
}
AWKWARD_IDS = (
    "a",
    "A",
    "a#0",
    "a/b",
    "a b",
    "a\n",
    "\u00e4",
    "a\u0308",
    "日本語",
    "0",
    "00",
    "null",
    "'; DROP",
    "%2F",
    "x" * 200,
    "x" * 199 + "y",
    "x" * 2000,
    "https://example.com/p?q=1&r=#frag",
    "C:\\docs\\a.txt",
    "00000000-0000-0000-0000-000000000000",
)


class SinkHarness(Protocol):
    """What the contract needs, besides the sink, of whoever wrote it."""

    @property
    def sink(self) -> Sink:
        """The current sink; at first one that is prepared for DIMENSION, on an empty collection."""
        ...

    def stored(self) -> Mapping[RecordId, EmbeddedRecord]:
        """Read all of the connector's records back, not through the sink, once writes have settled."""
        ...

    def exists(self) -> bool:
        """Tell whether there is a collection, not through the sink."""
        ...

    def reopen(self) -> Sink:
        """Close the sink, and build another from the same settings, as the next run does. It is not prepared."""
        ...

    def remove(self) -> None:
        """Close the sink, and remove the collection behind its back."""
        ...

    def unacceptable(self) -> EmbeddedRecord:
        """Give a well-formed record that this sink can never accept."""
        ...

    def fail_next_call(self, *, passing: bool, retry_after_seconds: float | None = None) -> None:
        """Let the service fail the sink's next call: for now, naming a wait, or for good."""
        ...

    def plant_foreign(self, vector: Vectors) -> None:
        """Put a record into the collection that is not the connector's."""
        ...

    def foreign_is_intact(self) -> bool:
        """Tell whether the planted record is as it was."""
        ...


class SinkContract(Contract):
    """The rules S1 to S11 of `connector.ports.Sink`."""

    @pytest.fixture
    def harness(self) -> SinkHarness:
        raise NotImplementedError("give the contract a harness: see SinkHarness")

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
        assert by_id(harness.sink.scan()) == [stored(each) for each in sorted(records, key=lambda each: each.id)]

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
        assert list(harness.sink.scan()) == [stored(mine)]
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
        assert by_id(harness.sink.scan()) == [stored(each) for each in sorted(records, key=lambda each: each.id)]
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


def record(
    document: str = "doc",
    index: int = 0,
    *,
    vector: Vectors | None = None,
    text: str | None = None,
    metadata: Metadata = METADATA,
    digest: bytes | None = None,
) -> EmbeddedRecord:
    """Make a record that every sink accepts; what is not said follows from `document` and `index`."""
    id = record_id(DocumentId(document), index)
    return EmbeddedRecord(
        id=id,
        document_id=DocumentId(document),
        index=index,
        vector=VECTORS[index % len(VECTORS)] if vector is None else vector,
        text=f"passage {index} of {document[:50]}" if text is None else text,
        metadata=metadata,
        digest=blake2b(id.encode(), digest_size=HASH_BYTES).digest() if digest is None else digest,
    )


def stored(record: EmbeddedRecord) -> StoredRecord:
    """Say what a scan is to tell of a record."""
    return StoredRecord(record.id, record.document_id, record.index, record.digest)


def by_id(records: Iterable[StoredRecord]) -> list[StoredRecord]:
    """Sort what a scan gave, which may come in any order."""
    return sorted(records, key=lambda each: each.id)


def call(sink: Sink, operation: str, record: EmbeddedRecord) -> None:
    """Upsert one record, or delete it."""
    if operation == "upsert":
        sink.upsert([record])
    else:
        sink.delete([record.id])


def assert_stored(harness: SinkHarness, records: Sequence[EmbeddedRecord]) -> None:
    """Assert that the collection holds these records of ours, whole, and no others."""
    found = harness.stored()
    assert found == {each.id: each for each in records}
    for each in records:  # vectors do not take part in the comparison of records
        np.testing.assert_allclose(found[each.id].vector, each.vector, atol=TOLERANCE)
