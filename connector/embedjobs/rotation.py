"""All open jobs, in turns: a block of one, then a block of the next.

what fails                             what becomes of the job
-------------------------------------  ------------------------------------------------------------------------
its model or its input, for good       failed, with the reason
the disk, or its model for now         it is tried again after a wait, and what was embedded is kept until it
                                       can be saved; the others go on
a bug of ours                          failed, "internal error"; the log has the trace

it is cancelled                        cancelled within a call to the model if it is its turn, else after that turn
the service stops or is killed         it goes on after the last saved block, at the next start
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from connector.errors import ConnectorError, TransientError

from .events import BugFound, Emit, JobEnded, JobStarted, Postponed, reason_of, trace_of
from .jobs import JobFailedError, JobRun, JobStoppedError
from .models import Catalogue
from .refusals import NotFoundError
from .store import Store
from .values import Job, JobStatus

OPEN_RUNS = 8  # jobs whose files stay open between their turns; a turn of the others begins with opening them
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
INTERNAL_ERROR = "internal error, see the service's log"


class Waits:
    """Which things failed for reasons that may pass, and when each is due again."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._attempts: dict[str, int] = {}
        self._due: dict[str, float] = {}

    def postpone(self, id: str, error: Exception) -> float:
        """Give the wait: twice the last one, unless the error names its own."""
        attempts = self._attempts[id] = self._attempts.get(id, 0) + 1
        wait_seconds = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** (attempts - 1))
        if isinstance(error, TransientError) and error.retry_after_seconds is not None:
            wait_seconds = error.retry_after_seconds
        self._due[id] = self._monotonic() + wait_seconds
        return wait_seconds

    def forget(self, id: str) -> None:
        """Note that a thing went well, or is no longer there."""
        self._attempts.pop(id, None)
        self._due.pop(id, None)

    def wait_seconds(self, id: str) -> float:
        """Tell how long it is until a thing is due; 0 if it is now."""
        return max(0.0, self._due[id] - self._monotonic()) if id in self._due else 0.0


class Rotation:
    """The worker of the jobs. One thread calls `turn` again and again."""

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        *,
        emit: Emit,
        is_stopping: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._emit = emit
        self._is_stopping = is_stopping
        self._order: deque[str] = deque()  # ids of open jobs; the first one's turn is next
        self._runs: dict[str, JobRun] = {}
        self._waits = Waits(monotonic)

    def turn(self) -> float | None:
        """Do a block of the next job.

        Gives the seconds after which there may be more to do: 0 for at once, None for when somebody adds a job.
        """
        jobs = {job.id: job for job in self._store.open_jobs()}
        for id in [id for id in self._order if id not in jobs]:
            self._drop(id)
        self._order.extend(id for id in jobs if id not in self._order)  # behind those that wait already
        waits_seconds = {id: self._waits.wait_seconds(_attempt(jobs[id])) for id in self._order}
        due = [id for id, wait_seconds in waits_seconds.items() if not wait_seconds]
        if not due:
            return min(waits_seconds.values(), default=None)
        # To end a cancelled job takes no time, and its owner may wait for the space.
        cancelled = [id for id in due if jobs[id].status is JobStatus.CANCELLING]
        id = (cancelled or due)[0]
        self._order.remove(id)
        self._order.append(id)
        self._take_turn(jobs[id])
        return 0.0

    def close(self) -> None:
        """Close all files. What is not saved is done again by whoever goes on."""
        while self._order:
            self._drop(self._order[0])

    def _take_turn(self, job: Job) -> None:
        try:
            try:
                self._advance(job)
                self._waits.forget(_attempt(job))
            except JobStoppedError:
                return  # the service stops, or the next turn finds that the job is cancelled
            except JobFailedError as error:
                self._fail(job, str(error))
            except ConnectorError:
                raise
            except Exception as error:  # noqa: BLE001 - a bug costs one job, not the service
                self._emit(BugFound(f"job {job.id}", trace_of(error)))
                self._fail(job, INTERNAL_ERROR)
        except Exception as error:  # noqa: BLE001 - the same, where even the failure cannot be noted
            if not isinstance(error, ConnectorError):
                self._emit(BugFound(f"job {job.id}", trace_of(error)))
            self._emit(Postponed(f"job {job.id}", reason_of(error), self._waits.postpone(_attempt(job), error)))

    def _advance(self, job: Job) -> None:
        if job.status is JobStatus.CANCELLING:
            self._close_run(job.id)
            self._store.cancelled(job.id)
            self._note_end(job)
            return
        run = self._runs.get(job.id) or self._begin(job)
        done = run.step()
        if done is None:
            self._note_end(job)
        else:
            self._emit(done)
        if len(self._order) > OPEN_RUNS:
            run.rest()

    def _begin(self, job: Job) -> JobRun:
        try:
            model = self._catalogue.find(job.options.model)
        except NotFoundError as error:
            raise JobFailedError(str(error)) from error
        run = self._runs[job.id] = JobRun(self._store, model, job, is_stopping=self._is_stopping)
        self._emit(JobStarted(job.id, job.input_dataset_id, model.name, job.rows, job.progress.rows))
        return run

    def _fail(self, job: Job, error: str) -> None:
        self._close_run(job.id)
        self._store.failed(job.id, error)
        self._note_end(job)

    def _note_end(self, job: Job) -> None:
        ended = self._store.job(job.id)
        if not ended.status.is_open:  # else it was cancelled in the last moment, and the next turn ends it
            self._emit(
                JobEnded(
                    job.id, ended.status, rows=ended.progress.rows, tokens=ended.progress.tokens, error=ended.error
                )
            )
            self._drop(job.id)

    def _drop(self, id: str) -> None:
        self._close_run(id)
        for status in JobStatus:
            self._waits.forget(f"{status} {id}")
        self._order.remove(id)

    def _close_run(self, id: str) -> None:
        run = self._runs.pop(id, None)
        if run is not None:
            run.close()


def _attempt(job: Job) -> str:
    """Name what is waited with. To end a cancelled job is another thing than to go on with it, and is tried at once."""
    return f"{job.status} {job.id}"
