"""The whole way from a file to its vectors, each step so that it is paid for once.

upload -> validated -> job -> complete -> result -> both datasets deleted, if that is wanted

a lost answer to    what is done
------------------  --------------------------------------------------------------------------------------------
the upload          look for the dataset by its name, which nothing else has; if there is none, upload again
the job             look for a job that reads the dataset, for `SETTLE_SECONDS`; if there is none, ask again.
                    Should two turn up later, the older one counts, and the other is cancelled
anything else       asked again, as it changes nothing
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self
from urllib.parse import urlsplit

from connector.errors import ConfigError, RejectedError, UnknownOutcomeError
from connector.events import Emit, ignore
from connector.retry import Retry

from .failures import NotFoundError
from .values import NAME_CHARACTERS, moment
from .waiting import Patience

if TYPE_CHECKING:
    from .client import Cohere
    from .values import Job

SETTLE_SECONDS: Final = 120.0
"""Ours: how long a job that was accepted may stay away from the list. Nobody documents that it shows at once."""
ATTEMPTS: Final = 3
WAITS_NEARBY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
UPLOAD_SETTLE_SECONDS: Final = 15.0
SUFFIX_BYTES: Final = 4
LATEST: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class FileToEmbed:
    """A file, and what is to be kept of its rows."""

    path: Path
    name: str  # what people call it: the beginning of the dataset's name
    keep_fields: Sequence[str] = ()
    optional_fields: Sequence[str] = ()
    skip_malformed_input: bool = False
    csv_delimiter: str | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a job makes vectors."""

    model: str
    input_type: str = "search_document"
    embedding_types: Sequence[str] = ("float",)
    truncate: str | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """The steps against one service."""

    client: Cohere
    emit: Emit = ignore
    note: Callable[[str], None] = lambda _line: None
    retry: Retry = field(default_factory=Retry)
    patience: Patience = field(default_factory=Patience)  # between the looks after a lost answer
    settle_seconds: float = SETTLE_SECONDS

    @classmethod
    def at(cls, client: Cohere, *, emit: Emit, note: Callable[[str], None]) -> Self:
        """Ask a service on this machine as often as is quick, and every other one as seldom as is fair."""
        is_near = (urlsplit(client.url).hostname or "") in ("localhost", "127.0.0.1", "::1")
        return cls(client, emit, note, patience=Patience(waits_seconds=WAITS_NEARBY_SECONDS) if is_near else Patience())

    def check(self) -> None:
        """Look whether the address and the key are right; ConfigError."""
        self.retry("check of the service", self.client.check, self.emit)

    def upload(self, file: FileToEmbed, on_sent: Callable[[int, int | None], None]) -> str:
        """Upload a file once; give the id of its dataset."""
        name = unique_name(file.name)

        def create() -> str:
            return self.client.create_dataset(
                file.path,
                name=name,
                keep_fields=file.keep_fields,
                optional_fields=file.optional_fields,
                skip_malformed_input=file.skip_malformed_input,
                csv_delimiter=file.csv_delimiter,
                on_sent=on_sent,
            )

        def look() -> str | None:
            return next((dataset.id for dataset in self.client.all_datasets() if dataset.name == name), None)

        # That much is enough: a second upload costs no money, and a dataset too many is deleted after 30 days.
        settle_seconds = min(self.settle_seconds, UPLOAD_SETTLE_SECONDS)
        return self._once(f"upload of {file.path.name}", create, look, settle_seconds).id

    def start(self, dataset_id: str, recipe: Recipe, name: str) -> str:
        """Start a job on a dataset, once; give its id.

        UnknownOutcomeError if it cannot be found out whether there is one: then `find` may tell later.
        """
        name = unique_name(name)

        def create() -> str:
            return self.client.create_job(
                dataset_id=dataset_id,
                model=recipe.model,
                input_type=recipe.input_type,
                embedding_types=recipe.embedding_types,
                truncate=recipe.truncate,
                name=name,
            )

        def look() -> str | None:
            job = job_on(_named(self.client.jobs(), name), dataset_id)
            return job.id if job else None

        made = self._once(f"job on {dataset_id}", create, look, self.settle_seconds)
        return self._only_job(dataset_id, name, made.id) if made.may_be_two else made.id

    def only_model(self) -> str:
        """Name the only model of the service; ConfigError if there is a choice, or none."""
        models = self.retry("list of models", self.client.models, self.emit)
        if len(models) != 1:
            raise ConfigError(
                f"name the model with --model; the service has {', '.join(models) or 'none that it tells'}"
            )
        return models[0]

    def find(self, id: str) -> Job | None:
        """Find the job that an id stands for: its own, or that of the dataset that it reads or has made.

        None if it is a dataset that no job reads; NotFoundError if it is no id of the service.
        """
        try:
            return self.retry(f"job {id}", lambda: self.client.job(id), self.emit)
        except RejectedError:
            pass  # some say 404 of what is no id of theirs, some 400
        try:
            self.retry(f"dataset {id}", lambda: self.client.dataset(id), self.emit)
        except RejectedError:
            raise NotFoundError(f"{id} is neither a job nor a dataset at {self.client.url}") from None
        return job_on(self.retry("list of jobs", self.client.jobs, self.emit), id)

    def clean_up(self, job: Job) -> None:
        """Delete what a job has read and what it has made; that something is gone already is no failure."""
        for id in filter(None, (job.input_dataset_id, job.output_dataset_id)):
            with suppress(NotFoundError):
                self.retry(f"deletion of {id}", partial(self.client.delete_dataset, id), self.emit)

    def _once(
        self, what: str, create: Callable[[], str], look: Callable[[], str | None], settle_seconds: float
    ) -> _Made:
        """Make something; if the answer is lost, look whether it was made before it is made again."""
        may_be_two = False
        attempt = 1
        while True:
            try:
                return _Made(self.retry(what, create, self.emit), may_be_two)
            except UnknownOutcomeError as error:
                self.note(str(error))
                if (found := self._look(what, look, settle_seconds)) is not None:
                    self.note(f"{what}: it was made all the same, and goes on as {found}")
                    return _Made(found, may_be_two=False)
                if attempt == ATTEMPTS:
                    raise
            may_be_two = True
            attempt += 1

    def _look(self, what: str, look: Callable[[], str | None], settle_seconds: float) -> str | None:
        """Look until something is there, or long enough for it to be there."""
        started = self.patience.clock()
        number = 0
        while (found := self.retry(what, look, self.emit)) is None:
            left_seconds = settle_seconds - (self.patience.clock() - started)
            if left_seconds <= 0:
                return None
            self.patience.sleep(min(left_seconds, self.patience.wait_seconds(number)))
            number += 1
        return found

    def _only_job(self, dataset_id: str, name: str, made: str) -> str:
        """Keep the oldest of our jobs on a dataset, and cancel the others."""
        jobs = _named(self.retry("list of jobs", self.client.jobs, self.emit), name)
        ours = sorted(
            (job for job in jobs if job.input_dataset_id == dataset_id and not job.has_failed),
            key=lambda job: (moment(job.created_at) or LATEST, job.id != made),
        )
        for job in ours[1:]:
            self.note(f"job {job.id} was made beside {ours[0].id} by a lost answer; it is cancelled")
            self.retry(f"cancellation of {job.id}", partial(self.client.cancel_job, job.id), self.emit)
        return ours[0].id if ours else made


class _Made(NamedTuple):
    """What was made, and whether an earlier request, whose answer was lost, may turn out to have made it too."""

    id: str
    may_be_two: bool


def unique_name(name: str) -> str:
    """Make a name that no other dataset has, and that begins as people call it."""
    room = NAME_CHARACTERS - 1 - 2 * SUFFIX_BYTES
    return f"{name[:room].rstrip()}-{secrets.token_hex(SUFFIX_BYTES)}"


def _named(jobs: Iterable[Job], name: str) -> list[Job]:
    """Leave out what cannot be ours, by its name; a service that does not tell names leaves all of them."""
    return [job for job in jobs if job.name in ("", name)]


def job_on(jobs: Sequence[Job], dataset_id: str) -> Job | None:
    """Find the job that reads a dataset, or has made it: one that is complete, else one that is under way, else any."""
    found = [job for job in jobs if dataset_id in (job.input_dataset_id, job.output_dataset_id)]
    return min(found, key=lambda job: (not job.is_complete, not job.is_open, job.created_at), default=None)
