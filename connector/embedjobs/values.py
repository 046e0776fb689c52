"""What the service keeps: datasets, their parts, and jobs. Immutable; none of them does I/O.

    upload -> Dataset(embed-input): queued -> processing -> validated | failed
              Job: processing -> complete | failed, or -> cancelling -> cancelled
              Dataset(embed-result): validated, made in the same moment as its job becomes complete

The words of the statuses and types are the wire's.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class DatasetType(StrEnum):
    """What a dataset is for; the service takes one type and makes the other."""

    EMBED_INPUT = "embed-input"
    EMBED_RESULT = "embed-result"


class ValidationStatus(StrEnum):
    """How far a dataset is. Never `unknown` or `skipped`, which clients take for failures."""

    QUEUED = "queued"
    PROCESSING = "processing"
    VALIDATED = "validated"
    FAILED = "failed"


class JobStatus(StrEnum):
    """How far a job is."""

    PROCESSING = "processing"
    COMPLETE = "complete"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_open(self) -> bool:
        """Whether there is still something to be done."""
        return self in (JobStatus.PROCESSING, JobStatus.CANCELLING)


class EmbeddingType(StrEnum):
    """The forms of a vector, in the order in which results have them."""

    FLOAT = "float"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"


class Truncate(StrEnum):
    """Which end of a text that is too long is left out. Jobs know no NONE."""

    NONE = "NONE"
    START = "START"
    END = "END"


class InputType(StrEnum):
    """What a text is embedded for, in the wire's words; images are not for a text model."""

    SEARCH_DOCUMENT = "search_document"
    SEARCH_QUERY = "search_query"
    CLASSIFICATION = "classification"
    CLUSTERING = "clustering"


class DatasetOptions(msgspec.Struct, frozen=True):
    """How an upload is to be read."""

    keep_fields: tuple[str, ...] = ()  # must be in every row
    optional_fields: tuple[str, ...] = ()  # null where missing
    skip_malformed_input: bool = False  # leave bad rows out, with a warning, instead of failing
    keep_original_file: bool = False
    csv_delimiter: str = ","


class Part(msgspec.Struct, frozen=True):
    """One Avro file of a dataset; the dataset is their concatenation, by index."""

    name: str  # of the file in the dataset's folder: "000_data.avro"
    index: int
    size_bytes: int
    rows: int
    samples: tuple[str, ...] = ()  # the first rows, as JSON, at most 3 of them and 500 characters each


class Dataset(msgspec.Struct, frozen=True):
    """One dataset."""

    id: str
    name: str
    type: DatasetType
    created_at: datetime  # UTC, as are all times
    updated_at: datetime
    status: ValidationStatus
    options: DatasetOptions
    file_name: str = ""  # as it was uploaded: "data.jsonl"
    original: str = ""  # of the file in the dataset's folder that holds the upload; empty when it is not kept
    error: str = ""
    warnings: tuple[str, ...] = ()
    schema: str = ""  # the Avro schema, as JSON; of a validated dataset
    parts: tuple[Part, ...] = ()  # of a validated dataset

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


class JobOptions(msgspec.Struct, frozen=True):
    """What a job was asked to do."""

    model: str  # the name of the model that answers
    requested_model: str  # what the client called it: an alias, or the same
    input_type: InputType = InputType.SEARCH_DOCUMENT
    embedding_types: tuple[EmbeddingType, ...] = (EmbeddingType.FLOAT,)
    truncate: Truncate = Truncate.END
    name: str = ""


class Progress(msgspec.Struct, frozen=True):
    """What of a job is finished for good: it survives a kill, and is not embedded again.

    `parts` are the result's files so far. The last of them may be longer on disk than its `size_bytes`: what
    is beyond was being written at a kill, and is cut off.
    """

    blocks: int = 0  # of the input, in order; the unit in which a job goes on
    rows: int = 0
    tokens: int = 0  # that were embedded, after truncation; what a hosted service would bill
    parts: tuple[Part, ...] = ()


class Job(msgspec.Struct, frozen=True):
    """One embed job."""

    id: str  # a UUID
    options: JobOptions
    status: JobStatus
    created_at: datetime
    updated_at: datetime
    input_dataset_id: str
    output_dataset_id: str  # reserved from the beginning; a dataset of that id is there when the job is complete
    rows: int  # of the input
    progress: Progress = Progress()
    error: str = ""
