"""One sync in a process of its own, which may be told to kill itself before its n-th write to index or checkpoint.

    python generations_kill_child.py FOLDER DIMENSION EFFECT

Everything is real but the embedder: settings, files, SQLite, Qdrant's engine, and SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_rig import install
from generation_rig import KINDS

from connector.checkpoint import Checkpoints
from connector.composition import sync
from connector.config import Settings
from sinks.qdrant_edge import QdrantEdgeSink

WRITES = ("prepare", "upsert", "delete", "make_live", "drop")
count = 0


def main() -> int:
    folder, dimension = Path(sys.argv[1]), int(sys.argv[2])
    at = int(sys.argv[3])

    @contextmanager
    def effect() -> Iterator[None]:
        global count  # noqa: PLW0603
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        yield

    with pytest.MonkeyPatch.context() as patch:
        install(patch, KINDS)
        write = vars(Checkpoints)["_write"]

        @contextmanager
        def watched_write(self: Checkpoints) -> Iterator[None]:
            with effect(), write(self):
                yield

        patch.setattr(Checkpoints, "_write", watched_write)
        for name in WRITES:
            patch.setattr(QdrantEdgeSink, name, watched(vars(QdrantEdgeSink)[name], effect))
        settings = Settings(
            source={"kind": "files", "path": "docs"},
            embedder={"kind": "hash", "dimension": dimension},
            sinks={"main": {"kind": "qdrant-edge", "min_free_bytes": 0}},
            base_path=folder,
        )
        report = sync(settings, accept_reembed=True)
    for problem in report.problems:
        print(problem, file=sys.stderr)  # noqa: T201
    return report.exit_code


def watched(real: Any, effect: Any) -> Any:
    def call(*arguments: Any, **named: Any) -> object:
        with effect():
            return real(*arguments, **named)

    return call


if __name__ == "__main__":
    sys.exit(main())
