"""Who takes part, in which environment, and how one phase of one of them is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULT_MARK

HERE = Path(__file__).parent
PEERS_ENVIRONMENT = HERE / ".venv-peers"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row of the tables."""

    name: str
    script: str
    arguments: Sequence[str] = ()
    is_peer: bool = True  # needs the peers' environment


CONTESTANTS = (
    Contestant("floor", "floor.py", is_peer=False),
    Contestant("vector-sync", "ours.py", is_peer=False),
    Contestant("langchain, batches of 100", "peer_langchain.py"),
    Contestant("langchain, batches of 1000", "peer_langchain.py", ("--batch", "1000")),
    Contestant("llamaindex, cache on", "peer_llamaindex.py", ("--mode", "cache")),
    Contestant("llamaindex, cache off", "peer_llamaindex.py", ("--mode", "no-cache")),
    Contestant("cocoindex, a component a row", "peer_cocoindex.py", ("--mode", "row")),
    Contestant("cocoindex, one component", "peer_cocoindex.py", ("--mode", "file")),
)


def peers_python() -> Path:
    """Give the interpreter of the peers' environment, which is made if it is not whole; that takes minutes."""
    python, ready = PEERS_ENVIRONMENT / "bin" / "python", PEERS_ENVIRONMENT / "ready"
    if not ready.exists():
        print(f"making {PEERS_ENVIRONMENT.name} ...", flush=True)
        venv.create(PEERS_ENVIRONMENT, with_pip=True)
        wanted = ["-r", str(HERE / "peers-requirements.txt"), "-e", f"{HERE.parent}[edge]"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        ready.touch()
    return python


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a process ended, and the numbers that it printed before."""

    exit_code: int
    numbers: dict[str, Any] | None
    complaint: str  # the end of what it wrote to standard error


def run_script(python: Path, script: str, arguments: Sequence[str | Path]) -> Outcome:
    """Run one of the scripts in a process of its own."""
    finished = subprocess.run(
        [python, HERE / script, *arguments],
        # No script multiplies matrices; OpenBLAS starts its threads all the same, and they spin for 50 ms.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    marked = [line for line in finished.stdout.splitlines() if line.startswith(RESULT_MARK)]
    numbers = json.loads(marked[-1].removeprefix(RESULT_MARK)) if marked else None
    return Outcome(finished.returncode, numbers, finished.stderr[-1000:])


def default_python(*, peers: bool) -> Path:
    """The interpreter for every script: one and the same for all that are compared."""
    return peers_python() if peers else Path(sys.executable)
