"""What the sink kit asks about reading: what fits, what a scan tells, how many there are, and what a search finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pytest
from msgspec.structs import replace

from connector.errors import RejectedError, SinkError
from connector.filters import AnyOf, Between, Condition, Equals, matches
from connector.model import FITS, HASH_BYTES, Detail, Draft, EmbeddedRecord, Metadata, StoredRecord
from connector.ports import NamingSink
from connector.testing.contract import Contract
from connector.testing.sink_records import (
    AWKWARD_IDS,
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

DOCUMENTS: Final[Sequence[tuple[str, str, Metadata]]] = (
    ("plain", "a text", METADATA),
    ("empty", "", {}),
    *((f"rich {name}", "a text", {name: value}) for name, value in RICH_METADATA.items()),
    ("a list of numbers", "", {"pages": [1, 2]}),
    ("a mixed list", "", {"mixed": ["a", 1, None]}),
    ("an integer of 64 bits", "", {"big": 2**64 - 1}),
    ("a larger integer", "", {"big": 2**64}),
    ("not a number", "", {"score": float("nan")}),
    ("no name", "", {"": 1}),
    ("the text's name", "", {"text": "mine"}),
    ("a mark's name", "", {"_vs_source": "mine"}),
    ("an operator's name", "", {"$eq": 1}),
    ("half a character", "", {"emoji": "\ud83d"}),
    ("half a character in the text", "\ud83d", {}),
    ("half a character in the id \ud83d", "", {}),
    ("long metadata", "", {"abstract": "x" * 50_000}),
    ("a long text", "x" * 100_000, {}),
    ("many fields", "", {f"field {number}": number for number in range(2000)}),
    ("much nested", "", {"deep": [[[[[[[[[["x"]]]]]]]]]]}),
)
"""Documents by id, some of which no sink should be able to keep as they are."""

FILTERED: Final[Sequence[Metadata]] = (
    {},
    {"lang": "en"},
    {"lang": "EN"},
    {"lang": ["de", "en"]},
    {"lang": []},
    {"lang": None},
    {"lang": [None, "fr"]},
    {"lang": "2"},
    {"lang": ""},
    {"lang": "en,de"},
    {"year": 2},
    {"year": 2.5},
    {"year": 1},
    {"year": 0},
    {"year": -3},
    {"year": True},
    {"year": False},
    {"year": "2"},
    {"year": [1, 3]},
    {"year": [True]},
    {"year": [[2]]},
    {"year": {"lang": "en"}},
    {"year": 2**53},
    {"year": 2**53 + 1},
    {"year": 1e300},
    {"lang": "en", "year": 2},
    {"lang": "de", "year": 2},
    {"lang": "en", "year": 7},
    {"a.b": "x"},
    {"a": {"b": "x"}},
    {"a[0]": "x"},
    {"a": ["x"]},
    {"with space": "x"},
    {'"quoted"': "x"},
    {"back\\slash": "x"},
    {"it's": "x"},
    {"größe": "x"},
    {"🚢\n": "x"},
)
"""Metadata to search among; a sink is asked about those that it can keep as they are."""

_NAMES: Final = dict.fromkeys(name for metadata in FILTERED for name in metadata if name not in {"lang", "year"})
CONDITIONS: Final[Sequence[Sequence[Condition]]] = (
    (),
    *([Equals("lang", value)] for value in ("en", "EN", "2", 2, "", "en,de", True)),
    *([Equals("year", value)] for value in (2, 2.0, 2.5, 1, 1.0, 0, -0.0, True, False, "2", 2**53, 2**53 + 1, 1e300)),
    *([Equals(name, "x")] for name in (*_NAMES, "a.b.c", "nowhere", "text")),
    [AnyOf("lang", ())],
    [AnyOf("lang", ("en", "fr"))],
    [AnyOf("lang", ("en", 2, True))],
    [AnyOf("year", (2, 2.5, "2"))],
    [AnyOf("year", (True, 0))],
    [Between("year")],
    [Between("lang")],
    [Between("year", at_least=2)],
    [Between("year", above=2)],
    [Between("year", at_most=2)],
    [Between("year", below=2)],
    [Between("year", at_least=1, below=2.5)],
    [Between("year", above=1, at_most=2.5)],
    [Between("year", above=1, below=2)],
    [Between("year", at_least=2, at_most=1)],
    [Between("year", above=2.0**53)],
    [Between("year", at_least=2.0**53, at_most=2.0**53)],
    [Between("year", below=-1e300)],
    [Equals("lang", "en"), Equals("lang", "de")],
    [Equals("lang", "en"), Between("year", at_least=2)],
    [AnyOf("lang", ("en", "de")), Equals("year", 2)],
    [Equals("lang", "en"), Equals("nowhere", "x")],
)
"""What is asked; `filters.matches` says what is right."""


class ReadingRules(Contract):
    """The rules S12 to S15 of `connector.ports.Sink`."""

    @pytest.fixture
    def harness(self) -> SinkHarness:
        raise NotImplementedError("give the contract a harness: see SinkHarness")

    def test_S12_what_is_plain_fits(self, harness: SinkHarness) -> None:
        plain = record()
        assert harness.sink.fit(Draft(plain.document_id, ("one", "two", ""), plain.metadata)) == FITS

    def test_S12_fit_says_beforehand_what_upsert_does(self, harness: SinkHarness) -> None:
        documents = [
            record(document, text=text, metadata=metadata, digest=bytes(HASH_BYTES))
            for document, text, metadata in DOCUMENTS
        ]
        assert_fits_as_it_says(harness, documents)

    def test_S12_fit_refuses_what_is_unacceptable_whatever_its_vector(self, harness: SinkHarness) -> None:
        assert_fits_as_it_says(harness, [replace(harness.unacceptable(), vector=VECTORS[0])])

    def test_S12_fit_looks_at_every_text(self, harness: SinkHarness) -> None:
        bad = harness.unacceptable()
        alone = harness.sink.fit(Draft(bad.document_id, (bad.text,), bad.metadata))
        together = harness.sink.fit(Draft(bad.document_id, ("fine", bad.text, "fine"), bad.metadata))
        assert (together.refusal is None) == (alone.refusal is None)

    def test_S12_fit_asks_no_service(self, harness: SinkHarness) -> None:
        harness.fail_next_call(passing=False)
        plain = record()
        assert harness.sink.fit(Draft(plain.document_id, (plain.text,), plain.metadata)) == FITS
        with pytest.raises(SinkError):
            harness.sink.upsert([plain])

    @pytest.mark.parametrize("detail", list(Detail))
    def test_S13_a_scan_tells_as_much_as_is_asked_for(self, harness: SinkHarness, detail: Detail) -> None:
        records = [record(index=index) for index in range(3)]
        harness.sink.upsert(records)
        found = ours(harness.sink.scan(detail))
        assert [replace(each, text=None, metadata=None, vector=None) for each in found] == [
            stored(each) for each in records
        ]
        for told, each in zip(found, records, strict=True):
            assert_told(told, each, detail)

    @pytest.mark.parametrize("detail", list(Detail))
    def test_S13_a_scan_gives_each_foreign_record_as_foreign(self, harness: SinkHarness, detail: Detail) -> None:
        mine = record()
        harness.plant_foreign(mine.vector)
        harness.sink.upsert([mine])
        scanned = list(harness.sink.scan(detail))
        assert [each.id for each in ours(scanned)] == [mine.id]
        assert len(foreign(scanned)) == 1
        assert all(each.name for each in foreign(scanned))

    @pytest.mark.parametrize("detail", list(Detail))
    def test_S13_a_damaged_record_ends_no_scan_and_no_search(self, harness: SinkHarness, detail: Detail) -> None:
        whole, damaged = record("whole"), record("damaged")
        harness.sink.upsert([whole, damaged])
        harness.damage(damaged.id)
        scanned = list(harness.sink.scan(detail))
        assert len(scanned) == 2
        marks = [(each.id, each.digest) for each in ours(scanned)]
        assert (whole.id, whole.digest) in marks
        assert (damaged.id, damaged.digest) not in marks
        assert whole.id in [hit.id for hit in harness.sink.search(whole.vector, 2)]
        harness.sink.upsert([damaged])
        assert_stored(harness, [whole, damaged])

    def test_S13_where_there_is_no_collection_there_is_nothing_to_read(self, harness: SinkHarness) -> None:
        harness.sink.upsert([record()])
        harness.remove()
        sink = harness.reopen()
        assert list(sink.scan()) == []
        assert not harness.exists()

    def test_S14_records_are_counted(self, harness: SinkHarness) -> None:
        assert harness.sink.count() == 0
        harness.sink.upsert([record(index=index) for index in range(3)])
        assert harness.sink.count() == 3
        harness.sink.upsert([record(index=index, text="new") for index in range(4)])
        assert harness.sink.count() == 4
        harness.sink.delete([record(index=0).id, record("never").id])
        assert harness.sink.count() == 3

    def test_S14_foreign_records_are_not_counted(self, harness: SinkHarness) -> None:
        harness.plant_foreign(VECTORS[0])
        assert harness.sink.count() == 0
        harness.sink.upsert([record()])
        assert harness.sink.count() == 1

    def test_S15_a_search_finds_only_and_all_that_matches(self, harness: SinkHarness) -> None:
        records = keep_filtered(harness)
        for where in CONDITIONS:
            hits = harness.sink.search(VECTORS[0], len(records), where)
            wanted = sorted(each.id for each in records if matches(each.metadata, where))
            assert sorted(hit.id for hit in hits) == wanted, where

    @pytest.mark.parametrize("where", [[Equals("lang", "en")], [Between("year", at_least=2)]])
    def test_S15_the_limit_counts_what_matches(self, harness: SinkHarness, where: Sequence[Condition]) -> None:
        near, far = VECTORS[0], VECTORS[-1]
        others = [record("other", index, vector=near, metadata={"lang": "de", "year": 1}) for index in range(40)]
        wanted = [record("wanted", index, vector=far, metadata={"lang": "en", "year": 2}) for index in range(3)]
        upsert_all(harness, [*others, *wanted])
        hits = harness.sink.search(near, 2, where)
        assert [hit.document_id for hit in hits] == ["wanted", "wanted"]
        assert [hit.metadata for hit in hits] == [wanted[0].metadata] * 2

    def test_S16_a_damaged_record_is_named_as_a_scan_names_it(self, harness: SinkHarness) -> None:
        sink = naming(harness)
        damaged = [record("damaged", index=index) for index in range(3)]
        sink.upsert([record("whole"), *damaged])
        for each in damaged:
            harness.damage(each.id)
        told = foreign(sink.scan())  # or with another digest, and then it is named already
        assert {each.name for each in told} <= {sink.record_name(each.id) for each in damaged}
        assert {each.owner for each in told} <= {sink.owner}

    def test_S16_no_two_records_share_a_name(self, harness: SinkHarness) -> None:
        sink = naming(harness)
        names = [sink.record_name(record(document, index).id) for document in AWKWARD_IDS for index in range(2)]
        assert None not in names
        assert len(set(names)) == len(names)
        assert names[0] == sink.record_name(record(AWKWARD_IDS[0]).id)

    def test_S16_what_is_foreign_bears_no_mark_and_no_name_of_ours(self, harness: SinkHarness) -> None:
        sink, mine = naming(harness), record()
        harness.plant_foreign(mine.vector)
        [told] = foreign(sink.scan())
        assert told.owner != sink.owner
        assert told.name != sink.record_name(mine.id)


def naming(harness: SinkHarness) -> NamingSink:
    """Give the sink if it names records, as not all do."""
    if not isinstance(harness.sink, NamingSink):
        pytest.skip("it does not say how its database names a record, so it is no NamingSink")
    return harness.sink


def assert_fits_as_it_says(harness: SinkHarness, records: Sequence[EmbeddedRecord]) -> None:
    """Assert that each document is refused, altered or kept as it is, as `fit` says of it."""
    fits = {each.id: harness.sink.fit(Draft(each.document_id, (each.text,), each.metadata)) for each in records}
    rejected = {each.id for each in records if is_rejected(harness, each)}
    assert {id for id, fit in fits.items() if fit.refusal is not None} == rejected
    for fit in fits.values():
        assert fit.refusal is None or (fit.refusal and "\n" not in fit.refusal)
    kept = harness.stored()
    for each in records:
        if each.id not in rejected:
            as_it_is = (kept[each.id].text, kept[each.id].metadata) == (each.text, each.metadata)
            assert as_it_is == (not fits[each.id].alterations), f"{each.id!r}: {fits[each.id]}"


def is_rejected(harness: SinkHarness, each: EmbeddedRecord) -> bool:
    """Upsert a record, and tell whether it was rejected."""
    try:
        harness.sink.upsert([each])
    except RejectedError:
        return True
    return False


def assert_told(told: StoredRecord, sent: EmbeddedRecord, detail: Detail) -> None:
    """Assert that a scan told of a record what its level includes, and no more."""
    contents = (sent.text, sent.metadata) if detail >= Detail.CONTENTS else (None, None)
    assert (told.text, told.metadata) == contents
    if detail < Detail.VECTORS:
        assert told.vector is None
    else:
        assert told.vector is not None
        assert told.vector.dtype == np.float32
        np.testing.assert_allclose(told.vector, sent.vector, atol=TOLERANCE)


def keep_filtered(harness: SinkHarness) -> list[EmbeddedRecord]:
    """Upsert those of the records to search among that the sink keeps as they are."""
    records = [record(f"doc {number}", metadata=metadata) for number, metadata in enumerate(FILTERED)]
    fitting = [
        each for each in records if harness.sink.fit(Draft(each.document_id, (each.text,), each.metadata)) == FITS
    ]
    upsert_all(harness, fitting)
    return fitting


def upsert_all(harness: SinkHarness, records: Sequence[EmbeddedRecord]) -> None:
    """Upsert in calls as large as the sink takes them."""
    per_call = harness.sink.limits.records_per_call
    for start in range(0, len(records), per_call):
        harness.sink.upsert(records[start : start + per_call])
