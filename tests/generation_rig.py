"""A sync whose recipe can be changed: real settings, state, engine and source, a database of generations, and readers.

An embedder of the kind "hash" has the dimension that the settings say; what each identity was paid for is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from cli_rig import install
from pydantic import SecretStr

from connector.checkpoint import Checkpoints
from connector.composition import open_search, plan_sync, sync
from connector.config import Settings
from connector.errors import ConfigError, LeaseError, SinkError, TransientError
from connector.generation_book import GenerationBook
from connector.generations import Generation
from connector.model import DocumentId, InputType
from connector.plugins import BuildContext, EmbedderSettings, PluginSettings, SinkSettings
from connector.ports import Embedder, Price, Sink
from connector.report import PlanReport, Report
from connector.testing.fakes import HashEmbedder
from connector.testing.generations_in_memory import GenerationsInMemory
from sinks.memory import MemorySink

QUESTION = "All there is to know about cats."
NAMES = ("cats", "dogs", "owls", "bees", "ants")


class BilledHashEmbedder(HashEmbedder):
    """One whose service wants to be paid."""

    @property
    def price(self) -> Price | None:
        return Price(1_000.0, "EUR", "a test")

    @property
    def billed_tokens(self) -> int:
        return sum(self.count_tokens(self.texts_seen))


class HashSettings(EmbedderSettings):
    """An embedder that is told its dimension, and may need a key."""

    paid: ClassVar[dict[str, list[str]]] = {}  # texts, by identity
    keys: ClassVar[list[tuple[str, str | None]]] = []  # each address that an embedder was built for, and its key
    installed: ClassVar[set[int]] = set()  # dimensions whose model is there; none: all are

    kind: Literal["hash"] = "hash"
    dimension: int = 8
    tokens_per_text: int = 256
    url: str = "http://one.example"
    billed: bool = False
    api_key: SecretStr | None = None

    def build(self, context: BuildContext) -> Embedder:
        if self.installed and self.dimension not in self.installed:
            raise ConfigError(f"the model of {self.dimension} dimensions is not installed")
        self.keys.append((self.url, self.api_key.get_secret_value() if self.api_key else None))
        made = (BilledHashEmbedder if self.billed else HashEmbedder)(self.dimension, self.tokens_per_text)
        made.texts_seen = self.paid.setdefault(made.identity, [])
        return made


class ManySettings(SinkSettings):
    """A sink that can have several generations."""

    databases: ClassVar[dict[str, GenerationsInMemory]] = {}

    kind: Literal["many"] = "many"
    database: str = "main"

    def build(self, context: BuildContext) -> Sink:
        return self.databases.setdefault(self.database, GenerationsInMemory()).sink(context.generation, context.name)


class OneSettings(SinkSettings):
    """A stranger's sink, which has one collection."""

    sinks: ClassVar[dict[str, MemorySink]] = {}

    kind: Literal["one"] = "one"

    def build(self, context: BuildContext) -> Sink:
        return self.sinks.setdefault(context.name, MemorySink(context.name))


KINDS: dict[str, dict[str, type[PluginSettings]]] = {
    "embedders": {"hash": HashSettings},
    "sinks": {"many": ManySettings, "one": OneSettings},
}


@dataclass(slots=True)
class GenerationRig:
    """A folder of documents, and the settings of the next command."""

    folder: Path
    dimension: int = 8
    embedder: dict[str, Any] = field(default_factory=dict)  # more settings of it
    sinks: dict[str, dict[str, Any]] = field(default_factory=lambda: {"main": {"kind": "many"}})
    options: dict[str, Any] = field(default_factory=dict)  # of [sync]
    state: dict[str, Any] = field(default_factory=dict)
    _made: dict[str, Settings] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for name in NAMES:
            self.write(name, f"All there is to know about {name}.")

    def write(self, name: str, text: str) -> None:
        path = self.folder / "docs" / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    @property
    def settings(self) -> Settings:
        key = repr((self.dimension, self.embedder, self.sinks, self.options, self.state))
        if key not in self._made:  # to find the plug-ins takes longer than a whole sync
            self._made[key] = Settings(
                source={"kind": "files", "path": "docs"},
                embedder={"kind": "hash", "dimension": self.dimension, **self.embedder},
                sinks=self.sinks,
                sync={"max_delete_fraction": 1.0, **self.options},
                state=self.state,
                base_path=self.folder,
            )
        return self._made[key]

    def sync(self, *, accept: bool = False, **more: Any) -> Report:
        return sync(self.settings, accept_reembed=accept, **more)

    def plan(self) -> PlanReport:
        return plan_sync(self.settings)

    @property
    def database(self) -> GenerationsInMemory:
        return ManySettings.databases["main"]

    def paid(self, dimension: int) -> list[str]:
        """The texts that the embedder of a dimension was paid for."""
        return HashSettings.paid.get(f"hash/dim{dimension}/tokens256", [])

    def rows(self) -> list[Generation]:
        with closing(Checkpoints.open(self.folder / "state", read_only=True)) as checkpoints:
            return GenerationBook(checkpoints).all()

    def states(self) -> dict[int, str]:
        return {row.number: str(row.state) for row in self.rows()}

    def read(self) -> int:
        """Search as an application does; the number of the dimensions. AssertionError: no answer, or a mixed one."""
        with open_search(self.settings) as (embedder, sink):
            (vector,) = embedder.embed([QUESTION], InputType.SEARCH_QUERY)
            del HashSettings.paid[embedder.identity][-1:]  # a question is not what is counted
            hits = sink.search(vector, 3)
        assert hits, "an empty answer"
        assert hits[0].document_id == "cats.md", "an answer by another embedder's vectors"
        assert abs(hits[0].score - 1) < 1e-5, "an answer by another embedder's vectors"
        return embedder.dimension

    def in_step(self, number: int, dimension: int, database: str = "main") -> bool:
        """Tell whether a generation holds exactly what the folder has, vectors included."""
        embedder = HashEmbedder(dimension)
        held = ManySettings.databases[database].held(number)
        texts = {}
        for path in (self.folder / "docs").iterdir():
            texts[f"{DocumentId(path.name)}#0"] = path.read_text()
        wanted = embedder.embed(list(texts.values()), InputType.SEARCH_DOCUMENT)
        return {str(id): record.text for id, record in held.items()} == texts and all(
            (held[id].vector == vector).all()  # type: ignore[index]  # a RecordId is a str
            for id, vector in zip(texts, wanted, strict=True)
        )


@pytest.fixture
def rig(folder: Path, monkeypatch: pytest.MonkeyPatch) -> GenerationRig:
    """A rig whose databases are empty."""
    install(monkeypatch, KINDS)
    for registry in (ManySettings.databases, OneSettings.sinks, HashSettings.paid):
        registry.clear()
    HashSettings.keys.clear()
    HashSettings.installed.clear()
    return GenerationRig(folder)


@contextmanager
def reader(read: Callable[[], int]) -> Iterator[list[int]]:
    """Read over and over in another thread while the body runs; what it found, and at the end its AssertionError.

    A sink that refuses for a moment, as an index that somebody else has open, has not answered.
    """
    found: list[int] = []
    wrong: list[BaseException] = []
    done, began = threading.Event(), threading.Event()

    def loop() -> None:
        while not done.is_set():
            try:
                found.append(read())
                began.set()
            except (TransientError, SinkError, LeaseError):
                continue
            except BaseException as error:  # noqa: BLE001 - shown by the test
                wrong.append(error)
                began.set()
                return

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        assert began.wait(20)
        yield found
    finally:
        done.set()
        thread.join(20)
    if wrong:
        raise wrong[0]
