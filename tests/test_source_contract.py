"""The sources that come with the connector are held to the contract, and the contract itself to broken sources."""

from __future__ import annotations

import csv
import inspect
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec
import numpy as np
import pytest
import xxhash
from msgspec.structs import replace

from connector.errors import ConfigError, TransientError
from connector.model import Document, DocumentId, DocumentRef, ListingComplete, Rejection, Unreadable
from connector.plugins import BuildContext
from connector.ports import Listing, Source
from connector.sources.files import FilesSettings, FilesSource
from connector.sources.tables import TableSettings
from connector.testing.sources import SourceContract

if TYPE_CHECKING:
    from connector.model import Positions, Versions


@dataclass
class FolderHarness:
    """Markdown files; the source's clock is an hour ahead, so that no file is so young that it is looked at again."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def root(self) -> Path:
        return self.folder / "docs"

    def source(self) -> Source:
        return FilesSource(
            FilesSettings(path=Path("docs")), BuildContext(self.folder, self.folder / "state"), self._now
        )

    def _now(self) -> float:
        return time.time() + 3600

    def put(self, name: str, text: str, title: str) -> None:
        self._write(name, f"---\ntitle: {title}\n---\n{text}".encode())

    def put_unusable(self, name: str) -> None:
        self._write(name, b"\xff\xfe\x00")

    def put_unreadable(self) -> None:
        (self.root / os.fsdecode(b"not utf-8 \xff.md")).write_text("whose is this?")

    def remove(self, name: str) -> None:
        (self.root / f"{name}.md").unlink()

    def break_listing(self) -> None:
        (self.root / "locked").mkdir()
        listed = os.scandir

        def scandir(path: os.PathLike[str]) -> object:
            if Path(path).name == "locked":
                raise PermissionError(13, "Permission denied")
            return listed(path)

        self.monkeypatch.setattr(os, "scandir", scandir)  # permissions do not hold root back

    def take_away(self) -> None:
        shutil.rmtree(self.root)

    def _write(self, name: str, content: bytes) -> None:
        self.root.mkdir(exist_ok=True)
        new = self.root / f"{name}.new"
        new.write_bytes(content)
        new.replace(self.root / f"{name}.md")


@dataclass
class TableHarness:
    """Rows that are all written anew with each change."""

    folder: Path
    suffix: str
    rows: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.folder / f"rows{self.suffix}"

    def source(self) -> Source:
        settings = TableSettings(path=Path(f"*{self.suffix}"), keep_fields=("title",))
        return settings.build(BuildContext(self.folder, self.folder / "state", seed=11))

    def put(self, name: str, text: str, title: str) -> None:
        self.rows[name] = {"id": name, "text": text, "title": title}
        self._write()

    def put_unusable(self, name: str) -> None:
        self.rows[name] = {"id": name, "text": "", "title": "no text"}
        self._write()

    def put_unreadable(self) -> None:
        self.rows["?"] = {"id": None, "text": "whose is this?", "title": "?"}
        self._write()

    def remove(self, name: str) -> None:
        del self.rows[name]
        self._write()

    def break_listing(self) -> None:
        (self.folder / f"second{self.suffix}").symlink_to("gone")

    def take_away(self) -> None:
        self.path.unlink()

    def _write(self) -> None:
        rows = list(self.rows.values())
        if self.suffix == ".jsonl":
            self.path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        elif self.suffix == ".csv":
            with self.path.open("w", newline="") as file:
                writer = csv.DictWriter(file, ["id", "text", "title"])
                writer.writeheader()
                writer.writerows(rows)
        else:
            pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            pq.write_table(pa.Table.from_pylist(rows), self.path, row_group_size=2)


class TestFiles(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHarness:
        return FolderHarness(tmp_path, monkeypatch)


class TestJsonLines(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> TableHarness:
        return TableHarness(tmp_path, ".jsonl")


class TestCsv(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> TableHarness:
        return TableHarness(tmp_path, ".csv")


class TestParquet(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> TableHarness:
        return TableHarness(tmp_path, ".parquet")


# The contract itself: sources that break one rule each, of documents that are kept in a dict.


@dataclass
class DictHarness:
    """A right source, and, by other classes than `DictSource`, wrong ones."""

    kind: type[DictSource]
    documents: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    is_there: bool = True
    is_broken: bool = False

    def source(self) -> Source:
        return self.kind(self)

    def put(self, name: str, text: str, title: str) -> None:
        self.documents[name] = (text, title)

    def put_unusable(self, name: str) -> None:
        self.documents[name] = ("", "")

    def put_unreadable(self) -> None:
        self.documents["?"] = None

    def remove(self, name: str) -> None:
        del self.documents[name]

    def break_listing(self) -> None:
        self.is_broken = True

    def take_away(self) -> None:
        self.is_there = False


@dataclass
class DictListing:
    source: DictSource
    names: list[str]
    fraction: float = 1.0

    @property
    def versions(self) -> Versions:
        joined = b"".join(map(self.source.version, self.names))
        return np.frombuffer(joined, np.uint8).reshape(-1, 16)

    def refs(self, positions: Positions) -> Iterator[DocumentRef | Unreadable]:
        for position in positions.tolist():
            name = self.names[position]
            if name == "?":
                yield Unreadable(self.place(position), "it has no id")
            else:
                yield DocumentRef(DocumentId(name), self.source.version(name))

    def place(self, position: int) -> str:
        return f"entry {position}"


class DictSource:
    """Keeps every rule."""

    def __init__(self, harness: DictHarness) -> None:
        self.harness = harness

    def version(self, name: str) -> bytes:
        return xxhash.xxh3_128_digest(repr((name, self.harness.documents.get(name))).encode())

    def check(self) -> None:
        if not self.harness.is_there:
            raise ConfigError("no such dict")

    def names(self) -> list[str]:
        return sorted(self.harness.documents)

    def list(self) -> Iterator[Listing | ListingComplete]:
        self.check()
        names = self.names()
        yield DictListing(self, names)
        if self.harness.is_broken:
            raise TransientError("the dict is being rehashed")
        yield ListingComplete(len(names))

    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[Document | Rejection]:
        for ref in refs:
            found = self.harness.documents.get(ref.id)
            if found is None or self.version(ref.id) != ref.version:
                continue
            yield self.made(ref, *found)

    def made(self, ref: DocumentRef, text: str, title: str) -> Document | Rejection:
        if not text:
            return Rejection(ref.id, ref.version, "no text")
        return Document(ref.id, ref.version, text, {"title": title})


class D1Miscounts(DictSource):
    def list(self) -> Iterator[Listing | ListingComplete]:
        for batch in super().list():
            yield replace(batch, count=batch.count - 1) if isinstance(batch, ListingComplete) else batch


class D1EndsEarly(DictSource):
    def list(self) -> Iterator[Listing | ListingComplete]:
        try:
            yield from super().list()
        except TransientError:
            yield ListingComplete(len(self.names()))


class D1TakesMissingForEmpty(DictSource):
    def list(self) -> Iterator[Listing | ListingComplete]:
        if not self.harness.is_there:
            yield ListingComplete(0)
            return
        yield from super().list()


class D2AnyOrder(DictSource):
    turns = itertools.count()

    def names(self) -> list[str]:
        names = super().names()
        return names[::-1] if next(self.turns) % 2 else names


class D3OfThisProcess(DictSource):
    processes = itertools.count()

    def __init__(self, harness: DictHarness) -> None:
        super().__init__(harness)
        self.process = next(self.processes)

    def version(self, name: str) -> bytes:
        return self.process.to_bytes(8, "big") + super().version(name)[:8]


class D3OfTheTextAlone(DictSource):
    def version(self, name: str) -> bytes:
        found = self.harness.documents.get(name)
        return xxhash.xxh3_128_digest(repr((name, found and found[0])).encode())


class D3OfTheContentAlone(DictSource):
    def version(self, name: str) -> bytes:
        return xxhash.xxh3_128_digest(repr(self.harness.documents.get(name)).encode())


class D4FetchesTwice(DictSource):
    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[Document | Rejection]:
        yield from super().fetch([*refs, *refs[:1]])


class D4FetchesEverything(DictSource):
    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[Document | Rejection]:
        yield from super().fetch([DocumentRef(DocumentId(name), self.version(name)) for name in self.names()])


class D4RemembersTheDead(DictSource):
    graveyard: ClassVar[dict[str, tuple[str, str]]] = {}

    def names(self) -> list[str]:
        self.graveyard.update({name: found for name, found in self.harness.documents.items() if found})
        return super().names()

    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[Document | Rejection]:
        for ref in refs:
            yield self.made(ref, *self.graveyard[ref.id])


class D4StopsAtTheFirstRejection(DictSource):
    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[Document | Rejection]:
        for row in super().fetch(refs):
            yield row
            if isinstance(row, Rejection):
                return


class D4DropsWhatIsUnusable(DictSource):
    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[Document | Rejection]:
        return (row for row in super().fetch(refs) if isinstance(row, Document))


class D5NewTextUnderTheOldVersion(DictSource):
    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[Document | Rejection]:
        for ref in refs:
            if found := self.harness.documents.get(ref.id):
                yield self.made(ref, *found)


class D6SaysNothing(DictSource):
    def names(self) -> list[str]:
        return [name for name in super().names() if name != "?"]


class D7WatchesNothing(DictSource):
    def watched_paths(self) -> Sequence[Path]:
        return []

    def may_list(self, path: Path) -> bool:
        return True


SABOTEURS = DictSource.__subclasses__()
RULES = [name for name, _ in inspect.getmembers(SourceContract, inspect.isfunction) if name.startswith("test_")]


class TestARightSource(SourceContract):
    @pytest.fixture
    def harness(self) -> DictHarness:
        return DictHarness(DictSource)


def broken_rules(kind: type[DictSource]) -> set[str]:
    """Hold a source to the contract, and name the rules that it breaks."""
    broken = set()
    for name in RULES:
        test: Callable[..., None] = getattr(SourceContract, name)
        marks = getattr(test, "pytestmark", [])
        for values in marks[0].args[1] if marks else [()]:
            try:
                test(SourceContract(), DictHarness(kind), *values)
            except (AssertionError, ValueError, pytest.fail.Exception):
                broken.add(name.split("_")[1])
            except pytest.skip.Exception:
                continue  # a rule of sources that can be watched
    return broken


@pytest.mark.parametrize("saboteur", SABOTEURS, ids=lambda kind: kind.__name__)
def test_a_source_that_breaks_a_rule_is_caught_by_it(saboteur: type[DictSource]) -> None:
    assert saboteur.__name__[:2] in broken_rules(saboteur)


def test_there_is_a_saboteur_for_every_rule() -> None:
    assert {kind.__name__[:2] for kind in SABOTEURS} == {name.split("_")[1] for name in RULES}


def test_a_rule_cannot_be_redefined() -> None:
    with pytest.raises(TypeError, match="waive the rule instead"):
        type("Cheat", (SourceContract,), {RULES[0]: lambda self: None})


def test_only_rules_can_be_waived() -> None:
    with pytest.raises(TypeError, match="not rules of the contract"):
        type("Typo", (SourceContract,), {"waived": {"D9": "there is none"}})
