"""What is asked of the service all the time, and what is made of the answers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from soak_service import Life, Sample, ServiceUnderTest

PROBE_SECONDS = 0.5
LOOK_SECONDS = 2.5


# --- /status: what it has to tell, at least -------------------------------------------------------------------------


class _Config(msgspec.Struct, frozen=True):
    path: str
    loaded_at: str
    error: str | None


class _Sink(msgspec.Struct, frozen=True):
    name: str
    kind: str
    documents: int
    records: int
    in_doubt: int
    rejected: int
    behind: int
    stopped: str | None
    drift: int | None


class _Progress(msgspec.Struct, frozen=True):
    started_at: str
    trigger: str
    fraction: float
    rows: int
    texts: int
    records: dict[str, int]
    deleted: dict[str, int]
    jobs: list[str]
    told: str | None


class _Place(msgspec.Struct, frozen=True):
    place: str
    sink: str
    reason: str


class _Rejected(msgspec.Struct, frozen=True):
    count: int
    shown: list[_Place]


class _Run(msgspec.Struct, frozen=True):
    id: int
    started_at: str
    seconds: float | None
    exit_code: int | None
    ended: str | None
    trigger: str | None
    added: int
    changed: int
    metadata_only: int
    moved: int
    deleted: int
    unchanged: int
    rejected: int
    texts_embedded: int
    tokens_billed: int | None
    cost: float | None
    currency: str | None
    problems: list[str]


class _Sync(msgspec.Struct, frozen=True):
    name: str
    state: str
    in_step: bool | None
    why: str | None
    question: str | None
    next_run_at: str | None
    next_because: str | None
    last_success_at: str | None
    behind_seconds: int | None
    source: str
    embedder: str
    generation: int | None
    sinks: list[_Sink]
    progress: _Progress | None
    jobs: list[dict[str, Any]]
    rejected: _Rejected
    runs: list[_Run]
    reconcile: dict[str, Any] | None


class _Status(msgspec.Struct, frozen=True):
    version: str
    now: str
    started_at: str
    stopping: bool
    config: _Config
    actions: bool
    show: str
    syncs: list[_Sync]


# --- probes ---------------------------------------------------------------------------------------------


@dataclass
class Watcher:
    """Asks the service all the time, in threads of its own."""

    service: ServiceUnderTest
    wrong: Callable[[str], object]
    stop: threading.Event
    counts: Counter[str] = field(default_factory=Counter)
    waits_ms: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    cannot_work: bool = False  # the settings, for now: /readyz may and has to be 503
    _last: dict[str, float] = field(default_factory=dict)
    _last_life: int = -1
    _is_idle: bool = False

    def probe(self) -> None:
        """Ask /livez and /readyz until stopped."""
        with httpx.Client(base_url=self.service.url, trust_env=False, timeout=15.0) as client:
            while not self.stop.wait(PROBE_SECONDS):
                for path in ("/livez", "/readyz"):
                    self._probe(client, path)

    def look(self) -> None:
        """Read /status and /metrics, and look at the process, until stopped."""
        with httpx.Client(base_url=self.service.url, trust_env=False, timeout=15.0) as client:
            while not self.stop.wait(LOOK_SECONDS):
                self._is_idle = False
                self._look(client, "/status", self._status)
                if sample := self.service.sample(is_idle=self._is_idle):
                    self.samples.append(sample)
                self._look(client, "/metrics", self._metrics)

    def _probe(self, client: httpx.Client, path: str) -> None:
        life, could_work, outages = self._well(), not self.cannot_work, self.service.outages.now
        began = self.service.clock()
        status, told = _asked(client, path)
        is_well = life is not None and life is self._well()  # all the time
        if not is_well or (path == "/readyz" and not (could_work and not self.cannot_work)):
            self.counts[f"{path} {status or 'no answer'} while starting, ending or wrong"] += 1
            return
        self.waits_ms.append(1000 * (self.service.clock() - began))
        self.counts[f"{path} {status or 'no answer'} while well"] += 1
        if path == "/readyz" and status == 200 and "qdrant outage" in outages:
            self.counts["/readyz 200 while a sink was down"] += 1
        if status != 200:
            self.wrong(f"{path} was {status}: {told.strip()}; under way: {self.service.outages.now}")

    def _look(self, client: httpx.Client, path: str, check: Callable[[str], object]) -> None:
        life = self._well()
        status, told = _asked(client, path)
        if life is None or life is not self._well():
            return
        self.counts[f"{path} {status or 'no answer'}"] += 1
        if status != 200:
            self.wrong(f"{path} was {status}: {told[:200]}")
            return
        try:
            check(told)
        except (ValueError, KeyError, msgspec.MsgspecError) as error:
            self.wrong(f"{path} is not as promised: {error}")

    def _status(self, told: str) -> None:
        status = msgspec.json.decode(told, type=_Status)
        for sync in status.syncs:
            self.counts[f"state {sync.state}"] += 1
            self.counts[f"in step: {sync.in_step}"] += 1
            self._is_idle = sync.state == "idle"

    def _metrics(self, told: str) -> None:
        """Parse, and see that no counter goes back within a life."""
        number = self.service.life.number
        if number != self._last_life:
            self._last, self._last_life = {}, number
        for family in text_string_to_metric_families(told):
            for sample in family.samples:
                if any(".md" in value for value in sample.labels.values()):
                    raise ValueError(f"a label names a document: {sample.labels}")
                if family.type == "counter" and not sample.name.endswith("_created"):
                    key = f"{sample.name}{sorted(sample.labels.items())}"
                    if sample.value < self._last.get(key, 0.0):
                        raise ValueError(f"{key} went back from {self._last[key]} to {sample.value}")
                    self._last[key] = sample.value

    def _well(self) -> Life | None:
        """Give the process, if it has been ready and was not told to end."""
        life = self.service.life if self.service.lives else None
        return life if life and life.ready_at is not None and life.ending_at is None else None


def _asked(client: httpx.Client, path: str) -> tuple[int, str]:
    try:
        answer = client.get(path)
    except httpx.HTTPError as error:
        return 0, type(error).__name__
    return answer.status_code, answer.text
