"""Translate records to Qdrant points and back, alike for the embedded engine and for a server.

    record                            point
    --------------------------------  ---------------------------------------------------------------
    id                                id = uuid5(uuid5(VECTOR_SYNC, owner), record id)
    vector                            vector
    metadata                          payload, at its top level, under its own names
    text                              payload["text"]
    (owner), document, index, digest  payload["_vs_source"], "_vs_document", "_vs_index", "_vs_digest"

What is let through here reads back as it was sent. Engines take more than that and alter it in
silence (a Decimal is rounded, bytes become a list), or take it and cannot read it again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID, uuid5

import numpy as np
from msgspec.structs import replace

from connector.errors import RejectedError
from connector.model import (
    FITS,
    HASH_BYTES,
    RESERVED_NAMES,
    RESERVED_PREFIX,
    Detail,
    DocumentId,
    Draft,
    EmbeddedRecord,
    Fit,
    ForeignRecord,
    Hit,
    JsonValue,
    Metadata,
    RecordId,
    StoredRecord,
    record_id,
)

if TYPE_CHECKING:
    from connector.model import Vectors

Payload: TypeAlias = dict[str, JsonValue]
PointId: TypeAlias = UUID | int | str
"""Of ours, the UUID or its text, in lower case and with hyphens; of others, also a number."""

VECTOR_SYNC: Final = UUID("6f0b5a52-3f0e-5d0b-9a4c-7c2d1e8b4f60")
"""Root of all point ids. To change it is to abandon every record ever written."""

TEXT: Final = "text"
SOURCE: Final = "_vs_source"
DOCUMENT: Final = "_vs_document"
INDEX: Final = "_vs_index"
DIGEST: Final = "_vs_digest"
MARKS: Final = (SOURCE, DOCUMENT, INDEX, DIGEST)
_DIGEST: Final = re.compile(rf"[0-9a-f]{{{2 * HASH_BYTES}}}")

NESTING: Final = 64
"""How deep metadata may nest. The embedded engine (0.9.0, seen 2026-11) reads 120 levels back, but it accepts more,
and can then never open its log again."""

SMALLEST_SQUARE: Final = float(np.finfo(np.float32).eps)
"""Below this squared length Qdrant takes a vector for zero and does not normalise it."""


@dataclass(frozen=True, slots=True)
class PointFormat:
    """How the records of one owner are told apart from all others in a collection."""

    owner: str
    namespace: UUID

    @classmethod
    def of(cls, owner: str) -> PointFormat:
        return cls(owner, uuid5(VECTOR_SYNC, owner))

    def point_id(self, id: RecordId) -> UUID:
        """Name the point of a record. Two owners never share one."""
        return uuid5(self.namespace, id)

    def payload(self, record: EmbeddedRecord) -> Payload:
        """Write a record, save its vector. Its metadata has passed `metadata_bytes`."""
        return {
            **record.metadata,
            TEXT: record.text,
            SOURCE: self.owner,
            DOCUMENT: record.document_id,
            INDEX: record.index,
            DIGEST: record.digest.hex(),
        }

    def read(
        self, point: PointId, payload: Payload, detail: Detail, vector: object = None
    ) -> StoredRecord | ForeignRecord:
        """Read a point of a scan, of which at least as much was asked for as `detail` says.

        bears our mark   the other marks                        it is
        ---------------  -------------------------------------  -------------------------------
        no               whatever                               foreign, of whom it says, if any
        yes              damaged, or of another point's record  foreign, of ours
        yes              whole, and so is what was asked for    stored
        yes              whole, its text or vector gone         foreign, of ours
        """
        stored = self._marks(point, payload)
        if stored is None:
            owner = payload.get(SOURCE)
            return ForeignRecord(str(point), owner if isinstance(owner, str) else None)
        if detail == Detail.MARKS:
            return stored
        text = payload.get(TEXT)
        row = np.asarray(vector, dtype=np.float32) if isinstance(vector, list) else None
        if not isinstance(text, str) or (detail == Detail.VECTORS and row is None):
            return ForeignRecord(str(point), self.owner)
        return replace(stored, text=text, metadata=read_metadata(payload), vector=row)

    def read_hit(self, point: PointId, payload: Payload, score: float) -> Hit | None:
        """Read a point that a search has found; None if it is not ours, whatever it says."""
        stored, text = self._marks(point, payload), payload.get(TEXT)
        if stored is None or not isinstance(text, str):
            return None
        return Hit(stored.id, stored.document_id, stored.index, score, text, read_metadata(payload))

    def _marks(self, point: PointId, payload: Payload) -> StoredRecord | None:
        """Read the marks of a point; None if this is not a point that we would have written."""
        document, index, digest = payload.get(DOCUMENT), payload.get(INDEX), payload.get(DIGEST)
        if (
            payload.get(SOURCE) != self.owner
            or not isinstance(document, str)
            or type(index) is not int  # not even a boolean
            or not isinstance(digest, str)
            or not _DIGEST.fullmatch(digest)
        ):
            return None
        id = record_id(DocumentId(document), index)
        expected = self.point_id(id)
        if point != expected and str(point) != str(expected):
            return None
        return StoredRecord(id, DocumentId(document), index, bytes.fromhex(digest))


def read_metadata(payload: Payload) -> Metadata:
    """Give a payload without what we add to it."""
    return {name: value for name, value in payload.items() if name not in MARKS and name != TEXT}


def fit(draft: Draft) -> Fit:
    """Say what `upsert` would, whatever the vectors: a point is kept as it is, or not at all."""
    try:
        _check_texts(draft.document_id, draft.texts)
        metadata_bytes(draft.document_id, draft.metadata)
    except RejectedError as error:
        return Fit(refusal=str(error))
    return FITS


def checked_bytes(records: Sequence[EmbeddedRecord]) -> int:
    """Say roughly how many bytes the payloads of a call take; RejectedError if one cannot be kept."""
    total = 0
    measured: Metadata | None = None
    measured_bytes = 0
    for record in records:
        document = record.document_id
        if record.id != record_id(document, record.index):
            raise RejectedError(f'record "{record.id}" is not named after its document "{document}"')
        if record.metadata is not measured:  # all passages of a document share one mapping
            measured, measured_bytes = record.metadata, metadata_bytes(document, record.metadata)
        _check_texts(document, (record.text,))
        total += measured_bytes + len(record.text) + len(document)
    return total


def _check_texts(document: DocumentId, texts: Sequence[str]) -> None:
    if not is_unicode(document):
        raise RejectedError(f'document "{_shown(document)}": its id is not valid Unicode')
    for text in texts:
        if not is_unicode(text):
            raise RejectedError(f'document "{_shown(document)}": its text is not valid Unicode')


def metadata_bytes(document: DocumentId, metadata: Metadata) -> int:
    """Say roughly how many bytes metadata takes; RejectedError names the field that cannot be kept."""
    total = 0
    for name, value in metadata.items():
        try:
            total += _name_bytes(name) + (_plain_bytes(value) or _json_bytes(value))
        except _NotKeptError as error:
            raise RejectedError(
                f'document "{_shown(document)}": the metadata field "{_shown(str(name))}" {error}'
            ) from None
    return total


def checked_vectors(records: Sequence[EmbeddedRecord], dimension: int, *, directed: bool) -> Vectors:
    """Stack the vectors of a call; RejectedError names the first record whose vector cannot be stored.

    `directed`: only the direction counts, so a vector must have one.
    """
    for record in records:
        if record.vector.shape != (dimension,):
            raise _bad_vector(record, f"has the shape {record.vector.shape}, the collection {dimension} dimensions")
    vectors = np.asarray([record.vector for record in records], dtype=np.float32)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise _bad_vector(records[int(np.argmin(finite))], "is not finite")
    if directed:
        with np.errstate(over="ignore", under="ignore"):
            squares = np.einsum("ij,ij->i", vectors, vectors)
        sized = np.isfinite(squares) & (squares >= SMALLEST_SQUARE)
        if not sized.all():
            raise _bad_vector(records[int(np.argmin(sized))], "is zero, or too small or too long to have a direction")
    return vectors


def _bad_vector(record: EmbeddedRecord, reason: str) -> RejectedError:
    return RejectedError(f'document "{_shown(record.document_id)}", passage {record.index}: its vector {reason}')


def is_unicode(text: str) -> bool:
    """Tell whether UTF-8 can carry a text; it cannot carry half of a surrogate pair, as odd file names have."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _NotKeptError(Exception):
    """A value would not read back as it was sent; the message completes "the field ... "."""


