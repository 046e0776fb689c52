"""Real processes, really killed, at every effect they have and at random moments; real files, store and threads."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedjobs_bench import read_parts
from embedjobs_child import BLOCK_ROWS, PHASES, SHOWN, is_to_be_cancelled, is_to_be_deleted, wanted_jobs, words
from embedjobs_fakes import CountingModel, text_hash

from connector.embedjobs.values import InputType, Part, Truncate

CHILD = Path(__file__).with_name("embedjobs_child.py")
KILLS = 100
DEADLINE_SECONDS = 60.0


class Processes:
    """Starts processes of the service, one at a time."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def start(self, folder: Path, goal: int, *, threads: bool = False, effect: int = 0, when: str = "before") -> int:
        """Start a process; gives its id."""
        folder.mkdir(exist_ok=True)
        (folder / "phases").write_bytes(bytes(len(SHOWN)))
        order = {"folder": str(folder), "goal": goal, "threads": threads, "effect": effect, "when": when}
        self._order(json.dumps(order))
        return int(self._answer()["pid"])

    def ended(self) -> tuple[int, list[str]]:
        """Wait for its end; gives its status and, if it was not killed, its effects."""
        self._order("wait")
        effects: list[str] = []
        while "status" not in (answer := self._answer()):
            effects = answer["effects"]
        return answer["status"], effects

    def run(self, folder: Path, goal: int, **how: Any) -> tuple[int, list[str]]:
        self.start(folder, goal, **how)
        return self.ended()

    def _order(self, line: str) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.write(line + "\n")
        self._parent.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._parent.stdout is not None
        answer: dict[str, Any] = json.loads(self._parent.stdout.readline())
        return answer

    def close(self) -> None:
        self._parent.communicate(timeout=DEADLINE_SECONDS)


@pytest.fixture
def processes() -> Iterator[Processes]:
    with closing(Processes()) as processes:
        yield processes


# --- what is there, read behind the store's back -------------------------------------------------------


