"""Whole syncs by jobs, against our own service over sockets, with a proxy between that knows each call by its kind.

    with stage() as stage:                                        # one service and one proxy, for many worlds
        with stage.world(texts_per_job=2) as world:
            world.faults[Call.START].append(Drop())               # of the next such call; None lets one pass
            world.set({"a": "one text", "b": "another"})
            world.run_until_in_step()
            world.assert_well()

Nobody sleeps: a wait moves the world's clock on, and lasts until the service has nothing to do. So a run is nearly
the same each time, and what happens between two looks of the connector has happened at the second.
"""

from __future__ import annotations

import itertools
import random
import re
import tempfile
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedjobs_fakes import CountingModel
from embedjobs_service import InThread, eventually, in_thread
from fault_proxy import Answer, Cut, Drop, Exchange, Fault, FaultProxy, Rewrite, Seen
from rig import Rig

from connector.checkpoint import Checkpoints
from connector.cohere import Timeouts
from connector.embedders.cohere import CohereSettings
from connector.embedders.cohere_jobs import CohereJobEmbedder
from connector.embedjobs import values
from connector.errors import ConfigError, ExitCode
from connector.job_book import Job, JobBook
from connector.model import Document, DocumentId, InputType, JsonValue, RecordId, record_id
from connector.passages import PassageSplitter
from connector.plugins import BuildContext
from connector.retry import Retry

if TYPE_CHECKING:
    import httpx

KEY = "canary-0ddba11"
TOKENS_PER_TEXT = 64
SETTLE_SECONDS = 120.0
NAMED_WAIT_SECONDS = 7
IMPATIENT_SECONDS = 0.4  # of a client that is to give up: the only time that really passes
MOST_RUNS = 6
PENDING = (values.ValidationStatus.QUEUED, values.ValidationStatus.PROCESSING)
HTML = {"Content-Type": "text/html"}


class Call(StrEnum):
    """The kinds of calls to the service."""

    CREATE = "create dataset"
    DATASETS = "list datasets"
    DATASET = "look at dataset"
    START = "start job"
    JOBS = "list jobs"
    JOB = "look at job"
    RESULT = "dataset of the result"
    DOWNLOAD = "download"
    DELETE = "delete"
    EMBED = "embed"
    OTHER = "other"


PATHS: Mapping[Call, tuple[str, str]] = {  # the first that fits
    Call.CREATE: ("POST", "/v1/datasets"),
    Call.DATASETS: ("GET", "/v1/datasets"),
    Call.DATASET: ("GET", "/v1/datasets/[^/]+"),
    Call.DELETE: ("DELETE", "/v1/datasets/[^/]+"),
    Call.START: ("POST", "/v1/embed-jobs"),
    Call.JOBS: ("GET", "/v1/embed-jobs"),
    Call.JOB: ("GET", "/v1/embed-jobs/[^/]+"),
    Call.EMBED: ("POST", "/v2/embed"),
    Call.DOWNLOAD: ("GET", r".*\.avro"),
    Call.OTHER: ("", ".*"),
}


# --- faults -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mangled:
    """The service does what it was asked, and something on the way makes a web page of its answer."""

    def play(self, exchange: Exchange) -> None:
        exchange.forward()
        exchange.send(Answer(200, b"<html>blocked by your company</html>", HTML))


@dataclass(frozen=True, slots=True)
class Twice:
    """The service gets the request a second time, as some gateways do it; the second answer is sent."""

    def play(self, exchange: Exchange) -> None:
        exchange.forward()
        exchange.send(exchange.forward())


@dataclass(slots=True)
class Stuck:
    """The request reaches the service, or its answer the client, only when the client has given up long ago."""

    after: bool
    seconds: float = 50.0  # by the world's clock
    due_at: float | None = None
    let_go: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)

    def play(self, exchange: Exchange) -> None:
        world = exchange.through.world  # type: ignore[attr-defined]  # a `Between`
        self.due_at = world.now + self.seconds
        world.stuck.append(self)
        try:
            answer = exchange.forward() if self.after else None
            assert self.let_go.wait(60), "nobody let it go"
            exchange.send(answer or exchange.forward())
        finally:
            self.is_over.set()

    def end(self) -> None:
        self.let_go.set()
        assert self.is_over.wait(60), "it did not end"


