"""The two stores keep their contracts, the kit has teeth, and bad files are refused in one clear line."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from connector.checkpoint import Checkpoints
from connector.errors import ConfigError, LeaseError
from connector.model import UNKNOWN, DocumentId, Entry
from connector.sqlite_file import translated
from connector.testing import stores
from connector.testing.stores import CheckpointContract, Reopen, VectorContract
from connector.vectors import SqliteVectors

if TYPE_CHECKING:
    from connector.model import Vectors


def usurp(folder: Path) -> None:
    """What a process does that believes the lease to be free."""
    with sqlite3.connect(folder / "checkpoint.db") as other:
        other.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
    other.close()


class TestSqliteCheckpoints(CheckpointContract):
    @pytest.fixture
    def reopen(self, folder: Path) -> Reopen:
        return lambda: Checkpoints.open(folder)

    @pytest.fixture
    def take_over(self, folder: Path) -> Callable[[], None]:
        return lambda: usurp(folder)


class TestSqliteVectors(VectorContract):
    @pytest.fixture
    def reopen(self, folder: Path) -> Callable[[str, int], SqliteVectors]:
        return lambda identity, dimension: SqliteVectors.open(folder, embedder_identity=identity, dimension=dimension)


# --- the kit, tested: each saboteur breaks one rule ---------------------------------------------


class KeepsTheFingerprint(Checkpoints):
    def begin(self, sink: str, entries: Iterable[Entry]) -> None:
        self.commit(sink, entries)


class BeginsInMemory(Checkpoints):
    def begin(self, sink: str, entries: Iterable[Entry]) -> None:
        pass


class CommitsOneByOne(Checkpoints):
    def commit(self, sink: str, entries: Iterable[Entry], forgotten: Iterable[DocumentId] = ()) -> None:
        for entry in entries:
            super().commit(sink, [entry])
        super().commit(sink, [], forgotten)


class ForgetsToForget(Checkpoints):
    def commit(self, sink: str, entries: Iterable[Entry], forgotten: Iterable[DocumentId] = ()) -> None:
        super().commit(sink, entries)


class SharesLedgers(Checkpoints):
    def _ledger(self, sink: str) -> int:
        return super()._ledger("one")


class KeepsTheOldCollection(Checkpoints):
    def open_ledger(self, sink: str, incarnation: str) -> int:
        return super().open_ledger(sink, "always the same")


class LowersIds(Checkpoints):
    def entries(self, sink: str, ids: Sequence[DocumentId]) -> dict[DocumentId, Entry]:
        return super().entries(sink, [DocumentId(id[:100].lower()) for id in ids])


class NeverLooksAtTheEpoch(Checkpoints):
    def commit(self, sink: str, entries: Iterable[Entry], forgotten: Iterable[DocumentId] = ()) -> None:
        self._epoch = int(self._meta("epoch") or 0)
        super().commit(sink, entries, forgotten)


CHECKPOINT_SABOTEURS = {
    KeepsTheFingerprint: "C1",
    BeginsInMemory: "C1",
    CommitsOneByOne: "C2",
    ForgetsToForget: "C2",
    SharesLedgers: "C3",
    KeepsTheOldCollection: "C3",
    LowersIds: "C3",
    NeverLooksAtTheEpoch: "C4",
}


class RoundsVectors(SqliteVectors):
    def put(self, hashes: Sequence[bytes], vectors: Vectors) -> None:
        super().put(hashes, vectors * np.float32(0.999))


class KeepsInMemory(SqliteVectors):
    def put(self, hashes: Sequence[bytes], vectors: Vectors) -> None:
        pass


class KeepsTheFirst(SqliteVectors):
    def put(self, hashes: Sequence[bytes], vectors: Vectors) -> None:
        absent = [n for n, hash in enumerate(hashes) if hash in self.missing([hash])]
        super().put([hashes[n] for n in absent], vectors[absent])


class MixesEmbedders(SqliteVectors):
    def _number(self, identity: str) -> int:
        return super()._number("one for all")


class PadsVectors(SqliteVectors):
    def get(self, hashes: Sequence[bytes]) -> dict[bytes, Vectors]:
        return {hash: np.zeros(self._dimension, dtype=np.float32) for hash in set(hashes) - self.missing(hashes)}


class MissesNothing(SqliteVectors):
    def missing(self, hashes: Sequence[bytes]) -> set[bytes]:
        return set()


VECTOR_SABOTEURS = {
    RoundsVectors: "V1",
    KeepsInMemory: "V1",
    KeepsTheFirst: "V1",
    MixesEmbedders: "V2",
    PadsVectors: "V2",
    MissesNothing: "V2",
}


def rules(contract: type, rule: str) -> list[str]:
    return [name for name in vars(contract) if name.startswith(f"test_{rule}_")]


@pytest.mark.parametrize("saboteur", CHECKPOINT_SABOTEURS, ids=lambda c: c.__name__)
def test_a_checkpoint_saboteur_is_caught_by_its_rule(folder: Path, saboteur: type[Checkpoints]) -> None:
    kit = TestSqliteCheckpoints()
    caught = []
    for number, name in enumerate(rules(CheckpointContract, CHECKPOINT_SABOTEURS[saboteur])):
        place = folder / str(number)

        def reopen(place: Path = place) -> Checkpoints:
            return saboteur.open(place)

        with closing(reopen()) as store:
            store.open_ledger("one", "made once")
            store.open_ledger("two", "made once")
        more: list[object] = []
        if "any_id" in name:
            more = ["A" + "x" * 200]
        if name.startswith("test_C4"):
            more = [lambda place=place: usurp(place)]
        try:
            getattr(kit, name)(reopen, *more)
        except (AssertionError, KeyError, pytest.fail.Exception):
            caught.append(name)
    assert caught


@pytest.mark.parametrize("saboteur", VECTOR_SABOTEURS, ids=lambda c: c.__name__)
def test_a_vector_saboteur_is_caught_by_its_rule(folder: Path, saboteur: type[SqliteVectors]) -> None:
    caught = []
    for number, name in enumerate(rules(VectorContract, VECTOR_SABOTEURS[saboteur])):
        place = folder / str(number)

        def reopen(identity: str, dimension: int, place: Path = place) -> SqliteVectors:
            return saboteur.open(place, embedder_identity=identity, dimension=dimension)

        try:
            getattr(TestSqliteVectors(), name)(reopen)
        except (AssertionError, KeyError):
            caught.append(name)
    assert caught


def test_a_rule_of_the_kit_cannot_be_redefined() -> None:
    with pytest.raises(TypeError, match="waive the rule"):
        type("Cheat", (CheckpointContract,), {rules(CheckpointContract, "C1")[0]: lambda _self: None})


# --- files that are not well ----------------------------------------------------------------------

OPENERS: dict[str, Callable[[Path], Checkpoints | SqliteVectors]] = {
    "checkpoint.db": Checkpoints.open,
    "vectors.db": lambda folder: SqliteVectors.open(folder, embedder_identity="model", dimension=3),
}


@pytest.fixture(params=OPENERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_file_of_a_newer_version_is_refused_and_left_alone(folder: Path, name: str) -> None:
    OPENERS[name](folder).close()
    with sqlite3.connect(folder / name) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = (folder / name).read_bytes()
    with pytest.raises(ConfigError, match=r"newer vector-sync \(schema 99, this one knows [13]\); upgrade"):
        OPENERS[name](folder)
    assert (folder / name).read_bytes() == before


def test_somebody_elses_database_is_refused_and_left_alone(folder: Path, name: str) -> None:
    with sqlite3.connect(folder / name) as db:
        db.execute("CREATE TABLE photos (id)")
    db.close()
    before = (folder / name).read_bytes()
    with pytest.raises(ConfigError, match=f"{name} is not a file of vector-sync"):
        OPENERS[name](folder)
    assert (folder / name).read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"hello, I am a text file of some length" * 100)
    with pytest.raises(ConfigError, match=f"{name} is damaged"):
        OPENERS[name](folder)
    assert (folder / name).read_bytes().startswith(b"hello")


def test_a_damaged_page_is_named_and_not_mended(folder: Path) -> None:
    with closing(Checkpoints.open(folder)) as store:
        store.open_ledger("one", "made once")
        store.commit("one", [stores.entry(DocumentId(f"document-{n}"), n % 100) for n in range(5000)])
    file = folder / "checkpoint.db"
    content = bytearray(file.read_bytes())
    content[4096 * 30 : 4096 * 80] = b"\xff" * 4096 * 50
    file.write_bytes(content)
    (next(folder.glob("known-*"), folder / "none")).unlink(missing_ok=True)
    with closing(Checkpoints.open(folder)) as store, pytest.raises(ConfigError, match=r"checkpoint\.db is damaged"):
        store.known("one")


def test_a_folder_that_cannot_be_made_is_named(folder: Path, name: str) -> None:
    (folder / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="file"):
        OPENERS[name](folder / "file" / "state")


def test_a_vector_store_of_a_kill_in_its_creation_is_made_again(folder: Path, name: str) -> None:
    (folder / name).touch()
    OPENERS[name](folder).close()


def test_a_store_that_is_only_read_makes_nothing(folder: Path) -> None:
    with closing(Checkpoints.open(folder / "state", read_only=True)) as store:
        assert store.ledger_status() == []
        assert list(store.rejected()) == []
        assert store.holder() is None
        with pytest.raises(LeaseError):
            store.commit("one", [])
    assert not (folder / "state").exists()


FILL = """
import resource, sys
from pathlib import Path
import numpy as np
from connector.checkpoint import Checkpoints
from connector.errors import TransientError
from connector.model import DocumentId, Entry
from connector.vectors import SqliteVectors
folder, which = Path(sys.argv[1]), sys.argv[2]
if which == "checkpoint":
    store = Checkpoints.open(folder)
    store.open_ledger("one", "made once")
