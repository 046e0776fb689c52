"""Cohere's own SDK, of several versions, does with the service what its users do with the hosted one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any, Final

import pytest
from embedjobs_fakes import CountingModel
from embedjobs_service import as_process, in_thread

from connector.embedders.local import LocalSettings
from connector.model import InputType
from connector.plugins import BuildContext

KEY: Final = "the-key-of-the-tests"
MODEL: Final = "embed-english-light-v3.0"  # of as many dimensions as the model that answers
SDKS: Final = Path(sys.prefix) / "sdk"
INSTALLED: Final = version("cohere")
OLDER: Final = ("6.1.0", "5.15.0")
CLIENTS: Final = ("Client", "AsyncClient", "ClientV2", "AsyncClientV2")
FLOW: Final = Path(__file__).with_name("sdk_flow.py")
# The two rows of the guide, which cuts their texts. Only the first has `langs`.
ROWS: Final[tuple[dict[str, Any], ...]] = (
    {
        "wiki_id": 69407798,
        "url": "https://en.wikipedia.org/wiki?curid=69407798",
        "views": 5674.4492597435465,
        "langs": 38,
        "title": "Deaths in 2022",
        "text": "The following notable deaths occurred in 2022. Names are reported under the date of death.",
        "paragraph_id": 0,
        "id": 0,
    },
    {
        "wiki_id": 3524766,
        "url": "https://en.wikipedia.org/wiki?curid=3524766",
        "views": 5409.5609619796405,
        "title": "YouTube",
        "text": "YouTube is a global online video sharing and social media platform headquartered in San Bruno.",
        "paragraph_id": 0,
        "id": 1,
    },
)


@dataclass(frozen=True, slots=True)
class Stage:
    """What all SDKs meet: a service with the real model, and what that model says when it is asked directly."""

    url: str
    vectors: list[list[float]]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("service")
    with as_process(folder, real_models=True, api_key=KEY, aliases={MODEL: "all-MiniLM-L6-v2"}) as service:
        yield Stage(service.url, expected(folder))


@contextmanager
def full(folder: Path) -> Iterator[tuple[str, str]]:
    """A service that can take no more jobs, and the id of a dataset of its own; its model waits for the end."""
    folder.mkdir()
    gate = Event()
    with in_thread(folder, models=[CountingModel(gate=gate)], aliases={MODEL: "hash"}, max_open_jobs=1) as service:
        try:
            dataset_id = service.settled(service.upload())["id"]
            service.start(dataset_id)
            yield service.url, dataset_id
        finally:
            gate.set()


def expected(folder: Path) -> list[list[float]]:
    """Embed the guide's texts without the service."""
    embedder = LocalSettings().build(BuildContext(base_path=folder, state_path=folder))
    try:
        return embedder.embed([row["text"] for row in ROWS], InputType.SEARCH_DOCUMENT).tolist()
    finally:
        embedder.close()


@pytest.mark.slow
@pytest.mark.parametrize("sdk", [INSTALLED, *OLDER])
def test_an_sdk_does_all_it_can_with_the_service(stage: Stage, tmp_path: Path, sdk: str) -> None:
    path = [] if sdk == INSTALLED else [str(SDKS / f"cohere=={sdk}")]
    if not all(map(os.path.isdir, path)):
        pytest.skip(f"cohere {sdk} is not in {SDKS}: run `make setup`")
    scene, report = tmp_path / "scene.json", tmp_path / "report.json"
    with full(tmp_path / "full") as (busy_url, busy_dataset_id):
        told = {
            "version": sdk,
            "clients": CLIENTS,
            "url": stage.url,
            "key": KEY,
            "busy_url": busy_url,
            "busy_dataset_id": busy_dataset_id,
            "folder": str(tmp_path),
            "report": str(report),
            "rows": ROWS,
            "vectors": stage.vectors,
        }
        scene.write_text(json.dumps(told))
        done = subprocess.run(
            [sys.executable, FLOW, scene],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    outcome: dict[str, str] = json.loads(report.read_text())
    assert {step.partition(":")[0] for step in outcome} == set(CLIENTS)
    failed = {step: trace for step, trace in outcome.items() if trace}
    assert not failed, "\n\n".join(f"{step}:\n{trace}" for step, trace in failed.items())
