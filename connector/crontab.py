"""Cron expressions of five fields, and the zone in which they are meant.

    field            may be          also
    ---------------  --------------  -----------------------------------------------
    minute           0-59            * for all; 1,2 a list; 1-5 a range; */15 or 0-30/10 with steps
    hour             0-23
    day of month     1-31            L: the last one; LW: the last weekday
    month            1-12, JAN-DEC
    day of week      0-7, SUN-SAT    5L: the last Friday; MON#2: the second Monday; 0 and 7 are Sunday

What is told of a time that a zone leaves out or has twice, when its clocks are put forward or back, is what Debian's
cron does (cronsim, whose first aim that is; read in its version 2.8, November 2026):

    minute and hour    02:00 to 03:00 is left out       02:00 to 03:00 comes twice
    -----------------  -------------------------------  ----------------------------------
    both are numbers   at 03:00, at once after the gap  once, the first time
    one is * or */n    not in the gap: it is over       each time: it is a distance, not a time of day
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice, pairwise, takewhile
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, available_timezones

if TYPE_CHECKING:
    from cronsim import CronSim

FIELDS: Final = 5
TICKS_THAT_TELL: Final = 50  # whose distances are looked at for the longest one, and all within:
SECONDS_THAT_TELL: Final = 9 * 86_400.0
_FIVE_FIELDS: Final = 'five fields, as in "*/15 * * * *" or "0 3 * * SUN"'
_ANY_TIME: Final = datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC"))


@dataclass(frozen=True, slots=True)
class Crontab:
    """When something is due, again and again. Made of what `check_cron` and `check_time_zone` have let pass."""

    expression: str
    time_zone: str = "UTC"

    def next_after(self, at: float) -> float:
        """Give the first time that comes later, in seconds since 1970."""
        return next(self._after(at))

    def longest_wait_seconds(self, at: float) -> float:
        """Give the longest distance between the times that come next, as a measure of what "late" means.

        A weekend is among them, however many times a working day has.
        """
        times = list(islice(self._after(at), TICKS_THAT_TELL))
        later = takewhile(lambda time: time < at + SECONDS_THAT_TELL, self._after(times[-1]))
        return max(late - early for early, late in pairwise(chain(times, later)))

    def _after(self, at: float) -> Iterator[float]:
        # Within an hour that comes twice, cronsim gives a time of day in its first turn, which may be over.
        times = _simulate(self.expression, datetime.fromtimestamp(at, ZoneInfo(self.time_zone)))
        last = at
        for time in times:
            if time.timestamp() > last:
                last = time.timestamp()
                yield last


def check_cron(expression: str) -> str:
    """Give a cron expression back, without needless spaces. The ValueError says what it should be, not what it is."""
    fields = expression.split()
    if len(fields) != FIELDS:
        raise ValueError(f"should be {_FIVE_FIELDS}")
    joined = " ".join(fields)
    try:
        next(_simulate(joined, _ANY_TIME))
    except StopIteration:
        raise ValueError("names a day that never comes") from None
    return joined


def check_time_zone(name: str) -> str:
    """Give a zone's name back. The ValueError says what it should be, not what it is."""
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # no such zone, a folder of zones, a path out of it, a file that is none
        near = difflib.get_close_matches(name, available_timezones(), n=1)
        meant = f'; did you mean "{near[0]}"?' if near else ""
        raise ValueError(f'should be a time zone, as in "Europe/Berlin" or "UTC"{meant}') from None
    return name


def _simulate(expression: str, after: datetime) -> CronSim:
    try:
        from cronsim import CronSim, CronSimError  # noqa: PLC0415 - in the extra `service`, which a sync does without
    except ImportError:
        raise ValueError('needs cronsim: pip install "vector-sync[service]"') from None
    try:
        return CronSim(expression, after)
    except CronSimError as error:
        field = str(error).removeprefix("Bad ")
        raise ValueError(f"has a wrong {field}; write {_FIVE_FIELDS}") from None
