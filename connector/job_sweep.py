"""Compare the book with what is at the service under our names. Pure: both in, what to do about the differences out.

They differ after a crash, and after the state was restored from an older backup. Names tell whose a thing is:

    vs-<8 of the store>-<8 of the embedder's identity><16 random>-a<attempt>
    prefix              token

Nothing under any other name is touched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .job_book import Job
from .job_steps import State
from .ports import RemoteDataset, RemoteJob, RemotePhase

MARK_DIGITS = 8
RANDOM_DIGITS = 16
ORPHAN_SECONDS = 24 * 3600.0
URGENT_DAYS = 25.0  # hosted datasets are deleted after 30 days (docs.cohere.com/docs/datasets, read November 2026)
NAME = re.compile(rf"(vs-[0-9a-f]{{8}}-)([0-9a-f]{{{MARK_DIGITS + RANDOM_DIGITS}}})-a[0-9]+")
NOTHING_PAID = frozenset({State.PLANNED, State.UPLOADED, State.SUBMITTING})  # as far as the book knows


def mark_of(identity: str) -> str:
    """Mark tokens with the embedder, so that its vectors are never taken for another one's."""
    return hashlib.sha256(identity.encode()).hexdigest()[:MARK_DIGITS]


def name_of(prefix: str, token: str, attempt: int) -> str:
    """Name the dataset and the job of one attempt; 39 characters of the 49 that are allowed."""
    return f"{prefix}{token}-a{attempt}"


def token_of(prefix: str, name: str) -> str | None:
    """Give the token in a name of ours; None for everybody else's."""
    found = NAME.fullmatch(name)
    return found[2] if found and found[1] == prefix else None


@dataclass(frozen=True, slots=True)
class Remote:
    """What is at the service."""

    datasets: Sequence[RemoteDataset]
    jobs: Sequence[RemoteJob]


@dataclass(slots=True)
class Differences:
    """What to do about them."""

    adopt: dict[str, list[RemoteJob]] = field(default_factory=dict)  # by the token of an open job
    found: list[tuple[str, RemoteJob]] = field(default_factory=list)  # with the token of no open job
    cancel: list[tuple[str, RemoteJob]] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)  # ids of datasets


def compare(
    prefix: str, identity: str, book: Mapping[str, Job], remote: Remote, *, known_job_ids: set[str], now: float
) -> Differences:
    """Tell what to do about jobs that the book does not know, and datasets that nothing needs.

    A job of ours that has not failed, and is not in the book:

    the book has under its token or its dataset  the job is     what
    -------------------------------------------  -------------  -------------------------------------------
    a job for which nothing is known to be paid  any            adopt it
    another job that runs, or is stored          pending        cancel it: a duplicate
    a closed job                                 pending        cancel it: a duplicate
    a failed or dropped job, or none             any            take it in, if it is of this embedder
    otherwise                                                   nothing

    `book` has the open jobs of all embedders, and the ended ones among those that the names speak of.
    """
    names = {dataset.id: dataset.name for dataset in remote.datasets}
    by_dataset = {job.dataset_id: job for job in book.values() if job.is_open and job.dataset_id}
    differences = Differences()
    for job in sorted(remote.jobs, key=lambda job: (job.created_at, job.id)):
        owner = by_dataset.get(job.dataset_id)
        token = owner.token if owner else token_of(prefix, job.name) or token_of(prefix, names.get(job.dataset_id, ""))
        if token is None or job.id in known_job_ids or job.phase is RemotePhase.FAILED:
            continue
        owner = owner or book.get(token)
        if owner is None or owner.state in (State.FAILED, State.DROPPED):
            if token.startswith(mark_of(identity)):
                differences.found.append((token, job))
        elif owner.embedder == identity and owner.state in NOTHING_PAID:
            differences.adopt.setdefault(token, []).append(job)
        elif job.phase is RemotePhase.PENDING and owner.state not in NOTHING_PAID:
            differences.cancel.append((token, job))
    differences.orphans = _orphans(prefix, book, remote, differences, now)
    return differences


def _orphans(prefix: str, book: Mapping[str, Job], remote: Remote, differences: Differences, now: float) -> list[str]:
    """Name the datasets of ours that no open job needs and that are older than a day."""
    open_jobs = [job for job in book.values() if job.is_open]
    needed = {id for job in open_jobs for id in (job.dataset_id, job.output_dataset_id)}
    awaited = {job.name for job in open_jobs if job.dataset_id is None}  # made perhaps by a call without an answer
    running = [job for job in remote.jobs if job.phase is RemotePhase.PENDING]
    wanted = [job for _, job in differences.found] + [job for jobs in differences.adopt.values() for job in jobs]
    for job in running + wanted:
        needed |= {job.dataset_id, job.output_dataset_id}
    for remote_job in remote.jobs:
        if any(job.job_id == remote_job.id for job in open_jobs):
            needed.add(remote_job.output_dataset_id)
    return [
        dataset.id
        for dataset in remote.datasets
        if token_of(prefix, dataset.name) is not None
        and dataset.id not in needed
        and dataset.name not in awaited
        and now - dataset.created_at > ORPHAN_SECONDS
    ]
