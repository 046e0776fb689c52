from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parent.parent / "bench"
MINUTES = 0.25
PATIENT = 20  # intervals that an edit may take: other tests use the same processors
HANGS_SECONDS = 300


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Soak the service for as short a time as shows anything, once for all tests of this module."""
    folder = tmp_path_factory.mktemp("soak")
    numbers = {
        "minutes": MINUTES,
        "interval": 1,
        "intervals": PATIENT,
        "documents": 60,
        "edit-seconds": 0.3,
        "seed": 9,
    }
    arguments = [f"--{name}={number}" for name, number in numbers.items()]
    ended = subprocess.run(
        [sys.executable, BENCH / "soak.py", *arguments, f"--work={folder}", f"--out={folder / 'soak.json'}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_SECONDS,
    )
    report: dict[str, Any] = json.loads((folder / "soak.json").read_text())
    (folder / "soak.json").unlink()
    if not report["wrong"]:
        assert list(folder.iterdir()) == [], "the soak left something behind"
    return ended, report


@pytest.mark.slow
def test_a_service_keeps_its_promises_through_edits_faults_orders_and_kills(
    soaked: tuple[subprocess.CompletedProcess[str], dict[str, Any]],
) -> None:
    ended, report = soaked
    assert report["wrong"] == []
    assert ended.returncode == 0, ended.stderr
    assert sum(report["orders"].values()) > 1
    assert any(life["killed"] for life in report["lives"])
    assert report["answers"]["/readyz 200 while well"] > 5
    assert sum(told["count"] for told in report["intervals until seen"].values()) > 100


@pytest.mark.slow
def test_what_a_soak_found_is_told_in_tables(
    soaked: tuple[subprocess.CompletedProcess[str], dict[str, Any]],
) -> None:
    printed = soaked[0].stdout
    assert "| rss_mb |" in printed
    assert "intervals | edits | median | p95 | max |" in printed
    assert "wrong: 0" in printed
