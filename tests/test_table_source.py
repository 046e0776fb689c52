"""Tables: bad rows are named one by one, nothing is lost for them, and a file that is known is not read."""

from __future__ import annotations

import csv
import io
import os
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from connector.errors import ConfigError, TransientError
from connector.model import Document, DocumentRef, ListingComplete, Rejection, Unreadable
from connector.plugins import BuildContext, find
from connector.sources import listing_cache, text_tables
from connector.sources.listing_cache import ListingCache
from connector.sources.rows import RowFraming, rows_of
from connector.sources.tables import TableListing, TableSettings, TableSource

HOUR = 3600.0


@dataclass
class Folder:
    """A folder with tables in it. Its clock stands an hour after the files were written."""

    path: Path
    seed: int = 1
    read_only: bool = False
    later_seconds: float = HOUR

    def write(self, content: bytes | str, name: str = "rows.jsonl") -> Path:
        path = self.path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def source(self, name: str = "rows.jsonl", framing: RowFraming | None = None, **changes: object) -> TableSource:
        chosen = TableSettings.model_validate({"path": name, **changes})
        context = BuildContext(self.path, self.path / "state", seed=self.seed, read_only=self.read_only)
        return TableSource(chosen, context, self.cache, framing)

    @property
    def cache(self) -> ListingCache:
        return ListingCache(self.path / "state" / "listings", self.read_only, self.now)

    def now(self) -> float:
        return max(path.stat().st_ctime for path in self.path.iterdir()) + self.later_seconds

    @property
    def cached(self) -> list[Path]:
        folder = self.path / "state" / "listings"
        return sorted(folder.iterdir()) if folder.exists() else []


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def batches(source: TableSource) -> list[TableListing]:
    *listed, complete = source.list()
    assert isinstance(complete, ListingComplete)
    assert complete.count == sum(len(batch.versions) for batch in listed if isinstance(batch, TableListing))
    return [batch for batch in listed if isinstance(batch, TableListing)]


def versions(source: TableSource) -> list[bytes]:
    return [row.tobytes() for batch in batches(source) for row in batch.versions]


def rows(source: TableSource) -> Iterator[DocumentRef | Unreadable]:
    for batch in source.list():
        if isinstance(batch, TableListing):
            yield from batch.refs(np.arange(len(batch.versions)))


def refs(source: TableSource) -> list[DocumentRef]:
    return [row for row in rows(source) if isinstance(row, DocumentRef)]


def ids(source: TableSource) -> list[str]:
    return [ref.id for ref in refs(source)]


def fetched(source: TableSource) -> dict[str, Document | Rejection]:
    return {row.id: row for row in source.fetch(refs(source))}


def lines(count: int, text: str = "some text") -> bytes:
    return b"".join(b'{"id":"doc-%d","text":"%s"}\n' % (number, text.encode()) for number in range(count))


GOOD = '{"id": "a", "text": "first"}\n'
LAST = '{"id": "z", "text": "last"}\n'


def test_rows_become_documents(folder: Folder) -> None:
    folder.write(
        '{"id": "a", "text": "one", "title": "A", "views": 7, "x": 1}\n{"id": 12, "text": "two", "title": "B"}\n'
    )
    source = folder.source(keep_fields=["title"], optional_fields=["views"])
    source.check()
    found = fetched(source)
    assert list(found) == ["a", "12"]
    assert isinstance(found["a"], Document)
    assert (found["a"].text, found["a"].metadata) == ("one", {"title": "A", "views": 7})
    assert found["12"] == replace(found["12"], text="two", metadata={"title": "B"})


