"""The body of an upload: a file in a multipart form, sent as it is read, in constant memory."""

from __future__ import annotations

import mimetypes
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from connector.errors import ConfigError, TransientError

PIECE_BYTES: Final = 1 << 20
EXTENSIONS: Final = (".jsonl", ".csv")
"""The hosted service tells from the file's name what is in it (docs, read 2026-08)."""


class Upload:
    """One file as the only part of a multipart form. Can be sent again: it begins anew each time it is iterated."""

    def __init__(self, file: BinaryIO, file_name: str, on_sent: Callable[[int, int | None], None]) -> None:
        """Wrap an open file; `on_sent` is told how many of its bytes are on their way, of how many if that is known."""
        if not file_name.lower().endswith(EXTENSIONS):
            raise ConfigError(f"{file_name!r} is no name for an upload; it should end in {' or '.join(EXTENSIONS)}")
        boundary = secrets.token_hex(16)
        kind = mimetypes.guess_type(file_name)[0] if file_name.lower().endswith(".csv") else None
        self._file = file
        self._file_name = file_name
        self._on_sent = on_sent
        self._start, self._size_bytes = _extent(file)
        self._head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="data"; filename="{_escaped(file_name)}"\r\n'
            f"Content-Type: {kind or 'application/octet-stream'}\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        if self._size_bytes is not None:  # else it goes out in chunks
            self.headers["Content-Length"] = str(len(self._head) + self._size_bytes + len(self._tail))

    def __iter__(self) -> Iterator[bytes]:
        """Give the body; TransientError if the file turns out to have another size, as then it was written to."""
        self.rewind()
        yield self._head
        sent_bytes = 0
        while piece := self._file.read(PIECE_BYTES):
            sent_bytes += len(piece)
            if self._size_bytes is not None and sent_bytes > self._size_bytes:
                break
            yield piece
            self._on_sent(sent_bytes, self._size_bytes)
        if self._size_bytes is not None and sent_bytes != self._size_bytes:
            raise TransientError(f"{self._file_name} changed while it was uploaded; run again")
        yield self._tail

    def rewind(self) -> None:
        """Put the file back to where it stood, if that can be done."""
        if self._start is not None:
            self._file.seek(self._start)


@contextmanager
def opened(file: Path | BinaryIO) -> Iterator[BinaryIO]:
    """Open what is a path, and close it again; ConfigError if it cannot be read."""
    if not isinstance(file, Path):
        yield file
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    with stream:
        yield stream


def _extent(file: BinaryIO) -> tuple[int | None, int | None]:
    """Tell where a stream stands and how many bytes follow; None where that cannot be told.

    By seeking, never by `fstat`: of a compressed file that would be the size of what it is compressed to.
    """
    try:
        start = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(start)
    except (OSError, ValueError, AttributeError):
        return (None, None)
    return (start, end - start)


def _escaped(name: str) -> str:
    """Write a file's name as browsers do (HTML, multipart/form-data encoding)."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
