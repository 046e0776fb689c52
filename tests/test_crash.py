"""Stop a sync at every point where it touches the world; the next run must put everything right."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest
from crashes import Crash, World, never_absent
from rig import FlakySink, Rig

from connector.engine import Options

OPTIONS = Options(max_delete_fraction=1.0, confirm_deletes=100, threads=False)


def passages(letters: str) -> str:
    """A text that is split into one passage a letter."""
    return "\n\n".join(letter * 24 for letter in letters)


STATES = [
    {"x": passages("ab"), "y": passages("c"), "z": passages("def")},
    {"x": passages("abcd"), "y": passages("c"), "w": passages("g")},  # grown, same, new, gone
    {
        "x": passages("b"),
        "y": passages("hi"),
        "z": passages("d"),
        "moved": passages("g"),
    },  # shrunk, changed, back, moved
    {},
]


class Crashing:
    """A rig with two sinks in a world that crashes."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder, options=OPTIONS, sinks=[FlakySink("one"), FlakySink("two")])
        self.world = World()
        self.world.install(self.rig)

    def run(self, state: dict[str, str]) -> None:
        self.rig.sync(state)

    def assert_in_step(self) -> None:
        assert self.rig.in_step()
        assert self.world.paid_though_stored == []


@pytest.mark.parametrize("first,during,afterwards", list(itertools.product(range(4), repeat=3)))
def test_a_crash_anywhere_is_put_right_by_the_next_run(folder: Path, first: int, during: int, afterwards: int) -> None:
    dry = Crashing(folder / "dry")
    dry.run(STATES[first])
    start = len(dry.world.touched)
    dry.run(STATES[during])
    dry.assert_in_step()
    effects = len(dry.world.touched) - start
    assert effects >= 4
    for number, after in itertools.product(range(1, effects + 1), (False, True)):
        crashing = Crashing(folder / f"{number}{after}")
        crashing.run(STATES[first])
        crashing.world.crash_at, crashing.world.after = number, after
        lasting = STATES[first].keys() & STATES[during].keys()
        crashing.world.watch = never_absent(crashing.rig, crashing.rig.sinks, sorted(lasting))
        with pytest.raises(Crash):
            crashing.run(STATES[during])
        crashing.world.watch = lambda: None
        crashing.run(STATES[afterwards])
        crashing.assert_in_step()
        del crashing.world.touched[:]
        crashing.run(STATES[afterwards])
        crashing.assert_in_step()
        assert not {"prepare", "upsert", "delete", "embed", "put", "begin", "commit"} & set(crashing.world.touched)


def test_two_crashes_in_a_row_are_put_right(folder: Path) -> None:
    for number, (one, two) in enumerate(itertools.product(range(1, 20, 3), range(1, 20, 2))):
        crashing = Crashing(folder / str(number))
        crashing.run(STATES[0])
        for crash_at, state in ((one, STATES[1]), (two, STATES[2])):
            crashing.world.crash_at = crash_at
            crashing.world.after = bool(number % 2)
            with contextlib.suppress(Crash):
                crashing.run(state)
            crashing.world.crash_at = None
        crashing.run(STATES[number % 3])
        crashing.assert_in_step()


def test_a_crash_in_a_lane_of_its_own_ends_the_run(folder: Path) -> None:
    crashing = Crashing(folder)
    crashing.rig.options = Options(threads=True)
    crashing.world.crash_at = 8
    with pytest.raises(Crash):
        crashing.run(STATES[0])
    crashing.run(STATES[0])
    crashing.assert_in_step()
