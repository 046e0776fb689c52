"""When a sync is due next. Pure: the time and the dice are the caller's.

Times are seconds since 1970 by a clock that people set. So no answer relies on the end of the last run being in the
past: a wait counts from its end, or from now, whichever is the sooner, and is never longer than it would be from now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from connector.crontab import Crontab
from connector.errors import ExitCode

FIRST_RETRY_SECONDS: Final = 60.0
LONGEST_RETRY_SECONDS: Final = 3_600.0
LEAST_RETRY_SECONDS: Final = 5.0  # whatever the dice say
BUSY_SECONDS: Final = (10.0, 60.0)  # until another run is likely to have given the lease back
JOB_POLL_SECONDS: Final = 30.0

ENDED_WELL: Final = frozenset({ExitCode.IN_STEP, ExitCode.REJECTED})
"""Of what the source has, and can be stored, all is in the sinks."""
WAITS_FOR_PEOPLE: Final = frozenset({ExitCode.SAFETY, ExitCode.DRIFT})
"""Running again sooner changes nothing."""

Because: TypeAlias = Literal["start", "interval", "cron", "retry", "jobs"]


@dataclass(frozen=True, slots=True)
class Timetable:
    """When a sync runs if all is well: so long after the end of the last run, or at the times of a crontab."""

    every: float | Crontab  # seconds, or the times
    jitter: float = 0.1  # of the interval, at most, added to it by chance; nothing is added to a crontab's times
    job_poll_seconds: float = JOB_POLL_SECONDS

    def longest_wait_seconds(self, now: float) -> float:
        """Tell after how long at most the next run begins, if all is well: what "late" is measured by."""
        if isinstance(self.every, Crontab):
            return self.every.longest_wait_seconds(now)
        return self.every * (1 + self.jitter)


@dataclass(frozen=True, slots=True)
class LastRun:
    """What is remembered of the run before."""

    started_at: float
    ended_at: float
    exit_code: int  # an `ExitCode`, or one of those beside it in `connector.errors`
    failures: int = 0  # how many runs in a row have failed, with this one; see `has_failed`
    open_jobs: bool = (
        False  # embed jobs are under way at the service; if that is all it is behind with, it has not failed
    )


@dataclass(frozen=True, slots=True)
class Due:
    """When a sync is due, and why then."""

    at: float  # never before now
    because: Because


def has_failed(exit_code: int) -> bool:
    """Tell whether a run counts as one of `LastRun.failures`: it is tried again sooner, each time later than before."""
    return exit_code not in ENDED_WELL | WAITS_FOR_PEOPLE | {ExitCode.BUSY}


def next_run(timetable: Timetable, last: LastRun | None, *, now: float, chance: float) -> Due:
    """Say when a sync is due; the soonest of all that apply.

    `chance` is a random number in [0, 1), drawn once for each run that ended, so that the answer stays the same until
    the next one has.

        the last run               due                                                             because
        -------------------------  --------------------------------------------------------------  ----------
        there was none             now                                                             "start"
        0 in step, 1 rejected,     after an interval and some jitter, from its end;                "interval"
        4 asked, 5 drift           or at the first time of the crontab after it started            "cron"
        2 config, 3 behind,        the same, or sooner: by chance within 1 min of its end, 2 after
        70 bug, any other          the 2nd failure in a row, 4 after the 3rd ... 1 h; 5 s at least "retry"
        75 another has the lease   the same, or sooner: 10 to 60 s after its end, by chance        "retry"
        left open embed jobs, and  `job_poll_seconds` after its end; if it failed,
        another has not the lease  twice as long for each failure before that ... 1 h              "jobs"

    What was missed while the process slept or a run took long comes once, at once. A run that started before a time of
    the crontab does not count for it, however long it took: it may not have seen what was there by then.
    """
    if last is None:
        return Due(now, "start")
    ended_at = min(last.ended_at, now)
    found = [_regular(timetable, last, now, chance)]
    if last.exit_code == ExitCode.BUSY:
        shortest, longest = BUSY_SECONDS
        found.append(Due(ended_at + shortest + chance * (longest - shortest), "retry"))
    failures = max(last.failures, 0 if last.open_jobs else 1) if has_failed(last.exit_code) else 0
    if failures:
        found.append(Due(ended_at + _retry_seconds(failures, chance), "retry"))
    if last.open_jobs and last.exit_code != ExitCode.BUSY:
        found.append(Due(ended_at + _doubled(timetable.job_poll_seconds, max(0, failures - 1)), "jobs"))
    soonest = min(found, key=lambda due: due.at)
    return Due(max(now, soonest.at), soonest.because)


def next_reconcile(crontab: Crontab | None, last_at: float | None, *, since: float, now: float) -> Due | None:
    """Say when the sinks are to be compared with what was written to them; None: never.

    the last comparison  due
    -------------------  -----------------------------------------------------------------------------------------
    started at a time    the first time of the crontab after it; if that is over, now: it is made up, once
    none is known        the first time after `since`, when the service began to look after this sync
    lies in the future   the first time after now: the clock was put back
    """
    if crontab is None:
        return None
    return Due(max(now, crontab.next_after(min(since if last_at is None else last_at, now))), "cron")


def _regular(timetable: Timetable, last: LastRun, now: float, chance: float) -> Due:
    if isinstance(timetable.every, Crontab):
        return Due(timetable.every.next_after(min(last.started_at, now)), "cron")
    return Due(min(last.ended_at, now) + timetable.every * (1 + timetable.jitter * chance), "interval")


def _retry_seconds(failures: int, chance: float) -> float:
    """Choose a wait between the least one and a ceiling that doubles: failures of many do not come back together."""
    ceiling = _doubled(FIRST_RETRY_SECONDS, failures - 1)
    return LEAST_RETRY_SECONDS + chance * (ceiling - LEAST_RETRY_SECONDS)


def _doubled(seconds: float, times: int) -> float:
    longest = max(seconds, LONGEST_RETRY_SECONDS)
    return min(longest, seconds * 2.0 ** min(times, 64))
