"""Whether a record is what its mark says: its text and metadata by the digest, its vector by the vector store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from .drift import MAX_INDEX, Reason
from .model import HASH_BYTES, Metadata, StoredRecord
from .plan import record_digest, sha256_16
from .vectors import SqliteVectors

if TYPE_CHECKING:
    from .model import Vectors

MAX_AMBIGUOUS: Final = 6  # numbers of one record, each of which may have been sent as an integer or as a float
EXACT_INTEGERS: Final = 2**53  # up to here, a double is one integer only
SAME_DIRECTION: Final = 0.999
"""The cosine from which on two vectors are one. Of 5,000 random ones of 8 to 3,072 dimensions, what databases do to
numbers left at least 1 - 2.4e-7 (float16), 1 - 5.6e-6 (bfloat16), 1 - 8.1e-5 (8 bits, rounded), 1 - 3.2e-4 (8 bits, cut
off); the two most alike had 0.946 with 8 dimensions, and 0.44 with 64 (measured 2026-11). Qdrant's uint8 takes whole
numbers only, and keeps them."""
SAME_LENGTH: Final = 0.01  # relative
NO_LENGTH: Final = 1e-6


class Checked(msgspec.Struct, frozen=True, gc=False):
    """What became of comparing one record with its mark."""

    reason: Reason | None = None  # in which it is not what its mark says
    contents: bool = True  # its text and metadata could be compared
    vector: bool = True  # so could its vector


@dataclass(frozen=True, slots=True)
class Contents:
    """What the records of a sink should hold."""

    embedders: frozenset[str]  # identities of those that may have made them
    embedder: str  # the identity of the one whose vectors are stored
    vectors: SqliteVectors

    def check(self, records: Sequence[StoredRecord]) -> list[Checked]:
        """Compare some records, in their order; one look into the store."""
        hashes: dict[int, bytes] = {}  # of the texts, where the vector is to be compared
        for place, record in enumerate(records):
            if record.text is not None and record.vector is not None and is_made_by(self.embedder, record):
                hashes[place] = sha256_16(record.text.encode())
        known = self.vectors.get(list(dict.fromkeys(hashes.values()))) if hashes else {}
        return [self._checked(record, known.get(hashes.get(place, b""))) for place, record in enumerate(records)]

    def _checked(self, record: StoredRecord, made: Vectors | None) -> Checked:
        if not can_be_checked(record):
            return Checked(contents=False, vector=False)
        if not any(is_made_by(embedder, record) for embedder in self.embedders):
            return Checked(Reason.CONTENTS, vector=False)
        if made is None or record.vector is None:
            return Checked(vector=False)
        return Checked(None if is_same_vector(record.vector, made) else Reason.VECTOR)


def is_plausible(record: StoredRecord) -> bool:
    """Tell whether a record's marks can be ours: a ledger could keep them."""
    try:
        record.document_id.encode()
    except UnicodeEncodeError:
        return False
    return 0 <= record.index <= MAX_INDEX and len(record.digest) == HASH_BYTES


def can_be_checked(record: StoredRecord) -> bool:
    """Tell whether a sink gave a record's contents; it leaves out what it did not store as it was sent."""
    return record.text is not None and record.metadata is not None


def is_made_by(embedder: str, record: StoredRecord) -> bool:
    """Tell whether a record's digest is that of its text and metadata, under an embedder."""
    if record.text is None or record.metadata is None:
        return False
    try:
        text_hash = sha256_16(record.text.encode())
    except UnicodeEncodeError:
        return False
    return any(record_digest(embedder, it, text_hash) == record.digest for it in _as_sent(record.metadata))


def is_same_vector(held: Vectors, sent: Vectors) -> bool:
    """Tell whether a sink may have made the one of the other, by rounding it or by keeping its direction alone.

    the sent one has   the held one is the same if it has
    -----------------  ------------------------------------------------------
    a length           the same direction, and the same length or the length 1
    none               none
    """
    if held.shape != sent.shape or not np.isfinite(held).all():
        return False
    held, sent = held.astype(np.float64), sent.astype(np.float64)  # a product of floats may be too large for one
    length, sent_length = float(np.linalg.norm(held)), float(np.linalg.norm(sent))
    if sent_length < NO_LENGTH or length < NO_LENGTH:
        return abs(length - sent_length) < NO_LENGTH
    if float(held @ sent) < SAME_DIRECTION * length * sent_length:
        return False
    return any(abs(length - it) <= SAME_LENGTH * it for it in (sent_length, 1.0))


def _as_sent(metadata: Metadata) -> Iterator[Metadata]:
    """Give metadata, and then all that a database which keeps every number as a double may have read back as this.

    It gives 2 for 2.0, or 2.0 for 2, and a digest is of what was sent. With many such numbers, only all of one kind.
    """
    yield metadata
    numbers = [name for name, value in metadata.items() if isinstance(value, int | float) and _is_whole(value)]
    kinds: Iterable[Sequence[type[int | float]]] = (
        product((int, float), repeat=len(numbers))
        if len(numbers) <= MAX_AMBIGUOUS
        else ((kind,) * len(numbers) for kind in (int, float))
    )
    for some in kinds if numbers else ():
        yield {**metadata, **{name: kind(metadata[name]) for name, kind in zip(numbers, some, strict=True)}}  # type: ignore[arg-type]  # they are numbers


def _is_whole(number: float) -> bool:
    return not isinstance(number, bool) and abs(number) <= EXACT_INTEGERS and float(number).is_integer()
