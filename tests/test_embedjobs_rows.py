"""What of an upload is a row, and what is said of the rest."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.embedjobs import rows
from connector.embedjobs.refusals import BadRequestError
from connector.embedjobs.rows import (
    BadRow,
    FileFormat,
    InvalidFileError,
    Row,
    StoppedError,
    check_options,
    format_of,
    read_rows,
)
from connector.embedjobs.values import DatasetOptions

KEEP = DatasetOptions(keep_fields=("id",), optional_fields=("lang",))


def read(
    folder: Path, content: bytes | str, name: str = "data.jsonl", options: DatasetOptions = KEEP
) -> list[Row | BadRow]:
    path = folder / "original"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(path, name, options))


def refusal(folder: Path, content: bytes | str, name: str = "data.jsonl", options: DatasetOptions = KEEP) -> str:
    with pytest.raises(InvalidFileError) as refused:
        read(folder, content, name, options)
    return str(refused.value)


# --- JSONL ---


def test_a_row_has_its_text_and_the_fields_that_were_asked_for_and_no_others(tmp_path: Path) -> None:
    found = read(tmp_path, '{"id": 7, "other": {"a": [1]}, "text": "one", "lang": "en"}\n{"text": "two", "id": null}\n')
    assert found == [Row(1, {"text": "one", "id": 7, "lang": "en"}), Row(2, {"text": "two", "id": None})]


def test_names_that_are_not_ascii_are_found_and_others_still_dropped(tmp_path: Path) -> None:
    options = DatasetOptions(keep_fields=("日本",), optional_fields=("é",))
    found = read(
        tmp_path, '{"日本": 1, "é": 2, "text": "a", "other": 3}\n{"\\u65e5本": 1, "text": "b"}\n', options=options
    )
    assert found == [Row(1, {"日本": 1, "é": 2, "text": "a"}), Row(2, {"日本": 1, "text": "b"})]


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    content = '\n{"text": "a", "id": 1}\r\n  \t\r\n\n{"text": "b\u2028\x85\u2029", "id": 2}\n{}\n{"text": "c", "id": 3}'
    found = read(tmp_path, content)
    assert [row.line for row in found] == [2, 5, 6, 7]
    assert [isinstance(row, Row) for row in found] == [True, True, False, True]


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"text": "a", "id": 1}\n',
        b'\xef\xbb\xbf\n{"text": "a", "id": 1}',
        b' {"text" : "a",\t"id":1 } \r\n',
        b'{"text": "b", "id": 1, "text": "a"}',
        b'{"\\u0074ext": "a", "id": 1}',
        b'{"text": "a", "id": 1, "dropped": 123456789012345678901234567890}',
    ],
)
def test_what_json_allows_is_taken(tmp_path: Path, content: bytes) -> None:
    (row,) = read(tmp_path, content)
    assert isinstance(row, Row)
    assert row.fields == {"text": "a", "id": 1}


DEEP_ENOUGH = "[" * rows.MAX_DEPTH + "]" * rows.MAX_DEPTH

BAD_LINES = {
    b'{"id": 1}': "the required field text was not found in the dataset (line: 2)",
    b'{"Text": "a", "id": 1}': "the required field text was not found in the dataset (line: 2)",
    b'{"text": "a"}': "the required field id was not found in the dataset (line: 2)",
    b"{}": "the required field text was not found in the dataset (line: 2)",
    b'{"text": null, "id": 1}': "the field text is null, and has to be a string (line: 2)",
    b'{"text": 1, "id": 1}': "the field text is a number, and has to be a string (line: 2)",
    b'{"text": 1.5, "id": 1}': "the field text is a number, and has to be a string (line: 2)",
    b'{"text": true, "id": 1}': "the field text is a boolean, and has to be a string (line: 2)",
    b'{"text": ["a"], "id": 1}': "the field text is an array, and has to be a string (line: 2)",
    b'{"text": {}, "id": 1}': "the field text is an object, and has to be a string (line: 2)",
    b'{"text": "", "id": 1}': "the field text is empty: None of the rows in the file can be empty (line: 2)",
    b'{"text": " \\n\\t\\u00a0", "id": 1}': (
        "the field text is empty: None of the rows in the file can be empty (line: 2)"
    ),
    b'{"text": "a", "id": 9223372036854775808}': (
        "the field id has an integer beyond 64 bits; write it as a string (line: 2)"
    ),
    b'{"text": "a", "id": 1, "lang": [{"a": [-9223372036854775809]}]}': (
        "the field lang has an integer beyond 64 bits; write it as a string (line: 2)"
    ),
    b'{"text": "a", "id": [' + DEEP_ENOUGH.encode() + b"]}": (
        "the field id is nested more than 32 levels deep; write it as a string (line: 2)"
    ),
    b'{"text": "a", "id": ' + b"[" * 100_000: "invalid JSON: nested too deep (line: 2)",
    b'{"text": "a", "no": ' + b"[" * 100_000: "invalid JSON: nested too deep (line: 2)",
    b'{"text": "a", "id": 1': "invalid JSON: it ends too early (line: 2)",
    b'{"text": "a\\ud800"}': ("invalid JSON: it ends too early, or a string ends with half a surrogate pair (line: 2)"),
    b'{"text": "a\\udc00b"}': "invalid JSON: invalid utf-16 surrogate pair (byte 17) (line: 2)",
    b'{"text": "a", "no": "\\udc00b"}': "invalid JSON: invalid utf-16 surrogate pair (byte 27) (line: 2)",
    b'{"text": "a", "id": NaN}': "invalid JSON: invalid character (byte 20) (line: 2)",
    b'{"text": "a", "no": Infinity}': "invalid JSON: invalid character (byte 20) (line: 2)",
    b'{"text": "a", "id": 1e999}': "invalid JSON: number out of range (line: 2)",
    b'{"text": "a", "id": 1}, {"text": "b"}': "invalid JSON: trailing characters (byte 23) (line: 2)",
    b'{"text": "a\tb", "id": 1}': "invalid JSON: invalid character (byte 11) (line: 2)",
    b"{'text': 'a'}": "invalid JSON: object keys must be strings (byte 1) (line: 2)",
    b"text": "invalid JSON: invalid character (byte 4) (line: 2)",
    b"[]": "the row is not a JSON object (line: 2)",
    b'"a"': "the row is not a JSON object (line: 2)",
    b"null": "the row is not a JSON object (line: 2)",
    b"1": "the row is not a JSON object (line: 2)",
    b'{"text": "a\xff", "id": 1}': "invalid UTF-8 at byte 12 of the line (line: 2)",
    b'{"text": "a", "id": 1, "no": "\xe9"}': "invalid UTF-8 at byte 31 of the line (line: 2)",
    b'{"text": "\xed\xa0\x80", "id": 1}': "invalid UTF-8 at byte 11 of the line (line: 2)",
}


@pytest.mark.parametrize("bad", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_is_told_of_and_the_lines_around_it_are_read(tmp_path: Path, bad: bytes) -> None:
    good = b'{"text": "good", "id": 0}\n'
    first, found, last = read(tmp_path, good + bad + b"\n" + good)
    assert isinstance(found, BadRow)
    assert found.message == BAD_LINES[bad]
    assert (first, last) == (Row(1, {"text": "good", "id": 0}), Row(3, {"text": "good", "id": 0}))


def test_values_at_the_limits_are_taken_as_they_are(tmp_path: Path) -> None:
    values = [2**63 - 1, -(2**63), 1, 1.0, True, -0.0, 1e308, "\x00\U0001f600", [], {}, {"": None}]
    (row,) = read(tmp_path, json.dumps({"text": "a", "id": values, "lang": json.loads(DEEP_ENOUGH)}))
    assert isinstance(row, Row)
    assert repr(row.fields["id"]) == repr(values)
    assert row.fields["lang"] == json.loads(DEEP_ENOUGH)


def test_a_number_of_thousands_of_digits_is_a_bad_row(tmp_path: Path) -> None:
    (row,) = read(tmp_path, '{"text": "a", "id": ' + "1" * 10_000 + "}")
    assert isinstance(row, BadRow)


@pytest.mark.parametrize("field", ["id", "lang"])
@pytest.mark.parametrize("unit", ["[],", '{"a":{}},', "1,"])
def test_an_array_of_more_than_a_mebibyte_is_a_bad_row(tmp_path: Path, field: str, unit: str) -> None:
    count = rows.MAX_NESTED_BYTES // len(unit) - 10
    line = '{"text": "a", "id": 1, "%s": [%s1], "no": "%s"}\n'
    content = line % (field, unit * count, "x" * 100) + line % (field, unit * (count + 20), "")
    taken, refused = read(tmp_path, content)
    assert isinstance(taken, Row)
    assert isinstance(refused, BadRow)
    says = f"the field {field} is an array or object of more than 1,048,576 bytes; write it as a string (line: 2)"
    assert refused.message == says


def test_a_string_may_be_as_long_as_a_row_and_what_is_dropped_too(tmp_path: Path) -> None:
    long = "x" * (5 << 20)
    content = f'{{"text": "{long}", "id": "{long}", "no": [{"[]," * (1 << 20)}1]}}'
    assert read(tmp_path, content) == [Row(1, {"text": long, "id": long})]


@pytest.mark.parametrize("name", ["data.jsonl", "data.csv"])
@pytest.mark.parametrize("beyond", [-1, 0, 1, 3 << 20])
def test_a_line_beyond_the_limit_is_skipped_and_no_other(tmp_path: Path, name: str, beyond: int) -> None:
    is_json = name == "data.jsonl"
    beginning, end = (b'{"text": "', b'", "id": 1}\n') if is_json else (b'"', b'",1\n')
    other = b'{"text": "b", "id": 2}\n' if is_json else b"b,2\n"
    long = beginning + b"x" * (rows.MAX_ROW_BYTES + beyond - len(beginning) - len(end)) + end
    assert len(long) == rows.MAX_ROW_BYTES + beyond
    found = read(tmp_path, (b"" if is_json else b"text,id\n") + other + long + other, name)
    assert [isinstance(row, Row) for row in found] == [True, beyond <= 0, True]
    first = 1 if is_json else 2
    assert [row.line for row in found] == [first, first + 1, first + 2]
    if isinstance(found[1], BadRow):
        assert found[1].message.startswith("the row has more than 16,777,216 bytes")


# --- CSV ---


def test_a_csv_row_has_strings_and_an_empty_optional_cell_is_missing(tmp_path: Path) -> None:
    content = "lang,other,text,id\nen,x,one,1\n,,two,\n"
    assert read(tmp_path, content, "data.csv") == [
        Row(2, {"text": "one", "id": "1", "lang": "en"}),
        Row(3, {"text": "two", "id": ""}),
    ]


def test_an_optional_column_need_not_be_there(tmp_path: Path) -> None:
    assert read(tmp_path, "text,id\na,1\n", "data.csv") == [Row(2, {"text": "a", "id": "1"})]


def test_a_csv_row_is_where_it_begins(tmp_path: Path) -> None:
    content = '\r\n\ntext,id\r\n"a\r\nb\n\nc",1\r\n\r\nd,2\n"e ""f"" , g",3\nh,"i\nj"'
    assert read(tmp_path, content, "data.csv") == [
        Row(4, {"text": "a\r\nb\n\nc", "id": "1"}),
        Row(9, {"text": "d", "id": "2"}),
        Row(10, {"text": 'e "f" , g', "id": "3"}),
        Row(11, {"text": "h", "id": "i\nj"}),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " ", "§", "a"])
def test_any_delimiter_will_do(tmp_path: Path, delimiter: str) -> None:
    options = DatasetOptions(keep_fields=("id",), csv_delimiter=delimiter)
    content = f"id{delimiter}text\n7{delimiter}one\n"
    assert read(tmp_path, content, "data.csv", options) == [Row(2, {"text": "one", "id": "7"})]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbftext,id\na,1\n", "data.csv") == [Row(2, {"text": "a", "id": "1"})]


def test_a_cell_may_be_longer_than_the_csv_module_likes(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "text,id\n" + "x" * 1_000_000 + ",1\n", "data.csv")
    assert isinstance(row, Row)


BAD_CSV_ROWS = {
    b"a\n": "the row has 1 cells, and the header has 2 (line: 3)",
    b"a,1,\n": "the row has 3 cells, and the header has 2 (line: 3)",
    b",1\n": "the field text is empty: None of the rows in the file can be empty (line: 3)",
    b'" \n ",1\n': "the field text is empty: None of the rows in the file can be empty (line: 3)",
    b"\xff,1\n": "invalid UTF-8 in the row (line: 3)",
    b'"a\n\xff\nb",1\n': "invalid UTF-8 in the row (line: 3)",
    b'"a"b,1\n': (
        "invalid CSV: ',' expected after '\"'; a quote inside a cell is written twice, and the cell between quotes"
        " (line: 3)"
    ),
    b"a\rb,1\n": "invalid CSV: a CR in a cell without quotes (line: 3)",
}


@pytest.mark.parametrize("bad", BAD_CSV_ROWS, ids=range(len(BAD_CSV_ROWS)))
def test_a_bad_csv_row_is_told_of_and_the_rows_around_it_are_read(tmp_path: Path, bad: bytes) -> None:
    first, found, last = read(tmp_path, b"text,id\ngood,0\n" + bad + b"good,0\n", "data.csv")
    assert isinstance(found, BadRow)
    assert found.message == BAD_CSV_ROWS[bad]
    assert (first, last) == (
        Row(2, {"text": "good", "id": "0"}),
        Row(3 + bad.count(b"\n"), {"text": "good", "id": "0"}),
    )


def test_a_quote_that_is_never_closed_is_told_of_where_it_was_opened(tmp_path: Path) -> None:
    found = read(tmp_path, 'text,id\na,1\n"b,2\nc,3\n', "data.csv")
    assert found == [Row(2, {"text": "a", "id": "1"}), BadRow(3, "invalid CSV: a quote in the row is never closed")]


def test_a_quote_that_is_never_closed_does_not_swallow_more_than_a_row_may_have(tmp_path: Path) -> None:
    line = b"b" * 1021 + b",2\n"
    lines = rows.MAX_ROW_BYTES // len(line)
    found = read(tmp_path, b'text,id\n"' + line * (lines + 2), "data.csv")
    assert found[0] == BadRow(
        2, f"the row has more than 16,777,216 bytes, and ends at line {lines + 1}; is a quote in it never closed?"
    )
    assert [row.line for row in found[1:]] == [lines + 2, lines + 3]


@given(
    cells=st.lists(
        st.tuples(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))), min_size=1
    ).filter(lambda cells: not any("\0" in cell for row in cells for cell in row))
)
def test_what_the_csv_module_writes_is_read_as_it_was(
    cells: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "original"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(("text", "id"))
        writer.writerows((f"x{text}", id) for text, id in cells)
    found = list(read_rows(path, "data.csv", DatasetOptions(keep_fields=("id",))))
    assert [row.fields for row in found if isinstance(row, Row)] == [{"text": f"x{t}", "id": id} for t, id in cells]
    with path.open(newline="", encoding="utf-8") as file:
        lines = file.read().split("\n")
    assert all(lines[row.line - 1].startswith('"x') for row in found)


# --- files that are invalid as a whole ---


@pytest.mark.parametrize(
    "name, says",
    [
        ("upload", "the upload is named upload, without an extension: pass a file name that ends in .jsonl or .csv"),
        ("", "without an extension"),
        (".jsonl", "without an extension"),
        ("data.", "without an extension"),
        ("folder.csv/data", "without an extension"),
        ("folder.csv\\data", "without an extension"),
        ("data.txt", "only .jsonl and .csv files are supported, and the upload is named data.txt"),
        ("data.json", "only .jsonl and .csv files are supported, and the upload is named data.json"),
        ("data.jsonl.gz", "only .jsonl and .csv files are supported, and the upload is named data.jsonl.gz"),
        ("x" * 5000 + ".txt", "x" * 100 + "…"),
    ],
)
def test_only_jsonl_and_csv_are_taken(tmp_path: Path, name: str, says: str) -> None:
    message = refusal(tmp_path, '{"text": "a", "id": 1}', name)
    assert says in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "name, format",
    [
        ("data.jsonl", FileFormat.JSONL),
        ("DATA.JSONL", FileFormat.JSONL),
        ("a.b/c.d.Csv", FileFormat.CSV),
        ("C:\\x\\data.csv", FileFormat.CSV),
    ],
)
def test_the_extension_tells_the_format(name: str, format: FileFormat) -> None:
    assert format_of(name) is format


@pytest.mark.parametrize("name", ["data.jsonl", "data.csv"])
@pytest.mark.parametrize("content", ["", "\n", "\ufeff", "\ufeff\r\n\n\n"])
def test_a_file_without_rows_is_invalid(tmp_path: Path, name: str, content: str) -> None:
    assert refusal(tmp_path, content, name).startswith("None of the rows in the file can be empty")


def test_a_header_alone_is_no_row(tmp_path: Path) -> None:
    assert refusal(tmp_path, "text,id\n\n", "data.csv").startswith("None of the rows in the file can be empty")


MATCH = "file extension and file contents have to match: "


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("data.csv", b'{"text": "a", "id": 1}\n', "data.csv holds JSON lines; name it .jsonl"),
        ("data.csv", b'\xef\xbb\xbf\n {"te\\"xt": "a"}\n', "data.csv holds JSON lines; name it .jsonl"),
        ("data.csv", b"{}", "data.csv holds JSON lines; name it .jsonl"),
        ("data.csv", b'[\n{"text": "a"}]', "data.csv holds one JSON array"),
        ("data.jsonl", b'[{"text": "a"}]', "data.jsonl holds one JSON array; write one object a line"),
        ("data.jsonl", b'[\n  {"text": "a"}\n]', "data.jsonl holds one JSON array"),
        ("data.jsonl", b'{\n  "text": "a"\n}', "data.jsonl holds a JSON object spread over several lines"),
        ("data.jsonl", b"text,id\na,1\n", "data.jsonl holds CSV; name it .csv"),
        ("data.jsonl", b'\xef\xbb\xbf"id";"text"\r\n', "data.jsonl holds CSV; name it .csv"),
        ("data.jsonl", b"text\na\n", "data.jsonl holds CSV; name it .csv"),
        ("data.jsonl", b"Obj\x01\x04\x14avro.codec", "data.jsonl holds an Avro file"),
        ("data.csv", b"\x1f\x8b\x08\x00", "data.csv holds a gzip file; unpack it first"),
        ("data.csv", b"PK\x03\x04", "data.csv holds a zip file or a spreadsheet"),
        ("data.jsonl", b"PAR1", "data.jsonl holds a Parquet file"),
        ("data.csv", "\ufefftext,id".encode("utf-16-le"), "data.csv holds UTF-16; save it as UTF-8"),
        ("data.csv", "\ufefftext,id".encode("utf-16-be"), "data.csv holds UTF-16; save it as UTF-8"),
        ("data.csv", "text,id".encode("utf-16-le"), "data.csv holds binary data"),
        ("data.jsonl", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "data.jsonl holds binary data"),
        ("data.csv", b"text,id\ra,1\rb,2\r", "data.csv holds lines that end in CR alone; save it with LF or CR LF"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_told_for_what_it_is(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    assert refusal(tmp_path, content, name).startswith(MATCH + says)


@pytest.mark.parametrize("first", [b"[1, 2]", b"a,b", b'{"text": "a"', b"null"])
def test_a_bad_first_line_alone_condemns_no_file(tmp_path: Path, first: bytes) -> None:
    bad, good = read(tmp_path, first + b'\n{"text": "a", "id": 1}\n')
    assert isinstance(bad, BadRow)
    assert isinstance(good, Row)


@pytest.mark.parametrize(
    "header, says",
    [
        ("id", "csv files must have a header with the required fields: [text, id]; this one is without: [text]"),
        ("text,x", "csv files must have a header with the required fields: [text, id]; this one is without: [id]"),
        ("a secret,1", "the required fields: [text, id]; this one is without: [text, id]"),
        ("Text,id", "this one is without: [text]"),
        ("text;id", "this one is without: [text, id]; is csv_delimiter ';'?"),
        ("id\ttext", r"this one is without: [text, id]; is csv_delimiter '\t'?"),
        ("text,id,text", "the header of the csv file has the field text 2 times"),
        ("text,id,lang,lang,lang", "the header of the csv file has the field lang 3 times"),
        ('text,id,"', "the header of the csv file cannot be read: invalid CSV: a quote in the row is never closed"),
    ],
)
def test_a_header_has_the_required_fields_once(tmp_path: Path, header: str, says: str) -> None:
    message = refusal(tmp_path, f"{header}\na,1\n", "data.csv")
    assert message.endswith(says) or says in message
    assert "secret" not in message


def test_columns_that_are_dropped_may_have_any_name(tmp_path: Path) -> None:
    assert read(tmp_path, "x,text,,x,,id\n1,a,2,3,4,5\n", "data.csv") == [Row(2, {"text": "a", "id": "5"})]


# --- stopping ---


@pytest.mark.parametrize(
    "name, content",
    [
        ("data.jsonl", b'{"text": "a", "id": 1}\n' * 100_000),
        ("data.jsonl", b"\n" * 4_000_000),
        ("data.jsonl", b"x" * 64_000_000),
        ("data.jsonl", b"x\n" * 500_000),
        ("data.csv", b"text,id\n" + b"a,1\n" * 500_000),
        ("data.csv", b"text,id\n" + b"\n" * 4_000_000),
        ("data.csv", b'text,id\n"' + b"\n" * 4_000_000),
    ],
    ids=["rows", "blank lines", "one line", "bad rows", "csv rows", "blank csv lines", "an open quote"],
)
def test_the_reader_stops_within_a_megabyte_or_so_whatever_it_reads(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / "original"
    path.write_bytes(content)
    asked = 0

    def is_stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    with pytest.raises(StoppedError):
        list(read_rows(path, name, KEEP, is_stopped=is_stopped))
    assert asked == 3


# --- options ---


@pytest.mark.parametrize(
    "options",
    [
        DatasetOptions(),
        DatasetOptions(keep_fields=("a", "wiki-id", "a.b", "日本", " ", "embedding"), optional_fields=("c",)),
        DatasetOptions(keep_fields=("text", "a"), optional_fields=("text",)),
        DatasetOptions(csv_delimiter="\t"),
    ],
)
def test_options_that_a_file_can_be_read_by_are_taken(options: DatasetOptions) -> None:
    check_options(options)


@pytest.mark.parametrize(
    "options, says",
    [
        (DatasetOptions(csv_delimiter=""), "invalid csv delimiter"),
        (DatasetOptions(csv_delimiter=";;"), "invalid csv delimiter"),
        (DatasetOptions(csv_delimiter='"'), "invalid csv delimiter"),
        (DatasetOptions(csv_delimiter="\n"), "invalid csv delimiter"),
        (DatasetOptions(csv_delimiter="\r"), "invalid csv delimiter"),
        (DatasetOptions(keep_fields=("a", "a")), "the field a is named 2 times"),
        (DatasetOptions(keep_fields=("a",), optional_fields=("a",)), "the field a is named 2 times"),
        (DatasetOptions(optional_fields=("embeddings",)), "the field embeddings cannot be kept"),
        (DatasetOptions(keep_fields=("",)), "empty or not Unicode"),
        (DatasetOptions(keep_fields=("\ud800",)), "empty or not Unicode"),
    ],
)
def test_options_that_no_file_can_be_read_by_are_refused(options: DatasetOptions, says: str) -> None:
    with pytest.raises(BadRequestError, match=says):
        check_options(options)


def test_text_among_the_fields_changes_nothing(tmp_path: Path) -> None:
    options = DatasetOptions(keep_fields=("text",), optional_fields=("text",))
    assert read(tmp_path, '{"text": "a"}', options=options) == [Row(1, {"text": "a"})]
    assert read(tmp_path, "text\na\n", "data.csv", options) == [Row(2, {"text": "a"})]


@given(row=st.dictionaries(st.text(), st.integers(-5, 5), max_size=5))
def test_field_names_may_be_anything(row: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> None:
    row.pop("text", None)
    path = tmp_path_factory.mktemp("names") / "original"
    path.write_bytes(msgspec.json.encode({"text": "a", **row}))
    assert list(read_rows(path, "a.jsonl", DatasetOptions(keep_fields=tuple(row)))) == [Row(1, {"text": "a", **row})]


def test_a_file_can_be_checked_without_the_services_libraries() -> None:
    code = "import sys, connector.embedjobs.rows; print(sorted({'fastavro', 'fastapi', 'numpy'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
