"""One sync in a process of its own, which may be told to kill itself at its n-th effect on the world.

    python kill_child.py FOLDER EFFECT before|after

FOLDER has `docs/` and gets `state/`. EFFECT 0 runs to the end, and prints how many effects there were.
Everything is real but the embedder: files, SQLite, Qdrant's engine, threads, and SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

from crashes import EFFECTS

from connector.checkpoint import Checkpoints
from connector.engine import Options, Parts, sync
from connector.passages import PassageSplitter
from connector.plugins import BuildContext
from connector.sources.files import FilesSettings
from connector.testing.fakes import HashEmbedder
from connector.vectors import SqliteVectors
from sinks.qdrant_edge import QdrantEdgeSettings


class Dying:
    """Passes everything on, and kills the process around its n-th effect."""

    lock = threading.Lock()
    effects_so_far = 0  # not `count`, which a sink has
    at = 0
    after = False

    def __init__(self, part: object) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:  # whatever the part has
        value = getattr(self._part, name)
        if name not in EFFECTS:
            return value

        def effect(*arguments: Any, **named: Any) -> object:
            with Dying.lock:
                Dying.effects_so_far += 1
                die = Dying.effects_so_far == Dying.at
            if die and not Dying.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = value(*arguments, **named)
            if die:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return effect


def main() -> int:
    folder = Path(sys.argv[1])
    Dying.at, Dying.after = int(sys.argv[2]), sys.argv[3] == "after"
    context = BuildContext(base_path=folder, state_path=folder / "state", name="main")
    embedder = HashEmbedder(tokens_per_text=32)
    with (
        closing(Checkpoints.open(folder / "state")) as checkpoints,
        closing(SqliteVectors.open(folder / "state", embedder_identity=embedder.identity, dimension=8)) as vectors,
        closing(QdrantEdgeSettings.model_validate({"kind": "qdrant-edge"}).build(context)) as sink,
    ):
        parts: list[Any] = [Dying(embedder), Dying(sink), Dying(checkpoints), Dying(vectors)]
        report = sync(
            Parts(
                source=FilesSettings.model_validate({"kind": "files", "path": "docs"}).build(context),
                embedder=parts[0],
                splitter=PassageSplitter(embedder.tokens_per_text, embedder.count_tokens),
                sinks=[parts[1]],
                checkpoints=parts[2],
                vectors=parts[3],
                source_settings="{}",
            ),
            Options(max_delete_fraction=1.0),
        )
    print(Dying.effects_so_far)  # noqa: T201  # the answer
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