@dataclass(frozen=True, slots=True)
class Refused:
    """Nobody listens where the client connects to: played by the client's side, not by the proxy."""

    def play(self, exchange: Exchange) -> None:
        raise AssertionError("this one never arrives")


def unlisted(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: [] if isinstance(value, list) else value for name, value in answer.items()}


def backwards(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value[::-1] if isinstance(value, list) else value for name, value in answer.items()}


def doubled(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value + value[::-1] if isinstance(value, list) else value for name, value in answer.items()}


def two_days_old(answer: dict[str, Any]) -> dict[str, Any]:
    return {"datasets": [one | {"created_at": "2020-01-01T00:00:00Z"} for one in answer.get("datasets", [])]}


# --- the proxy ------------------------------------------------------------------------------------------


class Between(FaultProxy):
    """The proxy before one service, for one world after the other."""

    def __init__(self, service: InThread) -> None:
        super().__init__(service.url)
        self.service = service
        self.world: World

    def call_of(self, method: str, path: str) -> Call:
        found = next(call for call, (verb, at) in PATHS.items() if verb in method and re.fullmatch(at, path))
        is_result = found is Call.DATASET and self._is_result(path.rpartition("/")[2])
        return Call.RESULT if is_result else found

    def _is_result(self, id: str) -> bool:
        store = self.service.store
        return store.has_dataset(id) and store.dataset(id).type is values.DatasetType.EMBED_RESULT

    def fault_for(self, seen: Seen) -> Fault | None:
        world, call = self.world, self.call_of(seen.method, seen.path)
        with self._lock:
            world.calls[call] += 1
            queue = world.faults[call]
            return queue.popleft() if queue else world.always.get(call)


# --- worlds -----------------------------------------------------------------------------------------------


