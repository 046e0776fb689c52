"""The files of datasets, for whoever has a link to them; see `links`.

    Range                             answer
    --------------------------------  ------------------------------------------------------------
    none, or one that we do not read  200, the whole file (RFC 9110, 14.2 lets a server ignore it)
    bytes=5-9, bytes=5-, bytes=-5     206, that piece
    one that begins behind the end    416
    with If-Range of another file     200, the whole file

Never compressed, nor to be by a proxy: SDKs read the raw bytes as Avro.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

from anyio import to_thread
from fastapi import APIRouter, Header, Query
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from .failures import documented
from .links import Links
from .refusals import NotFoundError
from .store import Store
from .values import Dataset

CHUNK_BYTES: Final = 262_144
ONE_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
BINARY: Final[dict[str, Any]] = {
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
}


class Slice(NamedTuple):
    """A piece of a file; the end is exclusive."""

    start: int
    end: int


def router(store: Store, links: Links) -> APIRouter:
    """Make the routes."""
    api = APIRouter(tags=["parts"])

    @api.head("/parts/{dataset_id}/{file}", include_in_schema=False, response_class=StreamingResponse)
    @api.get(
        "/parts/{dataset_id}/{file}",
        summary="Read a file of a dataset",
        response_class=StreamingResponse,
        responses={
            200: BINARY | {"description": "The file, an Avro object container; or the upload as it was"},
            206: BINARY | {"description": "A piece of it"},
            **documented(403, 404, 416, 503),
        },
    )
    def read_part(
        *,
        dataset_id: str,
        file: str,
        exp: Annotated[str, Query(description="When the link expires, in unix seconds")],
        sig: Annotated[str, Query(description="The signature of path and time")],
        range: Annotated[str, Header()] = "",
        if_range: Annotated[str, Header()] = "",
    ) -> StreamingResponse:
        links.check(dataset_id, file, exp, sig)
        dataset = store.dataset(dataset_id)
        path = store.folder_of(dataset_id) / file
        size_bytes = _size_bytes(dataset, path)
        tag = f'"{hashlib.sha256(f"{dataset_id}/{file}/{size_bytes}".encode()).hexdigest()[:32]}"'
        wanted = wanted_slice(range, size_bytes) if if_range in ("", tag) else None
        start, end = wanted or Slice(0, size_bytes)
        headers = {
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, no-transform",
            "Content-Length": str(end - start),
            "ETag": tag,
        }
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size_bytes}"
        return StreamingResponse(
            _chunks(path, start, end),
            status_code=206 if wanted else 200,
            headers=headers,
            media_type="application/octet-stream",
        )

    return api


def _size_bytes(dataset: Dataset, path: Path) -> int:
    """Measure a file that a dataset names; NotFoundError for every other."""
    sizes_bytes = {part.name: part.size_bytes for part in dataset.parts}
    if path.name in sizes_bytes:
        return sizes_bytes[path.name]
    if dataset.options.keep_original_file and path.name == dataset.original:
        with suppress(FileNotFoundError):  # it may be deleted at this moment
            return path.stat().st_size
    raise NotFoundError(f"dataset with the id '{dataset.id}' has no such file")


def wanted_slice(header: str, size_bytes: int) -> Slice | None:
    """Read a Range header; None if all of the file is to be sent, HTTPException (416) if it asks for nothing there."""
    match = ONE_RANGE.fullmatch(header.strip())
    if not match or match.group(1, 2) == ("", ""):
        return None
    first, last = match.group(1, 2)
    if first:
        start, end = int(first), min(int(last) + 1 if last else size_bytes, size_bytes)
        if last and int(last) < start:
            return None
    else:
        start, end = max(0, size_bytes - int(last)), size_bytes
    if start >= end:
        raise HTTPException(416, f"the file has {size_bytes} bytes", headers={"Content-Range": f"bytes */{size_bytes}"})
    return Slice(start, end)


async def _chunks(path: Path, start: int, end: int) -> AsyncIterator[bytes]:
    file = await to_thread.run_sync(path.open, "rb")
    with file:
        await to_thread.run_sync(file.seek, start)
        while start < end:
            chunk = await to_thread.run_sync(file.read, min(CHUNK_BYTES, end - start))
            if not chunk:
                return  # shorter than it should be: the server cuts the connection, as the answer is not whole
            start += len(chunk)
            yield chunk
