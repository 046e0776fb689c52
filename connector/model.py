"""The values that flow through a sync, in the order they come to be.

    DocumentRef -> Change -> Document -> Passage -> EmbeddedRecord -> Entry
      listed       planned   fetched     split       embedded         committed

All of them are immutable, and none of them does I/O. They are msgspec's structs, because they are made by
the million: a frozen dataclass takes eight times as long, and the garbage collector looks at each.

Hashes are 16 bytes. A *version* is the source's opaque mark of one state of one document; a
*fingerprint* is that version under a recipe (`plan.fingerprint`); a *digest* is what one record
was made of, so two records with the same digest are the same record.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, NewType, TypeAlias

import msgspec

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


class DocumentRef(msgspec.Struct, frozen=True, gc=False):
    """One line of a source's listing: enough to tell whether the document changed, and to fetch it."""

    id: DocumentId
    version: bytes
    locator: object = None  # the source's own: a byte offset, a row number, a path


class Unreadable(msgspec.Struct, frozen=True, gc=False):
    """A place in the source that should hold a document, but whose document cannot be told.

    It may hide any document, so while there is one, no document is deleted for being absent
    unless the operator confirms it.
    """

    place: str  # for people: "rows.jsonl line 17"
    reason: str


class ListingComplete(msgspec.Struct, frozen=True, gc=False):
    """The last thing a listing yields. Without it, nothing that is absent counts as deleted."""

    count: int  # how many rows, files, ... were listed, readable or not


class Document(msgspec.Struct, frozen=True, gc=False):
    """A document as it was fetched; `version` is of what was fetched, not of what was listed."""

    id: DocumentId
    version: bytes
    text: str
    metadata: Metadata
    markdown: bool = False  # split along its headings and blocks


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """A document that the source names but cannot give, and why.

    A lasting one (a kept field is missing) means that the document, as it is now, is not to be
    in any sink; it is not looked at again until its version changes. A passing one (permission
    denied) leaves the sinks as they are, and every run tries again.
    """

    id: DocumentId
    version: bytes
    reason: str
    passing: bool = False


class Passage(msgspec.Struct, frozen=True, gc=False):
    """A piece of a document that is short enough to embed without being cut."""

    document_id: DocumentId
    index: int
    text: str


class EmbeddedRecord(msgspec.Struct, frozen=True, gc=False, eq=False):
    """What a sink stores: one passage, its vector, and its document's metadata."""

    id: RecordId
    document_id: DocumentId
    index: int
    vector: Vectors  # shape (dimension,), finite
    text: str
    metadata: Metadata
    digest: bytes

    def __eq__(self, other: object) -> bool:
        """Compare all but the vectors, which are equal only to within what a store keeps of them."""
        return isinstance(other, EmbeddedRecord) and self._but_the_vector() == other._but_the_vector()

    def __hash__(self) -> int:
        return hash(self.id)

    def _but_the_vector(self) -> tuple[object, ...]:
        return (self.id, self.document_id, self.index, self.text, self.metadata, self.digest)


class Detail(IntEnum):
    """How much a scan tells of each record; each level includes those before it."""

    MARKS = 0  # whose it is, and the digest of what it was made of
    CONTENTS = 1  # also its text and metadata
    VECTORS = 2  # also its vector


class StoredRecord(msgspec.Struct, frozen=True, gc=False):
    """What a scan tells of one of our records: whose it is, what it was made of, and as much more as was asked for."""

    id: RecordId
    document_id: DocumentId
    index: int
    digest: bytes
    text: str | None = None  # from Detail.CONTENTS on
    metadata: Metadata | None = None  # the same
    vector: Vectors | None = None  # at Detail.VECTORS: as the sink keeps it, so perhaps normalised or rounded


class ForeignRecord(msgspec.Struct, frozen=True, gc=False):
    """A record in our collection that is not ours to touch, or whose marks cannot be ours."""

    name: str  # as the database names it: a point id, a vector id
    owner: str | None = None  # whose mark it bears, if any; our own if its other marks are damaged


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A document as it would be stored, before anything is paid for its vectors."""

    document_id: DocumentId
    texts: tuple[str, ...]
    metadata: Metadata


class Fit(msgspec.Struct, frozen=True, gc=False):
    """Whether a sink can store a document, and what of it would not be as the source has it."""

    refusal: str | None = None  # why it can never be stored
    alterations: tuple[str, ...] = ()  # one line each, as the settings of the sink allow


FITS = Fit()
"""All of it, as it is."""


class Hit(msgspec.Struct, frozen=True, gc=False):
    """One answer to a search. A higher score is nearer; scores of two sinks do not compare."""

    id: RecordId
    document_id: DocumentId
    index: int
    score: float
    text: str
    metadata: Metadata


class Entry(msgspec.Struct, frozen=True, gc=False):
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
