"""How a sync stands, as /status tells it: from what its state remembers and its runner knows. Pure, but for `look`.

last run ended with        in step  why
-------------------------  -------  -------------------------------------------------------------------------
none yet                   unknown  its first run is to come, or under way
0 in step, 1 rejected      yes      nothing, or how many are rejected
3, and embed jobs run      no       what runs, and for how long
anything else              no       its first problem; of a run that stopped to ask, the question
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connector import inspection, job_inspection
from connector.errors import BUG, ExitCode
from connector.terminal import HOW_IT_ENDED, counted, duration, printable

from .schedule import ENDED_WELL
from .words import iso

if TYPE_CHECKING:
    from connector.checkpoint import Rejected, Run
    from connector.config import Settings
    from connector.inspection import Status
    from connector.job_inspection import SeenJob
    from connector.model import JsonValue

RUNS_KEPT: Final = 20
REJECTED_SHOWN: Final = 50
ENDED: Final[Mapping[int, str]] = {
    **{int(code): words for code, words in HOW_IT_ENDED.items()},
    ExitCode.CONFIG: "wrong settings",
    ExitCode.BUSY: "another run was under way",
    BUG: "a bug",
}
REJECTED_LINE: Final = "`vector-sync rejected` tells why"  # how `summary` ends what is no reason to be behind
IN_GENERAL: Final[Mapping[int, str]] = {
    ExitCode.CONFIG: "the settings, or what they name, cannot work; the log says why",
    ExitCode.BEHIND: "something is behind; the log says what",
    ExitCode.SAFETY: "a run stopped to ask; the log says what",
    ExitCode.DRIFT: "an index does not hold what was written to it; the log says which",
}
"""What is told of a problem where no document may be named."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the state of a sync remembers, read at one time."""

    status: Status
    rejected: tuple[Rejected, ...]
    rejected_count: int  # at least: sinks need not refuse the same ones
    jobs: tuple[SeenJob, ...]  # that are open

    @classmethod
    def look(cls, settings: Settings, *, now: float, before: Standing | None = None) -> Standing:
        """Read the state; of it all, or only what a run changes that found nothing to do since `before`.

        Raises:
            ConfigError, TransientError: it cannot be read.
        """
        jobs = job_inspection.jobs(settings, now=now).open
        if before is not None:
            status = inspection.status(settings, runs=RUNS_KEPT, before=before.status)
            return cls(status, before.rejected, before.rejected_count, jobs)
        rejected = inspection.rejected(settings)
        by_sink = Counter(it.sink for it in rejected)
        of_the_source = by_sink.pop("", 0)
        return cls(
            inspection.status(settings, runs=RUNS_KEPT),
            tuple(rejected[:REJECTED_SHOWN]),
            of_the_source + max(by_sink.values(), default=0),
            jobs,
        )

    @property
    def last_success_at(self) -> float | None:
        """When the latest run ended that left everything in step; None if that is too long ago to be remembered."""
        return next((run.ended_at for run in self.status.runs if run.exit_code in ENDED_WELL), None)


@dataclass(frozen=True, slots=True)
class Ended:
    """How the latest run ended, as its runner saw it: also one that never began."""

    exit_code: int
    at: float
    problems: tuple[str, ...] = ()
    open_jobs: int = 0


def waited_for_jobs(run: Run) -> bool:
    """Tell whether all that a run left undone was in embed jobs; `work.Done` tells it of one that has just ended."""
    sinks = run.report.get("sinks")
    reports = sinks.values() if isinstance(sinks, dict) else ()
    is_stopped = any(isinstance(report, dict) and report.get("stopped") for report in reports)
    return run.exit_code == ExitCode.BEHIND and bool(run.report.get("open_jobs")) and not is_stopped