@pytest.mark.parametrize(
    "bad, reason",
    [
        ('{"id": "b", "text": ', "broken JSON: input data was truncated"),
        ('{"id": "b", "text": NaN}', "broken JSON: invalid character"),
        ('["b", "text"]', "broken JSON: expected `object`, got `array`"),
        ('"b"', "broken JSON: expected `object`, got `str`"),
        ('{"text": "x"}', "the id is null or missing; it must be a string or an integer"),
        ('{"id": null, "text": "x"}', "the id is null or missing"),
        ('{"id": 1.5, "text": "x"}', "the id is a number with a fraction"),
        ('{"id": true, "text": "x"}', "the id is true or false"),
        ('{"id": ["b"], "text": "x"}', "the id is a list"),
        ('{"id": ' + "9" * 5000 + ', "text": "x"}', "broken JSON: integer value out of range"),
        ('{"id": "", "text": "x"}', "the id is empty"),
        ('{"id": "b\\u0000", "text": "x"}', "the id has a NUL character in it"),
        ('{"id": "b", "text": "\\ud800!"}', "broken JSON"),
        ('{"id": "' + "é" * 513 + '"}', "the id has 1,026 bytes; 1,024 are the limit"),
        (b'{"id": "b", "text": "\xff"}', "invalid UTF-8 at byte 22 of the row"),
        (b'{"id": "b", "text": "a\x00"}', "broken JSON: invalid character"),
        ("\0" * 100, "broken JSON: invalid character"),
        ('{"id":1,"x":' + "[" * 100_000, "broken JSON: nested too deep"),
    ],
)
def test_a_row_whose_document_cannot_be_told_is_named_and_the_others_are_listed(
    folder: Folder, bad: str | bytes, reason: str
) -> None:
    bad = bad if isinstance(bad, bytes) else bad.encode()
    folder.write(GOOD.encode() + b"\n" + bad + b"\n" + LAST.encode())
    first, unreadable, last = rows(folder.source())
    assert isinstance(unreadable, Unreadable)
    assert unreadable.place == "rows.jsonl line 3"
    assert unreadable.reason.startswith(reason)
    assert isinstance(first, DocumentRef)
    assert isinstance(last, DocumentRef)
    assert (first.id, last.id) == ("a", "z")


@pytest.mark.parametrize(
    "bad, reason",
    [
        ('{"id": "b", "title": "t"}', 'no text: "text" is null or missing'),
        ('{"id": "b", "title": "t", "text": null}', 'no text: "text" is null or missing'),
        ('{"id": "b", "title": "t", "text": ""}', 'no text: "text" is empty'),
        ('{"id": "b", "title": "t", "text": " \\n\\t"}', 'no text: "text" is white space only'),
        ('{"id": "b", "title": "t", "text": 7}', 'no text: "text" is an integer, not a string'),
        ('{"id": "b", "title": "t", "text": ["x"]}', 'no text: "text" is a list, not a string'),
        ('{"id": "b", "text": "x"}', 'keep_fields needs "title", which is missing'),
        ('{"id": "b", "text": "x", "title": null}', 'keep_fields needs "title", which is null'),
        ('{"id": "b", "text": "x", "title": 1e999}', "broken JSON: number out of range"),
        ('{"id": "b", "text": "x", "title": [9223372036854775808]}', '"title" holds an integer of more than 64 bits'),
        ('{"id": "b", "text": "x", "title": "t", "_vs_digest": "mine"}', 'field "_vs_digest" cannot be metadata'),
    ],
)
def test_a_named_document_that_cannot_be_used_is_rejected_for_good(folder: Folder, bad: str, reason: str) -> None:
    folder.write(f'{{"id": "a", "text": "x", "title": "t"}}\n{bad}\n')
    found = fetched(folder.source(keep_fields=["title"], optional_fields=["*"]))
    assert isinstance(found["a"], Document)
    rejected = found["b"]
    assert isinstance(rejected, Rejection)
    assert rejected.reason.startswith(f"rows.jsonl line 2: {reason}")
    assert not rejected.passing


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_no_trouble(folder: Folder) -> None:
    folder.write(
        b"\xef\xbb\xbf" + GOOD.encode().replace(b"\n", b"\r\n") + b"\r\n  \r\n" + b"{oops}\r\n" + LAST.encode()
    )
    _, bad, _ = rows(folder.source())
    assert isinstance(bad, Unreadable)
    assert bad.place == "rows.jsonl line 4"
    found = fetched(folder.source())
    assert {row.id: row.text for row in found.values() if isinstance(row, Document)} == {"a": "first", "z": "last"}
    assert [batch.place(2) for batch in batches(folder.source())] == ["rows.jsonl line 5"]


