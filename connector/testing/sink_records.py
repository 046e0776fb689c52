"""What the sink kit asks of whoever is held to it, and the records that it is held to it with."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

import numpy as np

from connector.model import (
    HASH_BYTES,
    DocumentId,
    EmbeddedRecord,
    ForeignRecord,
    Metadata,
    RecordId,
    StoredRecord,
    record_id,
)
from connector.ports import Sink

if TYPE_CHECKING:
    from connector.model import Vectors

DIMENSION = 4

# Unit vectors whose parts float32 holds exactly: sinks that normalise, and sinks that keep four bytes a
# part, still give back what they were given.
VECTORS: tuple[Vectors, ...] = tuple(
    np.array(parts, dtype=np.float32) for parts in itertools.product((0.5, -0.5), repeat=DIMENSION)
)
TOLERANCE = 1e-6

METADATA: Metadata = {"title": "Größe & “quotes”", "page": 7, "score": 0.1, "draft": False, "tags": ["a", "b"]}
RICH_METADATA: Metadata = {
    "nothing": None,
    "empty": "",
    "an empty list": [],
    "nested": {"deeper": [{"a.b": 1}, None, [1.5, -0.0]]},
    "2^53 + 1": 2**53 + 1,
    "most negative": -(2**63),
    "tiny": 5e-324,
    "a.dotted[0]name": "kept",
    "astral": "🚢\N{NULL}\u2028",
}
AWKWARD_IDS = (
    "a",
    "A",
    "a#0",
    "a/b",
    "a b",
    "a\n",
    "\u00e4",
    "a\u0308",
    "日本語",
    "0",
    "00",
    "null",
    "'; DROP",
    "%2F",
    "x" * 200,
    "x" * 199 + "y",
    "x" * 2000,
    "https://example.com/p?q=1&r=#frag",
    "C:\\docs\\a.txt",
    "00000000-0000-0000-0000-000000000000",
)


class SinkHarness(Protocol):
    """What the contract needs, besides the sink, of whoever wrote it."""

    @property
    def sink(self) -> Sink:
        """The current sink; at first one that is prepared for DIMENSION, on an empty collection."""
        ...

    def stored(self) -> Mapping[RecordId, EmbeddedRecord]:
        """Read all of the connector's records back, not through the sink, once writes have settled."""
        ...

    def exists(self) -> bool:
        """Tell whether there is a collection, not through the sink."""
        ...

    def reopen(self) -> Sink:
        """Close the sink, and build another from the same settings, as the next run does. It is not prepared."""
        ...

    def remove(self) -> None:
        """Close the sink, and remove the collection behind its back."""
        ...

    def unacceptable(self) -> EmbeddedRecord:
        """Give a well-formed record that this sink can never accept."""
        ...

    def fail_next_call(self, *, passing: bool, retry_after_seconds: float | None = None) -> None:
        """Let the service fail the sink's next call: for now, naming a wait, or for good."""
        ...

    def plant_foreign(self, vector: Vectors) -> None:
        """Put a record into the collection that is not the connector's."""
        ...

    def foreign_is_intact(self) -> bool:
        """Tell whether the planted record is as it was."""
        ...

    def damage(self, id: RecordId) -> None:
        """Alter what marks a record as ours, not through the sink: not whose it is, but which record, or of what."""
        ...


def record(
    document: str = "doc",
    index: int = 0,
    *,
    vector: Vectors | None = None,
    text: str | None = None,
    metadata: Metadata = METADATA,
    digest: bytes | None = None,
) -> EmbeddedRecord:
    """Make a record that every sink accepts; what is not said follows from `document` and `index`."""
    id = record_id(DocumentId(document), index)
    return EmbeddedRecord(
        id=id,
        document_id=DocumentId(document),
        index=index,
        vector=VECTORS[index % len(VECTORS)] if vector is None else vector,
        text=f"passage {index} of {document[:50]}" if text is None else text,
        metadata=metadata,
        digest=blake2b(id.encode(), digest_size=HASH_BYTES).digest() if digest is None else digest,
    )


def stored(record: EmbeddedRecord) -> StoredRecord:
    """Say what a scan is to tell of the marks of a record."""
    return StoredRecord(record.id, record.document_id, record.index, record.digest)


def ours(scanned: Iterable[StoredRecord | ForeignRecord]) -> list[StoredRecord]:
    """Keep our own of what a scan gave, which may come in any order, sorted by id."""
    return sorted((each for each in scanned if isinstance(each, StoredRecord)), key=lambda each: each.id)


def foreign(scanned: Iterable[StoredRecord | ForeignRecord]) -> list[ForeignRecord]:
    """Keep of what a scan gave what is not ours."""
    return [each for each in scanned if isinstance(each, ForeignRecord)]


def assert_stored(harness: SinkHarness, records: Sequence[EmbeddedRecord]) -> None:
    """Assert that the collection holds these records of ours, whole, and no others."""
    found = harness.stored()
    assert found == {each.id: each for each in records}
    for each in records:  # vectors do not take part in the comparison of records
        np.testing.assert_allclose(found[each.id].vector, each.vector, atol=TOLERANCE)
