"""The values that flow through a sync, in the order they come to be.

    DocumentRef -> Change -> Document -> Passage -> EmbeddedRecord -> Entry
      listed       planned   fetched     split       embedded         committed

All of them are immutable, and none of them does I/O.

Hashes are 16 bytes. A *version* is the source's opaque mark of one state of one document; a
*fingerprint* is that version under a recipe (`plan.fingerprint`); a *digest* is what one record
was made of, so two records with the same digest are the same record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NewType, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]
    """One vector of shape (dimension,), or a batch of shape (n, dimension)."""
    Versions: TypeAlias = NDArray[np.uint8]
    """n versions as an array of shape (n, 16), C-contiguous."""
    Positions: TypeAlias = NDArray[np.intp]

HASH_BYTES = 16

DocumentId = NewType("DocumentId", str)
RecordId = NewType("RecordId", str)

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
Metadata: TypeAlias = Mapping[str, JsonValue]

RESERVED_PREFIX = "_vs_"
"""Metadata names that start so are the connector's own marks in a sink."""
RESERVED_NAMES = frozenset({"text"})
"""Metadata names under which a sink stores something else: the passage."""


class InputType(StrEnum):
    """What a text is embedded for; some models embed a question unlike a passage."""

    SEARCH_DOCUMENT = "search_document"
    SEARCH_QUERY = "search_query"


@dataclass(frozen=True, slots=True)
class DocumentRef:
    """One line of a source's listing: enough to tell whether the document changed, and to fetch it."""

    id: DocumentId
    version: bytes
    locator: object = None  # the source's own: a byte offset, a row number, a path


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A place in the source that should hold a document, but whose document cannot be told.

    It may hide any document, so while there is one, no document is deleted for being absent
    unless the operator confirms it.
    """

    place: str  # for people: "rows.jsonl line 17"
    reason: str


@dataclass(frozen=True, slots=True)
class ListingComplete:
    """The last thing a listing yields. Without it, nothing that is absent counts as deleted."""

    count: int  # how many rows, files, ... were listed, readable or not


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was fetched; `version` is of what was fetched, not of what was listed."""

    id: DocumentId
    version: bytes
    text: str
    metadata: Metadata
    markdown: bool = False  # split along its headings and blocks


@dataclass(frozen=True, slots=True)
class Rejection:
    """A document that the source names but cannot give, and why.

    A lasting one (a kept field is missing) means that the document, as it is now, is not to be
    in any sink; it is not looked at again until its version changes. A passing one (permission
    denied) leaves the sinks as they are, and every run tries again.
    """

    id: DocumentId
    version: bytes
    reason: str
    passing: bool = False


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document that is short enough to embed without being cut."""

    document_id: DocumentId
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class EmbeddedRecord:
    """What a sink stores: one passage, its vector, and its document's metadata."""

    id: RecordId
    document_id: DocumentId
    index: int
    vector: Vectors = field(compare=False)  # shape (dimension,), finite
    text: str
    metadata: Metadata
    digest: bytes


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """What a scan tells of one record: whose it is, and what it was made of."""

    id: RecordId
    document_id: DocumentId
    index: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer to a search. A higher score is nearer; scores of two sinks do not compare."""

    id: RecordId
    document_id: DocumentId
    index: int
    score: float
    text: str
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of one sink's ledger: what is known of one document there.

    `passages` holds the digest of each record. Its length is the document's extent: the sink may
    hold records 0..extent-1 of it, and no others. UNKNOWN in a place means that the record there
    may be the old one, the new one, or missing.
    """

    document_id: DocumentId
    fingerprint: bytes | None  # None: written to, perhaps, or not readable; not in step
    content: bytes | None  # hash of the document's whole text, as it was last delivered
    passages: tuple[bytes, ...]
    problem: str | None = None  # why the document is rejected

    @property
    def extent(self) -> int:
        """How many records of the document the sink may hold."""
        return len(self.passages)


UNKNOWN = bytes(HASH_BYTES)
"""The digest of a record that a sink may or may not hold."""


def record_id(document_id: DocumentId, index: int) -> RecordId:
    """Name the index-th record of a document: the same in every run and every sink."""
    return RecordId(f"{document_id}#{index}")