def test_a_half_written_last_line_is_named_and_one_without_a_line_end_is_read(folder: Folder) -> None:
    folder.write(GOOD + LAST[:-9])
    _, cut = rows(folder.source())
    assert cut == Unreadable(
        "rows.jsonl line 2",
        "broken JSON: input data was truncated; the file ends within this line, is it still being written?",
    )
    folder.write(GOOD + LAST[:-1])
    assert ids(folder.source()) == ["a", "z"]


def test_a_line_of_64_megabytes_is_named_and_never_held(folder: Folder) -> None:
    with (folder.path / "rows.jsonl").open("wb") as file:
        file.write(GOOD.encode() + b'{"id": "big", "text": "')
        for _ in range(64):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n' + LAST.encode())
    tracemalloc.start()
    first, big, last = rows(folder.source())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert big == Unreadable("rows.jsonl line 2", "the row has 67,108,890 bytes; 16,777,216 are the limit")
    assert isinstance(first, DocumentRef)
    assert isinstance(last, DocumentRef)
    assert (first.id, last.id) == ("a", "z")
    assert peak < 8 << 20


def test_a_line_longer_than_a_block_is_read_whole(folder: Folder) -> None:
    text = "x" * (5 << 20)
    folder.write(GOOD + f'{{"id": "big", "text": "{text}"}}\n' + LAST)
    found = fetched(folder.source())
    assert list(found) == ["a", "big", "z"]
    assert found["big"] == replace(found["big"], text=text)


def test_utf_16_is_a_config_error(folder: Folder) -> None:
    folder.write(GOOD.encode("utf-16"))
    for call in (folder.source().check, lambda: list(folder.source().list())):
        with pytest.raises(ConfigError, match="UTF-16; save it as UTF-8"):
            call()


@pytest.mark.parametrize("name", ["nothing.jsonl", "*.csv"])
def test_a_path_that_matches_nothing_is_a_config_error_and_not_an_empty_listing(folder: Folder, name: str) -> None:
    folder.write(GOOD)
    for call in (folder.source(name).check, lambda: list(folder.source(name).list())):
        with pytest.raises(ConfigError, match="matches no file"):
            call()


def test_an_empty_file_is_an_empty_listing(folder: Folder) -> None:
    folder.write("")
    assert batches(folder.source()) == []


def test_files_of_a_pattern_are_read_in_sorted_order_and_others_are_refused(folder: Folder) -> None:
    folder.write(LAST, "b.jsonl")
    folder.write(GOOD, "a.ndjson")
    assert ids(folder.source("*")) == ["a", "z"]
    folder.write("what is this", "c.docx")
    with pytest.raises(ConfigError, match=r"c\.docx is none of"):
        folder.source("*").check()


def test_a_row_has_the_same_version_in_whatever_file_but_not_under_another_seed_or_settings(folder: Folder) -> None:
    folder.write(GOOD + GOOD + LAST)
    folder.write(GOOD, "other.jsonl")
    first, again, last = versions(folder.source())
    assert first == again != last
    assert versions(folder.source("other.jsonl")) == [first]
    assert versions(folder.source(optional_fields=["title"]))[0] != first
    folder.seed = 2
    assert versions(folder.source())[0] != first


def test_the_header_of_a_csv_file_is_part_of_every_version(folder: Folder) -> None:
    folder.write("id,text,x\na,first,1\n", "one.csv")
    folder.write("id,x,text\na,first,1\n", "two.csv")
    assert versions(folder.source("one.csv")) != versions(folder.source("two.csv"))


def test_a_ref_survives_being_stored(folder: Folder) -> None:
    folder.write(GOOD)
    source = folder.source()
    stored = pickle.loads(pickle.dumps(refs(source)))
    assert [row.id for row in source.fetch(stored)] == ["a"]


def test_only_rows_that_are_still_what_was_listed_are_fetched(folder: Folder) -> None:
    path = folder.write(GOOD + '{"id": "b", "text": "second"}\n' + LAST)
    source = folder.source()
    listed = refs(source)
    folder.write(path.read_bytes().replace(b"second", b"edited"))
    assert [row.id for row in source.fetch(listed)] == ["a", "z"]
    path.unlink()
    assert list(source.fetch(listed)) == []


