"""compose.yaml, for real: its two services of our own, alone, with an emulator in Qdrant's place, and killed at random.

Both versions of compose are taken, where they are installed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from container_rig import ROOT, Container, image, only_if_asked_for, right, unique

__all__ = ["image"]  # a fixture

TEXTS = 1500
KILLS = 10
ALIAS = "embed-english-light-v3.0"
KEY = "/run/secrets/embed_jobs_key"
WORDS = ("ferry", "harbour", "ticket", "island", "winter", "timetable", "captain", "rope", "lantern", "gull", "market")
FLAVOURS = (("docker-compose",), ("docker", "compose"))
EMULATOR = """
import asyncio
from pathlib import Path
from connector.testing.qdrant_server import QdrantServer

async def serve(server):
    async def pair(reader, writer):
        theirs, ours = await asyncio.open_connection("127.0.0.1", 6334)
        async def flow(source, to):
            while some := await source.read(65536):
                to.write(some)
                await to.drain()
            to.close()
        await asyncio.gather(flow(reader, ours), flow(theirs, writer), return_exceptions=True)
    async with await asyncio.start_server(pair, "0.0.0.0", 6333) as listening:
        await listening.serve_forever()

with QdrantServer(port=6334, api_key=Path("/run/secrets/qdrant_key").read_text()) as server:
    asyncio.run(serve(server))
"""

pytestmark = only_if_asked_for


@pytest.fixture(params=FLAVOURS, ids=" ".join)
def words(request: pytest.FixtureRequest) -> Sequence[str]:
    found: Sequence[str] = request.param
    if not shutil.which(found[0]) or subprocess.run([*found, "version"], capture_output=True, check=False).returncode:
        pytest.skip(f"`{' '.join(found)}` is not installed")
    return found


@dataclass(frozen=True)
class Project:
    """A copy of compose.yaml and what it mounts, with a name, an image and documents of its own."""

    words: Sequence[str]
    folder: Path
    name: str
    files: Sequence[str]
    image: str

    def compose(self, *words: str) -> subprocess.CompletedProcess[str]:
        files = [word for file in self.files for word in ("--file", file)]
        settings = {"VECTOR_SYNC_IMAGE": self.image, "VECTOR_SYNC_DOCUMENTS": "./documents", "VECTOR_SYNC_PORT": "0"}
        return subprocess.run(
            [*self.words, "--project-name", self.name, *files, *words],
            cwd=self.folder,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=False,
        )

    def container(self, service: str) -> Container:
        return Container(right(self.compose("ps", "--all", "--quiet", service)))

    @property
    def connector(self) -> Container:
        return self.container("connector")

    def once(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the connector in a container of its own."""
        return self.compose("run", "--rm", "-T", "--no-deps", "connector", *words)

    def rows_embedded_by_jobs(self) -> int:
        """Count them in the log, which outlives the process: a counter of /metrics does not."""
        lines = [json.loads(line) for line in self.container("embed-jobs").logs().splitlines() if line[:1] == "{"]
        return sum(line["rows"] for line in lines if line["event"] == "BlockEmbedded")

    def rows_counted(self) -> float:
        """Ask the service's /metrics."""
        embed_jobs = self.container("embed-jobs")
        key = right(embed_jobs.run("cat", KEY))
        code, text = embed_jobs.ask("/metrics", f"Authorization: Bearer {key}", port=8080)
        assert code == 200, text
        (line,) = [line for line in text.splitlines() if line.startswith("embed_jobs_embedded_rows_total ")]
        return float(line.split()[1])


@contextmanager
def project(
    words: Sequence[str], folder: Path, image: str, *, over: dict[str, Any], embedded: bool = True
) -> Iterator[Project]:
    """Copy compose.yaml, put `over` over it, and take all of it down at the end."""
    folder.chmod(0o755)
    shutil.copy2(ROOT / "compose.yaml", folder)
    shutil.copytree(ROOT / "deploy" / "compose", folder / "deploy" / "compose", ignore=lambda *_: ["secrets"])
    right(subprocess.run([folder / "deploy/compose/make-secrets"], capture_output=True, text=True, check=False))
    (folder / "documents").mkdir()
    (folder / "over.yaml").write_text(yaml.safe_dump(over))
    files = ["compose.yaml", *(["deploy/compose/embedded.yaml"] if embedded else []), "over.yaml"]
    made = Project(words, folder, unique(), files, image)
    try:
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "5")


