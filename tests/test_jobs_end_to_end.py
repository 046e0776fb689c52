"""Syncs by jobs, from end to end: the real engine, our own service over sockets, and all that goes wrong between.

What is claimed of each: the sink is the source, and the service has embedded each text once, by its own count.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro
import pytest
from embedjobs_service import AsProcess, InThread, as_process, eventually, in_thread
from fault_proxy import Answer, Drop, Exchange, Fault, Rewrite
from jobs_through_proxy import (
    CALLS,
    KEY,
    LASTING,
    LISTS,
    OPTIONS,
    SLOW,
    Call,
    Make,
    Mangled,
    Stage,
    Stuck,
    Twice,
    World,
    doubled,
    history,
    unlisted,
)
from jobs_through_proxy import (
    stage as new_stage,
)

from connector.checkpoint import Checkpoints
from connector.errors import ExitCode
from connector.events import JobAttemptLost, JobStarted
from connector.job_book import JobBook
from connector.model import RecordId
from connector.plugins import BuildContext
from sinks.qdrant_edge import QdrantEdgeSettings

ROOT = Path(__file__).parent.parent
THREE = {"a": "alpha", "b": "beta", "c": "gamma"}  # two jobs
HISTORIES = 24


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with new_stage() as made:
        yield made


# --- one fault of one call, each -------------------------------------------------------------------------

PRELUDES: Mapping[Call, Mapping[Call, Make]] = {  # without which it does not matter what a list has
    Call.DATASETS: {Call.CREATE: lambda: [Drop()]},
    Call.JOBS: {Call.START: lambda: [Drop(), Drop()]},
}


def named(faults: Mapping[Call, Mapping[str, Make]]) -> list[Any]:
    return [
        pytest.param(call, make, id=f"{call} {name}".replace(", ", "-").replace(" ", "-"))
        for call, options in faults.items()
        for name, make in options.items()
    ]


@pytest.mark.parametrize("call, make", named(OPTIONS))
@pytest.mark.parametrize(
    "position", [pytest.param(0, id="first"), pytest.param(1, id="second", marks=pytest.mark.exhaustive)]
)
def test_whatever_goes_wrong_once_everything_is_embedded_once(
    stage: Stage, call: Call, make: Make, position: int
) -> None:
    with stage.world() as world:
        world.set(THREE)
        for before, faults in PRELUDES.get(call, {}).items():
            world.faults[before].extend(faults())
            world.faults[call].append(None)  # the one of the beginning, which has nothing to find
        world.faults[call].extend([*[None] * position, *make()])
        left = len(world.faults[call])
        runs = world.run_until_in_step()
        assert len(world.faults[call]) < min(left, len(make())), "the fault did not happen"
        assert runs == 1 or make in LASTING.values()
        world.assert_well(leaves=int(make is LISTS["lags"]))  # an upload that was not listed is made again
        world.assert_nothing_is_left_a_day_later()


@pytest.mark.parametrize("call, make", named(dict.fromkeys(CALLS, SLOW)))
def test_what_is_late_or_never_heard_of_is_embedded_once(stage: Stage, call: Call, make: Make) -> None:
    with stage.world(texts_per_job=3) as world:
        world.set(THREE)
        world.is_impatient = True
        world.faults[call].extend(make())
        world.run_until_in_step()
        world.assert_well(leaves=1)
        world.assert_nothing_is_left_a_day_later()


EVERY: Mapping[str, Callable[[], Fault]] = {
    "answers lost": Drop,
    "busy, with a wait": lambda: Answer.of({"message": "slow down"}, 429, Retry_After="1"),
    "503 before": lambda: Answer.of({"message": "oops"}, 503),
    "key revoked": lambda: Answer.of({"message": "invalid api token"}, 401),
    "web pages": Mangled,
}


@pytest.mark.parametrize("fault", EVERY)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_for_the_whole_of_two_runs_costs_nothing(stage: Stage, call: Call, fault: str) -> None:
    with stage.world(texts_per_job=3) as world:
        world.set(THREE)
        world.always[call] = EVERY[fault]()
        ended = [world.run() for _ in range(2)]
        world.always.clear()
        world.run_until_in_step()
        world.assert_well(leaves=6)
        world.assert_nothing_is_left_a_day_later()
        assert set(ended) <= {ExitCode.BEHIND, ExitCode.CONFIG, ExitCode.IN_STEP}


# --- what a service may do with a job ---------------------------------------------------------------------


@dataclass(frozen=True)
class Changed:
    """The rows of a part are changed on their way; as many as there were."""

    edit: Callable[[list[dict[str, Any]]], None]

    def play(self, exchange: Exchange) -> None:
        answer = exchange.forward()
        reader = fastavro.reader(io.BytesIO(answer.body))
        rows: Any = list(reader)
        self.edit(rows)
        out = io.BytesIO()
        assert reader.writer_schema
        fastavro.writer(out, reader.writer_schema, rows)
        exchange.send(Answer(200, out.getvalue(), answer.headers))


@dataclass(frozen=True)
class WhenDone:
    """The fault waits until the service has nothing to do, so that it is of a job that has ended."""

    fault: Fault

    def play(self, exchange: Exchange) -> None:
        world: World = exchange.through.world  # type: ignore[attr-defined]  # a `Between`
        eventually(world.stage.is_idle)
        self.fault.play(exchange)


def say(**fields: object) -> Fault:
    return WhenDone(Rewrite(lambda answer: answer | fields))


def say_of_dataset(**fields: object) -> Fault:
    return Rewrite(lambda answer: answer | {"dataset": answer["dataset"] | fields})


def first_row_twice(rows: list[dict[str, Any]]) -> None:
    rows[1] = rows[0]


@dataclass(frozen=True)
class Story:
    """What the service does or says, and how many texts it must then embed a second time."""

    name: str
    faults: Mapping[Call, Sequence[Fault | None]]
    paid_again: int = 0
    leaves: int = 0  # datasets, until they are a day old
    forgotten: int = 0  # results of jobs that nobody knows any more, until the service deletes them for their age


STORIES = [
    Story("rows backwards", {Call.DOWNLOAD: [Changed(list.reverse)]}),
    Story("a row instead of another", {Call.DOWNLOAD: [Changed(first_row_twice)]}, paid_again=1),
    Story("links expired", {Call.DOWNLOAD: [Answer(403), Answer(403, b"<Error>ExpiredToken</Error>")]}),
    Story("dataset rejected", {Call.DATASET: [say_of_dataset(validation_status="failed", validation_error="no")]}),
    Story("datasets rejected", {Call.DATASET: [say_of_dataset(validation_status="failed")] * 2}),
    Story("dataset gets a new word", {Call.DATASET: [say_of_dataset(validation_status="pondered")] * 3}),
    Story("job gets a new word", {Call.JOB: [say(status="pondering")] * 3}),
    Story("job failed, it says", {Call.JOB: [say(status="failed", error="no")]}, paid_again=2, leaves=1, forgotten=1),
    Story("job cancelled, it says", {Call.JOB: [say(status="cancelled")]}, paid_again=2, leaves=1, forgotten=1),
    Story(
        "no result, it says",
        {Call.JOB: [say(status="complete", output_dataset_id=None)]},
        paid_again=2,
        leaves=1,
        forgotten=1,
    ),
    Story("upload passed on twice", {Call.CREATE: [Twice()]}, leaves=1),
    Story("start passed on twice", {Call.START: [Twice()]}, paid_again=2, leaves=1, forgotten=1),
    Story("start lost, and the list lags", {Call.START: [Drop()], Call.JOBS: [None, *[Rewrite(unlisted)] * 4]}),
    Story("start lost, and listed twice", {Call.START: [Drop()], Call.JOBS: [None, Rewrite(doubled)]}),
    Story(
        "upload lost, and the list lags",
        {Call.CREATE: [Drop()], Call.DATASETS: [None, None, Rewrite(unlisted)]},
        leaves=1,
    ),
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name.replace(" ", "-"))
def test_what_a_service_does_with_a_job_costs_what_it_has_to_and_no_more(stage: Stage, story: Story) -> None:
    with stage.world(open_jobs=1) as world:  # so that the faults are of the first one, which has two texts
        world.set(THREE)
        for call, faults in story.faults.items():
            world.faults[call].extend(faults)
        world.run_until_in_step()
        assert not any(world.faults.values())
        world.assert_well(paid_again=story.paid_again, leaves=story.leaves)
        world.assert_nothing_is_left_a_day_later(but=story.forgotten)


def test_a_job_that_really_fails_half_way_costs_its_own_texts_again(stage: Stage) -> None:
    with stage.world() as world:
        world.set(THREE)
        stage.model.failures.append(RuntimeError("the model has a bug"))
        world.run_until_in_step()
        (lost,) = [event for event in world.events if isinstance(event, JobAttemptLost)]
        assert "the job failed: internal error" in lost.reason
        failed = set(stage.model.calls[0])
        assert {text for text, count in world.embedded().items() if count == 2} == failed
        world.assert_well(paid_again=len(failed))


@dataclass(frozen=True)
class Deleted:
    """Somebody deletes the dataset just before it is asked for."""

    def play(self, exchange: Exchange) -> None:
        world: World = exchange.through.world  # type: ignore[attr-defined]  # a `Between`
        world.stage.service.store.delete_dataset(exchange.path.rpartition("/")[2])
        exchange.send(exchange.forward())


def test_a_result_that_is_deleted_under_its_download_costs_its_job_again(stage: Stage) -> None:
    with stage.world(texts_per_job=3) as world:
        world.set(THREE)
        world.faults[Call.RESULT].extend([None, Deleted()])  # it is looked for, and then read
        world.run_until_in_step()
        assert not any(world.faults.values())
        world.assert_well(paid_again=3)


def test_jobs_that_always_fail_leave_their_texts_to_be_embedded_directly(stage: Stage) -> None:
    with stage.world(texts_per_job=3) as world:
        world.set(THREE)
        stage.model.failures.extend([RuntimeError("the model has a bug")] * 3)
        world.run_until_in_step()
        assert world.calls[Call.EMBED] == 1
        world.assert_well(paid_again=3 * 3)


def test_a_lost_answer_of_embed_costs_that_call_again_and_nothing_else(stage: Stage) -> None:
    with stage.world(jobs_from=100) as world:
        world.set(THREE)
        world.faults[Call.EMBED].append(Drop())
        world.run_until_in_step()
        world.assert_well(paid_again=3)


def test_a_start_that_was_lost_is_adopted_not_repeated(stage: Stage) -> None:
    with stage.world(texts_per_job=3) as world:
        world.set(THREE)
        world.faults[Call.START].append(Drop())
        world.run_until_in_step()
        assert world.calls[Call.START] == 1
        assert [event.adopted for event in world.events if isinstance(event, JobStarted)] == [True]


def test_a_start_that_arrives_when_nobody_waits_any_more_starts_nothing(stage: Stage) -> None:
    with stage.world(texts_per_job=3) as world:
        world.set(THREE)
        world.is_impatient = True
        late = Stuck(after=False, seconds=1e9)
        world.faults[Call.START].append(late)
        world.run_until_in_step()
        before = world.embedded()
        world.stuck.clear()
        late.end()
        assert world.embedded() == before
        world.assert_well()


def test_what_changes_after_jobs_is_embedded_directly_and_the_rest_not_again(stage: Stage) -> None:
    with stage.world(jobs_from=3) as world:
        world.set(THREE)
        world.run_until_in_step()
        world.set(THREE | {"b": "beta, changed"})
        world.run_until_in_step()
        assert (world.calls[Call.START], world.calls[Call.EMBED]) == (2, 1)
        world.assert_well()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(HISTORIES))
def test_random_histories_of_faults_and_edits_end_in_step_and_paid_once(stage: Stage, seed: int) -> None:
    history(stage, seed)


# --- kill -9 ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Syncs:
    """Processes that sync, and kill themselves where they are told to; the service lives on."""

    url: str
    process: subprocess.Popen[str]

    def run(self, folder: Path, effect: int = 0, when: str = "before") -> dict[str, Any]:
        order = {"folder": str(folder), "url": self.url, "key": KEY, "effect": effect, "when": when}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture
def syncs(stage: Stage) -> Iterator[Syncs]:
    pytest.importorskip("qdrant_edge", reason="the extra `edge` is not installed")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    with subprocess.Popen(
        [sys.executable, ROOT / "tests" / "jobs_kill_child.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    ) as process:
        yield Syncs(stage.service.url, process)
        assert process.stdin is not None
        process.stdin.close()


def write_documents(folder: Path, texts: Mapping[str, str]) -> None:
    (folder / "docs").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / "docs" / f"{name}.txt").write_text(text)


def in_the_index(folder: Path) -> list[RecordId]:
    context = BuildContext(base_path=folder, state_path=folder / "state", name="main")
    with closing(QdrantEdgeSettings.model_validate({"kind": "qdrant-edge"}).build(context)) as sink:
        return sorted(record.id for record in sink.scan())


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("is_slow", [False, True], ids=["job-done-meanwhile", "job-goes-on-meanwhile"])
def test_killed_at_any_effect_of_the_job_path_the_next_run_adopts_and_pays_nothing_again(
    stage: Stage, syncs: Syncs, when: str, is_slow: bool
) -> None:
    with stage.world() as world:
        write_documents(world.folder / "dry", THREE)
        dry = syncs.run(world.folder / "dry")
        assert dry["status"] == ExitCode.IN_STEP
        assert Counter(dry["effects"])["start_job"] == 2
        whole = in_the_index(world.folder / "dry")
        assert len(whole) == 3
        for effect in range(1, len(dry["effects"]) + 1):
            folder = world.folder / f"killed{effect}"
            write_documents(folder, THREE)
            stage.model.calls.clear()
            gate = threading.Event() if is_slow else None
            stage.model.gate = gate
            opener = threading.Timer(0.15, gate.set) if gate else None  # so the job may be under way at the kill
            if opener:
                opener.start()
            killed = syncs.run(folder, effect, when)
            if not is_slow:
                eventually(stage.is_idle)
            ended = syncs.run(folder)
            if opener:
                opener.join()
            eventually(stage.is_idle)
            assert killed["status"] in (-signal.SIGKILL, ExitCode.IN_STEP), effect  # a busy machine takes fewer looks
            assert ended["status"] == ExitCode.IN_STEP
            assert in_the_index(folder) == whole
            assert sorted(stage.model.texts_seen) == sorted(THREE.values()), f"{when} effect {effect}"
            assert open_jobs_in(folder) == 0
            assert list((folder / "state" / "jobs").glob("*")) == []
            assert "start_job" not in ended["effects"] or Counter(ended["effects"])["start_job"] <= 2
            assert len(stage.datasets()) <= 1, stage.datasets()  # an upload that was killed before it was in the book
            for dataset in stage.service.store.datasets():
                stage.service.store.delete_dataset(dataset.id)


def open_jobs_in(folder: Path) -> int:
    with closing(Checkpoints.open(folder / "state", read_only=True)) as checkpoints:
        return len(JobBook(checkpoints).open_jobs())


# --- the command, and the official SDK ---------------------------------------------------------------------

CONFIG = """
[source]
kind = "table"
path = "rows.jsonl"

