"""A history of a real corpus, with the real command, the real model and a real engine: edits, moves, deletions, kills.

    python bench/corpus_history.py --corpus /usr/share/doc --documents 2200
    python bench/corpus_history.py --corpus /usr/share/doc --documents 2200 --kills 200

Takes the smallest text and HTML files of a folder, and syncs them by `vector-sync sync --json` into an embedded
Qdrant through one edit after another. After each, the index is read with Qdrant's own client, not
through the connector's sink, and compared with the files.

With `--kills` runs are ended by SIGKILL at random moments and started again, sometimes after one more edit: a
quarter of the kills in the first sync, the others over round after round of edits, until so many were
killed. After each step nothing may be lost, doubled or stale; at the end both databases must be sound; and
no vector that was stored may have been computed again (a row that is written anew gets another rowid).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import qdrant_edge

from connector.model import Document
from connector.passages import PassageSplitter
from connector.plugins import BuildContext, find
from connector.sources.files import FilesSettings

SUFFIXES = (".txt", ".md", ".html", ".htm")
SMALLEST_BYTES = 500
SETTINGS = """
[source]
kind = "files"
path = "docs"
include = ["**/*.txt", "**/*.md", "**/*.html", "**/*.htm"]
[embedder]
kind = "local"
[sinks.main]
kind = "qdrant-edge"
path = "state/index"
[state]
path = "state"
"""
EDIT_WHILE_DOWN = 0.2  # chance of one more edit between a kill and the next run
KILLS_A_STEP = 8
Edit = Callable[[], int]


@dataclass(slots=True)
class History:
    """A corpus in a work folder, and what is done to it."""

    work: Path
    random: random.Random
    kills_left: int = 0  # in this step
    patience_seconds: tuple[float, float] = (0.2, 6.0)
    killed: int = 0
    runs: int = 0
    rowids: dict[bytes, int] = field(default_factory=dict)
    embedded_twice: int = 0

    @property
    def docs(self) -> Path:
        return self.work / "docs"

    def gather(self, corpus: Path, count: int) -> int:
        """Copy the smallest files, and set them down with the settings."""
        (self.work / "vector-sync.toml").write_text(SETTINGS)
        found = sorted(
            (path.stat().st_size, str(path))
            for path in corpus.rglob("*")
            if path.suffix in SUFFIXES and path.is_file() and not path.is_symlink()
        )
        kept = 0
        for size, name in found:
            if size < SMALLEST_BYTES or kept == count:
                continue
            target = self.docs / Path(name).relative_to(corpus)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, target)
            kept += 1
        return kept

    def files(self, *suffixes: str) -> list[Path]:
        return sorted(path for path in self.docs.rglob("*") if path.is_file() and path.suffix in (suffixes or SUFFIXES))

    def one_percent(self, *suffixes: str) -> list[Path]:
        chosen = self.files(*suffixes)
        return self.random.sample(chosen, min(len(chosen), max(1, len(self.files()) // 100)))

    # --- edits ---

    def edit_texts(self) -> int:
        chosen = self.one_percent(".txt", ".md")
        for path in chosen:
            path.write_bytes(path.read_bytes() + f"\n\nA new last paragraph {self.random.random()}.\n".encode())
        return len(chosen)

    def edit_metadata(self) -> int:
        """Give pages another title, which is metadata and not part of their text."""
        titled = [path for path in self.files(".html", ".htm") if b"<title>" in path.read_bytes()]
        chosen = self.random.sample(titled, min(len(titled), max(1, len(self.files()) // 100)))
        for path in chosen:
            path.write_bytes(path.read_bytes().replace(b"<title>", b"<title>Seen. ", 1))
        return len(chosen)

    def move_files(self) -> int:
        chosen = self.one_percent()
        for path in chosen:
            target = self.docs / "moved" / f"{self.random.random()}-{path.name}"
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
        return len(chosen)

    def delete_files(self) -> int:
        chosen = self.one_percent()
        for path in chosen:
            path.unlink()
        return len(chosen)

    # --- runs ---

    def sync(self) -> dict[str, Any]:
        """Run to the end; killed at random moments before that, while kills are left."""
        while True:
            command = [sys.executable, "-m", "connector", "sync", "--json"]
            run = subprocess.Popen(command, cwd=self.work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.runs += 1
            try:
                patience = self.random.uniform(*self.patience_seconds) if self.kills_left else None
                out, err = run.communicate(timeout=patience)
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                run.communicate()
                self.kills_left -= 1
                self.killed += 1
                self.look_for_waste()
                if self.random.random() < EDIT_WHILE_DOWN and self.runs > 1:
                    self.random.choice((self.edit_texts, self.edit_metadata, self.move_files))()
                continue
            self.look_for_waste()
            if run.returncode not in (0, 1):
                raise SystemExit(f"exit code {run.returncode}: {err}")
            report: dict[str, Any] = json.loads(out)
            return report

    def look_for_waste(self) -> None:
        """Count vectors that were stored, and then computed and stored once more."""
        path = self.work / "state" / "vectors.db"
        if not path.exists():
            return
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'vector'").fetchone():
                return
            now = dict(db.execute("SELECT text_hash, id FROM vector"))
        self.embedded_twice += sum(now.get(text_hash) != rowid for text_hash, rowid in self.rowids.items())
        self.rowids = now

    # --- judgement ---

    def differences(self) -> dict[str, int]:
        """Compare the index, read by Qdrant's own client, with the files."""
        wanted, held = self.wanted(), self.held()
        both = wanted.keys() & held.keys()
        return {
            "records": len(wanted),
            "missing": len(wanted.keys() - held.keys()),
            "extra": len(held.keys() - wanted.keys()) + sum(len(values) - 1 for values in held.values()),
            "stale": sum(held[key][0] != wanted[key] for key in both),
        }

    def wanted(self) -> dict[tuple[str, int], tuple[str, str]]:
        context = BuildContext(base_path=self.work, state_path=self.work / "no-state", read_only=True)
        source = FilesSettings.model_validate(
            {"kind": "files", "path": "docs", "include": ["**/*.txt", "**/*.md", "**/*.html", "**/*.htm"]}
        ).build(context)
        embedder = find("embedders", "local")(kind="local").build(context)  # type: ignore[attr-defined]
        split = PassageSplitter(embedder.limits.tokens_per_text, embedder.count_tokens)
        wanted = {}
        for batch in source.list():
            if not hasattr(batch, "versions"):
                continue
            import numpy as np

            refs = [ref for ref in batch.refs(np.arange(len(batch.versions))) if hasattr(ref, "locator")]
            for document in source.fetch(refs):
                if isinstance(document, Document):
                    metadata = json.dumps(document.metadata, sort_keys=True)
                    for passage in split(document):
                        wanted[document.id, passage.index] = (passage.text, metadata)
        return wanted

    def held(self) -> dict[tuple[str, int], list[tuple[str, str]]]:
        shard = qdrant_edge.EdgeShard.load(str(self.work / "state/index/docs/shard"))
        held: dict[tuple[str, int], list[tuple[str, str]]] = {}
        offset = None
        while True:
            request = qdrant_edge.ScrollRequest(limit=1000, offset=offset, with_payload=True, with_vector=False)
            page, offset = shard.scroll(request)
            for record in page:
                payload = dict(record.payload)
                metadata = {k: v for k, v in payload.items() if k != "text" and not k.startswith("_vs_")}
                key = (payload["_vs_document"], payload["_vs_index"])
                held.setdefault(key, []).append((payload["text"], json.dumps(metadata, sort_keys=True)))
            if offset is None:
                shard.close()
                return held

    def databases_are_sound(self) -> bool:
        answers = []
        for name in ("checkpoint.db", "vectors.db"):
            with closing(sqlite3.connect(self.work / "state" / name)) as db:
                answers.append(db.execute("PRAGMA integrity_check").fetchone()[0])
        return answers == ["ok", "ok"]


