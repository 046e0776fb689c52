"""`vector-sync jobs`, and what the other commands say of jobs and money."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cli_rig import CONFIG, Project, make_project
from job_rig import JobRig

from connector import terminal
from connector.checkpoint import Checkpoints
from connector.cli_jobs import COLUMNS
from connector.errors import ConfigError, TransientError
from connector.events import (
    DatasetsCleaned,
    EmbeddingForeseen,
    Event,
    JobAttemptLost,
    JobDropped,
    JobDuplicated,
    JobFailed,
    JobInDoubt,
    JobProgress,
    JobStarted,
    JobStored,
    JobUrgent,
)
from connector.job_book import Job, JobBook
from connector.job_steps import State
from connector.ports import EmbedLimits, JobLimits, Price
from connector.testing.fake_jobs import FakeJobEmbedder, Fate, Fault
from connector.testing.fakes import HashEmbedder

PRICE = Price(1_000_000.0, "USD", "settings")  # one a token
AT_ONCE = JobLimits(
    texts_per_job=2,
    bytes_per_job=10_000,
    open_jobs=2,
    jobs_from=1,
    settle_seconds=120.0,
    first_look_seconds=0.0,
    longest_look_seconds=0.0,
)


@dataclass(slots=True)
class Billed(HashEmbedder):
    """An embedder with a price, which bills what it counted, and can be asked whether it would work."""

    price: Price | None = PRICE
    refusal: Exception | None = None
    checks: int = field(default=0, init=False)

    @property
    def billed_tokens(self) -> int:
        return sum(self.count_tokens(self.texts_seen))

    def check(self) -> None:
        self.checks += 1
        if self.refusal:
            raise self.refusal


@dataclass(slots=True)
class BilledJobs(FakeJobEmbedder):
    """An embedder with jobs and a price."""

    price: Price | None = PRICE

    @property
    def billed_tokens(self) -> int:
        return sum(self.count_tokens(self.texts_seen))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return make_project(tmp_path, monkeypatch)


@pytest.fixture
def service(project: Project) -> BilledJobs:
    """The project's embedder: two jobs for its three documents, and none of them asks."""
    project.embedder = made = BilledJobs(limits_of_jobs=AT_ONCE)
    project.configure(CONFIG + "ask_above_cost = 1000.0\n")
    return made


@pytest.fixture
def running(project: Project, service: BilledJobs) -> Job:
    """A job that runs, left by a run that could not wait for it; a second one waits for its turn."""
    service.limits_of_jobs = replace(AT_ONCE, open_jobs=1)
    service.faults["job"].append(Fault.NO_ACCESS)
    assert project.run("sync").exit_code == 2
    first, second = book(project)
    assert (first.state, second.state) == (State.RUNNING, State.PLANNED)
    return first


def book(project: Project) -> list[Job]:
    """The jobs of a project, oldest first."""
    with closing(Checkpoints.open(project.folder / "state", read_only=True)) as checkpoints:
        return JobBook(checkpoints).latest(1000)[::-1]


# --- jobs ---------------------------------------------------------------------------------------------


def test_before_the_first_run_there_are_no_jobs_and_nothing_is_written(project: Project) -> None:
    result = project.run("jobs")
    assert (result.exit_code, result.stdout) == (0, "there were no embed jobs yet\n")
    assert not (project.folder / "state").exists()


def test_open_and_past_jobs_are_listed_without_the_service(project: Project, service: BilledJobs, running: Job) -> None:
    before = service.called.copy()
    result = project.run("jobs")
    assert result.exit_code == 0
    assert service.called == before
    header, planned, runs = result.stdout.splitlines()
    assert tuple(header.split()) == COLUMNS
    assert re.match(rf"planned +- +- +1 +1 +\d+ +- +\d s +\d s ago +{book(project)[1].token}", planned)
    assert re.match(rf"running +job-1 +dataset-1 +1 +2 +\d+ +- +\d s +\d s ago +{running.token}", runs)


def test_jobs_in_json_have_their_ids_states_and_times(project: Project, running: Job) -> None:
    answer = project.answer("jobs")
    assert answer["open"] == 2
    assert isinstance(answer["jobs"], list)
    told = answer["jobs"][1]
    assert isinstance(told, dict)
    assert (told["token"], told["job_id"], told["dataset_id"]) == (running.token, "job-1", "dataset-1")
    assert (told["state"], told["open"], told["billed_tokens"], told["problem"]) == ("running", True, None, None)
    assert str(told["created_at"]).endswith("+00:00")


