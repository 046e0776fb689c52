"""`vector-sync generations` and its commands; and how the other commands name generations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_rig import Project
from generation_rig import GenerationRig, ManySettings
from generation_rig import rig as rig  # noqa: PLC0414 - a fixture

from connector.errors import TransientError

CONFIG = """
[source]
kind = "files"
path = "docs"

[embedder]
kind = "hash"
dimension = 8

[sinks.main]
kind = "many"
"""


@pytest.fixture
def project(rig: GenerationRig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Project:
    """A project that was synced, whose settings ask for another embedder now."""
    monkeypatch.chdir(tmp_path)
    made = Project(tmp_path)
    made.configure(CONFIG)
    assert made.run("sync").exit_code == 0
    made.configure(CONFIG.replace("8", "12"))
    return made


def states(project: Project) -> dict[int, str]:
    listed = project.answer("generations")["generations"]
    assert isinstance(listed, list)
    return {it["number"]: it["state"] for it in listed}  # type: ignore[index, call-overload, misc]


def test_before_a_sync_there_are_none(project: Project, tmp_path: Path) -> None:
    project.configure(CONFIG + '\n[state]\npath = "elsewhere"\n')
    ManySettings.databases.clear()
    result = project.run("generations")
    assert (result.exit_code, result.stdout) == (0, "nothing was synced yet\n")


def test_the_price_is_shown_and_the_change_is_accepted(project: Project) -> None:
    asked = project.run("plan")
    assert asked.exit_code == 4
    assert "generation 2 would be built beside 1" in asked.stderr
    assert project.run("sync").exit_code == 4
    done = project.run("sync", "--accept-reembed")
    assert done.exit_code == 0
    assert "readers get generation 2 now; generation 1 is kept" in done.stdout
    assert "generation 1 as well: in step" in done.stdout
    assert states(project) == {1: "retained", 2: "live"}


def test_they_are_listed_with_what_readers_get(project: Project) -> None:
    project.run("sync", "--accept-reembed")
    listed = project.answer("generations")["generations"]
    assert isinstance(listed, list)
    second = listed[1]
    assert isinstance(second, dict)
    assert second["sinks"] == {"main": {"documents": 3, "is_live": True}}
    assert (second["in_step"], second["embedder"]) == (True, "hash/dim12/tokens256")
    shown = project.run("generations").stdout
    assert "hash/dim8/tokens256" in shown
    assert shown.count("get it") == 1


def test_roll_back_and_switch(project: Project) -> None:
    project.run("sync", "--accept-reembed")
    assert project.answer("generations", "rollback") == {"live": 1, "before": 2, "notes": []}
    assert states(project) == {1: "live", 2: "retained"}
    assert project.run("generations", "switch", "2").stdout == "readers get generation 2; generation 1 is kept\n"
    assert project.answer("generations", "switch", "7", exit_code=2)["error"] == (
        "there is no generation 7; there are: 1, 2"
    )
    assert "none is" in str(project.answer("generations", "switch", exit_code=2)["error"])


def test_there_may_be_nothing_to_go_back_to(project: Project) -> None:
    assert "no generation to go back to" in project.run("generations", "rollback").stderr


def test_one_that_waits_is_switched_to_by_hand(project: Project) -> None:
    project.configure(CONFIG.replace("8", "12") + '\n[sync]\nswitch = "manual"\n')
    assert "generations switch 2" in project.run("sync", "--accept-reembed").stdout
    assert states(project) == {1: "live", 2: "building"}
    assert project.answer("generations", "switch")["live"] == 2


def test_a_drop_is_confirmed_and_removes_all_of_a_generation_but_never_the_live_one(project: Project) -> None:
    project.run("sync", "--accept-reembed")
    assert "cannot be dropped" in project.run("generations", "drop", "2", "--yes").stderr
    assert "roll-back to it is impossible" in project.run("generations", "drop", "1").stderr
    assert states(project) == {1: "retained", 2: "live"}
    assert project.answer("generations", "drop", "1", "--yes") == {"dropped": 1, "sinks": ["main"], "notes": []}
    assert states(project) == {2: "live"}
    assert set(ManySettings.databases["main"].generations) == {2}
    assert project.answer("status")["sinks"].keys() == {"main"}  # type: ignore[union-attr]
    kept = {path.name for path in (project.folder / "state").glob("known-*")}
    assert kept == {"known-2.bin"}
    assert project.run("sync").exit_code == 0


def test_a_drop_that_was_cut_off_is_finished_by_the_same_command(project: Project) -> None:
    project.run("sync", "--accept-reembed")
    ManySettings.databases["main"].fail_next("drop", KeyboardInterrupt(), after=True)
    assert project.run("generations", "drop", "1", "--yes").exit_code == 130
    assert states(project) == {1: "dropping", 2: "live"}
    assert "generations drop 1" in project.run("sync").stdout
    assert project.run("generations", "drop", "1", "--yes").exit_code == 0
    assert states(project) == {2: "live"}


def test_other_commands_name_generations_as_readers_know_them(project: Project) -> None:
    project.run("sync", "--accept-reembed")
    status = project.answer("status")["sinks"]
    assert isinstance(status, dict)
    assert status.keys() == {"main", "main@1"}
    told = project.answer("explain", "cats.md")["sinks"]
    assert isinstance(told, dict)
    assert told.keys() == {"main", "main@1"}
    assert {it["state"] for it in told.values()} == {"in step"}  # type: ignore[index, call-overload]


def test_check_works_with_changed_settings(project: Project) -> None:
    result = project.run("check")
    assert result.exit_code == 0
    assert "generation 1 is live, and the settings ask for generation 2" in result.stdout


def test_query_config_is_of_what_readers_get_whatever_the_settings_say(project: Project) -> None:
    told = project.answer("query-config")
    assert (told["embedder"]["dimension"], told["sink"]["generation"]) == (8, 1)  # type: ignore[index, call-overload]
    project.run("sync", "--accept-reembed")
    project.configure(CONFIG)
    told = project.answer("query-config")
    assert (told["embedder"]["dimension"], told["sink"]["generation"]) == (12, 2)  # type: ignore[index, call-overload]


def test_search_is_of_what_readers_get_whatever_the_settings_say(project: Project) -> None:
    hits = project.answer("search", "About cats")["hits"]
    assert isinstance(hits, list)
    assert len(hits) == 3


def test_what_is_printed_of_a_sync_is_one_object(project: Project) -> None:
    result = project.run("sync", "--accept-reembed", "--json")
    report = json.loads(result.stdout)
    assert (report["generation"], [other["generation"] for other in report["others"]]) == (2, [1])
    ManySettings.databases["main"].fail_next("live", TransientError("503"))
    assert project.run("sync").exit_code == 0