def show(step: str, touched: int, report: dict[str, Any], differences: dict[str, int]) -> bool:
    sink = report["sinks"]["main"]
    print(
        f"| {step} | {touched} | {report['texts_embedded']} | {report['texts_reused']} | {sink['upserted']} in "
        f"{sink['upsert_calls']} | {sink['deleted']} in {sink['delete_calls']} | {report['added']}/{report['changed']}/"
        f"{report['metadata_only']}/{report['moved']}/{report['deleted']}/{report['unchanged']}/{report['rejected']} | "
        f"{differences['records']}: {differences['missing']} missing, {differences['extra']} extra, "
        f"{differences['stale']} stale | {report['seconds']} |",
        flush=True,
    )
    return not (differences["missing"] or differences["extra"] or differences["stale"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--corpus", type=Path, required=True, help="a folder with text and HTML files below it")
    parser.add_argument("--documents", type=int, default=2200)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        history = History(Path(name), random.Random(arguments.seed))
        count = history.gather(arguments.corpus.absolute(), arguments.documents)
        print(f"{count} documents, {arguments.kills} kills, seed {arguments.seed}\n")
        print("| step | files touched | embedded | reused | upserted | deleted | a/c/m/mv/d/u/r | index | s |")
        print("|---|---|---|---|---|---|---|---|---|")
        steps: list[tuple[str, Edit]] = [
            ("first sync", lambda: count),
            ("nothing changed", lambda: 0),
            ("1 % of texts edited", history.edit_texts),
            ("1 % of metadata edited", history.edit_metadata),
            ("1 % of files moved", history.move_files),
            ("1 % of files deleted", history.delete_files),
            ("nothing changed", lambda: 0),
        ]
        rounds = steps[2:-1]
        started = time.monotonic()
        right = True
        history.kills_left = arguments.kills // 4
        while True:
            for step, edit in steps:
                touched = edit()
                right &= show(step, touched, history.sync(), history.differences())
                history.patience_seconds = (0.2, 1.5)  # the later runs are short
                history.kills_left = min(KILLS_A_STEP, arguments.kills - history.killed)
            if history.killed >= arguments.kills:
                break
            steps = rounds
        print(
            f"\n{history.runs} runs, {history.killed} killed, {history.embedded_twice} texts embedded twice after "
            f"their vectors were stored, databases {'sound' if history.databases_are_sound() else 'DAMAGED'}, "
            f"{'in step each time' if right else 'NOT IN STEP'}, {time.monotonic() - started:.0f} s"
        )
        if not right or history.embedded_twice or not history.databases_are_sound():
            sys.exit(1)


if __name__ == "__main__":
    main()
