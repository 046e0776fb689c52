"""A service without HTTP in processes of its own, which kill themselves at their n-th effect, or are killed.

    python embedjobs_child.py

Reads orders from its standard input, a line of JSON each, and answers each with lines of JSON:

    {"folder": ..., "goal": 3, "threads": false, "effect": 17, "when": "before"}
    {"pid": 4711}
    wait                                                  an order, too: until then the id is not given to another
    {"effects": ["mkdir", "store.add_dataset", ...]}      unless it was killed
    {"status": -9}

Each order is done in a fork, which is as new as a new process but starts in a millisecond: nothing was opened before.
Everything is real but the model: files, SQLite, threads, and SIGKILL. `when` is "before" the effect, "after" it, or
"torn": half of what is written is written. Effect 0 never comes.

A client is in the process, too. It notes in `acknowledged` what the service told it, and goes on from there.
"""

from __future__ import annotations

import faulthandler
import io
import json
import mmap
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from embedjobs_bench import jsonl
from embedjobs_fakes import CountingModel

from connector.embedjobs import parts, validation, validator
from connector.embedjobs.events import BugFound, Event
from connector.embedjobs.jobs import JobRun
from connector.embedjobs.models import Catalogue, Embedded
from connector.embedjobs.store import Store
from connector.embedjobs.values import DatasetOptions, InputType, JobOptions, Truncate, ValidationStatus
from connector.embedjobs.workers import Workers

BLOCK_ROWS = 4
PART_BYTES = 700  # two or three blocks
PHASES = ("upload", "validation", "embedding", "writing")
SHOWN = (*PHASES, "done")

STORE_EFFECTS = (
    "add_dataset",
    "next_to_validate",
    "validated",
    "add_job",
    "save_progress",
    "complete",
    "cancel",
    "cancelled",
    "delete_dataset",
)
OS_EFFECTS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")


# --- what the client wants; the same in every process -------------------------------------------------


def words(number: int) -> list[str]:
    """The texts of the client's n-th dataset."""
    return [f"text {row} of dataset {number}" for row in range(3 + number * 37 % 60 if number > 1 else 9 + 2 * number)]


def wanted_jobs(number: int) -> dict[str, InputType]:
    """The jobs on the n-th dataset, by name. Two jobs never embed the same text as the same input type."""
    types = list(InputType)
    return {f"job {number}.{n}": types[n] for n in range(1 + number % 2)}


def is_to_be_cancelled(job: str) -> bool:
    return job.endswith(".1")


def is_to_be_deleted(number: int) -> bool:
    """Whether the n-th dataset is deleted when its jobs are over."""
    return number % 3 == 1


