"""Embed many texts in asynchronous jobs, and never pay for one twice. The state machine; start reading here.

    plan    texts -> files of one job each, and the jobs into the book           nothing is paid yet
    drive   each open job, step by step, until none is open                      see `job_steps.next_step`
    resume  at the start of a run: compare the book with what is at the service  see `job_sweep.compare`

One call costs and cannot be repeated: the one that starts a job. Kill the process between any two lines:

    step                                          found so by the next run
    --------------------------------------------  -----------------------------------------------------------------
    the texts into a file                         a file without a job: removed, the texts are planned anew
    book: PLANNED, with the hash of each text     a text is in one open job at most, so nobody plans it again
    upload a dataset                              looked for by its name; a second one is only garbage
    book: its id, UPLOADED                        looked at until it is validated
    book: SUBMITTING                              from here on a paid job may exist
    start the job: one call, never repeated       looked for by its dataset, which is of this attempt alone:
                                                  found: adopted. Not found for `settle_seconds`: the dataset is
                                                  deleted, so that a call that is stuck somewhere can start nothing
                                                  any more, and only then comes another attempt with another dataset
    book: its id, RUNNING                         looked at until it is ready
    its vectors into the vector store             put again
    book: STORED, and the hashes are forgotten    what is left of it at the service is deleted again
    delete both datasets, remove the file
    book: CLOSED

So each text is paid for once, as long as the service lists an accepted job within `settle_seconds` [J2] and no job
fails. Times that decide something are of a clock that nobody sets, and count from this process' first look.
A job is never cancelled for an interruption: what was done would be charged, and lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from .errors import ConfigError, RejectedError, TransientError, UnknownOutcomeError
from .events import (
    DatasetsCleaned,
    Emit,
    JobAttemptLost,
    JobDropped,
    JobDuplicated,
    JobFailed,
    JobInDoubt,
    JobProgress,
    JobStarted,
    JobStored,
    JobUrgent,
    ignore,
)
from .job_book import Job, JobBook
from .job_intake import Intake
from .job_looks import Looks
from .job_planning import Planned, Planning, random_token
from .job_spool import Spool
from .job_steps import IN_FLIGHT, State, Step, after_loss, in_order, next_step, why_lost
from .job_sweep import URGENT_DAYS, Remote, compare, name_of, token_of
from .ports import JobEmbedder, RemoteJob, RemotePhase, VectorStore
from .retry import Retry

T = TypeVar("T")

SECONDS_PER_DAY = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of the jobs that ended since the call began."""

    stored_texts: int = 0
    stored_tokens: int = 0  # as they were counted when the jobs were planned
    missing_texts: int = 0  # of stored jobs: the result had no sound vector for them
    failed_jobs: int = 0
    failed_texts: int = 0  # to be embedded without a job
    dropped_texts: int = 0  # to be planned anew
    billed_tokens: int = 0  # as far as the service told
    duplicate_jobs: int = 0
    open_jobs: int = 0  # left open: the call was stopped, or a service would not delete what is done with

    def __add__(self, later: Outcome) -> Outcome:
        """Add up two calls; what is open is what the later one left."""
        sums = {it.name: getattr(self, it.name) + getattr(later, it.name) for it in fields(self)}
        return Outcome(**(sums | {"open_jobs": later.open_jobs}))


