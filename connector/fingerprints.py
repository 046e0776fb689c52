"""Tell known rows from new ones, a million a second: sorted arrays of 16-byte hashes.

A hash is kept as two uint64 columns. Rows are looked up by the first column and confirmed by the
second; the few that share a first half with another are looked for one by one.

All of this is a cache of the ledger. `Known` is written beside the checkpoint with the version of
the ledger that it was made from, and made again when that, or its checksum, does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import xxhash

from .model import HASH_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .model import Versions

    Mask = NDArray[np.bool_]
    Column = NDArray[np.uint64]

MAGIC = b"vskn0001"
UNSEEN, SEEN, SUPERSEDED = 0, 1, 2


def from_bytes(hashes: bytes | bytearray) -> Versions:
    """View joined 16-byte hashes as an array of shape (n, 16)."""
    return np.frombuffer(bytes(hashes), dtype=np.uint8).reshape(-1, HASH_BYTES)


def hash_ids(ids: Iterable[str]) -> Versions:
    """Hash document ids, for telling them apart within one run."""
    digest = xxhash.xxh3_128_digest
    return from_bytes(b"".join([digest(id.encode("utf-8", "surrogatepass")) for id in ids]))


@dataclass(frozen=True, slots=True)
class Known:
    """A set of hashes, sorted by their first half."""

    high: Column
    low: Column
    records: int | None = None  # of the documents whose fingerprints these are, if they were counted when it was kept

    @classmethod
    def of(cls, hashes: Versions) -> Known:
        """Sort hashes of shape (n, 16)."""
        columns = _columns(hashes)
        order = np.argsort(columns[:, 0])
        return cls(np.ascontiguousarray(columns[order, 0]), np.ascontiguousarray(columns[order, 1]))

    def __len__(self) -> int:
        return len(self.high)

    def find(self, hashes: Versions) -> NDArray[np.intp]:
        """Give each hash's place in the set, or -1."""
        if not len(self):
            return np.full(len(hashes), -1, dtype=np.intp)
        columns = _columns(hashes)
        order = np.argsort(columns[:, 0])  # sorted queries walk the array instead of jumping about in it
        high = columns[order, 0]
        place = np.searchsorted(self.high, high)
        place[place == len(self.high)] = 0
        low = columns[order, 1]
        is_other = self.high[place] != high
        place[is_other] = -1
        for query in np.flatnonzero(~is_other & (self.low[place] != low)):
            place[query] = self._among_equals(int(place[query]), int(low[query]))
        found = np.empty(len(hashes), dtype=np.intp)
        found[order] = place
        return found

    def _among_equals(self, first: int, low: int) -> int:
        """Find a second half among the hashes with one first half, whose places follow `first`; else -1."""
        high = self.high[first]
        for place in range(first, len(self)):
            if self.high[place] != high:
                break
            if int(self.low[place]) == low:
                return place
        return -1

    def hashes(self, mask: Mask) -> Versions:
        """Give the hashes under a mask, in sorted order."""
        return np.column_stack((self.high[mask], self.low[mask])).view(np.uint8).reshape(-1, HASH_BYTES)


@dataclass(slots=True)
class Sightings:
    """Which of a ledger's fingerprints the listing under way has shown so far."""

    known: Known
    state: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        self.state = np.zeros(len(self.known), dtype=np.uint8)

    def see(self, hashes: Versions) -> tuple[Mask, Mask]:
        """Mark a batch of listed rows; tell which are known, and which of those came before.

        A row that came before, in this batch or an earlier one, repeats a document's id.
        """
        place = self.known.find(hashes)
        is_known = place >= 0
        found = place[is_known]
        is_fresh = self.state[found] == UNSEEN
        seen_before = np.count_nonzero(self.state)
        self.state[found[is_fresh]] = SEEN
        repeated = np.zeros(len(hashes), dtype=np.bool_)
        if np.count_nonzero(self.state) - seen_before != len(found):
            is_first = np.zeros(len(found), dtype=np.bool_)
            is_first[np.unique(found, return_index=True)[1]] = True
            repeated[is_known] = ~(is_first & is_fresh)
        return is_known, repeated

    def supersede(self, fingerprint: bytes) -> bool:
        """Note that a document came with another fingerprint; tell whether this one was seen too."""
        place = int(self.known.find(from_bytes(fingerprint))[0])
        if place < 0:
            return False
        if self.state[place] != UNSEEN:
            return True
        self.state[place] = SUPERSEDED
        return False

    def unseen(self) -> Versions:
        """Give the fingerprints of documents that the whole listing did not show."""
        return self.known.hashes(self.state == UNSEEN)

    def still_valid(self, committed: bytes | bytearray) -> Known:
        """Give the set as it is after a run that brought everything in step."""
        return Known.of(np.concatenate((self.known.hashes(self.state == SEEN), from_bytes(committed))))