@dataclass
class World(Rig):
    """One store, one source and one sink, and what is to go wrong between them and the service."""

    stage: Stage = field(kw_only=True)
    settings: dict[str, Any] = field(default_factory=dict)
    faults: defaultdict[Call, deque[Fault | None]] = field(default_factory=lambda: defaultdict(deque))
    always: dict[Call, Fault] = field(default_factory=dict)
    calls: Counter[Call] = field(default_factory=Counter)
    is_impatient: bool = False
    now: float = 0.0
    stuck: list[Stuck] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # that a run ended with

    def __post_init__(self) -> None:
        self.clock = lambda: self.now
        self.while_asleep = self._pass_time

    def set(self, documents: Mapping[str, str]) -> None:
        """Let the source have these documents from now on."""
        self.source.set(dict(documents))

    def run(self) -> ExitCode:
        """Do what one process does; an error that would end it is one line."""
        self.embedder = embedder = self._embedder()  # type: ignore[assignment]  # a real one
        with closing(embedder):
            try:
                return self.sync().exit_code
            except ConfigError as error:
                self.lines.append(str(error))
                return error.exit_code
            finally:
                assert not any("\n" in line or KEY in line for line in self.lines)

    def run_until_in_step(self) -> int:
        """Run again and again, as a timer would; tell how often it took."""
        for number in range(1, MOST_RUNS + 1):
            if self.run() is ExitCode.IN_STEP and not self.open_jobs():
                return number
        raise AssertionError(f"not in step after {MOST_RUNS} runs: {self.lines}, {self.open_jobs()}")

    def _embedder(self) -> CohereJobEmbedder:
        made = CohereSettings.model_validate(
            {
                "base_url": self.stage.proxy.url,
                "api_key": KEY,
                "model": "hash",
                "dimension": 8,
                "tokens_per_text": TOKENS_PER_TEXT,
                "settle_seconds": SETTLE_SECONDS,
                "jobs_from": 1,
                "texts_per_job": 2,
                "open_jobs": 2,
            }
            | self.settings
        ).build(BuildContext(Path(), Path()))
        assert isinstance(made, CohereJobEmbedder)
        made._download_retry = Retry(attempts=3, sleep=self._pass_time)
        exchange = made._client._exchange
        exchange._http.event_hooks = {"request": [self._perhaps_refuse]}
        if self.is_impatient:
            exchange._timeouts = Timeouts(read_seconds=IMPATIENT_SECONDS, made_seconds=IMPATIENT_SECONDS)
        return made

    def _perhaps_refuse(self, request: httpx.Request) -> None:
        """Send a request to a port of this machine where nobody listens."""
        queue = self.faults[self.stage.proxy.call_of(request.method, request.url.path)]
        if queue and isinstance(queue[0], Refused):
            queue.popleft()
            request.url = request.url.copy_with(port=1)

    def _pass_time(self, seconds: float) -> None:
        self.now += seconds
        for one in [one for one in self.stuck if one.due_at is not None and one.due_at <= self.now]:
            self.stuck.remove(one)
            one.end()
        eventually(self.stage.is_idle)

    # --- what has become of it --------------------------------------------------------------------

    def open_jobs(self) -> list[Job]:
        with closing(Checkpoints.open(self.folder, read_only=True)) as checkpoints:
            return JobBook(checkpoints).open_jobs()

    def expected(self) -> dict[RecordId, tuple[str, dict[str, JsonValue]]]:
        split = PassageSplitter(TOKENS_PER_TEXT, self.embedder.count_tokens)
        return {
            record_id(DocumentId(row.id), passage.index): (passage.text, row.metadata)
            for row in self.source.rows
            if row.id is not None
            for passage in split(Document(DocumentId(row.id), row.version, row.text, row.metadata))
        }

    def _vectors_fit(self, sink: int) -> bool:
        records = list(self.sinks[sink].records.values())
        right = CountingModel()._embedder(values.InputType.SEARCH_DOCUMENT, max(1, len(records)))
        vectors = right.embed([record.text for record in records], InputType.SEARCH_DOCUMENT)
        return all((record.vector == vector).all() for record, vector in zip(records, vectors, strict=True))

    def embedded(self) -> Counter[str]:
        """How often the service has embedded each text, by its own count."""
        return Counter(self.stage.model.texts_seen)

    def assert_well(self, *, paid_again: int = 0, leaves: int = 0) -> None:
        """All is in step and paid for once, but for so many texts; the service has nothing of ours, but so much."""
        for one in self.stuck:
            one.end()
        self.stuck.clear()
        eventually(self.stage.is_idle)
        assert self.in_step()
        assert self.open_jobs() == []
        embedded = self.embedded()
        assert {text for text, _ in self.expected().values()} <= embedded.keys()
        assert embedded.total() - len(embedded) == paid_again, embedded
        assert len(self.stage.datasets()) <= leaves, self.stage.datasets()
        assert list((self.folder / "jobs").glob("*")) == []

    def assert_nothing_is_left_a_day_later(self, *, but: int = 0) -> None:
        """What nobody needs is cleaned up when something else is embedded."""
        if not self.stage.datasets():
            return
        self.always[Call.DATASETS] = Rewrite(two_days_old)
        again = self.embedded().total() - len(self.embedded())
        self.set({row.id or "": row.text for row in self.source.rows} | {"later": f"{self.folder.name} a day later"})
        self.run_until_in_step()
        self.always.clear()
        self.assert_well(paid_again=again, leaves=but)


@dataclass
class Stage:
    """The service and the proxy."""

    service: InThread
    proxy: Between
    model: CountingModel
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def world(self, **settings: Any) -> Iterator[World]:
        """Make a new world, before which nothing was embedded."""
        folder = self.folder / f"world{next(self.numbers)}"
        folder.mkdir()
        self.model.calls.clear()
        world = self.proxy.world = World(folder, stage=self, settings=settings)
        self.proxy.seen.clear()
        try:
            yield world
        finally:
            for one in world.stuck:
                one.let_go.set()
            self.model.failures.clear()
            for dataset in self.service.store.datasets():  # of a test that failed: the next one is not to suffer
                self.service.store.delete_dataset(dataset.id)

    def is_idle(self) -> bool:
        store = self.service.store
        return not store.open_jobs() and not any(one.status in PENDING for one in store.datasets())

    def datasets(self) -> list[str]:
        """Give the names of all datasets, of results too."""
        return [one.name for one in self.service.store.datasets()]


@contextmanager
def stage() -> Iterator[Stage]:
    """Start the service and the proxy, in memory where there is such a file system."""
    memory = Path("/dev/shm")
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)))
        model = CountingModel()
        service = opened.enter_context(in_thread(folder, models=[model], api_key=KEY))
        proxy = opened.enter_context(Between(service))
        yield Stage(service, proxy, model, folder)


