"""The contracts of the two stores as pytest classes, to which anyone's store can be held.

    class TestMyCheckpoints(CheckpointContract):
        @pytest.fixture
        def reopen(self, tmp_path):
            return lambda: MyCheckpoints(tmp_path)

`reopen` opens the store as the next process would; the kit closes it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Protocol, TypeAlias

import numpy as np
import pytest

from connector.errors import LeaseError
from connector.model import UNKNOWN, DocumentId, Entry
from connector.ports import CheckpointStore, VectorStore
from connector.testing.contract import Contract

A, B = DocumentId("a"), DocumentId("b")


class ClosableCheckpoints(CheckpointStore, Protocol):
    """A checkpoint store with what the kit needs besides."""

    def close(self) -> None: ...


class ClosableVectors(VectorStore, Protocol):
    """A vector store with what the kit needs besides."""

    def close(self) -> None: ...


Reopen: TypeAlias = Callable[[], ClosableCheckpoints]


def entry(id: DocumentId, mark: int, extent: int = 2) -> Entry:
    """Make a committed line."""
    digests = tuple(bytes([mark, n]) * 8 for n in range(extent))
    return Entry(id, bytes([mark]) * 16, bytes([mark + 100]) * 16, digests)


def read(reopen: Reopen, sink: str = "one") -> dict[DocumentId, Entry]:
    """Read as the next process would."""
    with closing(reopen()) as store:
        return store.entries(sink, [A, B])


class CheckpointContract(Contract):
    """The rules of `connector.ports.CheckpointStore`."""

    @pytest.fixture
    def reopen(self) -> Reopen:
        raise NotImplementedError("give the contract a way to open the store")

    @pytest.fixture(autouse=True)
    def _ledgers(self, reopen: Reopen) -> None:
        with closing(reopen()) as store:
            store.open_ledger("one", "made once")
            store.open_ledger("two", "made once")

    def test_C1_begin_is_durable_and_clears_the_fingerprint(self, reopen: Reopen) -> None:
        with closing(reopen()) as store:
            store.commit("one", [entry(A, 1)])
            store.begin("one", [Entry(A, entry(A, 2).fingerprint, None, (UNKNOWN, UNKNOWN, UNKNOWN))])
        assert read(reopen) == {A: Entry(A, None, None, (UNKNOWN, UNKNOWN, UNKNOWN))}

    def test_C1_begin_notes_what_was_never_there(self, reopen: Reopen) -> None:
        with closing(reopen()) as store:
            store.begin("one", [Entry(A, None, None, (UNKNOWN,))])
        assert read(reopen)[A].extent == 1

    def test_C2_a_commit_is_durable_and_reads_back(self, reopen: Reopen) -> None:
        rejected = Entry(B, bytes(15) + b"x", None, (), "no 'title' — 400")
        with closing(reopen()) as store:
            store.commit("one", [entry(A, 1), rejected])
            assert store.count("one") == 2
        assert read(reopen) == {A: entry(A, 1), B: rejected}

    def test_C2_a_commit_replaces_and_forgets_at_once(self, reopen: Reopen) -> None:
        with closing(reopen()) as store:
            store.commit("one", [entry(A, 1), entry(B, 1)])
            store.commit("one", [entry(A, 2, extent=1)], [B])
            assert store.count("one") == 1
        assert read(reopen) == {A: entry(A, 2, extent=1)}

    def test_C2_a_commit_that_fails_half_way_leaves_nothing(self, reopen: Reopen) -> None:
        def breaks_off() -> list[Entry]:
            raise RuntimeError("half way")

        def half() -> object:
            yield entry(A, 2)
            yield from breaks_off()

        with closing(reopen()) as store:
            store.commit("one", [entry(A, 1), entry(B, 1)])
            with pytest.raises(RuntimeError):
                store.commit("one", half())  # type: ignore[arg-type]  # a generator of entries
        assert read(reopen) == {A: entry(A, 1), B: entry(B, 1)}

    def test_C3_ledgers_are_kept_apart(self, reopen: Reopen) -> None:
        with closing(reopen()) as store:
            store.commit("one", [entry(A, 1)])
            store.commit("two", [entry(A, 2)])
            store.commit("one", [], [A])
        assert read(reopen) == {}
        assert read(reopen, "two") == {A: entry(A, 2)}

    def test_C3_a_collection_made_anew_has_an_empty_ledger(self, reopen: Reopen) -> None:
        with closing(reopen()) as store:
            store.commit("one", [entry(A, 1)])
            store.commit("two", [entry(A, 2)])
            assert store.open_ledger("one", "made again") == 1
            assert store.open_ledger("two", "made once") == 0
        assert read(reopen) == {}
        assert read(reopen, "two") == {A: entry(A, 2)}

    @pytest.mark.parametrize(
        "awkward", ["", "A", "a/b", "ä", "a\u0308", "日本語", "'; DROP TABLE entry", "x" * 1024, "\U0001f600"]
    )
    def test_C3_any_id_is_kept_apart(self, reopen: Reopen, awkward: str) -> None:
        id = DocumentId(awkward)
        with closing(reopen()) as store:
            store.commit("one", [entry(A, 1), entry(id, 2)])
            assert store.entries("one", [id]) == {id: entry(id, 2)}
            assert store.entries("one", [A]) == {A: entry(A, 1)}

    def test_C4_a_store_that_was_taken_over_writes_nothing_more(
        self, reopen: Reopen, take_over: Callable[[], None]
    ) -> None:
        with closing(reopen()) as store:
            store.commit("one", [entry(A, 1)])
            take_over()
            with pytest.raises(LeaseError):
                store.begin("one", [entry(A, 2)])
            with pytest.raises(LeaseError):
                store.commit("one", [entry(A, 2)], [B])
        assert read(reopen) == {A: entry(A, 1)}

    @pytest.fixture
    def take_over(self) -> Callable[[], None]:
        raise NotImplementedError("give the contract a way to take the store over while it is open")


HASHES = [bytes([n]) * 16 for n in range(5)]
VECTORS = np.array([[n + 0.5, -n, 0.25] for n in range(5)], dtype=np.float32)


class VectorContract(Contract):
    """The rules of `connector.ports.VectorStore`. `reopen` takes the embedder's identity and dimension."""

    @pytest.fixture
    def reopen(self) -> Callable[[str, int], ClosableVectors]:
        raise NotImplementedError("give the contract a way to open the store")

    def test_V1_what_is_put_is_durable_and_exact(self, reopen: Callable[[str, int], ClosableVectors]) -> None:
        with closing(reopen("model", 3)) as store:
            store.put(HASHES, VECTORS)
        with closing(reopen("model", 3)) as store:
            found = store.get([*HASHES, b"absent" + bytes(10)])
            assert list(found) == HASHES or set(found) == set(HASHES)
            assert all((found[hash] == vector).all() for hash, vector in zip(HASHES, VECTORS, strict=True))

    def test_V1_putting_twice_keeps_the_latest(self, reopen: Callable[[str, int], ClosableVectors]) -> None:
        with closing(reopen("model", 3)) as store:
            store.put(HASHES[:1], VECTORS[:1])
            store.put(HASHES[:1], VECTORS[1:2])
            assert (store.get(HASHES[:1])[HASHES[0]] == VECTORS[1]).all()

    def test_V1_any_float32_comes_back_bit_by_bit(self, reopen: Callable[[str, int], ClosableVectors]) -> None:
        awkward = np.array([[1e-45, -0.0, np.finfo(np.float32).max]], dtype=np.float32)
        with closing(reopen("model", 3)) as store:
            store.put(HASHES[:1], awkward)
            assert store.get(HASHES[:1])[HASHES[0]].tobytes() == awkward[0].tobytes()

    def test_V2_what_is_missing_is_told(self, reopen: Callable[[str, int], ClosableVectors]) -> None:
        with closing(reopen("model", 3)) as store:
            store.put(HASHES[:2], VECTORS[:2])
            assert store.missing(HASHES) == set(HASHES[2:])
            assert store.missing([]) == set()
            assert store.get([]) == {}

    def test_V2_embedders_are_kept_apart(self, reopen: Callable[[str, int], ClosableVectors]) -> None:
        with closing(reopen("model", 3)) as store:
            store.put(HASHES, VECTORS)
        with closing(reopen("another", 3)) as store:
            assert store.get(HASHES) == {}
            assert store.missing(HASHES) == set(HASHES)

    def test_V2_a_vector_of_another_dimension_is_left_out(self, reopen: Callable[[str, int], ClosableVectors]) -> None:
        with closing(reopen("model", 3)) as store:
            store.put(HASHES, VECTORS)
        with closing(reopen("model", 2)) as store:
            assert store.get(HASHES) == {}

    def test_V2_more_hashes_than_a_statement_takes_are_looked_up(
        self, reopen: Callable[[str, int], ClosableVectors]
    ) -> None:
        hashes = [n.to_bytes(16, "little") for n in range(40_000)]
        with closing(reopen("model", 3)) as store:
            store.put(hashes[::2], np.ones((20_000, 3), dtype=np.float32))
            assert store.missing(hashes) == set(hashes[1::2])
            assert len(store.get(hashes)) == 20_000
