"""Histories of faults, for each sink: at the end it is in step, nothing is lost, and no text was embedded twice.

What a sink holds is read by another path than the sink's: from the dictionary of the memory sink, through Qdrant's own
client, out of the emulated Pinecone's insides. Nobody sleeps: the waits of our retries only move a clock.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from rig import FlakySink, Rig

from connector.checkpoint import Checkpoints
from connector.engine import Options
from connector.errors import ExitCode, RejectedError, SinkError, TransientError
from connector.model import EmbeddedRecord
from connector.ports import Limits, Sink
from connector.report import Report

pytest.importorskip("qdrant_client")
pytest.importorskip("pinecone")

import pinecone_rig
import qdrant_rig
from qdrant_client import models

from connector.testing.fakes import HashEmbedder
from connector.testing.pinecone_sdk import without_waiting
from connector.testing.pinecone_server import Hang, Partial, PineconeServer, Reset, Status
from connector.testing.qdrant_server import QdrantServer
from sinks.qdrant import QdrantSettings

POISON = "poison"
WORDS = "the service's own words"
OPTIONS = Options(threads=True, max_delete_fraction=1.0, confirm_deletes=10_000)
MEMORY = Path("/dev/shm")
Documents = dict[str, tuple[str, dict[str, Any]]]


class Service(ABC):
    """A database that can be made to fail, and its sink."""

    faults: ClassVar[Mapping[str, Callable[[Any], None]]]
    """By name; each holds for some calls, or until `mend`."""

    @abstractmethod
    def sink(self) -> Sink:
        """Build the sink as a new run does."""

    @abstractmethod
    def held(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Read what is there, past the sink."""

    @abstractmethod
    def mend(self) -> None:
        """Let nothing fail any more but the poisoned record."""

    @abstractmethod
    def go_down(self) -> None:
        """Answer nothing, until `mend`."""

    def pass_time(self, seconds: float) -> None:  # noqa: B027 - not every service has a clock
        """Be told what would have been slept."""


class MemoryService(Service):
    """The memory sink, as if behind a service."""

    def __init__(self, _folder: Path) -> None:
        self._sink = FlakySink("main")
        self._sink.limits = Limits(records_per_call=50, concurrent_calls=3)
        self.mend()

    def sink(self) -> Sink:
        return self._sink

    def held(self) -> dict[str, tuple[str, dict[str, Any]]]:
        return {id: (record.text, dict(record.metadata)) for id, record in self._sink.records.items()}

    def mend(self) -> None:
        self._fail(lambda: None)

    def go_down(self) -> None:
        self._fail(lambda: throw(TransientError("no answer")))

    def _fail(self, fail: Callable[[], None]) -> None:
        def meet(records: Sequence[Any]) -> None:
            fail()
            if any(isinstance(record, EmbeddedRecord) and record.text == POISON for record in records):
                raise RejectedError(f"400: {WORDS}")

        self._sink.before_upsert = self._sink.before_delete = meet

    def _fails(self, *errors: Exception) -> None:
        left = list(errors)

        def fail() -> None:
            with contextlib.suppress(IndexError):
                raise left.pop()

        self._fail(fail)

    faults: ClassVar = {
        "429 with a wait": lambda self: self._fails(*[TransientError("429", retry_after_seconds=7)] * 2),
        "5xx": lambda self: self._fails(*[TransientError("503")] * 2),
        "5xx for longer than we try": lambda self: self._fails(*[TransientError("503")] * 20),
        "403": lambda self: self._fails(SinkError("403")),
        "413": lambda self: self._fails(RejectedError("413"), RejectedError("413")),
    }


