"""Read an upload row by row, and say what is wrong with which line. Needs no memory but for the row at hand.

    in the file                                                    JSONL                     CSV
    -------------------------------------------------------------  ------------------------  --------------------------
    a byte order mark of UTF-8 at the beginning                    skipped                   skipped
    a blank line                                                   skipped                   skipped
    a field that is not named in the options                       dropped                   dropped
    a kept field that is null                                      there: null               -
    a kept field that is empty                                     there: ""                 there: ""
    an optional field that is empty                                there: ""                 missing
    an optional field that is missing                              missing                   missing
    not UTF-8; `text` missing, no string, or white space only      bad row                   bad row
    a kept field that is missing                                   bad row                   the file is invalid
    no JSON object; half a surrogate pair; NaN; 1e999              bad row                   -
    in a named field, an integer beyond 64 bits, deep nesting,
    or an array or object of more than `MAX_NESTED_BYTES`          bad row                   -
    another number of cells than the header; a quote astray        -                         bad row
    a row of more than `MAX_ROW_BYTES`                             bad row                   bad row
    another format than its name says; UTF-16; no rows             the file is invalid       the file is invalid

Lines are counted as an editor does, from 1, the header and blank lines included; a CSV row of several lines is
where it begins. Messages have the hosted service's words where those are known (docs.cohere.com, "Datasets", as of
August 2026). They never quote a row.

Works with the base install: a client can check a file with it before the upload.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, TypedDict, cast

import msgspec

from .refusals import BadRequestError
from .values import DatasetOptions

if TYPE_CHECKING:
    from connector.model import JsonValue

    Fields: TypeAlias = dict[str, JsonValue]
    """A row's `text` and those of the fields in the options that it has, in no particular order."""

MAX_ROW_BYTES = 16 << 20  # ours: bounds memory, and is beyond any text that a model reads to its end
MAX_NESTED_BYTES = 1 << 20  # ours: as objects in memory, JSON like `[[],[]]` takes fifty times its length
MAX_DEPTH = 32  # ours: of arrays and objects in a field; readers of Avro recurse
HEAD_BYTES = 64 << 10  # looked at to tell what a file is
STOP_BYTES = 1 << 20  # read between two questions whether to stop; a line counts for LINE_COST more
LINE_COST = 64
MAX_NAME_CHARACTERS = 100  # of a file or a header that a message repeats
SUSPECTS = frozenset({int, list, dict})
INT64 = range(-(2**63), 2**63)
UTF8_BOM = b"\xef\xbb\xbf"
NO_ROWS = "None of the rows in the file can be empty, and it has no rows"

CONTENTS = (
    (b"Obj\x01", "an Avro file"),
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"PK\x03\x04", "a zip file or a spreadsheet; unpack it or export it as CSV first"),
    (b"PAR1", "a Parquet file"),
    (b"BZh", "a bzip2 file; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstandard file; unpack it first"),
    (b"\xfd7zXZ\x00", "an xz file; unpack it first"),
    (b"%PDF-", "a PDF file"),
    (b"\xff\xfe", "UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16; save it as UTF-8"),
)

# The module's own limit on a cell is 128 KiB, for the whole process. A row's is what counts here.
csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))


class InvalidFileError(Exception):
    """A file is invalid as a whole, whatever its rows are."""


class StoppedError(Exception):
    """The reader was asked to stop, and did so between two rows."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """A good row."""

    line: int
    fields: Fields


class BadRow(msgspec.Struct, frozen=True, gc=False):
    """A row that cannot be taken, and why."""

    line: int
    problem: str

    @property
    def message(self) -> str:
        return f"{self.problem} (line: {self.line})"


class FileFormat(StrEnum):
    """How an upload is written."""

    JSONL = "jsonl"
    CSV = "csv"


def check_options(options: DatasetOptions) -> None:
    """Refuse options that no file can be read by. BadRequestError names the first that is wrong.

    To be called before an upload is acknowledged; the readers here and `schema` rely on it.
    """
    delimiter = options.csv_delimiter
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise BadRequestError(
            "invalid csv delimiter: csv_delimiter has to be one character, and no quote or line break"
        )
    names = (*options.keep_fields, *options.optional_fields)
    for name, count in Counter(names).items():
        if not name or not _is_unicode(name):
            raise BadRequestError("a name in keep_fields or optional_fields is empty or not Unicode; leave it out")
        if name == "embeddings":
            raise BadRequestError(
                "the field embeddings cannot be kept: results have the vectors there; rename the field"
            )
        if count > 1 and name != "text":
            raise BadRequestError(
                f"the field {name} is named {count} times in keep_fields and optional_fields; once is enough"
            )


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def fields_of(options: DatasetOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name the fields that are kept and those that are optional; `text` is neither."""
    keep, optional = (
        tuple(name for name in dict.fromkeys(names) if name != "text")
        for names in (options.keep_fields, options.optional_fields)
    )
    return keep, optional