def test_a_job_that_failed_says_why(project: Project, service: BilledJobs) -> None:
    service.fates.extend([Fate.FAILED] * 6)
    project.synced()
    result = project.run("jobs")
    assert re.search(r"^failed .*the job failed: out of memory$", result.stdout, re.MULTILINE)


def test_of_the_jobs_that_ended_the_latest_are_listed_and_all_if_asked(project: Project, service: BilledJobs) -> None:
    service.limits_of_jobs = replace(AT_ONCE, texts_per_job=1)
    for n in range(10):
        project.write(f"more{n}.md", f"# More of {n}\n")
    project.synced()
    shown = project.run("jobs").stdout.splitlines()
    assert len(shown) == 1 + 10 + 1
    assert shown[-1] == "... and 3 that ended before; `vector-sync jobs --all` lists them"
    assert len(project.run("jobs", "--all").stdout.splitlines()) == 1 + 13
    assert project.answer("jobs")["ended_not_shown"] == 3


def test_jobs_may_be_listed_while_a_run_is_under_way(project: Project, running: Job) -> None:
    with closing(Checkpoints.open(project.folder / "state")):
        assert project.answer("jobs")["open"] == 2


def test_options_before_a_command_of_jobs_are_refused(project: Project) -> None:
    result = project.run("jobs", "--all", "wait")
    assert result.exit_code == 2
    assert "options of `wait` stand behind it" in result.stderr


# --- jobs wait ----------------------------------------------------------------------------------------


def test_waiting_stores_the_vectors_and_the_next_sync_pays_for_nothing(
    project: Project, service: BilledJobs, running: Job
) -> None:
    result = project.run("jobs", "wait")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "the vectors of 3 texts are stored; `vector-sync sync` delivers them, and pays for none of them again",
        "the service billed 9 tokens",
    ]
    assert "waiting" in result.stderr
    assert {job.state for job in book(project)} == {State.CLOSED}
    answer = project.answer("sync")
    assert (answer["added"], answer["texts_embedded"], answer["tokens_billed"]) == (3, 0, 0)
    assert set(service.billed.values()) == {1}


def test_waiting_answers_in_json(project: Project, running: Job) -> None:
    answer = project.answer("jobs", "wait")
    assert (answer["stored_texts"], answer["billed_tokens"], answer["open_jobs"]) == (3, 9, 0)


def test_where_no_job_is_open_there_is_nothing_to_wait_for(project: Project, service: BilledJobs) -> None:
    assert project.run("jobs", "wait").stdout == "no embed job was open\n"


def test_waiting_tells_what_a_job_did_not_give(project: Project, service: BilledJobs, running: Job) -> None:
    service.fates.extend([Fate.MISSING])  # the second job's
    result = project.run("jobs", "wait")
    assert "1 text had no sound vector; the next sync embeds them" in result.stdout
    assert project.answer("sync")["texts_embedded"] == 1


def test_waiting_tells_that_jobs_failed(project: Project, service: BilledJobs, running: Job) -> None:
    service.fates.extend([Fate.FAILED] * 3)
    result = project.run("jobs", "wait")
    assert result.exit_code == 0
    assert "1 job failed, of 1 text; the next sync embeds them. `vector-sync jobs` tells why" in result.stdout


def test_waiting_with_a_wrong_key_is_exit_code_2_and_the_job_stays(
    project: Project, service: BilledJobs, running: Job
) -> None:
    service.faults["job"].append(Fault.NO_ACCESS)
    result = project.run("jobs", "wait")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith("vector-sync: error: invalid api token\n")
    assert book(project)[0].state is State.RUNNING


@pytest.mark.parametrize("words", [["wait"], ["cancel", "--all", "--yes"]])
def test_a_second_run_keeps_jobs_from_being_driven_or_cancelled(
    project: Project, service: BilledJobs, running: Job, words: list[str]
) -> None:
    with closing(Checkpoints.open(project.folder / "state")):
        assert project.run("jobs", *words).exit_code == 75
    assert service.cancelled == []


