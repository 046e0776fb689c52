"""A source that is a dictionary, with knobs for what goes wrong in real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import xxhash

from connector.errors import TransientError
from connector.fingerprints import from_bytes
from connector.model import (
    Document,
    DocumentId,
    DocumentRef,
    JsonValue,
    ListingComplete,
    Rejection,
    Unreadable,
)
from connector.ports import Listing

if TYPE_CHECKING:
    from connector.model import Positions, Versions

RowValue = tuple[str, dict[str, JsonValue]]  # text, metadata


@dataclass(frozen=True, slots=True)
class Row:
    """One listed row; a row without an id is an unreadable place."""

    id: str | None
    text: str = ""
    metadata: dict[str, JsonValue] = field(default_factory=dict)
    salt: str = ""  # changes the version, and nothing else

    @property
    def version(self) -> bytes:
        """What a line of a file would hash to."""
        return xxhash.xxh3_128_digest(json.dumps([self.id, self.text, self.metadata, self.salt]).encode())


@dataclass(frozen=True, slots=True)
class RowListing:
    """A batch of rows."""

    rows: Sequence[Row]
    first: int
    fraction: float

    @property
    def versions(self) -> Versions:
        return from_bytes(b"".join(row.version for row in self.rows))

    def refs(self, positions: Positions) -> Iterator[DocumentRef | Unreadable]:
        for position in positions.tolist():
            row = self.rows[position]
            if row.id is None:
                yield Unreadable(self.place(position), "not a row")
            else:
                yield DocumentRef(DocumentId(row.id), row.version, row)

    def place(self, position: int) -> str:
        return f"row {self.first + position}"


@dataclass(slots=True)
class DictSource:
    """Lists `rows` as they are when the listing begins, in batches of `rows_per_batch`."""

    rows: list[Row] = field(default_factory=list)
    rows_per_batch: int = 3
    breaks_off_after: int | None = None  # rows; then the listing raises
    vanished: set[str] = field(default_factory=set)  # ids that `fetch` leaves out
    rejected: dict[str, Rejection] = field(default_factory=dict)  # what `fetch` gives instead, by id
    edited: dict[str, Row] = field(default_factory=dict)  # what `fetch` reads instead, by id
    fetched: list[str] = field(default_factory=list, init=False)

    def set(self, documents: dict[str, str | RowValue]) -> None:
        """List these documents from now on; a bare text has its own first word as metadata."""
        self.rows = [
            Row(id, value, {"title": value.split(" ")[0]}) if isinstance(value, str) else Row(id, *value)
            for id, value in documents.items()
        ]

    def check(self) -> None:
        pass

    def list(self) -> Iterator[Listing | ListingComplete]:
        rows = list(self.rows)
        for first in range(0, len(rows), self.rows_per_batch):
            batch = rows[first : first + self.rows_per_batch]
            if self.breaks_off_after is not None and first + len(batch) > self.breaks_off_after:
                raise TransientError("the listing broke off")
            yield RowListing(batch, first, (first + len(batch)) / len(rows))
        yield ListingComplete(len(rows))

    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[Document | Rejection]:
        for ref in refs:
            if ref.id in self.vanished:
                continue
            self.fetched.append(ref.id)
            if ref.id in self.rejected:
                yield Rejection(ref.id, ref.version, self.rejected[ref.id].reason, self.rejected[ref.id].passing)
            else:
                row = self.edited.get(ref.id, ref.locator)
                assert isinstance(row, Row)
                yield Document(ref.id, row.version, row.text, row.metadata)
