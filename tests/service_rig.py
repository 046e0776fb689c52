"""A service in this process: real settings files, source, state, engine, HTTP and log; an embedder that costs nothing.

    with rig.serving() as service:
        service.wait_for("run_ended", trigger="start")
        service.get("/status")

Nothing sleeps: a test waits for a line of the log, and moves the clock.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import httpx
import pytest
from cli_rig import install

from connector.plugins import BuildContext, EmbedderSettings, SinkSettings
from connector.ports import Embedder, JobLimits, Sink
from connector.service.server import Service
from connector.testing.fake_jobs import FakeJobEmbedder
from connector.testing.fakes import HashEmbedder
from sinks.memory import MemorySink

PATIENCE_SECONDS = 30.0  # that a test waits at most; one that is right waits for a moment
TOKEN = "the-token-of-the-tests"

CONFIG = """
[source]
kind = "files"
path = "{docs}"

[embedder]
kind = "hash"

[sinks.main]
kind = "kept"

[state]
path = "{state}"

[sync]
name = "{name}"
min_delete_count = 1

[service]
"""


def job_service() -> FakeJobEmbedder:
    limits = JobLimits(texts_per_job=100, bytes_per_job=100_000, open_jobs=2, jobs_from=4, settle_seconds=120.0)
    return FakeJobEmbedder(limits_of_jobs=limits)


class HashSettings(EmbedderSettings):
    """The embedder that a test has made: it may fail, hang by its `reject`, or work in jobs."""

    made: ClassVar[HashEmbedder] = HashEmbedder()

    kind: Literal["hash"] = "hash"

    def build(self, context: BuildContext) -> Embedder:
        return self.made


class KeptSettings(SinkSettings):
    """A sink in memory that outlives the run, as a server's does."""

    sinks: ClassVar[dict[tuple[str, str], MemorySink]] = {}

    kind: Literal["kept"] = "kept"

    def build(self, context: BuildContext) -> Sink:
        return self.sinks.setdefault((context.owner, context.name), MemorySink(context.name))


class LogLines(io.StringIO):
    """A log that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.changed = threading.Condition()

    def write(self, text: str) -> int:
        with self.changed:
            self.lines += [json.loads(line) for line in text.splitlines() if line]
            self.changed.notify_all()
        return super().write(text)

    def wait_for(self, event: str, count: int = 1, **fields: object) -> dict[str, Any]:
        """Wait for the n-th line of an event with these fields."""

        def found() -> list[dict[str, Any]]:
            return [it for it in self.lines if it["event"] == event and fields.items() <= it.items()]

        with self.changed:
            assert self.changed.wait_for(lambda: len(found()) >= count, PATIENCE_SECONDS), self.lines
            return found()[count - 1]

    def of(self, event: str) -> list[dict[str, Any]]:
        with self.changed:
            return [line for line in self.lines if line["event"] == event]


class Clock:
    """The time of day, which a test sets."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_seconds


@dataclass(slots=True)
class Serving:
    """A service that answers."""

    service: Service
    log: LogLines
    clock: Clock
    client: httpx.Client

    def wait_for(self, event: str, count: int = 1, **fields: object) -> dict[str, Any]:
        return self.log.wait_for(event, count, **fields)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def post(self, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        return self.client.post(path, json=body, headers={"Authorization": f"Bearer {TOKEN}"})

    def sync(self, name: str | None = None) -> dict[str, Any]:
        """What /status says of a sync; of the first, if none is named."""
        syncs: list[dict[str, Any]] = self.get("/status").json()["syncs"]
        return next(it for it in syncs if name in (None, it["name"]))

    def until(self, holds: Callable[[dict[str, Any]], bool], name: str | None = None) -> dict[str, Any]:
        """Ask for the status until something holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds(told := self.sync(name)):
            assert time.monotonic() < deadline, told
        return told

    def advance(self, seconds: float) -> None:
        """Set the clock on, and let all syncs know."""
        self.clock.ahead_seconds += seconds
        for runner in self.service.runners.values():
            runner.poke()


@dataclass(slots=True)
class ServiceRig:
    """A folder with settings files and documents."""

    folder: Path
    path: Path = field(init=False)

    def __post_init__(self) -> None:
        self.path = self.folder / "docs.toml"
        self.configure()
        for name in ("cats", "dogs", "owls"):
            self.write(f"{name}.md", f"All there is to know about {name}.")

    def configure(self, service: str = 'interval = "1h"\nwatch = false', *, name: str = "docs", more: str = "") -> None:
        """Write a sync's settings file; `service` is its [service]."""
        text = CONFIG.format(docs=name, state=f"state-{name}", name=name) + service + "\n" + more
        (self.folder / f"{name}.toml").write_text(text)
        (self.folder / name).mkdir(exist_ok=True)

    def write(self, name: str, text: str, *, sync: str = "docs") -> None:
        (self.folder / sync / name).write_text(text)

    def held(self, name: str = "docs") -> set[str]:
        """The texts that the sink of a sync has."""
        sink = KeptSettings.sinks.get((name, "main"))
        return {record.text for record in sink.records.values()} if sink else set()

    @contextmanager
    def serving(self, path: Path | None = None) -> Iterator[Serving]:
        """Serve in a thread; when the body has ended, stop, and see that it ends in order."""
        log, clock = LogLines(), Clock()
        with Service.open(path or self.path, stream=log, now=clock) as service:
            thread = threading.Thread(target=service.run)
            thread.start()
            try:
                with httpx.Client(base_url=service.url, trust_env=False, timeout=PATIENCE_SECONDS) as client:
                    yield Serving(service, log, clock, client)
            finally:
                service.stop()
                thread.join(PATIENCE_SECONDS)
        assert service.ended_in_order
        assert not thread.is_alive()


@pytest.fixture
def rig(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ServiceRig:
    install(monkeypatch, {"embedders": {"hash": HashSettings}, "sinks": {"kept": KeptSettings}})
    monkeypatch.setenv("VECTOR_SYNC_SERVICE__TOKEN", TOKEN)
    monkeypatch.setenv("VECTOR_SYNC_SERVICE__PORT", "0")
    KeptSettings.sinks.clear()
    HashSettings.made = HashEmbedder()
    return ServiceRig(folder)
