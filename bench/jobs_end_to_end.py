"""A first sync by Embed Jobs and a change of one document in a hundred by Embed: the command and the service.

    python bench/jobs_end_to_end.py                       20,000 documents, a model that costs nothing
    python bench/jobs_end_to_end.py --model real          the local model, all-MiniLM-L6-v2
    python bench/jobs_end_to_end.py --histories 1000      no times: random histories of faults and edits, see the tests

    rows.jsonl --> vector-sync sync --yes --json --> the service of the tests, as a process
                          |                          which notes each text that it embeds
                          +--> qdrant-edge

Each run is checked: the index has what the file has, the service has embedded each text once, and the official SDK
lists the jobs that the connector knows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

EVERY = 100  # one document in so many is changed
REAL_MODEL = "all-MiniLM-L6-v2"
SETTINGS = """
[source]
kind = "table"
path = "rows.jsonl"

[embedder]
kind = "cohere"
base_url = "{url}"
model = "{model}"
dimension = {dimension}
tokens_per_text = 256
jobs_from = 1000
texts_per_job = {texts_per_job}

[sinks.main]
kind = "qdrant-edge"

[state]
path = "state"
"""


def text_of(number: int, version: int = 0) -> str:
    """Make about 300 characters that no other document has."""
    return f"Document {number}, version {version}. " + " ".join(f"word{number * 31 + n}" for n in range(28))


def write(folder: Path, texts: Mapping[str, str]) -> None:
    with (folder / "rows.jsonl").open("w") as file:
        for id, text in texts.items():
            file.write(json.dumps({"id": id, "text": text}) + "\n")


def sync(folder: Path) -> dict[str, Any]:
    """Run the command; give its report, and the seconds that the process took."""
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "connector", "sync", "--yes", "--json"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if ended.returncode:
        raise SystemExit(f"sync ended with {ended.returncode}: {ended.stderr}")
    report: dict[str, Any] = json.loads(ended.stdout)
    return report | {"seconds": seconds}


def indexed(folder: Path) -> dict[str, str]:
    """Read the index with Qdrant's own client."""
    import qdrant_edge

    (shard_folder,) = folder.glob("**/shard")
    shard = qdrant_edge.EdgeShard.load(str(shard_folder))
    records, _ = shard.scroll(qdrant_edge.ScrollRequest(limit=10_000_000, with_payload=True, with_vector=False))
    shard.close()
    payloads: list[Any] = [record.payload for record in records]
    return {payload["_vs_document"]: payload["text"] for payload in payloads}


def known_jobs(folder: Path) -> set[str | None]:
    from connector.checkpoint import Checkpoints
    from connector.job_book import JobBook

    with closing(Checkpoints.open(folder / "state", read_only=True)) as checkpoints:
        return {job.job_id for job in JobBook(checkpoints).latest(10_000)}


def demand(is_so: bool, what: str) -> None:
    if not is_so:
        raise SystemExit(f"not so: {what}")


def two_syncs(folder: Path, documents: int, texts_per_job: int, *, real: bool) -> None:
    """Sync, change, sync; print a row each."""
    import cohere
    from embedjobs_service import as_process

    log = folder / "embedded"
    service_folder = folder / "service"
    service_folder.mkdir()
    texts = {f"doc{number}": text_of(number) for number in range(documents)}
    with as_process(service_folder, real_models=real, texts_log=None if real else log) as service:
        model, dimension = (REAL_MODEL, 384) if real else ("hash", 8)
        (folder / "vector-sync.toml").write_text(
            SETTINGS.format(url=service.url, model=model, dimension=dimension, texts_per_job=texts_per_job)
        )
        print("| run | documents | s | by jobs | by Embed | embedded by the service, in all | jobs, by the SDK |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for run, changed in (("first", 0), ("change", 1), ("nothing", 1)):
            if changed:
                texts |= {f"doc{number}": text_of(number, changed) for number in range(0, documents, EVERY)}
            write(folder, texts)
            told = sync(folder)
            demand(indexed(folder) == texts, "the index has what the file has")
            lines = [] if real else log.read_text().splitlines()
            demand(len(lines) == len(set(lines)), "each text was embedded once")
            client = cohere.Client(api_key="none", base_url=service.url)
            listed = {job.job_id for job in client.embed_jobs.list().embed_jobs or []}
            demand(listed == known_jobs(folder), "the SDK lists the jobs that the connector knows")
            by_jobs, counted = told["texts_by_jobs"], "" if real else f"{len(lines):,}"
            print(
                f"| {run} | {documents:,} | {told['seconds']:.1f} | {by_jobs:,} | {told['texts_embedded'] - by_jobs:,} "
                f"| {counted} | {len(listed)} |",
                flush=True,
            )


def histories(count: int, first: int) -> None:
    """Run random histories, and name the seeds that failed."""
    from jobs_through_proxy import history, stage

    started, failed = time.perf_counter(), []
    with stage() as made:
        for seed in range(first, first + count):
            try:
                history(made, seed)
            except AssertionError as error:
                failed.append(seed)
                print(f"seed {seed}: {str(error)[:500]}", flush=True)
    print(f"{count} histories from seed {first} in {time.perf_counter() - started:.0f} s; failed: {failed or 'none'}")
    if failed:
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--texts-per-job", type=int, default=5_000)
    parser.add_argument("--model", choices=["hash", "real"], default="hash")
    parser.add_argument("--work", type=Path, help="an empty folder to work in; by default one that goes away")
    parser.add_argument("--histories", type=int, default=0, metavar="N", help="so many, and nothing else")
    parser.add_argument("--first-seed", type=int, default=0)
    given = parser.parse_args()
    if given.histories:
        histories(given.histories, given.first_seed)
        return
    with nullcontext(given.work) if given.work else tempfile.TemporaryDirectory() as folder:
        two_syncs(Path(folder), given.documents, given.texts_per_job, real=given.model == "real")


if __name__ == "__main__":
    main()
