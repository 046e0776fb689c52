"""How a job stands at the service, and when to look again. Each call here may be repeated, and is, while it fails.

Times are of a clock that nobody sets, and what is missing is missing since this process first looked for it: a job's
times in the book may be of another machine's clock, or from before a call that took minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from .errors import TransientError, UnknownOutcomeError
from .events import CallRetried, Emit
from .job_book import Job
from .job_spool import Spool
from .job_steps import Facts, State
from .ports import JobEmbedder, RemoteDataset, RemoteJob, RemotePhase
from .retry import Retry

T = TypeVar("T")


@dataclass(slots=True)
class _Watch:
    """When to look at a job again."""

    wait_seconds: float
    due_at: float = 0.0
    unseen_since: float | None = None


@dataclass(slots=True)
class Looks:
    """The eyes of one process on the jobs of one embedder."""

    embedder: JobEmbedder
    spool: Spool
    retry: Retry
    emit: Emit
    monotonic: Callable[[], float]
    _watches: dict[str, _Watch] = field(default_factory=dict, init=False)  # by token
    _failures: dict[str, int] = field(default_factory=dict, init=False)  # of calls that make something, in a row

    def look(self, job: Job) -> Facts:
        """Look up what the job's state asks for."""
        began = self.monotonic()  # what is missing now was missing from then on
        facts = self._facts(job)
        watch = self._watch(job)
        if not _is_missing(job.state, facts):
            watch.unseen_since = None
            return facts
        if watch.unseen_since is None:
            watch.unseen_since = began
        return replace(facts, unseen_seconds=began - watch.unseen_since)

    def _facts(self, job: Job) -> Facts:
        match job.state:
            case State.PLANNED:
                return Facts(spooled=self.spool.has(job.token), dataset=self._dataset_named(job.name))
            case State.UPLOADED:
                return Facts(dataset=self.dataset(job.dataset_id))
            case State.SUBMITTING:
                return Facts(jobs_on_dataset=tuple(one for one in self.jobs() if one.dataset_id == job.dataset_id))
            case State.RUNNING:
                remote = self.call("look at a job", lambda: self.embedder.job(job.job_id or ""))
                is_ready = remote is not None and remote.phase is RemotePhase.READY
                return Facts(job=remote, output=self.dataset(remote.output_dataset_id) if remote and is_ready else None)
            case _:
                return Facts()

    # --- when to look again -----------------------------------------------------------------------

    def has_seen(self, job: Job) -> bool:
        """Tell whether the job was looked at and was there, so that it is due again only later."""
        watch = self._watch(job)
        return watch.due_at > 0 and watch.unseen_since is None

    def due_at(self, job: Job) -> float:
        return self._watch(job).due_at

    def is_due(self, job: Job) -> bool:
        return self._watch(job).due_at <= self.monotonic()

    def later(self, job: Job) -> None:
        """Look again later, and later each time."""
        watch = self._watch(job)
        watch.due_at = self.monotonic() + watch.wait_seconds
        watch.wait_seconds = min(2 * watch.wait_seconds, self.embedder.job_limits.longest_look_seconds)

    def put_off(self, job: Job, what: str, error: TransientError | UnknownOutcomeError) -> None:
        """Let a job wait before a call that makes something is made again; a failure that lasts is the caller's."""
        failures = self._failures.get(job.token, 0) + 1
        if failures >= self.retry.attempts:
            raise error
        self._failures[job.token] = failures
        named = error.retry_after_seconds if isinstance(error, TransientError) else None
        limits = self.embedder.job_limits
        grown = min(limits.first_look_seconds * 2.0 ** (failures - 1), limits.longest_look_seconds)
        wait_seconds = grown if named is None else named
        self._watch(job).due_at = self.monotonic() + wait_seconds
        self.emit(CallRetried(what, str(error), wait_seconds))

    def went_well(self, job: Job) -> None:
        """A call that makes something was answered."""
        self._failures.pop(job.token, None)

    def begin_anew(self, job: Job) -> None:
        """The job is in another state: it is looked at now, and soon again."""
        self._watches.pop(job.token, None)

    def _watch(self, job: Job) -> _Watch:
        return self._watches.setdefault(job.token, _Watch(self.embedder.job_limits.first_look_seconds))

    # --- calls that may be repeated ---------------------------------------------------------------

    def call(self, what: str, call: Callable[[], T]) -> T:
        return self.retry(what, call, self.emit)

    def jobs(self) -> list[RemoteJob]:
        return self.call("list the jobs", self.embedder.jobs)

    def datasets(self, name_prefix: str) -> list[RemoteDataset]:
        return self.call("list the datasets", lambda: self.embedder.datasets(name_prefix))

    def dataset(self, id: str | None) -> RemoteDataset | None:
        return self.call("look at a dataset", lambda: self.embedder.dataset(id)) if id else None

    def _dataset_named(self, name: str) -> RemoteDataset | None:
        # The names of two attempts may begin alike, and one that was refused is no use.
        named = [one for one in self.datasets(name) if one.name == name and one.phase is not RemotePhase.FAILED]
        return min(named, key=lambda one: (one.created_at, one.id), default=None)

    def delete_dataset(self, id: str) -> None:
        self.call("delete a dataset", lambda: self.embedder.delete_dataset(id))

    def delete_datasets(self, job: Job) -> None:
        """Delete what a job has at the service."""
        for id in (job.dataset_id, job.output_dataset_id):
            if id:
                self.delete_dataset(id)

    def cancel_job(self, id: str) -> None:
        self.call("cancel a job", lambda: self.embedder.cancel_job(id))

    def has_a_result_to_come(self, remote: RemoteJob) -> bool:
        """Tell whether a job will give, or gives, something to take in."""
        if remote.phase is RemotePhase.READY:
            return self.dataset(remote.output_dataset_id) is not None
        return remote.phase is RemotePhase.PENDING


def _is_missing(state: State, facts: Facts) -> bool:
    """Tell whether something should be at the service that was not found."""
    match state:
        case State.UPLOADED:
            return facts.dataset is None
        case State.SUBMITTING:
            return not facts.jobs_on_dataset
        case State.RUNNING:
            return facts.job is None or (facts.job.phase is RemotePhase.READY and facts.output is None)
        case _:
            return False
