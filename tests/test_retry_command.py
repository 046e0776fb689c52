"""`vector-sync retry`: rejected documents are looked at again, though neither they nor the recipe have changed."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from cli_rig import CONFIG, Project, make_project

from connector.checkpoint import Checkpoints
from connector.config import Settings
from connector.errors import ConfigError, LeaseError
from connector.retrial import retry_rejected


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose embedder has refused the dogs and the owls."""
    made = make_project(tmp_path, monkeypatch)
    made.embedder.reject = lambda text: "cats" not in text
    # A table: a file of a folder that was written just now is read again by the next run anyway.
    rows = [{"id": f"{name}.md", "text": f"about {name}"} for name in ("cats", "dogs", "owls")]
    made.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    made.configure(CONFIG.replace('kind = "files"\npath = "docs"', 'kind = "table"\npath = "docs/rows.jsonl"'))
    assert made.run("sync").exit_code == 1
    made.embedder.reject = lambda _text: False
    return made


def documents_of(project: Project) -> list[str]:
    listed = project.answer("rejected")["rejected"]
    assert isinstance(listed, list)
    return sorted(it["place"] for it in listed if isinstance(it, dict))


def test_without_it_a_rejected_document_is_not_looked_at_again(project: Project) -> None:
    assert project.run("sync").exit_code == 1
    assert documents_of(project) == ["dogs.md", "owls.md"]


def test_all_rejected_documents_are_looked_at_again(project: Project) -> None:
    assert project.run("retry").stdout == "the next sync looks again at 2 rejected documents\n"
    assert project.run("sync").exit_code == 0
    assert documents_of(project) == []


def test_a_named_one_is_looked_at_again_and_the_others_are_not(project: Project) -> None:
    assert project.run("retry", "owls.md").stdout == "the next sync looks again at 1 rejected document\n"
    assert project.run("sync").exit_code == 1
    assert documents_of(project) == ["dogs.md"]


def test_one_that_is_still_refused_stays_rejected_and_is_not_asked_about_for_ever(project: Project) -> None:
    project.embedder.reject = lambda text: "cats" not in text
    project.run("retry")
    assert project.run("sync").exit_code == 1
    asked = project.embedder.calls
    assert project.run("sync").exit_code == 1
    assert project.embedder.calls == asked
    assert documents_of(project) == ["dogs.md", "owls.md"]


def test_a_document_that_is_not_rejected_is_named_and_nothing_is_written(project: Project) -> None:
    with pytest.raises(ConfigError, match=r'"cats\.md" is not rejected'):
        retry_rejected(Settings.load(Path("vector-sync.toml")), ["owls.md", "cats.md"])
    project.run("sync")
    assert documents_of(project) == ["dogs.md", "owls.md"]


def test_a_run_under_way_is_not_disturbed(project: Project) -> None:
    with closing(Checkpoints.open(project.folder / "state")), pytest.raises(LeaseError):
        retry_rejected(Settings.load(Path("vector-sync.toml")))


def test_the_answer_in_json_names_them(project: Project) -> None:
    retried = project.answer("retry")["retried"]
    assert isinstance(retried, list)
    assert [it["place"] for it in retried if isinstance(it, dict)] == ["dogs.md", "owls.md"]
