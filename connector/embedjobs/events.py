"""What the service's threads report, as it happens. Logs and metrics are made from these alone.

Names are past tense: an event is emitted after the thing is durable, never before. Events come from several threads.
They hold ids, counts and reasons, never the text of a document.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

from connector.errors import ConnectorError, RejectedError

from .values import JobStatus


class DatasetValidated(msgspec.Struct, frozen=True, tag=True):
    """A dataset may be read by jobs."""

    dataset_id: str
    rows: int
    parts: int
    warnings: int
    seconds: float


class DatasetFailed(msgspec.Struct, frozen=True, tag=True):
    """A dataset is not what it should be; whoever looks it up is told why."""

    dataset_id: str
    warnings: int
    seconds: float


class JobStarted(msgspec.Struct, frozen=True, tag=True):
    """A job had its first turn since it was added, or since the service started."""

    job_id: str
    dataset_id: str
    model: str
    rows: int
    rows_done: int  # before this start of the service


class BlockEmbedded(msgspec.Struct, frozen=True, tag=True):
    """A block of a job is finished for good."""

    job_id: str
    rows: int
    tokens: int
    rows_done: int  # of the job, this block included
    embed_seconds: float  # of the model
    seconds: float  # of all of it; what is kept for a second attempt counts again


class JobEnded(msgspec.Struct, frozen=True, tag=True):
    """A job is over."""

    job_id: str
    status: JobStatus
    rows: int
    tokens: int
    error: str = ""


class DatasetsExpired(msgspec.Struct, frozen=True, tag=True):
    """Datasets were deleted, as they were older than the retention."""

    dataset_ids: tuple[str, ...]


class Postponed(msgspec.Struct, frozen=True, tag=True):
    """Something failed for a reason that may pass, and is tried again after a wait."""

    what: str  # "job 6d69...", "validation of sample-m613zv"
    error: str
    wait_seconds: float


class BugFound(msgspec.Struct, frozen=True, tag=True):
    """Something failed that never should; the threads go on."""

    what: str
    trace: str


Event: TypeAlias = (
    DatasetValidated | DatasetFailed | JobStarted | BlockEmbedded | JobEnded | DatasetsExpired | Postponed | BugFound
)
Emit: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Subscribe to nothing."""


def reason_of(error: BaseException) -> str:
    """Say in a line what went wrong."""
    return type(error).__qualname__ + _words(error)


def trace_of(error: BaseException) -> str:
    """Say where an error and its causes come from; in words only if they are ours, for others may quote a row."""
    return "\ncaused ".join(
        "".join(traceback.format_tb(cause.__traceback__)) + type(cause).__qualname__ + _words(cause)
        for cause in _causes(error)
    )


def _words(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f": {error.strerror}"
    is_quoting = isinstance(error, RejectedError)
    return f": {error}" if isinstance(error, ConnectorError) and not is_quoting else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error, and what it was raised from, the first one last."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__
