"""The folder of one embedded collection: whose it is, how it comes to be, and who has it open.

    PATH/COLLECTION/vector-sync.json     the marker: that the folder is ours, whose, and what it holds
    PATH/COLLECTION/shard/               the engine's own files
    PATH/COLLECTION.creating-UUID/       the same, unfinished; renamed when both are on disk
    PATH/COLLECTION.dropping-UUID/       what is left of one that was removed

A rename is what creates a collection, and what removes one, so one with a marker is whole. A folder that is not
exactly so made is never written to. What is left by a kill is removed by the next run.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import msgspec

from connector.errors import BusyError, ConfigError, SinkError

MARKER: Final = "vector-sync.json"
SHARD: Final = "shard"
FORMAT: Final = 1


class Marker(msgspec.Struct, frozen=True):
    """What `vector-sync.json` says."""

    format: int
    incarnation: str
    owner: str
    dimension: int
    distance: str
    engine: str  # the version of qdrant-edge-py that made the shard


class _AnyFormat(msgspec.Struct, frozen=True):
    """The part of a marker that every format has."""

    format: int


def read_marker(folder: Path) -> Marker | None:
    """Read whose a folder is; None if there is none, ConfigError if it is not ours to use."""
    path = folder / MARKER
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.lexists(folder):
            return None
        raise ConfigError(
            f"{folder} exists but was not made by vector-sync (it has no {MARKER}); choose another path or collection"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    try:
        format = msgspec.json.decode(raw, type=_AnyFormat).format
        if format != FORMAT:
            raise ConfigError(
                f"the index {folder} has format {format}, this version of vector-sync knows format {FORMAT}; "
                "use the version that made it, or choose another collection"
            )
        return msgspec.json.decode(raw, type=Marker)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}); restore {folder} from a backup, or remove it to have it filled anew"
        ) from error


def create(folder: Path, marker: Marker, make_shard: Callable[[Path], None]) -> None:
    """Make an empty collection. Killed at any point, it leaves nothing, or all, or what its name tells apart."""
    unfinished = folder.with_name(f"{folder.name}.creating-{marker.incarnation}")
    unfinished.mkdir()
    with locked(unfinished):
        make_shard(unfinished / SHARD)
        (unfinished / MARKER).write_bytes(msgspec.json.format(msgspec.json.encode(marker)) + b"\n")
        sync_tree(unfinished)
        try:
            unfinished.rename(folder)
        except OSError as error:
            if folder.exists():
                raise BusyError(f"another process has just made the index {folder}; try again") from error
            raise
        sync(folder.parent)


def remove(folder: Path) -> None:
    """Remove a collection that nobody has open; BusyError if somebody has. It is gone when it is renamed."""
    lock = claim(folder)
    try:
        doomed = folder.with_name(f"{folder.name}.dropping-{uuid4().hex}")
        folder.rename(doomed)
        sync(folder.parent)
        shutil.rmtree(doomed)
        sync(folder.parent)
    finally:
        os.close(lock)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed creations and removals of this collection have left; what another process is at stays."""
    unfinished = re.compile(re.escape(folder.name) + r"\.(creating|dropping)-[0-9a-f]{32}")
    if not folder.parent.is_dir():
        return
    for path in folder.parent.iterdir():
        ours = unfinished.fullmatch(path.name) and path.is_dir()
        if ours and {entry.name for entry in path.iterdir()} <= {MARKER, SHARD}:
            with suppress(BlockingIOError), locked(path):
                shutil.rmtree(path)


def make_durably(folder: Path) -> None:
    """Make a folder and its parents, so that they outlast a power cut."""
    if not folder.is_dir():
        make_durably(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync_tree(folder: Path) -> None:
    """Bring all files below a folder to disk, and then the names by which they are found."""
    for place, _, files in os.walk(folder, topdown=False):
        for file in files:
            sync(Path(place, file))
        sync(Path(place))


def sync(path: Path) -> None:
    """Bring one file, or the names in one folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """Raise ConfigError unless a folder, or the place where it would be made, can be written to."""
    place = folder
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise ConfigError(f"there cannot be an index {folder}: {place} is not a folder")
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"there cannot be an index {folder}: no permission to write to {place}")


def claim(folder: Path) -> int:
    """Take a collection for this process, until the descriptor is closed; BusyError if another has it."""
    with ExitStack() as failing:
        try:
            lock = _lock(folder)
            failing.callback(os.close, lock)
            with suppress(FileNotFoundError), locked(folder / SHARD / "wal"):
                pass  # the engine's own lock is free, too: no other program has the shard open
        except BlockingIOError:
            raise BusyError(f"the index {folder} is open in another process; try again later") from None
        failing.pop_all()
    return lock


def _lock(folder: Path) -> int:
    """Lock a folder; the lock ends with the descriptor, or the process. BlockingIOError if it is locked."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; BlockingIOError if it is held already."""
    descriptor = _lock(folder)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn what the operating system refuses into a SinkError that says what it was for."""
    try:
        yield
    except OSError as error:
        raise SinkError(f"{what}: {error.strerror or error}") from error
