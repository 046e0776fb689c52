"""`vector-sync verify` and `vector-sync state rebuild`, as somebody types them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import pytest
from cli_rig import Project, install, make_project
from verify_rig import SharedSink

from connector.checkpoint import Checkpoints
from connector.errors import ConfigError
from connector.model import RecordId
from connector.plugins import BuildContext, EmbedderSettings, SinkSettings
from connector.ports import Embedder, Sink
from connector.testing.fakes import HashEmbedder

CONFIG = """
[source]
kind = "files"
path = "docs"

[embedder]
kind = "hash"

[sinks.main]
kind = "shared"
"""


@pytest.fixture
def sink() -> SharedSink:
    """The database: it outlasts the commands."""
    return SharedSink()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: SharedSink) -> Project:
    """A project that was synced."""

    class SharedSettings(SinkSettings):
        kind: Literal["shared"] = "shared"

        def build(self, context: BuildContext) -> Sink:
            assert context.name == "main"
            return sink

    made = make_project(tmp_path, monkeypatch)
    install(monkeypatch, {"sinks": {"shared": SharedSettings}})
    made.configure(CONFIG)
    for number in range(30):
        made.write(f"note-{number:02}.md", f"# Note {number}\n\nThis is note {number}.\n")
    return made.synced()


def test_in_step_says_so_in_one_line(project: Project) -> None:
    result = project.run("verify")
    assert (result.exit_code, result.stdout) == (0, "main: 33 records in step\n")


def test_drift_is_counted_and_named_and_has_an_exit_code_of_its_own(project: Project, sink: SharedSink) -> None:
    sink.remove(RecordId("cats.md#0"))
    sink.change(RecordId("dogs.md#0"), digest=b"s" * 16)
    sink.add("unheard\x1b[2J of", 3)
    sink.add_foreign("theirs")
    result = project.run("verify")
    assert result.exit_code == 5
    assert result.stdout.splitlines() == [
        "main: 31 records in step, 1 missing, 1 stale, 1 extra, 1 foreign",
        "  missing  cats.md#0",
        "  stale    dogs.md#0",
        "  extra    unheard\N{REPLACEMENT CHARACTER}[2J of#3",
        "  foreign  theirs  (of somebody)",
    ]


def test_foreign_alone_is_told_and_in_step(project: Project, sink: SharedSink) -> None:
    sink.add_foreign("theirs")
    result = project.run("verify")
    assert (result.exit_code, result.stdout) == (
        0,
        "main: 33 records in step, 1 foreign\n  foreign  theirs  (of somebody)\n",
    )


def test_of_many_the_first_are_named_and_all_if_asked(project: Project, sink: SharedSink) -> None:
    for number in range(30):
        sink.remove(RecordId(f"note-{number:02}.md#0"))
    brief, verbose = project.run("verify").stdout, project.run("verify", "--verbose").stdout
    assert brief.count("  missing  note") == 20
    assert "  ... and 10 more that are missing; --verbose names them" in brief
    assert verbose.count("  missing  note") == 30
    assert "more" not in verbose


@pytest.mark.parametrize("verbose", [(), ("--verbose",)])
def test_json_is_one_object_with_everything(project: Project, sink: SharedSink, verbose: tuple[str, ...]) -> None:
    sink.remove(RecordId("cats.md#0"))
    sink.add_foreign("theirs")
    assert project.answer("verify", *verbose, exit_code=5) == {
        "exit_code": 5,
        "sinks": {
            "main": {
                "in_step": 32,
                "missing": 1,
                "stale": 0,
                "altered": 0,
                "extra": 0,
                "stray": 0,
                "foreign": 1,
                "in_doubt": 0,
                "unchecked": 0,
                "vectors_unchecked": 0,
                "new_collection": False,
                "error": None,
                "findings": [
                    {"kind": "missing", "name": "cats.md#0", "document_id": "cats.md"},
                    {"kind": "foreign", "name": "theirs", "owner": "somebody"},
                ],
                "not_listed": 0,
            }
        },
    }


def test_json_names_no_more_than_it_is_asked_for(
    project: Project, sink: SharedSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connector.drift.FINDINGS_HELD", 7)
    for number in range(30):
        sink.remove(RecordId(f"note-{number:02}.md#0"))
    listed = project.answer("verify", exit_code=5)["sinks"]["main"]  # type: ignore[index,call-overload]
    assert (len(listed["findings"]), listed["missing"], listed["not_listed"]) == (7, 30, 23)  # type: ignore[index,call-overload,arg-type]
    everything = project.answer("verify", "-v", exit_code=5)["sinks"]["main"]  # type: ignore[index,call-overload]
    assert (len(everything["findings"]), everything["not_listed"]) == (30, 0)  # type: ignore[index,call-overload,arg-type]


def test_an_edited_text_is_seen_only_by_its_contents(project: Project, sink: SharedSink) -> None:
    sink.change(RecordId("cats.md#0"), text="All there is to know about dogs.")
    assert project.run("verify").exit_code == 0
    result = project.run("verify", "--contents")
    assert (result.exit_code, "  altered  cats.md#0" in result.stdout) == (5, True)


def test_what_was_altered_or_damaged_is_told_with_what_of_it(project: Project, sink: SharedSink) -> None:
    sink.change(RecordId("cats.md#0"), text="All there is to know about dogs.")
    sink.change(RecordId("dogs.md#0"), vector=-sink.records[RecordId("dogs.md#0")].vector)
    sink.damage(RecordId("note-01.md#0"))
    assert project.run("verify", "--contents").stdout.splitlines() == [
        "main: 30 records in step, 1 stale, 2 altered",
        "  stale    note-01.md#0  (damaged)",
        "  altered  cats.md#0  (text or metadata)",
        "  altered  dogs.md#0  (vector)",
    ]
    findings = project.answer("verify", "--contents", exit_code=5)["sinks"]["main"]["findings"]  # type: ignore[index,call-overload]
    assert findings[-1] == {  # type: ignore[index,call-overload]
        "kind": "altered",
        "name": "dogs.md#0",
        "document_id": "dogs.md",
        "reason": "vector",
    }


def test_the_advice_after_a_sync_about_a_stray_record_leads_to_its_name(project: Project, sink: SharedSink) -> None:
    sink.copy("a copy")
    synced = project.run("sync")
    assert (synced.exit_code, "verify --repair` mends it, or says what is left to you" in synced.stderr) == (5, True)
    told = [
        "main: 33 records in step, 1 stray",
        (
            "  1 record stray: our mark, under a name that no record of ours has; "
            "a repair cannot remove that: delete it in the database, by its name"
        ),
        "  stray    a copy  (of docs sync)",
    ]
    seen = project.run("verify")
    assert (seen.exit_code, seen.stdout.splitlines()) == (5, told)
    repaired = project.run("verify", "--repair")
    assert (repaired.exit_code, repaired.stdout.splitlines()) == (5, [*told, "nothing that a repair could mend"])
    del sink.foreign[:]
    assert (project.run("sync").exit_code, project.run("verify").exit_code) == (0, 0)


def test_vectors_that_are_not_stored_are_told_not_to_be_compared(project: Project) -> None:
    (project.folder / "state" / "vectors.db").unlink()
    result = project.run("verify", "--contents")
    assert result.stdout.splitlines() == [
        "main: 33 records in step",
        "  33 vectors not compared: not in the vector store",
    ]


def test_a_repair_heals_for_nothing_and_says_so(project: Project, sink: SharedSink) -> None:
    sink.remove(RecordId("cats.md#0"))
    sink.add("cats.md", 4)
    sink.add_foreign("theirs")
    paid = len(project.embedder.texts_seen)
    result = project.run("verify", "--repair")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "main: 32 records in step, 1 missing, 1 extra, 1 foreign"
    assert any(line.startswith("embedded 0 texts (0 tokens), reused 1") for line in lines)
    assert lines[-3:] == ["verified again:", "main: 33 records in step, 1 foreign", "  foreign  theirs  (of somebody)"]
    assert len(project.embedder.texts_seen) == paid
    assert project.run("verify").exit_code == 0


def test_a_repair_of_nothing_runs_nothing(project: Project) -> None:
    assert project.run("verify", "--repair").stdout == "main: 33 records in step\nnothing to repair\n"
    assert project.answer("verify", "--repair")["sync"] is None


def test_a_repair_in_json_has_what_was_found_done_and_left(project: Project, sink: SharedSink) -> None:
    sink.remove(RecordId("cats.md#0"))
    answer = project.answer("verify", "--repair")
    assert answer["sinks"]["main"]["missing"] == 1  # type: ignore[index,call-overload]
    assert answer["sync"]["texts_embedded"] == 0  # type: ignore[index,call-overload]
    assert answer["after"]["main"]["missing"] == 0  # type: ignore[index,call-overload]


def test_a_repair_asks_before_it_deletes_much(project: Project, sink: SharedSink) -> None:
    for number in range(40):
        sink.add(f"unheard of {number}", 0)
    result = project.run("verify", "--repair")
    assert result.exit_code == 4
    assert "confirm with --confirm-deletes 40" in result.stderr
    assert project.run("verify").exit_code == 0  # the ledger knows that it does not know
    assert "40 records in doubt" in project.run("verify").stdout
    assert project.run("verify", "--repair", "--confirm-deletes", "40").exit_code == 0
    assert len(sink.records) == 33


def test_to_look_deletes_nothing(project: Project) -> None:
    result = project.run("verify", "--confirm-deletes", "3")
    assert result.exit_code == 2
    assert "--confirm-deletes is for --repair" in result.stderr


def test_beside_a_run_it_says_so(project: Project) -> None:
    running = Checkpoints.open(project.folder / "state")
    try:
        for words in (("verify",), ("verify", "--repair"), ("state", "rebuild")):
            result = project.run(*words)
            assert result.exit_code == 75, result.output
            assert "process " in result.stderr
    finally:
        running.close()


def test_an_unknown_sink_is_a_mistake_in_the_words(project: Project) -> None:
    result = project.run("verify", "--sink", "nain")
    assert (result.exit_code, 'there is no sink "nain"' in result.stderr) == (2, True)
    assert project.run("verify", "--sink", "main").exit_code == 0


def test_a_repair_is_not_begun_where_a_sync_would_ask(project: Project, sink: SharedSink) -> None:
    sink.remove(RecordId("cats.md#0"))
    project.embedder.identity = "another"
    result = project.run("verify", "--repair")
    assert (result.exit_code, "repair it with the settings that made it" in result.stderr) == (4, True)
    project.embedder.identity = "hash/dim8/tokens256"
    assert project.run("verify").exit_code == 5


def test_a_lost_state_is_told_and_made_again(project: Project, sink: SharedSink) -> None:
    shutil.rmtree(project.folder / "state")
    lost = project.run("verify")
    assert (lost.exit_code, "see `vector-sync state rebuild`" in lost.stdout) == (5, True)
    assert not (project.folder / "state").exists()
    result = project.run("state", "rebuild")
    assert result.exit_code == 0, result.output
    assert result.stdout == "main: its ledger has 33 documents with 33 records again, and the store 33 new vectors\n"
    assert project.run("verify").exit_code == 0
    planned = project.answer("plan")
    assert planned["texts_to_embed"] == 0
    assert (planned["sinks"]["main"]["upserts"], planned["sinks"]["main"]["deletes"]) == (0, 0)  # type: ignore[index,call-overload]
    del sink.upserts[:]
    assert project.answer("sync")["unchanged"] == 33
    assert sink.calls == 0


def test_a_rebuild_in_json(project: Project) -> None:
    shutil.rmtree(project.folder / "state")
    assert project.answer("state", "rebuild", "--sink", "main") == {
        "sinks": {
            "main": {
                "documents": 33,
                "records": 33,
                "vectors": 33,
                "in_doubt": 0,
                "foreign": 0,
                "same_embedder": True,
                "without_vectors": None,
            }
        }
    }


def test_a_rebuild_of_a_state_that_is_there_is_refused(project: Project) -> None:
    result = project.run("state", "rebuild")
    assert (result.exit_code, "verify --repair" in result.stderr) == (4, True)


# --- generations ------------------------------------------------------------------------------------


WITHDRAWN: set[str] = set()
"""Models that cannot be had any more."""


@pytest.fixture
def two_generations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose embedder was changed, so that generation 2 is read and 1 is kept."""

    class HashSettings(EmbedderSettings):
        kind: Literal["model"] = "model"
        model: str = "old"

        def build(self, context: BuildContext) -> Embedder:
            if self.model in WITHDRAWN:
                raise ConfigError("the model was withdrawn")
            return HashEmbedder(identity=self.model)

    made = make_project(tmp_path, monkeypatch)
    install(monkeypatch, {"embedders": {"model": HashSettings}})
    made.configure((made.folder / "vector-sync.toml").read_text().replace('"hash"', '"model"'))
    made.synced()
    made.configure((made.folder / "vector-sync.toml").read_text().replace('"model"', '"model"\nmodel = "new"'))
    assert made.run("sync", "--accept-reembed").exit_code == 0
    return made


