"""The service under test: `vector-sync serve` as a process, its orders, and what is seen of it from outside."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from soak_servers import DIMENSION
from soak_world import GUARD_SHARE, Outages

TOKEN = "the-token-of-the-soak"
PATIENCE_SECONDS = 60.0
GRACE_SECONDS = 25
SETTINGS = """
[source]
kind = "files"
path = "docs"

[embedder]
kind = "openai"
base_url = "{embeddings}"
model = "hash"
dimension = {dimension}
tokens_per_text = 256
texts_per_call = 16
timeout_seconds = 10.0

[sinks.server]
kind = "qdrant"
url = "{qdrant}"
timeout_seconds = 10

[sinks.folder]
kind = "qdrant-edge"

[state]
path = "state"

[sync]
min_delete_count = {guard}

[service]
port = {port}
interval = "{interval}s"
watch = {watch}
show = "names"
grace_seconds = {grace}
"""


def command() -> list[str]:
    """Give the command as it is installed beside this Python."""
    installed = Path(sys.executable).parent / "vector-sync"
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "connector"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds at a time."""

    at: float
    life: int
    at_rest: bool  # no run is under way, no folder is watched: what it holds then can be compared
    rss_mb: float
    files: int
    threads: int

    def told(self) -> str:
        """One line of the report."""
        rest = "at rest" if self.at_rest else ""
        return f"{self.at:.1f} life {self.life} {self.rss_mb:.1f} MB {self.files} files {self.threads} threads {rest}"


@dataclass(slots=True)
class Life:
    """One process of the service."""

    number: int
    process: subprocess.Popen[bytes]
    started_at: float
    ready_at: float | None = None
    ending_at: float | None = None  # when it was told to end, or killed
    killed_at: float | None = None


@dataclass
class ServiceUnderTest:
    """Starts, orders and ends the service. What is wrong is told to `wrong`."""

    folder: Path
    embeddings_url: str
    qdrant_url: str
    interval: float
    documents: int
    outages: Outages
    wrong: Callable[[str], object]
    clock: Callable[[], float] = time.monotonic
    lives: list[Life] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)  # what was ordered, how often

    def __post_init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.path = self.folder / "vector-sync.toml"
        self.log_path = self.folder / "service.log"
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=15.0)
        self.watch = False
        self.configure(watch=False)

    def configure(self, *, watch: bool, more: str = "") -> None:
        """Write the settings."""
        text = SETTINGS.format(
            embeddings=self.embeddings_url,
            qdrant=self.qdrant_url,
            dimension=DIMENSION,
            guard=round(GUARD_SHARE * self.documents),
            port=self.port,
            interval=f"{self.interval:g}",
            watch=str(watch).lower(),
            grace=GRACE_SECONDS,
        )
        self.path.write_text(text + more)
        if not more:
            self.watch = watch

    # --- its process ----------------------------------------------------------------------------------

    @property
    def life(self) -> Life:
        return self.lives[-1]

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                [*command(), "--config", str(self.path), "serve"],
                cwd=self.folder,
                env=self._environment(),
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        life = Life(len(self.lives), process, self.clock())
        self.lives.append(life)
        if not self.until(lambda: self.answers("/readyz") == 200):
            raise SystemExit(f"not ready {PATIENCE_SECONDS:.0f} s after its start; exit code {process.poll()}")
        life.ready_at = self.clock()

    def kill(self) -> None:
        """End it as a power cut does."""
        self.life.ending_at = self.life.killed_at = self.clock()
        self.life.process.kill()
        self.life.process.wait()

    def terminate(self) -> None:
        """End it in order."""
        self.life.ending_at = self.clock()
        self.life.process.terminate()
        try:
            code = self.life.process.wait(GRACE_SECONDS + 5)
        except subprocess.TimeoutExpired:
            self.wrong(f"TERM did not end it within {GRACE_SECONDS + 5} s")
            self.kill()
            return
        took = self.clock() - self.life.ending_at
        self.notes["longest TERM, ms"] = max(self.notes["longest TERM, ms"], round(1000 * took))
        if code != 0:
            self.wrong(f"TERM ended it with exit code {code}")

    def close(self) -> None:
        """End it whatever it does."""
        if self.lives and self.life.process.poll() is None:
            self.life.process.kill()
            self.life.process.wait()
        self.client.close()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command beside it."""
        return subprocess.run(
            [*command(), "--config", str(self.path), *arguments],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )

    def sample(self, *, is_idle: bool) -> Sample | None:
        """Look at what its process holds; None while there is none."""
        life = self.life
        here = Path(f"/proc/{life.process.pid}")
        try:
            status = (here / "status").read_text()
            files = len([*(here / "fd").iterdir()])
        except OSError:
            return None
        found = {name: int(number) for name, number in re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.MULTILINE)}
        if "VmRSS" not in found or life.ending_at is not None:
            return None
        at_rest = is_idle and not self.watch
        return Sample(self.clock(), life.number, at_rest, found["VmRSS"] / 1024, files, found["Threads"])

    # --- its answers ----------------------------------------------------------------------------------

    def answers(self, path: str) -> int:
        """Give the status of an answer; 0 if there is none."""
        try:
            return self.client.get(path).status_code
        except httpx.HTTPError:
            return 0

    def status(self) -> dict[str, Any] | None:
        try:
            told: dict[str, Any] = self.client.get("/status").json()
        except (httpx.HTTPError, ValueError):
            return None
        return told

    def sync(self) -> dict[str, Any]:
        """What /status says of the one sync; empty if nothing."""
        told = self.status()
        sync: dict[str, Any] = told["syncs"][0] if told else {}
        return sync

    def post(self, path: str, body: dict[str, Any] | None = None, *, token: str = TOKEN) -> int:
        try:
            return self.client.post(path, json=body, headers={"Authorization": f"Bearer {token}"}).status_code
        except httpx.HTTPError:
            return 0

    def until(self, holds: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
        """Wait for something; tell whether it came."""
        deadline = self.clock() + seconds
        while not holds():
            if self.clock() > deadline:
                return False
            threading.Event().wait(0.1)
        return True

    def expect(self, what: str, holds: Callable[[], bool], seconds: float) -> None:
        """Wait for something that has to come in time."""
        began = self.clock()
        if not self.until(holds, seconds):
            self.wrong(f"within {seconds:.0f} s it did not come that {what}")
        name = f"longest wait until {what}, ms"
        self.notes[name] = max(self.notes[name], round(1000 * (self.clock() - began)))

    def log_lines(self) -> Iterator[dict[str, Any]]:
        """Give the lines of its log; one that is no JSON is wrong, but for the last of one that was killed."""
        broken = 0
        for line in self.log_path.read_text(errors="replace").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                broken += 1
                if broken > sum(life.killed_at is not None for life in self.lives):
                    self.wrong(f"a line of the log is no JSON: {line[:200]}")

    def _environment(self) -> dict[str, str]:
        return os.environ | {"VECTOR_SYNC_SERVICE__TOKEN": TOKEN}
