"""Translate records to Pinecone's and back.

    record                            Pinecone record
    --------------------------------  -------------------------------------------------------------------------
    id                                id: see `RecordFormat`
    vector                            values, in the fewest digits that are read back as the same float32
    metadata                          metadata, under its own names: see `sinks.pinecone_metadata`
    text                              metadata["text"]
    (owner), document, index, digest  metadata["_vs_source"], "_vs_document", "_vs_index", "_vs_digest"
    what is not stored as it was      metadata["_vs_dropped"], ["_vs_cut"]: see `sinks.pinecone_metadata`

An id is made of what it stands for, so that people can read it and `list(prefix="guide.md#")` gives a document's.
The parts are percent-encoded, which leaves "!", "*", "#" and ":" to us, so no two of these lines share an id:

    guide%20book.md#00007         passage 7 of the document "guide book.md", of the sync named "default"
    wiki!guide%20book.md#00007    the same, of the sync "wiki"
    *<64 hex digits>#00007        of a document whose id would be too long: its hash; the id itself is in the metadata
    _vs:incarnation:wiki          no passage: the sync's own marker in a namespace
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import quote

import numpy as np
import orjson
from msgspec.structs import replace

from connector.errors import RejectedError
from connector.model import (
    HASH_BYTES,
    RESERVED_PREFIX,
    Detail,
    DocumentId,
    EmbeddedRecord,
    ForeignRecord,
    RecordId,
    StoredRecord,
    record_id,
)

from .pinecone_metadata import CUT, DROPPED, TEXT, Stored, read_metadata
from .pinecone_values import is_unicode, shown

if TYPE_CHECKING:
    from connector.model import Vectors

SOURCE: Final = f"{RESERVED_PREFIX}source"
DOCUMENT: Final = f"{RESERVED_PREFIX}document"
INDEX: Final = f"{RESERVED_PREFIX}index"
DIGEST: Final = f"{RESERVED_PREFIX}digest"
MARKER: Final = f"{RESERVED_PREFIX}marker"

ID_CHARACTERS: Final = 512
INDEX_DIGITS: Final = 18
DEFAULT_OWNER: Final = "default"
SMALLEST_PART: Final = 1e-8
"""A vector whose parts are all below this is "only zeros" to Pinecone, and refused (OpenAPI of 2026-07)."""


_INDEX: Final = re.compile(rf"0|[1-9][0-9]{{0,{INDEX_DIGITS - 1}}}")
_SAFE: Final = re.compile(r"[A-Za-z0-9_.~/-]*")
"""What percent-encoding leaves as it is."""


@dataclass(frozen=True, slots=True)
class RecordFormat:
    """How the records of one owner are named, and told apart from all others in a namespace."""

    owner: str
    prefix: str

    @classmethod
    def of(cls, owner: str) -> RecordFormat:
        return cls(owner, "" if owner == DEFAULT_OWNER else f"{_part(owner, 128)}!")

    @property
    def marker_id(self) -> str:
        """The id of this owner's marker in a namespace."""
        return f"{RESERVED_PREFIX.rstrip('_')}:incarnation:{_part(self.owner, 128)}"

    @property
    def pointer_id(self) -> str:
        """The id of the record that says which generation of this owner's is live."""
        return f"{RESERVED_PREFIX.rstrip('_')}:live:{_part(self.owner, 128)}"

    def last_id(self, drop: str) -> str:
        """The id of the record that is written last, while a namespace is taken away; each drop has its own."""
        return f"{RESERVED_PREFIX.rstrip('_')}:last:{_part(self.owner, 128)}:{drop}"

    def vector_id(self, id: RecordId) -> str | None:
        """Name a record as Pinecone does; None if no record of ours can have that id."""
        document, _, index = id.rpartition("#")
        if not _INDEX.fullmatch(index) or not is_unicode(document):
            return None
        return f"{self._document_part(document)}#{index:0>5}"

    def vector_id_of(self, record: EmbeddedRecord) -> str:
        """Name a record as Pinecone does; RejectedError if that, or its text, cannot be sent."""
        document, index = record.document_id, record.index
        if record.id != record_id(document, index):
            raise RejectedError(f'record "{shown(record.id)}" is not named after its document "{shown(document)}"')
        check_text(document, (record.text,))
        if not 0 <= index < 10**INDEX_DIGITS:
            raise RejectedError(f'record "{record.id}" has no place among the records of a document')
        return f"{self._document_part(document)}#{index:05}"

    def _document_part(self, document: str) -> str:
        return self.prefix + _part(document, ID_CHARACTERS - len(self.prefix) - 1 - INDEX_DIGITS)

    def marks(self, document: DocumentId, index: int, digest: bytes) -> Stored:
        """Say whose a record is, and what it was made of."""
        return {SOURCE: self.owner, DOCUMENT: document, INDEX: index, DIGEST: digest.hex()}

    def read(
        self, id: str, stored: Mapping[str, object], values: Sequence[float], detail: Detail
    ) -> StoredRecord | ForeignRecord:
        """Read a record that is in our namespace, whoever wrote it.

        A text that was cut, and metadata of which something was left out, are not given: they are not what was sent.
        """
        found = self.read_as_stored(id, stored, values, detail)
        if not isinstance(found, StoredRecord) or not (DROPPED in stored or CUT in stored):
            return found
        return replace(
            found,
            text=None if CUT in stored else found.text,
            metadata=None if DROPPED in stored else found.metadata,
        )

    def read_as_stored(
        self, id: str, stored: Mapping[str, object], values: Sequence[float], detail: Detail
    ) -> StoredRecord | ForeignRecord:
        """Read a record with whatever is there of its text and metadata."""
        owner = stored.get(SOURCE, stored.get(MARKER))
        if owner != self.owner:
            return ForeignRecord(id, owner if isinstance(owner, str) else None)
        document, index, digest = stored.get(DOCUMENT), stored.get(INDEX), stored.get(DIGEST)
        text = stored.get(TEXT)
        try:
            if not (isinstance(document, str) and isinstance(digest, str) and isinstance(text, str)):
                return ForeignRecord(id, self.owner)
            number = _whole(index)
            name, made_of = record_id(DocumentId(document), number), bytes.fromhex(digest)
            metadata = read_metadata(stored) if detail >= Detail.CONTENTS else None
        except ValueError:
            return ForeignRecord(id, self.owner)
        if self.vector_id(name) != id or len(made_of) != HASH_BYTES:
            return ForeignRecord(id, self.owner)
        return StoredRecord(
            name,
            DocumentId(document),
            number,
            made_of,
            text if detail >= Detail.CONTENTS else None,
            metadata,
            np.asarray(values, dtype=np.float32) if detail >= Detail.VECTORS else None,
        )


