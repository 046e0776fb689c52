"""How fast a job of the Embed Jobs service is: beside the bare loop that it cannot beat, and sentence-transformers.

    python bench/embed_jobs.py --corpus FOLDER --passages 2000
    python bench/embed_jobs.py --corpus FOLDER --passages 2000 --peer-python VENV/bin/python --peer-model FOLDER

    corpus -> texts.json -+-> bare, runtime, peer: this script again, a process each ---> one line "RESULT {...}"
                          +-> job: `vector-sync embed-jobs`, a process; this one is its client

Everybody has the same texts, and has embedded one before the clock starts, so that loading the model is in nobody's
figure. Repeats are interleaved. README.md says how to make the corpus and the peer's environment.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from connector.cohere import Cohere

Result: TypeAlias = dict[str, Any]  # what one contestant has measured
Ready: TypeAlias = "Callable[[], NDArray[np.float32] | None]"  # embeds all texts; everything is loaded

HERE = Path(__file__).parent
MODEL = "all-MiniLM-L6-v2"
COMMAND = (sys.executable, "-m", "connector", "embed-jobs")  # reads the settings of the folder that it is started in
RESULT_MARK = "RESULT "
TEXTS_PER_CALL = 512  # of the bare loop: as many as a block of a dataset has rows
TOKENS_PER_FORWARD = 512  # of the runtime alone: as the embedder pads them
CONTESTANTS = {
    "bare": "the embedder in a loop, no service",
    "runtime": "onnxruntime alone: no tokenizer, all texts sorted by length",
    "job": "a job of the service",
    "peer": "sentence-transformers, its defaults",
}
GOALS = (("bare", "job", 0.95), ("peer", "job", 3.5))  # the job shall be so many times as fast
START_SECONDS = 60.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


# --- the texts ------------------------------------------------------------------------------------------------------


def passages(corpus: Path, count: int) -> list[str]:
    """Split documents as a sync does, in an order that is by chance but always the same, until there are enough."""
    from connector.model import Document, DocumentRef
    from connector.passages import PassageSplitter
    from connector.plugins import BuildContext
    from connector.sources.files import FilesListing, FilesSettings

    embedder = local_embedder()
    split = PassageSplitter(embedder.limits.tokens_per_text, embedder.count_tokens)
    context = BuildContext(base_path=corpus, state_path=corpus, read_only=True)
    source = FilesSettings(path=corpus).build(context)
    refs = [
        ref
        for batch in source.list()
        if isinstance(batch, FilesListing)
        for ref in batch.refs(np.arange(len(batch.versions)))
        if isinstance(ref, DocumentRef)
    ]
    texts: list[str] = []
    for ref in sorted(refs, key=lambda ref: blake2b(ref.id.encode()).digest()):
        for document in source.fetch([ref]):
            if isinstance(document, Document):
                texts += [passage.text for passage in split(document)]
        if len(texts) >= count:
            return texts[:count]
    raise SystemExit(f"{corpus} has {len(texts)} passages, not {count}")


def local_embedder() -> Any:
    from connector.embedders.local import LocalEmbedder
    from connector.embedders.pinned import MODELS

    return LocalEmbedder.of(MODELS[MODEL])


# --- the contestants, but for the service ---------------------------------------------------------------------------


def bare(texts: Sequence[str]) -> Ready:
    from connector.model import InputType

    embedder = local_embedder()
    embedder.embed(texts[:1], InputType.SEARCH_DOCUMENT)
    return lambda: np.concatenate(
        [
            embedder.embed(texts[start : start + TEXTS_PER_CALL], InputType.SEARCH_DOCUMENT)
            for start in range(0, len(texts), TEXTS_PER_CALL)
        ]
    )


def runtime(texts: Sequence[str]) -> Ready:
    """Tokenize, sort and pad before the clock starts, and pool nothing after."""
    import onnxruntime
    from tokenizers import Tokenizer

    from connector.embedders.pinned import MODELS

    model = MODELS[MODEL]
    folder = model.find_folder()
    tokenizer = Tokenizer.from_file(str(folder / model.tokenizer.path))
    tokenizer.enable_truncation(model.tokens)
    tokenizer.no_padding()
    options = onnxruntime.SessionOptions()  # those of connector.embedders.local, which says why
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(str(folder / model.graph.path), options, ["CPUExecutionProvider"])
    token_ids = sorted((encoding.ids for encoding in tokenizer.encode_batch_fast(texts)), key=len, reverse=True)
    forwards = []
    while token_ids:
        size = max(1, TOKENS_PER_FORWARD // len(token_ids[0]))
        group, token_ids = token_ids[:size], token_ids[size:]
        ids = np.array([[*ids, *[0] * (len(group[0]) - len(ids))] for ids in group], dtype=np.int64)
        mask = (np.arange(ids.shape[1]) < np.array([[len(ids)] for ids in group])).astype(np.int64)
        forwards.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
    session.run(["last_hidden_state"], forwards[-1])

    def run() -> None:
        for inputs in forwards:
            session.run(["last_hidden_state"], inputs)

    return run


def peer(texts: Sequence[str], model: Path) -> Ready:
    from sentence_transformers import SentenceTransformer

    transformer = SentenceTransformer(str(model))
    transformer.encode(list(texts[:1]))
    return lambda: transformer.encode(list(texts))


def measure(embed: Ready, vectors: Path) -> None:
    """Run one contestant, in this process, print what it took, and keep its vectors, if it has any."""
    started, cpu_started = time.perf_counter(), time.process_time()
    made = embed()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    if made is not None:
        np.save(vectors, made)
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(RESULT_MARK + json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "rss_mb": rss_mb}), flush=True)


# --- the service, and a client's way through it ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Service:
    """A process of the service, and what Linux says of it."""

    process: subprocess.Popen[bytes]
    url: str

    @property
    def cpu_seconds(self) -> float:
        """User's and system's, of all its threads; counted in hundredths."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    @property
    def peak_rss_mb(self) -> float:
        """The most since `forget_peak`."""
        return self._status_mb("VmHWM")

    @property
    def rss_mb(self) -> float:
        return self._status_mb("VmRSS")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # man 5 proc

    def _status_mb(self, name: str) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