@lru_cache(maxsize=4096)
def _name_bytes(name: str) -> int:
    if not isinstance(name, str):
        raise _NotKeptError("has a name that is not text")
    if name in RESERVED_NAMES or name.startswith(RESERVED_PREFIX):
        raise _NotKeptError("has a name that is reserved; rename it, or do not keep it")
    return _text_bytes(name)


def _plain_bytes(value: JsonValue) -> int:
    """Say quickly how many bytes a value takes, as most are plain; 0 if it takes a closer look."""
    of = type(value)
    if of is str:
        return len(value) + 4 if value.isascii() else 0  # type: ignore[arg-type,union-attr]  # it is text
    return 8 if of is float and math.isfinite(value) else 0  # type: ignore[arg-type]  # it is a number


def _json_bytes(value: object, nesting: int = 0) -> int:
    if isinstance(value, str):
        return _text_bytes(value)
    if value is None or isinstance(value, bool):
        return 4
    if isinstance(value, int | float):
        return _number_bytes(value)
    if nesting == NESTING:
        raise _NotKeptError(f"is nested deeper than {NESTING} levels")
    if isinstance(value, list):
        return 4 + sum(_json_bytes(each, nesting + 1) for each in value)
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise _NotKeptError("holds a name that is not text")
        return 4 + sum(_text_bytes(name) + _json_bytes(each, nesting + 1) for name, each in value.items())
    raise _NotKeptError(f"holds a {type(value).__name__}, which is not a JSON value; keep it as text")


def _text_bytes(text: str) -> int:
    if not is_unicode(text):
        raise _NotKeptError("is not valid Unicode")
    return len(text) + 4


def _number_bytes(number: float) -> int:
    if isinstance(number, float) and not math.isfinite(number):
        raise _NotKeptError(f"holds {number}, which is not a JSON number")
    if isinstance(number, int) and not -(2**63) <= number < 2**64:
        raise _NotKeptError("holds an integer of more than 64 bits; keep it as text")
    return 8


def _shown(text: str) -> str:
    """Make a text printable that may not be."""
    return text.encode(errors="backslashreplace").decode()
