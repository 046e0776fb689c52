"""An upload becomes parts, or a reason why not; in constant memory, and as often as it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import fastavro
import pytest

from connector.embedjobs.parts import read_blocks
from connector.embedjobs.rows import StoppedError
from connector.embedjobs.validation import MAX_WARNINGS, Invalid, Validated, validate
from connector.embedjobs.values import Dataset, DatasetOptions, DatasetType, ValidationStatus

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEEP = DatasetOptions(keep_fields=("id",), optional_fields=("lang",))
SKIP = DatasetOptions(keep_fields=("id",), optional_fields=("lang",), skip_malformed_input=True)

GOOD = '{"text": "a", "id": 1}\n'
NO_ID = '{"text": "a"}\n'
MISSING = "the required field id was not found in the dataset (line: {})"


def dataset(file_name: str = "data.jsonl", options: DatasetOptions = KEEP) -> Dataset:
    return Dataset(
        "x-1",
        "x",
        DatasetType.EMBED_INPUT,
        NOON,
        NOON,
        ValidationStatus.PROCESSING,
        options,
        file_name=file_name,
        original="original.jsonl",
    )


def outcome(
    folder: Path, content: str, file_name: str = "data.jsonl", options: DatasetOptions = KEEP
) -> Validated | Invalid:
    (folder / "original.jsonl").write_text(content, encoding="utf-8")
    return validate(dataset(file_name, options), folder, is_stopped=lambda: False)


def rows_in(folder: Path, validated: Validated) -> list[object]:
    return [fields for block in read_blocks(folder, validated.parts) for fields in block]


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_upload_becomes_parts_that_hold_its_rows_in_order(tmp_path: Path) -> None:
    content = '{"text": "a", "id": 1, "x": 2}\n{"text": "b", "id": "1", "lang": "en"}\n{"id": null, "text": "c"}'
    found = outcome(tmp_path, content, "folder/My Data.jsonl")
    assert isinstance(found, Validated)
    assert found.warnings == ()
    (part,) = found.parts
    assert (part.name, part.index, part.rows) == ("000_My-Data.avro", 0, 3)
    assert part.size_bytes == (tmp_path / part.name).stat().st_size
    assert part.samples[0] == '{"text":"a","id":1}'
    assert rows_in(tmp_path, found) == [
        {"text": "a", "id": 1, "lang": None},
        {"text": "b", "id": "1", "lang": "en"},
        {"text": "c", "id": None, "lang": None},
    ]
    assert files_in(tmp_path) == {"original.jsonl", part.name}
    with (tmp_path / part.name).open("rb") as file:
        assert fastavro.reader(file).metadata["avro.schema"] == found.schema


def test_csv_becomes_strings(tmp_path: Path) -> None:
    found = outcome(tmp_path, "id,text,lang\n1,a,\n,b,en\n", "data.csv")
    assert isinstance(found, Validated)
    assert rows_in(tmp_path, found) == [
        {"text": "a", "id": "1", "lang": None},
        {"text": "b", "id": "", "lang": "en"},
    ]


def test_one_bad_row_fails_a_dataset_and_leaves_no_parts(tmp_path: Path) -> None:
    assert outcome(tmp_path, GOOD + NO_ID + GOOD) == Invalid(MISSING.format(2))
    assert files_in(tmp_path) == {"original.jsonl"}


@pytest.mark.parametrize(
    "bad, told, more",
    [(2, 1, ""), (101, 100, ""), (102, 100, "and 1 more"), (3101, 100, "and 3,000 more")],
)
def test_the_first_bad_row_is_the_error_and_the_next_hundred_are_warnings(
    tmp_path: Path, bad: int, told: int, more: str
) -> None:
    found = outcome(tmp_path, GOOD + NO_ID * bad)
    warnings = [MISSING.format(line) for line in range(3, 3 + told)] + [more] * bool(more)
    assert found == Invalid(MISSING.format(2), tuple(warnings))


@pytest.mark.parametrize("bad, more", [(1, ""), (100, ""), (101, "and 1 more"), (1100, "and 1,000 more")])
def test_bad_rows_are_left_out_and_told_if_that_was_asked_for(tmp_path: Path, bad: int, more: str) -> None:
    found = outcome(tmp_path, GOOD + NO_ID * bad + '{"text": "z", "id": 2}\n', options=SKIP)
    assert isinstance(found, Validated)
    warnings = [MISSING.format(line) for line in range(2, 2 + min(bad, MAX_WARNINGS))] + [more] * bool(more)
    assert found.warnings == tuple(warnings)
    assert rows_in(tmp_path, found) == [
        {"text": "a", "id": 1, "lang": None},
        {"text": "z", "id": 2, "lang": None},
    ]


def test_a_bad_row_that_is_left_out_has_no_say_in_the_schema(tmp_path: Path) -> None:
    found = outcome(tmp_path, GOOD + '{"text": "", "id": "a string"}\n', options=SKIP)
    assert isinstance(found, Validated)
    assert '"string"' not in found.schema.split('"id"')[1].split("lang")[0]


def test_no_good_row_fails_a_dataset_even_if_bad_ones_may_be_left_out(tmp_path: Path) -> None:
    assert outcome(tmp_path, NO_ID * 2, options=SKIP) == Invalid(MISSING.format(1), (MISSING.format(2),))
    assert files_in(tmp_path) == {"original.jsonl"}


@pytest.mark.parametrize("options", [KEEP, SKIP])
@pytest.mark.parametrize(
    "content, file_name, error",
    [
        ("", "data.jsonl", "None of the rows in the file can be empty"),
        (GOOD, "upload", "the upload is named upload, without an extension"),
        (GOOD, "data.txt", "only .jsonl and .csv files are supported"),
        (GOOD, "data.csv", "file extension and file contents have to match"),
        ("text\na\n", "data.csv", "csv files must have a header with the required fields: [text, id]"),
    ],
)
def test_a_file_that_is_invalid_as_a_whole_fails_a_dataset(
    tmp_path: Path, content: str, file_name: str, error: str, options: DatasetOptions
) -> None:
    found = outcome(tmp_path, content, file_name, options)
    assert isinstance(found, Invalid)
    assert found.error.startswith(error)
    assert found.warnings == ()


def test_fields_of_too_many_shapes_fail_a_dataset(tmp_path: Path) -> None:
    def shape(bits: int) -> str:
        return "0" if bits == 1 else f"[{shape(bits >> 1)}]" if bits & 1 else f'{{"a": {shape(bits >> 1)}}}'

    content = NO_ID + "".join(f'{{"text": "a", "id": {shape(bits)}}}\n' for bits in range(1, 4096))
    found = outcome(tmp_path, content, options=SKIP)
    assert isinstance(found, Invalid)
    assert "too many for one schema" in found.error
    assert found.warnings == (MISSING.format(1),)


def test_what_a_killed_attempt_has_left_goes(tmp_path: Path) -> None:
    for name in ("000_data.avro", "001_data.avro", "000_other.avro"):
        (tmp_path / name).write_bytes(b"rubbish" * 1000)
    found = outcome(tmp_path, GOOD)
    assert isinstance(found, Validated)
    assert files_in(tmp_path) == {"original.jsonl", "000_data.avro"}
    assert rows_in(tmp_path, found) == [{"text": "a", "id": 1, "lang": None}]
    (tmp_path / "001_data.avro").write_bytes(b"rubbish")
    assert isinstance(outcome(tmp_path, NO_ID), Invalid)
    assert files_in(tmp_path) == {"original.jsonl"}


@pytest.mark.parametrize("when", range(1, 12))
def test_a_validation_that_is_stopped_at_any_time_can_be_done_again(tmp_path: Path, when: int) -> None:
    content = "".join(f'{{"text": "{"x" * 1000}", "id": {n}}}\n' for n in range(5000))
    whole = outcome(tmp_path, content)
    asked = 0

    def is_stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked == when

    with pytest.raises(StoppedError):
        validate(dataset(), tmp_path, is_stopped=is_stopped)
    assert validate(dataset(), tmp_path, is_stopped=lambda: False) == whole


def test_the_parts_and_their_folder_are_synced_before_they_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, int]] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        stat = os.fstat(descriptor)
        synced.append((stat.st_ino, stat.st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    found = outcome(tmp_path, GOOD)
    assert isinstance(found, Validated)
    part = (tmp_path / found.parts[0].name).stat()
    assert synced == [(part.st_ino, part.st_size), (tmp_path.stat().st_ino, tmp_path.stat().st_size)]


# --- memory ---

# The high-water mark of this process alone: what getrusage tells is at least that of the process that started it.
CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_embedjobs_validation import SKIP, dataset
from connector.embedjobs.validation import validate
found = validate(dataset({file_name!r}, SKIP), Path({folder!r}), is_stopped=lambda: False)
(peak,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
print(sum(part.rows for part in found.parts), len(found.warnings), peak)
"""


