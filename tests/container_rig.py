"""The image of the Dockerfile and containers of it, for tests that run them. They are skipped by name unless asked for.

    VECTOR_SYNC_TEST_CONTAINERS=1     build the image and run it: minutes, a container engine, and the base image
    VECTOR_SYNC_TEST_IMAGE=NAME       take this image instead of building one

Everything that is made has a name that begins with `vector-sync-test-` and goes with the test: containers, volumes, and
what building left behind. Containers have no network, but for those of compose; a service is asked from inside its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest

ROOT = Path(__file__).parent.parent
DEADLINE_SECONDS = 120.0  # of whatever is waited for; two cores, and a file system that is slow under a container
POLL_SECONDS = 0.5
OK = 200
ASK = """
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], headers=dict(it.split(": ", 1) for it in sys.argv[2:]))
try:
    answer = urllib.request.urlopen(request, timeout=10)
except urllib.error.HTTPError as refusal:
    answer = refusal
print(answer.status)
print(answer.read().decode())
"""

T = TypeVar("T")

only_if_asked_for = pytest.mark.skipif(
    os.environ.get("VECTOR_SYNC_TEST_CONTAINERS") != "1",
    reason="the image is built and run only if VECTOR_SYNC_TEST_CONTAINERS=1: see docs/testing.md",
)


def docker(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the container engine, whatever its end."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False)


def right(done: subprocess.CompletedProcess[str]) -> str:
    """Give what a command said, if it ended well."""
    assert done.returncode == 0, f"{done.args}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()


def unique() -> str:
    return f"vector-sync-test-{uuid4().hex[:8]}"


def eventually(find: Callable[[], T | None], *, what: Callable[[], str], seconds: float = DEADLINE_SECONDS) -> T:
    """Give what `find` finds, as soon as it does; fail with what was waited for, as it is then."""
    deadline = time.monotonic() + seconds
    while (found := find()) is None:
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what()}"
        threading.Event().wait(POLL_SECONDS)
    return found


# --- images -------------------------------------------------------------------------------------------


def build(context: Path, name: str) -> str:
    """Build the image of a tree, and give what the build said."""
    return right(docker("build", "--network", "host", "--tag", name, context))


@contextmanager
def built_images() -> Iterator[None]:
    """Remove what builds inside have left, stages and caches included."""
    before = set(right(docker("image", "ls", "--all", "--quiet", "--no-trunc")).split())
    yield
    for _ in range(3):  # an image goes after those that are made from it
        made = set(right(docker("image", "ls", "--all", "--quiet", "--no-trunc")).split()) - before
        if made:
            docker("image", "rm", "--force", *made)


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The image, by its name."""
    if ready := os.environ.get("VECTOR_SYNC_TEST_IMAGE"):
        yield ready
        return
    with built_images():
        name = unique()
        build(ROOT, name)
        yield name


@pytest.fixture
def volume() -> Iterator[str]:
    """An empty volume, by its name."""
    name = unique()
    right(docker("volume", "create", name))
    yield name
    docker("volume", "rm", "--force", name)


# --- containers ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Container:
    """A container that was started; it may have ended."""

    name: str

    def stop(self) -> int:
        """Have it stop within the time that the service is promised, and give its exit code."""
        right(docker("stop", "--time", "30", self.name))
        return self.wait()

    def kill(self) -> None:
        """End it as a power cut does."""
        docker("kill", "--signal", "KILL", self.name)
        self.wait()

    def start(self) -> None:
        right(docker("start", self.name))

    def wait(self) -> int:
        """Wait for its end, and give its exit code."""
        return eventually(self._exit_code, what=lambda: f"the end of {self.name}: {self.logs()[-2000:]}")

    def _exit_code(self) -> int | None:
        state = self.inspect()["State"]
        return None if state["Running"] else int(state["ExitCode"])

    def inspect(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(right(docker("inspect", self.name)))[0]
        return found

    @property
    def health(self) -> str:
        return str(self.inspect()["State"]["Health"]["Status"])

    def logs(self) -> str:
        """Give all it has said, on either stream, since it was made."""
        said = docker("logs", self.name)
        return said.stdout + said.stderr

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        return docker("exec", self.name, *words)

    def ask(self, path: str, *headers: str, port: int = 8090) -> tuple[int, str]:
        """Ask the service inside; give its status and its answer, or 0 if there is none."""
        said = self.run("python3", "-c", ASK, f"http://127.0.0.1:{port}{path}", *headers)
        if said.returncode:
            return 0, said.stderr
        status, _, body = said.stdout.partition("\n")
        return int(status), body

    def is_healthy(self) -> None:
        """Wait until its health check says so."""
        eventually(
            lambda: self.health == "healthy" or None, what=lambda: f"health: {json.dumps(self.inspect()['State'])}"
        )

    # --- of one that serves ---

    def status(self) -> dict[str, Any] | None:
        """Give the state of the only sync; None while nobody answers."""
        code, body = self.ask("/status")
        if code != OK:
            return None
        (sync,) = json.loads(body)["syncs"]
        found: dict[str, Any] = sync
        return found

    def in_step(self, documents: int = 1, *, seconds: float = DEADLINE_SECONDS) -> dict[str, Any]:
        """Wait until the index has so many documents, and no run is under way."""

        def find() -> dict[str, Any] | None:
            found = self.status()
            done = found and found["in_step"] and found["state"] == "idle" and found["runs"]
            return found if found and done and found["sinks"][0]["documents"] == documents else None

        return eventually(
            find, what=lambda: f"{documents} documents in step: {self.status()} {self.logs()[-3000:]}", seconds=seconds
        )

    def last_run(self) -> int:
        """Give the number of the latest run, ended or not."""
        found = self.status()
        assert found, self.logs()[-3000:]
        return max((int(run["id"]) for run in found["runs"]), default=0)

    def runs_since(self, number: int) -> list[dict[str, Any]]:
        """Wait until a run after that one has ended, and give all that have."""

        def find() -> list[dict[str, Any]] | None:
            runs = (self.status() or {"runs": []})["runs"]
            return [run for run in runs if run["id"] > number and run["exit_code"] is not None] or None

        return eventually(find, what=lambda: f"a run after {number}: {self.logs()[-3000:]}")


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with settings and documents, and a volume: all that a sync in a container needs."""

    image: str
    volume: str
    folder: Path

    @classmethod
    def make(cls, image: str, volume: str, folder: Path, settings: str) -> Place:
        """Write the settings. The container's user is none of this machine's, and has to read them."""
        folder.chmod(0o755)
        for name in ("settings", "documents"):
            (folder / name).mkdir()
        (folder / "settings" / "vector-sync.toml").write_text(settings)
        return cls(image, volume, folder)

    def write(self, name: str, text: str) -> None:
        (self.folder / "documents" / name).write_text(text)

    def options(self) -> Sequence[str]:
        """Give what makes a container as strict as the guides have it."""
        return (
            *("--read-only", "--tmpfs", "/tmp", "--network", "none"),
            *("--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"),
            *("--volume", f"{self.folder / 'settings'}:/config:ro", "--volume", f"{self.volume}:/data"),
            *("--volume", f"{self.folder / 'documents'}:/documents:ro"),
        )

    def once(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return docker("run", "--rm", "--no-healthcheck", *self.options(), self.image, *words)

    @contextmanager
    def started(self, *words: str) -> Iterator[Container]:
        """Start a command that goes on; the container goes with the block."""
        name = unique()
        try:
            right(docker("run", "--detach", "--name", name, *self.options(), self.image, *words))
            yield Container(name)
        finally:
            docker("rm", "--force", name)