@pytest.mark.parametrize("words", [["wait"], ["cancel", "--all"]])
def test_an_embedder_without_jobs_is_one_clear_line(project: Project, words: list[str]) -> None:
    result = project.run("jobs", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == 'vector-sync: error: the embedder "hash", as it is set, has no embed jobs\n'


# --- jobs cancel --------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["job_id", "token"])
def test_a_job_is_cancelled_by_its_id_or_its_token(
    project: Project, service: BilledJobs, running: Job, by: str
) -> None:
    result = project.run("jobs", "cancel", getattr(running, by), "--yes")
    assert result.exit_code == 0, result.output
    assert re.match(
        r"job-1: running, 2 texts, \d s old; what it has done is charged all the same, and gives no result\n",
        result.stderr,
    )
    assert result.stdout == (
        "cancelled 1 job; what was done is charged, and gives no result; the next sync embeds 2 texts anew\n"
    )
    assert service.cancelled == ["job-1"]
    assert service.dataset_names == []
    first, second = book(project)
    assert (first.state, first.problem, second.state) == (State.DROPPED, "it was cancelled", State.PLANNED)


def test_the_next_sync_embeds_the_texts_of_a_cancelled_job_anew(
    project: Project, service: BilledJobs, running: Job
) -> None:
    assert project.answer("jobs", "cancel", "--all", "--yes")["texts_to_embed_anew"] == 3
    answer = project.answer("sync")
    assert (answer["added"], answer["texts_by_jobs"]) == (3, 3)
    assert [job.state for job in book(project)] == [State.DROPPED] * 2 + [State.CLOSED] * 2
    assert sorted(service.billed.values()) == [1, 2, 2]


def test_without_a_terminal_cancelling_needs_yes(project: Project, service: BilledJobs, running: Job) -> None:
    result = project.run("jobs", "cancel", "job-1", answer="y\n")
    assert result.exit_code == 4
    (_, error) = result.stderr.splitlines()
    assert error.endswith("1 embed job would be cancelled, and what is done by then is charged; confirm it with --yes")
    assert service.cancelled == []


def test_a_job_that_was_not_started_is_cancelled_without_a_charge(
    project: Project, service: BilledJobs, running: Job
) -> None:
    result = project.run("jobs", "cancel", book(project)[1].token, "--yes")
    assert "planned, 1 text" in result.stderr
    assert "it was not started yet, so nothing is charged" in result.stderr
    assert result.stdout == "cancelled 1 job; the next sync embeds 1 text anew\n"
    assert service.cancelled == []


@pytest.mark.parametrize("typed, exit_code", [("y\n", 0), ("n\n", 4), ("\n", 4)])
def test_on_a_terminal_cancelling_asks(
    project: Project, service: BilledJobs, running: Job, monkeypatch: pytest.MonkeyPatch, typed: str, exit_code: int
) -> None:
    monkeypatch.setattr("connector.cli_jobs.is_interactive", lambda: True)
    result = project.run("jobs", "cancel", "job-1", answer=typed)
    assert result.exit_code == exit_code
    assert "cancel 1 embed job? [y/N]" in result.stderr
    assert bool(service.cancelled) is (exit_code == 0)


def test_a_job_that_is_complete_is_not_cancelled_but_kept(project: Project, service: BilledJobs, running: Job) -> None:
    while service.job("job-1").output_dataset_id is None:  # type: ignore[union-attr]  # it is there
        pass
    result = project.run("jobs", "cancel", "job-1", "--yes")
    assert (result.exit_code, service.cancelled) == (0, [])
    assert result.stdout == "job-1 is complete, and was not cancelled; `vector-sync jobs wait` stores it\n"
    assert project.answer("jobs", "wait")["stored_texts"] == 3


@pytest.mark.parametrize(
    "words, told",
    [
        (["job-9"], "no embed job job-9 is open; `vector-sync jobs` lists them"),
        ([], "name the jobs to cancel, or --all"),
        (["job-1", "--all"], "name the jobs to cancel, or --all"),
    ],
)
def test_what_cannot_be_cancelled_is_told(project: Project, running: Job, words: list[str], told: str) -> None:
    result = project.run("jobs", "cancel", *words, "--yes")
    assert result.exit_code == 2
    assert told in result.stderr


def test_where_no_job_is_open_there_is_nothing_to_cancel(project: Project, service: BilledJobs) -> None:
    result = project.run("jobs", "cancel", "--all")
    assert (result.exit_code, result.stdout) == (0, "no embed job is open\n")


def test_a_job_of_another_embedder_is_not_cancelled_at_the_wrong_service(project: Project, running: Job) -> None:
    project.embedder = BilledJobs(identity="another", limits_of_jobs=AT_ONCE)
    result = project.run("jobs", "cancel", "job-1", "--yes")
    assert result.exit_code == 2
    assert "job job-1 is of another embedder, hash/dim8/tokens256; put that one into the settings" in result.stderr
    assert book(project)[0].state is State.RUNNING


# --- the same, from inside ----------------------------------------------------------------------------


def cancel_all(rig: JobRig) -> list[Job]:
    with closing(Checkpoints.open(rig.folder)) as checkpoints, closing(rig._vectors()) as vectors:
        jobs = rig.jobs(checkpoints, vectors)
        return [jobs.cancel(job) for job in JobBook(checkpoints).open_jobs()]


def test_a_job_that_is_in_doubt_is_looked_for_before_it_is_cancelled(folder: Path) -> None:
    rig = JobRig(folder)
    rig.service.faults["start_job"].append(Fault.LOST)
    rig.service.list_lag_seconds = 60.0
    rig.stop_after_sleeps(2)
    rig.run(["alpha", "beta"])
    assert [job.state for job in rig.book()] == [State.SUBMITTING]
    rig.service.sleep(60.0)
    (job,) = cancel_all(rig)
    assert (job.state, job.job_id) == (State.DROPPED, "job-1")
    assert rig.service.cancelled == ["job-1"]


def test_a_start_that_arrives_after_its_job_was_cancelled_starts_nothing(folder: Path) -> None:
    rig = JobRig(folder)
    rig.service.faults["start_job"].append(Fault.STUCK)
    rig.stop_after_sleeps(2)
    rig.run(["alpha", "beta"])
    cancel_all(rig)
    rig.service.sleep(1_000.0)
    assert not rig.service.billed


def test_a_cancelled_job_is_not_taken_for_one_that_the_book_does_not_know(folder: Path) -> None:
    rig = JobRig(folder)
    rig.stop_after_sleeps(2)
    rig.run(["alpha", "beta"])
    cancel_all(rig)
    rig.stop = lambda: False
    rig.run(["alpha", "beta"])
    assert [job.state for job in rig.book()] == [State.CLOSED, State.DROPPED]
    assert rig.stored(["alpha", "beta"])


def test_a_job_whose_vectors_are_stored_stays_to_be_cleaned_up(folder: Path) -> None:
    rig = JobRig(folder, attempts=1)
    rig.service.faults["delete_dataset"].append(Fault.BUSY)
    rig.run(["alpha", "beta"])
    (job,) = cancel_all(rig)
    assert (job.state, rig.service.cancelled) == (State.STORED, [])


def test_a_service_out_of_reach_leaves_a_job_as_it_is(folder: Path) -> None:
    rig = JobRig(folder, attempts=1)
    rig.stop_after_sleeps(2)
    rig.run(["alpha", "beta"])
    rig.service.faults["cancel_job"].append(Fault.BUSY)
    with pytest.raises(TransientError):
        cancel_all(rig)
    assert [job.state for job in rig.book()] == [State.RUNNING]
    assert rig.service._datasets


# --- status and check ---------------------------------------------------------------------------------


def test_status_tells_what_runs_were_billed(project: Project, service: BilledJobs) -> None:
    project.synced()
    result = project.run("status")
    assert re.search(r"rejected +by jobs +tokens billed +cost$", result.stdout, re.MULTILINE)
    assert re.search(r" 3 +0 +0 +0 +3 +9 +9\.00 USD$", result.stdout, re.MULTILINE)
    assert "embed jobs" not in result.stdout


def test_status_of_what_bills_nothing_has_no_columns_for_it(project: Project) -> None:
    assert "billed" not in project.synced().run("status").stdout


def test_status_mentions_open_jobs_and_the_age_of_the_oldest(project: Project, running: Job) -> None:
    result = project.run("status")
    assert re.search(r"^embed jobs: 2 open, the oldest for \d s; see `vector-sync jobs`$", result.stdout, re.MULTILINE)
    answer = project.answer("status")
    assert answer["open_jobs"] == 2
    assert isinstance(answer["oldest_open_job_seconds"], int)


@pytest.mark.parametrize(
    "price, told",
    [
        (Price(0.1, "USD", "a table of 2026-08"), "0.1 USD a million tokens by a table of 2026-08"),
        (Price(0.0, "USD", "localhost is not Cohere's"), "costs nothing: localhost is not Cohere's"),
        (None, "its price is not known"),
    ],
)
def test_check_shows_the_price_and_whose_word_it_is(project: Project, price: Price | None, told: str) -> None:
    project.embedder = Billed(price=price)
    result = project.run("check")
    assert f"ok (hash, 8 dimensions, {told})" in result.stdout


def test_check_asks_the_service_and_tells_what_is_wrong(project: Project) -> None:
    project.embedder = made = Billed()
    assert project.run("check").exit_code == 0
    assert made.checks == 1
    made.refusal = ConfigError("the key is not valid")
    result = project.run("check")
    assert result.exit_code == 2
    assert re.search(r"^embedder +error: the key is not valid$", result.stdout, re.MULTILINE)
    assert re.search(r"^sink main +ok \(qdrant-edge\)$", result.stdout, re.MULTILINE)


def test_check_tells_from_where_on_jobs_are_used(project: Project, service: BilledJobs) -> None:
    assert "ok (hash, 8 dimensions, embed jobs from 1 texts, 1e+06 USD" in project.run("check").stdout


# --- plan and sync: money -----------------------------------------------------------------------------

TOKENS = 3 * 13  # of the three documents, as HashEmbedder counts them


def test_plan_tells_the_way_the_cost_and_whose_price_it_is(project: Project) -> None:
    project.embedder = Billed()
    lines = project.run("plan").stdout.splitlines()
    assert lines[1:4] == [
        f"to embed 3 texts ({TOKENS} tokens), to reuse 0",
        "at once, in 1 request: the embedder has no jobs",
        f"costs {TOKENS}.00 USD (settings)",
    ]
    embedding = project.answer("plan", exit_code=4)["embedding"]
    assert isinstance(embedding, dict)
    assert (embedding["cost"], embedding["price_source"]) == (float(TOKENS), "settings")


def test_plan_says_that_tokens_are_estimated_where_they_are(project: Project) -> None:
    @dataclass(slots=True)
    class Estimating(HashEmbedder):
        @property
        def limits(self) -> EmbedLimits:
            return EmbedLimits(96, 256, inputs_per_minute=2, counts_exactly=False)

    project.embedder = Estimating()
    lines = project.run("plan").stdout.splitlines()
    assert lines[1] == f"to embed 3 texts (about {TOKENS} tokens, estimated), to reuse 0"
    assert "takes 1.5 minutes at least, at the rate limit" in lines


def test_plan_tells_that_jobs_would_be_used_and_why(project: Project, service: BilledJobs) -> None:
    assert "by embed jobs, in 4 requests: 1 text or more" in project.run("plan").stdout
    assert not service.called


def test_plan_of_a_service_that_costs_nothing_says_so(project: Project) -> None:
    project.embedder = Billed(price=Price(0.0, "USD", "localhost is not Cohere's"))
    assert "costs nothing (localhost is not Cohere's)" in project.run("plan").stdout


def test_a_dear_first_run_stops_to_ask_and_goes_with_yes(project: Project) -> None:
    project.embedder = made = Billed()
    result = project.run("sync")
    assert result.exit_code == 4
    assert result.stdout.startswith("stopped to ask")
    assert result.stderr.splitlines()[-1] == (
        f"the first run would embed 3 texts, {TOKENS} tokens, for {TOKENS}.00 USD (settings); "
        "see `vector-sync plan`, and confirm it with --yes"
    )
    assert made.calls == 0
    result = project.run("sync", "--yes")
    assert result.exit_code == 0
    assert f"the service billed {TOKENS} tokens, {TOKENS}.00 USD" in result.stdout.splitlines()


@pytest.mark.parametrize("words", [["--max-tokens", "20"], ["--max-cost", "20"]])
def test_a_ceiling_stops_with_exit_code_4_and_the_next_run_goes_on(project: Project, words: list[str]) -> None:
    project.embedder = made = Billed(texts_per_call=1)
    result = project.run("sync", "--yes", *words)
    assert result.exit_code == 4
    assert "stopped before the ceiling of 20 tokens: 13 are spent" in result.stderr.splitlines()[-1]
    assert project.answer("sync", "--yes")["added"] == 3
    assert len(made.texts_seen) == len(set(made.texts_seen)) == 3


def test_the_lower_of_two_ceilings_counts(project: Project) -> None:
    project.configure(CONFIG + "max_tokens = 20\n")
    project.embedder = Billed(texts_per_call=1)
    assert "ceiling of 20 tokens" in project.run("sync", "--yes", "--max-tokens", "30").stderr


def test_a_maximum_cost_without_a_price_is_exit_code_2(project: Project) -> None:
    project.embedder = Billed(price=None)
    result = project.run("sync", "--max-cost", "1")
    assert result.exit_code == 2
    assert "the price is not known; set the embedder's price" in result.stderr


def test_sync_by_jobs_tells_what_is_going_on_and_what_went_by_jobs(project: Project, service: BilledJobs) -> None:
    result = project.run("sync")
    assert result.exit_code == 0
    assert re.search(r"^embedded 3 texts \(\d+ tokens\), 3 of them by jobs, reused 0$", result.stdout, re.MULTILINE)
    assert result.stderr.splitlines() == [
        "reading the source; known: main 0 documents",
        "to embed: 3 texts, by embed jobs: 1 text or more",
        "embed job job-1 runs: 2 texts",
        "embed job job-2 runs: 1 text",
        "the vectors of 2 texts of an embed job are stored",
        "the vectors of 1 text of an embed job are stored",
    ]


# --- progress -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event, told",
    [
        (EmbeddingForeseen(10, 70, "jobs", "4 texts or more"), "to embed: 10 texts, by embed jobs: 4 texts or more"),
        (
            EmbeddingForeseen(1, 7, "now", "the embedder has no jobs"),
            "to embed: 1 text, at once: the embedder has no jobs",
        ),
        (JobStarted("t", "j", 1, 4, 9, adopted=False), "embed job j runs: 4 texts"),
        (JobStarted("t", "j", 1, 0, 0, adopted=True), "embed job j was found again"),
        (JobInDoubt("t", "no answer"), "looking whether the embed job was started: no answer"),
        (JobStored("t", 4, 0, 0, None), "the vectors of 4 texts of an embed job are stored"),
        (JobAttemptLost("t", 1, "it failed"), "an embed job came to nothing, and is tried again: it failed"),
        (JobFailed("t", 4, "it failed"), "an embed job is given up, and its texts are embedded without one: it failed"),
        (JobDropped("t", 4, "it was cancelled"), "an embed job of 4 texts is dropped: it was cancelled"),
        (
            JobDuplicated("t", "j"),
            "embed job j was a second one on the same texts, and is cancelled; what it did is charged",
        ),
        (JobUrgent("t", 26.0), "an embed job is 26 days old, and the service will soon delete what belongs to it"),
        (DatasetsCleaned(2), "2 datasets of ours that no job needs any more, deleted at the service"),
    ],
)
def test_what_becomes_of_jobs_is_told_at_once(event: Event, told: str) -> None:
    assert terminal.SoFar().add(event) == told


