"""How records become Pinecone's: ids that are never shared, values that it has no type for, and what is too large."""

from __future__ import annotations

import json
import string

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.errors import RejectedError
from connector.filters import AnyOf, Between, Equals
from connector.model import Detail, DocumentId, ForeignRecord, Metadata, StoredRecord, record_id
from connector.testing.sinks import METADATA, RICH_METADATA, VECTORS, record
from sinks.pinecone_filters import matching
from sinks.pinecone_metadata import (
    METADATA_BYTES,
    Policies,
    Stored,
    alteration_lines,
    encoded_bytes,
    fitted,
    read_metadata,
    translate,
)
from sinks.pinecone_reading import ADDRESS_BYTES, IDS_PER_PAGE, addressable
from sinks.pinecone_records import ID_CHARACTERS, RecordFormat, checked_vectors, decimals, written

DOCUMENT = DocumentId("guide.md")
DEFAULT = RecordFormat.of("default")


# --- ids --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "owner,document,index,id",
    [
        ("default", "docs/guide.md", 7, "docs/guide.md#00007"),
        ("wiki", "docs/guide.md", 7, "wiki!docs/guide.md#00007"),
        ("default", "a#b c", 0, "a%23b%20c#00000"),
        ("default", "wiki!a", 123456, "wiki%21a#123456"),
        ("the wiki", "größe", 1, "the%20wiki!gr%C3%B6%C3%9Fe#00001"),
    ],
)
def test_an_id_says_what_it_is_of(owner: str, document: str, index: int, id: str) -> None:
    assert RecordFormat.of(owner).vector_id(record_id(DocumentId(document), index)) == id


def test_an_id_that_would_be_too_long_is_a_hash_of_its_document() -> None:
    for owner in ("default", "w" * 60, "ö" * 500):
        format = RecordFormat.of(owner)
        long, longer = (format.vector_id(record_id(DocumentId(text), 10**17)) for text in ("x" * 600, "x" * 601))
        assert long is not None
        assert longer is not None
        assert long != longer
        assert max(map(len, (long, longer, format.marker_id, format.pointer_id))) <= ID_CHARACTERS
        assert "*" in long


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["default", "a", "a!", "*a", "_vs", "", "w" * 200]),
            st.text(alphabet="a!*#:%/_vs0\u00e9" + string.digits, max_size=6)
            | st.sampled_from(["y" * 600, "y" * 601, "*" + "0" * 64]),
            st.integers(0, 10**6),
        ),
        unique=True,
        min_size=2,
        max_size=30,
    )
)
def test_no_two_records_share_an_id(records: list[tuple[str, str, int]]) -> None:
    ids = [RecordFormat.of(owner).vector_id(record_id(DocumentId(name), index)) for owner, name, index in records]
    owners = {owner for owner, _, _ in records}
    notes = [id for owner in owners for id in (RecordFormat.of(owner).marker_id, RecordFormat.of(owner).pointer_id)]
    every = [*ids, *notes]
    assert len(set(every)) == len(every)
    for id in every:
        assert id is not None
        assert id.isascii()
        assert id.isprintable()
        assert 1 <= len(id) <= ID_CHARACTERS


@pytest.mark.parametrize("id", ["guide.md", "guide.md#", "guide.md#01", "guide.md#-1", "guide.md#x", "a#٣", "\ud83d#0"])
def test_what_no_record_of_ours_is_called_has_no_id(id: str) -> None:
    assert DEFAULT.vector_id(id) is None  # type: ignore[arg-type]  # that is what is wrong with it


def test_a_record_has_one_name_however_it_is_asked_for() -> None:
    for owner, document, index in (("default", "guide.md", 0), ("ö!", "größe #1", 123_456), ("w" * 60, "x" * 600, 7)):
        format, one = RecordFormat.of(owner), record(document, index)
        assert format.vector_id_of(one) == format.vector_id(one.id)


@pytest.mark.parametrize("index", [-1, 10**18])
def test_a_record_in_no_place_of_a_document_is_rejected(index: int) -> None:
    with pytest.raises(RejectedError, match="has no place among the records of a document"):
        DEFAULT.vector_id_of(record("guide.md", index))


