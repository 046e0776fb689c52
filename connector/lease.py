"""One run at a time per state folder: a lock that dies with its process.

The kernel drops the lock on kill -9, which a pid file cannot do. A process that slept past its
own death (a paused container, a restored snapshot) is stopped by the epoch in the checkpoint,
which every write checks; see `checkpoint`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import ConfigError, LeaseError

GRACE_SECONDS = 1.0  # outlasts `is_locked`, which has to hold a free lock for an instant


def lock_path(folder: Path) -> Path:
    """Where a state folder's lock is."""
    return folder / "lock"


@contextmanager
def os_lock(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; LeaseError if another process keeps it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_path(folder), thread_local=False)  # whoever closes may be another thread
        lock.acquire(timeout=GRACE_SECONDS)
    except Timeout:
        raise LeaseError(f"another run holds {folder}; run again when it has ended") from None
    except OSError as error:
        raise ConfigError(f"cannot lock {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Tell whether a run is under way, without disturbing it."""
    if not lock_path(folder).exists():
        return False
    try:
        with FileLock(lock_path(folder), blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that we may read but not lock
        return False


def this_process() -> str:
    """Name this process for the people who wait for it."""
    return f"process {os.getpid()} on {socket.gethostname()}"
