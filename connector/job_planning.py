"""From texts to planned jobs: a file of texts each, and a line in the book. Nothing is sent or paid for."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice

from .events import Emit, JobPlanned
from .job_book import Job, JobBook
from .job_spool import Shard, Spool, line_of
from .job_steps import State
from .job_sweep import RANDOM_DIGITS, mark_of, name_of
from .ports import JobLimits

TEXTS_PER_LOOKUP = 1_000


@dataclass(frozen=True, slots=True)
class Planned:
    """What was put into jobs."""

    jobs: int = 0
    texts: int = 0
    tokens: int = 0
    left_out: int = 0  # texts that no job can take: blank, not UTF-8, too large; embed them without one


def random_token() -> str:
    """Make the part of a token that no other has."""
    return secrets.token_hex(RANDOM_DIGITS // 2)


@dataclass(slots=True)
class Planning:
    """Fills one job after the other. Memory is that of one job's hashes."""

    identity: str
    limits: JobLimits
    book: JobBook
    spool: Spool
    emit: Emit
    clock: Callable[[], float]
    random: Callable[[], str]
    planned: Planned = Planned()
    shard: Shard | None = None

    def plan(self, texts: Iterable[tuple[bytes, str, int]]) -> Planned:
        """Plan texts, each with its hash and its tokens; a text that comes twice or is in an open job is taken once."""
        rest = iter(texts)
        try:
            while some := list(islice(rest, TEXTS_PER_LOOKUP)):
                taken = self.book.open_texts(self.identity, [hash for hash, _, _ in some])
                for hash, text, tokens in some:
                    if hash not in taken and not (self.shard and hash in self.shard.hashes):
                        self._add(hash, text, tokens, taken)
            self._seal()
        finally:
            if self.shard:
                self.shard.close()
        return self.planned

    def _add(self, hash: bytes, text: str, tokens: int, taken: set[bytes]) -> None:
        line = line_of(hash, text)
        if line is None or len(line) > self.limits.bytes_per_job:
            self.planned = replace(self.planned, left_out=self.planned.left_out + 1)
            return
        shard = self.shard
        if shard and (
            len(shard.hashes) >= self.limits.texts_per_job or shard.size_bytes + len(line) > self.limits.bytes_per_job
        ):
            taken |= shard.hashes
            self._seal()
        if self.shard is None:
            self.shard = self.spool.shard(mark_of(self.identity) + self.random())
        self.shard.add(hash, line, tokens)

    def _seal(self) -> None:
        """Make a job of the file under way: first the file is durable, then the job is in the book."""
        shard = self.shard
        if shard is None:
            return
        self.spool.seal(shard)
        now = self.clock()
        job = Job(
            token=shard.token,
            name=name_of(self.book.prefix, shard.token, 1),
            state=State.PLANNED,
            embedder=self.identity,
            attempt=1,
            found=False,
            texts=len(shard.hashes),
            tokens=shard.tokens,
            created_at=now,
            changed_at=now,
        )
        self.book.add(job, shard.hashes)
        self.shard = None
        self.emit(JobPlanned(job.token, job.texts, job.tokens))
        done = self.planned
        self.planned = replace(done, jobs=done.jobs + 1, texts=done.texts + job.texts, tokens=done.tokens + job.tokens)
