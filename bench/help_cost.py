"""Measure what `vector-sync --help` costs: the CPU seconds of its whole process, interpreter included.

python bench/help_cost.py
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

GOAL_SECONDS = 0.3
VECTOR_SYNC = Path(sys.executable).with_name("vector-sync")


def cpu_seconds(command: Sequence[str | Path]) -> float:
    """Run a command once; give the CPU time of its process, all threads and both modes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[-1]} ended with exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    commands: dict[str, Sequence[str | Path]] = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "vector-sync --help": [VECTOR_SYNC, "--help"],
        "vector-sync sync --help": [VECTOR_SYNC, "sync", "--help"],
    }
    print(f"CPU seconds, medians of {repeats}; the goal is {GOAL_SECONDS}")
    for name, command in commands.items():
        cpu_seconds(command)  # the first one writes bytecode
        print(f"{name:<25} {median(cpu_seconds(command) for _ in range(repeats)):.3f}")


if __name__ == "__main__":
    main()
