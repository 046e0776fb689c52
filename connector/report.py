"""What a run did, or would do: counts that can be shown to people and kept for machines.

A document is counted once, whatever the number of sinks, by what changed in the source:

    added          no sink had it
    changed        its text differs in some sink
    metadata_only  its text is the same, its metadata differ in some sink
    moved          added under one id and deleted under another, with the same text; in neither of those counts
    deleted        the source no longer has it
    unchanged      everything else that is in step (a new sink being filled does not change a document)
    rejected       named by the source and not in the sinks, for a reason of its own; or not readable at all
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from .errors import ExitCode
from .model import JsonValue
from .money import Forecast

MAX_ALTERATIONS = 1_000  # named in a report, for each sink; all are counted


@dataclass(frozen=True, slots=True)
class Counts:
    """Documents, by what changed in the source."""

    added: int = 0
    changed: int = 0
    metadata_only: int = 0
    moved: int = 0
    deleted: int = 0
    unchanged: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class SinkReport:
    """What one sink was sent, and what it still lacks."""

    upserted: int = 0  # records
    deleted: int = 0  # records
    upsert_calls: int = 0
    delete_calls: int = 0
    behind: int = 0  # documents that are not in step after the run; at least so many, if the sink was stopped
    stopped: str | None = None  # why the sink was given up for this run
    altered: int = 0  # documents that were stored otherwise than they are
    drift: int | None = None  # records that it has more (or, below 0, fewer) than were written; None: not compared


@dataclass(frozen=True, slots=True)
class Alteration:
    """What a sink stores otherwise than a document has it, as the sink's settings allow."""

    sink: str
    document_id: str
    alterations: tuple[str, ...]  # one line each


@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended. `as_json` is what `sync --json` prints; its field names are kept."""

    counts: Counts
    texts_embedded: int
    texts_reused: int
    tokens_embedded: int
    sinks: dict[str, SinkReport]
    seconds: float
    exit_code: ExitCode
    problems: tuple[str, ...] = ()  # one clear line each: why the exit code is not 0
    run_id: int = 0
    texts_by_jobs: int = 0  # of those embedded
    open_jobs: int = 0  # embed jobs that run at the service, and that this run did not wait for
    tokens_billed: int | None = None  # as the service told; None where nothing is billed
    cost: float | None = None  # of those, at the price that is known
    currency: str | None = None
    altered: tuple[Alteration, ...] = ()  # the first MAX_ALTERATIONS of each sink
    generation: int = 1  # whose run this was: the one that the settings ask for
    notes: tuple[str, ...] = ()  # one line each: what else became of the generations
    others: tuple[Report, ...] = ()  # of the other generations that were brought up to date

    def as_json(self) -> dict[str, JsonValue]:
        """Flatten the counts; everything is a plain JSON value."""
        return {
            **asdict(self.counts),
            "texts_embedded": self.texts_embedded,
            "texts_reused": self.texts_reused,
            "tokens_embedded": self.tokens_embedded,
            "texts_by_jobs": self.texts_by_jobs,
            "open_jobs": self.open_jobs,
            "tokens_billed": self.tokens_billed,
            "cost": self.cost,
            "currency": self.currency,
            "altered": [asdict(alteration) for alteration in self.altered],
            "sinks": {name: asdict(sink) for name, sink in self.sinks.items()},
            "seconds": round(self.seconds, 3),
            "exit_code": int(self.exit_code),
            "problems": list(self.problems),
            "run_id": self.run_id,
            "generation": self.generation,
            "notes": list(self.notes),
            "others": [other.as_json() for other in self.others],
        }


@dataclass(frozen=True, slots=True)
class PlannedDocument:
    """One document that a sync would touch, for `plan --verbose`."""

    id: str
    kind: str  # a field of Counts
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SinkPlan:
    """What one sink would be sent."""

    upserts: int = 0  # records
    deletes: int = 0  # records
    refused: int = 0  # documents that it could never store
    altered: int = 0  # documents that it would store otherwise than they are
    stopped: str | None = None  # why it cannot be told what the sink would be sent


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a sync would do, found without writing anything."""

    counts: Counts
    texts_to_embed: int
    texts_reused: int
    tokens_to_embed: int
    forecast: Forecast
    sinks: dict[str, SinkPlan]
    seconds: float
    exit_code: ExitCode  # of the plan itself: 4 if a sync would stop and ask
    problems: tuple[str, ...] = ()
    documents: tuple[PlannedDocument, ...] = field(default=())  # only where asked for
    altered: tuple[Alteration, ...] = ()  # the first MAX_ALTERATIONS of each sink
    generation: int = 1  # that the sync would bring up to date, or build
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, JsonValue]:
        """Flatten the counts; everything is a plain JSON value."""
        flat: dict[str, JsonValue] = {
            **asdict(self.counts),
            "texts_to_embed": self.texts_to_embed,
            "texts_reused": self.texts_reused,
            "tokens_to_embed": self.tokens_to_embed,
            "embedding": self.forecast.as_json(),
            "sinks": {name: asdict(sink) for name, sink in self.sinks.items()},
            "seconds": round(self.seconds, 3),
            "exit_code": int(self.exit_code),
            "problems": list(self.problems),
            "generation": self.generation,
            "notes": list(self.notes),
            "altered": [asdict(alteration) for alteration in self.altered],
        }
        if self.documents:
            flat["documents"] = [asdict(document) for document in self.documents]
        return flat
