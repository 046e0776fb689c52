"""What every script here shares, so that all of them are measured at the same job: the rows, the edits, the counters.

    run_all.py --- one process a phase ---> floor.py, ours.py, peer_*.py --- one line "RESULT {...}" ---> run_all.py

The job is to make an index of 384-dimensional vectors mirror a JSONL file of documents with about 500
characters and three metadata fields. An embedding costs about 6 us, so what is timed is the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIMENSION = 384
COLLECTION = "bench"
METADATA_FIELDS = ("title", "url", "views")
RESULT_MARK = "RESULT "

Row: TypeAlias = dict[str, Any]  # as json.loads gives it
Point: TypeAlias = tuple[str, list[float], Row]  # id, vector, payload
SinkKind: TypeAlias = Literal["stub", "client", "embedded"]
SINKS: dict[SinkKind, str] = {
    "stub": "points are plain dictionaries, counted and dropped",
    "client": "points are qdrant-client's own, checked by it, then counted and dropped",
    "embedded": "a real index on disk: qdrant-client's local mode; for vector-sync, qdrant-edge",
}

# --- the rows, and what happens to them -------------------------------------------------------------

WORDS = (  # noqa: SIM905 - twenty-four lines otherwise
    "vector index sync delta source batch embed cursor shard point payload token stream merge "
    "queue retry limit tenant schema alias query recall latency budget"
).split()
EVERY = 100  # one row in so many is edited
FIRST = 42


def generate(path: Path, rows: int, characters: int = 500, seed: int = 7) -> None:
    """Write the rows: the same ones for the same numbers."""
    rng = random.Random(seed)
    with path.open("w") as file:
        for number in range(rows):
            words, size = [], 0
            while size < characters:
                word = rng.choice(WORDS)
                words.append(word)
                size += len(word) + 1
            row = {
                "id": f"doc-{number:07d}",
                "text": f"{number} " + " ".join(words),
                "title": f"Title {number}",
                "views": rng.random() * 1e4,
                "url": f"https://example.com/{number}",
            }
            file.write(json.dumps(row) + "\n")


def _edit_text(row: Row) -> Row:
    return row | {"text": row["text"] + " (edited)"}


def _edit_metadata(row: Row) -> Row:
    return row | {"views": row["views"] + 1}


def _delete(row: Row) -> None:
    del row


@dataclass(frozen=True, slots=True)
class Phase:
    """What happens to the file before one sync."""

    what: str
    edit: Callable[[Row], Row | None] | None = None  # None from it: the row is deleted
    every: int | None = None  # edit one row in so many; None: only one of all
    rewrites: bool = True


PHASES = {
    "initial": Phase("a new file, and no state", rewrites=False),
    "noop": Phase("nothing", rewrites=False),
    "touched": Phase("written again with the same rows"),
    "onerow": Phase("written again with one text edited, near the start", _edit_text),
    "text1pct": Phase("1 % of the texts edited", _edit_text, EVERY),
    "meta1pct": Phase("one number edited in the metadata of 1 % of the rows", _edit_metadata, EVERY),
    "del1pct": Phase("1 % of the rows deleted", _delete, EVERY),
}


def mutate(path: Path, phase: Phase) -> None:
    """Write the file again as a phase asks. Rows that are not edited keep their bytes."""
    if not phase.rewrites:
        return
    part = path.with_suffix(".part")
    with path.open("rb") as before, part.open("wb") as after:
        for number, line in enumerate(before):
            is_edited = number % phase.every == FIRST if phase.every else number == FIRST
            if phase.edit and is_edited:
                if (row := phase.edit(json.loads(line))) is not None:
                    after.write(json.dumps(row).encode() + b"\n")
            else:
                after.write(line)
    part.replace(path)


def read_rows(path: Path) -> Iterator[Row]:
    """Parse the rows one by one."""
    with path.open() as file:
        for line in file:
            yield json.loads(line)


def point_id(document_id: str) -> str:
    """Name a point as Qdrant wants it."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, document_id))


# --- counting ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Meter:
    """Embeds, and counts what was asked of the embedder and of the sink."""

    texts: int = 0
    embed_calls: int = 0
    upserts: int = 0
    upsert_calls: int = 0
    payload_updates: int = 0  # writes of metadata alone
    deletes: int = 0
    delete_calls: int = 0

    def embed_one(self, text: str) -> NDArray[np.float32]:
        """Make the vector of one text: a pure function that takes about 6 us."""
        self.texts += 1
        digest = hashlib.shake_128(text.encode()).digest(2 * DIMENSION)
        vector: NDArray[np.float32] = np.frombuffer(digest, dtype=np.uint16).astype(np.float32) / np.float32(65535)
        return vector - np.float32(0.5)

    def embed(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Make the vectors of one call."""
        self.embed_calls += 1
        return [self.embed_one(text) for text in texts]

    def embed_lists(self, texts: Sequence[str]) -> list[list[float]]:
        """Make the vectors of one call for somebody who wants lists, which take 30 us a vector more."""
        return [vector.tolist() for vector in self.embed(texts)]


@dataclass(frozen=True, slots=True)
class Job:
    """What the command line of every script says."""

    rows_file: Path
    state: Path  # a folder that is kept from phase to phase
    sink: SinkKind = "stub"
    batch: int | None = None
    mode: str = ""  # a variant of the script, where it has some
    crash_after: int | None = None  # SIGKILL ourselves when the sink has acknowledged so many points
    meter: Meter = field(default_factory=Meter)

    @classmethod
    def from_command_line(cls) -> Job:
        """Read the arguments that `arguments` writes."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--rows-file", type=Path, required=True)
        parser.add_argument("--state", type=Path, required=True)
        parser.add_argument("--sink", choices=list(SINKS), default="stub")
        parser.add_argument("--batch", type=int)
        parser.add_argument("--mode", default="")
        parser.add_argument("--crash-after", type=int)
        return cls(**vars(parser.parse_args()))

    def acknowledged(self, points: int, calls: int = 1) -> None:
        """Count points that a sink has taken, and die if it is time to."""
        self.meter.upserts += points
        self.meter.upsert_calls += calls
        if self.crash_after is not None and self.meter.upserts >= self.crash_after:
            self._print_result()
            os.kill(os.getpid(), signal.SIGKILL)

    def deleted(self, points: int) -> None:
        """Count points that a sink has deleted."""
        self.meter.deletes += points
        self.meter.delete_calls += 1

    @contextmanager
    def measured(self, points_kept: Callable[[], int | None]) -> Iterator[None]:
        """Time the body, then ask how many points the index holds (None: they are dropped), and print it all."""
        started, cpu_started = time.perf_counter(), time.process_time()
        yield
        cpu_seconds, seconds = time.process_time() - cpu_started, time.perf_counter() - started
        self._print_result(cpu_seconds=round(cpu_seconds, 4), seconds=round(seconds, 4), points=points_kept())

    def _print_result(self, **numbers: object) -> None:
        # On Linux in KiB; it begins at what the parent held when it forked, so run_all.py stays small.
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = {**asdict(self.meter), "rss_mb": round(peak_kib / 1024, 1), **numbers}
        print(RESULT_MARK + json.dumps(result), flush=True)
