"""What `vector-sync serve` serves: one settings file, or a folder of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from connector.errors import ConfigError
from connector.service_config import load_service

SYNC = """
[source]
kind = "files"
path = "{docs}"

[embedder]
kind = "local"

[sinks.main]
kind = "memory"

[state]
path = "{state}"

[sync]
name = "{name}"
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_sync(file: str, more: str = "", **given: str) -> Path:
        path = tmp_path / f"{file}.toml"
        path.write_text(SYNC.format(**{"docs": file, "state": f"state-{file}", "name": file} | given) + more)
        return path

    return write_sync


def refusal(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_service(path)
    return str(caught.value).splitlines()


def test_one_file_is_one_sync_named_by_it(write: Write) -> None:
    config = load_service(write("docs", '[service]\nport = 9000\ncron = "0 3 * * *"\n'))
    assert (config.service.port, config.service.cron, [it.name for it in config.syncs]) == (9000, "0 3 * * *", ["docs"])


def test_a_file_without_the_section_is_served_with_the_defaults(write: Write) -> None:
    service = load_service(write("docs")).service
    assert (service.host, service.port, service.interval_seconds, service.token) == ("127.0.0.1", 8090, 300.0, None)


def test_each_file_of_a_folder_is_a_sync_and_service_toml_is_of_them_all(write: Write, tmp_path: Path) -> None:
    write("one")
    write("two", '[service]\ninterval = "1h"\n')
    write("three", '[service]\ncron = "*/5 * * * *"\n')
    (tmp_path / "service.toml").write_text('[service]\nport = 9000\ninterval = "10m"\nwatch = false\n')
    config = load_service(tmp_path)
    assert config.service.port == 9000
    told = {it.name: (it.service.interval_seconds, it.service.cron, it.service.watch) for it in config.syncs}
    assert told == {"one": (600, None, False), "two": (3600, None, False), "three": (300, "*/5 * * * *", False)}


def test_the_environment_wins_over_every_file(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("one", '[service]\ncron = "0 3 * * *"\n')
    monkeypatch.setenv("VECTOR_SYNC_SERVICE__PORT", "7")
    monkeypatch.setenv("VECTOR_SYNC_SERVICE__TOKEN", "opensesame")
    config = load_service(tmp_path)
    assert config.service.port == 7
    assert config.service.token is not None
    assert "opensesame" not in repr(config)


@pytest.mark.parametrize(
    "section, told",
    [
        ('interval = "soon"', "[service] interval: should be a length of time"),
        ('cron = "every day"', "[service] cron: should be five fields"),
        ('time_zone = "Europe/Berln"', 'did you mean "Europe/Berlin"?'),
        ('interval = "5m"\ncron = "0 3 * * *"', "[service]: has both interval and cron"),
        ('token = "hunter2"', "token is a secret and must not stand in the file"),
        ("prot = 80", 'did you mean "port"?'),
    ],
)
def test_what_is_wrong_is_told_in_one_line_without_the_value(write: Write, section: str, told: str) -> None:
    (line,) = refusal(write("docs", f"[service]\n{section}\n"))
    assert told in line
    assert "hunter2" not in line


def test_all_that_is_wrong_with_a_folder_is_told_at_once(write: Write, tmp_path: Path) -> None:
    write("one", "[service]\nhost = '0.0.0.0'\n")
    write("two", state="state-three")
    write("three", name="two")
    (tmp_path / "service.toml").write_text("[source]\nkind = 'files'\n")
    lines = "\n".join(refusal(tmp_path))
    assert "one.toml: [service] host is of the whole service; write it into service.toml" in lines
    assert "service.toml: [source] is of one sync" in lines
    assert 'two.toml: [state] path is that of the sync "three", too' in lines
    assert 'two.toml: [sinks.main] is that of the sync "three", too, and so is [sync] name' in lines


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path)
    assert line.endswith("has no settings file that ends in .toml; write one for each sync")