class QdrantService(Service):
    """The sink for a Qdrant server, at the emulator over HTTP."""

    POINTS = r"/collections/[^/]+/points"

    def __init__(self, _folder: Path) -> None:
        self._now = 0.0
        self.server = QdrantServer(clock=lambda: self._now)
        self.server.start()
        self.settings = QdrantSettings(url=self.server.url, timeout_seconds=30, records_per_call=50)
        self.mend()

    def sink(self) -> Sink:
        return qdrant_rig.build(self.settings)

    def held(self) -> dict[str, tuple[str, dict[str, Any]]]:
        with closing(qdrant_rig.raw_client(self.server.url)) as raw:
            if not raw.collection_exists("docs@1"):
                return {}
            return {id: (each.text, dict(each.metadata)) for id, each in qdrant_rig.ours(raw, "docs@1").items()}

    def mend(self) -> None:
        if not self._is_up():
            self.server.start()
        self.server.faults.clear()
        self.server.faults.poison(POISON, WORDS)

    def go_down(self) -> None:
        self.server.stop()

    def _is_up(self) -> bool:
        return self.server._listener is not None

    def pass_time(self, seconds: float) -> None:
        self._now += seconds

    def strict(self, **limits: Any) -> None:
        """Put an existing collection into strict mode."""
        with closing(qdrant_rig.raw_client(self.server.url)) as raw:
            if raw.collection_exists("docs@1"):
                raw.update_collection("docs@1", strict_mode_config=models.StrictModeConfig(enabled=True, **limits))

    def close(self) -> None:
        self.server.stop()

    def _next(self, kind: str, *arguments: Any, deletions: bool = False, **fits: Any) -> None:
        path = self.POINTS + ("/delete" if deletions else "")
        getattr(self.server.faults, kind)(*arguments, **{"path": path, "times": 2} | fits)

    faults: ClassVar = {
        "429 with a wait": lambda self: self._next("answer", 429, "slow down", retry_after="7"),
        "429 with a wait that the client cannot read": lambda self: self._next(
            "answer", 429, "slow", retry_after="1.5"
        ),
        "5xx": lambda self: self._next("answer", 503),
        "5xx for longer than we try": lambda self: self._next("answer", 500, times=20),
        "reset before the work": lambda self: self._next("reset"),
        "reset after the work": lambda self: self._next("lose"),
        "half of a call": lambda self: self._next("tear"),
        "not applied yet": lambda self: self._next("say", "wait_timeout"),
        "acknowledged only": lambda self: self._next("say", "acknowledged"),
        "413": lambda self: self._next("answer", 413, "too large", over_bytes=4_000, times=None),
        "403": lambda self: self._next("answer", 403, times=1),
        "5xx to deletions": lambda self: self._next("answer", 503, deletions=True),
        "deletions whose answer is lost": lambda self: self._next("lose", deletions=True),
        "strict mode: small calls": lambda self: self.strict(upsert_max_batchsize=7),
        "strict mode: few writes a minute": lambda self: self.strict(write_rate_limit=100),
    }


class PineconeService(Service):
    """The sink for Pinecone, at the emulator over HTTP, with the official SDK and its own four attempts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.timeout_seconds = 30.0
        self.bytes_per_call = 1_900_000
        self.server = PineconeServer().__enter__()
        self.mend()

    def sink(self) -> Sink:
        return pinecone_rig.build(
            self.server,
            self._folder,
            records_per_call=50,
            timeout_seconds=self.timeout_seconds,
            bytes_per_call=self.bytes_per_call,
        )

    def held(self) -> dict[str, tuple[str, dict[str, Any]]]:
        self.server.settle()
        return {id: (each.text, dict(each.metadata)) for id, each in pinecone_rig.stored_in(self.server).items()}

    def mend(self) -> None:
        self.server.clear()
        self.server.poison(POISON, WORDS)

    def go_down(self) -> None:
        self.server.on("*", Reset(), times=None)

    def close(self) -> None:
        self.server.__exit__(None, None, None)

    def _next(self, fault: Any, *, route: str = "upsert", times: int | None = 6) -> None:
        self.server.on(route, fault, times=times)

    faults: ClassVar = {
        "429 with a wait": lambda self: self._next(Status(429, retry_after=7)),
        "5xx": lambda self: self._next(Status(503)),
        "5xx of a gateway": lambda self: self._next(Status(502, body="<html>bad gateway</html>")),
        "5xx for longer than we try": lambda self: self._next(Status(500), times=60),
        "reset before the work": lambda self: self._next(Reset()),
        "reset after the work": lambda self: self._next(Reset(after=True)),
        "half of a call": lambda self: self._next(Partial(status=500)),
        "a count that is too small": lambda self: self._next(Partial(status=200), times=2),
        "413": lambda self: self._next(Status(413, "too large"), times=2),
        "403": lambda self: self._next(Status(403), times=1),
        "5xx to deletions": lambda self: self._next(Status(503), route="delete"),
        "deletions whose answer is lost": lambda self: self._next(Reset(after=True), route="delete"),
    }


SERVICES: dict[str, Callable[[Path], Service]] = {
    "memory": MemoryService,
    "qdrant": QdrantService,
    "pinecone": PineconeService,
}
FAULTS = [
    (name, fault)
    for name, service in (("memory", MemoryService), ("qdrant", QdrantService), ("pinecone", PineconeService))
    for fault in service.faults
]


def throw(error: Exception) -> None:
    raise error


class History:
    """A source that is edited, a service that fails, and runs."""

    def __init__(self, name: str, folder: Path) -> None:
        self.stack = ExitStack()
        if name == "pinecone":
            self.stack.enter_context(without_waiting())
        self.service = SERVICES[name](folder)
        self.stack.callback(getattr(self.service, "close", lambda: None))
        self.rig = Rig(folder / "state", options=OPTIONS, while_asleep=self.service.pass_time)
        self.documents: Documents = {}

    def sync(self) -> Report:
        with closing(self.service.sink()) as sink:
            self.rig.sinks = [sink]  # type: ignore[list-item]  # not one that is looked into
            return self.rig.sync(dict(self.documents))

    def assert_in_step(self) -> None:
        """All is there but the poisoned, quarantined with the service's words, and nothing was paid for twice."""
        poisoned = {id for id, (text, _) in self.documents.items() if text == POISON}
        wanted = {id: value for id, value in self.rig.expected().items() if id.rpartition("#")[0] not in poisoned}
        assert self.service.held() == wanted
        with closing(Checkpoints.open(self.rig.folder, read_only=True)) as checkpoints:
            quarantined = {each.place: each.reason for each in checkpoints.rejected()}
        assert quarantined.keys() == poisoned
        assert all(WORDS in reason for reason in quarantined.values())
        paid = self.rig.embedder.texts_seen
        assert len(paid) == len(set(paid)), "a text was embedded twice"

    def close(self) -> None:
        self.stack.close()


