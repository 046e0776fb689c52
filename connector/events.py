"""What a run reports, as it happens. Logs, metrics and progress are made from these alone.

Names are past tense: an event is emitted after the thing is durable, never before. Events may
come from several threads; a subscriber is called under a lock, and must be quick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from .model import DocumentId


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The lease is held, the sinks are ready, and the listing begins."""

    run_id: int
    ledgers: dict[str, int]  # documents known, per sink


@dataclass(frozen=True, slots=True)
class RowsListed:
    """A batch of the listing was compared with the ledgers, or a group of what differs was dealt with."""

    rows: int  # since the run began
    unchanged: int  # since the run began; found so without being parsed
    fraction: float  # of the source that is dealt with; never goes back


@dataclass(frozen=True, slots=True)
class TextsEmbedded:
    """Vectors were stored."""

    texts: int
    tokens: int
    reused: int  # texts of the same group whose vectors were there already


@dataclass(frozen=True, slots=True)
class DocumentsCommitted:
    """A sink holds what the source has of these documents, and the ledger knows."""

    sink: str
    documents: int
    records: int


@dataclass(frozen=True, slots=True)
class DocumentsDeleted:
    """A sink holds nothing more of these documents, and the ledger has forgotten them."""

    sink: str
    documents: int


@dataclass(frozen=True, slots=True)
class DocumentRejected:
    """A document is not in a sink (or, where `sink` is empty, in none), for its own reasons."""

    sink: str
    document_id: DocumentId
    reason: str


@dataclass(frozen=True, slots=True)
class DocumentAltered:
    """A sink stored a document otherwise than it is, as its settings allow."""

    sink: str
    document_id: DocumentId
    alterations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlaceUnreadable:
    """A place of the source could not be read, or repeats an id."""

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class CallRetried:
    """A call failed for a reason that may pass, and is made again after a wait."""

    what: str
    error: str
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class SinkStopped:
    """A sink was given up for this run; the others go on."""

    sink: str
    error: str


@dataclass(frozen=True, slots=True)
class SinkFellBehind:
    """A sink could not keep up with the others; it is brought up after them, in this run."""

    sink: str


@dataclass(frozen=True, slots=True)
class LedgerVoided:
    """A collection turned out to be made anew, so the ledger kept for the old one was dropped."""

    sink: str
    documents: int


@dataclass(frozen=True, slots=True)
class EmbeddingForeseen:
    """The source was looked through for what is to be embedded, before any of it is paid for."""

    texts: int
    tokens: int
    way: str  # see money.Way
    reason: str


@dataclass(frozen=True, slots=True)
class JobPlanned:
    """Texts were noted for a job, and written to a file for it. Nothing is paid for yet."""

    token: str
    texts: int
    tokens: int


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A job runs at the service."""

    token: str
    job_id: str
    attempt: int
    texts: int  # 0 where it was found at the service, and is not known here
    tokens: int
    adopted: bool  # it was running already: started before a crash, or by a call whose answer was lost


@dataclass(frozen=True, slots=True)
class JobProgress:
    """A job was looked at, and is not done yet."""

    token: str
    state: str  # see job_steps.State
    job_id: str | None
    fraction: float | None  # of the work that is done, where the service tells
    age_seconds: float  # since it was planned


@dataclass(frozen=True, slots=True)
class JobInDoubt:
    """The answer to the call that starts a job was lost. It is looked for before anything else is done."""

    token: str
    error: str


@dataclass(frozen=True, slots=True)
class JobStored:
    """The vectors of a job are in the vector store."""

    token: str
    texts: int
    missing: int  # texts that the result has no sound vector for
    left_out: int  # rows that are not of the job, or not sound
    billed_tokens: int | None


@dataclass(frozen=True, slots=True)
class JobAttemptLost:
    """An attempt came to nothing; the job is tried again with a new dataset."""

    token: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class JobFailed:
    """A job was given up; its texts are to be embedded without one."""

    token: str
    texts: int
    reason: str


@dataclass(frozen=True, slots=True)
class JobDropped:
    """A job was forgotten because its texts are not at hand any more; they are planned anew from the source."""

    token: str
    texts: int
    reason: str


@dataclass(frozen=True, slots=True)
class JobDuplicated:
    """A second job on the same texts was found, and cancelled. What it did until then is charged."""

    token: str
    job_id: str


@dataclass(frozen=True, slots=True)
class JobUrgent:
    """An open job is so old that the service will soon delete what belongs to it."""

    token: str
    age_days: float


@dataclass(frozen=True, slots=True)
class DatasetsCleaned:
    """Datasets of ours that no job needs were deleted at the service."""

    datasets: int


Event: TypeAlias = (
    RunStarted
    | RowsListed
    | TextsEmbedded
    | DocumentsCommitted
    | DocumentsDeleted
    | DocumentRejected
    | DocumentAltered
    | PlaceUnreadable
    | CallRetried
    | SinkStopped
    | SinkFellBehind
    | LedgerVoided
    | EmbeddingForeseen
    | JobPlanned
    | JobStarted
    | JobProgress
    | JobInDoubt
    | JobStored
    | JobAttemptLost
    | JobFailed
    | JobDropped
    | JobDuplicated
    | JobUrgent
    | DatasetsCleaned
)
Emit: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Subscribe to nothing."""
