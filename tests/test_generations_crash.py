"""A re-embedding that is stopped at any of its effects: readers get one whole generation, and the next run finishes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation_rig import NAMES, GenerationRig, HashSettings, ManySettings
from generation_rig import rig as rig  # noqa: PLC0414 - a fixture

from connector.checkpoint import Checkpoints
from connector.generation_control import drop, roll_back
from connector.testing.generations_in_memory import GenerationsInMemory

EFFECTS = frozenset({"prepare", "upsert", "delete", "make_live", "drop"})


class Crash(BaseException):
    """Not an Exception: nothing in the code under test may catch it."""


@dataclass(slots=True)
class World:
    """Counts what is written to the database and to the checkpoint, and crashes before the n-th of these writes.

    Nothing that lasts happens between two of them, so that is also after each.
    """

    crash_at: int | None = None
    touched: list[str] = field(default_factory=list)
    watch: Callable[[], object] = field(default=lambda: None)  # called around every effect

    @contextmanager
    def effect(self, name: str, real: Callable[[], Any]) -> Iterator[Any]:
        self.touched.append(name)
        self.watch()
        if len(self.touched) == self.crash_at:
            raise Crash(name)
        with real() as given:
            yield given
        self.watch()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    write, asked = vars(Checkpoints)["_write"], vars(GenerationsInMemory)["asked"]

    def watched_write(self: Checkpoints) -> object:
        return made.effect("write", lambda: write(self))

    def watched_asked(self: GenerationsInMemory, effect: Any, generation: int) -> object:
        if effect not in EFFECTS:
            return asked(self, effect, generation)
        return made.effect(effect, lambda: asked(self, effect, generation))

    monkeypatch.setattr(Checkpoints, "_write", watched_write)
    monkeypatch.setattr(GenerationsInMemory, "asked", watched_asked)
    return made


def begin(rig: GenerationRig, place: Path) -> GenerationRig:
    """A fresh project that is in step, and whose settings and documents are changed."""
    ManySettings.databases.clear()
    HashSettings.paid.clear()
    place.mkdir()
    made = GenerationRig(place)
    made.sync()
    made.dimension = 12
    made.write("dogs", "Dogs are not cats.")
    return made


def test_readers_are_served_around_every_write_of_a_re_embedding(
    rig: GenerationRig, world: World, folder: Path
) -> None:
    made = begin(rig, folder / "project")
    found: list[int] = []
    world.touched.clear()
    world.watch = lambda: found.append(made.read())
    assert made.sync(accept=True).exit_code == 0
    switched = world.touched.index("make_live")
    assert found.index(12) >= switched > 10
    assert found == sorted(found), "first the one, then the other"


def test_stopped_before_any_write_readers_are_served_and_the_next_run_goes_on(
    rig: GenerationRig, world: World, folder: Path
) -> None:
    stops = 0
    for place in range(1, 200):
        made = begin(rig, folder / f"{place}")
        world.touched.clear()
        world.crash_at = place
        try:
            made.sync(accept=True)
        except Crash:
            stops += 1
        else:
            break
        world.crash_at = None
        made.read()
        report = made.sync(accept=2 not in made.states())
        assert (report.exit_code, made.states()) == (0, {1: "retained", 2: "live"}), place
        assert made.in_step(1, 8)
        assert made.in_step(2, 12)
        assert made.read() == 12
        assert sorted(made.paid(12)) == sorted(set(made.paid(12))), "no text is paid for twice"
    assert stops > 15


@pytest.mark.parametrize("command", [roll_back, lambda settings: drop(settings, 1)], ids=["rollback", "drop"])
def test_a_roll_back_or_a_drop_that_is_stopped_anywhere_is_finished_by_the_same_command(
    rig: GenerationRig, world: World, folder: Path, command: Callable[[Any], object]
) -> None:
    stops = 0
    for place in range(1, 50):
        made = begin(rig, folder / f"{place}")
        made.sync(accept=True)
        paid = len(made.paid(8)), len(made.paid(12))
        world.touched.clear()
        world.crash_at, world.watch = place, made.read
        try:
            command(made.settings)
        except Crash:
            stops += 1
        else:
            break
        finally:
            world.crash_at, world.watch = None, lambda: None
        made.read()
        command(made.settings)
        if command is roll_back:
            assert (made.states(), made.read()) == ({1: "live", 2: "retained"}, 8), place
        else:
            assert (made.states(), set(made.database.generations)) == ({2: "live"}, {2}), place
        assert (len(made.paid(8)), len(made.paid(12))) == paid
    assert stops >= 3


# --- real processes, really killed ------------------------------------------------------------------

CHILD = Path(__file__).with_name("generations_kill_child.py")


def run(folder: Path, dimension: int, effect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHILD), str(folder), str(dimension), str(effect)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def live_records(folder: Path) -> tuple[int, dict[str, str]]:
    """Read what is live with Qdrant's own client: the dimension, and the text of each document."""
    qdrant_edge = pytest.importorskip("qdrant_edge")
    index = folder / "state/index"
    pointer = index / "docs@live"
    number = 1
    if pointer.exists():
        number = json.loads(pointer.read_text())["generation"]
    shard = qdrant_edge.EdgeShard.load(str(index / ("docs" if number == 1 else f"docs@{number}") / "shard"))
    records, _ = shard.scroll(qdrant_edge.ScrollRequest(limit=10_000, with_payload=True, with_vector=True))
    shard.close()
    (dimension,) = {
        np.asarray(next(iter(r.vector.values())) if isinstance(r.vector, dict) else r.vector).shape[-1] for r in records
    }
    return dimension, {r.payload["_vs_document"]: r.payload["text"] for r in records}


@pytest.mark.slow
def test_killed_in_the_middle_of_a_re_embedding_the_next_process_goes_on(folder: Path) -> None:
    pytest.importorskip("qdrant_edge", reason="the extra `edge` is not installed")
    first = GenerationRig(folder)
    assert run(folder, 8).returncode == 0
    whole = {f"{name}.md": f"All there is to know about {name}." for name in NAMES}
    assert live_records(folder) == (8, whole)
    killed = 0
    for number, effect in enumerate((9, 14, 19)):
        dimension = 12 + 4 * number
        first.write("dogs", f"Edit {effect}.")
        whole["dogs.md"] = f"Edit {effect}."
        stopped = run(folder, dimension, effect)
        killed += stopped.returncode == -signal.SIGKILL
        _, held = live_records(folder)
        assert held.keys() == whole.keys(), "readers get all of a generation"
        ended = run(folder, dimension)
        assert ended.returncode == 0, ended.stderr
        assert live_records(folder) == (dimension, whole)
    assert killed == 3
    with closing(Checkpoints.open(folder / "state")) as checkpoints:
        assert len(checkpoints.ledger_names()) == 4
