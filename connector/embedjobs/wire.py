"""The JSON of datasets and jobs, in the hosted service's shape; what there is not is left out, never null.

One class for each body, so that the OpenAPI document says what is sent. Clients take unknown fields, and so do we.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AliasChoices, BaseModel, Field, StringConstraints

from .values import Dataset, DatasetType, EmbeddingType, InputType, Job, JobStatus, Truncate, ValidationStatus

NAME_CHARACTERS: Final = 255  # of what a client writes into a job; bounds what is stored
API_VERSION: Final = "1"
NOT_YET: Final = 99  # percent, until the result is there

ShortText = Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARACTERS)]
Link = Callable[[str, str], str]
"""Makes a URL of a dataset's id and the name of one of its files."""


class PartJson(BaseModel):
    """A file of a dataset; the dataset is its parts, in this order."""

    id: str
    name: str
    url: str = Field(description="Where to read it, without a key; expires. Get the dataset again for a new one")
    index: int
    size_bytes: int
    num_rows: int
    original_url: str | None = Field(default=None, description="The upload as it was, if it was to be kept")
    samples: list[str] = Field(description="The first rows, as JSON")


class DatasetJson(BaseModel):
    """A dataset."""

    id: str
    name: str
    created_at: datetime
    updated_at: datetime
    dataset_type: DatasetType
    validation_status: ValidationStatus
    validation_error: str | None = None
    validation_warnings: list[str]
    schema_: str | None = Field(default=None, alias="schema", description="Avro's, as a JSON string; once validated")
    required_fields: list[str]
    preserve_fields: list[str]
    dataset_parts: list[PartJson] | None = Field(default=None, description="Once validated")


class DatasetCreated(BaseModel):
    """The answer to an upload; validation follows, so ask for the dataset until it is `validated`."""

    id: str


class DatasetFound(BaseModel):
    """One dataset."""

    dataset: DatasetJson


class DatasetsFound(BaseModel):
    """Datasets, newest first."""

    datasets: list[DatasetJson]


class Usage(BaseModel):
    """How much is stored."""

    organization_usage: int = Field(description="Bytes of all datasets and results")


class Nothing(BaseModel):
    """`{}`: SDKs want an object."""


class ApiVersion(BaseModel):
    """Which of the hosted service's interfaces this is."""

    version: str = API_VERSION


class BilledUnits(BaseModel):
    """What a hosted service would bill."""

    input_tokens: int


class Meta(BaseModel):
    """What a request cost, and what to know about the answer."""

    api_version: ApiVersion = ApiVersion()
    billed_units: BilledUnits | None = None
    warnings: list[str] | None = None


class JobRequest(BaseModel):
    """What to embed, and how."""

    model: ShortText = Field(description="A model of this service, or one of its aliases; see /v1/models")
    dataset_id: ShortText = Field(
        validation_alias=AliasChoices("dataset_id", "input_dataset_id"),
        description="An `embed-input` dataset that is validated; old SDKs call it input_dataset_id",
    )
    input_type: InputType
    name: Annotated[str, StringConstraints(max_length=NAME_CHARACTERS)] | None = None
    embedding_types: list[EmbeddingType] | None = Field(default=None, description="float, if none is named")
    truncate: Literal["START", "END"] | None = Field(default=None, description="END, if not said")


class JobCreated(BaseModel):
    """The answer to a new job."""

    job_id: str
    meta: Meta


class JobJson(BaseModel):
    """An embed job."""

    job_id: str
    name: str | None = None
    status: JobStatus
    created_at: datetime
    input_dataset_id: str
    output_dataset_id: str | None = Field(default=None, description="Once it is complete")
    model: str = Field(description="The model that answers, by its own name")
    requested_model: str = Field(description="What the client called it")
    truncate: Truncate
    percent_complete: int
    error: str | None = Field(default=None, description="Why it failed")
    meta: Meta


class JobsFound(BaseModel):
    """Jobs, newest first."""

    embed_jobs: list[JobJson]


def dataset_json(dataset: Dataset, link: Link) -> DatasetJson:
    """Write a dataset; `link` says where its files are."""
    is_validated = dataset.status is ValidationStatus.VALIDATED
    options = dataset.options
    original_url = link(dataset.id, dataset.original) if dataset.original and options.keep_original_file else None
    parts = [
        PartJson(
            id=f"{dataset.id}-{part.index:03}",
            name=part.name,
            url=link(dataset.id, part.name),
            index=part.index,
            size_bytes=part.size_bytes,
            num_rows=part.rows,
            original_url=original_url,
            samples=list(part.samples),
        )
        for part in dataset.parts
    ]
    return DatasetJson(
        id=dataset.id,
        name=dataset.name,
        created_at=dataset.created_at,
        updated_at=dataset.updated_at,
        dataset_type=dataset.type,
        validation_status=dataset.status,
        validation_error=dataset.error or None,
        validation_warnings=list(dataset.warnings),
        schema=dataset.schema if is_validated else None,
        required_fields=["text"],
        preserve_fields=list(dict.fromkeys((*options.keep_fields, *options.optional_fields))),
        dataset_parts=parts if is_validated else None,
    )


def job_json(job: Job) -> JobJson:
    """Write a job. Its model is the one that answers: nobody is to be misled about whose vectors these are."""
    is_complete = job.status is JobStatus.COMPLETE
    return JobJson(
        job_id=job.id,
        name=job.options.name or None,
        status=job.status,
        created_at=job.created_at,
        input_dataset_id=job.input_dataset_id,
        output_dataset_id=job.output_dataset_id if is_complete else None,
        model=job.options.model,
        requested_model=job.options.requested_model,
        truncate=job.options.truncate,
        percent_complete=percent(job),
        error=job.error or None,
        meta=job_meta(job),
    )


def job_meta(job: Job) -> Meta:
    """Say what a job has embedded so far, and which model answers if it goes by another name."""
    warning = alias_warning(job.options.requested_model, job.options.model)
    return Meta(
        billed_units=BilledUnits(input_tokens=job.progress.tokens),
        warnings=[warning] if warning else None,
    )


def alias_warning(requested: str, answering: str) -> str:
    """Say that a model goes by another model's name; empty when it does not."""
    if requested == answering:
        return ""
    return f"{requested} is an alias of this service: the vectors are those of {answering}, and fit no others"


def percent(job: Job) -> int:
    """How much of a job is done; 100 only when its result is there."""
    if job.status is JobStatus.COMPLETE:
        return 100
    return min(NOT_YET, 100 * job.progress.rows // max(1, job.rows))