class Jobs:
    """The jobs of one embedder. Called by one thread, of the process that holds the lease."""

    def __init__(
        self,
        embedder: JobEmbedder,
        book: JobBook,
        vectors: VectorStore,
        folder: Path,
        *,
        retry: Retry,
        emit: Emit = ignore,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        stop: Callable[[], bool] = lambda: False,
        random: Callable[[], str] = random_token,
    ) -> None:
        """Nothing is read or called yet.

        `folder` is where the texts of open jobs lie. `clock` is for the records, in seconds since 1970. `stop` is
        asked between calls; `sleep` may return early when it has become true.
        """
        self._embedder, self._book, self._vectors, self._spool = embedder, book, vectors, Spool(folder)
        self._emit = emit
        self._clock, self._monotonic, self._sleep, self._stop, self._random = clock, monotonic, sleep, stop, random
        self._limits = embedder.job_limits
        self._identity = embedder.identity
        self._looks = Looks(embedder, self._spool, retry, emit, monotonic)
        self._uncleaned: set[str] = set()
        self._outcome = Outcome()

    # --- before ---------------------------------------------------------------------------------

    def open_texts(self, hashes: Sequence[bytes]) -> set[bytes]:
        """Tell which of some texts are in an open job already. They are not to be embedded in any other way."""
        return self._book.open_texts(self._identity, hashes)

    def has_open(self) -> bool:
        """Tell whether a job is open, by the book."""
        return bool(self._book.open_jobs(self._identity))

    def plan(self, texts: Iterable[tuple[bytes, str, int]]) -> Planned:
        """Put texts, each with its hash and its number of tokens, into jobs. Nothing is sent yet.

        A text that comes twice, or is in an open job, is taken once. Whether its vector is stored is the caller's to
        look, as is what becomes of those that are left out.
        """
        return Planning(
            self._identity, self._limits, self._book, self._spool, self._emit, self._clock, self._random
        ).plan(texts)

    # --- driving --------------------------------------------------------------------------------

    def drive(self, *, wait: bool = True) -> Outcome:
        """Advance all open jobs until none is open, or `stop` says so.

        Without `wait`, until each of them runs at the service, or waits for its turn there. What is in doubt is settled
        first: that takes until this process has looked long enough, and no later one would know.

        Raises:
            TransientError: a call's failure outlived the retries. Everything stays as it is, for the next run.
            UnknownOutcomeError: the same, of an upload.
            ConfigError: the service refuses everything, and the same.
        """
        self._outcome = Outcome()
        return self._drive(lambda _job: True, wait=wait)

    def _drive(self, wanted: Callable[[Job], bool], *, wait: bool = True) -> Outcome:
        self._uncleaned.clear()
        while not self._stop():
            jobs = [
                job for job in self._book.open_jobs(self._identity) if wanted(job) and job.token not in self._uncleaned
            ]
            if not jobs:
                break
            due = self._pass(jobs)
            if not wait and self._all_run():
                break
            wait_seconds = min(due, default=0.0) - self._monotonic()
            if wait_seconds > 0 and not self._stop():
                self._sleep(wait_seconds)
        return replace(self._outcome, open_jobs=len(self._book.open_jobs(self._identity)))

    def _all_run(self) -> bool:
        """Tell whether nothing is left to do but to wait for the service."""
        jobs = [job for job in self._book.open_jobs(self._identity) if job.token not in self._uncleaned]
        in_flight = sum(job.state in IN_FLIGHT for job in jobs)
        has_room = in_flight < self._limits.open_jobs
        return all(
            self._looks.has_seen(job) if job.state is State.RUNNING else job.state is State.PLANNED and not has_room
            for job in jobs
        )

    def _pass(self, jobs: Sequence[Job]) -> list[float]:
        """Advance each job as far as it goes now; tell when those that are still open are due."""
        in_flight = sum(job.state in IN_FLIGHT for job in jobs)
        left: list[Job] = []
        for job in jobs:
            if self._stop():
                break
            if job.state is State.PLANNED and in_flight >= self._limits.open_jobs:
                left.append(job)
                continue
            after = self._advance(job)
            in_flight += (after.state in IN_FLIGHT) - (job.state in IN_FLIGHT)
            left.append(after)
        return [
            self._looks.due_at(job)
            for job in left
            if job.is_open
            and job.token not in self._uncleaned
            and (job.state is not State.PLANNED or in_flight < self._limits.open_jobs)
        ]

    def _advance(self, job: Job) -> Job:
        while job.is_open and self._looks.is_due(job) and not self._stop():
            before, job = job, self._take_step(job)
            if job is before:
                break
        return job

    def _take_step(self, job: Job) -> Job:
        facts = self._looks.look(job)
        match next_step(job.state, facts, self._limits.settle_seconds):
            case Step.UPLOAD:
                job = self._upload(job)
            case Step.TAKE_DATASET if facts.dataset is not None:
                job = self._save(job, State.UPLOADED, dataset_id=facts.dataset.id)
            case Step.START:
                job = self._start(job)
            case Step.ADOPT:
                job = self._adopt(job, facts.jobs_on_dataset)
            case Step.TAKE_IN if facts.job is not None:
                job = self._take_in(job, facts.job)
            case Step.LOSE:
                job = self._lose(job, why_lost(job.state, facts), facts.job.billed_tokens if facts.job else None)
            case Step.CLEAN:
                job = self._clean(job)
            case Step.DROP:
                job = self._end(job, State.DROPPED, "its texts are not at hand any more")
            case _:
                self._wait(job, facts.job.fraction if facts.job else None)
        return job

    def _wait(self, job: Job, fraction: float | None) -> None:
        self._looks.later(job)
        self._emit(JobProgress(job.token, job.state, job.job_id, fraction, self._clock() - job.created_at))

    # --- acts -----------------------------------------------------------------------------------

    def _upload(self, job: Job) -> Job:
        try:
            dataset_id = self._embedder.create_dataset(job.name, self._spool.path(job.token))
        except RejectedError as error:
            return self._lose(job, f"the service refused the upload: {error}")
        except (TransientError, UnknownOutcomeError) as error:  # it may be there: the next look lists it by its name
            self._looks.put_off(job, "upload a dataset", error)
            return job
        self._looks.went_well(job)
        return self._save(job, State.UPLOADED, dataset_id=dataset_id)

    def _start(self, job: Job) -> Job:
        """Make the one call that costs, after writing that it will be made."""
        job = self._save(job, State.SUBMITTING, intent_at=self._clock())
        try:
            job_id = self._embedder.start_job(job.dataset_id or "", job.name)
        except UnknownOutcomeError as error:  # from now on it is looked for
            self._emit(JobInDoubt(job.token, str(error)))
            return job
        except TransientError as error:  # nothing was started [J1]
            job = self._save(job, State.UPLOADED)
            self._looks.put_off(job, "start a job", error)
            return job
        except ConfigError:  # the same
            self._save(job, State.UPLOADED)
            raise
        except RejectedError as error:
            return self._lose(job, f"the service refused the job: {error}")
        return self._is_running(job, job_id, adopted=False)

    def _adopt(self, job: Job, remotes: Sequence[RemoteJob]) -> Job:
        """Take a job that was started already for ours; a second one is only cost."""
        first, *others = in_order(remotes)
        for other in others:
            if other.phase is RemotePhase.PENDING:
                self._cancel(job.token, other)
        if job.dataset_id and job.dataset_id != first.dataset_id:  # a late job of an earlier attempt
            self._looks.delete_dataset(job.dataset_id)
        return self._is_running(replace(job, dataset_id=first.dataset_id), first.id, adopted=True)

    def _is_running(self, job: Job, job_id: str, *, adopted: bool) -> Job:
        job = self._save(job, State.RUNNING, job_id=job_id)
        self._looks.went_well(job)
        self._emit(JobStarted(job.token, job_id, job.attempt, job.texts, job.tokens, adopted))
        return job

    def _take_in(self, job: Job, remote: RemoteJob) -> Job:
        """Put the vectors of a job that is ready into the store, and only then say so."""
        output_id = remote.output_dataset_id or ""
        wanted = None if job.found else self._book.texts_of(job.token)
        intake = Intake(self._vectors, self._embedder.dimension, wanted)
        try:
            self._looks.call("read the result of a job", lambda: intake.take(self._embedder.results(output_id)))
        except RejectedError as error:
            return self._lose(job, f"the job's result cannot be read: {error}", remote.billed_tokens)
        stored = len(intake.stored)
        missing = len(wanted) - stored if wanted is not None else 0
        job = self._save(
            job,
            State.STORED,
            texts=stored if job.found else job.texts,
            output_dataset_id=output_id,
            billed_tokens=_sum(job.billed_tokens, remote.billed_tokens),
            problem=f"the result had no sound vector for {missing} texts" if missing else None,
        )
        self._emit(JobStored(job.token, stored, missing, intake.left_out, remote.billed_tokens))
        self._count(
            stored_texts=stored,
            stored_tokens=job.tokens,
            missing_texts=missing,
            billed_tokens=remote.billed_tokens or 0,
        )
        return job

    def _clean(self, job: Job) -> Job:
        """Delete what is left of a job whose vectors are stored; a service that will not is asked again next time."""
        try:
            self._looks.delete_datasets(job)
        except TransientError:  # was told by the retries, and keeps nobody from using the vectors
            self._uncleaned.add(job.token)
            return job
        self._spool.remove(job.token)
        return self._save(job, State.CLOSED)

    def _lose(self, job: Job, reason: str, billed_tokens: int | None = None) -> Job:
        """Give up an attempt. Its dataset goes first, so that no call that is stuck somewhere can start a job on it."""
        self._looks.delete_datasets(job)
        hashes = self._book.texts_of(job.token)
        state = after_loss(
            job.attempt,
            spooled=not job.found and self._spool.has(job.token),
            all_stored=bool(hashes) and not self._vectors.missing(list(hashes)),
        )
        job = replace(job, billed_tokens=_sum(job.billed_tokens, billed_tokens), problem=reason)
        self._count(billed_tokens=billed_tokens or 0)
        if state in (State.FAILED, State.DROPPED):
            return self._end(job, state, reason)
        if state is State.STORED:  # by the state of later days, that this one was restored beside
            return self._save(job, State.STORED)
        lost, name = job.attempt, name_of(self._book.prefix, job.token, job.attempt + 1)
        fresh = replace(job, attempt=lost + 1, name=name, dataset_id=None, job_id=None, output_dataset_id=None)
        job = self._save(fresh, State.PLANNED, intent_at=None)
        self._emit(JobAttemptLost(job.token, lost, reason))
        return job

    def _end(self, job: Job, state: State, reason: str) -> Job:
        job = self._save(job, state, problem=reason)
        self._spool.remove(job.token)
        if state is State.FAILED:
            self._emit(JobFailed(job.token, job.texts, reason))
            self._count(failed_jobs=1, failed_texts=job.texts)
        else:
            self._emit(JobDropped(job.token, job.texts, reason))
            self._count(dropped_texts=job.texts)
        return job

    # --- the start of a run ---------------------------------------------------------------------

    def resume(self) -> Outcome:
        """Bring the book in line with what is at the service. Called once, before anything is planned.

        Jobs that were paid for and that the book does not know are waited for, since which texts they have is told by
        their results only. Unless `stop` has become true, every paid text is then stored or in an open job.
        """
        self._outcome = Outcome()
        prefix = self._book.prefix
        self._bring_in_line(prefix, Remote(self._looks.datasets(prefix), self._looks.jobs()))
        now = self._clock()
        open_jobs = self._book.open_jobs()
        self._spool.remove_all_but({job.token for job in open_jobs if not job.found})
        for job in open_jobs:
            age_days = (now - job.created_at) / SECONDS_PER_DAY
            if age_days > URGENT_DAYS:
                self._emit(JobUrgent(job.token, age_days))
            if job.state is State.PLANNED and job.embedder == self._identity and not self._spool.has(job.token):
                self._take_step(job)
        return self._drive(lambda job: job.found)

    def _bring_in_line(self, prefix: str, remote: Remote) -> None:
        names = [job.name for job in remote.jobs] + [dataset.name for dataset in remote.datasets]
        book = {job.token: job for job in self._book.open_jobs()}
        for token in {token_of(prefix, name) for name in names} - book.keys() - {None}:
            if token is not None and (ended := self._book.find(token)):
                book[token] = ended
        differences = compare(
            prefix,
            self._identity,
            book,
            remote,
            known_job_ids=self._book.known_job_ids(),
            now=self._clock(),
        )
        for token, jobs in differences.adopt.items():
            if usable := [job for job in jobs if self._looks.has_a_result_to_come(job)]:
                self._adopt(book[token], usable)
        for token, job in differences.cancel:
            self._cancel(token, job)
        for token, job in differences.found:
            self._take_note(token, job)
        for id in differences.orphans:
            self._looks.delete_dataset(id)
        if differences.orphans:
            self._emit(DatasetsCleaned(len(differences.orphans)))

    def _take_note(self, token: str, remote: RemoteJob) -> None:
        """Enter a job that the book does not know, or not any more, so that its vectors are taken in."""
        row = self._book.find(token)
        if row is not None and row.is_open:  # by another job of the same token, just now
            if remote.phase is RemotePhase.PENDING:
                self._cancel(token, remote)
            return
        usable = self._looks.has_a_result_to_come(remote)
        job = replace(
            row
            or Job(
                token=token,
                name=remote.name,
                state=State.DROPPED,
                embedder=self._identity,
                attempt=1,
                found=True,
                texts=0,
                tokens=0,
                created_at=remote.created_at,
                changed_at=self._clock(),
                problem="it was found at the service, and its result is gone",
            ),
            dataset_id=remote.dataset_id,
            job_id=remote.id,
        )
        if usable:
            job = replace(job, state=State.RUNNING, found=True, problem=None, changed_at=self._clock())
        if row is None:
            self._book.add(job, ())
        else:
            self._book.save(job)
        if usable:
            self._emit(JobStarted(token, remote.id, job.attempt, job.texts, job.tokens, adopted=True))

    # --- the operator's word --------------------------------------------------------------------

    def cancel(self, job: Job) -> Job:
        """Give up an open job of this embedder: at the service first, then in the book, so its texts are planned anew.

        What it has done by then is charged, and gives no result. One that is complete, or stored, stays as it is: it
        is paid for in full, and the next run takes in what it has. Between the two, a crash leaves a job that was lost.
        """
        if job.state is State.STORED:
            return job
        remotes = [one for one in self._looks.jobs() if one.id == job.job_id or one.dataset_id == job.dataset_id]
        if job.job_id and not remotes:  # the list may be late
            known = self._looks.call("look at a job", lambda: self._embedder.job(job.job_id or ""))
            remotes = [known] if known else []
        if any(one.phase is RemotePhase.READY and self._looks.has_a_result_to_come(one) for one in remotes):
            return job
        for one in remotes:
            if one.phase is RemotePhase.PENDING:
                self._looks.cancel_job(one.id)
        self._looks.delete_datasets(job)  # then a call that is stuck somewhere can start nothing
        if remotes and not job.job_id:  # so that nobody takes it for a job that the book does not know
            job = replace(job, job_id=in_order(remotes)[0].id)
        return self._end(job, State.DROPPED, "it was cancelled")

    # --- plumbing -------------------------------------------------------------------------------

    def _cancel(self, token: str, duplicate: RemoteJob) -> None:
        self._looks.cancel_job(duplicate.id)
        self._emit(JobDuplicated(token, duplicate.id))
        self._count(duplicate_jobs=1)

    def _save(self, job: Job, state: State, **changes: str | float | None) -> Job:
        job = replace(job, state=state, changed_at=self._clock(), **changes)  # type: ignore[arg-type]  # fields of Job
        self._book.save(job)
        self._looks.begin_anew(job)
        return job

    def _count(self, **counted: int) -> None:
        before = self._outcome
        self._outcome = replace(before, **{name: getattr(before, name) + more for name, more in counted.items()})


def _sum(one: int | None, other: int | None) -> int | None:
    return (one or 0) + (other or 0) if one is not None or other is not None else None