def many(count: int, edition: str = "") -> Documents:
    return {f"doc-{n:04}": (f"text number {n}{edition}", {"title": f"title {n}"}) for n in range(count)}


@pytest.fixture
def begin(folder: Path) -> Iterator[Callable[[str], History]]:
    with ExitStack() as opened:

        def open_history(name: str) -> History:
            history = History(name, folder)
            opened.callback(history.close)
            return history

        yield open_history


@pytest.mark.parametrize("name,fault", FAULTS)
def test_a_fault_loses_nothing_and_pays_for_nothing_twice(
    begin: Callable[[str], History], name: str, fault: str
) -> None:
    history = begin(name)
    history.documents = many(10)
    history.sync()
    history.documents = {**many(120), "bad": (POISON, {})}
    history.service.faults[fault](history.service)
    history.sync()  # may not end in step
    history.documents = {**many(60), **{f"new-{n}": (f"new {n}", {"n": n}) for n in range(60)}, "bad": (POISON, {})}
    history.service.faults[fault](history.service)
    history.sync()
    history.service.mend()
    report = history.sync()
    assert report.exit_code is ExitCode.REJECTED, report.problems
    assert report.texts_embedded == 0
    history.assert_in_step()
    again = history.sync()
    assert (again.counts.unchanged, again.counts.rejected) == (120, 1)
    assert (again.sinks["main"].upsert_calls, again.sinks["main"].delete_calls) == (0, 0)


@pytest.mark.parametrize("name", SERVICES)
def test_one_poisoned_record_in_a_thousand_is_found_in_few_calls_and_the_rest_arrives(
    begin: Callable[[str], History], name: str
) -> None:
    history = begin(name)
    history.documents = {**many(999), "doc-0500b": (POISON, {})}
    report = history.sync()
    assert (report.counts.added, report.counts.rejected) == (999, 1)
    assert report.sinks["main"].upserted == 999
    assert report.sinks["main"].upsert_calls <= 20 + 2 * 6, "20 calls of 50, and two for each halving of one of them"
    history.assert_in_step()


@pytest.mark.parametrize("name", ["qdrant", "pinecone"])
@pytest.mark.parametrize("text", ["plain words", 'quotes " and \\ and \n', "\u00fcml\u00e4ut", "\u65e5\u672c\u8a9e"])
def test_calls_are_about_as_large_as_they_may_be_and_none_is_larger(
    begin: Callable[[str], History], name: str, text: str
) -> None:
    history = begin(name)
    history.rig.embedder = HashEmbedder(dimension=384, tokens_per_text=400)
    history.documents = {f"doc-{n:04}": (f"{text} " * 40 + str(n), {"title": text, "n": n}) for n in range(150)}
    service, limit_bytes = history.service, 100_000
    if isinstance(service, QdrantService):
        service.settings = service.settings.model_copy(update={"bytes_per_call": limit_bytes})
        history.sync()
        sizes = [
            seen.size_bytes for seen in service.server.seen if seen.route.startswith("PUT") and "points" in seen.path
        ]
    else:
        assert isinstance(service, PineconeService)
        service.bytes_per_call = limit_bytes
        history.sync()
        sizes = [seen.request_bytes for seen in service.server.requests if seen.route == "upsert" and seen.records > 1]
    assert len(sizes) >= 8
    assert max(sizes) <= limit_bytes
    assert sorted(sizes)[1] >= 0.8 * limit_bytes, "but for the last; a record is 6 % of such a call"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_is_down_for_a_whole_run_is_caught_up_with_for_nothing(
    begin: Callable[[str], History], name: str
) -> None:
    history = begin(name)
    history.documents = many(100)
    history.sync()
    history.documents = many(100, " edited")
    history.service.go_down()
    report = history.sync()
    assert report.exit_code is ExitCode.BEHIND
    assert report.sinks["main"].stopped
    paid = report.texts_embedded
    history.service.mend()
    report = history.sync()
    assert (report.exit_code, report.texts_embedded + paid) == (ExitCode.IN_STEP, 100)
    history.assert_in_step()


