"""Avro files that hold a dataset's rows, in blocks; written so that a kill costs the last block at most.

    part = header | block | block | ...            block = rows | bytes | that many bytes | the header's 16 of "sync"

(avro.apache.org, specification 1.12, "Object Container Files".) A block has at most `BLOCK_ROWS`
rows, and ends when it has `BLOCK_BYTES`; only a single row makes it much longer. A part begins anew before it would
pass `PART_BYTES`. Nothing is held but the block at hand.

The codec is null, which readers of every kind know. Measured: deflate, at its fastest, takes 7 % off floats for 170 µs
a row of 384, which is twenty times what all the rest of the writing takes.

Vectors are encoded here, with numpy: fastavro's writer asks of each float whether it is one, and takes 200 µs for a
row of 384, which would be a fifth of a fast model's time. Here it is 5, and 10 with five other fields.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self, TypeAlias, cast

import fastavro
import msgspec
import numpy as np

from .values import EmbeddingType, Part

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .rows import Fields

    Embeddings: TypeAlias = Mapping[EmbeddingType, NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8]]
    """The vectors of some rows, as matrices of a vector a row; types that are not there are null."""

BLOCK_ROWS = 512
BLOCK_BYTES = 1 << 20
PART_BYTES = 512 << 20
SYNC_BYTES = 16
MAGIC = b"Obj\x01"
SAMPLES = 3
SAMPLE_CHARACTERS = 500
MAX_NAME_CHARACTERS = 80


class PartMismatchError(Exception):
    """A part is not what its record says: gone, shorter, damaged, or of another schema or model."""


def file_slug(name: str) -> str:
    """Make of any name what can stand in a file's name anywhere: ASCII letters, digits, `.`, `_` and `-`."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:MAX_NAME_CHARACTERS].strip(".-")
    return slug or "data"


def stem_of(file_name: str) -> str:
    """Name an uploaded file without its folder and extension."""
    name = file_name.replace("\\", "/").rsplit("/", 1)[-1]
    return name.rpartition(".")[0] or name


# --- writing ---


class PartWriter:
    """Writes the parts `000_<name>.avro`, `001_...` of a dataset that is all there; a kill leaves rubbish.

    Leaves it to `close` to make them durable. A writer that is not closed has no parts.
    """

    def __init__(self, folder: Path, name: str, schema: str, *, part_bytes: int = PART_BYTES) -> None:
        self._schema = fastavro.parse_schema(json.loads(schema))
        self._files = _Files(folder, name, first_number=0, metadata={"avro.schema": schema}, part_bytes=part_bytes)
        self._block = io.BytesIO()
        self._rows = 0
        self._first: list[Fields] = []

    def append(self, fields: Fields) -> None:
        """Write a row; optional fields may be missing."""
        fastavro.schemaless_writer(self._block, self._schema, fields)
        self._rows += 1
        if len(self._first) < SAMPLES:
            self._first.append(fields)
        if self._rows == BLOCK_ROWS or self._block.tell() >= BLOCK_BYTES:
            self._end_block()

    def close(self) -> tuple[Part, ...]:
        """Write what is left, sync all, and tell the parts."""
        if self._rows:
            self._end_block()
        parts = self._files.sync()
        self._files.close()
        return parts

    def _end_block(self) -> None:
        self._files.append(self._rows, self._block.getvalue(), self._first)
        self._block = io.BytesIO()
        self._rows = 0
        self._first = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._files.close()