[embedder]
kind = "cohere"
base_url = "{url}"
model = "{model}"
dimension = {dimension}
tokens_per_text = 256
{more}

[sinks.main]
kind = "qdrant-edge"

[state]
path = "state"
"""


@dataclass(slots=True)
class Desk:
    """A folder with settings, and the command as a process in it."""

    folder: Path
    url: str
    key: str | None = KEY
    variables: dict[str, str] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)  # all that the command has said

    def configure(self, *, model: str = "hash", dimension: int = 8, **more: str | float) -> None:
        lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in more.items())
        text = CONFIG.format(url=self.url, model=model, dimension=dimension, more=lines)
        (self.folder / "vector-sync.toml").write_text(text)

    def write(self, texts: Mapping[str, str]) -> None:
        rows = [json.dumps({"id": id, "text": text}) + "\n" for id, text in texts.items()]
        (self.folder / "rows.jsonl").write_text("".join(rows))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {name: text for name, text in os.environ.items() if not name.startswith("VECTOR_SYNC_")}
        environment |= {} if self.key is None else {"VECTOR_SYNC_EMBEDDER__API_KEY": self.key}
        ended = subprocess.run(
            [sys.executable, "-m", "connector", *words],
            cwd=self.folder,
            env=environment | {"PYTHONPATH": str(ROOT)} | self.variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        self.written += [ended.stdout, ended.stderr]
        return ended

    def synced(self) -> dict[str, Any]:
        ended = self.run("sync", "--yes", "--json")
        assert ended.returncode == 0, ended.stderr
        report: dict[str, Any] = json.loads(ended.stdout)
        return report

    def indexed(self) -> dict[str, str]:
        """Read the index with Qdrant's own client."""
        qdrant_edge = pytest.importorskip("qdrant_edge", reason="the extra `edge` is not installed")
        (shard_folder,) = self.folder.glob("**/shard")
        shard = qdrant_edge.EdgeShard.load(str(shard_folder))
        records, _ = shard.scroll(qdrant_edge.ScrollRequest(limit=1_000_000, with_payload=True, with_vector=False))
        shard.close()
        found = {record.payload["_vs_document"]: record.payload["text"] for record in records}
        assert len(found) == len(records)
        return found

    def known_jobs(self) -> set[str | None]:
        with closing(Checkpoints.open(self.folder / "state", read_only=True)) as checkpoints:
            return {job.job_id for job in JobBook(checkpoints).latest(1_000)}


