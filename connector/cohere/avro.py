"""Read Avro files (object container files) as they arrive, a block at a time, and vectors in one piece.

Floats are by far the most of a result, and fastavro makes an object of each: 10,000 rows of 384 floats a second. In
the file, an array of d floats is its count, 4·d bytes, and a zero. A record of a long, a fixed of 4·d bytes and a
long is written the same way. So once a first row has shown what d is, the others are read by a schema that says so,
and fastavro takes a vector as one value, ten times as fast. A row where the count is not d, or where no zero
follows, is read again by the file's own schema.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain
from typing import IO, Any, Final, NamedTuple, TypeAlias, cast

import fastavro
import fastavro.schema
import numpy as np

Row: TypeAlias = dict[str, Any]
"""A row as fastavro gives it, but for arrays of floats in the fields of vectors, which are numpy's."""
Schema: TypeAlias = dict[str, Any]
"""A schema as its JSON says it."""

MAGIC: Final = b"Obj\x01"
VECTOR_FIELDS: Final = ("embeddings", "embedding")
NUMBERS: Final[Mapping[str, str]] = {"float": "<f4", "double": "<f8"}
"""How an array's numbers lie in the file, of the types that have one size for all."""
BROKEN: Final = (
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    MemoryError,
    RecursionError,
    OSError,  # of bz2
    zlib.error,
    fastavro.schema.SchemaParseException,
)
"""What fastavro 1.13 raises over bytes that are not what they should be: found by cutting and flipping them."""


class CutShortError(Exception):
    """The file ends where it should go on."""


class UnreadableError(Exception):
    """The bytes are no Avro file, or none that can be read here."""


class OtherFileError(UnreadableError):
    """The bytes begin as another kind of file: what has come is not what was asked for."""


class Incoming:
    """Pieces of bytes, as they come, as a file that is read once."""

    def __init__(self, pieces: Iterable[bytes], position: int = 0) -> None:
        """Begin to read; `position` is what `tell` says of the beginning."""
        self.kept: bytearray | None = None  # what is read is kept here too, while there is such a thing
        self.is_at_end = False  # something was asked for that is not there
        self._pieces = iter(pieces)
        self._piece = b""
        self._at = 0
        self._position = position

    def read(self, size: int) -> bytes:
        """Read so many bytes; fewer only at the end."""
        found = self._piece[self._at : self._at + size]
        self._at += len(found)
        if len(found) < size:
            found = self._read_on(found, size)
        self._position += len(found)
        if self.kept is not None:
            self.kept += found
        return found

    def tell(self) -> int:
        return self._position

    def _read_on(self, found: bytes, size: int) -> bytes:
        gathered = [found]
        missing = size - len(found)
        while missing and (piece := next(self._pieces, None)) is not None:
            gathered.append(piece[:missing])
            self._piece, self._at = piece, len(gathered[-1])
            missing -= self._at
        self.is_at_end = missing > 0
        return b"".join(gathered)


