"""Parts hold what was put in, exactly, for any reader of Avro, and go on after a kill at any byte."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from connector.embedjobs.parts import (
    BLOCK_BYTES,
    BLOCK_ROWS,
    PartMismatchError,
    PartWriter,
    ResultWriter,
    file_slug,
    read_blocks,
    stem_of,
)
from connector.embedjobs.schema import MAX_SHAPES, Inference, TooVariedError, result_schema
from connector.embedjobs.values import DatasetOptions, EmbeddingType, Part
from connector.model import JsonValue

Fields = dict[str, JsonValue]

OPTIONS = DatasetOptions(keep_fields=("wiki-id", "日本"), optional_fields=("a.b",))


def schema_of(rows: Sequence[Fields], options: DatasetOptions = OPTIONS) -> str:
    inference = Inference(options)
    for fields in rows:
        inference.see(fields)
    return inference.input_schema()


def types_of(rows: Sequence[Fields], options: DatasetOptions = OPTIONS) -> dict[str, object]:
    return {field["name"]: field["type"] for field in json.loads(schema_of(rows, options))["fields"]}


def written(
    folder: Path, rows: Sequence[Fields], options: DatasetOptions = OPTIONS, part_bytes: int = 1 << 30
) -> tuple[Part, ...]:
    with PartWriter(folder, "data", schema_of(rows, options), part_bytes=part_bytes) as writer:
        for fields in rows:
            writer.append(fields)
        return writer.close()


def records(path: Path) -> list[Fields]:
    """Read a file as Cohere's SDK does."""
    with path.open("rb") as file:
        return cast("list[Fields]", list(fastavro.reader(file)))


def expected(fields: Fields, options: DatasetOptions = OPTIONS) -> Fields:
    keep = {name: fields[name] for name in ("text", *options.keep_fields)}
    return {**keep, **{name: fields.get(name) for name in options.optional_fields}}


# --- schemas ---

KEEP_ONE = DatasetOptions(keep_fields=("x",))


@pytest.mark.parametrize(
    "seen, type",
    [
        (["a"], "string"),
        ([1], "long"),
        ([1.0], "double"),
        ([True], "boolean"),
        ([1, 1.0], ["long", "double"]),
        (["a", 1.0, 1, True, None], ["null", "boolean", "long", "double", "string"]),
        ([None], ["null", "string"]),
        ([None, 1], ["null", "long"]),
        ([[]], {"type": "array", "items": "string"}),
        ([{}], {"type": "map", "values": "string"}),
        ([[None]], {"type": "array", "items": ["null", "string"]}),
        ([[1], ["a", 2], []], {"type": "array", "items": ["long", "string"]}),
        ([{"a": 1}, {"b": True}], {"type": "map", "values": ["boolean", "long"]}),
        ([{"a": 1}, [2], "b"], ["string", {"type": "array", "items": "long"}, {"type": "map", "values": "long"}]),
        (
            [[[1], {"a": "b"}]],
            {"type": "array", "items": [{"type": "array", "items": "long"}, {"type": "map", "values": "string"}]},
        ),
    ],
)
def test_a_type_is_what_was_seen_and_no_more(seen: list[JsonValue], type: object) -> None:
    for order in (seen, seen[::-1]):
        assert types_of([{"text": "a", "x": value} for value in order], KEEP_ONE) == {"text": "string", "x": type}


def test_an_optional_field_may_be_null_even_if_it_never_was() -> None:
    options = DatasetOptions(keep_fields=("k",), optional_fields=("o", "p"))
    fields = json.loads(schema_of([{"text": "a", "k": 1, "o": 1}], options))["fields"]
    assert fields == [
        {"name": "text", "type": "string"},
        {"name": "k", "type": "long"},
        {"name": "o", "type": ["null", "long"], "default": None},
        {"name": "p", "type": ["null", "string"], "default": None},
    ]


