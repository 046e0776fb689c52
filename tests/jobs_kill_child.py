"""Syncs by jobs in processes of their own, each told to kill itself around its n-th effect on the job path.

    python jobs_kill_child.py

Reads orders from its standard input, a line of JSON each, and answers each with a line of JSON:

    {"folder": ..., "url": ..., "key": ..., "effect": 17, "when": "before"}
    {"status": -9, "effects": []}              what its effects were, and how it ended if it was not killed

Each order is done in a fork, as new as a new process, which starts in a millisecond. Effect 0 never comes. FOLDER
has `docs/` and gets `state/`. Everything is real: the engine, files, SQLite, Qdrant's engine, sockets and SIGKILL.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from connector.checkpoint import Checkpoints
from connector.embedders.cohere import CohereSettings
from connector.embedders.cohere_jobs import CohereJobEmbedder
from connector.engine import Options, Parts, sync
from connector.job_book import JobBook
from connector.job_spool import Spool
from connector.passages import PassageSplitter
from connector.plugins import BuildContext
from connector.sources.files import FilesSettings
from connector.vectors import SqliteVectors
from sinks.qdrant_edge import QdrantEdgeSettings

SETTLE_SECONDS = 0.5
NEAR_SECONDS = 0.02  # between two looks
EFFECTS: dict[type, tuple[str, ...]] = {
    JobBook: ("add", "save"),
    Spool: ("seal", "remove", "remove_all_but"),
    SqliteVectors: ("put",),
    CohereJobEmbedder: (
        *("create_dataset", "datasets", "dataset", "delete_dataset"),
        *("start_job", "jobs", "job", "cancel_job", "results", "embed"),
    ),
}


class Effects:
    """Counts the effects, and kills the process around the n-th."""

    def __init__(self, at: int, when: str) -> None:
        self.names: list[str] = []
        self._at, self._when = at, when

    def install(self) -> None:
        """Stand before the methods of this process that have them."""
        for kind, names in EFFECTS.items():
            for name in names:
                setattr(kind, name, self._around(name, getattr(kind, name)))

    def _around(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def effect(*arguments: Any, **named: Any) -> object:
            self.names.append(name)
            is_it = len(self.names) == self._at
            if is_it and self._when == "before":
                die()
            try:
                return method(*arguments, **named)
            finally:
                if is_it:
                    die()

        return effect


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(order: dict[str, Any], effects: Effects) -> int:
    """Sync once; give the exit code."""
    folder = Path(order["folder"])
    context = BuildContext(base_path=folder, state_path=folder / "state", name="main")
    embedder = CohereSettings.model_validate(
        {
            "base_url": order["url"],
            "api_key": order["key"],
            "model": "hash",
            "dimension": 8,
            "tokens_per_text": 64,
            "jobs_from": 2,
            "texts_per_job": 2,
            "settle_seconds": SETTLE_SECONDS,
        }
    ).build(context)
    assert isinstance(embedder, CohereJobEmbedder)
    embedder._job_limits = replace(
        embedder.job_limits, first_look_seconds=NEAR_SECONDS, longest_look_seconds=NEAR_SECONDS
    )
    effects.install()
    with (
        closing(Checkpoints.open(folder / "state")) as checkpoints,
        closing(
            SqliteVectors.open(folder / "state", embedder_identity=embedder.identity, dimension=embedder.dimension)
        ) as vectors,
        closing(QdrantEdgeSettings.model_validate({"kind": "qdrant-edge"}).build(context)) as sink,
        closing(embedder),
    ):
        parts = Parts(
            source=FilesSettings.model_validate({"kind": "files", "path": "docs"}).build(context),
            embedder=embedder,
            splitter=PassageSplitter(embedder.limits.tokens_per_text, embedder.count_tokens),
            sinks=[sink],
            checkpoints=checkpoints,
            vectors=vectors,
            source_settings="{}",
        )
        return int(sync(parts, Options(max_delete_fraction=1.0)).exit_code)


def done_in_a_fork(order: dict[str, Any]) -> dict[str, Any]:
    """Do an order in a process of its own, and tell how it ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            effects = Effects(order["effect"], order["when"])
            status = run(order, effects)
            os.write(writer, json.dumps(effects.names).encode())
        except BaseException:  # noqa: BLE001 - it ends here
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        effects_told = told.read()
    _, ended = os.waitpid(pid, 0)
    return {"status": os.waitstatus_to_exitcode(ended), "effects": json.loads(effects_told or b"[]")}


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(done_in_a_fork(json.loads(line))), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
