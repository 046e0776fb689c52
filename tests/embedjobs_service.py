"""The whole Embed Jobs service on a free port of 127.0.0.1: in a thread of this process, or as a process of its own.

In a thread, with fake models unless others are given; as quick as a fixture has to be, and the store can be looked at:

    with in_thread(tmp_path) as service:                                  # no key, `CountingModel`s, see `fake_models`
        httpx.get(f"{service.url}/v1/datasets")
    with in_thread(tmp_path, api_key="secret", aliases={"embed-english-v3.0": "hash"}) as service:
        service.client().get("/v1/datasets")                              # an httpx.Client that sends the key
        service.store.jobs(); service.lines()                             # behind the scenes; the log, parsed
    with in_thread(tmp_path, models=[CountingModel(gate=Event())]): ...   # knobs of the model
    with in_thread(tmp_path, now=clock, stall_seconds=0.1): ...           # a clock of one's own, and less patience

As a process, which can be killed; the folder survives, so that another can go on in it:

    with as_process(tmp_path) as service:                                 # one `CountingModel`, named "hash"
        service.process.send_signal(signal.SIGTERM); service.process.wait()
    with as_process(tmp_path, real_models=True): ...                      # all-MiniLM-L6-v2, from its wheel
    with as_process(tmp_path, texts_log=path, texts_per_second=50): ...   # notes each text it embeds; takes its time

Keywords are `EmbedJobsSettings`' own. Leaving the block stops the service and fails if it does not stop in order.
`upload`, `settled` and `ended` do what most tests begin with.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from embedjobs_fakes import CountingModel

from connector.embedjobs.models import Catalogue, Embedded, ServedModel
from connector.embedjobs.server import Service, serve
from connector.embedjobs.store import Store
from connector.embedjobs.upload import STALL_SECONDS
from connector.embedjobs.values import InputType, Truncate
from connector.sections import EmbedJobsSettings

DEADLINE_SECONDS = 30.0
POLL_SECONDS = 0.01
ROWS = b'{"text": "one", "id": 1}\n{"text": "two", "id": 2}\n{"text": "three", "id": 3}\n'


@dataclass
class Running:
    """A service that answers, and what its clients need."""

    url: str
    folder: Path
    key: str | None = None
    _clients: list[httpx.Client] = field(default_factory=list)

    def client(self, *, key: str | None = None) -> httpx.Client:
        """Make a client that sends the service's key, or another one; closed with the service."""
        token = self.key if key is None else key
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        client = httpx.Client(base_url=self.url, headers=headers, timeout=DEADLINE_SECONDS)
        self._clients.append(client)
        return client

    def upload(self, content: bytes = ROWS, *, file: str = "data.jsonl", **options: Any) -> str:
        """Upload a file, and give its dataset's id."""
        params = {"name": "sample", "type": "embed-input"} | options
        return str(right(self.client().post("/v1/datasets", params=params, files={"data": (file, content)}))["id"])

    def settled(self, dataset_id: str) -> dict[str, Any]:
        """Wait until a dataset is validated, or has failed."""
        return self._until(f"/v1/datasets/{dataset_id}", "dataset", "validation_status", {"queued", "processing"})

    def start(self, dataset_id: str, **options: Any) -> str:
        """Start a job, and give its id."""
        job = {"model": "hash", "dataset_id": dataset_id, "input_type": "search_document"} | options
        return str(right(self.client().post("/v1/embed-jobs", json=job))["job_id"])

    def ended(self, job_id: str) -> dict[str, Any]:
        """Wait until a job is over."""
        return self._until(f"/v1/embed-jobs/{job_id}", "", "status", {"processing", "cancelling"})

    def _until(self, path: str, inside: str, name: str, pending: set[str]) -> dict[str, Any]:
        client = self.client()

        def find() -> dict[str, Any] | None:
            answer = right(client.get(path))
            found: dict[str, Any] = answer[inside] if inside else answer
            return None if found[name] in pending else found

        return eventually(find)

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()