else:
    store = SqliteVectors.open(folder, embedder_identity="m", dimension=64)
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))
done = 0
try:
    while True:
        if which == "checkpoint":
            ids = [DocumentId(f"{done}-{n}") for n in range(100)]
            store.commit("one", [Entry(id, bytes(16), bytes(16), (bytes(16),)) for id in ids])
        else:
            store.put([f"{done:08}{n:08}".encode() for n in range(100)], np.ones((100, 64), dtype=np.float32))
        done += 1
except TransientError as error:
    print(done, error)
"""


@pytest.mark.parametrize("which", ["checkpoint", "vectors"])
def test_a_full_disk_loses_nothing_that_was_committed(folder: Path, which: str) -> None:
    filled = subprocess.run([sys.executable, "-c", FILL, folder, which], capture_output=True, text=True, check=True)
    done, _, message = filled.stdout.partition(" ")
    assert int(done) > 0
    assert "free some space on its disk and run again, nothing is lost" in message
    if which == "checkpoint":
        with closing(Checkpoints.open(folder)) as store:
            assert store.count("one") == 100 * int(done)
    else:
        with closing(SqliteVectors.open(folder, embedder_identity="m", dimension=64)) as vectors:
            assert vectors.count() == 100 * int(done)
    with sqlite3.connect(folder / f"{which}.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_a_bug_passes_through_as_it_is_and_is_not_its_own_cause(folder: Path) -> None:
    bug = sqlite3.OperationalError("no such table: typo")
    with pytest.raises(sqlite3.OperationalError) as raised, translated(folder / "checkpoint.db"):
        raise bug
    assert raised.value is bug
    assert bug.__cause__ is None


def test_a_lease_that_another_thread_gives_back_is_free(folder: Path) -> None:
    held = Checkpoints.open(folder)
    closing_thread = threading.Thread(target=held.close)
    closing_thread.start()
    closing_thread.join()
    Checkpoints.open(folder).close()


def test_the_ledgers_count_what_is_in_doubt_and_what_is_rejected(folder: Path) -> None:
    with closing(Checkpoints.open(folder)) as store:
        store.open_ledger("one", "made once")
        store.open_ledger("two", "made once")
        store.commit("one", [stores.entry(stores.A, 1, extent=3), Entry(stores.B, bytes(16), None, (), "no title")])
        store.begin("one", [Entry(DocumentId("c"), None, None, (UNKNOWN,))])
        (one, two) = store.ledger_status()
    assert (one.documents, one.records, one.in_doubt, one.rejected) == (3, 4, 1, 1)
    assert (two.documents, two.records, two.in_doubt, two.rejected) == (0, 0, 0, 0)


def test_runs_are_remembered_latest_first_and_a_killed_one_has_no_end(folder: Path) -> None:
    with closing(Checkpoints.open(folder)) as store:
        first = store.start_run(1000.0)
        store.end_run(first, 1005.0, 0, {"added": 3})
        store.start_run(2000.0)
        killed, ended = store.last_runs(10)
    assert (killed.started_at, killed.ended_at, killed.exit_code) == (2000.0, None, None)
    assert (ended.id, ended.exit_code, ended.report) == (first, 0, {"added": 3})