def test_a_result_has_all_five_types_after_the_text() -> None:
    fields = json.loads(result_schema(schema_of([{"text": "a", "wiki-id": 1, "日本": None}])))["fields"]
    assert [field["name"] for field in fields] == ["text", "embeddings", "wiki-id", "日本", "a.b"]
    embeddings = fields[1]["type"]
    assert [field["name"] for field in embeddings["fields"]] == ["float", "int8", "uint8", "binary", "ubinary"]
    assert [field["type"] for field in embeddings["fields"]] == [
        ["null", {"type": "array", "items": items}] for items in ("float", "int", "int", "int", "int")
    ]
    assert all(field["default"] is None for field in embeddings["fields"])


def test_rows_of_endlessly_many_shapes_have_no_schema() -> None:
    inference = Inference(KEEP_ONE)

    def shape(bits: int) -> JsonValue:
        return 0 if bits == 1 else [shape(bits >> 1)] if bits & 1 else {"a": shape(bits >> 1)}

    def see_all() -> None:
        for bits in range(1, 4 * MAX_SHAPES):
            inference.see({"text": "a", "x": shape(bits)})

    with pytest.raises(TooVariedError, match="more than 1,000 shapes"):
        see_all()
    few = Inference(KEEP_ONE)
    for _ in range(2 * MAX_SHAPES):
        few.see({"text": "a", "x": [[{"a": [1]}]]})


# --- input parts ---

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["-type", "name", "type", "", "é"]) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def datasets(draw: st.DrawFn) -> list[Fields]:
    text = st.text(st.characters(codec="utf-8"), min_size=1)
    row = st.fixed_dictionaries(
        {"text": text, "wiki-id": json_values, "日本": json_values}, optional={"a.b": json_values}
    )
    return draw(st.lists(row, min_size=1, max_size=8))