class ResultWriter:
    """Writes the parts `001_<name>.avro`, `002_...` of a job's result. What `append` has returned survives a kill.

    After an error, open another one with the parts that are recorded.
    """

    def __init__(self, files: _Files, schema: str) -> None:
        fields = json.loads(schema)["fields"]
        others = {"type": "record", "name": "row", "fields": fields[2:]}  # after `text` and `embeddings`
        self._others = fastavro.parse_schema(others) if fields[2:] else None
        self._files = files

    @classmethod
    def open(
        cls,
        folder: Path,
        name: str,
        schema: str,
        parts: Sequence[Part] = (),
        *,
        metadata: Mapping[str, str],
        part_bytes: int = PART_BYTES,
    ) -> Self:
        """Begin, or go on after the parts that are recorded; the rest of the folder's Avro files is removed.

        `metadata` is what decides the vectors; each file has it in its header.

        Raises:
            PartMismatchError: the last part is shorter than recorded, or was made with another schema or metadata;
                the job cannot be gone on with, and has to be created anew.
        """
        files = _Files(
            folder, name, first_number=1, metadata={"avro.schema": schema, **metadata}, part_bytes=part_bytes
        )
        files.resume(parts)
        return cls(files, schema)

    def append(self, rows: Sequence[Fields], embeddings: Embeddings) -> tuple[Part, ...]:
        """Write rows with their vectors, sync them, and tell all parts so far, which are then to be recorded."""
        if any(len(vectors) != len(rows) for vectors in embeddings.values()):
            raise ValueError("not a vector for each row")
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            vectors = (
                _encode(embeddings[type][start : start + BLOCK_ROWS]) if type in embeddings else [b"\0"] * len(block)
                for type in EmbeddingType
            )
            pieces = []
            for fields, *forms in zip(block, *vectors, strict=True):
                pieces += [_string(str(fields["text"])), *forms]
                if self._others is not None:
                    rest = io.BytesIO()
                    fastavro.schemaless_writer(rest, self._others, fields)
                    pieces.append(rest.getvalue())
            self._files.append(len(block), b"".join(pieces), block[:SAMPLES])
        return self._files.sync()

    def close(self) -> None:
        """Close the file at hand; all that `append` has returned is safe already."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class _Files:
    """Numbered Avro files of one schema, to which whole blocks are appended."""

    def __init__(
        self, folder: Path, name: str, *, first_number: int, metadata: Mapping[str, str], part_bytes: int
    ) -> None:
        self._folder = folder
        self._slug = file_slug(name)
        self._first_number = first_number
        self._metadata = {**metadata, "avro.codec": "null"}
        self._part_bytes = part_bytes
        self._done: list[Part] = []  # synced, and not written to any more
        self._last: Part | None = None
        self._file: BinaryIO | None = None
        self._sync = b""
        self._is_new = False

    def resume(self, parts: Sequence[Part]) -> None:
        named = {part.name for part in parts}
        for path in self._folder.glob("*.avro"):
            if path.name not in named:
                path.unlink()
        if not parts:
            return
        *done, last = parts
        self._file, self._sync = _reopen(self._folder / last.name, last, self._metadata)
        self._done, self._last = done, last

    def append(self, rows: int, body: bytes, first: Sequence[Fields]) -> None:
        beginning = _long(rows) + _long(len(body))
        total_bytes = len(beginning) + len(body) + SYNC_BYTES
        if self._last is None or self._last.size_bytes + total_bytes > self._part_bytes:
            self._begin_file()
        file, last = cast("BinaryIO", self._file), cast("Part", self._last)
        file.write(beginning)
        file.write(body)
        file.write(self._sync)
        samples = last.samples + tuple(_sample(fields) for fields in islice(first, SAMPLES - len(last.samples)))
        self._last = Part(last.name, last.index, last.size_bytes + total_bytes, last.rows + rows, samples)

    def sync(self) -> tuple[Part, ...]:
        if self._file is None or self._last is None:
            return ()
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._is_new:
            sync_folder(self._folder)
            self._is_new = False
        return (*self._done, self._last)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _begin_file(self) -> None:
        if self._last is not None:
            self._done = list(self.sync())
            self.close()
        index = len(self._done)
        name = f"{self._first_number + index:03d}_{self._slug}.avro"
        # Made of what is in the header rather than of chance, the same upload gives the same bytes.
        self._sync = blake2b(repr((name, self._metadata)).encode(), digest_size=SYNC_BYTES).digest()
        header = [MAGIC, _long(len(self._metadata))]
        for key, value in self._metadata.items():
            header += [_string(key), _string(value)]
        header += [b"\0", self._sync]
        self._file = (self._folder / name).open("wb")
        self._file.writelines(header)
        self._last = Part(name, index, sum(map(len, header)), 0)
        self._is_new = True


def _reopen(path: Path, part: Part, metadata: Mapping[str, str]) -> tuple[BinaryIO, bytes]:
    """Open a part at its recorded end, and cut off what is beyond; also tell its sync marker."""
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        raise PartMismatchError(f"the part {part.name} is gone") from None
    try:
        sync = _check(file, part, metadata)
        file.truncate(part.size_bytes)
    except BaseException:
        file.close()
        raise
    return file, sync


def _check(file: BinaryIO, part: Part, metadata: Mapping[str, str]) -> bytes:
    """Check that a part can be gone on with; leaves the file at the recorded end."""
    if os.fstat(file.fileno()).st_size < part.size_bytes:
        raise PartMismatchError(f"the part {part.name} is shorter than the {part.size_bytes:,} bytes that are recorded")
    header, sync = _header(file, part)
    others = sorted(key for key in {*header, *metadata} if header.get(key) != metadata.get(key))
    if others:
        raise PartMismatchError(f"the part {part.name} was written with another {', '.join(others)}")
    file.seek(part.size_bytes - SYNC_BYTES)
    if file.read(SYNC_BYTES) != sync:
        raise PartMismatchError(
            f"the part {part.name} has no block that ends at {part.size_bytes:,} bytes, as recorded"
        )
    return sync


def _sample(fields: Fields) -> str:
    """Write a row as JSON, with its strings cut as far as needed; if that is not enough, the JSON is cut."""
    sample = msgspec.json.encode(fields).decode()
    for limit in (300, 100, 30):
        if len(sample) <= SAMPLE_CHARACTERS:
            break
        cut = {
            name: value[:limit] + "…" if isinstance(value, str) and len(value) > limit else value
            for name, value in fields.items()
        }
        sample = msgspec.json.encode(cut).decode()
    return sample if len(sample) <= SAMPLE_CHARACTERS else sample[: SAMPLE_CHARACTERS - 1] + "…"


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- Avro's encoding ---


def _long(value: int) -> bytes:
    """Encode a number that is not negative."""
    value <<= 1
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return _long(len(encoded)) + encoded


def _encode(vectors: NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8]) -> list[bytes]:
    """Encode each vector as the second branch of a union: an array of one block, of floats or of ints."""
    count, width = vectors.shape
    if vectors.dtype.kind == "f":
        encoded = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
        lengths = np.full(count, 4 * width)
    else:
        signed = vectors.astype(np.int16)
        zigzag = ((signed << 1) ^ (signed >> 15)).view(np.uint16)
        is_long = zigzag > 0x7F  # noqa: PLR2004 - seven bits a byte
        pairs = np.stack((zigzag & 0x7F | is_long.astype(np.uint16) << 7, zigzag >> 7), axis=-1).astype(np.uint8)
        is_there = np.stack((np.ones_like(is_long), is_long), axis=-1)
        encoded = pairs[is_there].tobytes()
        lengths = width + is_long.sum(axis=1)
    beginning = _long(1) + _long(width)
    ends = np.cumsum(lengths).tolist()
    return [
        b"".join((beginning, encoded[end - length : end], b"\0"))
        for end, length in zip(ends, lengths.tolist(), strict=True)
    ]


# --- reading ---


def read_blocks(folder: Path, parts: Sequence[Part], skip: int = 0) -> Iterator[list[Fields]]:
    """Read the rows of parts, block by block in order; those that are skipped are not decoded, nor read.

    PartMismatchError if a part is not what it is recorded as.
    """
    for part in parts:
        try:
            file = (folder / part.name).open("rb")
        except FileNotFoundError:
            raise PartMismatchError(f"the part {part.name} is gone") from None
        with file:
            if os.fstat(file.fileno()).st_size != part.size_bytes:
                raise PartMismatchError(f"the part {part.name} is not of {part.size_bytes:,} bytes, as it is recorded")
            _header(file, part)
            skipped, rows = _skip(file, part, skip)
            skip -= skipped
            yield from _blocks(file, part, rows)


def _skip(file: BinaryIO, part: Part, wanted: int) -> tuple[int, int]:
    """Go past as many blocks as wanted, or as there are; tells how many, and their rows."""
    skipped = rows = 0
    while skipped < wanted and file.tell() < part.size_bytes:
        rows += _read_long(file)
        size_bytes = _read_long(file)
        end = file.tell() + size_bytes + SYNC_BYTES
        if end > part.size_bytes:
            raise _damaged(part)
        file.seek(end)
        skipped += 1
    return skipped, rows


def _blocks(file: BinaryIO, part: Part, rows: int) -> Iterator[list[Fields]]:
    """Decode the blocks from here on, after so many rows."""
    start = file.tell()
    file.seek(0)
    blocks = fastavro.block_reader(file)  # reads the header, and the blocks where the file is when they are asked for
    file.seek(start)
    try:
        for block in blocks:
            decoded = cast("list[Fields]", list(block))
            rows += len(decoded)
            yield decoded
    except OSError:
        raise
    except Exception as error:
        raise _damaged(part) from error
    if rows != part.rows:
        raise PartMismatchError(f"the part {part.name} has {rows:,} rows; {part.rows:,} are recorded")


def _header(file: BinaryIO, part: Part) -> tuple[Mapping[str, str], bytes]:
    """Read a part's metadata and sync marker; leaves the file where the first block begins."""
    try:
        metadata = fastavro.reader(file).metadata
    except OSError:
        raise
    except Exception as error:
        raise _damaged(part) from error
    file.seek(-SYNC_BYTES, os.SEEK_CUR)
    return metadata, file.read(SYNC_BYTES)


def _damaged(part: Part) -> PartMismatchError:
    """Say so, whatever was raised: of bytes that are no Avro, fastavro raises IndexError, MemoryError and others."""
    return PartMismatchError(f"the part {part.name} is damaged")


def _read_long(file: BinaryIO) -> int:
    """Read a number that is not negative."""
    value = 0
    for shift in range(0, 64, 7):
        (byte,) = file.read(1) or b"\0"
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            break
    return value >> 1
