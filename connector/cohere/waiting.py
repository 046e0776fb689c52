"""Wait for what the service does by itself: the validation of a dataset, a job.

Asked at once, then after 2, 4, 8, 15 and from then on 30 s: a trial key of the hosted service may make 5 calls a
minute to its jobs, and 1000 a month (docs, read 2026-08). A wait that the service names is kept to.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from connector.errors import TransientError
from connector.events import CallRetried, Emit, ignore

from .failures import DatasetFailedError, JobFailedError, StillWaitingError

if TYPE_CHECKING:
    from .client import Cohere
    from .values import Dataset, Job

Found = TypeVar("Found", "Dataset", "Job")


@dataclass(frozen=True, slots=True)
class Patience:
    """How often to ask, and for how long."""

    waits_seconds: tuple[float, ...] = (2.0, 4.0, 8.0, 15.0, 30.0)  # the last one again and again
    jitter: float = 0.1  # a wait is up to that much longer, so that many clients do not ask in step
    deadline_seconds: float | None = None  # for the whole; none by default: a job takes as long as it takes
    outage_seconds: float = 900.0  # that long the service may fail to answer before that is the answer
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random

    def wait_seconds(self, number: int) -> float:
        """Say how long to wait after the n-th question, from 0."""
        wait_seconds = self.waits_seconds[min(number, len(self.waits_seconds) - 1)]
        return wait_seconds * (1.0 + self.jitter * self.random())


def _ignore(_: object) -> None:
    pass


def wait_for_dataset(
    client: Cohere,
    id: str,
    patience: Patience | None = None,
    *,
    on_answer: Callable[[Dataset], None] = _ignore,
    emit: Emit = ignore,
) -> Dataset:
    """Wait until a dataset is validated; `on_answer` sees each state of it.

    DatasetFailedError has the service's words; StillWaitingError after the deadline; any other error of
    `Cohere.dataset` that does not pass.
    """
    dataset = _wait(
        f"dataset {id}",
        lambda: client.dataset(id),
        lambda dataset: dataset.is_validated or dataset.has_failed,
        patience=patience or Patience(),
        on_answer=on_answer,
        emit=emit,
    )
    if dataset.has_failed:
        reasons = "; ".join(filter(None, (dataset.error, *dataset.warnings[:3]))) or "the service gives no reason"
        raise DatasetFailedError(f"dataset {id} is {dataset.status.lower()}: {reasons}", dataset)
    return dataset


def wait_for_job(
    client: Cohere,
    id: str,
    patience: Patience | None = None,
    *,
    on_answer: Callable[[Job], None] = _ignore,
    emit: Emit = ignore,
) -> Job:
    """Wait until a job is complete; `on_answer` sees each state of it, with `percent_complete` where that is told.

    JobFailedError has the service's words; StillWaitingError after the deadline; any other error of `Cohere.job`
    that does not pass.
    """
    job = _wait(
        f"job {id}",
        lambda: client.job(id),
        lambda job: not job.is_open,
        patience=patience or Patience(),
        on_answer=on_answer,
        emit=emit,
    )
    if job.has_failed:
        reason = f": {job.error or 'the service gives no reason'}" if job.status.lower() == "failed" else ""
        raise JobFailedError(f"job {id} is {job.status.lower()}{reason}", job)
    return job


def _wait(
    what: str,
    ask: Callable[[], Found],
    is_over: Callable[[Found], bool],
    *,
    patience: Patience,
    on_answer: Callable[[Found], None],
    emit: Emit,
) -> Found:
    started = patience.clock()
    answered = started
    status = "not known"
    number = 0
    while True:
        failure: TransientError | None = None
        try:
            found = ask()
        except TransientError as error:
            if patience.clock() - answered >= patience.outage_seconds:
                raise
            failure = error
        else:
            answered = patience.clock()
            status = found.status
            on_answer(found)
            if is_over(found):
                return found
        wait_seconds = patience.wait_seconds(number)
        if failure:
            wait_seconds = max(wait_seconds, failure.retry_after_seconds or 0.0)
            emit(CallRetried(what, str(failure), wait_seconds))
        deadline_seconds = patience.deadline_seconds
        if deadline_seconds is not None and patience.clock() - started + wait_seconds > deadline_seconds:
            raise StillWaitingError(f"{what} is still {status} after {deadline_seconds:.0f} s; it goes on all the same")
        patience.sleep(wait_seconds)
        number += 1
