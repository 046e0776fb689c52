"""What the service itself remembers of a sync, beside its state: whether people paused it, and the last comparison."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

FOLDER: Final = "service"  # below the state; its lock says that a service has the sync
_FILE: Final = "memory.json"


class Memory(msgspec.Struct, frozen=True):
    """One file, replaced as a whole. One that is lost or damaged costs a comparison that is made once more."""

    is_paused: bool = False
    reconciled_at: float | None = None  # when the last comparison began, in seconds since 1970
    reconcile_exit_code: int | None = None
    reconcile_told: str | None = None

    @classmethod
    def read(cls, state_path: Path) -> Memory:
        """Read what is remembered; nothing, if that cannot be read."""
        with suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode((state_path / FOLDER / _FILE).read_bytes(), type=cls)
        return cls()

    def write(self, state_path: Path) -> None:
        """Replace what is remembered. OSError: the disk is full, or not ours to write to."""
        path = state_path / FOLDER / _FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".new")
        with unfinished.open("wb") as file:
            file.write(msgspec.json.encode(self))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
