"""One embed job, a block at a time: read, embed, append to the result, save. What is saved is never embedded again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from connector.errors import ConfigError, RejectedError

from .events import BlockEmbedded
from .ids import result_name
from .layout import disk_trouble
from .models import Embedded, ServedModel
from .parts import BLOCK_ROWS, PartMismatchError, ResultWriter, read_blocks
from .quantization import forms
from .schema import result_schema
from .store import Store
from .values import Job, JobStatus, Progress

if TYPE_CHECKING:
    from .rows import Fields

CHARACTERS_PER_CALL = 32_768
"""A block is embedded in calls of about that much, 8000 tokens: a stop or a cancel waits for one of them at most, two
to four seconds of two cores. Larger ones pad less: 1.8 % more than a whole block at half of it, 0.6 % at twice."""
CHARACTERS_PER_TOKEN = 4  # of English; a longer text than the model reads takes no longer


class JobFailedError(Exception):
    """A job can never go on; the message is for its owner."""


class JobStoppedError(Exception):
    """The service stops, or the job is no longer wanted."""


class _Block(NamedTuple):
    """A block that is embedded, and not saved yet."""

    rows: Sequence[Fields]
    embedded: Embedded
    seconds: float


class JobRun:
    """An open job in the worker's hands. Keeps its place in the input and its result open between two steps.

    A step that failed may be made again: what was embedded is kept until it is saved.
    """

    def __init__(
        self,
        store: Store,
        model: ServedModel,
        job: Job,
        *,
        is_stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._store = store
        self._model = model
        self._job = job
        self._is_stopping = is_stopping
        self._clock = clock
        self._input = store.dataset(job.input_dataset_id)  # cannot be deleted while the job is open
        self._schema = result_schema(self._input.schema)
        self._progress = job.progress
        self._blocks: Iterator[list[Fields]] | None = None
        self._writer: ResultWriter | None = None
        self._unsaved: _Block | None = None

    def step(self) -> BlockEmbedded | None:
        """Do the next block; None if there is none, and the job is complete.

        Raises:
            JobFailedError: the job can never go on.
            JobStoppedError: it is not to go on now; nothing was saved.
            TransientError: it may go on later, by the same call.
        """
        started = self._clock()
        if self._unsaved is None:
            rows = self._next_rows()
            if rows is None:
                self._complete()
                return None
            try:
                self._unsaved = self._embed(rows)
            except BaseException:
                self._blocks = None  # the next attempt reads them again
                raise
        block = self._unsaved
        self._save(block)
        self._unsaved = None
        return BlockEmbedded(
            self._job.id,
            rows=len(block.rows),
            tokens=block.embedded.tokens,
            rows_done=self._progress.rows,
            embed_seconds=block.seconds,
            seconds=self._clock() - started,
        )

    def rest(self) -> None:
        """Close the files until the next step; a block that is not saved yet stays."""
        self._close_writer()
        if self._unsaved is None:  # else the next block to read is not the next one to save
            self._blocks = None

    def close(self) -> None:
        """Close the files for good."""
        self._close_writer()
        self._blocks = None  # which closes its file, too

    def _next_rows(self) -> Sequence[Fields] | None:
        if self._blocks is None:
            folder = self._store.folder_of(self._input.id)
            self._blocks = read_blocks(folder, self._input.parts, self._progress.blocks)
        try:
            with disk_trouble("read a dataset"):
                return next(self._blocks, None)
        except PartMismatchError as error:
            raise JobFailedError(f"dataset {self._input.id} is damaged: {error}; upload it again") from error
        except BaseException:
            self._blocks = None  # a generator that failed is at its end, which would be taken for the input's
            raise

    def _embed(self, rows: Sequence[Fields]) -> _Block:
        """Embed in calls of texts of like length, which a model pads less."""
        started = self._clock()
        texts = [str(row["text"]) for row in rows]
        vectors = np.empty((len(texts), self._model.dimension), dtype=np.float32)
        tokens = 0
        for positions in calls([len(text) for text in texts], self._model.tokens_per_text):
            self._check_wanted()
            embedded = self._call([texts[position] for position in positions])
            vectors[positions] = embedded.vectors
            tokens += embedded.tokens
        self._check_wanted()
        return _Block(rows, Embedded(vectors, tokens), self._clock() - started)

    def _check_wanted(self) -> None:
        if self._is_stopping() or self._store.job_status(self._job.id) is not JobStatus.PROCESSING:
            raise JobStoppedError

    def _call(self, texts: Sequence[str]) -> Embedded:
        options = self._job.options
        try:
            return self._model.embed(texts, input_type=options.input_type, truncate=options.truncate)
        except ConfigError as error:
            raise JobFailedError(f"model '{options.model}' does not work: {error}") from error
        except RejectedError as error:  # whose words quote the text, which is not for the log
            before = self._progress.rows
            raise JobFailedError(
                f"model '{options.model}' refuses a text of the {BLOCK_ROWS} rows after {before}"
            ) from error

    def _save(self, block: _Block) -> None:
        embeddings = forms(block.embedded.vectors, self._job.options.embedding_types, self._model.int8_range)
        try:
            with disk_trouble("write a result"):
                writer = self._writer = self._writer or self._open_writer()
                parts = writer.append(block.rows, embeddings)
            progress = Progress(
                blocks=self._progress.blocks + 1,
                rows=self._progress.rows + len(block.rows),
                tokens=self._progress.tokens + block.embedded.tokens,
                parts=parts,
            )
            self._store.save_progress(self._job.id, progress)
        except PartMismatchError as error:
            raise JobFailedError(f"the result so far cannot be gone on with: {error}; start the job again") from error
        except BaseException:
            self._close_writer()  # the next attempt begins at the end of what is saved
            raise
        self._progress = progress

    def _open_writer(self) -> ResultWriter:
        options = self._job.options
        return ResultWriter.open(
            self._store.result_folder(self._job),
            result_name(self._input.name),
            self._schema,
            self._progress.parts,
            metadata={
                "vector_sync.model": self._model.name,
                "vector_sync.model_identity": self._model.identity,
                "vector_sync.input_type": options.input_type.value,
                "vector_sync.truncate": options.truncate.value,
                "vector_sync.int8_range": repr(self._model.int8_range),
            },
        )

    def _close_writer(self) -> None:
        if self._writer is not None:
            with suppress(OSError):  # what is still in its buffer is not saved, and the disk may be full
                self._writer.close()
            self._writer = None

    def _complete(self) -> None:
        if self._progress.rows != self._job.rows:
            raise JobFailedError(
                f"dataset {self._input.id} is damaged: it had {self._job.rows} rows, and has {self._progress.rows};"
                " upload it again"
            )
        self._store.complete(self._job.id, schema=self._schema)
        self._close_writer()


def calls(lengths: Sequence[int], tokens_per_text: int) -> Iterator[list[int]]:
    """Group the positions of texts, given their lengths, longest first, into calls of `CHARACTERS_PER_CALL`."""
    longest = tokens_per_text * CHARACTERS_PER_TOKEN
    call: list[int] = []
    characters = 0
    for position in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = min(lengths[position], longest)
        if call and characters + length > CHARACTERS_PER_CALL:
            yield call
            call, characters = [], 0
        call.append(position)
        characters += length
    if call:
        yield call
