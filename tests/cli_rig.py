"""A project to run commands in: a folder with settings and three documents, and a fake embedder of the kind "hash"."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from click.testing import CliRunner, Result

from connector import plugins
from connector.cli import main
from connector.model import JsonValue
from connector.plugins import BuildContext, EmbedderSettings, PluginSettings
from connector.ports import Embedder
from connector.testing.fakes import HashEmbedder

CONFIG = """
[source]
kind = "files"
path = "docs"

[embedder]
kind = "hash"

[sinks.main]
kind = "qdrant-edge"

[sync]
min_delete_count = 1
"""


@dataclass(slots=True)
class Project:
    """The folder, and the embedder that every command gets; it is the service's memory, too."""

    folder: Path
    embedder: HashEmbedder = field(default_factory=HashEmbedder)

    def __post_init__(self) -> None:
        (self.folder / "docs").mkdir()
        for name in ("cats", "dogs", "owls"):
            self.write(f"{name}.md", f"# About {name}\n\nAll there is to know about {name}.\n")
        self.configure(CONFIG)

    def write(self, name: str, text: str) -> None:
        (self.folder / "docs" / name).write_text(text)

    def configure(self, text: str) -> None:
        (self.folder / "vector-sync.toml").write_text(text)

    def run(self, *words: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(main, words, prog_name="vector-sync", input=answer)

    def answer(self, *words: str, exit_code: int = 0) -> dict[str, JsonValue]:
        """Run a command with --json: stdout is exactly one object."""
        result = self.run(*words, "--json")
        assert result.exit_code == exit_code, result.output
        assert result.stdout.count("\n") == 1
        answer: dict[str, JsonValue] = json.loads(result.stdout)
        return answer

    def synced(self) -> Project:
        assert self.run("sync").exit_code == 0
        return self


def make_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Make a project in a folder, go there, and let nothing of the environment in."""
    made = Project(folder)

    class HashSettings(EmbedderSettings):
        kind: Literal["hash"] = "hash"

        def build(self, context: BuildContext) -> Embedder:
            return made.embedder

    install(monkeypatch, {"embedders": {"hash": HashSettings}})
    monkeypatch.chdir(folder)
    for name in os.environ:
        if name.startswith("VECTOR_SYNC_"):
            monkeypatch.delenv(name)
    return made


def install(monkeypatch: pytest.MonkeyPatch, kinds: Mapping[str, Mapping[str, type[PluginSettings]]]) -> None:
    """Let plug-ins, by their role and kind, be found as if they were installed."""
    before = vars(plugins)["entry_points"]

    @dataclass(frozen=True, slots=True)
    class EntryPoint:
        name: str
        settings: type[PluginSettings]

        def load(self) -> type[PluginSettings]:
            return self.settings

    def with_ours(*, group: str) -> list[object]:
        ours = kinds.get(group.removeprefix("vector_sync."), {})
        return [*before(group=group), *(EntryPoint(kind, settings) for kind, settings in ours.items())]

    monkeypatch.setattr(plugins, "entry_points", with_ours)