def write_documents(folder: Path, count: int) -> None:
    chance = random.Random(7)
    for number in range(count):
        text = f"Note {number}: {' '.join(chance.choices(WORDS, k=25))}.\n"
        (folder / "documents" / f"{number:05}.md").write_text(text)


def settings(**embedder: str) -> dict[str, str]:
    """Give the connector's variables: jobs for little, and no long waits."""
    names = {"jobs_from": "50", "settle_seconds": "5", **embedder}
    variables = {f"VECTOR_SYNC_EMBEDDER__{name.upper()}": value for name, value in names.items()}
    return variables | {"VECTOR_SYNC_SERVICE__INTERVAL": "2s"}


def test_both_services_of_our_own_start_work_and_stop(words: Sequence[str], image: str, tmp_path: Path) -> None:
    over = {"services": {"connector": {"environment": settings()}}}
    with project(words, tmp_path, image, over=over) as made:
        write_documents(tmp_path, 60)
        right(made.compose("up", "--detach"))
        made.connector.in_step(60)
        for service in ("connector", "embed-jobs"):
            made.container(service).is_healthy()
        assert made.rows_counted() == made.rows_embedded_by_jobs() == 60
        found = right(made.compose("exec", "-T", "connector", "vector-sync", "search", "when is the market?"))
        assert "Note " in found
        (tmp_path / "documents" / "00000.md").unlink()
        made.connector.in_step(59)
        right(made.compose("stop"))
        codes = [made.container(service).wait() for service in ("connector", "embed-jobs")]
        assert codes == [0, 0]


def test_killed_at_random_both_go_on_and_no_text_is_embedded_twice(image: str, tmp_path: Path) -> None:
    words = next(it for it in reversed(FLAVOURS) if shutil.which(it[0]))
    command = (
        f"embed-jobs --host 0.0.0.0 --port 8080 --data /data --api-key-file {KEY} --alias {ALIAS}=all-MiniLM-L6-v2"
    )
    over = {
        "services": {
            "connector": {"environment": settings(model=ALIAS, texts_per_job="600")},
            "embed-jobs": {"command": command.split()},
        }
    }
    chance = random.Random(os.environ.get("VECTOR_SYNC_TEST_SEED", "1"))
    with project(words, tmp_path, image, over=over) as made:
        write_documents(tmp_path, TEXTS)
        right(made.compose("up", "--detach"))
        services = [made.container(name) for name in ("connector", "embed-jobs")]
        for _ in range(KILLS):
            threading.Event().wait(chance.uniform(0.5, 6))
            victim = chance.choice(services)
            victim.kill()
            threading.Event().wait(chance.uniform(0, 1))
            victim.start()
        made.connector.in_step(TEXTS, seconds=300)
        rows = made.rows_embedded_by_jobs()  # without a block whose line in the log was cut off, should that happen
        print(f"{rows} rows embedded by jobs for {TEXTS} texts, {KILLS} kills")  # noqa: T201 - seen with pytest -s
        assert rows <= TEXTS
        services[0].stop()
        verified = made.once("verify")
        assert (verified.returncode, f"{TEXTS:,} records in step" in verified.stdout) == (0, True), verified.stdout
        again = json.loads(made.once("sync", "--json").stdout)
        assert again["texts_embedded"] == 0


def test_all_three_work_together_with_an_emulator_in_qdrants_place(
    words: Sequence[str], image: str, tmp_path: Path
) -> None:
    qdrant = {"image": image, "entrypoint": ["python3", "-c", EMULATOR], "command": []}
    over = {"services": {"connector": {"environment": settings()}, "qdrant": qdrant}}
    with project(words, tmp_path, image, over=over, embedded=False) as made:
        write_documents(tmp_path, 60)
        right(made.compose("up", "--detach"))
        made.connector.in_step(60)
        made.container("qdrant").is_healthy()
        verified = right(made.compose("exec", "-T", "connector", "vector-sync", "search", "when is the market?"))
        assert "Note " in verified
