"""Remember the versions of a table file's rows, so that an unchanged file is not read again.

A cache, never a truth: what is written here is believed only as far as the file itself bears it out,
and anything odd about a cache file (damaged, foreign, older format) means that it does not exist.

    level  believed when                                                 cost for 512 MiB
    -----  ------------------------------------------------------------  --------------------------
    L0     size, mtime, ctime and inode are the cached ones, and were    reading 16 bytes a row
           2 s old when the cache was taken
    L1     an extent (some MiB of rows) still has the cached hash        reading and hashing the file
    L2     never: the rows are cut apart and hashed one by one           three times that

The 2 seconds are git's racy rule: a file written twice within one tick of its clock has one mtime.
L1 works extent by extent, so of a file that was appended to, only the end is read row by row.

    <state>/listings/<name>   versions, 16 bytes a row | footer | its length, 8 bytes | xxh3_128 of it all
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec
import xxhash

from connector.model import HASH_BYTES
from connector.sources.rows import BLOCK_BYTES, as_versions

if TYPE_CHECKING:
    from connector.model import Versions

FORMAT = 1
RACY_NANOSECONDS = 2_000_000_000
FEWEST_ROWS = 1_000  # below that, reading the file costs no more than reading the cache
_LENGTH_BYTES = 8


class FileIdentity(msgspec.Struct, frozen=True):
    """What tells one state of a file from another without reading it."""

    size: int  # bytes
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """Take it from a stat."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def is_racy(self, at_ns: int) -> bool:
        """Whether a write at that time, or soon after, could leave this identity as it is."""
        return max(self.mtime_ns, self.ctime_ns) + RACY_NANOSECONDS > at_ns


class Extent(msgspec.Struct, frozen=True):
    """Some rows that follow each other in a file: what one batch of a listing covers."""

    start: int  # where its first row begins: a byte offset, or a row number
    size: int  # bytes of a text file, rows of a Parquet file
    first_line: int  # counted from 1, for people
    line_count: int
    row_count: int
    digest: bytes  # of what the file has there; if that is the same, so are the versions

    @property
    def end(self) -> int:
        """Where the next extent starts."""
        return self.start + self.size


class _Footer(msgspec.Struct, frozen=True):
    format: int
    identity: FileIdentity
    taken_ns: int  # when the listing began, on the wall clock
    row_seed: int
    extents: list[Extent]


@dataclass(frozen=True, slots=True)
class CachedListing:
    """What an earlier run listed of one file."""

    path: Path
    footer: _Footer

    def is_current(self, identity: FileIdentity) -> bool:
        """L0: whether the file must be the one that was listed."""
        return identity == self.footer.identity and not identity.is_racy(self.footer.taken_ns)

    def ends_with(self, extent: Extent) -> bool:
        """Whether an extent went up to the end of the file, where a row may be cut off."""
        return extent.end == self.footer.identity.size

    def replay(self) -> Iterator[tuple[Extent, Versions]]:
        """Read the versions back, extent by extent."""
        with self.path.open("rb") as file:
            for extent in self.footer.extents:
                yield extent, as_versions(file.read(extent.row_count * HASH_BYTES))


class CacheWriter:
    """Takes down one file's listing while it goes by. Nothing of it is seen before `keep`.

    A disk that is full or read-only must not stop a sync that can do without the cache; so an
    OSError means that this listing is not kept, and nothing else.
    """

    def __init__(self, path: Path, taken_ns: int, *, enabled: bool) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._taken_ns = taken_ns
        self._extents: list[Extent] = []
        self._digest = xxhash.xxh3_128()
        self._file: IO[bytes] | None = None
        if enabled:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._part.open("wb")

    def add(self, extent: Extent, versions: Versions) -> None:
        """Note one batch."""
        self._extents.append(extent)
        self._write(versions.tobytes())

    def keep(self, identity: FileIdentity, row_seed: int) -> None:
        """Put the listing, now complete, in the place of the last one."""
        if sum(extent.row_count for extent in self._extents) < FEWEST_ROWS:
            return
        footer = msgspec.msgpack.encode(_Footer(FORMAT, identity, self._taken_ns, row_seed, self._extents))
        self._write(footer + len(footer).to_bytes(_LENGTH_BYTES, "big"))
        self._write(self._digest.digest())
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
                self._part.replace(self._path)  # not synced: after a power cut, the digest tells
            self._file = None

    def discard(self) -> None:
        """Give up what was not kept."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self._part.unlink()
            self._file = None

    def _write(self, part: bytes | memoryview) -> None:
        if self._file is None:
            return
        try:
            self._file.write(part)
        except OSError:
            self.discard()
        else:
            self._digest.update(part)


@dataclass(frozen=True, slots=True)
class ListingCache:
    """The cached listings of one source."""

    folder: Path
    read_only: bool
    now: Callable[[], float] = time.time

    def find(self, name: str) -> CachedListing | None:
        """Look for an earlier listing of a file; None if there is none that is whole."""
        path = self.folder / name
        try:
            with path.open("rb") as file:
                end = file.seek(0, os.SEEK_END) - HASH_BYTES
                file.seek(max(0, end - _LENGTH_BYTES))
                footer_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "big")
                digest = file.read(HASH_BYTES)
                if footer_bytes > end or _digest_of(file, end) != digest:
                    return None
                file.seek(end - _LENGTH_BYTES - footer_bytes)
                footer = msgspec.msgpack.decode(file.read(footer_bytes), type=_Footer)
        except (OSError, msgspec.MsgspecError):
            return None  # missing, unreadable, or of another format
        return CachedListing(path, footer) if footer.format == FORMAT else None

    def writer(self, name: str) -> CacheWriter:
        """Begin to take down a listing."""
        return CacheWriter(self.folder / name, int(self.now() * 1e9), enabled=not self.read_only)

    def sweep(self, names: Iterable[str]) -> None:
        """Remove the listings of files that are no longer part of the source."""
        if self.read_only:
            return
        wanted = set(names)
        with contextlib.suppress(OSError):  # it only takes room, and the next run sweeps again
            for path in self.folder.iterdir():
                if path.name not in wanted:
                    path.unlink()


def _digest_of(file: IO[bytes], size: int) -> bytes:
    digest = xxhash.xxh3_128()
    file.seek(0)
    while size > 0 and (part := file.read(min(size, BLOCK_BYTES))):
        digest.update(part)
        size -= len(part)
    return digest.digest()
