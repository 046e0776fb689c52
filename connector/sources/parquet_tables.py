"""Read Parquet files: list rows by the hash of their values, a batch at a time.

Parquet has no rows to hash, so here a listing does decode every value that the settings name; the
cache spares it for a file that has not changed. To fetch a row is to decode its row group up to
it, so a table remembers where it stands and goes on from there: rows asked for in order are
decoded once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from connector.errors import TransientError
from connector.model import DocumentRef, Unreadable
from connector.sources.fields import EVERYTHING, Fields, UnusableError, as_document_id
from connector.sources.listing_cache import Extent, FileIdentity
from connector.sources.rows import BLOCK_BYTES, RowLocator, as_versions, row_locator

if TYPE_CHECKING:
    from connector.model import Positions, Versions

_Row: TypeAlias = tuple[object, ...]

BATCH_ROWS = 1_024  # bounds what is decoded at once, also where texts are long


class ParquetTable:
    """One Parquet file. Extents are counted in rows; the digest of each is that of the whole file."""

    def __init__(
        self, path: Path, name: str, identity: FileIdentity, settings_seed: int, *, id_field: str, fields: Sequence[str]
    ) -> None:
        self.path = path
        self.name = name
        self.identity = identity
        self._settings_seed = settings_seed
        self._id_field = id_field
        self._fields = fields
        self._rows: _RowStream | None = None
        self._lock = threading.Lock()  # of the stream: several threads may fetch

    @cached_property
    def _file(self) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(self.path)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise OSError(f"it is not a whole Parquet file ({error})") from error
        self.refuse_if_changed()
        return file

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self._file.schema_arrow.names)

    @cached_property
    def _chosen(self) -> tuple[str, ...]:
        """The columns that make up documents, in the file's order."""
        return tuple(name for name in self.columns if EVERYTHING in self._fields or name in self._fields)

    @cached_property
    def row_seed(self) -> int:
        return xxhash.xxh3_64_intdigest(msgspec.json.encode(self._chosen), self._settings_seed)

    @property
    def start(self) -> int:
        return 0

    @property
    def total(self) -> int:
        return self._file.metadata.num_rows

    @cached_property
    def _digest(self) -> bytes:
        hasher = xxhash.xxh3_128()
        with self.path.open("rb", buffering=0) as file:
            while piece := file.read(BLOCK_BYTES):
                hasher.update(piece)
        return hasher.digest()

    def holds(self, extent: Extent) -> bool:
        return extent.digest == self._digest

    def read(self, after: Extent | None) -> Iterator[tuple[Extent, Versions]]:
        start = after.end if after else 0
        while start < self.total:
            rows = self._decode(start, min(start + BATCH_ROWS, self.total))
            extent = Extent(start, len(rows), start + 1, len(rows), len(rows), self._digest)
            yield extent, as_versions(b"".join([self._version(row) for row in rows]))
            start = extent.end

    def refs(self, extent: Extent, versions: Versions, positions: Positions) -> Iterator[DocumentRef | Unreadable]:
        rows = self._decode(extent.start, extent.end)
        for position in positions.tolist():
            version = versions[position].tobytes()
            if position >= len(rows) or self._version(rows[position]) != version:
                raise TransientError(f"{self.name} changed while it was read; run again")
            try:
                document_id = as_document_id(self._as_fields(rows[position]).get(self._id_field))
            except UnusableError as error:
                yield Unreadable(self.place(extent, position), str(error))
            else:
                row = extent.start + position
                yield DocumentRef(document_id, version, RowLocator(self.path, row, 0, row + 1))

    def place(self, extent: Extent, position: int) -> str:
        return f"{self.name} row {extent.first_line + position}"

    def place_of(self, locator: RowLocator) -> str:
        return f"{self.name} row {locator.line}"

    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[tuple[DocumentRef, Fields | UnusableError]]:
        for ref in sorted(refs, key=lambda ref: row_locator(ref).start):
            start = row_locator(ref).start
            for row in self._decode(start, start + 1):
                if self._version(row) == ref.version:
                    yield ref, self._as_fields(row)

    def refuse_if_changed(self) -> None:
        if FileIdentity.of(self.path.stat()) != self.identity:
            raise TransientError(f"{self.name} changed while it was read; run again")

    def close(self) -> None:
        """Leave it open: the next rows may be asked for where these ended. pyarrow closes it in the end."""

    def _decode(self, start: int, end: int) -> list[_Row]:
        """Decode some rows, going on from the last ones if these come later."""
        with self._lock:
            if self._rows is None or self._rows.position > start:
                self._rows = _RowStream(self._file, self._chosen, start)
            return self._rows.take(start, end)

    def _version(self, row: _Row) -> bytes:
        return xxhash.xxh3_128_digest(msgspec.msgpack.encode(row, enc_hook=repr), self.row_seed)

    def _as_fields(self, row: _Row) -> Fields:
        return dict(zip(self._chosen, row, strict=True))


class _RowStream:
    """Decodes a file's rows forward, and holds no more than one batch of them."""

    def __init__(self, file: pq.ParquetFile, columns: Sequence[str], start: int) -> None:
        self._first = 0  # row number of the first row held
        self._held: list[_Row] = []
        groups = range(file.metadata.num_row_groups)
        for group in groups:
            if self._first + file.metadata.row_group(group).num_rows > start:
                groups = groups[group:]
                break
            self._first += file.metadata.row_group(group).num_rows
        self._batches = file.iter_batches(BATCH_ROWS, row_groups=list(groups), columns=list(columns))
        self._columns = columns

    @property
    def position(self) -> int:
        """The first row that can still be taken."""
        return self._first

    def take(self, start: int, end: int) -> list[_Row]:
        """Give some rows; fewer if the file ends."""
        taken: list[_Row] = []
        while start < end:
            if start < self._first + len(self._held):
                some = self._held[start - self._first : end - self._first]
                taken += some
                start += len(some)
            elif not self._advance():
                break
        return taken

    def _advance(self) -> bool:
        batch = next(self._batches, None)
        if batch is None:
            return False
        self._first += len(self._held)
        columns = [_values(batch.column(name)) for name in self._columns]
        self._held = list(zip(*columns, strict=True))
        return True


def _values(column: pa.Array[Any]) -> list[object]:
    """Make Python values of a column. Nanoseconds are cut to microseconds, which is what Python has."""
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    values: list[object] = column.to_pylist()
    return values