@settings(max_examples=150)
@given(rows=datasets())
def test_whatever_json_is_put_in_comes_out_in_its_types_and_order(
    rows: list[Fields], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    parts = written(folder, rows)
    # repr tells 1 from 1.0 and True, -0.0 from 0.0, and the order of keys.
    whole = [expected(fields) for fields in rows]
    assert repr(records(folder / parts[0].name)) == repr(whole)
    assert repr([fields for block in read_blocks(folder, parts) for fields in block]) == repr(whole)
    # `save_dataset(format="avro")` of the SDK: the records written again, by the schema in the answer.
    schema = fastavro.parse_schema(json.loads(schema_of(rows)))
    again = io.BytesIO()
    fastavro.writer(again, schema, records(folder / parts[0].name))
    again.seek(0)
    assert repr(list(fastavro.reader(again))) == repr(whole)
    check_unions(json.loads(schema_of(rows)))


def check_unions(schema: object) -> None:
    """Hold the schema to the specification: a union has no union in it, and each kind once."""
    if isinstance(schema, list):
        kinds = [branch["type"] if isinstance(branch, dict) else branch for branch in schema]
        assert len(set(kinds)) == len(kinds) >= 2
        assert not any(isinstance(branch, list) for branch in schema)
        for branch in schema:
            check_unions(branch)
    elif isinstance(schema, dict):
        for inner in ("type", "items", "values", "fields"):
            if inner == "fields" and inner in schema:
                for field in schema[inner]:
                    check_unions(field)
            elif inner in schema:
                check_unions(schema[inner])


def test_deep_values_come_back() -> None:
    deep: JsonValue = 1
    for level in range(32):
        deep = [deep] if level % 2 else {"a": deep}
    schema = fastavro.parse_schema(json.loads(schema_of([{"text": "a", "x": deep}], KEEP_ONE)))
    file = io.BytesIO()
    fastavro.writer(file, schema, [{"text": "a", "x": deep}])
    file.seek(0)
    assert list(fastavro.reader(file)) == [{"text": "a", "x": deep}]


PLAIN = DatasetOptions(keep_fields=("n",))


def numbered(count: int, text: str = "text") -> list[Fields]:
    return [{"text": f"{text} {n}", "n": n} for n in range(count)]


def block_sizes(folder: Path, parts: Sequence[Part]) -> list[list[int]]:
    sizes = []
    for part in parts:
        with (folder / part.name).open("rb") as file:
            sizes.append([block.num_records for block in fastavro.block_reader(file)])
    return sizes


def test_blocks_have_at_most_512_rows_and_a_mebibyte_and_a_row(tmp_path: Path) -> None:
    parts = written(tmp_path, numbered(2 * BLOCK_ROWS + 1), PLAIN)
    assert block_sizes(tmp_path, parts) == [[512, 512, 1]]
    parts = written(tmp_path, numbered(9, "x" * (BLOCK_BYTES // 4)), PLAIN)
    assert block_sizes(tmp_path, parts) == [[4, 4, 1]]
    assert [len(block) for block in read_blocks(tmp_path, parts)] == [4, 4, 1]


def test_parts_end_before_they_are_too_long_and_are_told_exactly(tmp_path: Path) -> None:
    rows = numbered(BLOCK_ROWS * 5 + 3)
    parts = written(tmp_path, rows, PLAIN, part_bytes=15_000)
    assert [part.name for part in parts] == ["000_data.avro", "001_data.avro", "002_data.avro"]
    assert [part.index for part in parts] == [0, 1, 2]
    assert block_sizes(tmp_path, parts) == [[512, 512], [512, 512], [512, 3]]
    for part in parts:
        path = tmp_path / part.name
        assert path.stat().st_size == part.size_bytes <= 15_000
        assert len(records(path)) == part.rows
    assert [fields for part in parts for fields in records(tmp_path / part.name)] == rows
    assert [json.loads(sample)["n"] for part in parts for sample in part.samples] == [
        0, 1, 2, 1024, 1025, 1026, 2048, 2049, 2050,
    ]  # fmt: skip


def test_a_block_longer_than_a_part_may_be_has_a_part_of_its_own(tmp_path: Path) -> None:
    parts = written(tmp_path, numbered(BLOCK_ROWS * 2), PLAIN, part_bytes=100)
    assert [part.rows for part in parts] == [512, 512]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        (part,) = written(tmp_path, numbered(600), PLAIN)
        contents.append((tmp_path / part.name).read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("part_bytes", [1 << 30, 15_000, 100])
def test_blocks_can_be_skipped_wherever_they_are(tmp_path: Path, part_bytes: int) -> None:
    rows = numbered(BLOCK_ROWS * 5 + 3)
    parts = written(tmp_path, rows, PLAIN, part_bytes=part_bytes)
    whole = list(read_blocks(tmp_path, parts))
    assert [fields for block in whole for fields in block] == rows
    for skip in range(8):
        assert list(read_blocks(tmp_path, parts, skip)) == whole[skip:]


def test_skipped_blocks_are_not_decoded(tmp_path: Path) -> None:
    (part,) = written(tmp_path, numbered(BLOCK_ROWS + 1), PLAIN)
    path = tmp_path / part.name
    content = bytearray(path.read_bytes())
    content[content.index(b"text 7")] = 0xFF  # no UTF-8
    path.write_bytes(content)
    assert [len(block) for block in read_blocks(tmp_path, [part], 1)] == [1]
    with pytest.raises(PartMismatchError, match=r"the part 000_data\.avro is damaged"):
        list(read_blocks(tmp_path, [part]))


def test_a_part_that_is_not_what_is_recorded_is_refused(tmp_path: Path) -> None:
    (part,) = written(tmp_path, numbered(3), PLAIN)
    path = tmp_path / part.name
    content = path.read_bytes()

    def problem(skip: int = 0, rows: int = part.rows) -> str:
        with pytest.raises(PartMismatchError) as refused:
            list(read_blocks(tmp_path, [Part(part.name, 0, part.size_bytes, rows)], skip))
        return str(refused.value)

    assert problem(rows=4) == problem(skip=1, rows=4) == "the part 000_data.avro has 3 rows; 4 are recorded"
    path.write_bytes(content[:-1])
    assert problem() == f"the part 000_data.avro is not of {part.size_bytes:,} bytes, as it is recorded"
    path.write_bytes(content[:-1] + b"?")
    assert problem().startswith("the part 000_data.avro is damaged")
    path.write_bytes(b"?" * len(content))
    assert problem().startswith("the part 000_data.avro is damaged")
    path.unlink()
    assert problem() == "the part 000_data.avro is gone"


@pytest.mark.parametrize("change", [0x01, 0x80, 0xFF])
def test_a_part_with_any_one_byte_changed_is_read_or_refused_and_nothing_else(tmp_path: Path, change: int) -> None:
    rows = [fields | {"n": [1.5, {"a": None}]} for fields in numbered(3)]
    (part,) = written(tmp_path, rows, PLAIN)
    path = tmp_path / part.name
    content = path.read_bytes()
    refused = 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ change]) + content[at + 1 :])
        for skip in (0, 1):
            try:
                list(read_blocks(tmp_path, [part], skip))
            except PartMismatchError:
                refused += 1
    assert refused > len(content)


def test_samples_are_three_rows_as_json_in_500_characters_at_most(tmp_path: Path) -> None:
    options = DatasetOptions(keep_fields=("n",))
    rows: list[Fields] = [
        {"text": "short", "n": 1},
        {"text": "long " * 1000, "n": {"a": [1]}},
        {"text": "x", "n": ["much"] * 1000},
        {"text": "fourth", "n": 4},
    ]
    first, second, third = written(tmp_path, rows, options)[0].samples
    assert json.loads(first) == rows[0]
    assert json.loads(second) == {"text": "long " * 60 + "…", "n": {"a": [1]}}
    assert len(third) == 500
    assert third.startswith('{"text":"x","n":["much",')


@pytest.mark.parametrize(
    "name, slug",
    [
        ("sample-file_1.x", "sample-file_1.x"),
        ("my file", "my-file"),
        ("a/../../etc/passwd", "a-..-..-etc-passwd"),
        ("../..", "data"),
        ("...", "data"),
        ("", "data"),
        (".hidden", "hidden"),
        ("日本 news", "news"),
        ("日本", "data"),
        ("a\0b\nc", "a-b-c"),
        ("x" * 1000, "x" * 80),
        ("x" * 79 + "." * 9, "x" * 79),
    ],
)
def test_a_file_is_named_safely_whatever_the_dataset_is_called(name: str, slug: str) -> None:
    assert file_slug(name) == slug


@pytest.mark.parametrize(
    "file_name, stem",
    [
        ("data.jsonl", "data"),
        ("a/b\\c.d.csv", "c.d"),
        ("data", "data"),
    ],
)
def test_a_part_is_named_after_the_upload(file_name: str, stem: str) -> None:
    assert stem_of(file_name) == stem


# --- results ---

RESULT_SCHEMA = result_schema(schema_of(numbered(1), PLAIN))
MODEL = {"model": "tiny"}
WIDTH = 16

Vectors = Mapping[EmbeddingType, NDArray[Any]]


def vectors(count: int, width: int = WIDTH, seed: int = 0) -> Vectors:
    random = np.random.default_rng(seed)
    return {
        EmbeddingType.FLOAT: random.standard_normal((count, width)).astype(np.float32),
        EmbeddingType.INT8: random.integers(-128, 128, (count, width), dtype=np.int8),
        EmbeddingType.UINT8: random.integers(0, 256, (count, width), dtype=np.uint8),
        EmbeddingType.BINARY: random.integers(-128, 128, (count, width // 8), dtype=np.int8),
        EmbeddingType.UBINARY: random.integers(0, 256, (count, width // 8), dtype=np.uint8),
    }


def results(folder: Path, parts: Sequence[Part] = (), **options: int) -> ResultWriter:
    return ResultWriter.open(folder, "embeded-x", RESULT_SCHEMA, parts, metadata=MODEL, **options)


def as_written(rows: Sequence[Fields], embeddings: Vectors) -> list[Fields]:
    return [
        {
            "text": fields["text"],
            "embeddings": {
                type.value: embeddings[type][n].tolist() if type in embeddings else None for type in EmbeddingType
            },
            **{name: value for name, value in fields.items() if name != "text"},
        }
        for n, fields in enumerate(rows)
    ]


@pytest.mark.parametrize("width", [8, 384])
@pytest.mark.parametrize(
    "asked",
    [[], [EmbeddingType.FLOAT], [EmbeddingType.UBINARY, EmbeddingType.INT8], list(EmbeddingType)],
    ids=["none", "float", "two", "all"],
)
def test_a_result_has_the_vectors_that_were_asked_for_and_null_for_the_others(
    tmp_path: Path, asked: list[EmbeddingType], width: int
) -> None:
    rows, embeddings = numbered(700), {type: vectors(700, width)[type] for type in asked}
    with results(tmp_path) as writer:
        (part,) = writer.append(rows, embeddings)
    assert part.name == "001_embeded-x.avro"
    assert (part.index, part.rows, part.size_bytes) == (0, 700, (tmp_path / part.name).stat().st_size)
    assert repr(records(tmp_path / part.name)) == repr(as_written(rows, embeddings))
    assert block_sizes(tmp_path, [part]) == [[512, 188]]
    assert [json.loads(sample) for sample in part.samples] == rows[:3]


def test_every_number_of_eight_bits_comes_back(tmp_path: Path) -> None:
    embeddings: Vectors = {
        EmbeddingType.INT8: np.arange(-128, 128, dtype=np.int8).reshape(1, -1),
        EmbeddingType.UINT8: np.arange(256, dtype=np.uint8).reshape(1, -1),
    }
    with results(tmp_path) as writer:
        (part,) = writer.append(numbered(1), embeddings)
    assert records(tmp_path / part.name) == as_written(numbered(1), embeddings)


def test_vectors_may_be_laid_out_in_memory_in_any_way(tmp_path: Path) -> None:
    floats = np.asfortranarray(vectors(6, 8)[EmbeddingType.FLOAT])[::2]
    with results(tmp_path) as writer:
        (part,) = writer.append(numbered(3), {EmbeddingType.FLOAT: floats})
    assert records(tmp_path / part.name) == as_written(numbered(3), {EmbeddingType.FLOAT: floats})


@settings(max_examples=50)
@given(rows=datasets())
def test_kept_fields_are_in_the_result_as_they_were_in_the_upload(
    rows: list[Fields], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    parts = written(folder, rows)
    embeddings = vectors(len(rows), 8)
    result = folder / "result"
    result.mkdir()
    with ResultWriter.open(result, "x", result_schema(schema_of(rows)), metadata=MODEL) as writer:
        (block,) = read_blocks(folder, parts)
        (part,) = writer.append(block, embeddings)
    assert repr(records(result / part.name)) == repr(as_written([expected(fields) for fields in rows], embeddings))


def test_a_result_without_kept_fields_has_text_and_vectors(tmp_path: Path) -> None:
    schema = result_schema(schema_of([], DatasetOptions()))
    rows: list[Fields] = [{"text": "a"}, {"text": "é" * 1000}]
    with ResultWriter.open(tmp_path, "x", schema, metadata=MODEL) as writer:
        (part,) = writer.append(rows, vectors(2))
    assert records(tmp_path / part.name) == as_written(rows, vectors(2))


def test_the_header_names_the_model_and_the_schema(tmp_path: Path) -> None:
    with results(tmp_path) as writer:
        (part,) = writer.append(numbered(1), vectors(1))
    with (tmp_path / part.name).open("rb") as file:
        assert fastavro.reader(file).metadata == {
            "avro.codec": "null",
            "avro.schema": RESULT_SCHEMA,
            "model": "tiny",
        }


def test_results_go_to_the_next_part_in_time(tmp_path: Path) -> None:
    with results(tmp_path, part_bytes=100_000) as writer:
        for n in range(5):
            parts = writer.append(numbered(300), vectors(300, seed=n))
            assert [(tmp_path / part.name).stat().st_size for part in parts] == [part.size_bytes for part in parts]
    assert [part.name for part in parts] == ["001_embeded-x.avro", "002_embeded-x.avro", "003_embeded-x.avro"]
    assert [part.index for part in parts] == [0, 1, 2]
    assert [part.rows for part in parts] == [600, 600, 300]
    found = [fields for part in parts for fields in records(tmp_path / part.name)]
    assert found == [fields for n in range(5) for fields in as_written(numbered(300), vectors(300, seed=n))]


def test_no_rows_write_nothing(tmp_path: Path) -> None:
    with results(tmp_path) as writer:
        assert writer.append([], {}) == ()
    assert list(tmp_path.iterdir()) == []


def test_each_row_needs_a_vector(tmp_path: Path) -> None:
    with results(tmp_path) as writer:
        for count in (1, 3):
            with pytest.raises(ValueError, match="not a vector for each row"):
                writer.append(numbered(2), vectors(count))
        (part,) = writer.append(numbered(2), vectors(2))
    assert part.rows == 2


# --- going on after a kill ---


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_result_that_was_cut_at_any_byte_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    first, second, third = ((numbered(2), vectors(2, seed=n)) for n in range(3))
    whole = tmp_path / "whole"
    whole.mkdir()
    with results(whole) as writer:
        recorded = writer.append(*first)
        (longer,) = writer.append(*second)
        expected_parts = writer.append(*third)
    (name,) = contents(whole)
    content = contents(whole)[name]
    beyond = content[recorded[0].size_bytes : longer.size_bytes]
    assert len(beyond) > 300
    folder = tmp_path / "killed"
    for length in range(len(beyond) + 1):
        for tail in (beyond[:length], b"\xff" * length):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / name).write_bytes(content[: recorded[0].size_bytes] + tail)
            with results(folder, recorded) as writer:
                assert (folder / name).stat().st_size == recorded[0].size_bytes
                writer.append(*second)
                assert writer.append(*third) == expected_parts
            assert contents(folder) == contents(whole)


def test_a_result_that_was_killed_as_a_part_began_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    batches = [(numbered(300), vectors(300, seed=n)) for n in range(4)]
    whole = tmp_path / "whole"
    whole.mkdir()
    history: list[tuple[Part, ...]] = [()]
    with results(whole, part_bytes=50_000) as writer:
        history += [writer.append(*batch) for batch in batches]
    assert len(history[-1]) == 4
    for done, recorded in enumerate(history):  # killed after all was written, and only so much was recorded
        folder = tmp_path / f"killed-{done}"
        shutil.copytree(whole, folder)
        with results(folder, recorded, part_bytes=50_000) as writer:
            assert set(contents(folder)) == {part.name for part in recorded}
            for batch in batches[done:]:
                last = writer.append(*batch)
            if done < len(batches):
                assert last == history[-1]
        assert contents(folder) == contents(whole)


def test_another_model_or_schema_does_not_go_on_with_a_result(tmp_path: Path) -> None:
    with results(tmp_path) as writer:
        parts = writer.append(numbered(1), vectors(1))
    before = contents(tmp_path)
    other = result_schema(schema_of([{"text": "a", "n": "1"}], PLAIN))
    for schema, metadata, says in (
        (RESULT_SCHEMA, {"model": "large"}, "was written with another model"),
        (RESULT_SCHEMA, {}, "was written with another model"),
        (other, MODEL, r"was written with another avro\.schema"),
    ):
        with pytest.raises(PartMismatchError, match=says):
            ResultWriter.open(tmp_path, "embeded-x", schema, parts, metadata=metadata)
    assert contents(tmp_path) == before


def test_a_result_that_is_shorter_than_recorded_is_refused(tmp_path: Path) -> None:
    with results(tmp_path) as writer:
        (part,) = writer.append(numbered(2), vectors(2))
    path = tmp_path / part.name
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(PartMismatchError):
            results(tmp_path, [part])
        assert path.stat().st_size == length
    path.unlink()
    with pytest.raises(PartMismatchError, match="is gone"):
        results(tmp_path, [part])


def test_what_append_has_returned_is_synced_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, int]] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        stat = os.fstat(descriptor)
        synced.append((stat.st_ino, stat.st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    folder = tmp_path.stat().st_ino
    with results(tmp_path, part_bytes=70_000) as writer:
        for n in range(3):
            synced.clear()
            parts = writer.append(numbered(200), vectors(200, seed=n))
            last = tmp_path / parts[-1].name
            assert (last.stat().st_ino, parts[-1].size_bytes) in synced
            assert (folder in {inode for inode, _ in synced}) == (n in {0, 2})
    assert len(parts) == 2
