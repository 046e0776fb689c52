"""Write records into a file of one's own: JSONL, CSV or Parquet. It is there when it is whole, and not before.

              text, kept fields                  vectors                                     order
    --------  ---------------------------------  ------------------------------------------  ---------------------
    .jsonl    as they are                        "embeddings": {"float": [...], ...}         text, embeddings, kept
    .csv      plain; objects and lists as JSON;  one column "embeddings", as JSON            the same
              nothing for null
    .parquet  typed, see `parquet_output`        a column "embeddings.float", ... for each   the same

Floats have as few digits as tell them from other float32, and text stays UTF-8. Needs memory for some records only.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

import msgspec
import numpy as np

from connector.decimals import shortest
from connector.errors import ConfigError, RejectedError

if TYPE_CHECKING:
    from connector.model import JsonValue

    from .avro import Schema
    from .results import Record, Records

RECORDS_AT_ONCE: Final = 64
NEEDS_QUOTES: Final = re.compile(r'[",\r\n]|^\s|\s$')
FORMATS: Final = (".jsonl", ".csv", ".parquet")


class Output(Protocol):
    """Writes records of one kind of file."""

    def write(self, records: Sequence[Record]) -> None:
        """Write some records, at least one."""
        ...

    def end(self) -> None:
        """Write what belongs at the end."""
        ...


def check_output(path: Path, *, replace: bool) -> None:
    """Find out beforehand what would go wrong at the end; ConfigError."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path} should end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, which say what to write")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(
            f"{path} cannot be written: {'it is a folder' if path.is_dir() else 'its folder is not there'}"
        )
    if path.exists() and not replace:
        raise ConfigError(f"{path} exists, and is not overwritten; name another file, or say --force")
    if path.suffix.lower() == ".parquet":
        _parquet()


def write_records(
    records: Records,
    path: Path,
    *,
    replace: bool,
    expected: int | None = None,
    on_written: Callable[[int], None] = lambda _count: None,
) -> int:
    """Write all records into a file, and tell how many. `expected` is how many there have to be, if that is known.

    Nothing is at `path` before all is there and synced; RejectedError if it is another number of records.
    """
    with _whole_file(path, replace=replace) as file:
        output = _output_for(path, file, lambda: records.schema)
        count = 0
        while batch := list(islice(records, RECORDS_AT_ONCE)):
            output.write(batch)
            count += len(batch)
            on_written(count)
        output.end()
        if expected is not None and count != expected:
            raise RejectedError(f"the result has {count:,} records, and {expected:,} rows were uploaded; not written")
    return count


def plain_embeddings(records: Sequence[Record]) -> Iterator[Mapping[str, list[float]]]:
    """Give the vectors of each record as lists of numbers that JSON writes as short as can be."""
    floats = [vector for record in records if (vector := record.embeddings.get("float")) is not None]
    joined = shortest(np.concatenate(floats).astype(np.float32, copy=False)).tolist() if floats else []
    at = 0
    for record in records:
        plain: dict[str, list[float]] = {}
        for name, vector in record.embeddings.items():
            if name == "float":
                plain[name] = joined[at : at + len(vector)]
                at += len(vector)
            else:
                plain[name] = vector.tolist()
        yield plain


class JsonlOutput:
    """One JSON object a line."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._encode = msgspec.json.Encoder().encode_lines

    def write(self, records: Sequence[Record]) -> None:
        embeddings = plain_embeddings(records)
        self._file.write(
            self._encode(
                [
                    {"text": record.text, "embeddings": plain, **record.metadata}
                    for record, plain in zip(records, embeddings, strict=True)
                ]
            )
        )

    def end(self) -> None: ...


class CsvOutput:
    """RFC 4180, with a header: the fields of the first record, which are those of all.

    Quoted here: the module `csv` looks at each of a vector's thousands of characters, and is a third as fast.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._names: Sequence[str] | None = None

    def write(self, records: Sequence[Record]) -> None:
        self._head(records[0].metadata)
        lines: list[str] = []
        for record, plain in zip(records, plain_embeddings(records), strict=True):
            if list(record.metadata) != self._names:
                raise RejectedError("the records have not all the same fields, which a CSV file needs; write JSONL")
            cells = (record.text, _json(plain), *map(_cell, record.metadata.values()))
            lines.append(_csv_line(cells))
        self._file.write("".join(lines).encode())

    def end(self) -> None:
        self._head(())

    def _head(self, names: Iterable[str]) -> None:
        if self._names is None:
            self._names = list(names)
            self._file.write(_csv_line(("text", "embeddings", *self._names)).encode())


def _output_for(path: Path, file: BinaryIO, schema: Callable[[], Schema]) -> Output:
    match path.suffix.lower():
        case ".jsonl":
            return JsonlOutput(file)
        case ".csv":
            return CsvOutput(file)
        case _:
            return _parquet()(file, schema())


def _parquet() -> Callable[[BinaryIO, Schema], Output]:
    try:
        from .parquet_output import ParquetOutput  # noqa: PLC0415 - needs an extra
    except ImportError:
        raise ConfigError('Parquet needs another package: pip install "vector-sync[parquet]"') from None
    return ParquetOutput


@contextmanager
def _whole_file(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """Give a file beside `path` to write to, which takes its place if all goes well, and goes away if not."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists() and not replace:
            raise ConfigError(f"{path} exists by now, and is not overwritten; name another file, or say --force")
        beside.replace(path)
        _sync_folder(path.absolute().parent)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cell(value: JsonValue) -> str:
    """Write a field's value as a cell: nothing for null, and JSON for what is no text."""
    return "" if value is None else value if isinstance(value, str) else _json(value)


def _csv_line(cells: Iterable[str]) -> str:
    return ",".join([_quoted(cell) if NEEDS_QUOTES.search(cell) else cell for cell in cells]) + "\r\n"


def _quoted(cell: str) -> str:
    doubled = cell.replace('"', '""')
    return f'"{doubled}"'


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
