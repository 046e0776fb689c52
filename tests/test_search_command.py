"""`vector-sync search --where`, from the words on the command line to the index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_rig import Project, make_project

CONFIG = """
[source]
kind = "table"
path = "rows.jsonl"
id_field = "id"
text_field = "text"
optional_fields = ["lang", "year", "draft", "page count"]

[embedder]
kind = "hash"

[sinks.main]
kind = "qdrant-edge"
"""
ROWS = (
    {"id": "a", "text": "about cats", "lang": "en", "year": 2018, "draft": True},
    {"id": "b", "text": "about dogs", "lang": ["en", "de"], "year": 2019, "page count": 7},
    {"id": "c", "text": "about owls", "lang": "de", "year": 2020, "draft": False},
    {"id": "d", "text": "about elks", "lang": "fr", "year": "2020"},
)


@pytest.fixture
def project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = make_project(folder, monkeypatch)
    project.configure(CONFIG)
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return project


def test_only_what_matches_every_condition_is_found(project: Project) -> None:
    project.synced()
    for where, found in {
        (): "abcd",
        ("lang=en",): "ab",
        ("lang in en,fr",): "abd",
        ("year>=2019",): "bc",
        ("2019<=year<2020",): "b",
        ('year="2020"',): "d",
        ("draft=true",): "a",
        ("page count=7",): "b",
        ("lang=de", "year>2019"): "c",
        ("lang=xx",): "",
    }.items():
        options = [word for condition in where for word in ("--where", condition)]
        hits = project.answer("search", "about cats", *options)["hits"]
        assert isinstance(hits, list)
        assert sorted(str(hit["document_id"]) for hit in hits if isinstance(hit, dict)) == list(found), where


def test_a_condition_that_is_not_understood_is_told_before_anything_is_embedded(project: Project) -> None:
    project.synced()
    before = project.embedder.calls
    result = project.run("search", "about cats", "--where", "lang~en")
    assert result.exit_code == 2
    assert result.stderr.startswith('vector-sync: error: the condition "lang~en" is not understood: ')
    assert "lang=en, year>=2019" in result.stderr
    assert project.embedder.calls == before