@pytest.mark.parametrize(
    "event, told",
    [
        (JobProgress("t", "running", "j", 0.4, 1.0), "embed job j 40%"),
        (JobProgress("t", "running", "j", None, 1.0), "embed job j runs"),
        (JobProgress("t", "uploaded", None, None, 1.0), "an embed job: its texts are being validated"),
        (JobProgress("t", "submitting", None, None, 1.0), "an embed job: looking whether it was started"),
    ],
)
def test_progress_tells_how_each_open_job_is(event: Event, told: str) -> None:
    so_far = terminal.SoFar()
    assert so_far.add(event) is None
    assert so_far.counters() == f"0 rows listed, {told}"
    assert so_far.jobs_told() == told


@pytest.mark.parametrize(
    "end",
    [JobStored("t", 4, 0, 0, None), JobAttemptLost("t", 1, "why"), JobFailed("t", 4, "why"), JobDropped("t", 4, "why")],
)
def test_a_job_that_is_over_is_not_shown_any_more(end: Event) -> None:
    so_far = terminal.SoFar()
    so_far.add(JobProgress("t", "running", "j", 0.4, 1.0))
    so_far.add(end)
    assert so_far.jobs_told() == ""


@pytest.mark.parametrize(
    "seconds, told", [(0.0, "0 s"), (59.4, "59 s"), (720, "12 min"), (18_720, "5.2 h"), (259_200, "3.0 days")]
)
def test_durations_are_told_in_the_unit_that_fits(seconds: float, told: str) -> None:
    assert terminal.duration(seconds) == told
