"""The texts of planned jobs, in files as they are uploaded: one line {"text": ..., "hash": ...} a text, in UTF-8.

A file is durable before its job is in the book, so a planned job has all of its texts or none. A file without an
open job is left over from a crash, and removed when the next run resumes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from .errors import ConfigError, TransientError

SUFFIX = ".jsonl"
UNFINISHED = ".part"
BUFFER_BYTES = 1024 * 1024
OURS = re.compile(r"([0-9a-f]{24})\.jsonl(\.part)?")


class _Line(msgspec.Struct, frozen=True, gc=False):
    text: str
    hash: str


_encoder = msgspec.json.Encoder()


def line_of(hash: bytes, text: str) -> bytes | None:
    """Write a text as it is uploaded; None if one such text would have the whole dataset refused.

    Those are texts of nothing but white space, and with half a character, which no UTF-8 holds.
    """
    if not text or text.isspace():
        return None
    try:
        return _encoder.encode(_Line(text, hash.hex())) + b"\n"
    except UnicodeEncodeError:
        return None


class Shard:
    """The file of one job, while it is written."""

    def __init__(self, token: str, path: Path) -> None:
        self.token = token
        self.hashes: set[bytes] = set()
        self.tokens = 0
        self.size_bytes = 0
        self._path = path
        self._unfinished = path.with_name(path.name + UNFINISHED)
        with _translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._unfinished.open("wb", buffering=BUFFER_BYTES)

    def add(self, hash: bytes, line: bytes, tokens: int) -> None:
        with _translated(self._path):
            self._file.write(line)
        self.hashes.add(hash)
        self.tokens += tokens
        self.size_bytes += len(line)

    def seal(self) -> None:
        """Make the file durable under its name."""
        with _translated(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._unfinished.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def close(self) -> None:
        """Close the file; one that was not sealed is gone."""
        with suppress(OSError):  # of a full disk, which `add` or `seal` has told already
            self._file.close()
        self._unfinished.unlink(missing_ok=True)


class Spool:
    """The folder of these files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, token: str) -> Path:
        return self._folder / f"{token}{SUFFIX}"

    def has(self, token: str) -> bool:
        """Tell whether the texts of a job are at hand."""
        return self.path(token).is_file()

    def shard(self, token: str) -> Shard:
        """Begin the file of a job."""
        return Shard(token, self.path(token))

    def seal(self, shard: Shard) -> None:
        shard.seal()

    def remove(self, token: str) -> None:
        """Remove the file of a job that needs it no more, if it is there."""
        with _translated(self.path(token)):
            self.path(token).unlink(missing_ok=True)

    def remove_all_but(self, tokens: set[str]) -> None:
        """Remove what crashes have left; other people's files are left alone."""
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            ours = OURS.fullmatch(path.name)
            if ours and (ours[2] or ours[1] not in tokens):
                with _translated(path):
                    path.unlink(missing_ok=True)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}; check the owner and the mode of its folder"
        ) from error
    except OSError as error:
        raise TransientError(
            f"cannot write {path}: {error.strerror}; free some space on its disk and run again, nothing is lost"
        ) from error