# --- marks ------------------------------------------------------------------------------------------------


def stored_of(metadata: Metadata = METADATA, policies: Policies | None = None) -> Stored:
    chosen = policies or Policies()
    one = record("guide.md", metadata=metadata)
    marks = DEFAULT.marks(one.document_id, one.index, one.digest)
    stored, _ = fitted(DOCUMENT, translate(DOCUMENT, metadata, chosen), marks, one.text, chosen)
    return stored


def as_the_service_gives_it(stored: Stored) -> dict[str, object]:
    """Numbers are doubles."""
    return {
        name: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in msgspec.json.decode(msgspec.json.encode(stored)).items()
    }


@pytest.mark.parametrize("metadata", [METADATA, RICH_METADATA, {}, {"": 1, "$eq": 2, "whole": 7.0, "minus": -0.0}])
def test_what_is_written_reads_back(metadata: Metadata) -> None:
    one = record("guide.md", metadata=metadata)
    given = as_the_service_gives_it(stored_of(metadata))
    found = DEFAULT.read("guide.md#00000", given, [0.5, 0.5], Detail.VECTORS)
    assert isinstance(found, StoredRecord)
    assert (found.id, found.digest, found.text, found.metadata) == (one.id, one.digest, one.text, one.metadata)
    assert repr(found.metadata.get("minus", -0.0)) == "-0.0"  # type: ignore[union-attr]  # it was asked for
    assert found.vector is not None
    assert found.vector.tolist() == [0.5, 0.5]


def test_whole_numbers_come_back_as_integers() -> None:
    assert repr(read_metadata({"year": 2019.0, "price": 1.5, "huge": 1e300})) == (
        "{'year': 2019, 'price': 1.5, 'huge': 1e+300}"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"_vs_document": "other.md"},
        {"_vs_document": 7.0},
        {"_vs_index": 1.0},
        {"_vs_index": 0.5},
        {"_vs_index": True},
        {"_vs_digest": "no"},
        {"_vs_digest": "00"},
        {"_vs_digest": None},
        {"text": None},
        {"_vs_json": "{"},
        {"_vs_json": "[]"},
        {"_vs_json": 3.0},
    ],
)
def test_a_record_whose_marks_are_damaged_is_foreign_and_bears_our_mark(change: dict[str, object]) -> None:
    found = DEFAULT.read("guide.md#00000", {**stored_of(RICH_METADATA), **change}, [], Detail.CONTENTS)
    assert found == ForeignRecord("guide.md#00000", "default")


def test_a_record_of_ours_in_another_place_is_foreign() -> None:
    assert DEFAULT.read("guide.md#00001", stored_of(), [], Detail.MARKS) == ForeignRecord("guide.md#00001", "default")


def test_what_others_write_is_foreign_and_bears_their_mark() -> None:
    wiki = RecordFormat.of("wiki")
    assert wiki.read("guide.md#00000", stored_of(), [], Detail.MARKS) == ForeignRecord("guide.md#00000", "default")
    assert wiki.read("a", {}, [], Detail.MARKS) == ForeignRecord("a", None)
    assert wiki.read("a", {"_vs_source": 7.0}, [], Detail.MARKS) == ForeignRecord("a", None)
    assert wiki.read(DEFAULT.marker_id, {"_vs_marker": "default"}, [], Detail.MARKS).owner == "default"  # type: ignore[union-attr]


# --- what Pinecone has no type for -----------------------------------------------------------------------

UNSUPPORTED: Metadata = {
    "nothing": None,
    "empty": [],
    "object": {"a": 1},
    "numbers": [1, 2],
    "mixed": ["a", 1],
    "large": 2**53 + 1,
    "$price": 3,
}


def test_what_pinecone_has_no_type_for_is_kept_as_json_and_can_still_be_asked_for() -> None:
    stored = stored_of({"lang": "en", **UNSUPPORTED})
    assert json.loads(str(stored["_vs_json"])) == UNSUPPORTED
    assert stored["_vs_json_fields"] == ["numbers", "mixed", "large", "$price"]
    assert stored["lang"] == "en"
    assert not [name for name in UNSUPPORTED if name in stored]


