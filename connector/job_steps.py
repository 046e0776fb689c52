"""Decide how a job goes on. Pure: what the book and the service say, in; one step, out.

    planned -> uploaded -> SUBMITTING -> running -> stored -> closed
       ^           |       written ahead    |
       +-----------+-----------+------------+--> failed (too many attempts), or dropped (texts not at hand)
             attempt + 1, with a new dataset

SUBMITTING is written before the one call that costs. From then on a paid job may exist, whatever is known of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from .ports import RemoteDataset, RemoteJob, RemotePhase

MAX_ATTEMPTS = 3


class State(StrEnum):
    """How far a job is, as the book has it."""

    PLANNED = "planned"  # its texts are in a file; a dataset may have been made, not a job
    UPLOADED = "uploaded"  # its dataset is known, and may have been validated
    SUBMITTING = "submitting"  # a job may have been started
    RUNNING = "running"  # its job is known
    STORED = "stored"  # its vectors are durable; what it left at the service is to be deleted
    CLOSED = "closed"
    FAILED = "failed"  # its texts are to be embedded without a job
    DROPPED = "dropped"  # its texts are to be planned anew


ENDED = frozenset({State.CLOSED, State.FAILED, State.DROPPED})
IN_FLIGHT = frozenset({State.UPLOADED, State.SUBMITTING, State.RUNNING})


class Step(StrEnum):
    """What to do next."""

    UPLOAD = "upload"
    TAKE_DATASET = "take dataset"  # it was made already
    WAIT = "wait"
    START = "start"
    ADOPT = "adopt"  # the job that was started already
    TAKE_IN = "take in"
    LOSE = "lose"  # the attempt came to nothing; `after_loss` says what then
    CLEAN = "clean"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known outside the book; each is looked up only in the states that ask for it."""

    spooled: bool = False  # its texts are at hand
    dataset: RemoteDataset | None = None  # of its name while it is planned, else of its id
    jobs_on_dataset: tuple[RemoteJob, ...] = ()
    job: RemoteJob | None = None
    output: RemoteDataset | None = None  # of a job that is ready
    unseen_seconds: float = 0.0  # how long this process has looked in vain for what should be there


def next_step(state: State, facts: Facts, settle_seconds: float) -> Step:
    """Tell what a job needs next.

    state       what is found                                 step
    ----------  --------------------------------------------  ------------
    PLANNED     a dataset of its name                         TAKE_DATASET
                none, and its texts are at hand               UPLOAD
                none, and they are not                        DROP
    UPLOADED    its dataset is pending                        WAIT
                ready                                         START
                failed                                        LOSE
                missing                                       WAIT, LOSE *
    SUBMITTING  a job on its dataset                          ADOPT
                none                                          WAIT, LOSE *
    RUNNING     its job is pending                            WAIT
                ready, and the result is there                TAKE_IN
                ready, and the result is missing              WAIT, LOSE *
                ready, and names no result                    LOSE
                failed                                        LOSE
                missing                                       WAIT, LOSE *
    STORED                                                    CLEAN

    * A service may show late what it has accepted, so missing means nothing before `settle_seconds`.
    """
    missing = Step.WAIT if facts.unseen_seconds < settle_seconds else Step.LOSE
    match state:
        case State.PLANNED:
            if facts.dataset is not None:
                return Step.TAKE_DATASET
            return Step.UPLOAD if facts.spooled else Step.DROP
        case State.UPLOADED:
            return _step_uploaded(facts.dataset, missing)
        case State.SUBMITTING:
            return Step.ADOPT if facts.jobs_on_dataset else missing
        case State.RUNNING:
            return _step_running(facts, missing)
        case State.STORED:
            return Step.CLEAN
        case _:
            raise ValueError(f"a job that is {state} has no next step")


def _step_uploaded(dataset: RemoteDataset | None, missing: Step) -> Step:
    if dataset is None:
        return missing
    return {RemotePhase.PENDING: Step.WAIT, RemotePhase.READY: Step.START, RemotePhase.FAILED: Step.LOSE}[dataset.phase]


def _step_running(facts: Facts, missing: Step) -> Step:
    job = facts.job
    if job is None:
        return missing
    if job.phase is RemotePhase.PENDING:
        return Step.WAIT
    if job.phase is RemotePhase.FAILED or job.output_dataset_id is None:
        return Step.LOSE
    return Step.TAKE_IN if facts.output is not None else missing


def why_lost(state: State, facts: Facts) -> str:
    """Say why an attempt came to nothing, in the service's words where it has some."""
    if state is State.UPLOADED:
        words = facts.dataset.reason or "it gave no reason" if facts.dataset else "the dataset is gone"
        return f"the service refused the dataset: {words}" if facts.dataset else words
    if state is State.SUBMITTING:
        return "the job was never started: the service does not list it"
    if facts.job is None:
        return "the job is gone"
    if facts.job.phase is RemotePhase.FAILED:
        return f"the job failed: {facts.job.reason or 'the service gave no reason'}"
    return "the job's result is gone" if facts.job.output_dataset_id else "the job ended without a result"


def after_loss(attempt: int, *, spooled: bool, all_stored: bool) -> State:
    """Tell where a job goes whose attempt came to nothing.

    vectors of all its texts are stored  attempts used up  texts at hand  then
    -----------------------------------  ----------------  -------------  ---------------------
    yes                                                                   STORED: nothing is missing
    no                                   yes                              FAILED
    no                                   no                no             DROPPED
    no                                   no                yes            PLANNED, attempt + 1
    """
    if all_stored:
        return State.STORED
    if attempt >= MAX_ATTEMPTS:
        return State.FAILED
    return State.PLANNED if spooled else State.DROPPED


def in_order(jobs: Sequence[RemoteJob]) -> list[RemoteJob]:
    """Put the jobs on one dataset in the order in which they would be adopted: the oldest that has not failed first."""
    return sorted(jobs, key=lambda job: (job.phase is RemotePhase.FAILED, job.created_at, job.id))