class AvroFile:
    """A file that is being read: from its beginning, and on from the end of any of its blocks."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        """Read the header. CutShortError, UnreadableError, or what `pieces` raises."""
        self._incoming = Incoming(pieces)
        self._incoming.kept = kept = bytearray()
        try:
            with _translated(self._incoming):
                self._blocks = fastavro.block_reader(cast("IO[bytes]", self._incoming))
                self.schema: Schema = json.loads(self._blocks.metadata["avro.schema"])
                self._rows = _Rows(self.schema)
        finally:  # fastavro does not look, and takes a web page for a file that ends too early
            if not MAGIC.startswith(kept[: len(MAGIC)]):
                raise OtherFileError("it begins as something else")
        self._header, self._incoming.kept = bytes(self._incoming.kept), None
        self.position = self._incoming.tell()

    def read_on(self, pieces: Iterable[bytes]) -> None:
        """Go on at `position`, where the new pieces begin."""
        self._incoming = Incoming(chain((self._header,), pieces), self.position - len(self._header))
        self._blocks = fastavro.block_reader(cast("IO[bytes]", self._incoming))

    def next_block(self) -> Block | None:
        """Read one block whole; None at the end. `position` is where it ends.

        CutShortError, UnreadableError, or what the pieces raise; then `position` is what it was.
        """
        with _translated(self._incoming):
            block = next(self._blocks, None)
        self.position = self._incoming.tell()
        return None if block is None else Block(block.num_records, cast("Any", block).bytes_, self._rows)


class Block:
    """Some rows, all of which have arrived."""

    def __init__(self, row_count: int, content: IO[bytes], rows: _Rows) -> None:
        self.row_count = row_count
        self._content = content
        self._rows = rows

    def __iter__(self) -> Iterator[Row]:
        """Give the rows, once; UnreadableError."""
        try:
            for _ in range(self.row_count):
                yield self._rows.read(self._content)
        except (EOFError, *BROKEN) as error:
            raise UnreadableError(str(error)) from None


class _Vector(NamedTuple):
    """Where a row has a vector: a field of `outer`, or of the row itself; and how it lies in the file."""

    outer: str | None
    name: str
    dtype: str
    length: int


class _Rows:
    """How the rows of one file are read."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._by_schema = fastavro.parse_schema(deepcopy(schema))
        self._vectors: Sequence[_Vector] = ()
        self._whole: Any = None  # the schema that takes those vectors whole, once there are any

    def read(self, content: IO[bytes]) -> Row:
        if not self._vectors:
            row = _read(content, self._by_schema)
            self._learn(row)
            return row
        start = content.tell()
        try:
            row = _read(content, self._whole)
            if self._unpack(row):
                return row
        except (EOFError, *BROKEN):
            pass  # what does not fit may be misread as anything
        content.seek(start)
        return _read(content, self._by_schema)

    def _unpack(self, row: Row) -> bool:
        """Put arrays in the places of vectors; False if the row was not written as was thought."""
        for vector in self._vectors:
            holder = row if vector.outer is None else row[vector.outer]
            if (found := holder[vector.name]) is not None:
                if found["count"] != vector.length or found["end"] != 0:
                    return False
                holder[vector.name] = np.frombuffer(found["bytes"], vector.dtype)
        return True

    def _learn(self, row: Row) -> None:
        """Make the schema that takes vectors whole, if a row has any."""
        whole = deepcopy(self._schema)
        vectors: list[_Vector] = []
        for field in whole.get("fields", ()):
            if field["name"] in VECTOR_FIELDS:
                field["type"] = _taken_whole(field["type"], row, None, field["name"], vectors)
        if vectors:
            self._whole = fastavro.parse_schema(whole)
            self._vectors = vectors


def _taken_whole(avro: object, holder: Row, outer: str | None, name: str, vectors: list[_Vector]) -> object:
    """Write a field's type so that arrays of floats in it are one value; note each in `vectors`."""
    if isinstance(avro, list):
        return [_taken_whole(branch, holder, outer, name, vectors) for branch in avro]
    found = holder.get(name)
    if not isinstance(avro, dict):
        return avro
    if avro["type"] == "record" and isinstance(found, dict) and outer is None:
        for field in avro["fields"]:
            field["type"] = _taken_whole(field["type"], found, name, field["name"], vectors)
    elif avro["type"] == "array" and avro["items"] in NUMBERS and found:
        dtype = np.dtype(NUMBERS[avro["items"]])
        number = len(vectors)
        vectors.append(_Vector(outer, name, dtype.str, len(found)))
        content = {"type": "fixed", "name": f"bytes_of_vector_{number}", "size": dtype.itemsize * len(found)}
        fields = (("count", "long"), ("bytes", content), ("end", "long"))
        named = [{"name": name, "type": type} for name, type in fields]
        return {"type": "record", "name": f"vector_{number}", "fields": named}
    return avro


def _read(content: IO[bytes], schema: Any) -> Row:
    return cast("Row", fastavro.schemaless_reader(content, schema))


@contextmanager
def _translated(incoming: Incoming) -> Iterator[None]:
    """Tell a file that ends too early from one that is wrong."""
    try:
        yield
    except EOFError:
        raise CutShortError from None
    except BROKEN as error:
        if incoming.is_at_end:
            raise CutShortError from None
        raise UnreadableError(str(error)) from None
