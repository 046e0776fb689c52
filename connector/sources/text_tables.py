"""Read JSONL and CSV files: list rows by their hashes, and parse only those that are asked for."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import xxhash

from connector.errors import ConfigError, TransientError
from connector.model import HASH_BYTES, DocumentRef, Unreadable
from connector.sources.fields import Fields, UnusableError, as_document_id
from connector.sources.listing_cache import Extent, FileIdentity
from connector.sources.rows import (
    MAX_ROW_BYTES,
    Row,
    RowFraming,
    RowLocator,
    as_versions,
    row_locator,
    rows_by_position,
    rows_of,
)

if TYPE_CHECKING:
    from connector.model import Positions, Versions

EXTENT_ROWS = 32_768
EXTENT_BYTES = 16 << 20
NEAR_BYTES = 64 << 10  # rows this near each other are read with one call
READ_BYTES = 8 << 20  # ... as long as they begin within so much
HEADER_BLOCK_BYTES = 64 << 10
UTF8_BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")

# The module's own limit on a cell is 128 KiB, for the whole process. A row's is what counts here.
csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))


class RowFormat(Protocol):
    """How one row is written. Methods raise UnusableError for a row that is not."""

    @property
    def framing(self) -> RowFraming: ...

    @property
    def has_header(self) -> bool: ...

    def read_header(self, raw: bytes) -> tuple[str, ...]:
        """Name the columns; only called if there is a header."""
        ...

    def id_of(self, raw: bytes, header: tuple[str, ...]) -> object:
        """Parse as little of a row as shows its id; None if it has none."""
        ...

    def parse(self, raw: bytes, header: tuple[str, ...]) -> Fields:
        """Parse all of a row."""
        ...


class JsonLines:
    """One JSON object a line."""

    has_header = False

    def __init__(self, id_field: str, framing: RowFraming | None = None) -> None:
        self.framing = framing or RowFraming(quoted=False)
        only_id = msgspec.defstruct("OnlyId", [("id", object, None)], rename={"id": id_field}, gc=False)
        self._only_id = msgspec.json.Decoder(only_id)
        self._whole = msgspec.json.Decoder(dict[str, object])

    def read_header(self, raw: bytes) -> tuple[str, ...]:
        del raw
        return ()

    def id_of(self, raw: bytes, header: tuple[str, ...]) -> object:
        del header
        _as_utf8(raw)  # the decoder does not look at strings that it skips
        try:
            return getattr(self._only_id.decode(raw), "id")  # noqa: B009 - mypy does not know the struct made above
        except (msgspec.MsgspecError, RecursionError) as error:
            raise UnusableError(_broken_json(error)) from error

    def parse(self, raw: bytes, header: tuple[str, ...]) -> Fields:
        del header
        try:
            return self._whole.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise UnusableError(_broken_json(error)) from error


class CsvRows:
    """RFC 4180, with a header. All values are strings; an empty cell is a value that is not there."""

    has_header = True

    def __init__(self, id_field: str, delimiter: str, framing: RowFraming | None = None) -> None:
        self.framing = framing or RowFraming(quoted=True)
        self._id_field = id_field
        self._delimiter = delimiter

    def read_header(self, raw: bytes) -> tuple[str, ...]:
        return tuple(self._cells(raw))

    def id_of(self, raw: bytes, header: tuple[str, ...]) -> object:
        return self.parse(raw, header).get(self._id_field)

    def parse(self, raw: bytes, header: tuple[str, ...]) -> Fields:
        cells = self._cells(raw)
        if len(cells) != len(header):
            raise UnusableError(f"broken CSV: the row has {len(cells)} cells, and the header {len(header)}")
        return {name: cell or None for name, cell in zip(header, cells, strict=True)}

    def _cells(self, raw: bytes) -> list[str]:
        text = _as_utf8(raw)
        try:
            (cells,) = csv.reader((text,), delimiter=self._delimiter, strict=True)
        except csv.Error as error:
            hint = "; a quote inside a cell is written twice, and the cell between quotes" if '"' in text else ""
            raise UnusableError(f"broken CSV: {str(error).split(' - ')[0]}{hint}") from error
        return cells


@dataclass(slots=True)
class TextTable:
    """One JSONL or CSV file, opened when its bytes are first needed, and then only once."""

    path: Path
    name: str  # for people
    format: RowFormat
    settings_seed: int  # of all that decides what becomes of a row, besides the row
    identity: FileIdentity
    _descriptor: int | None = None
    _columns: tuple[str, ...] = ()
    _row_seed: int = 0
    _body_start: int = 0
    _body_line: int = 1

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def descriptor(self) -> int:
        """The open file. Raises OSError, or ConfigError if its beginning cannot be understood."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self.refuse_if_changed()
            self._read_beginning(self._descriptor)
        return self._descriptor

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns that every row has; None if each row names its own."""
        _ = self.descriptor
        return self._columns if self.format.has_header else None

    @property
    def row_seed(self) -> int:
        """What rows are hashed with: a row means something else under another header."""
        _ = self.descriptor
        return self._row_seed

    @property
    def start(self) -> int:
        """Where the first extent begins."""
        _ = self.descriptor
        return self._body_start

    @property
    def total(self) -> int:
        """Where the last extent ends."""
        return self.identity.size

    def refuse_if_changed(self) -> None:
        """Raise TransientError if the file was written to since it was first looked at."""
        if self._descriptor is not None and FileIdentity.of(os.fstat(self._descriptor)) != self.identity:
            raise TransientError(f"{self.name} changed while it was read; run again")

    def holds(self, extent: Extent) -> bool:
        """L1: whether the file still has, at an extent's place, what it had there."""
        hasher = xxhash.xxh3_128()
        position = extent.start
        while position < extent.end:
            piece = os.pread(self.descriptor, min(self.format.framing.block_bytes, extent.end - position), position)
            if not piece:
                return False
            hasher.update(piece)
            position += len(piece)
        return hasher.digest() == extent.digest

    def read(self, after: Extent | None) -> Iterator[tuple[Extent, Versions]]:
        """L2: cut the file into rows and hash each one, from where an extent ends."""
        start = after.end if after else self.start
        line = after.first_line + after.line_count if after else self._body_line
        raw, versions, line_count, size = xxhash.xxh3_128(), bytearray(), 0, 0

        def extent() -> tuple[Extent, Versions]:
            row_count = len(versions) // HASH_BYTES
            return Extent(start, size, line, line_count, row_count, raw.digest()), as_versions(versions)

        for block in self.format.framing.blocks(self.descriptor, start, self.identity.size, self.row_seed, raw):
            versions += block.versions(self.row_seed)
            line_count += block.line_count
            size += block.size
            if len(versions) >= EXTENT_ROWS * HASH_BYTES or size >= EXTENT_BYTES:
                yield extent()
                start, line = start + size, line + line_count
                raw.reset()
                versions, line_count, size = bytearray(), 0, 0
        if size:
            yield extent()

    def refs(self, extent: Extent, versions: Versions, positions: Positions) -> Iterator[DocumentRef | Unreadable]:
        """Read an extent again, and parse the rows asked for."""
        found: dict[int, DocumentRef | Unreadable] = {}
        wanted = sorted(set(positions.tolist()))
        seed = self.row_seed
        joined = versions.tobytes()
        first = 0  # position of the block's first row
        for rows in self._blocks_of_rows(extent):
            while len(found) < len(wanted) and (position := wanted[len(found)]) < first + len(rows):
                row = rows[position - first]
                version = joined[HASH_BYTES * position : HASH_BYTES * (position + 1)]
                if row.raw is not None and xxhash.xxh3_128_digest(row.raw, seed) != version:
                    raise TransientError(f"{self.name} changed while it was read; run again")
                found[position] = self._ref(row, version)
            first += len(rows)
        if len(found) < len(wanted):
            raise TransientError(f"{self.name} changed while it was read; run again")
        for position in positions.tolist():
            yield found[position]

    def place(self, extent: Extent, position: int) -> str:
        """Name a row for people, without reading it if every line of its extent is a row."""
        line = extent.first_line + position
        if extent.row_count < extent.line_count:
            line = next(islice(chain.from_iterable(self._blocks_of_rows(extent)), position, None)).line
        return f"{self.name} line {line}"

    def place_of(self, locator: RowLocator) -> str:
        """Name a row that was listed."""
        return f"{self.name} line {locator.line}"

    def _blocks_of_rows(self, extent: Extent) -> Iterator[Sequence[Row]]:
        """Read an extent again."""
        line = extent.first_line
        for block in self.format.framing.blocks(self.descriptor, extent.start, extent.end, self.row_seed):
            yield rows_by_position(block, line)
            line += block.line_count

    def _ref(self, row: Row, version: bytes) -> DocumentRef | Unreadable:
        place = f"{self.name} line {row.line}"
        if row.raw is None:
            hint = "; is a quote in it never closed?" if self.format.framing.quoted else ""
            limit = self.format.framing.max_row_bytes
            return Unreadable(place, f"the row has {row.size:,} bytes; {limit:,} are the limit{hint}")
        try:
            document_id = as_document_id(self.format.id_of(row.raw, self._columns))
        except UnusableError as error:
            hint = "" if row.raw.endswith(b"\n") else "; the file ends within this line, is it still being written?"
            return Unreadable(place, f"{error}{hint}")
        return DocumentRef(document_id, version, RowLocator(self.path, row.start, row.size, row.line))

    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[tuple[DocumentRef, Fields | UnusableError]]:
        """Read rows where they were listed; leave out those that are not there any more."""
        for ref, raw in self._read_rows(sorted(refs, key=lambda ref: row_locator(ref).start)):
            if xxhash.xxh3_128_digest(raw, self.row_seed) == ref.version:
                try:
                    yield ref, self.format.parse(raw, self._columns)
                except UnusableError as error:
                    yield ref, error

    def _read_rows(self, refs: Sequence[DocumentRef]) -> Iterator[tuple[DocumentRef, bytes]]:
        """Read rows that stand near each other with one call."""
        first = 0
        while first < len(refs):
            start = row_locator(refs[first]).start
            end = start
            last = first
            while last < len(refs):
                locator = row_locator(refs[last])
                if last > first and (locator.start > end + NEAR_BYTES or locator.start > start + READ_BYTES):
                    break
                end = locator.start + locator.size
                last += 1
            piece = os.pread(self.descriptor, end - start, start)
            for ref in refs[first:last]:
                at = row_locator(ref).start - start
                yield ref, piece[at : at + row_locator(ref).size]
            first = last

    def _read_beginning(self, descriptor: int) -> None:
        """Find where the rows begin, and what they are hashed with."""
        beginning = os.pread(descriptor, len(UTF8_BOM), 0)
        if beginning.startswith(UTF16_BOMS):
            raise ConfigError(f"{self.name} is written in UTF-16; save it as UTF-8")
        self._body_start = len(UTF8_BOM) if beginning == UTF8_BOM else 0
        self._row_seed = self.settings_seed
        if not self.format.has_header:
            return
        framing = replace(self.format.framing, block_bytes=HEADER_BLOCK_BYTES)
        for block in framing.blocks(descriptor, self._body_start, self.identity.size, seed=0):
            for row in rows_of(block, self._body_line):
                self._read_header(row)
                return
            self._body_line += block.line_count
        raise ConfigError(f"{self.name} has no header line; the first line names the columns")

    def _read_header(self, row: Row) -> None:
        if row.raw is None:
            raise ConfigError(f"{self.name} has a header of {row.size:,} bytes; is a quote in it never closed?")
        try:
            self._columns = self.format.read_header(row.raw)
        except UnusableError as error:
            raise ConfigError(f"the header of {self.name} cannot be read: {error}") from error
        self._row_seed = xxhash.xxh3_64_intdigest(row.raw.rstrip(b"\r\n"), self.settings_seed)
        self._body_start = row.start + row.size
        self._body_line = row.line + row.raw.count(b"\n")


def _as_utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UnusableError(f"invalid UTF-8 at byte {error.start + 1} of the row") from error


def _broken_json(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "broken JSON: nested too deep"
    reason = str(error).removeprefix("JSON is malformed: ")
    return f"broken JSON: {reason[:1].lower()}{reason[1:]}"
