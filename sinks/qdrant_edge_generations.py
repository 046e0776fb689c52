"""The generations of one embedded collection: a folder for each, and a pointer to the one that is read.

    PATH/COLLECTION          generation 1
    PATH/COLLECTION@N        generation N, from 2 on; no collection can be named so
    PATH/COLLECTION@live     the pointer: a file of JSON that names the generation which readers get

    the pointer     the folder it names     live is
    --------------  ----------------------  ------------------------
    names N         is there                N
    names N         was removed             none
    is not there    (that of generation 1)  1 if it is there, or none
    is damaged, or another sync's           ConfigError

The pointer is replaced whole, so a reader that opens it finds the old one or the new one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from connector.errors import ConfigError

from .qdrant_edge_folder import FORMAT, Marker, read_marker, remove_unfinished, sync


class Pointer(msgspec.Struct, frozen=True):
    """What `COLLECTION@live` says."""

    format: int
    owner: str
    generation: int


@dataclass(frozen=True, slots=True)
class Generations:
    """Where the generations of a collection are, and which one is live."""

    first: Path  # the folder of generation 1
    owner: str

    @property
    def pointer(self) -> Path:
        return self.first.with_name(f"{self.first.name}@live")

    @property
    def unfinished_pointer(self) -> Path:
        """What a pointer is written as, before it takes its place; the next one overwrites it."""
        return self.first.with_name(f"{self.first.name}@live.new")

    def folder(self, generation: int) -> Path:
        return self.first if generation == 1 else self.first.with_name(f"{self.first.name}@{generation}")

    def live(self) -> int | None:
        """Tell which generation readers get; ConfigError if that cannot be ours to say."""
        pointer = self._read_pointer()
        generation = pointer.generation if pointer else 1
        marker = read_marker(self.folder(generation))
        if marker is None:
            return None
        self.check_owner(marker, self.folder(generation))
        return generation

    def make_live(self, generation: int) -> None:
        """Point at a generation, durably, in one step."""
        written = msgspec.json.encode(Pointer(FORMAT, self.owner, generation))
        with self.unfinished_pointer.open("wb") as file:
            file.write(msgspec.json.format(written) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.unfinished_pointer.replace(self.pointer)
        sync(self.pointer.parent)

    def clean(self, generation: int) -> None:
        """Remove what kills have left of a generation, and of a pointer."""
        remove_unfinished(self.folder(generation))
        self.unfinished_pointer.unlink(missing_ok=True)

    def check_owner(self, marker: Marker | Pointer, place: Path) -> None:
        """Raise ConfigError if a folder, or the pointer, is another sync's."""
        if marker.owner != self.owner:
            raise ConfigError(
                f'the index {place} belongs to the sync "{marker.owner}", this one is "{self.owner}"; '
                "choose another collection"
            )

    def _read_pointer(self) -> Pointer | None:
        try:
            pointer = msgspec.json.decode(self.pointer.read_bytes(), type=Pointer)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ConfigError(f"{self.pointer} cannot be read: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self.pointer} is damaged ({error}); restore it from a backup, or remove it to have generation 1 live"
            ) from error
        if pointer.format != FORMAT or pointer.generation < 1:
            raise ConfigError(
                f"{self.pointer} has format {pointer.format} and names generation {pointer.generation}, which this "
                f"version of vector-sync does not know; use the version that made it"
            )
        self.check_owner(pointer, self.pointer)
        return pointer