def format_of(file_name: str) -> FileFormat:
    """Tell from its name how a file is written; InvalidFileError if the service cannot read that."""
    name = shown(file_name)
    stem, dot, extension = file_name.replace("\\", "/").rsplit("/", 1)[-1].rpartition(".")
    if not dot or not stem or not extension:
        raise InvalidFileError(
            f"the upload is named {name}, without an extension: pass a file name that ends in .jsonl or .csv, "
            'as in data=("data.jsonl", contents)'
        )
    try:
        return FileFormat(extension.lower())
    except ValueError:
        raise InvalidFileError(f"only .jsonl and .csv files are supported, and the upload is named {name}") from None


def shown(name: str) -> str:
    """Make a name of any length fit for a message."""
    return name if len(name) <= MAX_NAME_CHARACTERS else name[:MAX_NAME_CHARACTERS] + "…"


def read_rows(
    path: Path, file_name: str, options: DatasetOptions, *, is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[Row | BadRow]:
    """Read a file's rows in order. `file_name` is what it was called where it came from.

    `is_stopped` is asked at least once for each `STOP_BYTES`, and must be cheap.

    Raises:
        InvalidFileError: nothing in the file can be taken.
        StoppedError: `is_stopped` said so.
        OSError: the file cannot be read.
    """
    format = format_of(file_name)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        content = _content(head, format, options.csv_delimiter)
        if content:
            raise InvalidFileError(
                f"file extension and file contents have to match: {shown(file_name)} holds {content}"
            )
        file.seek(len(UTF8_BOM) if head.startswith(UTF8_BOM) else 0)
        lines = _Lines(file, is_stopped)
        is_empty = True
        for row in _json_rows(lines, options) if format is FileFormat.JSONL else _csv_rows(lines, options):
            is_empty = False
            yield row
    if is_empty:
        raise InvalidFileError(NO_ROWS)


def _content(head: bytes, format: FileFormat, delimiter: str) -> str:
    """Say what a file holds if that is not what its name says; empty if it may be."""
    for beginning, content in CONTENTS:
        if head.startswith(beginning):
            return content
    if b"\0" in head:
        return "binary data"
    if re.match(rb"[^\n]*\r[^\r\n]", head) and b"\n" not in head:
        return "lines that end in CR alone; save it with LF or CR LF"
    text = head.removeprefix(UTF8_BOM).lstrip()
    if re.match(rb"\[\s*(\{|$)", text):
        return "one JSON array; write one object a line, without brackets or commas between, and name it .jsonl"
    return _not_json(text, delimiter) if format is FileFormat.JSONL else _not_csv(text)


def _not_json(text: bytes, delimiter: str) -> str:
    first = text.partition(b"\n")[0].rstrip()
    if first == b"{":
        return "a JSON object spread over several lines; write one object a line"
    cells = {cell.strip().strip(b'"') for cell in re.split(rb"[,;|\t]|" + re.escape(delimiter.encode()), first)}
    return "CSV; name it .csv" if b"text" in cells and not first.startswith(b"{") else ""


def _not_csv(text: bytes) -> str:
    is_json = re.match(rb'\{\s*(\}|"([^"\\]|\\.)*"\s*:)', text)
    return "JSON lines; name it .jsonl" if is_json else ""


class _TooLongError(Exception):
    """A line or a row is beyond `MAX_ROW_BYTES`, and was skipped."""


class _Lines:
    """The lines of a file, in bytes, each with its line break."""

    def __init__(self, file: BinaryIO, is_stopped: Callable[[], bool]) -> None:
        self.number = 0  # of the line that was read last
        self._read = file.readline
        self._is_stopped = is_stopped
        self._until_question = 0

    def read(self) -> bytes:
        """Read one line; nothing at the end. _TooLongError when it is skipped instead."""
        line = self._read(MAX_ROW_BYTES + 1)
        if not line:
            return b""
        self.number += 1
        self._count(line)
        if len(line) > MAX_ROW_BYTES:
            while line and not line.endswith(b"\n"):
                line = self._read(STOP_BYTES)
                self._count(line)
            raise _TooLongError
        return line

    def _count(self, line: bytes) -> None:
        self._until_question -= len(line) + LINE_COST
        if self._until_question <= 0:
            self._until_question = STOP_BYTES
            if self._is_stopped():
                raise StoppedError


# --- JSONL ---


def _json_rows(lines: _Lines, options: DatasetOptions) -> Iterator[Row | BadRow]:
    keep, optional = fields_of(options)
    decode = _decoder_of(("text", *keep, *optional), object)
    decode_roughly = _decoder_of((*keep, *optional), msgspec.Raw)
    while True:
        try:
            raw = lines.read()
        except _TooLongError:
            yield BadRow(lines.number, f"the row has more than {MAX_ROW_BYTES:,} bytes")
            continue
        if not raw:
            return
        if raw.isspace():
            continue
        try:
            if not raw.isascii():
                raw.decode()  # the decoder does not look at strings that it skips
            if len(raw) > MAX_NESTED_BYTES:
                _refuse_long_nested(decode_roughly(raw))
            fields = cast("Fields", decode(raw))
        except _NestedError as error:
            yield BadRow(lines.number, str(error))
            continue
        except (ValueError, RecursionError) as error:
            yield BadRow(lines.number, _broken_json(error, raw))
            continue
        problem = _problem(fields, keep)
        yield BadRow(lines.number, problem) if problem else Row(lines.number, fields)


def _decoder_of(names: Sequence[str], kind: type) -> Callable[[bytes], object]:
    """Make a decoder that gives a dict of these fields, and skips all others without making objects of them."""
    if not "".join(names).isascii():
        return _whole_decoder_of(frozenset(names), kind)
    fields = TypedDict("Fields", dict.fromkeys(names, kind), total=False)  # type: ignore[misc] # made of its options
    decode: Callable[[bytes], object] = msgspec.json.Decoder(fields).decode
    return decode


def _whole_decoder_of(names: frozenset[str], kind: type) -> Callable[[bytes], object]:
    """Do the same for names that are not ASCII, which msgspec (0.22) does not find by a TypedDict."""
    decoder = msgspec.json.Decoder(dict[str, kind])  # type: ignore[valid-type] # made of its options

    def decode(row: bytes) -> object:
        return {name: value for name, value in decoder.decode(row).items() if name in names}

    return decode


class _NestedError(Exception):
    """A field is an array or object that is too long to be decoded."""


def _refuse_long_nested(fields: object) -> None:
    for name, value in cast("dict[str, msgspec.Raw]", fields).items():
        json = memoryview(value)
        if len(json) > MAX_NESTED_BYTES and json[0] in b"[{":
            raise _NestedError(
                f"the field {name} is an array or object of more than {MAX_NESTED_BYTES:,} bytes; write it as a string"
            )


def _problem(fields: Fields, keep: Sequence[str]) -> str:
    """Say what is wrong with a row; empty if nothing is."""
    if "text" not in fields:
        return "the required field text was not found in the dataset"
    text = fields["text"]
    if not isinstance(text, str):
        return f"the field text is {_kind(text)}, and has to be a string"
    if not text or text.isspace():
        return "the field text is empty: None of the rows in the file can be empty"
    for name in keep:
        if name not in fields:
            return f"the required field {name} was not found in the dataset"
    for name, value in fields.items():
        if type(value) is not str and (problem := _unfit(value, MAX_DEPTH)):
            return f"the field {name} {problem}"
    return ""


def _unfit(value: JsonValue, levels: int) -> str:
    """Say why a value does not fit into the parts; empty if it does."""
    if isinstance(value, list | dict):
        if not levels:
            return f"is nested more than {MAX_DEPTH} levels deep; write it as a string"
        children = value if isinstance(value, list) else value.values()
        suspects = SUSPECTS.intersection(map(type, children))  # of a thousand floats, none has to be looked at
        if suspects:
            return next(filter(None, (_unfit(child, levels - 1) for child in children if type(child) in suspects)), "")
    elif isinstance(value, int) and value not in INT64:
        return "has an integer beyond 64 bits; write it as a string"
    return ""


def _kind(value: JsonValue) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    return {int: "a number", float: "a number", list: "an array", dict: "an object"}[type(value)]


def _broken_json(error: Exception, raw: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"invalid UTF-8 at byte {error.start + 1} of the line"
    if isinstance(error, RecursionError):
        return "invalid JSON: nested too deep"
    reason = str(error).removeprefix("JSON is malformed: ").split(" - at ")[0]
    if reason.startswith("Expected `object`"):
        return "the row is not a JSON object"
    if reason == "Input data was truncated":
        reason = "it ends too early" + (", or a string ends with half a surrogate pair" if b"\\u" in raw else "")
    return f"invalid JSON: {reason[:1].lower()}{reason[1:]}"


# --- CSV ---


class _CsvLines:
    """What csv.reader reads from: lines as text, and where the row began that they belong to."""

    def __init__(self, lines: _Lines) -> None:
        self._lines = lines
        self.begin_row()

    def begin_row(self) -> None:
        """Note that the next line is a row's first."""
        self.first = 0
        self.is_utf8 = True
        self._size_bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            raw = self._lines.read()
        finally:
            self.first = self.first or self._lines.number
        if not raw:
            raise StopIteration
        self._size_bytes += len(raw)
        if self._size_bytes > MAX_ROW_BYTES:
            raise _TooLongError
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self.is_utf8 = False
            return raw.decode(errors="replace")


def _csv_rows(lines: _Lines, options: DatasetOptions) -> Iterator[Row | BadRow]:
    rows = _cells(lines, options.csv_delimiter)
    header = next(rows, None)
    if header is None:
        raise InvalidFileError(NO_ROWS)
    if isinstance(header, BadRow):
        raise InvalidFileError(f"the header of the csv file cannot be read: {header.message}")
    names = header[1]
    keep, optional = fields_of(options)
    _check_header(names, ("text", *keep), optional, options.csv_delimiter)
    places = [(name, names.index(name), name in optional) for name in ("text", *keep, *optional) if name in names]
    for found in rows:
        if isinstance(found, BadRow):
            yield found
            continue
        line, cells = found
        if len(cells) != len(names):
            yield BadRow(line, f"the row has {len(cells)} cells, and the header has {len(names)}")
            continue
        fields: Fields = {name: cells[at] for name, at, is_optional in places if cells[at] or not is_optional}
        problem = _problem(fields, ())
        yield BadRow(line, problem) if problem else Row(line, fields)


def _cells(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str]] | BadRow]:
    """Cut the file into rows of cells, each with the line where it begins."""
    texts = _CsvLines(lines)
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    while True:
        texts.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _TooLongError:
            end = f", and ends at line {lines.number}" if lines.number > texts.first else ""
            yield BadRow(
                texts.first, f"the row has more than {MAX_ROW_BYTES:,} bytes{end}; is a quote in it never closed?"
            )
            continue
        except csv.Error as error:
            yield BadRow(texts.first, _broken_csv(str(error)))
            continue
        if not texts.is_utf8:
            yield BadRow(texts.first, "invalid UTF-8 in the row")
        elif cells:
            yield texts.first, cells


def _broken_csv(reason: str) -> str:
    if reason == "unexpected end of data":
        return "invalid CSV: a quote in the row is never closed"
    if reason.startswith("new-line character"):
        return "invalid CSV: a CR in a cell without quotes"
    return f"invalid CSV: {reason}; a quote inside a cell is written twice, and the cell between quotes"


def _check_header(names: Sequence[str], required: Sequence[str], optional: Sequence[str], delimiter: str) -> None:
    missing = [name for name in required if name not in names]
    if missing:
        # What the header has instead is not told: where there is none, it is a row.
        others = (other for other in ",;\t|" if other != delimiter)
        hint = next((f"; is csv_delimiter {other!r}?" for other in others if "text" in names[0].split(other)), "")
        raise InvalidFileError(
            f"csv files must have a header with the required fields: [{', '.join(required)}]; "
            f"this one is without: [{', '.join(missing)}]{hint}"
        )
    for name in (*required, *optional):
        if names.count(name) > 1:
            raise InvalidFileError(f"the header of the csv file has the field {name} {names.count(name)} times")
