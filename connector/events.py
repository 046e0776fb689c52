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
class LedgerVoided:
    """A collection turned out to be made anew, so the ledger kept for the old one was dropped."""

    sink: str
    documents: int


Event: TypeAlias = (
    RunStarted
    | RowsListed
    | TextsEmbedded
    | DocumentsCommitted
    | DocumentsDeleted
    | DocumentRejected
    | PlaceUnreadable
    | CallRetried
    | SinkStopped
    | LedgerVoided
)
Emit: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Subscribe to nothing."""