def why(ended: Ended | None, jobs: Sequence[SeenJob], *, names: bool) -> str | None:
    """Say in a line why a sync is not in step."""
    if ended is None or ended.exit_code in ENDED_WELL:
        return None
    if ended.exit_code == ExitCode.BEHIND and ended.open_jobs and jobs:
        oldest = max(job.age_seconds for job in jobs)
        are = "runs" if len(jobs) == 1 else "run"
        return f"{counted(len(jobs), 'embed job')} {are} at the service, the oldest for {duration(oldest)}"
    if not names:
        return IN_GENERAL.get(ended.exit_code, "a run failed; the log says why")
    told = [line for line in ended.problems if not line.endswith(REJECTED_LINE)] or list(ended.problems)
    return "; ".join(map(printable, told)) or IN_GENERAL.get(ended.exit_code, "a run failed")


def question(ended: Ended | None, *, names: bool) -> str | None:
    """Give what a run stopped to ask, in its words, which say how to answer."""
    if ended is None or ended.exit_code != ExitCode.SAFETY:
        return None
    return "; ".join(map(printable, ended.problems)) if names else IN_GENERAL[ExitCode.SAFETY]


def sinks_json(standing: Standing, kinds: Mapping[str, str], *, names: bool) -> list[JsonValue]:
    """How each sink of the settings stands: by its ledger, and by the latest run that ended."""
    ledgers = {ledger.sink: ledger for ledger in standing.status.sinks}
    reports = _latest_reports(standing.status.runs)
    told: list[JsonValue] = []
    for name, kind in kinds.items():
        ledger, report = ledgers.get(name), reports.get(name, {})
        told.append(
            {
                "name": name,
                "kind": kind,
                "documents": ledger.documents if ledger else 0,
                "records": ledger.records if ledger else 0,
                "in_doubt": ledger.in_doubt if ledger else 0,
                "rejected": ledger.rejected if ledger else 0,
                "behind": report.get("behind", 0),
                "stopped": report.get("stopped") if names else report.get("stopped") and "the log says why",
                "drift": report.get("drift"),
            }
        )
    return told


def _latest_reports(runs: Sequence[Run]) -> dict[str, dict[str, JsonValue]]:
    """What the latest run with a report says of each sink."""
    for run in runs:
        sinks = run.report.get("sinks")
        if isinstance(sinks, dict):
            return {name: report for name, report in sinks.items() if isinstance(report, dict)}
    return {}


def runs_json(runs: Sequence[Run], triggers: Mapping[int, str], *, names: bool) -> list[JsonValue]:
    """The latest runs, latest first."""
    numbers = ("added", "changed", "metadata_only", "moved", "deleted", "unchanged", "rejected", "texts_embedded")
    told: list[JsonValue] = []
    for run in runs:
        problems = run.report.get("problems")
        told.append(
            {
                "id": run.id,
                "started_at": iso(run.started_at),
                "seconds": None if run.ended_at is None else round(max(0.0, run.ended_at - run.started_at), 3),
                "exit_code": run.exit_code,
                "ended": None if run.exit_code is None else ENDED.get(run.exit_code, "stopped"),
                "trigger": triggers.get(run.id),
                **{name: run.report.get(name, 0) for name in numbers},
                **{name: run.report.get(name) for name in ("tokens_billed", "cost", "currency")},
                "problems": [printable(str(it)) for it in problems] if names and isinstance(problems, list) else [],
            }
        )
    return told


def jobs_json(jobs: Sequence[SeenJob], *, later_seconds: float) -> list[JsonValue]:
    """The open jobs, so many seconds after they were read."""
    return [
        {
            "id": it.job.job_id,
            "state": str(it.job.state),
            "texts": it.job.texts,
            "tokens": it.job.tokens,
            "age_seconds": round(it.age_seconds + later_seconds),
            "attempt": it.job.attempt,
        }
        for it in jobs
    ]


def rejected_json(standing: Standing, *, names: bool) -> dict[str, JsonValue]:
    """What is left out, and why, as far as documents may be named."""
    shown: list[JsonValue] = [
        {"place": printable(it.place), "sink": it.sink, "reason": printable(it.reason)} for it in standing.rejected
    ]
    return {"count": standing.rejected_count, "shown": shown if names else []}
