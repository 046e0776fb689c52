"""The image of the Dockerfile, built and run; only where it is asked for, as it takes minutes and a base image."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

ROOT = Path(__file__).parent.parent
CONFIG = """
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
"""

pytestmark = pytest.mark.skipif(
    os.environ.get("VECTOR_SYNC_TEST_CONTAINERS") != "1",
    reason="the image is built only if VECTOR_SYNC_TEST_CONTAINERS=1",
)


def docker(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    name = f"vector-sync-test-{uuid4().hex[:8]}"
    built = docker("build", "--network", "host", "--tag", name, str(ROOT))
    assert built.returncode == 0, built.stderr[-2000:]
    yield name
    docker("image", "rm", "--force", name)


@pytest.fixture
def volume() -> Iterator[str]:
    name = f"vector-sync-test-{uuid4().hex[:8]}"
    docker("volume", "create", name)
    yield name
    docker("volume", "rm", "--force", name)


def run(image: str, volume: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    mounts = (
        *("--volume", f"{folder / 'vector-sync.toml'}:/config/vector-sync.toml:ro"),
        *("--volume", f"{folder / 'documents'}:/documents:ro", "--volume", f"{volume}:/data"),
    )
    return docker("run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", *mounts, image, *words)


def test_the_image_syncs_a_folder_as_an_ordinary_user_on_a_read_only_root(
    image: str, volume: str, tmp_path: Path
) -> None:
    (tmp_path / "vector-sync.toml").write_text(CONFIG)
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "note.md").write_text("# A note\n\nThe ferry leaves at nine.\n")
    tmp_path.chmod(0o755)
    first = run(image, volume, tmp_path, "sync")
    assert (first.returncode, "added 1 " in first.stdout) == (0, True), first.stderr
    second = run(image, volume, tmp_path, "sync")
    assert (second.returncode, "unchanged 1 " in second.stdout) == (0, True), second.stderr
    found = run(image, volume, tmp_path, "search", "when does the boat go?")
    assert "The ferry leaves at nine." in found.stdout


def test_the_image_has_a_sqlite_without_the_wal_reset_bug_and_no_root(image: str) -> None:
    asked = "import os, sqlite3; print(os.getuid(), sqlite3.sqlite_version_info >= (3, 51, 3))"
    told = docker("run", "--rm", "--entrypoint", "python3", image, "-c", asked)
    assert told.stdout == "10001 True\n"