def remove_point(project: Project, folder: str) -> None:
    import qdrant_edge

    shard = qdrant_edge.EdgeShard.load(str(project.folder / "state" / "index" / folder / "shard"))
    points, _ = shard.scroll(qdrant_edge.ScrollRequest(limit=1))
    shard.update(qdrant_edge.UpdateOperation.delete_points([points[0].id]))
    shard.flush()
    shard.close()


def test_every_generation_that_is_kept_in_step_is_compared_and_repaired(two_generations: Project) -> None:
    folders = sorted(it.parent.name for it in (two_generations.folder / "state" / "index").glob("*/shard"))
    assert len(folders) == 2
    result = two_generations.run("verify")
    assert (result.exit_code, sorted(result.stdout.splitlines())) == (
        0,
        ["main: 3 records in step", "main@1: 3 records in step"],
    )
    for folder in folders:
        remove_point(two_generations, folder)
    broken = two_generations.answer("verify", "--sink", "main", exit_code=5)
    assert {name: it["missing"] for name, it in broken["sinks"].items()} == {"main": 1, "main@1": 1}  # type: ignore[union-attr,index,call-overload]
    repaired = two_generations.answer("verify", "--repair")
    assert {name: it["missing"] for name, it in repaired["after"].items()} == {"main": 0, "main@1": 0}  # type: ignore[union-attr,index,call-overload]
    assert repaired["sync"]["texts_embedded"] == 0  # type: ignore[index,call-overload]
    assert two_generations.run("verify").exit_code == 0


def test_a_generation_whose_embedder_is_gone_is_passed_over_and_told(
    two_generations: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "WITHDRAWN", {"old"})
    result = two_generations.run("verify")
    assert (result.exit_code, result.stdout) == (0, "main: 3 records in step\n")
    assert "generation 1 is not compared: " in result.stderr
    assert "the model was withdrawn" in result.stderr