@contextmanager
def database(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy: the next process is to find the files as the killed one left them."""
    copy = folder / "copy"
    copy.mkdir()
    for name in ("embed-jobs.sqlite", "embed-jobs.sqlite-wal"):
        if (folder / "state" / name).exists():
            shutil.copy(folder / "state" / name, copy / name)
    with closing(sqlite3.connect(copy / "embed-jobs.sqlite")) as db:
        db.row_factory = sqlite3.Row
        yield db
    shutil.rmtree(copy)


def lines(job: str, type: InputType, rows: int | None = None) -> list[str]:
    """What the model notes of a job's first rows."""
    number = int(job.removeprefix("job ").split(".")[0])
    return [text_hash(text, type) for text in words(number)[:rows]]


@dataclass
class Saved:
    """Watches what the kills leave: all that the database names is there, and is not embedded again later."""

    folder: Path
    seen: list[tuple[int, frozenset[str]]] = field(default_factory=list)

    def look(self) -> None:
        """Note, while no process runs, which texts are saved, and how long the model's list is."""
        finished: set[str] = set()
        with database(self.folder) as db:
            if db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'job'").fetchone():
                self._look_for_files(db)
                for name, rows in db.execute("SELECT options ->> 'name', rows_done FROM job"):
                    number = int(name.removeprefix("job ").split(".")[0])
                    finished.update(lines(name, wanted_jobs(number)[name], rows))
        self.seen.append((len(self.embedded()), frozenset(finished)))

    def _look_for_files(self, db: sqlite3.Connection) -> None:
        datasets = self.folder / "state" / "datasets"
        for id, name in db.execute("SELECT id, original FROM dataset WHERE original <> ''"):
            assert (datasets / id / name).exists(), "an upload is gone that the database names"
        for owner, name, size_bytes in db.execute("SELECT owner, name, size_bytes FROM part"):
            assert (datasets / owner / name).stat().st_size >= size_bytes, "a part is shorter than it is recorded"

    def embedded(self) -> list[str]:
        path = self.folder / "embedded"
        return path.read_text().splitlines() if path.exists() else []

    def check(self) -> None:
        embedded = self.embedded()
        for length, finished in self.seen:
            again = finished.intersection(embedded[length:])
            assert not again, "embedded again after it was saved"

    def wasted(self) -> int:
        """How many texts were embedded in vain."""
        embedded = self.embedded()
        return len(embedded) - len(set(embedded))


def assert_all_is_right(folder: Path, goal: int) -> None:
    """Compare all that is in a folder with what was acknowledged and wanted, when there is nothing more to do."""
    state = folder / "state"
    acknowledged = dict(line.split("\t") for line in (folder / "acknowledged").read_text().splitlines())
    files: dict[str, set[str]] = {}
    with database(folder) as db:
        assert [row[0] for row in db.execute("PRAGMA integrity_check")] == ["ok"]
        parts: dict[str, list[Part]] = {}
        for row in db.execute("SELECT * FROM part ORDER BY owner, number"):
            part = Part(row["name"], row["number"], row["size_bytes"], row["rows"])
            parts.setdefault(row["owner"], []).append(part)
        datasets = {row["id"]: row for row in db.execute("SELECT * FROM dataset")}
        jobs = {row["id"]: row for row in db.execute("SELECT *, options ->> 'name' AS name FROM job")}
        inputs = "SELECT name FROM dataset WHERE type = 'embed-input' UNION ALL SELECT options ->> 'name' FROM job"
        named = Counter(row[0] for row in db.execute(inputs))
    for number in range(goal):
        id = acknowledged[f"dataset {number}"]
        assert (f"delete {number}" in acknowledged) == is_to_be_deleted(number)
        assert named[f"dataset {number}"] == (0 if is_to_be_deleted(number) else 1)
        if is_to_be_deleted(number):
            assert id not in datasets
        else:
            assert datasets[id]["status"] == "validated"
            assert rows_of(state, id, parts) == [{"text": text, "n": n} for n, text in enumerate(words(number))]
        for name, type in wanted_jobs(number).items():
            job = jobs[acknowledged[name]]
            assert (job["name"], named[name]) == (name, 1)
            if acknowledged.get(f"cancel {name}") == "cancelling":
                assert job["status"] == "cancelled"
            if job["status"] == "cancelled":
                assert is_to_be_cancelled(name)
                assert job["output"] not in datasets
                assert job["output"] not in parts
                continue
            assert job["status"] == "complete"
            assert datasets[job["output"]]["status"] == "validated"
            found = rows_of(state, job["output"], parts)
            assert [(row["text"], row["n"]) for row in found] == [(text, n) for n, text in enumerate(words(number))]
            right = CountingModel().embed(words(number), input_type=type, truncate=Truncate.END).vectors
            assert np.array_equal(np.array([row["embeddings"]["float"] for row in found], dtype=np.float32), right)
    for id, dataset in datasets.items():
        files[id] = {part.name for part in parts[id]} | ({dataset["original"]} - {""})
        assert sum((state / "datasets" / id / name).stat().st_size for name in files[id]) == dataset["size_bytes"]
    assert parts.keys() == datasets.keys()
    assert {it.name: {file.name for file in it.iterdir()} for it in (state / "datasets").iterdir()} == files
    assert not list((state / "uploads").iterdir())
    assert {it.name for it in state.iterdir()} == {"lock", "url-key", "embed-jobs.sqlite", "datasets", "uploads"}


def rows_of(state: Path, id: str, parts: dict[str, list[Part]]) -> list[dict[str, Any]]:
    for part in parts[id]:
        assert (state / "datasets" / id / part.name).stat().st_size == part.size_bytes
    return read_parts(state / "datasets" / id, parts[id])


# --- every effect ---------------------------------------------------------------------------------------

GOAL = 2
"""Two datasets with three jobs, of which one is cancelled; one dataset is deleted at last."""

IS_ASKED: dict[str, Callable[[str], bool]] = {
    "before": lambda _name: True,
    "torn": lambda name: name == "write",
    "after": lambda name: name.startswith("store."),  # of the others, it is the moment before the next
}


@pytest.mark.slow
@pytest.mark.parametrize("when", list(IS_ASKED))
def test_killed_at_any_effect_the_next_start_puts_it_right(folder: Path, processes: Processes, when: str) -> None:
    status, effects = processes.run(folder / "whole", GOAL)
    assert status == 0
    assert len(effects) > 150
    assert {"store.complete", "store.cancelled", "rename", "rmdir"} <= set(effects)
    assert_all_is_right(folder / "whole", GOAL)
    for effect, name in enumerate(effects, start=1):
        if not IS_ASKED[when](name):
            continue
        place = folder / f"{effect}"
        saved = Saved(place)
        assert processes.run(place, GOAL, effect=effect, when=when)[0] == -signal.SIGKILL, name
        saved.look()
        if effect % 4 == 0:  # and once more, while it recovers
            assert processes.run(place, GOAL, effect=effect // 4 % 12 + 1, when=when)[0] == -signal.SIGKILL
            saved.look()
        assert processes.run(place, GOAL)[0] == 0, name
        assert_all_is_right(place, GOAL)
        saved.check()
        assert saved.wasted() <= 2 * BLOCK_ROWS, "at most the block at hand is embedded again"
        shutil.rmtree(place)


# --- random moments -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_a_hundred_times_nothing_is_lost_doubled_left_over_or_embedded_again(
    folder: Path, processes: Processes
) -> None:
    chance = random.Random(3)
    saved = Saved(folder)
    met: Counter[str] = Counter()
    kills = goal = 0
    while kills < KILLS or any(met[phase] < KILLS // 10 for phase in PHASES):
        target = min(PHASES, key=lambda phase: (met[phase] >= KILLS // 10, chance.random()))
        if target in ("upload", "validation"):
            goal += 1  # something to be met in it
        pid = processes.start(folder, goal, threads=True)
        if phase_begins(folder, target):
            let_pass(chance.uniform(0, 0.004))
        os.kill(pid, signal.SIGKILL)
        status, _ = processes.ended()
        if status == 0:
            goal += 1
            continue
        assert status == -signal.SIGKILL
        kills += 1
        met.update(phase for phase, byte in zip(SHOWN, (folder / "phases").read_bytes(), strict=True) if byte)
        saved.look()
    assert processes.run(folder, goal, threads=True)[0] == 0
    assert_all_is_right(folder, goal)
    saved.check()
    assert saved.wasted() <= kills * BLOCK_ROWS


def phase_begins(folder: Path, phase: str) -> bool:
    """Wait until the process is in a phase; False if it has ended, or does not come to that."""
    deadline = time.monotonic() + 1.0
    with (folder / "phases").open("rb", buffering=0) as file:
        while time.monotonic() < deadline:
            shown = dict(zip(SHOWN, os.pread(file.fileno(), len(SHOWN), 0), strict=True))
            if shown[phase] or shown["done"]:
                return bool(shown[phase])
            time.sleep(0.0002)
    return False


def let_pass(seconds: float) -> None:
    """Wait less than a scheduler would."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


# --- crashes of our own ---------------------------------------------------------------------------------

FIRST_READERS = """
import os, sys, threading
from connector.embedjobs.tables import as_job

OPTIONS = '{"model":"m","requested_model":"m","input_type":"clustering","embedding_types":["float"],"truncate":"END"}'
ROW = ("id", OPTIONS, "processing", 0, 0, "in", "out", 1, 0, 0, 0, "")

def read(together):
    together.wait()
    for _ in range(20):
        as_job(ROW, {})

sys.setswitchinterval(1e-6)
for _ in range(100):
    pid = os.fork()
    if not pid:
        together = threading.Barrier(4)
        threads = [threading.Thread(target=read, args=(together,)) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        sys.exit(f"ended with {status}")
"""


def test_threads_that_are_the_first_to_read_a_job_do_not_crash_the_process() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FIRST_READERS],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )
    assert ended.returncode == 0, ended.stderr
