r"""Cut a file of rows into rows without parsing one, so that a million known rows cost one hash each.

    byte 0    [BOM] [CSV header]  row \n row \n row \n ...
                                  '----- block -----'

A block is read at the offset where a row starts and ends where a row ends; what is left of the
last read is read again with the next one. So nothing is carried over, and no more is held than one block
or one row, and of a row over `MAX_ROW_BYTES` nothing at all.

A row ends at a line feed; in CSV, at one before which the number of quotes is even. That is what
RFC 4180 says. A stray quote inside an unquoted cell breaks the rule; then rows run together, and the parser refuses
them: a mistake here makes rows unreadable, and never makes other rows.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, overload

import msgspec
import numpy as np
import xxhash

from connector.model import DocumentRef

if TYPE_CHECKING:
    from connector.model import Versions

BLOCK_BYTES = 256 << 10  # measured: larger blocks leave the processor's cache, smaller ones cost calls
MAX_ROW_BYTES = 16 << 20
QUOTE = b'"'


class Hasher(Protocol):
    """Takes in bytes piece by piece."""

    def update(self, part: bytes | memoryview, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows that follow each other in a file, and the blank lines between them, which are no rows."""

    start: int  # bytes into the file
    size: int  # bytes
    records: Sequence[bytes]  # with their line ends; in CSV, one may have several lines
    line_count: int
    long_row_digest: bytes | None = None  # if it is one row, too long to hold

    def versions(self, seed: int) -> bytes:
        """Hash each row, 16 bytes each."""
        if self.long_row_digest is not None:
            return self.long_row_digest
        digest = xxhash.xxh3_128_digest
        return b"".join([digest(record, seed) for record in self.records if not record.isspace()])


class Row(NamedTuple):
    """A row and where it stands."""

    start: int  # bytes into the file
    size: int  # bytes, its line end included
    line: int  # counted from 1
    raw: bytes | None  # None: it is too long to hold


def rows_of(block: Block, first_line: int) -> Iterator[Row]:
    """Go through the rows of a block, in the order of its versions."""
    if block.long_row_digest is not None:
        yield Row(block.start, block.size, first_line, None)
    start, line = block.start, first_line
    for record in block.records:
        if not record.isspace():
            yield Row(start, len(record), line, record)
        start += len(record)
        line += record.count(b"\n")


def rows_by_position(block: Block, first_line: int) -> Sequence[Row]:
    """Give the rows of a block by their positions in its versions, and make only those that are asked for."""
    has_plain_lines = len(block.records) == block.line_count and not any(map(bytes.isspace, block.records))
    return PlainRows(block, first_line) if has_plain_lines else list(rows_of(block, first_line))


class PlainRows(Sequence[Row]):
    """The rows of a block in which each line is a row."""

    def __init__(self, block: Block, first_line: int) -> None:
        self._records = block.records
        self._starts = list(accumulate(map(len, block.records), initial=block.start))
        self._first_line = first_line

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, position: int) -> Row: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Row]: ...
    def __getitem__(self, position: int | slice) -> Row | Sequence[Row]:
        if isinstance(position, slice):
            return [self[each] for each in range(*position.indices(len(self)))]
        record = self._records[position]
        return Row(self._starts[position], len(record), self._first_line + position, record)


class RowLocator(msgspec.Struct, frozen=True, gc=False):
    """Where a row was when it was listed."""

    path: Path
    start: int  # a byte offset, or the number of a Parquet row
    size: int  # bytes
    line: int  # counted from 1, for people


@dataclass(frozen=True, slots=True)
class RowFraming:
    """How rows are told apart in one kind of file."""

    quoted: bool  # line feeds within quotes do not end a row
    block_bytes: int = BLOCK_BYTES
    max_row_bytes: int = MAX_ROW_BYTES

    def blocks(self, descriptor: int, start: int, end: int, seed: int, raw: Hasher | None = None) -> Iterator[Block]:
        """Read the blocks from one row's start to another's end, which may be the end of the file.

        `seed` is that of the versions. `raw` takes in every byte that the blocks so far are made of.
        """
        while start < end:
            piece = os.pread(descriptor, min(self.block_bytes, end - start), start)
            if not piece:
                return  # the file has shrunk; whoever reads it looks at its size again afterwards
            block = self._block(piece, start, is_last=start + len(piece) >= end)
            if block is None:
                block = self._long_row(descriptor, start, end, seed, raw)
            elif raw is not None:
                raw.update(memoryview(piece)[: block.size])
            yield block
            start += block.size

    def _block(self, piece: bytes, start: int, *, is_last: bool) -> Block | None:
        """Cut the rows off a piece of a file; None if no row ends in it."""
        records = io.BytesIO(piece).readlines()  # twice as fast as `split`
        line_count = len(records)
        rest = b"" if records[-1].endswith(b"\n") else records.pop()
        if self.quoted and QUOTE in piece:
            records, still_open = _join_quoted(records)
            rest = b"".join([*still_open, rest])
        if is_last:
            return Block(start, len(piece), [*records, rest] if rest else records, line_count)
        size = len(piece) - len(rest)
        return Block(start, size, records, line_count - _line_count(rest)) if size else None

    def _long_row(self, descriptor: int, start: int, end: int, seed: int, raw: Hasher | None) -> Block:
        """Find the end of a row that is longer than a block, and read it again only if it may be held."""
        version = xxhash.xxh3_128(seed=seed)
        position, line_count = start, 0
        is_open, ended = False, False
        while not ended and position < end:
            piece = os.pread(descriptor, min(self.block_bytes, end - position), position)
            if not piece:
                break
            size, is_open, ended = self._row_end(piece, is_open=is_open)
            part = memoryview(piece)[:size]
            version.update(part)
            if raw is not None:
                raw.update(part)
            line_count += piece.count(b"\n", 0, size)
            position += size
        line_count += not ended
        size = position - start
        if size > self.max_row_bytes:
            return Block(start, size, (), line_count, long_row_digest=version.digest())
        return Block(start, size, (os.pread(descriptor, size, start),), line_count)

    def _row_end(self, piece: bytes, *, is_open: bool) -> tuple[int, bool, bool]:
        """How much of a piece belongs to the row it begins in, whether a quote is open then, and whether it ended."""
        if not self.quoted:
            end = piece.find(b"\n") + 1
            return end or len(piece), False, bool(end)
        at = 0
        while end := piece.find(b"\n", at) + 1:
            is_open ^= bool(piece.count(QUOTE, at, end) & 1)
            at = end
            if not is_open:
                return at, False, True
        return len(piece), is_open ^ bool(piece.count(QUOTE, at) & 1), False


def _join_quoted(lines: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Join lines within quotes into records; the second list is a record that has not ended yet."""
    records: list[bytes] = []
    still_open: list[bytes] = []
    for line in lines:
        toggles = line.count(QUOTE) & 1
        if still_open:
            still_open.append(line)
            if toggles:
                records.append(b"".join(still_open))
                still_open = []
        elif toggles:
            still_open = [line]
        else:
            records.append(line)
    return records, still_open


def _line_count(rest: bytes) -> int:
    return rest.count(b"\n") + (not rest.endswith(b"\n")) if rest else 0


def row_locator(ref: DocumentRef) -> RowLocator:
    """Say where a ref's row is; a ref of another source is a bug of the caller's."""
    if not isinstance(ref.locator, RowLocator):
        raise TypeError(f"{ref.locator!r} is not from this source's listing")
    return ref.locator


def as_versions(digests: bytes | bytearray) -> Versions:
    """View n hashes as an array of shape (n, 16)."""
    return np.frombuffer(digests, np.uint8).reshape(-1, 16)