def test_a_file_that_changes_while_it_is_listed_is_not_listed_to_the_end(folder: Folder) -> None:
    path = folder.write(lines(10))
    listing = folder.source().list()
    next(listing)
    with path.open("ab") as file:
        file.write(GOOD.encode())
    with pytest.raises(TransientError, match=r"rows\.jsonl changed while it was read; run again"):
        next(listing)
    assert folder.cached == []


def test_a_row_that_changes_between_its_hash_and_its_parsing_is_not_taken(folder: Folder) -> None:
    path = folder.write(lines(10))
    listing = folder.source().list()  # held, so that the file stays open
    batch = next(listing)
    assert isinstance(batch, TableListing)
    path.write_bytes(lines(10, "SOME TEXT"))
    with pytest.raises(TransientError, match="changed while it was read"):
        list(batch.refs(np.arange(10)))


def test_a_file_that_cannot_be_read_is_a_passing_failure_in_a_run_and_a_config_error_in_a_check(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(lines(3))
    opened = os.open

    def refuse(path: os.PathLike[str], *rest: int) -> int:
        if Path(path).name == "rows.jsonl":
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest)

    monkeypatch.setattr(os, "open", refuse)  # permissions do not hold root back
    with pytest.raises(TransientError, match=r"rows\.jsonl cannot be read: Permission denied"):
        list(folder.source().list())
    with pytest.raises(ConfigError, match=r"rows\.jsonl cannot be read: Permission denied"):
        folder.source().check()


# CSV


def test_cells_may_hold_quotes_delimiters_and_line_ends(folder: Folder) -> None:
    folder.write('id;text;title\r\n1;"two\r\nlines; and ""quotes""";A\r\n\r\n2;plain;\r\noops;only two\r\n', "rows.csv")
    source = folder.source("rows.csv", delimiter=";", optional_fields=["title"])
    *_, bad = rows(source)
    assert bad == Unreadable("rows.csv line 6", "broken CSV: the row has 2 cells, and the header 3")
    found = fetched(source)
    assert isinstance(found["1"], Document)
    assert isinstance(found["2"], Document)
    assert (found["1"].text, found["1"].metadata) == ('two\r\nlines; and "quotes"', {"title": "A"})
    assert (found["2"].text, found["2"].metadata) == ("plain", {})


def test_an_empty_cell_is_a_value_that_is_not_there(folder: Folder) -> None:
    folder.write("id,text,title\n1,x,\n2,,t\n,x,t\n", "rows.csv")
    source = folder.source("rows.csv", keep_fields=["title"])
    found = fetched(source)
    assert found["1"] == replace(found["1"], reason='rows.csv line 2: keep_fields needs "title", which is null')
    assert found["2"] == replace(found["2"], reason='rows.csv line 3: no text: "text" is null or missing')
    assert [row.place for row in rows(source) if isinstance(row, Unreadable)] == ["rows.csv line 4"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "rows.csv has no header line"),
        ("\n\n", "rows.csv has no header line"),
        ("key,text,title\n", 'id_field names "id", which is no column of rows.csv; it has: key, text, title'),
        ("id,body,title\n", 'text_field names "text"'),
        ("id,text\n", 'keep_fields names "title"'),
        ("id,text,title,text\n", 'rows.csv has several columns named "text"'),
        (b"id,te\xffxt\n", "the header of rows.csv cannot be read: invalid UTF-8"),
        ('id,"text\n1,x\n', "the header of rows.csv cannot be read: broken CSV"),
    ],
)
def test_a_header_that_does_not_fit_is_a_config_error(folder: Folder, content: str | bytes, message: str) -> None:
    folder.write(content, "rows.csv")
    source = folder.source("rows.csv", keep_fields=["title"])
    for call in (source.check, lambda: list(source.list())):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value).startswith(message)


def test_a_stray_quote_makes_rows_unreadable_and_never_makes_other_rows(folder: Folder) -> None:
    folder.write('id,text\n1,x\n2,a 5" disk\n3,y\n4,an 8" disk\n5,z\n', "rows.csv")
    first, bad, last = rows(folder.source("rows.csv"))
    assert isinstance(first, DocumentRef)
    assert isinstance(bad, Unreadable)
    assert isinstance(last, DocumentRef)
    assert (first.id, bad.place, last.id) == ("1", "rows.csv line 3", "5")
    assert "a quote inside a cell is written twice" in bad.reason


