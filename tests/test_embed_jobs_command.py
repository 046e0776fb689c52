"""`vector-sync embed-jobs`: a file's way through the service, whatever goes wrong on it; and the service itself."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from embedjobs_fakes import CountingModel
from embedjobs_service import InThread, in_thread
from fault_proxy import Answer, Cut, Drop, FaultProxy, Rewrite
from pydantic import SecretStr

import connector
from connector import terminal
from connector.cli import main
from connector.cohere import Cohere
from connector.cohere.submission import FileToEmbed, Recipe, Submission, job_on, unique_name
from connector.cohere.waiting import Patience
from connector.errors import UnknownOutcomeError
from connector.retry import Retry

CANARY = "canary-c1d2e3"
JOBS = "/v1/embed-jobs"
NEAR = "Patience(waits_seconds=(0.05,))"
ROWS = tuple({"text": f"text {number} ä", "id": number, "langs": number} for number in range(5))


@dataclass(slots=True)
class Desk:
    """A folder with a file to embed, a service, and a proxy before it."""

    folder: Path
    service: InThread
    proxy: FaultProxy
    key: list[str] = field(default_factory=list)  # as options

    @property
    def file(self) -> Path:
        return self.folder / "data.jsonl"

    @property
    def output(self) -> Path:
        return self.folder / "out.jsonl"

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["embed-jobs", *words], prog_name="vector-sync")

    def submit(self, *words: str) -> Result:
        return self.run("submit", str(self.file), *self.ends, *words)

    def resume(self, id: str, *words: str) -> Result:
        return self.run("resume", id, *self.ends, *words)

    @property
    def ends(self) -> tuple[str, ...]:
        return ("--output", str(self.output), "--url", self.proxy.url, *self.key)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_text("utf-8").splitlines()]


@pytest.fixture
def model() -> CountingModel:
    return CountingModel()


@pytest.fixture
def desk(tmp_path: Path, model: CountingModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for name in os.environ:
        if name.startswith(("VECTOR_SYNC_", "CO_API", "COHERE_")):
            monkeypatch.delenv(name)
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "key").write_text(f"{CANARY}\n")
    with (
        in_thread(tmp_path, models=[model], api_key=CANARY, aliases={"embed-english-v3.0": "hash"}) as service,
        FaultProxy(service.url) as proxy,
    ):
        yield Desk(folder, service, proxy, ["--api-key-file", "key"])


def failed(result: Result, exit_code: int, told: str) -> None:
    """Hold a failure to one line and no file."""
    assert result.exit_code == exit_code, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("vector-sync: error: ")]
    assert re.search(told, line), line
    assert "Traceback" not in result.output
    assert CANARY not in result.output


# --- submit -----------------------------------------------------------------------------------------


def test_a_file_is_embedded_and_its_result_written_in_order(desk: Desk, model: CountingModel) -> None:
    result = desk.submit("--keep-fields", "id", "--optional-fields", "langs,more")
    assert result.exit_code == 0, result.output
    expected = [{name: row[name] for name in ("text", "id", "langs")} | {"more": None} for row in ROWS]
    assert [{name: it for name, it in line.items() if name != "embeddings"} for line in desk.lines()] == expected
    assert [list(line["embeddings"]) for line in desk.lines()] == [["float"]] * 5
    rows, file = result.stdout.splitlines()
    assert re.fullmatch(r"5 rows   \d+ tokens billed   hash   \d+\.\d s", rows)
    assert file == f"written to {desk.output}"
    assert sum(map(len, model.calls)) == 5
    assert len(desk.service.store.datasets()) == 2
    assert "the service still has data-" in result.stderr
    assert CANARY not in result.output + desk.output.read_text()


def test_the_id_and_how_to_go_on_are_told_at_once_and_the_line_works(desk: Desk) -> None:
    told = re.findall(r"(dataset|job) (\S+); .*go on with: (vector-sync .*)", desk.submit().stderr)
    assert [kind for kind, _, _ in told] == ["dataset", "job"]
    jobs = desk.service.store.jobs()
    assert told[1][1] == jobs[0].id
    for _, _, command in told:
        desk.output.unlink()
        result = CliRunner().invoke(main, shlex.split(command)[1:], prog_name="vector-sync")
        assert result.exit_code == 0, result.output
        assert len(desk.lines()) == 5
    assert desk.service.store.jobs() == jobs


def test_json_is_one_object_on_stdout(desk: Desk) -> None:
    result = desk.submit("--json", "--embedding-types", "int8,float", "--embedding-types", "ubinary")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    (job,) = desk.service.store.jobs()
    assert answer.pop("seconds") > 0
    assert answer == {
        "job_id": job.id,
        "model": "hash",
        "input_dataset_id": job.input_dataset_id,
        "output_dataset_id": job.output_dataset_id,
        "kept_remote": True,
        "output": str(desk.output),
        "rows": 5,
        "tokens_billed": job.progress.tokens,
    }
    assert set(desk.lines()[0]["embeddings"]) == {"float", "int8", "ubinary"}
    wrong = desk.submit("--json")
    assert wrong.exit_code == 2
    assert "exists" in json.loads(wrong.stdout)["error"]


@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_the_extension_of_the_output_says_what_is_written(desk: Desk, extension: str) -> None:
    output = desk.folder / f"out.{extension}"
    result = desk.run("submit", str(desk.file), *desk.ends[2:], "--output", str(output), "--keep-fields", "id")
    assert result.exit_code == 0, result.output
    assert output.stat().st_size > 100


def test_csv_files_are_taken_with_their_delimiter(desk: Desk) -> None:
    file = desk.folder / "rows.csv"
    file.write_text('text;id\n"a;b";7\nc;8\n')
    result = desk.run("submit", str(file), *desk.ends, "--csv-delimiter", ";", "--keep-fields", "id")
    assert result.exit_code == 0, result.output
    assert [(line["text"], line["id"]) for line in desk.lines()] == [("a;b", "7"), ("c", "8")]


def test_both_datasets_are_deleted_if_that_is_asked_for_and_not_otherwise(desk: Desk) -> None:
    assert desk.submit("--delete-remote").exit_code == 0
    assert desk.service.store.datasets() == []
    assert len(desk.lines()) == 5


def test_an_alias_is_told_once(desk: Desk) -> None:
    result = desk.submit("--model", "embed-english-v3.0")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("warning: embed-english-v3.0 is an alias") == 1
    assert "   hash   " in result.stdout


def test_without_a_model_the_only_one_is_taken_and_a_choice_is_not_made(desk: Desk) -> None:
    models = {"models": [{"name": "one", "endpoints": ["embed"]}, {"name": "other", "endpoints": ["embed"]}]}
    desk.proxy.on("GET", "/v1/models", Answer.of(models))
    failed(desk.submit(), 2, "name the model with --model; the service has one, other")
    assert desk.service.store.datasets() == []
    assert desk.submit().exit_code == 0


def test_the_key_and_the_address_come_from_where_cohere_s_own_sdk_looks(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CO_API_URL", f"{desk.proxy.url}/v1")
    monkeypatch.setenv("CO_API_KEY", CANARY)
    result = desk.run("submit", str(desk.file), "--output", str(desk.output))
    assert result.exit_code == 0, result.output
    assert CANARY not in result.output


# --- refused before anything is uploaded ------------------------------------------------------------


@pytest.mark.parametrize(
    "content, told",
    [
        (
            '{"text": "a", "id": 1}\n{"txt": "b"}\n',
            r"text was not found in the dataset \(line: 2\); nothing was uploaded",
        ),
        ('{"text": ""}\n', r"line: 1.*nothing was uploaded"),
        ("text,id\na,1\n", "holds CSV"),
        ("", "no rows"),
        ('{"text": "a"}\n', r"the required field id was not found in the dataset \(line: 1\)"),
    ],
)
def test_a_file_that_is_not_right_is_told_in_one_line_and_not_uploaded(desk: Desk, content: str, told: str) -> None:
    desk.file.write_text(content)
    failed(desk.submit("--keep-fields", "id"), 1, told)
    assert desk.proxy.seen == []


def test_bad_rows_are_left_out_if_that_is_asked_for(desk: Desk) -> None:
    desk.file.write_text('{"text": "a"}\nno json\n{"text": ""}\n{"text": "b"}\n')
    result = desk.submit("--skip-malformed")
    assert result.exit_code == 0, result.output
    assert "2 rows of 4 will be left out" in result.stderr
    assert len(re.findall(r"^warning: ", result.stderr, re.MULTILINE)) >= 1
    assert [line["text"] for line in desk.lines()] == ["a", "b"]
    desk.file.write_text("no json\n")
    failed(desk.submit("--skip-malformed", "--force"), 1, "none of its rows can be used")


@pytest.mark.parametrize(
    "words, exit_code, told",
    [
        (["--embedding-types", "float,base64"], 2, ""),
        (["--input-type", "image"], 2, ""),
        (["--truncate", "NONE"], 2, ""),
        (["--csv-delimiter", ";;"], 2, "csv_delimiter has to be one character"),
        (["--keep-fields", "a,a"], 2, "once is enough"),
        (["--api-key-file", "nowhere"], 2, "--api-key-file names a file that cannot be read"),
        (["--api-key-file", "wrong"], 2, "HTTP 401.*check the API key"),
        (["--api-key-file", "broken"], 2, "the API key"),
        (["--url", "nonsense"], 2, "is no web address"),
        (["--output", "out.txt"], 2, "should end in"),
        (["--output", "nowhere/out.csv"], 2, "its folder is not there"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_uploaded(
    desk: Desk, words: list[str], exit_code: int, told: str
) -> None:
    (desk.folder / "wrong").write_text(f"wrong-{CANARY}")
    (desk.folder / "broken").write_text(f"{CANARY}\nand {CANARY}\n")
    result = desk.submit(*words)
    if told:
        failed(result, exit_code, told)
    assert result.exit_code == exit_code
    assert CANARY not in result.output
    assert desk.service.store.datasets() == []
    assert not desk.output.exists()


def test_a_file_that_is_not_there_is_told(desk: Desk) -> None:
    failed(desk.run("submit", "nowhere.jsonl", *desk.ends), 2, r"cannot read nowhere\.jsonl: no such file")


def test_an_output_that_exists_is_not_overwritten_without_force(desk: Desk) -> None:
    desk.output.write_text("mine")
    failed(desk.submit(), 2, "exists, and is not overwritten")
    assert desk.output.read_text() == "mine"
    assert desk.proxy.seen == []
    assert desk.submit("--force").exit_code == 0
    assert len(desk.lines()) == 5


# --- lost answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Drop(), Answer(503, after=True), Answer(500, after=True), Cut(4)])
def test_a_lost_answer_to_the_job_finds_it_and_never_makes_two(
    desk: Desk, model: CountingModel, fault: Drop | Answer | Cut
) -> None:
    desk.proxy.on("POST", JOBS, fault)
    result = desk.submit()
    assert result.exit_code == 0, result.output
    (job,) = desk.service.store.jobs()
    assert f"it was made all the same, and goes on as {job.id}" in result.stderr
    assert sum(map(len, model.calls)) == 5
    assert len(desk.lines()) == 5


@pytest.mark.parametrize("fault", [Drop(), Answer(503, after=True)])
def test_a_lost_answer_to_the_upload_finds_it_and_uploads_once(desk: Desk, fault: Drop | Answer) -> None:
    desk.proxy.on("POST", "/v1/datasets", fault)
    result = desk.submit()
    assert result.exit_code == 0, result.output
    assert len(desk.service.store.datasets(type="embed-input")) == 1
    assert len(desk.proxy.requests("POST", "/v1/datasets")) == 1


def test_passing_failures_of_every_call_are_lived_through(desk: Desk, model: CountingModel) -> None:
    for method, path in (
        ("GET", "/v1/datasets"),
        ("GET", "/v1/models"),
        ("GET", "/v1/datasets/.*"),
        ("GET", JOBS + "/.*"),
        ("GET", "/parts/.*"),
        ("DELETE", "/v1/datasets/.*"),
    ):
        desk.proxy.on(method, path, Answer(429, headers={"Retry-After": "0"}))
        desk.proxy.on(method, path, Answer(503, headers={"Retry-After": "0"}, after=True))
    for path in ("/v1/datasets", JOBS):
        desk.proxy.on("POST", path, Answer(429, headers={"Retry-After": "0"}))
    result = desk.submit("--delete-remote")
    assert result.exit_code == 0, result.output
    assert len(desk.lines()) == 5
    assert len(desk.service.store.jobs()) == 1
    assert desk.service.store.datasets() == []
    assert sum(map(len, model.calls)) == 5
    assert "trying again in 0 s" in result.stderr


class Steps:
    """`Submission` with a clock of its own."""

    def __init__(self, desk: Desk, client: Cohere) -> None:
        self.now = 0.0
        self.notes: list[str] = []
        patience = Patience(clock=lambda: self.now, sleep=self.sleep, random=lambda: 0.0)
        self.submission = Submission(
            client, note=self.notes.append, retry=Retry(sleep=self.sleep), patience=patience, settle_seconds=60
        )
        self.dataset_id = self.submission.upload(FileToEmbed(desk.file, "x"), lambda _sent, _of: None)
        desk.service.settled(self.dataset_id)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def start(self) -> str:
        return self.submission.start(self.dataset_id, Recipe("hash"), "x")


@pytest.fixture
def steps(desk: Desk) -> Iterator[Steps]:
    with Cohere(desk.proxy.url, SecretStr(CANARY)) as client:
        yield Steps(desk, client)


def test_a_job_that_surely_was_not_taken_is_asked_for_again_when_it_would_have_shown(desk: Desk, steps: Steps) -> None:
    desk.proxy.on("POST", JOBS, Drop(after=False))
    id = steps.start()
    assert [job.id for job in desk.service.store.jobs()] == [id]
    assert 60 <= steps.now < 65
    assert len(desk.proxy.requests("POST", JOBS)) == 2


def test_a_job_that_shows_late_in_the_list_is_found(desk: Desk, steps: Steps) -> None:
    desk.proxy.on("POST", JOBS, Drop())
    desk.proxy.on("GET", JOBS, Rewrite(lambda _jobs: {"embed_jobs": []}), times=3)
    id = steps.start()
    assert [job.id for job in desk.service.store.jobs()] == [id]
    assert len(desk.proxy.requests("POST", JOBS)) == 1


def test_two_jobs_by_a_lost_answer_become_one(desk: Desk, steps: Steps, model: CountingModel) -> None:
    model.gate = threading.Event()
    desk.proxy.on("POST", JOBS, Drop())

    def late(jobs: Any) -> Any:
        return {"embed_jobs": []} if len(jobs["embed_jobs"]) < 2 else jobs

    desk.proxy.on("GET", JOBS, Rewrite(late), times=None)
    id = steps.start()
    model.gate.set()
    first, second = sorted(desk.service.store.jobs(), key=lambda job: job.created_at)
    assert id == first.id
    assert desk.service.ended(second.id)["status"] == "cancelled"
    assert desk.service.ended(first.id)["status"] == "complete"
    assert "made beside" in steps.notes[-1]


def test_another_job_on_the_dataset_is_not_taken_for_the_one_that_was_lost(desk: Desk, steps: Steps) -> None:
    other = desk.service.start(steps.dataset_id, name="somebody's")
    desk.service.ended(other)
    desk.proxy.on("POST", JOBS, Drop(after=False))
    id = steps.start()
    assert {job.id for job in desk.service.store.jobs()} == {id, other}
    assert id != other


def test_what_stays_in_doubt_is_told_and_no_more_asked_for(desk: Desk, steps: Steps) -> None:
    desk.proxy.on("POST", JOBS, Answer(503), times=None)
    with pytest.raises(UnknownOutcomeError):
        steps.start()
    assert len(desk.proxy.requests("POST", JOBS)) == 3
    assert desk.service.store.jobs() == []


def test_an_upload_that_was_not_taken_is_made_again(desk: Desk, steps: Steps) -> None:
    desk.proxy.on("POST", "/v1/datasets", Drop(after=False))
    steps.submission.upload(FileToEmbed(desk.file, "y" * 80), lambda _sent, _of: None)
    names = [dataset.name for dataset in desk.service.store.datasets()]
    assert [name.startswith("y" * 40 + "-") and len(name) == 49 for name in names] == [True, False]


def test_names_are_never_the_same() -> None:
    assert len({unique_name("a") for _ in range(100)}) == 100


# --- stopping and going on --------------------------------------------------------------------------


def test_an_error_after_the_job_was_made_says_how_to_go_on(desk: Desk) -> None:
    desk.proxy.on("GET", JOBS + "/.*", Answer.of({"message": "revoked"}, 401))
    result = desk.submit()
    failed(result, 2, "revoked")
    (job,) = desk.service.store.jobs()
    assert f"go on with: vector-sync embed-jobs resume {job.id} " in result.stderr.splitlines()[-2]
    assert not desk.output.exists()
    assert desk.resume(job.id).exit_code == 0
    assert len(desk.lines()) == 5


def test_a_result_that_cannot_be_written_is_still_there_for_another_try(desk: Desk) -> None:
    desk.proxy.on("GET", "/parts/.*", Answer(200, b"<html>not this</html>" * 100))
    failed(desk.submit("--delete-remote"), 1, "cannot be read as an Avro file")
    assert list(desk.folder.glob(".*")) == []
    assert len(desk.service.store.datasets()) == 2
    (job,) = desk.service.store.jobs()
    assert desk.resume(job.output_dataset_id).exit_code == 0


def test_a_job_is_gone_on_with_by_its_id_its_dataset_or_its_result(desk: Desk) -> None:
    desk.submit()
    (job,) = desk.service.store.jobs()
    first = desk.lines()
    for id in (job.id, job.input_dataset_id, job.output_dataset_id):
        desk.output.unlink()
        assert desk.resume(id).exit_code == 0
        assert desk.lines() == first
    failed(desk.resume("nothing", "--force"), 1, f"nothing is neither a job nor a dataset at {desk.proxy.url}")


def test_a_dataset_without_a_job_is_told_and_gets_one_only_if_a_model_is_named(desk: Desk) -> None:
    id = desk.service.upload(desk.file.read_bytes(), keep_fields="id")
    failed(desk.resume(id), 2, f"no job reads the dataset {id}; add --model NAME to start one")
    assert desk.service.store.jobs() == []
    result = desk.resume(id, "--model", "hash", "--embedding-types", "int8")
    assert result.exit_code == 0, result.output
    assert [(line["id"], list(line["embeddings"])) for line in desk.lines()] == [(n, ["int8"]) for n in range(5)]


def test_a_job_that_failed_is_told_and_replaced_only_if_a_model_is_named(desk: Desk, model: CountingModel) -> None:
    model.gate = threading.Event()
    dataset = desk.service.upload(desk.file.read_bytes())
    desk.service.settled(dataset)
    job = desk.service.start(dataset)
    desk.service.client().post(f"{JOBS}/{job}/cancel")
    model.gate.set()
    assert desk.service.ended(job)["status"] == "cancelled"
    failed(desk.resume(job), 1, f"job {job} is cancelled")
    assert desk.resume(dataset, "--model", "hash").exit_code == 0
    assert len(desk.service.store.jobs()) == 2


def test_a_dataset_that_the_service_refuses_is_told_in_its_words(desk: Desk) -> None:
    id = desk.service.upload(b'{"txt": 1}\n')
    failed(desk.resume(id, "--model", "hash"), 1, rf"dataset {id} is failed: .*text.*line: 1")


def test_another_number_of_records_than_rows_is_told_and_not_written(desk: Desk) -> None:
    def fewer(found: Any) -> Any:
        for part in found["dataset"].get("dataset_parts", []):
            part["num_rows"] = 0
        return found

    dataset = desk.service.upload(b'{"text": "only one"}\n')
    desk.service.settled(dataset)
    job = desk.service.start(dataset)
    desk.service.ended(job)
    desk.proxy.on("POST", JOBS, Answer.of({"job_id": job}))
    desk.proxy.on("GET", "/v1/datasets/.*", Rewrite(fewer), times=None)
    failed(desk.submit(), 1, "the result has 1 records, and 5 rows were uploaded; not written")
    assert not desk.output.exists()


def test_of_several_jobs_on_a_dataset_the_one_that_is_furthest_counts() -> None:
    from connector.cohere import Job

    def job(id: str, status: str, created_at: str) -> Job:
        return Job(id=id, status=status, created_at=created_at, input_dataset_id="d")

    jobs = [
        job("f", "failed", "1"),
        job("p", "processing", "2"),
        job("late", "complete", "4"),
        job("c", "complete", "3"),
    ]
    assert [job_on(jobs[:count], "d") for count in range(5)] == [None, jobs[0], jobs[1], jobs[2], jobs[3]]
    assert job_on(jobs, "other") is None


def command(*words: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "connector", "embed-jobs", *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell has what it starts in the background ignore Ctrl-C, and that is inherited.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # one call, and no lock
    )


def read_until(process: subprocess.Popen[str], beginning: str) -> str:
    """Read what a command tells on stderr, up to a line that begins so."""
    lines: list[str] = []
    assert process.stderr
    while not (lines and lines[-1].startswith(beginning)):
        line = process.stderr.readline()
        assert line, f"it ended after: {lines}"
        lines.append(line)
    return "".join(lines)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=60)
    return process.returncode, out, errors


def test_ctrl_c_says_how_to_go_on_and_leaves_the_job_running(desk: Desk, model: CountingModel) -> None:
    model.gate = threading.Event()
    process = command("submit", str(desk.file), *desk.ends, "--json", cwd=desk.folder)
    told = read_until(process, "job ")
    process.send_signal(signal.SIGINT)
    code, out, errors = ended(process)
    assert code == 130
    (job,) = desk.service.store.jobs()
    assert job.status == "processing"
    message = json.loads(out)["error"]
    assert message.startswith(f"stopped; go on with: vector-sync embed-jobs resume {job.id} --output ")
    assert "Traceback" not in errors
    assert CANARY not in out + errors + told
    assert list(desk.folder.glob("*out*")) == []
    model.gate.set()
    words = shlex.split(message.partition("go on with: ")[2])
    assert CliRunner().invoke(main, words[1:], prog_name="vector-sync").exit_code == 0
    assert len(desk.lines()) == 5
    assert len(desk.service.store.jobs()) == 1


def test_a_kill_loses_nothing_that_was_paid_for(desk: Desk, model: CountingModel) -> None:
    model.gate = threading.Event()
    process = command("submit", str(desk.file), *desk.ends, cwd=desk.folder)
    told = read_until(process, "job ")
    assert model.entered.wait(60)
    process.kill()
    code, _, _ = ended(process)
    assert code == -signal.SIGKILL
    model.gate.set()
    command_line = re.findall(r"go on with: vector-sync (.*)", told)[-1]
    result = CliRunner().invoke(main, shlex.split(command_line), prog_name="vector-sync")
    assert result.exit_code == 0, result.output
    assert len(desk.lines()) == 5
    assert sum(map(len, model.calls)) == 5


# --- progress ---------------------------------------------------------------------------------------


def test_a_stage_is_told_when_it_begins_and_every_few_seconds() -> None:
    now = 0.0
    lines: list[str] = []
    show = terminal.StageLines(lines.append, lambda: now)
    for stage, told, fraction, seconds in (
        ("uploading", "1 MB", 0.1, 0.0),
        ("uploading", "2 MB", 0.2, 1.0),
        ("uploading", "3 MB", 0.3, 5.0),
        ("embedding", "\x1b[31mprocessing", None, 5.1),
        ("embedding", "", 1.0, 20.0),
    ):
        now = seconds
        show(stage, told, fraction)
    assert lines == ["uploading 10% 1 MB", "uploading 30% 3 MB", "embedding \ufffd[31mprocessing", "embedding 100%"]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with terminal.stages() as show:
        show("uploading", "1 MB", 0.5)
        show("embedding", "processing", None)
        show("embedding", "processing", 0.25)
    assert "embedding processing" in capsys.readouterr().err


# --- in Python ----------------------------------------------------------------------------------------


def test_the_python_that_the_documentation_shows_runs(desk: Desk) -> None:
    page = (Path(connector.__file__).parent.parent / "docs" / "embed-jobs.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    desk.file.write_text('{"text": "a", "title": "A"}\n{"text": "b", "title": "B"}\n')
    program = program.replace("https://api.cohere.com", desk.service.url).replace('"..."', f'"{CANARY}"')
    program = program.replace("wait_for_dataset(client, dataset_id)", f"wait_for_dataset(client, dataset_id, {NEAR})")
    program = program.replace("wait_for_job(client, job_id)", f"wait_for_job(client, job_id, {NEAR})")
    program = "from connector.cohere.waiting import Patience\n" + program
    ran = subprocess.run([sys.executable, "-c", program], cwd=desk.folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert re.findall(r"^([AB]) ([ab]) \[", ran.stdout, re.MULTILINE) == [("A", "a"), ("B", "b")]


# --- the service ------------------------------------------------------------------------------------


def test_the_service_says_when_it_is_ready_and_stops_in_order(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{CANARY}\n")
    words = [
        "--port",
        "0",
        "--data",
        "jobs",
        "--api-key-file",
        "key",
        "--alias",
        "embed-english-light-v3.0=all-MiniLM-L6-v2",
    ]
    process = command(*words, cwd=tmp_path)
    assert process.stdout
    ready = process.stdout.readline()
    match = re.fullmatch(r"serving Embed Jobs on (http://127\.0\.0\.1:\d+)\n", ready)
    assert match, ended(process)
    headers = {"Authorization": f"Bearer {CANARY}"}
    models = httpx.get(f"{match[1]}/v1/models", headers=headers).json()["models"]
    assert "embed-english-light-v3.0" in str(models)
    assert httpx.get(f"{match[1]}/v1/models").status_code == 401
    process.send_signal(signal.SIGTERM)
    code, out, errors = ended(process)
    assert (code, out) == (0, "")
    assert CANARY not in errors
    assert (tmp_path / "jobs" / "embed-jobs.sqlite").exists()


def test_settings_of_the_service_come_from_options_environment_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from connector.embedjobs import server
    from connector.sections import EmbedJobsSettings

    taken: list[EmbedJobsSettings] = []
    monkeypatch.setattr(server, "serve", lambda settings, **_: taken.append(settings))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vector-sync.toml").write_text("[embed_jobs]\nport = 1234\nthreads = 3\n")
    monkeypatch.setenv("VECTOR_SYNC_EMBED_JOBS__API_KEY", CANARY)
    words = [
        "embed-jobs",
        "--host",
        "localhost",
        "--data",
        "d",
        "--public-url",
        "https://e",
        "--alias",
        "a=b",
        "--alias",
        "c=d",
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    (settings,) = taken
    assert (settings.host, settings.port, settings.threads, str(settings.path)) == ("localhost", 1234, 3, "d")
    assert settings.public_url == "https://e"
    assert settings.aliases == {"a": "b", "c": "d"}
    assert settings.api_key == SecretStr(CANARY)


@pytest.mark.parametrize(
    "words, told",
    [
        (["--alias", "nonsense"], "is not NAME=MODEL"),
        (["--port", "70000"], "70000"),
        (["--port", "1", "submit"], "options of `submit` stand behind it"),
    ],
)
def test_wrong_words_for_the_service_are_bad_usage(words: list[str], told: str) -> None:
    result = CliRunner().invoke(main, ["embed-jobs", *words])
    assert result.exit_code == 2
    assert told in result.stderr


def test_without_its_packages_the_service_says_how_to_get_them(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from connector.cli import main; main(['embed-jobs', '--data', 'd'], prog_name='vector-sync')"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr == 'vector-sync: error: the service needs fastapi: pip install "vector-sync[serve]"\n'
    assert not (tmp_path / "d").exists()


def test_without_pyarrow_parquet_says_how_to_get_it_before_anything_is_uploaded(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from connector.cli import main\n"
        "main(['embed-jobs', 'submit', 'a.jsonl', '--output', 'o.parquet', '--url', 'http://127.0.0.1:9'])"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert 'pip install "vector-sync[parquet]"' in ran.stderr


def test_the_client_needs_none_of_the_service_s_packages() -> None:
    program = (
        "import sys\n"
        "for name in ('fastapi', 'uvicorn', 'structlog', 'prometheus_client', 'python_multipart', 'onnxruntime'):\n"
        "    sys.modules[name] = None\n"
        "import connector.cohere, connector.cohere.submission, connector.cohere.outputs, connector.embedjobs.rows\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_help_of_the_commands_is_there() -> None:
    for words in ([], ["submit"], ["resume"]):
        result = CliRunner().invoke(main, ["embed-jobs", *words, "--help"])
        assert result.exit_code == 0
        assert "Usage:" in result.stdout
