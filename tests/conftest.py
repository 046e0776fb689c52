"""Fixtures that several test files share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import Rig


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder, in memory where there is such a file system: thousands of runs sync to it."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
def rig(folder: Path) -> Rig:
    return Rig(folder)
