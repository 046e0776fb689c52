"""From settings to a run by the Python API, and that everything is closed again."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar, Literal

import pytest

import connector
from connector import ConfigError, LeaseError, Settings, plugins
from connector.composition import open_parts
from connector.events import Event, RunStarted
from connector.plugins import BuildContext, EmbedderSettings, SinkSettings
from connector.ports import Embedder, Sink
from connector.testing.fakes import HashEmbedder
from sinks.memory import MemorySink


class LoggedEmbedder(HashEmbedder):
    def close(self) -> None:
        HashSettings.closed.append("embedder")


class LoggedSink(MemorySink):
    def close(self) -> None:
        HashSettings.closed.append(f"sink {self.name}")


class HashSettings(EmbedderSettings):
    closed: ClassVar[list[str]] = []
    kind: Literal["hash"] = "hash"

    def build(self, context: BuildContext) -> Embedder:
        return LoggedEmbedder()


class LoggedSettings(SinkSettings):
    contexts: ClassVar[list[BuildContext]] = []
    kind: Literal["logged"] = "logged"
    installed: bool = True

    def build(self, context: BuildContext) -> Sink:
        self.contexts.append(context)
        if not self.installed:
            raise ConfigError("the extra of this sink is not installed")
        return LoggedSink(context.name)


class FakeEntryPoint:
    def __init__(self, name: str, settings: type[plugins.PluginSettings]) -> None:
        self.name = name
        self._settings = settings

    def load(self) -> type[plugins.PluginSettings]:
        return self._settings


@pytest.fixture(autouse=True)
def _fake_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {
        "vector_sync.embedders": [FakeEntryPoint("hash", HashSettings)],
        "vector_sync.sinks": [FakeEntryPoint("logged", LoggedSettings)],
    }
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [*entry_points(group=group), *kinds.get(group, [])])
    HashSettings.closed.clear()
    LoggedSettings.contexts.clear()


def settings_in(folder: Path, *, second_is_installed: bool = True) -> Settings:
    (folder / "a.md").write_text("# A\n")
    return Settings(
        source={"kind": "files", "path": "."},
        embedder={"kind": "hash"},
        sinks={"one": {"kind": "logged"}, "two": {"kind": "logged", "installed": second_is_installed}},
        sync={"name": "mine"},
        base_path=folder,
    )


def test_a_sync_from_code_returns_its_report_and_tells_its_events(tmp_path: Path) -> None:
    told: list[Event] = []
    settings = settings_in(tmp_path)
    assert connector.plan_sync(settings).counts.added == 1
    report = connector.sync(settings, emit=told.append)
    assert report.counts.added == 1
    assert set(report.sinks) == {"one", "two"}
    assert any(isinstance(event, RunStarted) for event in told)


def test_everything_is_closed_in_the_reverse_order(tmp_path: Path) -> None:
    with open_parts(settings_in(tmp_path)):
        assert HashSettings.closed == []
    assert HashSettings.closed == ["sink two", "sink one", "embedder"]


def test_what_was_opened_is_closed_when_a_later_part_cannot_be(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="not installed"),
        open_parts(settings_in(tmp_path, second_is_installed=False)),
    ):
        pass
    assert HashSettings.closed == ["sink one", "embedder"]
    with open_parts(settings_in(tmp_path)):  # the lease is free again
        pass


def test_one_process_at_a_time_has_the_parts_to_write_while_others_may_read(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with open_parts(settings):
        with pytest.raises(LeaseError), open_parts(settings):
            pass
        with open_parts(settings, read_only=True) as parts:
            assert parts.checkpoints.last_runs(1) == []


def test_to_read_only_nothing_is_written(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with open_parts(settings, read_only=True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.md"]


def test_plug_ins_are_told_whose_records_they_write_and_the_same_seed_each_time(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    for _ in range(2):
        with open_parts(settings):
            pass
    first, second, third, fourth = LoggedSettings.contexts
    assert [first.name, second.name] == ["one", "two"]
    assert {context.owner for context in LoggedSettings.contexts} == {"mine"}
    assert first.state_path == tmp_path / "state"
    assert first.seed == third.seed == fourth.seed != 0