class Client:
    """Uploads, starts, cancels and deletes, each once; what was acknowledged outlives it."""

    def __init__(self, folder: Path, store: Store, phases: Phases, effects: Effects) -> None:
        self._effects = effects
        self._path = folder / "acknowledged"
        self._store = store
        self._phases = phases
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self.known: dict[str, str] = dict(line.split("\t") for line in lines)
        self._finished: set[int] = set()

    def _note(self, what: str, id: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._effects.make("note", lambda: os.write(descriptor, f"{what}\t{id}\n".encode()))
        os.close(descriptor)
        self.known[what] = id

    def advance(self, number: int) -> bool:
        """Do the next thing for the n-th dataset; False if there is none now."""
        if number in self._finished:
            return False
        name = f"dataset {number}"
        if name not in self.known:
            found = [it.id for it in self._store.datasets() if it.name == name]  # killed before it was noted
            self._note(name, found[0] if found else self._upload(name, number))
            return True
        jobs = wanted_jobs(number).items()
        if any(self._advance_job(number, job, type) for job, type in jobs) or self._delete(number):
            return True
        if self._are_over(number) and is_to_be_deleted(number) == (f"delete {number}" in self.known):
            self._finished.add(number)
        return False

    def _upload(self, name: str, number: int) -> str:
        with self._phases.of("upload"):
            path = self._store.new_upload()
            content = jsonl(words(number))
            with path.open("wb") as file:
                for start in range(0, len(content), 512):
                    file.write(content[start : start + 512])
            options = DatasetOptions(keep_fields=("n",), keep_original_file=number % 2 == 0)
            return self._store.add_dataset(path, name=name, file_name="data.jsonl", options=options).id

    def _advance_job(self, number: int, name: str, type: InputType) -> bool:
        if name not in self.known:
            dataset = self._store.dataset(self.known[f"dataset {number}"])
            if dataset.status is not ValidationStatus.VALIDATED:
                return False
            found = [job.id for job in self._store.jobs() if job.options.name == name]
            options = JobOptions("hash", "hash", input_type=type, name=name)
            self._note(name, found[0] if found else self._store.add_job(dataset.id, options).id)
            return True
        job = self._store.job(self.known[name])
        cancel = f"cancel {name}"
        if is_to_be_cancelled(name) and cancel not in self.known and (job.progress.blocks or not job.status.is_open):
            self._note(cancel, self._store.cancel(job.id).status)
            return True
        return False

    def _delete(self, number: int) -> bool:
        delete = f"delete {number}"
        if not is_to_be_deleted(number) or delete in self.known or not self._are_over(number):
            return False
        id = self.known[f"dataset {number}"]
        if self._store.has_dataset(id):
            self._store.delete_dataset(id)
        self._note(delete, id)
        return True

    def _are_over(self, number: int) -> bool:
        names = wanted_jobs(number)
        return all(name in self.known and not self._store.job(self.known[name]).status.is_open for name in names)

    def has_all(self, goal: int) -> bool:
        """Tell whether nothing more is to be done, or to come."""
        return len(self._finished) == goal


# --- how a process dies ---------------------------------------------------------------------------------


class Effects:
    """Counts the effects on the world, and kills the process around the n-th."""

    def __init__(self, at: int, when: str) -> None:
        self.names: list[str] = []
        self._at = at
        self._when = when
        self._lock = threading.Lock()

    def _is_it(self, name: str) -> bool:
        with self._lock:
            self.names.append(name)
            return len(self.names) == self._at

    def make(self, name: str, effect: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        is_it = self._is_it(name)
        if is_it and self._when == "torn" and half is not None:
            half()
        if is_it and self._when != "after":
            die()
        try:
            return effect()
        finally:
            if is_it:
                die()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **named: self.make(name, lambda: function(*arguments, **named))

    def install(self) -> None:
        """Watch this process's files."""
        for name in OS_EFFECTS:
            setattr(os, name, self.wrap(name, getattr(os, name)))
        opened = io.open

        def watched(path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if mode not in ("wb", "r+b"):
                return opened(path, mode, *arguments, **named)
            return WatchedFile(self, opened(path, mode, buffering=0))

        io.open = watched  # type: ignore[assignment]

    def watch(self, store: Store) -> None:
        """Watch a store's methods, and each statement of its database."""
        for name in STORE_EFFECTS:
            setattr(store, name, self.wrap(f"store.{name}", getattr(store, name)))
        store._tables._db.set_trace_callback(self._statement)

    def _statement(self, statement: str) -> None:
        kind = statement.split(maxsplit=1)[0].lower()
        if kind in ("insert", "update", "delete", "commit"):
            self.make(kind, lambda: None)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class WatchedFile:
    """A file without a buffer, each of whose writes is an effect that may be torn."""

    def __init__(self, effects: Effects, file: Any) -> None:
        self._effects = effects
        self._file = file

    def write(self, content: bytes) -> int:
        half = content[: len(content) // 2]
        self._effects.make("write", lambda: self._file.write(content), lambda: self._file.write(half))
        return len(content)

    def writelines(self, pieces: Sequence[bytes]) -> None:
        self.write(b"".join(pieces))

    def truncate(self, size_bytes: int) -> None:
        self._effects.make("truncate", lambda: self._file.truncate(size_bytes))

    def __enter__(self) -> WatchedFile:  # noqa: PYI034 - nobody inherits from it
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:  # whatever else a file has
        return getattr(self._file, name)


class Phases:
    """Shows to the outside, in a byte each of a file that is there, in which phases the process is."""

    def __init__(self, path: Path, *, wait_seconds: float) -> None:
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), len(SHOWN))
        self._wait_seconds = wait_seconds
        self._never = threading.Event()

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        self.show(phase, 1)
        yield
        self.show(phase, 0)

    def wrap(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*arguments: Any, **named: Any) -> Any:
            with self.of(phase):
                return function(*arguments, **named)

        return inside

    def show(self, phase: str, value: int) -> None:
        self._bytes[SHOWN.index(phase)] = value
        if value and self._wait_seconds:
            self._never.wait(self._wait_seconds)  # a phase lasts long enough to be met in


class WatchedModel(CountingModel):
    """A model whose calls are effects."""

    effects: Effects
    phases: Phases

    def embed(self, texts: Sequence[str], *, input_type: InputType, truncate: Truncate) -> Embedded:
        def embed() -> Embedded:
            return CountingModel.embed(self, texts, input_type=input_type, truncate=truncate)

        with self.phases.of("embedding"):
            made: Embedded = self.effects.make("embed", embed)
        return made


# --- a process ------------------------------------------------------------------------------------------


def run(order: dict[str, Any]) -> list[str]:
    """Open the service in a folder and do all that the client wants; gives the effects."""
    folder, goal = Path(order["folder"]), int(order["goal"])
    effects = Effects(int(order["effect"]), order["when"])
    phases = Phases(folder / "phases", wait_seconds=0.002 if order["threads"] else 0.0)
    parts.BLOCK_ROWS = BLOCK_ROWS
    openings: tuple[Any, ...] = (parts.PartWriter.__init__, parts.ResultWriter.open)
    for opening in openings:
        opening.__kwdefaults__["part_bytes"] = PART_BYTES
    setattr(validator, "validate", phases.wrap("validation", validation.validate))  # noqa: B010 - it is not exported
    JobRun._save = phases.wrap("writing", JobRun._save)  # type: ignore[method-assign]
    effects.install()
    model = WatchedModel(log_path=folder / "embedded")
    model.effects, model.phases = effects, phases
    with closing(Store.open(folder / "state", now=lambda: datetime.now(UTC))) as store:
        effects.watch(store)
        client = Client(folder, store, phases, effects)
        run_in = run_in_threads if order["threads"] else run_in_turns
        run_in(store, Catalogue([model], {}), client, goal)
    phases.show("done", 1)
    return effects.names


def run_in_turns(store: Store, catalogue: Catalogue, client: Client, goal: int) -> None:
    """Let the client and both workers take turns: the effects are the same ones each time."""
    workers = Workers(store, catalogue, emit=raise_bugs)
    while True:
        moved = [client.advance(number) for number in range(goal)]
        waits = [workers.validator.turn(), workers.rotation.turn()]
        if not any(moved) and waits == [None, None]:
            break
    workers.rotation.close()
    assert client.has_all(goal)


def run_in_threads(store: Store, catalogue: Catalogue, client: Client, goal: int) -> None:
    """Let the client and both workers run side by side, as they do in the service."""
    happened = threading.Event()

    def emit(event: Event) -> None:
        happened.set()
        raise_bugs(event)

    workers = Workers(store, catalogue, emit=emit)
    workers.start()
    while not client.has_all(goal):
        happened.clear()
        if any(client.advance(number) for number in range(goal)):
            workers.wake()
        else:
            happened.wait(1)
    assert workers.stop()


def raise_bugs(event: Event) -> None:
    if isinstance(event, BugFound):
        sys.stderr.write(f"{event.what}: {event.trace}\n")
        os._exit(3)


def main() -> None:
    faulthandler.enable()
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                say({"effects": run(order)})
                status = 0
            except BaseException:  # noqa: BLE001 - it ends here
                traceback.print_exc()
            finally:
                os._exit(status)
        say({"pid": pid})
        sys.stdin.readline()
        _, ended = os.waitpid(pid, 0)
        say({"status": os.waitstatus_to_exitcode(ended)})


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
