"""Drive or cancel the embed jobs of a sync outside of a run: with the lease, and without a source or a sink."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from .checkpoint import Checkpoints
from .composition import build_context
from .engine import JOBS_FOLDER
from .errors import ConfigError
from .events import Emit, ignore
from .job_book import Job, JobBook
from .jobs import Jobs, Outcome
from .ports import JobEmbedder
from .retry import Retry
from .stopping import Stop
from .vectors import SqliteVectors

if TYPE_CHECKING:
    from .config import Settings
    from .model import JsonValue


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What became of jobs that were to be cancelled."""

    cancelled: tuple[Job, ...]
    complete: tuple[Job, ...]  # there was nothing to cancel any more: the next run takes in what they have

    def as_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return {
            "cancelled": [_named(job) for job in self.cancelled],
            "complete": [_named(job) for job in self.complete],
            "texts_to_embed_anew": sum(job.texts for job in self.cancelled),
        }


def wait(settings: Settings, *, emit: Emit = ignore) -> Outcome:
    """Drive the open jobs until they have ended, and put their vectors into the store.

    Raises:
        ConfigError: the embedder has no jobs, or its service refuses everything.
        TransientError, UnknownOutcomeError: the service is out of reach; the jobs go on by themselves.
        LeaseError: a run has the state; it drives them itself.
    """
    with _open_jobs(settings, emit) as (jobs, _book, _identity):
        return _sum(jobs.resume(), jobs.drive())


def look(settings: Settings, *, emit: Emit = ignore, stop: Stop | None = None) -> Outcome:
    """Advance the open jobs as far as they go without waiting for the service, and store what is there.

    Errors are those of `wait`.
    """
    stop, ending = stop or Stop(), threading.Event()
    with (
        stop.heeded(ending.set, ending.set),
        _open_jobs(settings, emit, Retry().until(ending), ending.is_set) as (jobs, _book, _identity),
    ):
        return jobs.drive(wait=False)


def cancel(settings: Settings, tokens: Sequence[str], *, emit: Emit = ignore) -> Cancelled:
    """Cancel some jobs, by their tokens, at the service and in the book; those that have ended are passed over.

    Raises:
        ConfigError: the embedder has no jobs, or a job is of another embedder; nothing was cancelled.
        TransientError: the service is out of reach; those that were cancelled by then stay so.
        LeaseError: a run has the state.
    """
    with _open_jobs(settings, emit) as (jobs, book, identity):
        chosen = [job for job in book.open_jobs() if job.token in tokens]
        for job in chosen:
            if job.embedder != identity:
                raise ConfigError(
                    f"job {job.job_id or job.token} is of another embedder, {job.embedder}; "
                    "put that one into the settings again to cancel it"
                )
        after = [jobs.cancel(job) for job in chosen]
    return Cancelled(
        tuple(job for job in after if not job.is_open),
        tuple(job for job in after if job.is_open),
    )


@contextmanager
def _open_jobs(
    settings: Settings,
    emit: Emit,
    retry: Retry = Retry(),  # noqa: B008 - frozen
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Jobs, JobBook, str]]:
    """Open the jobs of the embedder that is in the settings; the checkpoints, which hold the lease, first."""
    with ExitStack() as opened:
        checkpoints = opened.enter_context(closing(Checkpoints.open(settings.state_path)))
        context = build_context(settings, seed=checkpoints.seed, read_only=False)
        embedder = opened.enter_context(closing(settings.embedder.build(context)))
        if not isinstance(embedder, JobEmbedder):
            raise ConfigError(f'the embedder "{settings.embedder.kind}", as it is set, has no embed jobs')
        vectors = opened.enter_context(
            closing(
                SqliteVectors.open(
                    settings.state_path,
                    embedder_identity=embedder.identity,
                    dimension=embedder.dimension,
                    read_only=False,
                )
            )
        )
        book = JobBook(checkpoints)
        folder = checkpoints.folder / JOBS_FOLDER
        jobs = Jobs(embedder, book, vectors, folder, retry=retry, emit=emit, sleep=retry.sleep, stop=stop)
        yield jobs, book, embedder.identity


def _sum(one: Outcome, last: Outcome) -> Outcome:
    """Add up what ended in two calls; what is open is as the last one left it."""
    added = {field.name: getattr(one, field.name) + getattr(last, field.name) for field in fields(Outcome)}
    return Outcome(**added | {"open_jobs": last.open_jobs})


def outcome_json(outcome: Outcome) -> dict[str, JsonValue]:
    """Plain JSON values."""
    return {**asdict(outcome)}


def _named(job: Job) -> JsonValue:
    return {"token": job.token, "job_id": job.job_id, "texts": job.texts}
