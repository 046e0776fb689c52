from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent / "bench"
RECORDS = 300  # more than one call


def test_each_way_makes_the_same_calls_and_sinks_with_an_sdk_are_held_to_the_goal(tmp_path: Path) -> None:
    """One test, as the benchmark takes seconds and should be run once."""
    (work := tmp_path / "work").mkdir()
    raw = tmp_path / "raw.json"
    small = ["--records", str(RECORDS), "--passages", "3", "--repeats", "1", "--only", "memory,qdrant"]
    finished = subprocess.run(
        [sys.executable, BENCH / "sink_speed.py", *small, "--folder", work, "--output", raw],
        check=True,
        capture_output=True,
        text=True,
    )
    assert list(work.iterdir()) == [], "the benchmark left something behind"

    turns = json.loads(raw.read_text())["turns"]
    assert [(turn["sink"], turn["way"]) for turn in turns] == [
        ("memory", "bare"),
        ("memory", "delivery"),
        ("qdrant", "bare"),
        ("qdrant", "bulk"),
        ("qdrant", "delivery"),
    ]
    for sink in ("memory", "qdrant"):
        (calls,) = {turn["calls"] for turn in turns if turn["sink"] == sink}
        assert calls > 1

    assert f"{RECORDS} records, 3 a document" in finished.stdout
    assert "| qdrant: records a CPU second, share of the bare loop's | 0.95 |" in finished.stdout
    assert "| memory: records" not in finished.stdout