# --- what goes wrong, and histories of it -----------------------------------------------------------------

Make = Callable[[], list["Fault | None"]]


def busy(status: int = 429) -> Answer:
    return Answer.of({"message": "come back later"}, status)


PASSING: Mapping[str, Make] = {
    "answer lost": lambda: [Drop()],
    "request lost": lambda: [Drop(after=False)],
    "503 after": lambda: [Answer.of({"message": "oops"}, 503, after=True)],
    "504 after": lambda: [Answer(504, b"<html>gateway</html>", HTML, after=True)],
    "408 after": lambda: [Answer.of({"message": "request timeout"}, 408, after=True)],
    "503 before": lambda: [busy(503)],
    "500 before": lambda: [Answer.of({"message": "internal error"}, 500)],
    "busy": lambda: [busy()],
    "busy, with a wait": lambda: [Answer.of({"message": "slow down"}, 429, Retry_After=str(NAMED_WAIT_SECONDS))],
    "cut": lambda: [Cut(after_bytes=10)],
    "refused": lambda: [Refused()],
}
LASTING: Mapping[str, Make] = {  # a run ends with one line, and the next one goes on
    "key revoked": lambda: [Answer.of({"message": "invalid api token"}, 401)],
    "web page": lambda: [Answer(200, b"<html>log in</html>", HTML)],
    "web page after": lambda: [Mangled()],
}
SLOW: Mapping[str, Make] = {
    "answer late": lambda: [Stuck(after=True)],
    "request late": lambda: [Stuck(after=False)],
    "request later than anybody waits": lambda: [Stuck(after=False, seconds=5 * SETTLE_SECONDS)],
}
LISTS: Mapping[str, Make] = {
    "lags": lambda: [Rewrite(unlisted)] * 2,
    "backwards": lambda: [Rewrite(backwards)] * 3,
    "doubled": lambda: [Rewrite(doubled)] * 3,
}
GONE: Mapping[str, Make] = {
    "not there yet": lambda: [Answer.of({"message": "dataset or job not found"}, 404)] * 2,
}
CALLS = tuple(call for call in Call if call not in (Call.EMBED, Call.OTHER))
OPTIONS: Mapping[Call, Mapping[str, Make]] = {
    call: {
        **PASSING,
        **LASTING,
        **(LISTS if call in (Call.JOBS, Call.DATASETS) else {}),
        **(GONE if call in (Call.JOB, Call.DATASET, Call.RESULT) else {}),
    }
    for call in CALLS
}


def history(stage: Stage, seed: int) -> None:
    """Let several things go wrong, and documents change, in an order that the seed decides; then all has to be well."""
    chance = random.Random(seed)
    with stage.world(
        texts_per_job=chance.choice([1, 2, 3, 100]),
        open_jobs=chance.choice([1, 2, 4]),
        jobs_from=chance.choice([1, 1, 2, 4]),
    ) as world:
        documents = {f"doc{n}": f"{seed} text {n}" for n in range(chance.randint(1, 7))}
        for turn in range(chance.randint(1, 4)):
            world.set(documents)
            for _ in range(chance.randint(0, 4)):
                call = chance.choice([*CALLS, Call.START, Call.CREATE])
                fault = chance.choice(list(OPTIONS[call]))
                queue = world.faults[call]
                queue.extend([None] * chance.choice([0, 0, 0, 1, 2]))
                queue.extend(OPTIONS[call][fault]())
                if call in (Call.JOBS, Call.DATASETS) and chance.random() < 0.5:  # so that it matters what they list
                    world.faults[Call.START if call is Call.JOBS else Call.CREATE].append(Drop())
            if chance.random() < 0.2:
                refusals: list[Fault] = [busy(), busy(503), Drop(after=False)]
                world.faults[Call.EMBED].append(chance.choice(refusals))
            world.run()
            for id in chance.sample(sorted(documents), chance.randint(0, len(documents))):
                documents[id] = f"{seed} text {id} of turn {turn}"
            if chance.random() < 0.3:
                documents.pop(chance.choice(sorted(documents)), None)
            documents[f"new{turn}"] = f"{seed} new in turn {turn}"
        world.set(documents)
        world.faults.clear()
        world.run_until_in_step()
        world.assert_well(leaves=20)
        world.assert_nothing_is_left_a_day_later()