def test_a_quote_that_is_never_closed_is_one_unreadable_row(folder: Folder) -> None:
    folder.write('id,text\n1,x\n2,"open\n' + "3,y\n" * 100, "rows.csv")
    first, bad = rows(folder.source("rows.csv", RowFraming(quoted=True, block_bytes=64, max_row_bytes=200)))
    assert isinstance(first, DocumentRef)
    assert bad == Unreadable(
        "rows.csv line 3",
        "the row has 408 bytes; 200 are the limit; is a quote in it never closed?",
    )


CELLS = st.text(st.sampled_from('ab," \n\r;é'), max_size=12)


@settings(max_examples=200, deadline=None)
@given(table=st.lists(st.tuples(CELLS, CELLS), max_size=12), block_bytes=st.integers(1, 40))
def test_quoted_cells_are_framed_as_the_csv_module_frames_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str]], block_bytes: int
) -> None:
    written = io.StringIO()
    csv.writer(written).writerows(table)
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_bytes(written.getvalue().encode())
    expected = list(csv.reader(io.StringIO(written.getvalue(), newline="")))
    framed = [text_tables.CsvRows("id", ",")._cells(raw) for raw in raw_rows(path, RowFraming(True, block_bytes))]
    assert framed == expected


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=200) | st.text('{}"\n\r a', max_size=200).map(str.encode),
    block_bytes=st.integers(1, 50),
    quoted=st.booleans(),
)
def test_the_size_of_the_blocks_makes_no_difference(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, block_bytes: int, quoted: bool
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows"
    path.write_bytes(content)
    small, large = RowFraming(quoted, block_bytes), RowFraming(quoted)
    assert framed(path, small) == framed(path, large)


def framed(path: Path, framing: RowFraming) -> tuple[list[object], bytes]:
    descriptor = os.open(path, os.O_RDONLY)
    found, digests, line = [], b"", 1
    for block in framing.blocks(descriptor, 0, path.stat().st_size, seed=5):
        found += rows_of(block, line)
        digests += block.versions(5)
        line += block.line_count
    os.close(descriptor)
    return found, digests


def raw_rows(path: Path, framing: RowFraming) -> list[bytes]:
    return [row.raw for row in framed(path, framing)[0]]


# Parquet


def write_parquet(folder: Folder, rows: list[dict[str, object]], **options: object) -> Path:
    path = folder.path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def test_parquet_values_become_json(folder: Folder) -> None:
    row = {
        "id": 7,
        "text": "x",
        "day": date(2024, 2, 29),
        "at": datetime(2024, 2, 29, 12, 30, tzinfo=UTC),
        "price": Decimal("12.340"),
        "tags": ["a", None],
        "deep": {"n": 1},
        "none": None,
    }
    write_parquet(folder, [row])
    (document,) = fetched(folder.source("rows.parquet", optional_fields=["*"])).values()
    assert isinstance(document, Document)
    assert document.id == "7"
    assert document.metadata == {
        "day": "2024-02-29",
        "at": "2024-02-29T12:30:00+00:00",
        "price": "12.340",
        "tags": ["a", None],
        "deep": {"n": 1},
    }


@pytest.mark.parametrize(
    "value, reason",
    [(float("nan"), '"x" holds nan, which JSON does not have'), (b"raw", '"x" holds bytes, which cannot be metadata')],
)
def test_a_parquet_value_that_is_no_json_rejects_its_row(folder: Folder, value: object, reason: str) -> None:
    write_parquet(folder, [{"id": "a", "text": "t", "x": value}])
    (rejected,) = fetched(folder.source("rows.parquet", keep_fields=["x"])).values()
    assert isinstance(rejected, Rejection)
    assert rejected.reason == f"rows.parquet row 1: {reason}"


def test_parquet_rows_are_fetched_across_row_groups_in_any_order(folder: Folder) -> None:
    write_parquet(folder, [{"id": n, "text": f"text {n}"} for n in range(5000)], row_group_size=700)
    source = folder.source("rows.parquet")
    listed = refs(source)
    assert [ref.id for ref in listed] == [str(n) for n in range(5000)]
    for some in (listed[4000:4100], listed[:50], listed[1020:1030][::-1]):
        assert {row.id: row.text for row in source.fetch(some) if isinstance(row, Document)} == {
            ref.id: f"text {ref.id}" for ref in some
        }


def test_a_parquet_file_that_is_not_whole_is_a_passing_failure(folder: Folder) -> None:
    path = write_parquet(folder, [{"id": 1, "text": "x"}])
    folder.write(path.read_bytes()[:-10], "rows.parquet")
    with pytest.raises(TransientError, match="not a whole Parquet file"):
        list(folder.source("rows.parquet").list())
    with pytest.raises(ConfigError, match="not a whole Parquet file"):
        folder.source("rows.parquet").check()


def test_a_parquet_listing_is_replayed_without_decoding(folder: Folder) -> None:
    path = write_parquet(folder, [{"id": n, "text": f"text {n}"} for n in range(3000)])
    first = versions(folder.source("rows.parquet"))
    assert len(folder.cached) == 1
    status = path.stat()
    assert versions(folder.source("rows.parquet")) == first
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert versions(folder.source("rows.parquet")) == first
    assert ids(folder.source("rows.parquet")) == [str(n) for n in range(3000)]


def test_an_edited_parquet_file_is_decoded_again(folder: Folder) -> None:
    write_parquet(folder, [{"id": n, "text": "one"} for n in range(3000)])
    first = versions(folder.source("rows.parquet"))
    write_parquet(folder, [{"id": n, "text": "two"} for n in range(3000)])
    assert set(first).isdisjoint(versions(folder.source("rows.parquet")))


# Settings


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"keep_fields": ["a", "b"], "optional_fields": ["b"]}, '"b" is in keep_fields and in optional_fields'),
        ({"keep_fields": ["*"]}, "only optional_fields can keep every field"),
        ({"keep_fields": ["_vs_index"]}, '"_vs_index" cannot be metadata'),
        ({"optional_fields": ["text"]}, '"text" cannot be metadata'),
    ],
)
def test_settings_that_cannot_work_are_config_errors(folder: Folder, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        folder.source(**changes)
    assert message in str(caught.value)


def test_a_star_keeps_every_other_field_but_the_id_and_the_text(folder: Folder) -> None:
    folder.write('{"key": "a", "body": "x", "n": 1, "none": null, "title": "t"}\n')
    source = folder.source(id_field="key", text_field="body", keep_fields=["title"], optional_fields=["*"])
    assert fetched(source)["a"] == replace(fetched(source)["a"], metadata={"title": "t", "n": 1})


def test_the_kind_is_found_and_every_setting_is_described() -> None:
    assert find("sources", "table") is TableSettings
    assert all(field.description for field in TableSettings.model_fields.values())


# The cache


@dataclass
class Reads:
    """Counts the bytes that are read from tables."""

    bytes: int = 0


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    counted, pread = Reads(), os.pread

    def count(descriptor: int, size: int, offset: int) -> bytes:
        piece = pread(descriptor, size, offset)
        counted.bytes += len(piece)
        return piece

    monkeypatch.setattr(os, "pread", count)
    return counted


def test_a_file_that_has_not_changed_is_not_read_again(folder: Folder, reads: Reads) -> None:
    folder.write(lines(2000))
    first = versions(folder.source())
    reads.bytes = 0
    assert versions(folder.source()) == first
    assert reads.bytes == 0
    assert ids(folder.source())[-1] == "doc-1999"  # and rows that turn out unknown are found all the same


def test_a_replayed_row_that_is_no_longer_there_is_not_taken(folder: Folder) -> None:
    path = folder.write(lines(2000))
    versions(folder.source())
    batch = next(folder.source().list())
    path.write_bytes(lines(2000, "SOME TEXT"))
    assert isinstance(batch, TableListing)
    with pytest.raises(TransientError, match="changed while it was read"):
        list(batch.refs(np.arange(3)))


def test_a_small_file_is_not_worth_a_cache(folder: Folder) -> None:
    folder.write(lines(listing_cache.FEWEST_ROWS - 1))
    versions(folder.source())
    assert folder.cached == []


def test_a_file_that_was_only_just_written_is_read_again_until_it_is_old_enough(folder: Folder, reads: Reads) -> None:
    folder.write(lines(2000))
    read = []
    for folder.later_seconds in (1.0, 1.0, HOUR, HOUR):  # what counts is its age at the listing before
        reads.bytes = 0
        versions(folder.source())
        read.append(reads.bytes > 0)
    assert read == [True, True, True, False]


def test_a_touched_file_is_hashed_and_not_cut_into_rows(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder.write(lines(2000))
    first = versions(folder.source())
    os.utime(path, (1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(RowFraming, "_block", lambda *_, **__: pytest.fail("rows were read"))
        assert versions(folder.source()) == first


def test_only_the_end_of_a_file_that_grew_is_cut_into_rows(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tables, "EXTENT_ROWS", 500)
    content = lines(2000)
    path = folder.write(content[:-3])  # the last row is still being written
    framing = RowFraming(quoted=False, block_bytes=4096)
    versions(folder.source(framing=framing))
    path.write_bytes(content + GOOD.encode())
    cut = []
    block = RowFraming._block
    monkeypatch.setattr(RowFraming, "_block", lambda self, *a, **k: cut.append(a) or block(self, *a, **k))
    replayed = versions(folder.source(framing=framing))
    assert 0 < len(cut) < 10
    folder.cached[0].unlink()
    assert replayed == versions(folder.source(framing=framing))
    assert len(replayed) == 2001


def test_a_row_in_place_of_a_byte_order_mark_is_seen(folder: Folder) -> None:
    path = folder.write(b"\xef\xbb\xbf" + lines(2000))
    assert len(versions(folder.source())) == 2000
    path.write_bytes(b"{}\n" + lines(2000))
    assert len(versions(folder.source())) == 2001


def test_an_edit_in_the_middle_is_seen(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tables, "EXTENT_ROWS", 500)
    framing = RowFraming(quoted=False, block_bytes=4096)
    path = folder.write(lines(3000))
    first = versions(folder.source(framing=framing))
    path.write_bytes(path.read_bytes().replace(b'"doc-1500","text":"some', b'"doc-1500","text":"SOME'))
    second = versions(folder.source(framing=framing))
    assert [n for n, (a, b) in enumerate(zip(first, second, strict=True)) if a != b] == [1500]


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:-1],
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:100] + bytes([raw[100] ^ 1]) + raw[101:],
        lambda raw: raw[:-30] + bytes([raw[-30] ^ 1]) + raw[-29:],
        lambda raw: b"\xff" * len(raw),
        lambda raw: bytes(len(raw)),
    ],
)
def test_a_damaged_cache_is_no_cache(folder: Folder, damage: Callable[[bytes], bytes]) -> None:
    folder.write(lines(2000))
    first = versions(folder.source())
    (cache,) = folder.cached
    cache.write_bytes(damage(cache.read_bytes()))
    assert versions(folder.source()) == first
    assert versions(folder.source()) == first