def test_what_pinecone_has_is_kept_under_its_own_name_and_not_twice() -> None:
    metadata: Metadata = {"a": "", "b": True, "c": 2**53, "d": -(2**53), "e": 1e300, "f": ["x"], "g.h[0]": "x", "": 1}
    stored = stored_of(metadata)
    assert {name: stored[name] for name in metadata} == metadata
    assert "_vs_json" not in stored


def test_each_value_that_is_dropped_is_told() -> None:
    policies = Policies(unsupported="drop")
    translation = translate(DOCUMENT, {"lang": "en", **UNSUPPORTED}, policies)
    assert translation.stored == {"lang": "en", "_vs_dropped": True}
    lines = list(alteration_lines(translation, {}, passages=1))
    assert len(lines) == len(UNSUPPORTED)
    for name, line in zip(UNSUPPORTED, lines, strict=True):
        assert line == f'the metadata field "{name}" is left out: Pinecone cannot hold it (unsupported = "drop")'


@pytest.mark.parametrize(
    "name,said",
    [
        ("nothing", "is null"),
        ("empty", "is an empty list"),
        ("object", "is an object"),
        ("numbers", "is a list that is not all text"),
        ("large", "is 9007199254740993, an integer beyond 2^53"),
        ("$price", 'has a name that begins with "$"'),
    ],
)
def test_a_value_that_may_not_be_kept_as_json_rejects_the_document(name: str, said: str) -> None:
    with pytest.raises(RejectedError) as caught:
        translate(DOCUMENT, {name: UNSUPPORTED[name]}, Policies(unsupported="fail"))
    expected = (
        f'document "guide.md": the metadata field "{name}" {said}, which Pinecone cannot hold (unsupported = "fail")'
    )
    assert str(caught.value) == expected


@pytest.mark.parametrize("unsupported", ["json", "drop", "fail"])
@pytest.mark.parametrize(
    "metadata,said",
    [
        ({"a": float("inf")}, "holds inf"),
        ({"a": [float("nan")]}, "holds nan"),
        ({"a": 2**64}, "more than 64 bits"),
        ({"a": {"b": b""}}, "holds a bytes"),
        ({"a": "\ud83d"}, "not valid Unicode"),
        ({"a\ud83d": 1}, "not valid Unicode"),
        ({"text": 1}, "reserved"),
        ({"_vs_json": 1}, "reserved"),
        ({7: 1}, "name that is not text"),
        ({"a": {7: 1}}, "name that is not text"),
    ],
)
def test_what_json_cannot_hold_is_always_rejected(metadata: Metadata, said: str, unsupported: str) -> None:
    with pytest.raises(RejectedError, match=said):
        translate(DOCUMENT, metadata, Policies(unsupported=unsupported))  # type: ignore[arg-type]  # a parameter


def test_metadata_may_nest_64_levels_and_no_more() -> None:
    deep: Metadata = {"a": []}
    for _ in range(63):
        deep = {"a": [deep["a"]]}
    assert read_metadata(translate(DOCUMENT, deep, Policies()).stored) == deep
    with pytest.raises(RejectedError, match="nested deeper than 64 levels"):
        translate(DOCUMENT, {"a": [deep["a"]]}, Policies())