@contextmanager
def service(command: Sequence[str | Path], folder: Path) -> Iterator[Service]:
    """Start a service, wait until its log says where it listens, and stop it in order."""
    log = folder / "service.log"
    with log.open("wb") as written:
        process = subprocess.Popen(command, cwd=folder, stdout=written, stderr=written)
    try:
        yield Service(process, until(lambda: _url_in(log, process), START_SECONDS))
    finally:
        process.terminate()
        try:
            process.wait(START_SECONDS)
        finally:
            process.kill()


def _url_in(log: Path, process: subprocess.Popen[bytes]) -> str | None:
    if process.poll() is not None:
        raise SystemExit(f"the service did not start: {log.read_text()[-2000:]}")
    lines = [line for line in log.read_text().splitlines(keepends=True) if line.startswith("{") and line.endswith("\n")]
    return next((line["url"] for line in map(json.loads, lines) if line["event"] == "started"), None)


def until(find: Callable[[], Any], deadline_seconds: float = 6 * 3600) -> Any:
    """Ask again and again: at first every 10 ms, later twice a second, as an answer takes 2 ms of the service's CPU."""
    started = time.monotonic()
    wait_seconds = 0.01
    while not (found := find()):
        if time.monotonic() - started > deadline_seconds:
            raise SystemExit(f"nothing came of it within {deadline_seconds:.0f} seconds")
        time.sleep(wait_seconds)
        wait_seconds = min(0.5, wait_seconds * 1.1)
    return found


