"""What a service of Cohere's wire answers with: datasets, jobs, vectors. Immutable; none of them does I/O.

Answers are read with tolerance, because what the hosted service sends is not all documented, and differs from what
is: unknown fields are ignored, null counts as missing, numbers may be strings, and every status is a plain string.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector: TypeAlias = NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8]
    """One vector, of the number type that its embedding type has."""
    VectorBatch: TypeAlias = Vector
    """Vectors of several texts, of shape (texts, numbers), in the order of the texts."""

VECTOR_DTYPES: Final[Mapping[str, str]] = {
    "float": "float32",
    "int8": "int8",
    "uint8": "uint8",
    "binary": "int8",
    "ubinary": "uint8",
}
"""The embedding types, in the order in which results have them, each with the type of its numbers."""

TEXTS_PER_CALL: Final = 96
"""How many texts one Embed call takes (OpenAPI of the hosted service, read 2026-08)."""
NAME_CHARACTERS: Final = 49
"""How long the name of a dataset may be ("under 50": docs of the hosted service, read 2026-08)."""

FAILED_STATUSES: Final = frozenset({"failed", "unknown", "skipped", "cancelled", "canceled"})
"""From these nothing comes any more; of a dataset and of a job alike."""


class DatasetPart(msgspec.Struct, frozen=True):
    """One Avro file of a dataset. Its link authorises by itself, and expires: after 4 h on the hosted service."""

    id: str = ""
    name: str = ""
    url: str = ""
    index: int = 0
    size_bytes: int | None = None
    rows: int | None = msgspec.field(default=None, name="num_rows")

    def __repr__(self) -> str:
        """Leave the link out: whoever has it can read the texts."""
        return f"DatasetPart(id={self.id!r}, name={self.name!r}, index={self.index}, rows={self.rows})"


class Dataset(msgspec.Struct, frozen=True):
    """One dataset, uploaded or made by a job."""

    id: str
    name: str = ""
    type: str = msgspec.field(default="", name="dataset_type")
    status: str = msgspec.field(default="", name="validation_status")
    error: str = msgspec.field(default="", name="validation_error")
    warnings: tuple[str, ...] = msgspec.field(default=(), name="validation_warnings")
    created_at: str = ""  # as it was sent; `moment` reads it
    schema: str = ""  # the Avro schema, as JSON
    parts: tuple[DatasetPart, ...] = msgspec.field(default=(), name="dataset_parts")

    @property
    def is_validated(self) -> bool:
        return self.status.lower() == "validated"

    @property
    def has_failed(self) -> bool:
        return self.status.lower() in FAILED_STATUSES

    @property
    def ordered_parts(self) -> tuple[DatasetPart, ...]:
        """The parts in the order of their rows, each once.

        By index where there is one: a missing index counts as 0, as services written in Go leave zeros out.
        """
        once = {part.id or part.url: part for part in self.parts}
        return tuple(sorted(once.values(), key=lambda part: part.index))


class BilledUnits(msgspec.Struct, frozen=True):
    """What a call or a job costs; a service that does not say leaves it out."""

    input_tokens: float | None = None


class Meta(msgspec.Struct, frozen=True):
    """What is said of an answer beside it."""

    billed_units: BilledUnits | None = None


class Job(msgspec.Struct, frozen=True):
    """One embed job."""

    id: str = msgspec.field(name="job_id")
    name: str = ""
    status: str = ""
    created_at: str = ""  # as it was sent; `moment` reads it
    input_dataset_id: str = ""
    output_dataset_id: str = ""  # empty until there is one
    model: str = ""
    truncate: str = ""  # the hosted service has sent "RIGHT", which is in no list
    percent_complete: float | None = None
    error: str = ""
    meta: Meta | None = None

    @property
    def is_complete(self) -> bool:
        return self.status.lower() == "complete"

    @property
    def has_failed(self) -> bool:
        return self.status.lower() in FAILED_STATUSES

    @property
    def is_open(self) -> bool:
        """Whether something is still to come of it; `cancelling` is open, and so is a status that nobody knows."""
        return not self.is_complete and not self.has_failed

    @property
    def billed_tokens(self) -> int | None:
        return _tokens(self.meta)


class Embedded(msgspec.Struct, frozen=True):
    """The vectors of one Embed call."""

    vectors: Mapping[str, VectorBatch]  # by embedding type
    billed_tokens: int | None


class Model(msgspec.Struct, frozen=True):
    """A model that a service offers."""

    name: str
    endpoints: tuple[str, ...] = ()
    alias_of: str = ""  # told by our own service: the model that answers to this name, which is not its own


class Created(msgspec.Struct, frozen=True):
    """The answer to an upload."""

    id: str


class CreatedJob(msgspec.Struct, frozen=True):
    """The answer to a job that was asked for."""

    job_id: str


class DatasetAnswer(msgspec.Struct, frozen=True):
    """The answer with one dataset."""

    dataset: Dataset


class DatasetsAnswer(msgspec.Struct, frozen=True):
    """The answer with several."""

    datasets: tuple[Dataset, ...] = ()


class JobsAnswer(msgspec.Struct, frozen=True):
    """The answer with all jobs."""

    embed_jobs: tuple[Job, ...] = ()


class ModelsAnswer(msgspec.Struct, frozen=True):
    """The answer with all models."""

    models: tuple[Model, ...] = ()


class UsageAnswer(msgspec.Struct, frozen=True):
    """How much is stored; the hosted service sends the number as a string."""

    organization_usage: int = 0


class EmbedAnswer(msgspec.Struct, frozen=True):
    """Vectors by type, or, from v1 when no type was asked for, plain floats."""

    embeddings: dict[str, msgspec.Raw] | list[list[float]]
    meta: Meta | None = None

    @property
    def billed_tokens(self) -> int | None:
        return _tokens(self.meta)


def moment(text: str) -> datetime | None:
    """Read a time as the wire writes it, in UTC; None if it is no time."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)


def _tokens(meta: Meta | None) -> int | None:
    billed = meta.billed_units if meta else None
    return round(billed.input_tokens) if billed and billed.input_tokens is not None else None