LIST_BY_SDK = """
import cohere, json, sys
client = cohere.Client(api_key=sys.argv[2], base_url=sys.argv[1])
print(json.dumps({job.job_id: job.status for job in client.embed_jobs.list().embed_jobs or []}))
"""


def jobs_of_sdk(service: AsProcess) -> dict[str, str]:
    """List the jobs by Cohere's SDK, in a process of its own, as it leaves its connections open."""
    command = [sys.executable, "-c", LIST_BY_SDK, service.url, KEY]
    listed: dict[str, str] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return listed


@pytest.mark.slow
def test_two_thousand_documents_by_jobs_and_a_change_of_one_in_a_hundred_by_embed(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_edge", reason="the extra `edge` is not installed")
    log = tmp_path / "embedded"
    texts = {f"doc{n}": f"the text of document {n}" for n in range(2_000)}
    with as_process(tmp_path, texts_log=log, api_key=KEY) as service:
        desk = Desk(tmp_path, service.url)
        desk.configure(jobs_from=100, texts_per_job=700, settle_seconds=5)
        desk.write(texts)
        first = desk.synced()
        assert (first["texts_by_jobs"], first["texts_embedded"]) == (1_999, 2_000)  # one was tried before any upload
        assert desk.indexed() == texts
        assert len(log.read_text().splitlines()) == len(set(log.read_text().splitlines())) == 2_000
        listed = jobs_of_sdk(service)
        assert set(listed.values()) == {"complete"}
        assert set(listed) == desk.known_jobs()
        assert len(listed) == 3

        texts |= {f"doc{n}": f"another text of document {n}" for n in range(0, 2_000, 100)}
        desk.write(texts)
        second = desk.synced()
        assert (second["texts_by_jobs"], second["texts_embedded"]) == (0, 20)
        assert desk.indexed() == texts
        assert len(log.read_text().splitlines()) == len(set(log.read_text().splitlines())) == 2_020
        assert set(jobs_of_sdk(service)) == desk.known_jobs() == set(listed)
        assert service.client().get("/v1/datasets").json()["datasets"] == []
    assert_no_key_in(desk)


def assert_no_key_in(desk: Desk) -> None:
    """The key is in nothing that was written: by the commands, or into any file of the folder, the service's too."""
    assert KEY not in "".join(desk.written)
    read = 0
    for path in desk.folder.rglob("*"):
        if path.is_file():
            read += 1
            assert KEY.encode() not in path.read_bytes(), path
            assert KEY not in str(path)
    assert read > 3


MUCH = {f"doc{n}": f"the text of document {n}" for n in range(97)}  # more than one call embeds


# --- one line before anything is uploaded -------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[tuple[Desk, InThread]]:
    with in_thread(tmp_path, api_key=KEY) as service:
        made = Desk(tmp_path, service.url)
        made.configure(jobs_from=1)
        made.write(THREE)
        yield made, service


def assert_one_line(desk: Desk, says: str, exit_code: ExitCode = ExitCode.CONFIG) -> None:
    ended = desk.run("sync", "--yes")
    assert ended.returncode == exit_code, ended.stderr
    *progress, line = ended.stderr.splitlines()
    assert line.startswith("vector-sync: error: ")
    assert says in line
    assert not [told for told in progress if not told.startswith(("reading the source", "to embed: "))]
    assert ended.stdout == ""
    ended = desk.run("sync", "--yes", "--json")
    assert ended.returncode == exit_code
    assert says in json.loads(ended.stdout)["error"]


def uploads(service: InThread) -> int:
    return sum((line["method"], line["route"]) == ("POST", "/v1/datasets") for line in service.lines("request"))


def hidden_in(desk: Desk, key: str) -> Path:
    path = desk.folder.parent / f"{desk.folder.name}.key"  # not where the key is looked for
    path.write_text(key)
    return path


@pytest.mark.parametrize(
    "key, says",
    [
        (f"{KEY}\n", "line break"),
        (f"{KEY}\nX-Other: 1", "characters that no header can carry"),
        (f" {KEY}", "begins or ends with a space"),
        (f"{KEY}\u00e4", "characters that no header can carry"),
        (f"{KEY}-but-another", "check the API key"),
        (None, "check the API key"),
        ("", "check the API key"),  # an empty variable is no variable
    ],
    ids=["newline", "another-header", "space", "not-ascii", "wrong", "none", "empty"],
)
def test_a_key_that_cannot_work_is_one_line_before_anything_is_uploaded(
    desk: tuple[Desk, InThread], key: str | None, says: str
) -> None:
    mine, service = desk
    mine.key = key
    assert_one_line(mine, says)
    assert list(service.store.datasets()) == []
    assert service.store.jobs() == []
    assert_no_key_in(mine)


@pytest.mark.parametrize("written", ["", "\n"])
def test_an_empty_file_for_the_key_is_one_line_before_anything_is_uploaded(
    desk: tuple[Desk, InThread], written: str
) -> None:
    mine, service = desk
    mine.key = None
    mine.variables = {"VECTOR_SYNC_EMBEDDER__API_KEY_FILE": str(hidden_in(mine, written))}
    assert_one_line(mine, "empty")
    assert list(service.store.datasets()) == []


def test_a_model_without_jobs_where_jobs_are_demanded_is_one_line_before_anything_is_sent(
    desk: tuple[Desk, InThread],
) -> None:
    mine, service = desk
    mine.url = "https://api.cohere.com"
    mine.configure(model="embed-v4.0", dimension=1536, jobs_from=1)
    assert_one_line(mine, "embed-v4.0 has no Embed Jobs")
    assert service.lines("request") == []


def test_a_model_that_the_service_does_not_have_is_one_line_and_costs_nothing(desk: tuple[Desk, InThread]) -> None:
    mine, service = desk
    mine.configure(model="no-such-model", jobs_from=1)
    assert_one_line(mine, "no-such-model")
    assert service.store.jobs() == []


def test_a_model_that_the_service_does_not_have_is_one_line_before_much_is_uploaded(
    desk: tuple[Desk, InThread],
) -> None:
    mine, service = desk
    mine.configure(model="no-such-model", jobs_from=1)
    mine.write(MUCH)
    assert_one_line(mine, "no-such-model")
    assert uploads(service) == 0


def test_a_wrong_dimension_in_the_settings_is_one_line_before_much_is_uploaded(desk: tuple[Desk, InThread]) -> None:
    mine, service = desk
    mine.configure(model="hash-wide", dimension=24, jobs_from=1)
    mine.write(MUCH)
    assert_one_line(mine, "dimension")
    assert uploads(service) == 0


def test_a_dimension_that_does_not_fit_the_index_is_one_line_before_anything_is_uploaded(
    desk: tuple[Desk, InThread],
) -> None:
    pytest.importorskip("qdrant_edge", reason="the extra `edge` is not installed")
    mine, service = desk
    mine.synced()
    jobs = len(service.store.jobs())
    mine.configure(model="hash-wide", dimension=16, jobs_from=1)
    mine.write(THREE | {"d": "delta"})
    assert_one_line(mine, "generation 2 would be built", ExitCode.SAFETY)  # a change of model is asked about
    for file in mine.folder.glob("state/checkpoint.db*"):
        file.unlink()  # without a memory of the first model, it is a wrong setting
    assert_one_line(mine, "holds vectors of 8 dimensions, the embedder makes 16")
    assert len(service.store.jobs()) == jobs
    assert list(service.store.datasets()) == []
    assert_no_key_in(mine)