def check_text(document: DocumentId, texts: Sequence[str]) -> None:
    """Raise RejectedError if a document's id, or a text of it, cannot be sent."""
    if not is_unicode(document):
        raise RejectedError(f'document "{shown(document)}": its id is not valid Unicode')
    for text in texts:
        if not is_unicode(text):
            raise RejectedError(f'document "{shown(document)}": its text is not valid Unicode')


def checked_vectors(records: Sequence[EmbeddedRecord], dimension: int) -> Vectors:
    """Stack the vectors of a call; RejectedError names the first record whose vector Pinecone refuses or spoils.

    The SDK sends what is not a number as null, in silence (pinecone 10.2.0).
    """
    for record in records:
        if record.vector.shape != (dimension,):
            raise _bad_vector(record, f"has the shape {record.vector.shape}, the index {dimension} dimensions")
    vectors = np.asarray([record.vector for record in records], dtype=np.float32)
    largest_parts = np.abs(vectors).max(axis=1)
    finite = np.isfinite(largest_parts)
    if not finite.all():
        raise _bad_vector(records[int(np.argmin(finite))], "is not finite")
    sized = largest_parts >= SMALLEST_PART
    if not sized.all():
        raise _bad_vector(records[int(np.argmin(sized))], "is zero, which Pinecone does not take")
    return vectors


def written(vectors: Vectors) -> list[list[float]]:
    """Give vectors as JSON in the fewest digits that read back as the same float32, for the encoder of the SDK.

    They are no lists, which the SDK types them as, but pieces of JSON that its encoder takes as they are: 18 us for 384
    numbers, instead of 54 us as lists (`decimals`) and 42 us as lists of the longer digits of doubles; the body is 42 %
    smaller than that (pinecone 10.2.0, orjson 3.11, 2026-11). To write all rows at once and cut them apart takes 22.
    """
    fragments = [orjson.Fragment(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)) for row in vectors]
    return cast("list[list[float]]", fragments)


def decimals(vectors: Vectors) -> list[list[float]]:
    """Give numbers that any encoder of JSON writes in those digits."""
    read: list[list[float]] = orjson.loads(orjson.dumps(vectors, option=orjson.OPT_SERIALIZE_NUMPY))
    return read


def _bad_vector(record: EmbeddedRecord, reason: str) -> RejectedError:
    return RejectedError(f'document "{shown(record.document_id)}", passage {record.index}: its vector {reason}')


@lru_cache(maxsize=4096)
def _part(text: str, room: int) -> str:
    """Write a text in ASCII, within a number of characters, and never as another text is written."""
    written = text if _SAFE.fullmatch(text) else quote(text, safe="/")
    return written if len(written) <= room else f"*{blake2b(text.encode(), digest_size=32).hexdigest()}"


def _whole(number: object) -> int:
    """Read a whole number, which Pinecone gives back as a double; ValueError if it is none."""
    if isinstance(number, bool) or not isinstance(number, int | float) or not float(number).is_integer():
        raise ValueError(f"{number} is not a whole number")
    return int(number)
