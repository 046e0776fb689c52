"""A bench for the service's durable half: the real store and both workers in a folder, moved by hand, turn by turn."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import fastavro
from embedjobs_fakes import CountingModel

from connector.embedjobs.events import Event
from connector.embedjobs.models import Catalogue
from connector.embedjobs.rotation import Rotation
from connector.embedjobs.store import Store
from connector.embedjobs.validator import Validator
from connector.embedjobs.values import Dataset, DatasetOptions, Job, JobOptions, Part

MANY_TURNS = 2_000


@dataclass(slots=True)
class Clock:
    """Time that passes only when it is told to."""

    seconds: float = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 22, 12, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def pass_(self, seconds: float) -> None:
        self.seconds += seconds


def jsonl(texts: Iterable[str]) -> bytes:
    """Write an upload whose rows have a kept field `n`, from 0, beside the text."""
    return "".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(texts)).encode()


class Bench:
    """A store and its workers, in this thread. What `turn`s do not do is not done."""

    def __init__(self, folder: Path, *models: CountingModel, **limits: int) -> None:
        self.folder = folder
        self.clock = Clock()
        self.models = models or (CountingModel(),)
        self.is_stopping = False
        self.events: list[Event] = []
        self._limits = limits
        self._open()

    def _open(self) -> None:
        self.store = Store.open(self.folder, now=self.clock.now, **self._limits)
        self.rotation = Rotation(
            self.store,
            Catalogue(self.models, {}),
            emit=self.events.append,
            is_stopping=lambda: self.is_stopping,
            monotonic=self.clock.monotonic,
        )
        self.validator = Validator(
            self.store, emit=self.events.append, is_stopping=lambda: self.is_stopping, monotonic=self.clock.monotonic
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.rotation.close()
        self.store.close()

    def restart(self) -> None:
        """Stop in order, and start again."""
        self.close()
        self._open()

    @property
    def model(self) -> CountingModel:
        return self.models[0]

    def queued(
        self, texts: Iterable[str] = ("one", "two"), *, name: str = "sample", content: bytes | None = None, **how: Any
    ) -> Dataset:
        """Add a dataset, which is not validated yet."""
        upload = self.store.new_upload()
        upload.write_bytes(jsonl(texts) if content is None else content)
        options = DatasetOptions(**({"keep_fields": ("n",)} | how))
        return self.store.add_dataset(upload, name=name, file_name="data.jsonl", options=options)

    def dataset(self, texts: Iterable[str] = ("one", "two"), **how: Any) -> Dataset:
        """Add a dataset and validate all there are."""
        added = self.queued(texts, **how)
        while self.validator.turn() == 0.0:
            pass
        return self.store.dataset(added.id)

    def job(self, dataset: Dataset | Iterable[str], **options: Any) -> Job:
        """Add a job, on a new dataset if these are texts; nothing is embedded yet."""
        input = dataset if isinstance(dataset, Dataset) else self.dataset(dataset)
        name = options.pop("model", self.model.name)
        return self.store.add_job(input.id, JobOptions(model=name, requested_model=name, **options))

    def work(self) -> None:
        """Do all there is to do now."""
        for _ in range(MANY_TURNS):
            if self.validator.turn() != 0.0 and self.rotation.turn() != 0.0:
                return
        raise AssertionError("there is no end to it")

    def rows(self, dataset_id: str) -> list[dict[str, Any]]:
        """Read a dataset as the SDK does: the parts in order, each with fastavro."""
        return read_parts(self.store.folder_of(dataset_id), self.store.dataset(dataset_id).parts)

    def files(self) -> dict[str, set[str]]:
        """What is on the disk: the files of each dataset's folder."""
        return {
            folder.name: {path.name for path in folder.iterdir()} for folder in (self.folder / "datasets").iterdir()
        }

    def bytes_on_disk(self) -> int:
        """Measure all files of datasets and uploads, by another way than the store."""
        return sum(
            path.stat().st_size
            for name in ("datasets", "uploads")
            for path in (self.folder / name).rglob("*")
            if path.is_file()
        )


def read_parts(folder: Path, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Read Avro files as the SDK does."""
    rows: list[dict[str, Any]] = []
    for part in parts:
        with (folder / part.name).open("rb") as file:
            rows += [row for row in fastavro.reader(file) if isinstance(row, dict)]
    return rows


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Have the kernel refuse, as on a full disk, whatever would make a file of this process longer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
