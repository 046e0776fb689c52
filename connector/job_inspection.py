"""What can be seen of embed jobs without a run: the book alone is read, and no service is asked."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .checkpoint import Checkpoints
from .job_book import Job, JobBook

if TYPE_CHECKING:
    from .config import Settings
    from .model import JsonValue

ENDED_SHOWN = 10
EVERY_JOB = -1  # no limit, in SQLite's words
TIMES = ("created_at", "changed_at", "intent_at")


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A job in the book, and how old it is."""

    job: Job
    age_seconds: float  # since it was planned
    seconds_in_state: float

    def as_json(self) -> dict[str, JsonValue]:
        """Plain JSON values; times are ISO 8601 in UTC."""
        job = self.job
        told: dict[str, JsonValue] = {field.name: getattr(job, field.name) for field in fields(job)}
        told |= {name: _iso(getattr(job, name)) for name in TIMES}
        return told | {
            "state": str(job.state),
            "open": job.is_open,
            "age_seconds": round(self.age_seconds),
            "seconds_in_state": round(self.seconds_in_state),
        }


@dataclass(frozen=True, slots=True)
class JobList:
    """Jobs, latest first."""

    jobs: tuple[SeenJob, ...]
    ended_not_shown: int

    @property
    def open(self) -> tuple[SeenJob, ...]:
        """Those that have not ended."""
        return tuple(seen for seen in self.jobs if seen.job.is_open)

    def as_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return {
            "open": len(self.open),
            "jobs": [seen.as_json() for seen in self.jobs],
            "ended_not_shown": self.ended_not_shown,
        }


def jobs(settings: Settings, *, now: float, everything: bool = False) -> JobList:
    """List the open jobs and the latest that have ended, or all of them; `now` is in seconds since 1970."""
    with closing(Checkpoints.open(settings.state_path, read_only=True)) as checkpoints:
        known = JobBook(checkpoints).latest(EVERY_JOB)
    shown: list[SeenJob] = []
    ended = 0
    for job in known:
        ended += not job.is_open
        if everything or job.is_open or ended <= ENDED_SHOWN:
            shown.append(SeenJob(job, max(0.0, now - job.created_at), max(0.0, now - job.changed_at)))
    return JobList(tuple(shown), len(known) - len(shown))


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