def peak_of(folder: Path, file_name: str, size_bytes: int) -> int:
    """Validate so much in a process of its own, and tell the most memory that it had, in bytes."""
    folder.mkdir()
    text = "some words of a text, and some more \u00e9 " * 50
    if file_name == "data.csv":
        good, bad, header = f'"{text}\n",7,en\n', f"{text}\n", "text,id,lang\n"
    else:
        good, bad, header = f'{{"text": "{text}", "id": [1, {{"a": 2.5}}], "no": [1, 2]}}\n', NO_ID, ""
    lines = (good * 99 + bad).encode()
    times = size_bytes // len(lines)
    with (folder / "original.jsonl").open("wb") as file:
        file.write(header.encode())
        file.writelines(lines for _ in range(times))
    code = CHILD.format(tests=str(Path(__file__).parent), folder=str(folder), file_name=file_name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows, warnings, peak = map(int, done.stdout.split())
    assert (rows, warnings) == (times * 99, min(times, MAX_WARNINGS + 1))
    return peak * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("file_name", ["data.jsonl", "data.csv"])
def test_memory_does_not_grow_with_the_upload(tmp_path: Path, file_name: str) -> None:
    small = peak_of(tmp_path / "small", file_name, 2_000_000)
    large = peak_of(tmp_path / "large", file_name, 200_000_000)
    assert large - small < 40_000_000
