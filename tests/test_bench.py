from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

import pytest

BENCH = Path(__file__).parent.parent / "bench"
ROWS = 200
EDITED = 2  # one in a hundred

Turns: TypeAlias = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def printed_and_turns(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Turns]:
    """Run the benchmark once, as small as it gets, for all tests of this module."""
    work, results = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("results")
    arguments = [
        "--rows",
        str(ROWS),
        "--repeats",
        "1",
        "--settled-seconds",
        "0",
        "--folder",
        str(work),
        "--output",
        str(results),
    ]
    finished = subprocess.run(
        [sys.executable, BENCH / "run_all.py", *arguments], check=True, capture_output=True, text=True
    )
    assert list(work.iterdir()) == [], "the benchmark left something behind"
    (file,) = results.iterdir()
    measurements = json.loads(file.read_text())["measurements"]
    return finished.stdout, {(turn["contestant"], turn["phase"]): turn for turn in measurements}


@pytest.fixture(scope="module")
def turns(printed_and_turns: tuple[str, Turns]) -> Turns:
    return printed_and_turns[1]


def asked_for(turns: Turns, phase: str) -> dict[str, int]:
    counts = ("texts", "embed_calls", "upserts", "upsert_calls", "payload_updates", "deletes", "delete_calls")
    return {name: turns["vector-sync", phase][name] for name in counts if turns["vector-sync", phase][name]}


def test_a_first_sync_embeds_and_writes_every_row_once(turns: Turns) -> None:
    asked = asked_for(turns, "initial")
    assert (asked["texts"], asked["upserts"]) == (ROWS, ROWS)
    assert "deletes" not in asked


@pytest.mark.parametrize("phase", ["noop", "touched"])
def test_where_no_row_changed_nothing_is_asked_for(turns: Turns, phase: str) -> None:
    assert asked_for(turns, phase) == {}


def test_one_edited_row_costs_one_of_everything(turns: Turns) -> None:
    assert asked_for(turns, "onerow") == {"texts": 1, "embed_calls": 1, "upserts": 1, "upsert_calls": 1}


def test_edited_texts_cost_their_number_in_one_call(turns: Turns) -> None:
    assert asked_for(turns, "text1pct") == {"texts": EDITED, "embed_calls": 1, "upserts": EDITED, "upsert_calls": 1}


def test_edited_metadata_embeds_nothing(turns: Turns) -> None:
    assert asked_for(turns, "meta1pct") == {"upserts": EDITED, "upsert_calls": 1}


def test_deleted_rows_are_deleted_in_one_call(turns: Turns) -> None:
    assert asked_for(turns, "del1pct") == {"deletes": EDITED, "delete_calls": 1}


def test_the_floor_and_vector_sync_change_the_same_rows(turns: Turns) -> None:
    for phase in ("initial", "noop", "touched", "onerow", "text1pct", "meta1pct", "del1pct"):
        floor, ours = turns["floor", phase], turns["vector-sync", phase]
        assert floor["texts"] == ours["texts"]
        assert floor["upserts"] + floor["payload_updates"] == ours["upserts"]
        assert floor["deletes"] == ours["deletes"]


def test_the_tables_name_every_contestant_and_the_goals_that_were_measured(
    printed_and_turns: tuple[str, Turns],
) -> None:
    printed, _ = printed_and_turns
    assert "| floor |" in printed
    assert "| vector-sync |" in printed
    assert "| texts embedded, metadata edited | 0 | 0 | reached |" in printed
