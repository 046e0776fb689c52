"""`vector-sync serve` as a process: signals, kills, and what it says on its streams."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

CONFIG = """
[source]
kind = "files"
path = "docs"

[embedder]
kind = "local"

[sinks.main]
kind = "qdrant-edge"
path = "state/index"
min_free_bytes = 0

[state]
path = "state"

[service]
port = 0
interval = "1h"
show = "text"
log_level = "debug"
"""
COMMAND = [sys.executable, "-m", "connector"]
PATIENCE_SECONDS = 60.0


class Process:
    """A service that was started by its command."""

    def __init__(self, folder: Path, running: subprocess.Popen[str]) -> None:
        self.folder, self.running = folder, running
        assert running.stdout
        line = running.stdout.readline()
        assert line.startswith("serving http://127.0.0.1:"), (line, running.stderr and running.stderr.read())
        self.url = line.split()[1]

    def wait_for(self, event: str, **fields: object) -> dict[str, object]:
        """Read the log until it has a line."""
        assert self.running.stderr
        for line in self.running.stderr:
            told: dict[str, object] = json.loads(line)
            if told["event"] == event and fields.items() <= told.items():
                return told
        raise AssertionError(f"the log ended without {event}")

    def end(self, number: int) -> int:
        self.running.send_signal(number)
        return self.running.wait(PATIENCE_SECONDS)


@contextmanager
def process(folder: Path) -> Iterator[Process]:
    """Start a service in a folder; end it if it has not ended."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VECTOR_SYNC_")}
    with subprocess.Popen(
        [*COMMAND, "serve"],
        cwd=folder,
        env=environment | {"VECTOR_SYNC_CONFIG": "vector-sync.toml"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        watchdog = threading.Timer(PATIENCE_SECONDS, running.kill)  # then whoever reads its log comes to the end
        watchdog.start()
        try:
            yield Process(folder, running)
        finally:
            watchdog.cancel()
            running.kill()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "vector-sync.toml").write_text(CONFIG)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "ferry.md").write_text("# The ferry\n\nThe ferry leaves at nine.\n")
    return tmp_path


def many(project: Path) -> None:
    for number in range(800):
        (project / "docs" / f"{number}.md").write_text(f"Lighthouse number {number} is {number * 7} metres high.\n")


def ask(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], cwd=project, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )


def test_it_syncs_searches_and_ends_with_0_when_it_is_told_to(project: Path) -> None:
    with process(project) as service:
        service.wait_for("run_ended", trigger="start", exit_code=0)
        found = httpx.get(f"{service.url}/search", params={"q": "when does the boat go?"}, timeout=30, trust_env=False)
        assert found.json()["hits"][0]["document_id"] == "ferry.md"
        (project / "docs" / "new.md").write_text("The harbour has a lighthouse.\n")
        service.wait_for("run_ended", trigger="watch", exit_code=0, added=1)
        service.running.send_signal(signal.SIGUSR1)
        assert service.wait_for("status")["stopping"] is False
        service.running.send_signal(signal.SIGHUP)
        service.wait_for("reloaded")
        assert service.end(signal.SIGTERM) == 0
        service.wait_for("stopped", in_order=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_stopped_in_the_middle_of_a_run_the_next_start_goes_on_from_there(project: Path, number: int) -> None:
    many(project)
    with process(project) as service:
        service.wait_for("texts_embedded")
        assert service.end(number) == (0 if number == signal.SIGTERM else -number)
    with process(project) as service:
        ended = service.wait_for("run_ended", trigger="start", exit_code=0)
        assert ended["added"] + ended["unchanged"] == 801  # type: ignore[operator]  # numbers
        assert ended["texts_embedded"] < 801, "what was embedded before is not embedded again"  # type: ignore[operator]
        assert service.end(signal.SIGINT) == 0
    verified = ask(project, "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_signals_that_come_while_it_ends_are_as_good_as_those_before(project: Path) -> None:
    many(project)
    with process(project) as service:
        service.wait_for("run_started")
        service.running.send_signal(signal.SIGTERM)
        service.wait_for(f"Finished server process [{service.running.pid}]")
        service.running.send_signal(signal.SIGHUP)
        service.running.send_signal(signal.SIGUSR1)
        ended = service.end(signal.SIGTERM)
        assert ended in (0, 128 + signal.SIGTERM, -signal.SIGTERM)  # the last two: it came when all had ended
        service.wait_for("stopped")


def test_a_second_one_leaves_with_75_and_commands_beside_it_work(project: Path) -> None:
    with process(project) as service:
        service.wait_for("run_ended", exit_code=0)
        second = ask(project, "serve")
        assert (second.returncode, second.stdout) == (75, "")
        assert "another service has the sync vector-sync" in second.stderr
        assert ask(project, "sync").returncode == 0
        assert ask(project, "status").returncode == 0
        assert service.end(signal.SIGTERM) == 0


def test_a_probe_asks_the_service_that_the_settings_name(project: Path) -> None:
    with process(project) as service:
        port = service.url.rpartition(":")[2]
        settings = CONFIG.replace("port = 0", f"port = {port}")
        (project / "vector-sync.toml").write_text(settings)
        service.wait_for("run_ended", exit_code=0)
        for what in ("livez", "readyz", "startupz"):
            told = ask(project, "probe", what)
            assert (told.returncode, told.stdout) == (0, "ok\n")
        assert service.end(signal.SIGTERM) == 0
    told = ask(project, "probe")
    assert (told.returncode, told.stdout) == (1, "")
    assert "does not answer" in told.stderr


@pytest.mark.parametrize(
    "settings, told",
    [
        (CONFIG.replace('"1h"', '"soon"'), "[service] interval: should be a length of time"),
        (CONFIG.replace('kind = "local"', 'kind = "lcal"'), 'unknown kind "lcal"'),
        (CONFIG.replace("port = 0", 'host = "192.0.2.1"'), "cannot listen on 192.0.2.1"),
    ],
)
def test_what_cannot_work_is_told_in_a_line_and_is_exit_code_2(project: Path, settings: str, told: str) -> None:
    (project / "vector-sync.toml").write_text(settings)
    refused = ask(project, "serve")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert told in refused.stderr
    assert refused.stderr.count("\n") == 1