@dataclass(slots=True)
class HashSet:
    """A growing set of hashes that takes 16 bytes a member: sorted runs, merged as they double."""

    runs: list[Known] = field(default_factory=list)

    def add(self, hashes: Versions) -> Mask:
        """Add a batch; tell which of it were there already, or earlier in the batch."""
        columns = _columns(hashes)
        order = np.lexsort((columns[:, 1], columns[:, 0]))  # stable, so the first of equals stays the first
        ordered = columns[order]
        repeated = self.contains(hashes)
        repeated[order[1:][(ordered[1:] == ordered[:-1]).all(axis=1)]] = True
        run = Known.of(hashes[~repeated])
        while self.runs and len(self.runs[-1]) <= 2 * len(run):
            run = _merge(self.runs.pop(), run)
        if len(run):
            self.runs.append(run)
        return repeated

    def contains(self, hashes: Versions) -> Mask:
        """Tell which of some hashes are members."""
        found = np.zeros(len(hashes), dtype=np.bool_)
        for run in self.runs:
            found |= run.find(hashes) >= 0
        return found


def count_common(one: bytes | bytearray, other: bytes | bytearray, *, except_for: bytes = b"") -> int:
    """Count the members that two bags of joined 16-byte hashes have in common, some of `one` left out."""
    kinds = Known.of(np.unique(from_bytes(other), axis=0))
    if not len(kinds):
        return 0

    def times(bag: bytes | bytearray) -> NDArray[np.intp]:
        found = kinds.find(from_bytes(bag))
        return np.bincount(found[found >= 0], minlength=len(kinds))

    return int(np.minimum(times(one) - times(except_for), times(other)).sum())


def _merge(one: Known, other: Known) -> Known:
    everything = np.ones(len(one), dtype=np.bool_), np.ones(len(other), dtype=np.bool_)
    return Known.of(np.concatenate((one.hashes(everything[0]), other.hashes(everything[1]))))


def _columns(hashes: Versions) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hashes).view(np.uint64).reshape(-1, 2)


def write(path: Path, known: Known, ledger_version: str, records: int | None = None) -> None:
    """Keep a set beside the checkpoint. It is only a cache: a failure to write it is no failure."""
    body = known.high.tobytes() + known.low.tobytes()
    header = msgspec.json.encode(
        {
            "ledger": ledger_version,
            "count": len(known),
            "records": records,
            "hash": xxhash.xxh3_128_hexdigest(body),
        }
    )
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(MAGIC + len(header).to_bytes(4, "little") + header + body)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)


def read(path: Path, ledger_version: str) -> Known | None:
    """Read a set back, unless it is of another version of the ledger, or damaged."""
    try:
        content = path.read_bytes()
        start = 12 + int.from_bytes(content[8:12], "little")
        header = msgspec.json.decode(content[12:start], type=dict[str, str | int | None])
    except (OSError, msgspec.DecodeError):
        return None
    body = memoryview(content)[start:]
    sound = content[:8] == MAGIC and header.get("hash") == xxhash.xxh3_128_hexdigest(body)
    if not sound or header.get("ledger") != ledger_version:
        return None
    # A copy is aligned. What is not, numpy would copy for every search in it.
    columns = np.frombuffer(body, dtype=np.uint64).reshape(2, -1).copy()
    records = header.get("records")
    return Known(columns[0], columns[1], records if isinstance(records, int) else None)