# --- what is too large -----------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", [{}, {"title": "x"}, {"page": 3, "n": None}])
@pytest.mark.parametrize("character", ["x", "ö", "🚢", "\n", '"', "\x00"])
def test_a_record_may_be_as_large_as_the_limit_and_not_larger(metadata: Metadata, character: str) -> None:
    marks = DEFAULT.marks(DOCUMENT, 0, bytes(16))
    translation = translate(DOCUMENT, metadata, Policies())
    one = encoded_bytes(character) - 2
    room = METADATA_BYTES - encoded_bytes({**translation.stored, "text": "", **marks})
    largest = character * (room // one) + "x" * (room % one)
    stored, altered = fitted(DOCUMENT, translation, marks, largest, Policies())
    assert encoded_bytes(stored) == METADATA_BYTES
    assert altered is None
    with pytest.raises(RejectedError, match="is more than the 40,960 that Pinecone takes"):
        fitted(DOCUMENT, translation, marks, f"{largest}x", Policies())


@pytest.mark.parametrize("text", ["x" * 100_000, "ö" * 50_000, "🚢" * 20_000, 'x"\n' * 40_000])
def test_a_text_is_cut_at_a_characters_end_as_late_as_possible(text: str) -> None:
    policies = Policies(oversized="truncate")
    marks = DEFAULT.marks(DOCUMENT, 0, bytes(16))
    translation = translate(DOCUMENT, {"title": "whole"}, policies)
    stored, altered = fitted(DOCUMENT, translation, marks, text, policies)
    assert text.startswith(str(stored["text"]))
    assert METADATA_BYTES - 8 < encoded_bytes(stored) <= METADATA_BYTES
    assert stored["title"] == "whole"
    assert altered is not None
    [line] = alteration_lines(translation, {3: altered}, passages=5)
    assert line.startswith('the field "text" of passage 3 is cut to ')
    assert '(oversized = "truncate"); its vector is of the whole text' in line


def test_metadata_that_leaves_no_room_for_a_text_is_rejected_also_where_texts_are_cut() -> None:
    policies = Policies(oversized="truncate")
    with pytest.raises(RejectedError, match="too large even without its text"):
        fitted(DOCUMENT, translate(DOCUMENT, {"a": "x" * 41_000}, policies), {}, "text", policies)


def test_the_largest_fields_are_dropped_first_and_as_few_as_possible() -> None:
    policies = Policies(oversized="drop")
    metadata: Metadata = {"small": "s", "b": "x" * 15_000, "a": "x" * 15_000, "kept as json": [1] * 9000, "none": None}
    translation = translate(DOCUMENT, metadata, policies)
    stored, altered = fitted(DOCUMENT, translation, {}, "t" * 1000, policies)
    assert altered is not None
    assert altered.dropped == ("kept as json",)
    assert json.loads(str(stored["_vs_json"])) == {"none": None}
    assert "_vs_json_fields" not in stored
    stored, altered = fitted(DOCUMENT, translation, {}, "t" * 20_000, policies)
    assert altered is not None
    assert altered.dropped == ("kept as json", "a")  # of two as large, the first by name
    assert stored["b"] == metadata["b"]
    lines = list(alteration_lines(translation, {0: altered, 4: altered}, passages=9))
    assert lines == [
        f'the metadata field "{name}" is left out of 2 of 9 records, which would be too large (oversized = "drop")'
        for name in ("kept as json", "a")
    ]


def test_a_text_that_is_too_large_by_itself_is_rejected_also_where_fields_are_dropped() -> None:
    policies = Policies(oversized="drop")
    for metadata in ({}, {"a": "b"}):
        with pytest.raises(RejectedError, match="too large even without its metadata"):
            fitted(DOCUMENT, translate(DOCUMENT, metadata, policies), {}, "t" * 41_000, policies)


# --- vectors ----------------------------------------------------------------------------------------------


def test_numbers_are_written_in_the_fewest_digits_and_read_back_bit_for_bit() -> None:
    vectors = np.random.default_rng(7).standard_normal((50, 64)).astype(np.float32)
    vectors[0, :6] = [1e-40, 3.4e38, -0.0, 0.1, 16777217, 1e-7]
    found = decimals(vectors)
    assert (np.array(found).astype(np.float32).view(np.uint32) == vectors.view(np.uint32)).all()
    assert repr(found[0][3]) == "0.1"
    assert orjson.loads(orjson.dumps(written(vectors))) == found
    assert len(orjson.dumps(found)) < 0.65 * len(orjson.dumps(vectors.tolist()))


@pytest.mark.parametrize(
    "vector,said",
    [
        ([0.5, float("nan"), 0, 0], "is not finite"),
        ([0.5, float("inf"), 0, 0], "is not finite"),
        ([0, 0, 0, -0.0], "is zero, which Pinecone does not take"),
        ([9e-9, 0, 0, 0], "is zero, which Pinecone does not take"),
        ([0.5] * 3, r"has the shape \(3,\), the index 4 dimensions"),
    ],
)
def test_a_vector_that_pinecone_refuses_or_spoils_is_rejected_by_name(vector: list[float], said: str) -> None:
    bad = record("bad", 7, vector=np.array(vector, dtype=np.float32))
    with pytest.raises(RejectedError, match=rf'^document "bad", passage 7: its vector {said}$'):
        checked_vectors([record(), bad], 4)


def test_a_small_vector_is_taken() -> None:
    small = np.array([1.1e-8, 0, 0, 0], dtype=np.float32)
    assert checked_vectors([record(vector=small), record(vector=VECTORS[0])], 4).shape == (2, 4)


# --- filters ----------------------------------------------------------------------------------------------

OURS = {"_vs_source": {"$eq": "wiki"}}


def test_without_conditions_only_our_own_records_are_asked_for() -> None:
    assert matching("wiki", ()) == OURS


def test_each_condition_also_asks_for_the_records_whose_value_is_kept_as_json() -> None:
    kept = {"_vs_json_fields": {"$in": ["year"]}}
    assert matching("wiki", [Equals("year", 2019)]) == {"$and": [OURS, {"$or": [kept, {"year": {"$in": [2019.0]}}]}]}
    assert matching("wiki", [Between("year", above=1, at_most=2.5)]) == {
        "$and": [OURS, {"$or": [kept, {"year": {"$gt": 1.0, "$lte": 2.5}}]}]
    }


def test_values_of_several_types_are_asked_for_apart() -> None:
    asked = matching("wiki", [AnyOf("a", ("x", 1, True, "y"))])
    assert asked is not None
    assert asked["$and"][1]["$or"][1:] == [
        {"a": {"$in": ["x", "y"]}},
        {"a": {"$in": [1.0]}},
        {"a": {"$eq": True}},
    ]


def test_more_values_than_one_list_may_have_are_asked_for_in_several() -> None:
    asked = matching("wiki", [AnyOf("a", tuple(range(10_001)))])
    assert asked is not None
    assert [len(each["a"]["$in"]) for each in asked["$and"][1]["$or"][1:]] == [10_000, 1]


def test_a_name_that_begins_with_a_dollar_is_never_asked_for_as_a_field() -> None:
    assert matching("wiki", [Equals("$price", 3)]) == {
        "$and": [OURS, {"$or": [{"_vs_json_fields": {"$in": ["$price"]}}]}]
    }


@pytest.mark.parametrize(
    "condition",
    [
        AnyOf("a", ()),
        Equals("a", float("nan")),
        Equals("a", "\ud83d"),
        Equals("\ud83d", "a"),
        Equals("text", "a"),
        Equals("_vs_source", "a"),
        Between("a", at_least=float("nan")),
    ],
)
def test_what_nothing_can_match_is_not_asked(condition: AnyOf | Equals | Between) -> None:
    assert matching("wiki", [Equals("b", 1), condition]) is None


@pytest.mark.parametrize("condition", [Between("a", above=2**60 + 1), Between("a", below=float("inf")), Between("a")])
def test_bounds_that_a_double_cannot_tell_apart_let_their_neighbours_through(condition: Between) -> None:
    asked = matching("wiki", [condition])
    assert asked is not None
    [_, question] = asked["$and"][1]["$or"]
    assert set(question["a"]) <= {"$gte", "$lte"}
    assert all(np.isfinite(bound) for bound in question["a"].values())


# --- addresses --------------------------------------------------------------------------------------------


def test_ids_are_fetched_in_addresses_that_are_short_enough() -> None:
    ids = ["x" * 500] * 40 + [f"a%{number}" for number in range(250)] + ["%" * 512]
    groups = list(addressable(ids))
    assert [id for group in groups for id in group] == ids
    assert max(map(len, groups)) == IDS_PER_PAGE
    assert all(sum(len(id) + 5 + 2 * id.count("%") for id in group) <= ADDRESS_BYTES for group in groups)