@dataclass
class InThread(Running):
    """A service in this process."""

    service: Service = field(kw_only=True)
    log: io.StringIO = field(kw_only=True)

    @property
    def store(self) -> Store:
        return self.service.store

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """Give the log so far; of one kind of event only, if it is named."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if event in ("", line["event"])]


@dataclass
class AsProcess(Running):
    """A service in a process of its own."""

    process: subprocess.Popen[str] = field(kw_only=True)
    log_path: Path = field(kw_only=True)

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """Give the log so far; of one kind of event only, if it is named."""
        lines = [json.loads(line) for line in self.log_path.read_text().splitlines()]
        return [line for line in lines if event in ("", line["event"])]


def fake_models(folder: Path) -> list[ServedModel]:
    """Make the models of a service for which none are given: "hash" and "hash-wide", with other vectors."""
    return [CountingModel(), CountingModel(name="hash-wide", dimension=16)]


def settings(folder: Path, **given: Any) -> EmbedJobsSettings:
    """Make settings of a service in a folder, on a free port."""
    return EmbedJobsSettings.model_validate({"port": 0, "path": folder / "embed-jobs"} | given)


@contextmanager
def in_thread(
    folder: Path,
    *,
    models: Sequence[ServedModel] = (),
    stall_seconds: float = STALL_SECONDS,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    **given: Any,
) -> Iterator[InThread]:
    """Run a service in a thread."""
    log = io.StringIO()
    made = settings(folder, **given)
    catalogue = Catalogue(models or fake_models(folder), made.aliases)
    with Service.open(made, catalogue=catalogue, log_stream=log, stall_seconds=stall_seconds, now=now) as service:
        thread = threading.Thread(target=service.run, name="service")
        thread.start()
        key = made.api_key.get_secret_value() if made.api_key else None
        running = InThread(service.url, made.path, key, service=service, log=log)
        try:
            yield running
        finally:
            running.close_clients()
            service.stop()
            thread.join(DEADLINE_SECONDS)
            assert not thread.is_alive(), "the service did not stop"


@contextmanager
def as_process(
    folder: Path,
    *,
    real_models: bool = False,
    texts_log: Path | None = None,
    texts_per_second: float = 0,
    **given: Any,
) -> Iterator[AsProcess]:
    """Run a service as a process; leaving the block ends it with SIGTERM, unless it has ended already."""
    made = settings(folder, **given)
    child = {
        "settings": {"path": str(made.path), "port": 0} | given,
        "real_models": real_models,
        "texts_log": texts_log and str(texts_log),
        "texts_per_second": texts_per_second,
    }
    log_path = folder / "service.log"
    with log_path.open("a") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(child)], stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout
    running = AsProcess("", made.path, given.get("api_key"), process=process, log_path=log_path)
    try:
        running.url = process.stdout.readline().strip()
        assert running.url, f"the service did not start: {log_path.read_text()[-2000:]}"
        yield running
        running.close_clients()
        if process.poll() is None:
            process.terminate()
            assert process.wait(DEADLINE_SECONDS) == 0, log_path.read_text()[-2000:]
    finally:
        running.close_clients()
        process.kill()
        process.wait()
        process.stdout.close()


@dataclass(slots=True)
class PacedModel:
    """A model that takes its time, as real ones do."""

    model: CountingModel
    texts_per_second: float

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def embed(self, texts: Sequence[str], *, input_type: InputType, truncate: Truncate) -> Embedded:
        threading.Event().wait(len(texts) / self.texts_per_second)
        return self.model.embed(texts, input_type=input_type, truncate=truncate)


def right(answer: httpx.Response) -> dict[str, Any]:
    """Give the body of an answer that has to be a success."""
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
    body: dict[str, Any] = answer.json()
    return body


def eventually(find: Any, seconds: float = DEADLINE_SECONDS) -> Any:
    """Ask a running service until it answers something, and fail at the deadline."""
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline, "it did not come to be in time"
        threading.Event().wait(POLL_SECONDS)
    return found


def main(child: Mapping[str, Any]) -> None:
    """Be the process."""
    made = EmbedJobsSettings.model_validate(child["settings"])
    catalogue = None
    if not child["real_models"]:
        log_path = Path(child["texts_log"]) if child["texts_log"] else None
        model: Any = CountingModel(log_path=log_path)
        if child["texts_per_second"]:
            model = PacedModel(model, child["texts_per_second"])
        catalogue = Catalogue([model], made.aliases)
    serve(made, catalogue=catalogue, listening=lambda url: print(url, flush=True))  # noqa: T201 - to the parent


if __name__ == "__main__":
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")
    main(json.loads(sys.argv[1]))
