"""Tables in, plans out."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.fingerprints import HashSet, Known, Sightings, count_common, from_bytes, hash_ids, read, write
from connector.model import UNKNOWN, Document, DocumentId, Entry, Passage, Rejection
from connector.plan import (
    Change,
    DeleteGuard,
    Kind,
    Recipe,
    Wanted,
    compare,
    fingerprint,
    fingerprints,
    kind_of_document,
    want,
    want_nothing,
)

RECIPE = Recipe("embedder", "splitter", "{}")
ID = DocumentId("doc")
OLD, NEW = b"o" * 16, b"n" * 16


def wanted(*passages: str, tag: int = 0, version: bytes = NEW, recipe: Recipe = RECIPE) -> Wanted:
    document = Document(ID, version, "\n".join(passages), {"tag": tag})
    split = [Passage(ID, n, text) for n, text in enumerate(passages)]
    return want(document, split, [1] * len(split), recipe, recipe.hash())


def committed(*passages: str, tag: int = 0) -> Entry:
    return Change(wanted(*passages, tag=tag, version=OLD), None, Kind.ADDED).done()


@pytest.mark.parametrize(
    "before,now,kind,upserts",
    [
        (None, wanted("a", "b"), Kind.ADDED, (0, 1)),
        (Entry(ID, None, None, (UNKNOWN,)), wanted("a", "b"), Kind.ADDED, (0, 1)),  # begun, never committed
        (Entry(ID, OLD, None, (), "refused"), wanted("a"), Kind.ADDED, (0,)),  # rejected before
        (committed("a", "b"), wanted("a", "c"), Kind.CHANGED, (1,)),
        (committed("a"), wanted("a", "b"), Kind.CHANGED, (1,)),
        (committed("a", "b"), wanted("a"), Kind.CHANGED, ()),
        (committed("a", "b"), wanted("a", "b", tag=1), Kind.METADATA_ONLY, (0, 1)),
        (committed("a", "b"), wanted("a", "b"), Kind.UNCHANGED, ()),
        (committed("a"), want_nothing(Rejection(ID, NEW, "no title"), RECIPE.hash()), Kind.REJECTED, ()),
    ],
)
def test_what_to_do_is_a_table(before: Entry | None, now: Wanted, kind: Kind, upserts: tuple[int, ...]) -> None:
    change = compare(now, before)
    assert (change.kind, change.upserts) == (kind, upserts)


def test_while_a_sink_is_written_to_the_ledger_claims_nothing_of_what_is_written() -> None:
    before = committed("a", "b", "c")
    doubt = compare(wanted("a", "x"), before).doubt()
    assert doubt.fingerprint is None
    assert doubt.passages == (before.passages[0], UNKNOWN, UNKNOWN)
    grown = compare(wanted("a", "b", "c", "d"), before).doubt()
    assert grown.passages == (*before.passages, UNKNOWN)


def test_what_is_in_doubt_is_written_again_even_if_it_looks_the_same() -> None:
    doubt = compare(wanted("a", "x"), committed("a", "b")).doubt()
    assert compare(wanted("a", "b"), doubt).upserts == (1,)


def test_a_rejection_that_may_pass_keeps_what_the_ledger_says() -> None:
    before = committed("a", "b")
    change = compare(want_nothing(Rejection(ID, NEW, "denied", passing=True), RECIPE.hash()), before)
    assert not change.touches_sink
    assert change.done() == Entry(ID, None, before.content, before.passages, "denied")


def test_a_lasting_rejection_removes_the_records() -> None:
    change = compare(want_nothing(Rejection(ID, NEW, "no title"), RECIPE.hash()), committed("a", "b"))
    assert (change.removes_document, change.touches_sink) == (True, True)
    assert change.doubt().passages == (UNKNOWN, UNKNOWN)
    assert change.done() == Entry(ID, fingerprint(NEW, RECIPE.hash()), None, (), "no title")


@pytest.mark.parametrize(
    "kinds,document",
    [
        ([Kind.ADDED, Kind.ADDED], Kind.ADDED),
        ([Kind.ADDED, Kind.UNCHANGED], Kind.UNCHANGED),
        ([Kind.UNCHANGED, Kind.UNCHANGED], Kind.UNCHANGED),
        ([Kind.ADDED, Kind.METADATA_ONLY], Kind.METADATA_ONLY),
        ([Kind.METADATA_ONLY, Kind.CHANGED], Kind.CHANGED),
        ([Kind.REJECTED, Kind.CHANGED], Kind.REJECTED),
    ],
)
def test_a_document_is_counted_once(kinds: list[Kind], document: Kind) -> None:
    assert kind_of_document(kinds) is kind_of_document(kinds[::-1]) is document


@pytest.mark.parametrize(
    "gone,live,listed,unreadable,confirmed,says",
    [
        (0, 0, 0, 0, None, None),
        (0, 100, 100, 5, None, None),
        (1, 1, 0, 0, None, "lists nothing"),
        (1, 1, 0, 0, 1, None),
        (20, 30, 10, 0, None, None),
        (21, 30, 9, 0, None, "21 of 30"),
        (100, 1000, 900, 0, None, None),
        (101, 1000, 899, 0, None, "101 of 1000"),
        (101, 1000, 899, 0, 101, None),
        (101, 1000, 899, 0, 100, "more than the 100 confirmed"),
        (1, 1000, 999, 1, None, "could not be read"),
        (1, 1000, 999, 1, 1, None),
    ],
)
def test_the_guard_is_a_table(
    gone: int, live: int, listed: int, unreadable: int, confirmed: int | None, says: str | None
) -> None:
    objection = DeleteGuard(confirmed=confirmed).objection(gone=gone, live=live, listed=listed, unreadable=unreadable)
    assert (objection is None) == (says is None)
    assert says is None or (objection is not None and says in objection and f"--confirm-deletes {gone}" in objection)


def test_everything_that_decides_a_record_changes_its_digest() -> None:
    digests = {
        wanted("a").digests[0],
        wanted("b").digests[0],
        wanted("a", tag=1).digests[0],
        wanted("a", recipe=Recipe("another", "splitter", "{}")).digests[0],
    }
    assert len(digests) == 4
    assert wanted("a", recipe=Recipe("embedder", "another", "{}")).digests == wanted("a").digests, "the same record"


def test_metadata_in_another_order_is_the_same_metadata() -> None:
    def digest(metadata: dict[str, object]) -> bytes:
        document = Document(ID, NEW, "a", metadata)  # type: ignore[arg-type]  # JSON
        return want(document, [Passage(ID, 0, "a")], [1], RECIPE, RECIPE.hash()).digests[0]

    assert digest({"a": 1, "b": {"x": 1, "y": [1]}}) == digest({"b": {"y": [1], "x": 1}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5}) != digest({"a": "1"})
    assert digest({"a": None}) != digest({})


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_a_fingerprint_is_the_same_one_by_one_and_in_columns(version: bytes, recipe: bytes) -> None:
    (column,) = fingerprints(from_bytes(version), recipe)
    assert column.tobytes() == fingerprint(version, recipe)
    assert (fingerprint(version, recipe) == version) == (recipe == bytes(16))


# --- sorted hashes --------------------------------------------------------------------------------

hashes = st.lists(st.binary(min_size=16, max_size=16), max_size=40)
few = st.lists(st.sampled_from([bytes([n]) * 16 for n in range(6)]), max_size=20)


@given(hashes, hashes)
def test_what_is_known_is_found_and_nothing_else(known: list[bytes], asked: list[bytes]) -> None:
    found = Known.of(from_bytes(b"".join(known))).find(from_bytes(b"".join(asked + known)))
    assert [place >= 0 for place in found] == [hash in known for hash in asked + known]


def test_hashes_whose_first_halves_meet_are_told_apart() -> None:
    same = [b"same___!" + bytes([n]) * 8 for n in range(5)]
    known = Known.of(from_bytes(b"".join([*same[:4], b"zzzzzzzz" * 2, b"aaaaaaaa" * 2])))
    assert min(known.find(from_bytes(b"".join(same))).tolist()) == -1
    assert len(set(known.find(from_bytes(b"".join(same[:4]))).tolist()) - {-1}) == 4
    sightings = Sightings(known)
    is_known, repeated = sightings.see(from_bytes(b"".join([same[3], same[4], same[0]])))
    assert is_known.tolist() == [True, False, True]
    assert not repeated.any()
    assert {row.tobytes() for row in sightings.unseen()} == {same[1], same[2], b"zzzzzzzz" * 2, b"aaaaaaaa" * 2}


@given(st.lists(few, max_size=5), few)
def test_a_row_that_was_seen_before_is_repeated(batches: list[list[bytes]], known: list[bytes]) -> None:
    known = sorted(set(known))
    sightings = Sightings(Known.of(from_bytes(b"".join(known))))
    seen: set[bytes] = set()
    for batch in batches:
        is_known, repeated = sightings.see(from_bytes(b"".join(batch)))
        for hash, knows, repeats in zip(batch, is_known, repeated, strict=True):
            assert knows == (hash in known)
            assert repeats == (hash in seen)
            if knows:
                seen.add(hash)
    assert {row.tobytes() for row in sightings.unseen()} == set(known) - seen


def test_a_superseded_fingerprint_is_neither_unseen_nor_kept() -> None:
    known = [bytes([n]) * 16 for n in range(3)]
    sightings = Sightings(Known.of(from_bytes(b"".join(known))))
    sightings.see(from_bytes(known[0]))
    assert not sightings.supersede(known[1])
    assert sightings.supersede(known[0]), "its row was listed too"
    assert [row.tobytes() for row in sightings.unseen()] == [known[2]]
    _, repeated = sightings.see(from_bytes(known[1]))
    assert repeated.all(), "its row comes after the one that superseded it"
    assert len(sightings.still_valid(b"x" * 16)) == 2


@given(st.lists(few, max_size=6))
def test_a_hash_set_tells_what_came_before(batches: list[list[bytes]]) -> None:
    members, seen = HashSet(), set()
    for batch in batches:
        for hash, repeats in zip(batch, members.add(from_bytes(b"".join(batch))), strict=True):
            assert repeats == (hash in seen)
            seen.add(hash)
    assert members.contains(from_bytes(b"".join(seen))).all()
    assert not members.contains(hash_ids(["never added"])).any()


@given(few, few, few)
def test_what_two_bags_have_in_common(one: list[bytes], other: list[bytes], removed: list[bytes]) -> None:
    removed = [hash for hash in removed if removed.count(hash) <= one.count(hash)]
    expected = sum(min(one.count(h) - removed.count(h), other.count(h)) for h in set(other))
    assert count_common(b"".join(one), b"".join(other), except_for=b"".join(removed)) == expected


def test_a_kept_set_is_read_back_only_for_its_ledger_version(tmp_path: Path) -> None:
    path = tmp_path / "known.bin"
    known = Known.of(hash_ids(str(n) for n in range(1000)))
    write(path, known, "uuid/one/7")
    found = read(path, "uuid/one/7")
    assert found is not None
    assert (np.array_equal(found.high, known.high), np.array_equal(found.low, known.low)) == (True, True)
    assert read(path, "uuid/one/8") is None
    path.write_bytes(msgspec.json.encode({"ledger": "uuid/one/7"}))
    assert read(path, "uuid/one/7") is None
