"""A multipart upload, from the socket to a file: parsed as it comes, in constant memory, without blocking the loop.

    part name               what is done
    ----------------------  ------------------------------------------------------
    data, file              streamed to the file; exactly one of them must be there
    eval_data, eval_file    read and dropped: SDKs may send it, no embed job uses it
    any other               400

An upload that ends before its last boundary is no upload. Whatever goes wrong, the file is removed.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from io import FileIO
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import unquote

from anyio import CapacityLimiter, fail_after, to_thread
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from .layout import disk_trouble, remove
from .refusals import BadRequestError, RefusalError, TooLargeError

TAKEN: Final = frozenset({"data", "file"})
DROPPED: Final = frozenset({"eval_data", "eval_file"})
MOST_PARTS: Final = 4
FRAMING_BYTES: Final = 65_536  # boundaries, headers, and what may stand before and after them
WRITE_BYTES: Final = 1_048_576  # a thread is asked for each; this is also what an upload holds in memory
WRITERS: Final = 4  # more threads would not make the disk faster, and others need them
STALL_SECONDS: Final = 120.0
FILE_NAME_CHARACTERS: Final = 200
NO_FILE: Final = "a file is needed: send it as multipart/form-data, in a part that is called data"
CUT_OFF: Final = "the upload ended before its last boundary; send it again"

_ENCODED_NAME: Final = re.compile(r"filename\*\s*=\s*utf-8'[^']*'([^;\s]+)", re.IGNORECASE)  # RFC 5987, of requests
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class StalledError(RefusalError):
    """The client has sent nothing for a long time, and may be gone."""

    status: ClassVar[int] = 408


class ClosedError(RefusalError):
    """The client has closed the connection; for the log, as nobody is there to read it."""

    status: ClassVar[int] = 499  # and the words: the hosted service's


class Uploads:
    """Receives the uploads of one service."""

    def __init__(self, *, max_bytes: int, stall_seconds: float = STALL_SECONDS) -> None:
        self._max_bytes = max_bytes
        self._stall_seconds = stall_seconds
        self._writers = CapacityLimiter(WRITERS)

    async def receive(self, body: AsyncIterator[bytes], *, content_type: str, to: Path) -> str:
        """Stream the file in a multipart body to `to`, and give the name that the client calls it by.

        Raises:
            BadRequestError: the body is not what it should be.
            TooLargeError: the file is beyond the cap; the rest of it was not read.
            ClosedError, StalledError: the client is gone, or sends nothing any more.
            TransientError: the disk is full.
        """
        form = _Form(content_type, self._max_bytes)
        file = await to_thread.run_sync(_open, to, limiter=self._writers)
        try:
            with file:
                while (chunk := await self._next(body)) is not None:
                    form.read(chunk)
                    if len(form.pending) >= WRITE_BYTES:
                        await to_thread.run_sync(_write, file, form.take(), limiter=self._writers)
                await to_thread.run_sync(_write, file, form.take(), limiter=self._writers)
            return form.finish()
        except Exception:
            await to_thread.run_sync(remove, to, limiter=self._writers)
            raise
        except BaseException:  # called off, as the service stops: nothing can be awaited any more
            remove(to)
            raise

    async def _next(self, body: AsyncIterator[bytes]) -> bytes | None:
        try:
            with fail_after(self._stall_seconds):
                return await anext(body, None)
        except TimeoutError:
            raise StalledError(
                f"nothing came for {self._stall_seconds:g} seconds, so the upload was given up; send it again"
            ) from None
        except ClientDisconnect:
            raise ClosedError("upload connection was closed") from None


def _open(path: Path) -> FileIO:
    with disk_trouble("keep an upload"):
        return path.open("xb", buffering=0)


def _write(file: FileIO, content: bytearray) -> None:
    with disk_trouble("keep an upload"), memoryview(content) as rest:
        written = 0
        while written < len(rest):
            written += file.write(rest[written:])


class _Form:
    """What has been read of a multipart body; `pending` is what of its file is yet to be written."""

    def __init__(self, content_type: str, max_bytes: int) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise BadRequestError(NO_FILE)
        self._max_bytes = max_bytes
        self._body_bytes = 0
        self._content_bytes = 0
        self._parts = 0
        self._ended = False
        self._file_name: str | None = None
        self._into_file = False
        self._header = b""
        self._headers: dict[bytes, bytes] = {}
        self._value = b""
        self.pending = bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_content,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise BadRequestError(f"the upload cannot be read: {_lower(error)}") from None

    def read(self, chunk: bytes) -> None:
        """Read the next piece of the body."""
        self._body_bytes += len(chunk)
        if self._body_bytes > self._max_bytes + FRAMING_BYTES:
            raise too_large(self._max_bytes)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BadRequestError(f"the upload cannot be read: {_lower(error)}") from None

    def take(self) -> bytearray:
        """Hand out what came of the file since the last time."""
        taken, self.pending = self.pending, bytearray()
        return taken

    def finish(self) -> str:
        """Check that all of it came; give the file's name."""
        if not self._ended:
            raise BadRequestError(CUT_OFF if self._body_bytes else NO_FILE)
        if self._file_name is None:
            raise BadRequestError(NO_FILE)
        return self._file_name

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise BadRequestError(f"the upload has more than {MOST_PARTS} parts; a dataset is one file")
        self._headers = {}
        self._into_file = False

    def _on_header_field(self, chunk: bytes, start: int, end: int) -> None:
        self._header += chunk[start:end]

    def _on_header_value(self, chunk: bytes, start: int, end: int) -> None:
        self._value += chunk[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        name = options.get(b"name", b"").decode(errors="replace")
        if name in TAKEN:
            if self._file_name is not None:
                raise BadRequestError("the upload has two files; a dataset is one file")
            self._file_name = _file_name(options.get(b"filename", b""), disposition)
            self._into_file = True
        elif name not in DROPPED:
            shown = _CONTROL.sub("", name)[:FILE_NAME_CHARACTERS]
            raise BadRequestError(f"You used an invalid parameter for part: {shown} use file or an evaluation file")

    def _on_content(self, chunk: bytes, start: int, end: int) -> None:
        self._content_bytes += end - start
        if self._content_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        if self._into_file:
            self.pending += chunk[start:end]

    def _end(self) -> None:
        self._ended = True


def too_large(max_bytes: int) -> TooLargeError:
    """Say that a file is beyond the cap."""
    return TooLargeError(f"the file is larger than the limit of {max_bytes} bytes; split it into several datasets")


def _file_name(plain: bytes, disposition: bytes) -> str:
    """Read a file's name, without the folders and control characters that some clients send, and keep its end."""
    encoded = _ENCODED_NAME.search(disposition.decode("latin-1"))
    name = plain.decode(errors="replace") if plain or not encoded else unquote(encoded[1])
    return _CONTROL.sub("", re.split(r"[/\\]", name)[-1])[-FILE_NAME_CHARACTERS:]


def _lower(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]
