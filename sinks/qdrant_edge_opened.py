"""A collection while this process has it open: what the engine is not trusted with.

A call that fails is half applied, and applied again from the engine's log; so it is undone by a later entry of the
same log, and until it is, every operation tries that first. A full disk would kill the process without a word; so
there is room for a call before it is made. Files that somebody has removed would be written on; so a call is
vouched for only if they are still there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from connector.errors import SinkError

from .qdrant_edge_folder import MARKER, SHARD, Marker, claim, disk_errors

if TYPE_CHECKING:
    from .qdrant_edge_shard import Shard

MIB: Final = 1024 * 1024
LOG_BYTES: Final = 64 * MIB
"""The engine's log comes in segments of 32 MiB, two at a time (qdrant-edge 0.9.0, seen 2026-11)."""
WRITTEN_PER_BYTE: Final = 4
"""A byte sent is written to the log, the payload, the vectors and their indexes."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much of a disk has to stay free."""

    min_free_bytes: int
    free_bytes: Callable[[Path], int]

    def check(self, folder: Path, sent_bytes: int = 0) -> None:
        """Raise SinkError before the disk is full: a write to a mapped file would then end the process (SIGBUS)."""
        needed = LOG_BYTES + WRITTEN_PER_BYTE * sent_bytes + self.min_free_bytes
        folder = folder if folder.exists() else folder.parent
        free = self.free_bytes(folder)
        if free < needed:
            raise SinkError(
                f"the disk of {folder} has {free / MIB:,.0f} MiB free, and {needed / MIB:,.0f} MiB are needed; "
                "make room, or lower min_free_bytes"
            )


@dataclass(frozen=True, slots=True)
class OpenCollection:
    """A collection that this process alone has open, until `close`."""

    folder: Path
    shard: Shard
    marker: Marker
    room: Room
    tainted: list[UUID]  # points of a call of which nobody knows what was applied; the sink's, so it outlives this
    inode: int  # of the marker; another one, or none, means that the folder was taken away
    lock: int  # descriptor that holds the folder's lock
    pid: int

    @classmethod
    def open(cls, folder: Path, marker: Marker, engine: type[Shard], room: Room, tainted: list[UUID]) -> OpenCollection:
        """Lock a collection and open it; BusyError if another process has it."""
        room.check(folder)  # replaying the log writes, too
        with disk_errors(f"the index {folder} cannot be opened"), ExitStack() as failing:
            lock = claim(folder)
            failing.callback(os.close, lock)
            inode = (folder / MARKER).stat().st_ino
            shard = engine.load(folder / SHARD)
            failing.pop_all()  # it has not failed: the lock is held until `close`
        return cls(folder, shard, marker, room, tainted, inode, lock, os.getpid())

    def check_usable(self) -> None:
        """Raise SinkError if it is the parent's, or gone."""
        if self.pid != os.getpid():
            raise SinkError(
                f"the index {self.folder} was opened before this process was forked from its parent; "
                'start processes by "spawn"'
            )
        self._check_still_there()

    @contextmanager
    def all_or_none(self, ids: Sequence[UUID], sent_bytes: int) -> Iterator[None]:
        """Make a call durable, or leave none of its points: the ledger knows that they may be missing."""
        self.room.check(self.folder, sent_bytes)
        self.tainted[:] = ids
        try:
            yield
            self.shard.flush()
        except Exception:
            self.take_back()
            raise
        self.tainted.clear()
        self._check_still_there()

    def take_back(self) -> None:
        """Undo the call that failed, if one did."""
        if self.tainted:
            try:
                self.room.check(self.folder)
                self.shard.delete(self.tainted)
                self.shard.flush()
            except SinkError as error:
                raise SinkError(f"a failed call to the index {self.folder} cannot be undone: {error}") from error
            self.tainted.clear()

    def close(self) -> None:
        """Let others open the folder. In a forked child it does nothing: the parent still has it open."""
        if self.pid == os.getpid():
            with ExitStack() as closing:
                closing.callback(os.close, self.lock)
                closing.callback(self.shard.close)
                self.take_back()

    def _check_still_there(self) -> None:
        """Refuse to vouch for files that somebody has removed, which an open process would go on writing."""
        try:
            inode = (self.folder / MARKER).stat().st_ino
        except OSError:
            inode = None
        if inode != self.inode:
            raise SinkError(f"the index {self.folder} was removed or replaced while it was open")
