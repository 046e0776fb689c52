"""The command line: what it prints where, and how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from cli_rig import CONFIG, Project, make_project
from click.testing import CliRunner

from connector import inspection, terminal
from connector.checkpoint import Checkpoints
from connector.cli import main
from connector.config import Settings
from connector.events import CallRetried, DocumentsCommitted, Event, RowsListed, RunStarted, TextsEmbedded
from connector.plugins import BuildContext
from connector.retry import Retry
from connector.testing.fakes import HashEmbedder

CANARY = "canary-5f0c1e"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return make_project(tmp_path, monkeypatch)


def process(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "connector", *words], cwd=cwd, capture_output=True, text=True, check=False
    )


# --- without a project ------------------------------------------------------------------------------


def test_help_imports_nothing_that_is_slow() -> None:
    program = (
        "import sys; from connector.cli import main; main(['--help'], standalone_mode=False);"
        "print(sorted({'pydantic', 'numpy', 'rich', 'sqlite3'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_every_command_has_help() -> None:
    for name in main.commands:
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        assert "Usage:" in result.stdout


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"vector-sync, version \d+\.\d+\.\d+\n", CliRunner().invoke(main, ["--version"]).stdout)


def test_a_missing_file_is_one_line_on_stderr_and_exit_code_2(tmp_path: Path) -> None:
    result = process("sync", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "vector-sync: error: vector-sync.toml does not exist; "
        "run `vector-sync init` to write one, or name yours with --config\n"
    )


def test_with_json_an_error_is_one_object_too(tmp_path: Path) -> None:
    result = process("status", "--json", cwd=tmp_path)
    assert result.returncode == 2
    answer = json.loads(result.stdout)
    assert answer["exit_code"] == 2
    assert answer["error"].startswith("vector-sync.toml does not exist")


@pytest.mark.parametrize("words", [["status", "--nonsense"], ["nonsense"], ["sync", "--confirm-deletes", "-1"]])
def test_bad_usage_is_exit_code_2_and_one_object_with_json(words: list[str]) -> None:
    plain = CliRunner().invoke(main, words)
    assert plain.exit_code == 2
    assert "Usage:" in plain.stderr
    with_json = CliRunner().invoke(main, [*words, "--json"])
    assert with_json.exit_code == 2
    assert json.loads(with_json.stdout)["exit_code"] == 2


# --- init and check ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["files", "table"])
def test_init_writes_settings_that_load(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.toml"
    result = CliRunner().invoke(main, ["--config", str(path), "init", "--kind", kind])
    assert result.exit_code == 0
    assert Settings.load(path).source.kind == kind


def test_init_refuses_to_overwrite(project: Project) -> None:
    result = project.run("init")
    assert result.exit_code == 2
    assert "vector-sync.toml exists, and is not overwritten" in result.stderr
    assert (project.folder / "vector-sync.toml").read_text() == CONFIG


def test_the_settings_file_can_be_named_by_a_variable(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.folder / "vector-sync.toml").rename(project.folder / "other.toml")
    monkeypatch.setenv("VECTOR_SYNC_CONFIG", "other.toml")
    assert project.run("check").exit_code == 0


def test_check_says_ok_for_every_part_and_writes_nothing(project: Project) -> None:
    before = sorted(project.folder.rglob("*"))
    result = project.run("check")
    assert result.exit_code == 0
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == [
        "settings",
        "source",
        "embedder",
        "sink main",
        "state",
    ]
    assert all("ok" in line for line in result.stdout.splitlines())
    assert sorted(project.folder.rglob("*")) == before


def test_check_says_what_is_wrong_with_each_part(project: Project) -> None:
    project.synced()
    project.embedder = HashEmbedder(dimension=4)
    project.configure(CONFIG.replace('"docs"', '"nowhere"') + '[state]\npath = "vector-sync.toml"\n')
    result = project.run("check")
    assert result.exit_code == 2
    told = dict(re.split(r"  +", line, maxsplit=1) for line in result.stdout.splitlines())
    assert "nowhere" in told["source"]
    assert told["embedder"] == "ok (hash, 4 dimensions)"
    assert "dimensions" in told["sink main"]
    assert told["sink main"].startswith("error: ")
    assert told["state"].startswith("error: ")


# --- plan and sync ----------------------------------------------------------------------------------


def test_plan_counts_and_writes_nothing(project: Project) -> None:
    before = sorted(project.folder.rglob("*"))
    result = project.run("plan")
    assert result.exit_code == 0
    assert "added 3  changed 0  metadata 0  moved 0  deleted 0  unchanged 0  rejected 0" in result.stdout
    assert re.search(r"to embed 3 texts \(\d+ tokens\), to reuse 0", result.stdout)
    assert "main  to upsert 3 records, to delete 0" in result.stdout
    assert "cats.md" not in result.stdout
    assert sorted(project.folder.rglob("*")) == before
    assert project.embedder.calls == 0


def test_plan_names_the_documents_where_asked(project: Project) -> None:
    project.synced()
    project.write("cats.md", "# About cats\n\nMore is known now.\n")
    (project.folder / "docs" / "owls.md").unlink()
    result = project.run("plan", "--verbose")
    assert re.search(r"^changed +cats\.md$", result.stdout, re.MULTILINE)
    assert re.search(r"^deleted +owls\.md$", result.stdout, re.MULTILINE)
    assert not re.search(r"^(added|changed|deleted) +dogs\.md", result.stdout, re.MULTILINE)
    assert project.answer("plan")["changed"] == 1


def test_sync_ends_with_a_summary(project: Project) -> None:
    result = project.run("sync")
    assert result.exit_code == 0
    how, counts, embedded, main_sink = result.stdout.splitlines()
    assert re.fullmatch(r"in step   3 documents   \d+\.\d s", how)
    assert counts == "added 3  changed 0  metadata 0  moved 0  deleted 0  unchanged 0  rejected 0"
    assert re.fullmatch(r"embedded 3 texts \(\d+ tokens\), reused 0", embedded)
    assert main_sink == "main  upserted 3 records in 1 call, deleted 0 in 0 calls"
    assert result.stderr == "reading the source; known: main 0 documents\n"


def test_sync_answers_in_json(project: Project) -> None:
    project.synced()
    project.write("cats.md", "# About cats\n\nMore is known now.\n")
    answer = project.answer("sync", "--yes")
    assert answer["changed"] == 1
    assert answer["unchanged"] == 2
    assert answer["texts_embedded"] == 1
    assert answer["exit_code"] == 0


def test_sync_without_the_rejected_is_exit_code_1_and_tells_where_to_look(project: Project) -> None:
    project.configure(CONFIG.replace('path = "docs"', 'path = "docs"\nkeep_fields = ["owner"]'))
    project.write("cats.md", "---\nowner: me\n---\n# About cats\n")
    result = project.run("sync")
    assert result.exit_code == 1
    assert result.stdout.startswith("in step but for the rejected   1 document ")
    assert "rejected 2" in result.stdout
    assert result.stderr.endswith("2 documents are rejected; `vector-sync rejected` tells why\n")
    listed = project.run("rejected")
    assert listed.exit_code == 0
    assert re.search(r"^dogs\.md +main +.*owner", listed.stdout, re.MULTILINE)
    answer = project.answer("rejected")
    assert isinstance(answer["rejected"], list)
    assert len(answer["rejected"]) == 2


def test_too_many_deletions_stop_and_are_confirmed(project: Project) -> None:
    project.synced()
    for name in ("cats", "dogs"):
        (project.folder / "docs" / f"{name}.md").unlink()
    result = project.run("sync")
    assert result.exit_code == 4
    assert result.stdout.startswith("stopped to ask")
    assert "--confirm-deletes" in result.stderr
    assert "--confirm-deletes" in str(project.answer("plan", exit_code=4)["problems"])
    assert project.answer("sync", "--confirm-deletes", "2")["deleted"] == 2


def test_a_changed_embedder_stops_and_is_accepted(project: Project) -> None:
    project.synced()
    project.embedder = HashEmbedder(identity="another")
    result = project.run("sync")
    assert result.exit_code == 4
    assert result.stdout == ""
    assert re.match(r"vector-sync: error: .*--accept-reembed", result.stderr)
    assert project.answer("sync", "--accept-reembed")["texts_embedded"] == 3


def test_a_second_run_is_exit_code_75_while_everybody_may_look(project: Project) -> None:
    project.synced()
    with closing(Checkpoints.open(project.folder / "state")):
        answer = project.answer("sync", exit_code=75)
        assert f"process {os.getpid()}" in str(answer["error"])
        assert f"process {os.getpid()}" in str(project.answer("status")["running"])
        assert project.answer("rejected") == {"rejected": []}
        assert project.answer("explain", "cats.md")["listed"] is True
    assert project.answer("status")["running"] is None


def test_ctrl_c_is_exit_code_130_and_nothing_is_lost(project: Project) -> None:
    def interrupt(text: str) -> bool:
        raise KeyboardInterrupt

    project.embedder.reject = interrupt
    result = project.run("sync")
    assert result.exit_code == 130
    assert result.stderr.endswith("vector-sync: error: stopped; nothing is lost, run again\n")
    project.embedder.reject = lambda text: False
    project.synced()


def test_a_bug_is_a_traceback_and_has_an_exit_code_of_its_own(project: Project) -> None:
    def fail(text: str) -> bool:
        raise ZeroDivisionError(text)

    project.embedder.reject = fail
    result = project.run("sync", "--json")
    assert result.exit_code == 70
    assert "Traceback" in result.stderr
    assert json.loads(result.stdout)["error"] == "a bug in vector-sync (ZeroDivisionError); nothing is lost"


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "connector", "--config", str(tmp_path / "new.toml"), "init"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert result.returncode == 141
    assert result.stderr == ""


@pytest.mark.parametrize("command", ["check", "plan", "sync", "status", "rejected"])
def test_a_secret_in_the_file_is_printed_by_no_command(
    project: Project, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    project.configure(CONFIG + f'api_key = "{CANARY}"\nmax_delete_fraction = "{CANARY}"\n')
    monkeypatch.setenv("VECTOR_SYNC_SINKS__MAIN__API_KEY", CANARY)
    monkeypatch.setenv("VECTOR_SYNC_SYNC__MIN_DELETE_COUNT", CANARY)
    for words in ([command], [command, "--json"]):
        result = project.run(*words)
        assert result.exit_code == 2
        assert CANARY not in result.output


# --- looking ----------------------------------------------------------------------------------------


def test_status_before_the_first_run_writes_nothing(project: Project) -> None:
    result = project.run("status")
    assert result.exit_code == 0
    assert re.search(r"^main +0 +0 +0 +0", result.stdout, re.MULTILINE)
    assert "no run yet" in result.stdout
    assert not (project.folder / "state").exists()


def test_status_tells_how_the_sinks_stand_and_how_runs_ended(project: Project) -> None:
    result = project.synced().run("status")
    assert re.search(r"^main +3 +3 +0 +0", result.stdout, re.MULTILINE)
    assert re.search(r"^ *1 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\d+\.\d s +0 +3 +0 +0 +0", result.stdout, re.MULTILINE)
    assert "vector store: 3 vectors" in result.stdout
    assert "running now: nothing" in result.stdout
    answer = project.answer("status")
    assert answer["sinks"] == {"main": {"documents": 3, "records": 3, "in_doubt": 0, "rejected": 0}}
    assert answer["vectors"] == 3


def test_search_finds_a_passage_by_its_own_text(project: Project) -> None:
    passage = "# About owls\n\nAll there is to know about owls."
    result = project.synced().run("search", passage, "--limit", "1")
    assert result.exit_code == 0
    first, excerpt = result.stdout.splitlines()
    assert re.match(r"1\. 1\.000  owls\.md#0", first)
    assert excerpt == "   # About owls All there is to know about owls."
    answer = project.answer("search", passage, "--limit", "2", "--sink", "main")
    assert isinstance(answer["hits"], list)
    assert len(answer["hits"]) == 2


def test_search_before_the_first_run_finds_nothing(project: Project) -> None:
    assert project.run("search", "owls").stdout == "nothing found\n"


@pytest.mark.parametrize(
    "words, told",
    [
        (["owls", "--sink", "other"], 'there is no sink "other" in the settings; there are: main'),
        (["owls " * 1000], "tokens, the embedder takes 256; shorten it"),
        ([" "], "say what to look for"),
    ],
)
def test_a_search_that_cannot_be_made_is_told(project: Project, words: list[str], told: str) -> None:
    result = project.synced().run("search", *words)
    assert result.exit_code == 2
    assert told in result.stderr


def test_a_search_while_the_index_is_open_elsewhere_is_exit_code_75(project: Project) -> None:
    settings = Settings.load(project.synced().folder / "vector-sync.toml")
    context = BuildContext(project.folder, project.folder / "state", name="main")
    with closing(settings.sinks["main"].build(context)) as sink:
        sink.prepare(project.embedder.dimension)
        assert "open in another process" in str(project.answer("search", "owls", exit_code=75)["error"])


def test_a_search_waits_for_whoever_has_the_index_open_for_a_moment(project: Project) -> None:
    settings = Settings.load(project.synced().folder / "vector-sync.toml")
    context = BuildContext(project.folder, project.folder / "state", name="main")
    with closing(settings.sinks["main"].build(context)) as sink:
        sink.prepare(project.embedder.dimension)
        moment = Retry(attempts=2, sleep=lambda _seconds: sink.close())
        assert inspection.search(settings, "owls", retry=moment)


def test_no_rejected_documents_is_told(project: Project) -> None:
    assert project.synced().run("rejected").stdout == "no document is rejected\n"


def test_explain_tells_that_a_document_is_in_step(project: Project) -> None:
    result = project.synced().run("explain", "cats.md")
    assert result.exit_code == 0
    listed, standing, last_run = result.stdout.splitlines()
    assert listed.startswith("cats.md: the source lists it at ")
    assert standing == "main: in step, 1 record"
    assert re.fullmatch(r"last run: .*, exit code 0", last_run)


@pytest.mark.parametrize(
    "step, told",
    [
        ("changed", "main: out of date, 1 record; its text has changed since the last sync"),
        ("deleted", "main: out of date, 1 record; the source no longer has it"),
        ("never synced", "main: not there, 0 records; the next sync adds it"),
    ],
)
def test_explain_tells_why_a_document_is_not_in_step(project: Project, step: str, told: str) -> None:
    path = project.folder / "docs" / "new.md"
    if step != "never synced":
        path.write_text("# New\n")
        project.synced()
    if step == "deleted":
        path.unlink()
    else:
        path.write_text("# Newer\n")
    assert told in project.run("explain", "new.md").stdout


def test_explain_tells_the_reason_of_a_rejection(project: Project) -> None:
    project.configure(CONFIG.replace('path = "docs"', 'path = "docs"\nkeep_fields = ["owner"]'))
    assert project.run("sync").exit_code == 1
    result = project.run("explain", "cats.md")
    assert re.search(r"^the source cannot give it: .*owner", result.stdout, re.MULTILINE)
    assert re.search(r"^main: rejected, 0 records; .*owner", result.stdout, re.MULTILINE)


def test_explain_names_the_places_that_may_hide_a_document(project: Project) -> None:
    (project.folder / "rows.jsonl").write_text('{"id": "a", "text": "first"}\n{"id": "b", "text\n')
    project.configure(CONFIG.replace('"files"', '"table"').replace('"docs"', '"rows.jsonl"'))
    result = project.run("explain", "b")
    assert "b: the source does not list it" in result.stdout
    assert re.search(r"^this place cannot be read, and may hide it: rows\.jsonl line 2: ", result.stdout, re.MULTILINE)
    answer = project.answer("explain", "b")
    assert answer["listed"] is False
    assert isinstance(answer["unreadable"], list)
    assert len(answer["unreadable"]) == 1


# --- progress ---------------------------------------------------------------------------------------

EVENTS: tuple[Event, ...] = (
    RunStarted(1, {"main": 1_000}),
    RowsListed(500, 400, 0.25),
    TextsEmbedded(64, 4_000, 0),
    RowsListed(1_000, 800, 0.5),
    DocumentsCommitted("main", 60, 64),
    CallRetried("upsert to main", "\x1b[31mbusy", 2.0),
    RowsListed(2_000, 1_800, 1.0),
)


def test_in_a_log_progress_is_one_line_every_few_seconds() -> None:
    told: list[str] = []
    now = iter([0.0, 1.0, 2.0, 6.0, 6.0, 7.0, 30.0, 30.0])
    lines = terminal.ProgressLines(told.append, clock=lambda: next(now))
    for event in EVENTS:
        lines(event)
    assert told == [
        "reading the source; known: main 1,000 documents",
        " 50%  1,000 rows listed, 64 texts embedded",
        "upsert to main: \N{REPLACEMENT CHARACTER}[31mbusy; trying again in 2 s",
        "100%  2,000 rows listed, 64 texts embedded, main: 64 records written",
    ]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_progress_is_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with terminal.progress() as emit:
        for event in EVENTS:
            emit(event)
    shown = screen.getvalue()
    assert "100%" in shown
    assert "2,000 rows listed, 64 texts embedded, main: 64 records written" in shown
    assert "\x1b[31mbusy" not in shown


def test_what_a_terminal_would_obey_is_not_printed(project: Project) -> None:
    project.write("evil.md", "# \x1b]0;title\x07 \x1b[2J evil\n")
    result = project.synced().run("search", "# \x1b]0;title\x07 \x1b[2J evil", "--limit", "1")
    assert "evil.md" in result.stdout
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout


# --- the whole, as it is installed ------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "power.md").write_text("# Power cuts\n\nAfter a power cut the next run carries on.\n")
    (tmp_path / "docs" / "bread.md").write_text("# Bread\n\nFlour, water, salt and patience.\n")
    assert process("init", cwd=tmp_path).returncode == 0
    return tmp_path


@pytest.mark.slow
def test_from_init_to_search_with_the_real_model(installed: Path) -> None:
    assert process("check", cwd=installed).returncode == 0
    first = process("sync", "--json", cwd=installed)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["added"] == 2
    again = process("sync", "--json", cwd=installed)
    assert json.loads(again.stdout)["unchanged"] == 2
    assert json.loads(again.stdout)["texts_embedded"] == 0
    found = process("search", "electricity fails", "--json", cwd=installed)
    assert json.loads(found.stdout)["hits"][0]["document_id"] == "power.md"
