"""What memory the Embed Jobs service needs, and how fast it is where the model costs nothing, by size of the dataset.

    python bench/embed_jobs_memory.py                          # 1,000, 100,000 and 1,000,000 rows; 4 GB in /dev/shm
    python bench/embed_jobs_memory.py --rows 1000,100000

For each size a new process of the service, with a model whose vectors are hashes, 384 numbers each. The rows are those
of the other benchmarks: 500 characters and three fields, all of which are kept. This process is the client: it
uploads, waits, reads the result to its end, and compares each row with what it should be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import DIMENSION, METADATA_FIELDS, generate, read_rows
from embed_jobs import Flow, Result, service
from run_all import machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from connector.cohere import Record
    from connector.embedjobs.models import Embedded, Token
    from connector.embedjobs.values import InputType, Truncate

MODEL = "hash"
VECTORS = 4096
CHARACTERS_PER_TOKEN = 4
SIZES = "1000,100000,1000000"


def made_vectors() -> NDArray[np.float32]:
    made = np.random.default_rng(7).standard_normal((VECTORS, DIMENSION), dtype=np.float32)
    unit: NDArray[np.float32] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


@dataclass(frozen=True, slots=True)
class HashModel:
    """A served model that takes 2 us a text: a checksum chooses one of 4096 vectors."""

    vectors: NDArray[np.float32]
    name: str = MODEL
    identity: str = MODEL
    dimension: int = DIMENSION
    tokens_per_text: int = 256
    int8_range: float = 1.0

    def embed(self, texts: Sequence[str], *, input_type: InputType, truncate: Truncate) -> Embedded:
        del input_type, truncate
        from connector.embedjobs.models import Embedded

        tokens = sum(min(self.tokens_per_text, len(text) // CHARACTERS_PER_TOKEN + 2) for text in texts)
        return Embedded(self.vectors[[number_of(text) for text in texts]], tokens)

    def tokenize(self, text: str) -> list[Token]:
        raise NotImplementedError

    def detokenize(self, ids: Sequence[int]) -> str:
        raise NotImplementedError


def number_of(text: str) -> int:
    return zlib.crc32(text.encode()) % VECTORS


def serve(folder: Path) -> None:
    """Be the service; its log says where it listens."""
    from connector.embedjobs import server
    from connector.embedjobs.models import Catalogue
    from connector.sections import EmbedJobsSettings

    settings = EmbedJobsSettings(port=0, path=folder / "service")
    server.serve(settings, catalogue=Catalogue([HashModel(made_vectors())], {}))


def measure(count: int, work: Path) -> Result:
    """Take so many rows through a new service, to the last record."""
    from connector.cohere import Cohere, records

    rows = work / "rows.jsonl"
    generate(rows, count)
    with (
        service([sys.executable, Path(__file__).absolute(), "--serve", work], work) as running,
        Cohere(running.url, api_key=None) as client,
    ):
        client.embed(["warm"], model=MODEL, input_type="search_document")
        idle_mb = running.rss_mb
        flow = Flow(client, running, MODEL, {})
        output_id = flow.run(rows, ["id", *METADATA_FIELDS], count)
        with flow.step("reading"):
            for _ in records(client, output_id):
                pass
        compare(rows, records(client, output_id))
        sizes = [part.size_bytes or 0 for part in client.dataset(output_id).parts]
    return {
        "rows": count,
        "upload_mb": rows.stat().st_size / 1e6,
        "result_mb": sum(sizes) / 1e6,
        "parts": len(sizes),
        "idle_mb": idle_mb,
        "steps": flow.steps,
    }


def compare(rows: Path, read: Iterable[Record]) -> None:
    """End the program unless each row has come back: its text, its fields, and the vector of its text."""
    vectors = made_vectors()
    for row, record in zip_longest(read_rows(rows), read):
        if (
            row is None
            or record is None
            or {**record.metadata, "text": record.text} != row
            or not np.array_equal(record.embeddings["float"], vectors[number_of(row["text"])])
        ):
            raise SystemExit(f"the result is not what was uploaded: {row and row['id']}")


def tables(results: Sequence[Result]) -> Iterator[str]:
    steps = list(results[0]["steps"])
    titles, rule = " | ".join(steps), "---:|" * len(steps)
    yield f"Peak RSS of the service, MB\n\n| rows | idle | {titles} |\n|---:|---:|{rule}"
    for result in results:
        peaks = " | ".join(f"{result['steps'][name]['rss_mb']:.0f}" for name in steps)
        yield f"| {result['rows']:,} | {result['idle_mb']:.0f} | {peaks} |"
    yield f"\nSeconds, and rows a second\n\n| rows (uploaded, result) | {titles} |\n|---|{rule}"
    for result in results:
        times = " | ".join(
            f"{step['seconds']:.2f} ({result['rows'] / step['seconds']:,.0f}/s)" for step in result["steps"].values()
        )
        yield f"| {result['rows']:,} ({result['upload_mb']:.1f} MB, {result['result_mb']:.1f} MB) | {times} |"
    yield f"\nCPU, us a row: the service's, the client's\n\n| rows | {titles} |\n|---:|{rule}"
    for result in results:
        each = 1e6 / result["rows"]
        costs = " | ".join(
            f"{step['cpu_seconds'] * each:.0f}, {step['client_cpu_seconds'] * each:.0f}"
            for step in result["steps"].values()
        )
        yield f"| {result['rows']:,} | {costs} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=SIZES, help="sizes, with commas between them; default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where to work; default: /dev/shm, else where temporary files go")
    parser.add_argument("--output", type=Path, help="a file for the raw numbers, as JSON")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    where, results = machine(), []
    folder = options.folder or (Path("/dev/shm") if Path("/dev/shm").is_dir() else None)
    for count in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory(prefix="vector-sync-bench-", dir=folder) as work:
            results.append(measure(count, Path(work)))
        print(json.dumps(results[-1]), flush=True)
    print(f"\n{where}\n")
    print("\n".join(tables(results)))
    if options.output:
        options.output.write_text(json.dumps({"machine": where, "results": results}, indent=1))


if __name__ == "__main__":
    main()