def test_a_cache_that_cannot_be_written_is_done_without(folder: Folder) -> None:
    folder.write(lines(2000))
    (folder.path / "state").write_text("a file where a folder should be")
    assert len(versions(folder.source())) == 2000


def test_a_read_only_run_writes_nothing(folder: Folder) -> None:
    folder.write(lines(2000))
    folder.read_only = True
    versions(folder.source())
    assert not (folder.path / "state").exists()


def test_a_listing_that_is_given_up_leaves_no_cache(folder: Folder) -> None:
    folder.write(lines(2000))
    listing = folder.source().list()
    next(listing)
    listing.close()
    assert folder.cached == []


def test_the_cache_of_a_file_that_is_gone_is_removed(folder: Folder) -> None:
    gone = folder.write(lines(2000), "a.jsonl")
    folder.write(lines(2000), "b.jsonl")
    versions(folder.source("*.jsonl"))
    assert len(folder.cached) == 2
    gone.unlink()
    versions(folder.source("*.jsonl"))
    assert len(folder.cached) == 1


def test_another_header_makes_the_cache_of_a_csv_file_useless(folder: Folder) -> None:
    content = "id,text,one\n" + "".join(f"{n},some text,{n}\n" for n in range(2000))
    path = folder.write(content, "rows.csv")
    first = versions(folder.source("rows.csv"))
    path.write_text(content.replace("one", "two"))
    assert set(first).isdisjoint(versions(folder.source("rows.csv")))