@dataclass(slots=True)
class Flow:
    """What a client does, from an upload to the last record; each step is timed, and the service's CPU with it."""

    client: Cohere
    service: Service
    model: str
    steps: dict[str, Result]

    def run(self, rows: Path, fields: Sequence[str], count: int) -> str:
        """Upload, wait for the validation, embed; give the id of the result. Reading is left to the caller."""
        with self.step("upload"):
            dataset_id = self.client.create_dataset(rows, name="bench", keep_fields=fields)
        with self.step("validation"):
            dataset = until(lambda: self._settled(dataset_id))
        if not dataset.is_validated or sum(part.rows for part in dataset.parts) != count:
            raise SystemExit(f"the dataset is {dataset.status}: {dataset.error}")
        with self.step("job"):
            job_id = self.client.create_job(dataset_id=dataset_id, model=self.model, input_type="search_document")
            job = until(lambda: self._ended(job_id))
        if not job.is_complete:
            raise SystemExit(f"the job is {job.status}: {job.error}")
        output_id: str = job.output_dataset_id
        return output_id

    def _settled(self, id: str) -> Any:
        dataset = self.client.dataset(id)
        return dataset if dataset.is_validated or dataset.has_failed else None

    def _ended(self, id: str) -> Any:
        job = self.client.job(id)
        return None if job.status in ("processing", "cancelling") else job

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.service.forget_peak()
        started, cpu_started, own_started = time.perf_counter(), self.service.cpu_seconds, time.process_time()
        yield
        self.steps[name] = {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": self.service.cpu_seconds - cpu_started,
            "client_cpu_seconds": time.process_time() - own_started,
            "rss_mb": self.service.peak_rss_mb,
        }


def job(texts: Sequence[str], folder: Path) -> tuple[Result, NDArray[np.float32]]:
    """Take the texts through the service as its command starts it; check that each row comes back, in order."""
    from connector.cohere import Cohere, records

    (folder / "vector-sync.toml").write_text('[embed_jobs]\nport = 0\npath = "service"\n')
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in enumerate(texts)))
    with (
        service(COMMAND, folder) as running,
        Cohere(running.url, api_key=None) as client,
    ):
        client.embed(texts[:1], model=MODEL, input_type="search_document")
        flow = Flow(client, running, MODEL, {})
        output_id = flow.run(rows, ["id"], len(texts))
        with flow.step("reading"):
            read = list(records(client, output_id))
    if [(record.metadata["id"], record.text) for record in read] != list(enumerate(texts)):
        raise SystemExit("the result is not what was uploaded")
    vectors = np.array([record.embeddings["float"] for record in read])
    return {**flow.steps["job"], "steps": flow.steps}, vectors


