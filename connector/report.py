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
    behind: int = 0  # documents that are not in step after the run
    stopped: str | None = None  # why the sink was given up for this run


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
    tokens_billed: int | None = None  # as the service told; None where nothing is billed
    cost: float | None = None  # of those, at the price that is known
    currency: str | None = None

    def as_json(self) -> dict[str, JsonValue]:
        """Flatten the counts; everything is a plain JSON value."""
        return {
            **asdict(self.counts),
            "texts_embedded": self.texts_embedded,
            "texts_reused": self.texts_reused,
            "tokens_embedded": self.tokens_embedded,
            "texts_by_jobs": self.texts_by_jobs,
            "tokens_billed": self.tokens_billed,
            "cost": self.cost,
            "currency": self.currency,
            "sinks": {name: asdict(sink) for name, sink in self.sinks.items()},
            "seconds": round(self.seconds, 3),
            "exit_code": int(self.exit_code),
            "problems": list(self.problems),
            "run_id": self.run_id,
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
        }
        if self.documents:
            flat["documents"] = [asdict(document) for document in self.documents]
        return flat