@pytest.mark.parametrize("work", ["first", "never"])
@pytest.mark.parametrize("name", ["qdrant", "pinecone"])
def test_an_answer_that_never_comes_is_given_up_after_the_timeout(
    begin: Callable[[str], History], name: str, work: Any
) -> None:
    history = begin(name)
    history.documents = many(40)
    history.sync()
    history.documents = many(40, " edited")
    if isinstance(history.service, QdrantService):
        history.service.settings = history.service.settings.model_copy(update={"timeout_seconds": 1})
        history.service.server.faults.hang(path=QdrantService.POINTS, done=work == "first")
    else:
        assert isinstance(history.service, PineconeService)
        history.service.timeout_seconds = 1.0
        history.service.server.on("upsert", Hang(work), times=1)
    assert history.sync().exit_code is ExitCode.IN_STEP
    history.service.mend()
    history.assert_in_step()


@pytest.mark.parametrize("name", SERVICES)
def test_several_sinks_fail_in_turn_and_the_others_never_wait_for_them(folder: Path, name: str) -> None:
    """A sink in memory beside the one that fails gets everything in each run."""
    history = History(name, folder)
    with closing(history):
        other = FlakySink("other")
        for edition in ("", " edited", " edited again"):
            history.documents = many(30, edition)
            history.service.go_down()
            with closing(history.service.sink()) as sink:
                history.rig.sinks = [sink, other]  # type: ignore[list-item]
                report = history.rig.sync(dict(history.documents))
            assert report.exit_code is ExitCode.BEHIND
            assert {id: (r.text, dict(r.metadata)) for id, r in other.records.items()} == history.rig.expected()
        history.service.mend()
        with closing(history.service.sink()) as sink:
            history.rig.sinks = [sink, other]  # type: ignore[list-item]
            report = history.rig.sync()
        assert (report.exit_code, report.texts_embedded) == (ExitCode.IN_STEP, 0)
        history.assert_in_step()


class Histories(RuleBasedStateMachine):
    """Random edits and faults, and runs in between."""

    name = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.history = History(self.name, self.folder)

    @initialize()
    def begin(self) -> None:
        self.history.documents = many(10)
        self.history.sync()

    @rule(id=st.integers(0, 12), text=st.sampled_from(["one", "two", "three " * 9, POISON]), tag=st.integers(0, 2))
    def write(self, id: int, text: str, tag: int) -> None:
        self.history.documents[f"doc-{id:04}"] = (text, {"tag": tag})

    @rule(id=st.integers(0, 12))
    def remove(self, id: int) -> None:
        self.history.documents.pop(f"doc-{id:04}", None)

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        service = self.history.service
        service.mend()
        # A 413 of a call of one record is no fault, but that record's rejection, in other words than WORDS.
        service.faults[data.draw(st.sampled_from(sorted(service.faults.keys() - {"413"})))](service)

    @rule()
    def go_down(self) -> None:
        self.history.service.mend()
        self.history.service.go_down()

    @rule()
    def sync(self) -> None:
        report = self.history.sync()
        if report.exit_code in (ExitCode.IN_STEP, ExitCode.REJECTED):
            self.history.service.mend()
            self.history.assert_in_step()

    @rule()
    def sync_in_a_sane_world(self) -> None:
        self.history.service.mend()
        assert self.history.sync().exit_code in (ExitCode.IN_STEP, ExitCode.REJECTED)
        self.history.assert_in_step()

    def teardown(self) -> None:
        self.history.close()
        shutil.rmtree(self.folder)


@pytest.mark.parametrize("name", SERVICES)
def test_random_histories_of_faults_end_in_step(name: str) -> None:
    machine = type(f"HistoriesOf{name.title()}", (Histories,), {"name": name})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=10,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            print_blob=True,
        ),
    )
