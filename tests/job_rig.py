"""Runs of jobs in a folder, against a fake service: each opens the state anew, as a new process would."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crashes import Crash

from connector.checkpoint import Checkpoints
from connector.embedding import Embedding, Text
from connector.events import Event
from connector.job_book import Job, JobBook
from connector.jobs import Jobs, Outcome
from connector.plan import sha256_16
from connector.retry import Retry
from connector.testing.fake_jobs import FakeJobEmbedder
from connector.vectors import SqliteVectors

EFFECTS = frozenset(
    {
        *("add", "save"),  # the book
        *("seal", "remove", "remove_all_but"),  # files
        "put",  # vectors
        *("create_dataset", "datasets", "dataset", "delete_dataset"),
        *("start_job", "jobs", "job", "cancel_job", "results"),
    }
)
PATIENCE = 20_000  # looks; a run that needs more never ends


def hash_of(text: str) -> bytes:
    return sha256_16(text.encode())


@dataclass(slots=True)
class World:
    """Counts what a run does to the outside, and crashes where it is told to."""

    crash_at: int | None = None  # the n-th effect from now on
    after: bool = False  # crash when the effect has happened, or failed; else before it
    touched: list[str] = field(default_factory=list)

    def touch(self, name: str, effect: Callable[[], object]) -> object:
        """Make an effect happen, or the crash."""
        self.touched.append(name)
        if self.crash_at is not None:
            self.crash_at -= 1
            if self.crash_at == 0:
                self.crash_at = None
                if self.after:
                    with suppress(Exception):
                        effect()
                raise Crash(name)
        return effect()


class _Watched:
    """Passes everything on, and tells the world of what has effects."""

    def __init__(self, world: World, part: object) -> None:
        self._world, self._part = world, part

    def __getattr__(self, name: str) -> Any:  # whatever the part has
        value = getattr(self._part, name)
        if name not in EFFECTS:
            return value
        return lambda *arguments, **named: self._world.touch(name, lambda: value(*arguments, **named))


@dataclass(slots=True)
class JobRig:
    """A service that lasts, and the state folder between runs."""

    folder: Path
    service: FakeJobEmbedder = field(default_factory=FakeJobEmbedder)
    world: World = field(default_factory=World)
    events: list[Event] = field(default_factory=list)
    stop: Callable[[], bool] = field(default=lambda: False)
    sleeps: list[float] = field(default_factory=list)
    tokens: random.Random = field(default_factory=lambda: random.Random(1))
    attempts: int = 3

    def run(self, texts: Sequence[str]) -> Outcome:
        """Do what a run does: resume, plan what is missing, drive, and embed directly what no job would."""
        with closing(Checkpoints.open(self.folder)) as checkpoints, closing(self._vectors()) as vectors:
            jobs = self.jobs(checkpoints, vectors)
            jobs.resume()
            jobs.plan(self._missing(texts, jobs, vectors))
            outcome = jobs.drive()
            if not self.stop():
                rest = {hash: Text(text, tokens) for hash, text, tokens in self._missing(texts, jobs, vectors)}
                Embedding(self.service, vectors, Retry(), self.events.append).embed(rest)
            return outcome

    def jobs(self, checkpoints: Checkpoints, vectors: SqliteVectors) -> Jobs:
        """Put the jobs of one run together."""
        service = self.service
        jobs = Jobs(
            self._watch(service),
            self._watch(JobBook(checkpoints)),
            self._watch(vectors),
            self.folder / "jobs",
            retry=Retry(attempts=self.attempts, sleep=self._sleep, random=lambda: 1.0),
            emit=self.events.append,
            clock=service.clock,
            monotonic=service.clock,
            sleep=self._sleep,
            stop=self.stop,
            random=lambda: f"{self.tokens.getrandbits(64):016x}",
        )
        jobs._spool = jobs._looks.spool = self._watch(jobs._spool)
        return jobs

    def _watch(self, part: object) -> Any:  # stands for the part
        return _Watched(self.world, part)

    def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        assert len(self.sleeps) < PATIENCE, "the run never ends"
        self.service.sleep(seconds)

    def _missing(self, texts: Sequence[str], jobs: Jobs, vectors: SqliteVectors) -> list[tuple[bytes, str, int]]:
        hashes = {hash_of(text): text for text in texts}
        wanted = vectors.missing(list(hashes)) - jobs.open_texts(list(hashes))
        return [(hash, text, 3) for hash, text in hashes.items() if hash in wanted]

    def _vectors(self) -> SqliteVectors:
        return SqliteVectors.open(
            self.folder,
            embedder_identity=self.service.identity,
            dimension=self.service.dimension,
            read_only=False,
        )

    def stop_after_sleeps(self, number: int) -> None:
        """Ask the next run to stop when it has waited so often."""
        limit = len(self.sleeps) + number
        self.stop = lambda: len(self.sleeps) > limit

    # --- behind its back ---

    def book(self) -> list[Job]:
        """The jobs in the book, latest first."""
        with closing(Checkpoints.open(self.folder, read_only=True)) as checkpoints:
            return JobBook(checkpoints).latest(1000)

    def stored(self, texts: Sequence[str]) -> bool:
        """Tell whether the store has the right vector of every text."""
        with closing(self._vectors()) as vectors:
            found = vectors.get([hash_of(text) for text in texts])
        right = dict(zip(map(hash_of, texts), self.service._vectors(texts), strict=True))
        return found.keys() == right.keys() and all((found[hash] == right[hash]).all() for hash in right)

    def count_texts_in_open_jobs(self) -> int:
        with closing(Checkpoints.open(self.folder, read_only=True)) as checkpoints, checkpoints.reading() as db:
            return int(db.execute("SELECT count(*) FROM job_text").fetchone()[0])

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "jobs").glob("*"))

    def billed(self, texts: Sequence[str]) -> list[int]:
        """How often each text was paid for."""
        return [self.service.billed[hash_of(text)] for text in texts]

    def seen(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]