# --- everybody in turn ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contest:
    """Who takes part, and with what."""

    contestants: Sequence[str]
    texts: Sequence[str]
    work: Path
    peer_python: Path | None
    peer_model: Path | None

    def turn(self, contestant: str) -> Result:
        """Let one contestant embed all texts once."""
        vectors = self.work / f"{contestant}.npy"
        if contestant == "job":
            with tempfile.TemporaryDirectory(dir=self.work) as folder:
                result, made = job(self.texts, Path(folder))
            np.save(vectors, made)
        else:
            python = self.peer_python if contestant == "peer" else sys.executable
            arguments = ["--as", contestant, "--work", str(self.work), "--peer-model", str(self.peer_model)]
            run = subprocess.run([str(python), __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
            result = json.loads(run.stdout.rpartition(RESULT_MARK)[2])
        return {"contestant": contestant, **result}

    def differences(self) -> dict[str, float]:
        """Compare the vectors of the last turns with those of the bare loop: the largest difference of any number."""
        made = {name: self.work / f"{name}.npy" for name in self.contestants}
        loaded = {name: np.load(path) for name, path in made.items() if path.exists()}
        if "bare" not in loaded:
            return {}
        return {name: float(abs(vectors - loaded["bare"]).max()) for name, vectors in loaded.items()}


def table(contest: Contest, turns: Sequence[Result]) -> Iterator[str]:
    def median(contestant: str, key: str) -> float:
        return statistics.median(float(turn[key]) for turn in turns if turn["contestant"] == contestant)

    def share(key: str, contestant: str) -> str:
        return f"{median('bare', key) / median(contestant, key):.3f}" if "bare" in contest.contestants else "-"

    differences = contest.differences()
    yield "| | CPU s | of bare's speed | wall s | of bare's speed | texts/s | peak RSS, MB | largest difference |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for name in contest.contestants:
        cpu_seconds, seconds, rss_mb = (median(name, key) for key in ("cpu_seconds", "seconds", "rss_mb"))
        difference = f"{differences[name]:.0e}" if name in differences else "-"
        yield (
            f"| {name}: {CONTESTANTS[name]} | {cpu_seconds:.2f} | {share('cpu_seconds', name)} | {seconds:.2f} | "
            f"{share('seconds', name)} | {len(contest.texts) / seconds:.1f} | {rss_mb:.0f} | {difference} |"
        )
    flows = [turn["steps"] for turn in turns if turn["contestant"] == "job"]
    if flows:
        whole = statistics.median(sum(step["seconds"] for step in steps.values()) for steps in flows)
        parts = [
            f"{name} {statistics.median(steps[name]['seconds'] for steps in flows):.2f} s "
            f"(service's CPU {statistics.median(steps[name]['cpu_seconds'] for steps in flows):.2f})"
            for name in flows[0]
        ]
        yield f"\nThe whole flow, from the upload to the last record: {whole:.2f} s: {', '.join(parts)}"
    yield "\n| goal | at least | measured: CPU, wall |\n|---|---:|---:|"
    for other, ours, least in GOALS:
        if {other, ours} <= set(contest.contestants):
            times = [median(other, key) / median(ours, key) for key in ("cpu_seconds", "seconds")]
            yield f"| speed of {ours}, times that of {other} | {least} | {times[0]:.3f}, {times[1]:.3f} |"


def run(options: argparse.Namespace, work: Path) -> None:
    from run_all import machine

    texts = passages(options.corpus.absolute(), options.passages)
    (work / "texts.json").write_text(json.dumps(texts))
    chosen = options.contestants.split(",") if options.contestants else [*CONTESTANTS]
    contestants = [name for name in CONTESTANTS if name in chosen and (name != "peer" or options.peer_python)]
    contest = Contest(contestants, texts, work, options.peer_python, options.peer_model)
    where = machine()
    turns = []
    for repeat in range(options.repeats):
        for contestant in contestants:
            turns.append({"repeat": repeat, "load": os.getloadavg()[0], **contest.turn(contestant)})
            print(json.dumps(turns[-1]), flush=True)
    characters = statistics.mean(map(len, texts))
    print(f"\n{len(texts):,} texts of {characters:.0f} characters, medians of {options.repeats}. {where}\n")
    print("\n".join(table(contest, turns)))
    if options.output:
        raw = {"machine": where, "texts": len(texts), "turns": turns, "differences": contest.differences()}
        options.output.write_text(json.dumps(raw, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a folder with text and HTML files below it")
    parser.add_argument("--passages", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--contestants", default="", help=f"with commas between them; default: {','.join(CONTESTANTS)}")
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has sentence-transformers")
    parser.add_argument("--peer-model", type=Path, help="the folder of the same model's safetensors")
    parser.add_argument("--work", type=Path, help="where to work; default: the folder for temporary files")
    parser.add_argument("--output", type=Path, help="a file for the raw numbers, as JSON")
    parser.add_argument("--as", dest="contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        texts = json.loads((options.work / "texts.json").read_text())
        ready: Mapping[str, Callable[[], Ready]] = {
            "bare": lambda: bare(texts),
            "runtime": lambda: runtime(texts),
            "peer": lambda: peer(texts, options.peer_model),
        }
        measure(ready[options.contestant](), options.work / f"{options.contestant}.npy")
        return
    if options.corpus is None:
        parser.error("--corpus is needed")
    with tempfile.TemporaryDirectory(prefix="vector-sync-bench-", dir=options.work) as work:
        run(options, Path(work))


if __name__ == "__main__":
    main()
