"""A service of embed jobs in memory, with a clock of its own and faults on request. Real but for the network.

It outlives whoever calls it: crash the caller, make a new one, and hand it the same service.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from connector.errors import ConfigError, RejectedError, TransientError, UnknownOutcomeError
from connector.model import InputType
from connector.plan import sha256_16
from connector.ports import JobLimits, RemoteDataset, RemoteJob, RemotePhase

from .fakes import HashEmbedder

if TYPE_CHECKING:
    from connector.model import Vectors

_T = TypeVar("_T")

ROWS_PER_BATCH = 2
STUCK_SECONDS = 300.0
NAMES_BEGIN_AT = 50  # "name must be under 50 characters" (hosted service, read 2026-08)
SMALL = JobLimits(texts_per_job=2, bytes_per_job=10_000, open_jobs=2, jobs_from=1, settle_seconds=120.0)


class Fault(StrEnum):
    """What becomes of one call."""

    LOST = "it is done, and the answer is lost"
    BUSY = "it is refused for now, and nothing is done"
    NAMED_WAIT = "the same, and a wait is named"
    UNSURE = "nothing is done, but whoever asked cannot tell"
    STUCK = "the answer is lost, and the call arrives minutes later"
    REFUSED = "it can never be accepted"
    NO_ACCESS = "the key is wrong"


class Fate(StrEnum):
    """What becomes of one job that is accepted."""

    COMPLETE = "complete"
    FAILED = "failed"
    VANISHED = "vanished"
    RESULT_VANISHED = "its result vanished"
    REORDERED = "rows in another order, some twice"
    MISSING = "a row is missing"
    FOREIGN = "rows of others among its own"
    UNSOUND = "rows that are not finite, and of another dimension"
    CUT = "the first download is cut"
    TWICE = "the service starts it twice"


@dataclass(slots=True)
class _Dataset:
    shown: RemoteDataset
    rows: dict[bytes, str]
    looks: int


@dataclass(slots=True)
class _Job:
    shown: RemoteJob
    rows: dict[bytes, str]
    fate: Fate
    looks: int


class _Row(msgspec.Struct):
    text: str
    hash: str


@dataclass(slots=True)
class FakeJobEmbedder(HashEmbedder):
    """A `JobEmbedder` and its service. What is paid for is counted when a job is accepted, a text at a time."""

    limits_of_jobs: JobLimits = SMALL
    validation_looks: int = 1  # a dataset is pending for so many looks
    job_looks: int = 2  # and a job
    list_lag_seconds: float = 0.0  # until the lists show what was made
    failed_jobs_bill: bool = False

    now: float = field(default=1_800_000_000.0, init=False)  # seconds since 1970
    billed: Counter[bytes] = field(default_factory=Counter, init=False)  # by hash, direct calls included
    called: Counter[str] = field(default_factory=Counter, init=False)
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque), init=False)
    """By method: what becomes of its next calls."""
    fates: deque[Fate] = field(default_factory=deque, init=False)
    """What becomes of the next jobs."""
    refused_datasets: int = field(default=0, init=False)
    """So many of the next datasets fail their validation."""
    cancelled: list[str] = field(default_factory=list, init=False)
    made_datasets: int = field(default=0, init=False)
    most_running: int = field(default=0, init=False)
    _datasets: dict[str, _Dataset] = field(default_factory=dict, init=False)
    _jobs: dict[str, _Job] = field(default_factory=dict, init=False)
    _stuck: list[tuple[float, str, str]] = field(default_factory=list, init=False)

    @property
    def job_limits(self) -> JobLimits:
        return self.limits_of_jobs

    # --- the clock ---

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass, and what was stuck arrive."""
        self.now += seconds
        arrived = [call for call in self._stuck if call[0] <= self.now]
        self._stuck = [call for call in self._stuck if call[0] > self.now]
        for _, dataset_id, name in arrived:
            if dataset_id in self._datasets:
                self._accept(dataset_id, name)

    # --- the port ---

    def embed(self, texts: Sequence[str], input_type: InputType) -> Vectors:
        vectors = HashEmbedder.embed(self, texts, input_type)
        self.billed.update(sha256_16(text.encode()) for text in texts)
        return vectors

    def create_dataset(self, name: str, texts: Path) -> str:
        lines = texts.read_bytes().splitlines()

        def make() -> str:
            assert len(name) < NAMES_BEGIN_AT
            rows = [msgspec.json.decode(line, type=_Row) for line in lines]
            phase, self.refused_datasets = RemotePhase.PENDING, self.refused_datasets - 1
            looks = -1 if self.refused_datasets >= 0 else self.validation_looks
            return self._add(name, {bytes.fromhex(row.hash): row.text for row in rows}, phase, looks)

        return self._make("create_dataset", make)

    def datasets(self, name_prefix: str) -> list[RemoteDataset]:
        def listed() -> list[RemoteDataset]:
            return [
                one.shown
                for one in self._datasets.values()
                if one.shown.name.startswith(name_prefix) and self._is_listed(one.shown.created_at)
            ]

        return self._ask("datasets", listed)

    def dataset(self, id: str) -> RemoteDataset | None:
        def look() -> RemoteDataset | None:
            if id not in self._datasets:
                return None
            one = self._datasets[id]
            if one.looks < 0:
                one.shown = replace(one.shown, phase=RemotePhase.FAILED, reason="line 1 is malformed")
            elif one.looks == 0:
                one.shown = replace(one.shown, phase=RemotePhase.READY)
            one.looks -= one.looks > 0
            return one.shown

        return self._ask("dataset", look)

    def delete_dataset(self, id: str) -> None:
        self._ask("delete_dataset", lambda: self._datasets.pop(id, None))

    def start_job(self, dataset_id: str, name: str) -> str:
        def start() -> str:
            if dataset_id not in self._datasets:
                raise RejectedError(f"dataset {dataset_id} not found")
            return self._accept(dataset_id, name)

        if self._is_next("start_job", Fault.STUCK):
            self._stuck.append((self.now + STUCK_SECONDS, dataset_id, name))
        return self._make("start_job", start)

    def jobs(self) -> list[RemoteJob]:
        return self._ask(
            "jobs", lambda: [one.shown for one in self._jobs.values() if self._is_listed(one.shown.created_at)]
        )

    def job(self, id: str) -> RemoteJob | None:
        return self._ask("job", lambda: self._look_at_job(id))

    def cancel_job(self, id: str) -> None:
        def cancel() -> None:
            self.cancelled.append(id)
            self._end(id, RemotePhase.FAILED, reason="cancelled")

        self._ask("cancel_job", cancel)

    def results(self, output_dataset_id: str) -> Iterator[tuple[list[bytes], Vectors]]:
        rows = self._ask("results", lambda: self._result(output_dataset_id))
        fate = next(
            (one.fate for one in self._jobs.values() if one.shown.output_dataset_id == output_dataset_id), Fate.COMPLETE
        )
        hashes = list(rows)
        if fate is Fate.REORDERED:
            hashes = [*reversed(hashes), *hashes]
        if fate is Fate.MISSING:
            del hashes[0]
        if fate is Fate.FOREIGN:
            yield [bytes(16), b"short"], np.ones((2, self.dimension), dtype=np.float32)
        if fate is Fate.UNSOUND:
            yield hashes[:1], np.full((1, self.dimension), np.nan, dtype=np.float32)
            yield hashes[:1], np.ones((1, self.dimension + 1), dtype=np.float32)
        for start in range(0, len(hashes), ROWS_PER_BATCH):
            some = hashes[start : start + ROWS_PER_BATCH]
            yield some, self._vectors([rows[hash] for hash in some])
            if fate is Fate.CUT and self.called["results"] % 2 == 1:
                raise TransientError("the download was cut")

    # --- behind it ---

    def leave(self, name: str, rows: dict[bytes, str], *, age_seconds: float = 0.0) -> str:
        """Put a dataset there that nobody here has uploaded."""
        id = self._add(name, rows, RemotePhase.READY, 0)
        self._datasets[id].shown = replace(self._datasets[id].shown, created_at=self.now - age_seconds)
        return id

    def start_behind(self, dataset_id: str, name: str) -> str:
        """Start a job that nobody here has started."""
        return self._accept(dataset_id, name)

    def remove(self, id: str) -> None:
        """Let a dataset or a job vanish."""
        self._datasets.pop(id, None)
        self._jobs.pop(id, None)

    @property
    def dataset_names(self) -> list[str]:
        return [one.shown.name for one in self._datasets.values()]

    @property
    def running(self) -> int:
        return sum(one.shown.phase is RemotePhase.PENDING for one in self._jobs.values())

    def _ask(self, what: str, answer: Callable[[], _T]) -> _T:
        """Answer a call that may be repeated."""
        self.called[what] += 1
        match self._next_fault(what):
            case None:
                return answer()
            case Fault.LOST:
                answer()
            case Fault.NO_ACCESS:
                raise ConfigError("invalid api token")
            case Fault.REFUSED:
                raise RejectedError(f"{what} refused")
            case _:
                pass
        raise TransientError(f"{what} failed")

    def _make(self, what: str, make: Callable[[], str]) -> str:
        """Answer a call that makes something."""
        self.called[what] += 1
        match self._next_fault(what):
            case None:
                return make()
            case Fault.LOST:
                make()
                raise UnknownOutcomeError(f"{what}: the answer was lost")
            case Fault.UNSURE | Fault.STUCK:
                raise UnknownOutcomeError(f"{what}: no answer")
            case Fault.REFUSED:
                raise RejectedError(f"{what} refused")
            case Fault.NO_ACCESS:
                raise ConfigError("invalid api token")
            case fault:
                wait_seconds = 7.0 if fault is Fault.NAMED_WAIT else None
                raise TransientError(f"{what}: too many requests", retry_after_seconds=wait_seconds)

    def _next_fault(self, what: str) -> Fault | None:
        return self.faults[what].popleft() if self.faults[what] else None

    def _is_next(self, what: str, fault: Fault) -> bool:
        return bool(self.faults[what]) and self.faults[what][0] is fault

    def _is_listed(self, created_at: float) -> bool:
        return self.now - created_at >= self.list_lag_seconds

    def _add(self, name: str, rows: dict[bytes, str], phase: RemotePhase, looks: int) -> str:
        self.made_datasets += 1  # ids are never used again
        id = f"dataset-{self.made_datasets}"
        self._datasets[id] = _Dataset(RemoteDataset(id, name, phase, "", self.now), rows, looks)
        return id

    def _accept(self, dataset_id: str, name: str) -> str:
        fate = self.fates.popleft() if self.fates else Fate.COMPLETE
        id = f"job-{len(self._jobs) + 1}"
        if fate is not Fate.FAILED or self.failed_jobs_bill:
            self.billed.update(self._datasets[dataset_id].rows.keys())
        shown = RemoteJob(id, name, dataset_id, RemotePhase.PENDING, None, "", None, self.now, 0.0)
        rows = self._datasets[dataset_id].rows
        self._jobs[id] = _Job(shown, rows, fate, self.job_looks)
        if fate is Fate.TWICE:
            again = replace(shown, id=f"{id}-again")
            self._jobs[again.id] = _Job(again, rows, fate, 10_000)
        self.most_running = max(self.most_running, self.running)
        return id

    def _look_at_job(self, id: str) -> RemoteJob | None:
        if id not in self._jobs or self._jobs[id].fate is Fate.VANISHED:
            return None
        one = self._jobs[id]
        if one.shown.phase is RemotePhase.PENDING and one.looks == 0:
            if one.fate is Fate.FAILED:
                self._end(id, RemotePhase.FAILED, reason="out of memory")
            else:
                rows = one.rows
                output_id = self._add(f"{one.shown.name}-output", rows, RemotePhase.READY, 0)
                self._end(id, RemotePhase.READY, output_dataset_id=output_id, billed_tokens=3 * len(rows))
                if one.fate is Fate.RESULT_VANISHED:
                    del self._datasets[output_id]
        one.looks -= one.looks > 0
        return one.shown

    def _end(
        self,
        id: str,
        phase: RemotePhase,
        *,
        reason: str = "",
        output_dataset_id: str | None = None,
        billed_tokens: int | None = None,
    ) -> None:
        if id in self._jobs and self._jobs[id].shown.phase is RemotePhase.PENDING:
            self._jobs[id].shown = replace(
                self._jobs[id].shown,
                phase=phase,
                reason=reason,
                output_dataset_id=output_dataset_id,
                billed_tokens=billed_tokens,
                fraction=1.0,
            )

    def _result(self, output_dataset_id: str) -> dict[bytes, str]:
        if output_dataset_id not in self._datasets:
            raise RejectedError(f"dataset {output_dataset_id} not found")
        return self._datasets[output_dataset_id].rows
