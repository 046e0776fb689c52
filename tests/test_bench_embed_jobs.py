from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parent.parent / "bench"
TEXTS = 20
SIZES = (600,)  # more than a block


def run(script: str, work: Path, *arguments: str | Path) -> tuple[str, dict[str, Any]]:
    """Run a benchmark as small as it gets; give what it printed, and its raw numbers."""
    output = work / "raw.json"
    finished = subprocess.run(
        [sys.executable, BENCH / script, *arguments, "--output", output], check=True, capture_output=True, text=True
    )
    output_json: dict[str, Any] = json.loads(output.read_text())
    output.unlink()
    assert list(work.iterdir()) == [], "the benchmark left something behind"
    return finished.stdout, output_json


@pytest.fixture(scope="module")
def speed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    corpus = tmp_path_factory.mktemp("corpus")
    for number in range(TEXTS):
        (corpus / f"{number}.txt").write_text(f"File {number} says " + "something " * number)
    work = tmp_path_factory.mktemp("work")
    arguments = ["--corpus", corpus, "--passages", str(TEXTS), "--repeats", "1", "--work", work]
    return run("embed_jobs.py", work, *arguments)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    work = tmp_path_factory.mktemp("work")
    return run("embed_jobs_memory.py", work, "--rows", ",".join(map(str, SIZES)), "--folder", work)


def test_everybody_but_the_peer_that_is_not_there_takes_a_turn(speed: tuple[str, dict[str, Any]]) -> None:
    printed, raw = speed
    assert [turn["contestant"] for turn in raw["turns"]] == ["bare", "runtime", "job"]
    assert all(0 < turn["cpu_seconds"] < 60 for turn in raw["turns"])
    assert "| job: a job of the service |" in printed


def test_a_job_makes_the_vectors_of_the_bare_loop(speed: tuple[str, dict[str, Any]]) -> None:
    assert speed[1]["differences"]["job"] < 1e-5


def test_the_speed_of_a_job_is_held_against_the_bare_loops(speed: tuple[str, dict[str, Any]]) -> None:
    assert "| speed of job, times that of bare | 0.95 |" in speed[0]
    assert "times that of peer" not in speed[0]


@pytest.mark.parametrize("step", ["upload", "validation", "job", "reading"])
def test_each_step_of_the_flow_is_measured_for_each_size(memory: tuple[str, dict[str, Any]], step: str) -> None:
    printed, raw = memory
    assert [result["rows"] for result in raw["results"]] == [*SIZES]
    for result in raw["results"]:
        measured = result["steps"][step]
        assert 10 < measured["rss_mb"] < 500
        assert measured["seconds"] > 0
    assert step in printed


def test_a_result_is_weighed_as_it_was_read(memory: tuple[str, dict[str, Any]]) -> None:
    vector_bytes = 4 * 384
    for result in memory[1]["results"]:
        assert result["result_mb"] * 1e6 > result["rows"] * (vector_bytes + 500)
