"""Measure every contestant in every phase, each in a process of its own, and print medians as Markdown.

    python bench/run_all.py --rows 10000 --repeats 3            # the floor and vector-sync
    python bench/run_all.py --rows 10000 --repeats 3 --peers    # and the peers, all in bench/.venv-peers

Repeats are interleaved: everybody has a turn before anybody has a second, so that a noisy neighbour
disturbs all alike. Read CPU seconds and their ratios; the machine's other load hardly moves those.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tables
from common import PHASES, SINKS, SinkKind, generate, mutate
from contestants import CONTESTANTS, HERE, Contestant, default_python, run_script

SETTLED_SECONDS = 2.1
"""How long a file is left alone before it is synced.

A file that was written to within the last two seconds can be written to again without a new mtime, so
vector-sync reads it instead of trusting its mtime. An unchanged file in real life is older.
"""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What to measure."""

    rows: int
    repeats: int
    sink: SinkKind
    phases: Sequence[str]
    contestants: Sequence[Contestant]
    python: Path
    settled_seconds: float

    def run(self, folder: Path) -> list[tables.Measurement]:
        """Measure, and tell each result as it comes."""
        pristine = folder / "pristine.jsonl"
        generate(pristine, self.rows)
        measurements = []
        for repeat in range(self.repeats):
            for contestant in self.contestants:
                measurements += self._phases(contestant, repeat, folder, pristine)
        return measurements

    def _phases(self, contestant: Contestant, repeat: int, folder: Path, pristine: Path) -> list[tables.Measurement]:
        """Take one contestant through all phases, with the state that it keeps from one to the next."""
        rows_file, state = folder / "rows.jsonl", folder / "state"
        shutil.copy(pristine, rows_file)
        state.mkdir()
        done = []
        for phase in self.phases:
            mutate(rows_file, PHASES[phase])
            time.sleep(self.settled_seconds if phase == "initial" or PHASES[phase].rewrites else 0)
            arguments = ["--rows-file", rows_file, "--state", state, "--sink", self.sink, *contestant.arguments]
            outcome = run_script(self.python, contestant.script, arguments)
            if outcome.exit_code or outcome.numbers is None:
                print(f"{contestant.name}, {phase}: FAILED\n{outcome.complaint}", flush=True)
                break
            turn = {"contestant": contestant.name, "phase": phase, "repeat": repeat, "state_mb": size_mb(state)}
            done.append(turn | outcome.numbers)
            print(json.dumps(done[-1]), flush=True)
        shutil.rmtree(state)
        return done


def size_mb(folder: Path) -> float:
    """How much disk a folder takes; files may have holes."""
    blocks = sum(path.stat().st_blocks for path in folder.rglob("*") if path.is_file())
    return round(blocks * 512 / 1e6, 1)


def machine() -> str:
    """Say what the numbers were measured on."""
    model = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        named = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = named[0] if named else model
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {model}, {os.cpu_count()} processors, load {load}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def report(benchmark: Benchmark, measurements: Sequence[tables.Measurement], where: str) -> str:
    """Write everything that people want to see of a benchmark."""
    parts = [
        f"{benchmark.rows:,} rows, medians of {benchmark.repeats}; sink: {SINKS[benchmark.sink]}. {where}",
        "CPU seconds (times the floor's):",
        "\n".join(tables.cpu_table(measurements)),
        "Things asked for (calls):",
        "\n".join(tables.count_table(measurements)),
        "\n".join(tables.goal_table(benchmark.rows, measurements)),
    ]
    return "\n\n".join(part for part in parts if part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="measure the peers too; makes .venv-peers the first time")
    parser.add_argument("--sink", choices=SINKS, help='default: "client" with the peers, else "stub"; see README.md')
    parser.add_argument("--only", default="", help="words of contestants' names, with commas between them")
    parser.add_argument("--phases", default=",".join(PHASES), help="default: %(default)s")
    parser.add_argument(
        "--folder", type=Path, help="where to work; default: /dev/shm, else the folder for temporary files"
    )
    parser.add_argument("--settled-seconds", type=float, default=SETTLED_SECONDS, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for the JSON")
    options = parser.parse_args()
    needs_client = options.peers or options.sink == "client"
    benchmark = Benchmark(
        rows=options.rows,
        repeats=options.repeats,
        sink=options.sink or ("client" if options.peers else "stub"),
        phases=options.phases.split(","),
        contestants=[
            contestant
            for contestant in CONTESTANTS
            if (options.peers or not contestant.is_peer)
            and any(word in contestant.name for word in options.only.split(","))
        ],
        python=default_python(peers=needs_client),
        settled_seconds=options.settled_seconds,
    )
    where = machine()
    folder = options.folder or (Path("/dev/shm") if Path("/dev/shm").is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="vector-sync-bench-", dir=folder) as work:
        measurements = benchmark.run(Path(work))
    options.output.mkdir(parents=True, exist_ok=True)
    results = options.output / f"{benchmark.rows}-{benchmark.sink}.json"
    results.write_text(json.dumps({"machine": where, "measurements": measurements}, indent=1))
    print(f"\n{report(benchmark, measurements, where)}\n\n{results}")


if __name__ == "__main__":
    main()
