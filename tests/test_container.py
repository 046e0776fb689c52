"""The image of the Dockerfile, built and run; only where it is asked for, as it takes minutes and a base image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from container_rig import (
    ROOT,
    Container,
    Place,
    build,
    built_images,
    docker,
    eventually,
    image,
    only_if_asked_for,
    right,
    unique,
    volume,
)

import connector

__all__ = ["image", "volume"]  # fixtures

BUSY = 75
STOPPED = 143
SETTINGS = """
[source]
kind = "files"
path = "/documents"

[embedder]
kind = "local"

[sinks.main]
kind = "qdrant-edge"
path = "/data/index"

[state]
path = "/data/state"

[service]
interval = "2s"
jitter = 0.0
show = "text"
"""

pytestmark = only_if_asked_for


@pytest.fixture
def place(image: str, volume: str, tmp_path: Path) -> Place:
    made = Place.make(image, volume, tmp_path, SETTINGS)
    made.write("note.md", "# A note\n\nThe ferry leaves at nine.\n")
    return made


# --- the image ----------------------------------------------------------------------------------------


def test_the_image_has_a_sqlite_without_the_wal_reset_bug_and_no_root(image: str) -> None:
    asked = "import os, sqlite3; print(os.getuid(), sqlite3.sqlite_version_info >= (3, 51, 3))"
    told = docker("run", "--rm", "--entrypoint", "python3", image, "-c", asked)
    assert told.stdout == "10001 True\n"


def test_the_image_says_what_it_is_and_how_it_is_stopped(image: str) -> None:
    config: dict[str, Any] = json.loads(right(docker("image", "inspect", image)))[0]["Config"]
    assert config["Labels"]["org.opencontainers.image.version"] == connector.__version__
    assert (config["User"], config["StopSignal"], config["Cmd"]) == ("10001:10001", "SIGTERM", ["serve"])
    assert list(config["Volumes"]) == ["/data"]
    assert list(config["ExposedPorts"]) == ["8090/tcp"]
    assert config["Healthcheck"]["Test"] == ["CMD", "vector-sync", "probe", "readyz"]


def test_a_change_of_the_code_makes_no_layer_anew_but_its_own(image: str, tmp_path: Path) -> None:
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tmp_path)
    for name in ("connector", "sinks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    with built_images():
        before, after = unique(), unique()
        build(tmp_path, before)
        with (tmp_path / "connector" / "model.py").open("a") as file:
            file.write("\n# changed\n")
        told = build(tmp_path, after)
        layers = [right(docker("inspect", "--format", "{{json .RootFS.Layers}}", it)) for it in (before, after)]
    first, second = map(json.loads, layers)
    assert first[:-1] == second[:-1]
    assert first[-1] != second[-1]
    assert "Collecting" not in told
    assert "Downloading" not in told


# --- a command that ends by itself ---------------------------------------------------------------------


def test_a_folder_is_synced_by_an_ordinary_user_on_a_read_only_root(place: Place) -> None:
    first = place.once("sync")
    assert (first.returncode, "added 1 " in first.stdout) == (0, True), first.stderr
    second = place.once("sync")
    assert (second.returncode, "unchanged 1 " in second.stdout) == (0, True), second.stderr
    found = place.once("search", "when does the boat go?")
    assert "The ferry leaves at nine." in found.stdout
    assert place.once("verify").returncode == 0


def test_a_sync_that_is_stopped_ends_in_order_and_the_next_one_goes_on(place: Place) -> None:
    texts = 3000
    for number in range(texts):
        place.write(f"{number:04}.md", f"The island number {number} has a harbour.\n")
    with place.started("sync") as container:
        eventually(lambda: "texts embedded" in container.logs() or None, what=container.logs)
        assert container.stop() == STOPPED
        assert "nothing is lost" in container.logs()
    after = json.loads(place.once("sync", "--json").stdout)
    assert (after["exit_code"], after["texts_embedded"] < texts) == (0, True), after


# --- the service ----------------------------------------------------------------------------------------


@pytest.fixture
def serving(place: Place) -> Iterator[Container]:
    with place.started("serve") as container:
        container.in_step()
        yield container


def found_by(container: Container, text: str) -> str:
    code, body = container.ask(f"/search?limit=1&q={text.replace(' ', '+')}")
    assert code == 200, body
    return str(json.loads(body)["hits"][0]["excerpt"])


def test_an_edited_file_arrives_and_the_container_is_healthy(serving: Container, place: Place) -> None:
    place.write("note.md", "# A note\n\nThe ferry leaves at ten.\n")
    place.write("more.md", "# More\n\nBread is sold at the quay.\n")
    serving.in_step(2)
    eventually(
        lambda: "at ten" in found_by(serving, "when does the ferry leave") or None, what=lambda: "the edited sentence"
    )
    serving.is_healthy()
    assert serving.ask("/readyz") == (200, "ok\n\n")


def test_stopped_it_ends_in_order_and_started_again_it_embeds_nothing(serving: Container) -> None:
    before = serving.last_run()
    assert serving.stop() == 0
    serving.start()
    assert [(run["exit_code"], run["texts_embedded"]) for run in serving.runs_since(before)][-1:] == [(0, 0)]
    assert "ferry" in found_by(serving, "when does the boat go")


def test_killed_it_goes_on_and_embeds_nothing_twice(serving: Container, place: Place) -> None:
    texts = 1000
    for number in range(texts):
        place.write(f"{number:03}.md", f"The island number {number} has a harbour.\n")
    eventually(lambda: texts_of_this_run(serving) or None, what=lambda: "a run that embeds")
    serving.kill()
    serving.start()
    runs = serving.in_step(1 + texts)["runs"]
    assert sum(run["texts_embedded"] for run in runs) < 1 + texts  # the run that was killed has not told its own
    assert all(run["texts_embedded"] == 0 for run in serving.runs_since(serving.last_run()))
    assert serving.stop() == 0
    assert place.once("verify").returncode == 0


def texts_of_this_run(container: Container) -> int:
    found = container.status()
    return int(found["progress"]["texts"]) if found and found["progress"] else 0


def test_other_settings_count_without_a_restart(serving: Container, place: Place) -> None:
    place.write("more.md", "# More\n\nBread is sold at the quay.\n")
    serving.in_step(2)
    settings = place.folder / "settings" / "vector-sync.toml"
    saved = settings.with_suffix(".new")  # as editors save
    saved.write_text(settings.read_text().replace('path = "/documents"', 'path = "/documents"\nexclude = ["note.md"]'))
    saved.rename(settings)
    right(docker("kill", "--signal", "HUP", serving.name))
    serving.in_step(1)


def test_of_two_services_on_one_volume_one_works(serving: Container, place: Place) -> None:
    with place.started("serve") as second:
        code = second.wait()
        assert code == BUSY, second.logs()
    serving.runs_since(serving.last_run())
    serving.in_step()


def test_a_sync_beside_the_service_works_or_leaves_with_75(serving: Container, place: Place) -> None:
    codes = {place.once("sync").returncode for _ in range(5)}
    assert codes <= {0, BUSY}
    serving.runs_since(serving.last_run())
    serving.in_step()


def test_probes_say_by_their_exit_code_what_the_service_says(serving: Container) -> None:
    for name in ("livez", "readyz", "startupz"):
        assert serving.run("vector-sync", "probe", name).returncode == 0
    assert serving.run("env", "VECTOR_SYNC_SERVICE__PORT=1", "vector-sync", "probe").returncode == 1
