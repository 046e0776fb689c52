"""What a run does, as lines of the service's log.

level    what
-------  ------------------------------------------------------------------------------------------------
debug    each document that is rejected or altered, each place that cannot be read, each group that is written
info     the beginning and the end of a run, jobs, and how far a run is: once in ten seconds
warning  calls that are made again, sinks that stop, jobs that are lost
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from connector.events import (
    CallRetried,
    DocumentAltered,
    DocumentRejected,
    DocumentsCommitted,
    DocumentsDeleted,
    Event,
    JobAttemptLost,
    JobDropped,
    JobDuplicated,
    JobFailed,
    JobInDoubt,
    JobProgress,
    JobUrgent,
    PlaceUnreadable,
    RowsListed,
    RunStarted,
    SinkStopped,
    TextsEmbedded,
)
from connector.model import JsonValue
from connector.serving.logs import Log
from connector.terminal import SoFar

SECONDS_BETWEEN_LINES: Final = 10.0
AT_DEBUG: Final = (
    DocumentAltered,
    DocumentRejected,
    DocumentsCommitted,
    DocumentsDeleted,
    PlaceUnreadable,
    TextsEmbedded,
)
AT_WARNING: Final = (
    CallRetried,
    JobAttemptLost,
    JobDropped,
    JobDuplicated,
    JobFailed,
    JobInDoubt,
    JobUrgent,
    SinkStopped,
)
RENAMED: Final = {"token": "job_token"}  # it names a job, and is no secret
AS_PROGRESS: Final = (RowsListed, JobProgress)


class RunLog:
    """The lines of one run; each has the names that it is found by."""

    def __init__(self, log: Log, *, clock: Callable[[], float] = time.monotonic, **names: str | int | None) -> None:
        self._log = log
        self._clock = clock
        self._names: dict[str, object] = {name: value for name, value in names.items() if value is not None}
        self._so_far = SoFar()
        self._next_line_at = clock() + SECONDS_BETWEEN_LINES

    def note(self, event: Event) -> None:
        """Write an event; of those that only tell how far it is, one in a while."""
        self._so_far.add(event)
        if isinstance(event, RunStarted):
            self._names["run_id"] = event.run_id
        if isinstance(event, AS_PROGRESS):
            self._tell_progress()
            return
        write = self._log.info
        if isinstance(event, AT_DEBUG):
            write = self._log.debug
        elif isinstance(event, AT_WARNING):
            write = self._log.warning
        fields = {RENAMED.get(name, name): value for name, value in msgspec.to_builtins(event).items()}
        write(_snake(type(event).__name__), **(self._names | fields))
        self._tell_progress()

    def end(self, exit_code: int, report: dict[str, JsonValue], **more: object) -> None:
        """Sum the run up: its counts first, as that is what people look for."""
        write = self._log.info if exit_code in (0, 1) else self._log.warning
        left_out = ("altered", "others", "run_id", "exit_code")
        counts = {name: value for name, value in report.items() if name not in left_out}
        write("run_ended", **self._names, exit_code=exit_code, **more, **counts)

    def failed(self, exit_code: int, error: str, **more: object) -> None:
        """Note a run that ended by an error."""
        self._log.error("run_failed", **self._names, exit_code=exit_code, error=error, **more)

    def _tell_progress(self) -> None:
        now = self._clock()
        if now >= self._next_line_at:
            self._next_line_at = now + SECONDS_BETWEEN_LINES
            so_far = self._so_far
            self._log.info(
                "progress",
                **self._names,
                fraction=round(so_far.fraction, 3),
                rows=so_far.rows,
                texts=so_far.texts,
                records=so_far.records,
                jobs=len(so_far.jobs),
            )


def _snake(name: str) -> str:
    """Write "CallRetried" as "call_retried"."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).removeprefix("_")
