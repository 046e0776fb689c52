"""Turn an upload into a dataset's parts, or say why it is none.

The file is read twice, as the schema stands at the beginning of each part and only the last row decides it: first to
check each row and see what is in it, then to write. Decoding a row again costs less than to keep it anywhere.

    bad rows    good rows    skip_malformed_input    outcome
    ----------  -----------  ----------------------  -------------------------------------------------------
    none        some         -                       Validated
    some        some         true                    Validated, without the bad rows; each is a warning
    some        -            false                   Invalid: the first is the error, the others are warnings
    some        none         true                    Invalid, as above
    the file is invalid as a whole                   Invalid, with that error
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from .parts import PartWriter, stem_of
from .rows import InvalidFileError, Row, read_rows
from .schema import Inference, TooVariedError
from .values import Dataset, Part

MAX_WARNINGS = 100  # ours; the rest is counted


class Validated(msgspec.Struct, frozen=True):
    """The parts are in the dataset's folder, synced."""

    parts: tuple[Part, ...]
    schema: str
    warnings: tuple[str, ...] = ()


class Invalid(msgspec.Struct, frozen=True):
    """There are no parts."""

    error: str
    warnings: tuple[str, ...] = ()


class _Problems:
    """What was wrong, in order: the first ones in words, the rest as a number."""

    def __init__(self) -> None:
        self.count = 0
        self._messages: list[str] = []

    def add(self, message: str) -> None:
        self.count += 1
        if self.count <= MAX_WARNINGS + 1:
            self._messages.append(message)

    def invalid(self) -> Invalid:
        return Invalid(self._messages[0], self._from(1))

    def left_out(self) -> tuple[str, ...]:
        return self._from(0)

    def _from(self, start: int) -> tuple[str, ...]:
        messages = self._messages[start : start + MAX_WARNINGS]
        more = self.count - start - len(messages)
        return (*messages, f"and {more:,} more") if more else tuple(messages)


def validate(dataset: Dataset, folder: Path, *, is_stopped: Callable[[], bool]) -> Validated | Invalid:
    """Check the upload `dataset.original` in a dataset's folder, and write its parts beside it.

    What an earlier, killed attempt has left there is removed first. `is_stopped` is asked about once a megabyte and
    has to be cheap; whoever asks to stop may call again later, or remove the folder.

    Raises:
        StoppedError: `is_stopped` said so; what is in the folder beside the upload is rubbish.
        OSError: the disk is full, or fails; the same.
    """
    for rubbish in folder.glob("*.avro"):
        if rubbish.name != dataset.original:
            rubbish.unlink()
    upload = folder / dataset.original
    options = dataset.options
    problems, inference, good_rows = _Problems(), Inference(options), 0
    try:
        for row in read_rows(upload, dataset.file_name, options, is_stopped=is_stopped):
            if isinstance(row, Row):
                good_rows += 1
                inference.see(row.fields)
            else:
                problems.add(row.message)
    except (InvalidFileError, TooVariedError) as error:
        return Invalid(str(error), problems.left_out())
    if problems.count and not (options.skip_malformed_input and good_rows):
        return problems.invalid()
    schema = inference.input_schema()
    with PartWriter(folder, stem_of(dataset.file_name), schema) as writer:
        for row in read_rows(upload, dataset.file_name, options, is_stopped=is_stopped):
            if isinstance(row, Row):
                writer.append(row.fields)
        return Validated(writer.close(), schema, problems.left_out())
