"""What has been synced: one ledger per sink, the runs, and the one run that may write.

Every write is one durable transaction that first checks the epoch: whoever opened the lease last
holds it, and a process that slept meanwhile commits nothing [C4].
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from . import fingerprints
from .errors import LeaseError
from .fingerprints import Known
from .lease import is_locked, os_lock, this_process
from .model import HASH_BYTES, UNKNOWN, DocumentId, Entry, JsonValue
from .sqlite_file import open_file, transaction, translated

if TYPE_CHECKING:
    from .model import Versions

APPLICATION_ID = 0x56530001
FILE_NAME = "checkpoint.db"
RUNS_KEPT = 1_000

MIGRATIONS = (
    """
    CREATE TABLE meta (
        key    TEXT NOT NULL PRIMARY KEY,  -- uuid, seed, epoch, holder
        value  ANY NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE ledger (
        id           INTEGER NOT NULL PRIMARY KEY,
        sink         TEXT NOT NULL UNIQUE,        -- its name in the settings
        incarnation  TEXT NOT NULL,               -- the collection that the entries are of
        recipe       TEXT NOT NULL DEFAULT '{}',  -- JSON: what the last run made records with
        version      INTEGER NOT NULL DEFAULT 0   -- raised by every write to the ledger's entries
    ) STRICT;
    CREATE TABLE entry (
        ledger       INTEGER NOT NULL,
        document_id  TEXT NOT NULL,
        fingerprint  BLOB,           -- 16 bytes; NULL: not known to be in step
        content      BLOB,           -- 16 bytes, hash of the text; NULL: none was ever delivered
        passages     BLOB NOT NULL,  -- 16 bytes a record; zeros: the sink may or may not hold it
        problem      TEXT,           -- why the document is rejected
        PRIMARY KEY (ledger, document_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX entry_in_doubt ON entry (ledger, document_id) WHERE fingerprint IS NULL;
    CREATE INDEX entry_rejected ON entry (ledger, document_id) WHERE problem IS NOT NULL;
    CREATE TABLE unreadable (
        place   TEXT NOT NULL PRIMARY KEY,  -- of the source, as of the latest complete listing
        reason  TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE run (
        id          INTEGER NOT NULL PRIMARY KEY,
        started_at  REAL NOT NULL,  -- seconds since 1970, for people only
        ended_at    REAL,           -- NULL: under way, or killed
        exit_code   INTEGER,
        report      TEXT NOT NULL DEFAULT '{}'
    ) STRICT;
    """,
    """
    CREATE TABLE job_embedder (
        id        INTEGER NOT NULL PRIMARY KEY,
        identity  TEXT NOT NULL UNIQUE
    ) STRICT;
    CREATE TABLE job (
        id                 INTEGER NOT NULL PRIMARY KEY,  -- in the order in which they were planned
        token              TEXT NOT NULL UNIQUE,
        name               TEXT NOT NULL,     -- of the dataset and the job of this attempt, at the service
        state              TEXT NOT NULL,     -- see job_steps.State
        embedder           INTEGER NOT NULL,
        attempt            INTEGER NOT NULL,
        found              INTEGER NOT NULL,  -- 1: found at the service; which texts it has is not known here
        texts              INTEGER NOT NULL,
        tokens             INTEGER NOT NULL,
        created_at         REAL NOT NULL,     -- seconds since 1970, as all times here
        changed_at         REAL NOT NULL,     -- into this state
        intent_at          REAL,              -- written before the call that costs
        dataset_id         TEXT,
        job_id             TEXT,
        output_dataset_id  TEXT,
        billed_tokens      INTEGER,           -- of all attempts, where the service tells
        problem            TEXT
    ) STRICT;
    CREATE INDEX job_open ON job (id) WHERE state NOT IN ('closed', 'failed', 'dropped');
    CREATE TABLE job_text (  -- of open jobs only, and by its key each text in one at most
        embedder   INTEGER NOT NULL,
        text_hash  BLOB NOT NULL,  -- 16 bytes of sha256
        job        INTEGER NOT NULL,
        PRIMARY KEY (embedder, text_hash)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX text_of_job ON job_text (job);
    """,
    """
    CREATE TABLE generation (  -- see generations.State; its ledgers are NAME of the first, NAME@2 of the second
        number             INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,  -- never given twice
        state              TEXT NOT NULL,
        embedder           TEXT NOT NULL,     -- identity
        splitter           TEXT NOT NULL,     -- identity
        embedder_settings  TEXT,              -- JSON, without secrets; NULL: not known
        created_at         REAL NOT NULL,     -- seconds since 1970, as all times here
        accepted_at        REAL,              -- when its price was accepted
        switched_at        REAL,              -- when it became live, the last time
        in_step            INTEGER NOT NULL   -- 1: its last run ended in step
    ) STRICT;
    """,
)

Row: TypeAlias = "tuple[str, bytes | None, bytes | None, bytes, str | None]"
COLUMNS = "document_id, fingerprint, content, passages, problem"


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """How one sink stands, by its ledger."""

    sink: str
    documents: int
    records: int
    in_doubt: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """One document or place that is not in a sink, for a reason of its own."""

    sink: str  # "" where the source could not tell the document
    place: str  # a document id, or a place of the source
    reason: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as it is remembered."""

    id: int
    started_at: float
    ended_at: float | None
    exit_code: int | None
    report: dict[str, JsonValue]


class Checkpoints:
    """The checkpoint store of one sync, in one SQLite file. Safe to use from several threads.

    One that is open for writing holds the lease: no other process can open the folder for writing
    until it is closed, or its process is dead.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self._folder = folder
        self._path = folder / FILE_NAME
        self._lock = threading.RLock()
        self._ledgers: dict[str, int] = {}
        self._kept: dict[str, str] = {}  # by sink: the version of the fingerprints that were read from their file
        self._kept_records: dict[str, int | None] = {}  # by sink: what `records` found when that file was written
        self._epoch = -1  # no store has it, so a read-only store cannot write
        with ExitStack() as undo:
            if not read_only:
                undo.enter_context(os_lock(folder))
            self._db = open_file(self._path, application_id=APPLICATION_ID, migrations=MIGRATIONS, read_only=read_only)
            undo.callback(self._db.close)
            if not read_only:
                self._take_over()
            self._undo = undo.pop_all()

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> Checkpoints:
        """Open `folder/checkpoint.db`; a read-only one that does not exist is an empty one.

        Raises:
            LeaseError: another process has it open for writing; says which.
            ConfigError, TransientError: see `sqlite_file.open_file`.
        """
        try:
            return cls(folder, read_only=read_only)
        except LeaseError as error:
            with closing(cls(folder, read_only=True)) as reader:
                raise LeaseError(f"{error} (it is {reader.holder()})") from None

    def close(self) -> None:
        with self._lock:
            self._undo.close()

    # --- the one run that may write -----------------------------------------------------------

    def _take_over(self) -> None:
        holder = f"{this_process()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        with translated(self._path), transaction(self._db):
            for key, value in (("uuid", str(uuid.uuid4())), ("seed", secrets.randbits(63)), ("epoch", 0)):
                self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", [key, value])
            self._db.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('holder', ?)", [holder])
            self._epoch = int(self._meta("epoch") or 0)

    def holder(self) -> str | None:
        """Name the run under way, or None."""
        return str(self._meta("holder")) if is_locked(self._folder) else None

    @contextmanager
    def _write(self) -> Iterator[None]:
        with translated(self._path), self._lock, transaction(self._db):
            held = self._db.execute("UPDATE meta SET value = value WHERE key = 'epoch' AND value = ?", [self._epoch])
            if held.rowcount != 1:
                raise LeaseError("another run has taken over the state while this one was stopped; nothing was written")
            yield

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lend the file for one durable, epoch-checked transaction, to a book that is kept in it."""
        with self._write():
            yield self._db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend the file to be read."""
        with translated(self._path), self._lock:
            yield self._db

    # --- ledgers ------------------------------------------------------------------------------

    def open_ledger(self, sink: str, incarnation: str) -> int:
        """Make a sink's ledger ready, and return how many documents of an older collection it forgot.

        A collection that was made anew holds nothing, so what was known of the old one is dropped.
        """
        with self._write():
            self._db.execute("INSERT OR IGNORE INTO ledger (sink, incarnation) VALUES (?, ?)", [sink, incarnation])
            id, known = self._db.execute("SELECT id, incarnation FROM ledger WHERE sink = ?", [sink]).fetchone()
            forgotten = 0
            if known != incarnation:
                forgotten = self._db.execute("DELETE FROM entry WHERE ledger = ?", [id]).rowcount
                self._db.execute(
                    "UPDATE ledger SET incarnation = ?, version = version + 1, recipe = '{}' WHERE id = ?",
                    [incarnation, id],
                )
        return forgotten

    def incarnation(self, sink: str) -> str | None:
        """The collection that a sink's ledger is of."""
        found = self._one("SELECT incarnation FROM ledger WHERE sink = ?", [sink])
        return str(found[0]) if found else None

    def recipe(self, sink: str) -> dict[str, str]:
        """What the last run made this sink's records with; empty before the first."""
        found = self._one("SELECT recipe FROM ledger WHERE sink = ?", [sink])
        recipe: dict[str, str] = json.loads(found[0]) if found else {}
        return recipe

    def set_recipe(self, sink: str, recipe: dict[str, str]) -> None:
        """Note what a run is about to make this sink's records with."""
        with self._write():
            self._db.execute("UPDATE ledger SET recipe = ? WHERE sink = ?", [json.dumps(recipe), sink])

    def ledger_names(self) -> list[str]:
        """Every sink that has a ledger."""
        return [row[0] for row in self._all("SELECT sink FROM ledger ORDER BY id", [])]

    def forget_ledger(self, sink: str) -> None:
        """Forget all of a sink whose collection is gone."""
        self._known_path(sink).unlink(missing_ok=True)  # first: a kill in between leaves nothing that nobody names
        with self._write():
            id = self._ledger(sink)
            self._db.execute("DELETE FROM entry WHERE ledger = ?", [id])
            self._db.execute("DELETE FROM ledger WHERE id = ?", [id])
        self._ledgers.pop(sink, None)

    def count(self, sink: str) -> int:
        found = self._one("SELECT count(*) FROM entry WHERE ledger = ?", [self._ledger(sink)])
        return int(found[0]) if found else 0

    def holds_any(self, sink: str) -> bool:
        """Tell whether the ledger has a document; at once, where `count` reads all of it."""
        return self._one("SELECT 1 FROM entry WHERE ledger = ? LIMIT 1", [self._ledger(sink)]) is not None

    def entry(self, sink: str, id: DocumentId) -> Entry | None:
        """Look up one document."""
        return self.entries(sink, [id]).get(id)

    def entries(self, sink: str, ids: Sequence[DocumentId]) -> dict[DocumentId, Entry]:
        rows = self._all(
            f"SELECT {COLUMNS} FROM entry WHERE ledger = ? AND document_id IN (SELECT value FROM json_each(?))",  # noqa: S608
            [self._ledger(sink), json.dumps(ids)],
        )
        return {DocumentId(row[0]): _entry(row) for row in rows}

    def in_doubt(self, sink: str) -> list[Entry]:
        """The documents that the latest run left without knowing what the sink holds of them."""
        rows = self._all(  # the planner would walk the whole ledger
            f"SELECT {COLUMNS} FROM entry INDEXED BY entry_in_doubt WHERE ledger = ? AND fingerprint IS NULL",  # noqa: S608
            [self._ledger(sink)],
        )
        return [_entry(row) for row in rows]

    def with_fingerprints(self, sink: str, wanted: Versions) -> list[Entry]:
        """Find the documents of some fingerprints."""
        if not len(wanted):
            return []
        with translated(self._path), self._lock:
            self._db.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (fingerprint BLOB PRIMARY KEY) WITHOUT ROWID")
            self._db.execute("DELETE FROM wanted")
            self._db.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", [(row.tobytes(),) for row in wanted])
            rows: list[Row] = self._db.execute(
                f"SELECT {COLUMNS} FROM entry WHERE ledger = ? AND fingerprint IN (SELECT fingerprint FROM wanted)",  # noqa: S608
                [self._ledger(sink)],
            ).fetchall()
        return [_entry(row) for row in rows]

    def begin(self, sink: str, entries: Iterable[Entry]) -> None:
        self._put(sink, [_row(entry, None) for entry in entries])

    def commit(self, sink: str, entries: Iterable[Entry], forgotten: Iterable[DocumentId] = ()) -> None:
        self._put(sink, [_row(entry, entry.fingerprint) for entry in entries], forgotten)

    def _put(self, sink: str, rows: list[Row], forgotten: Iterable[DocumentId] = ()) -> None:
        ledger = self._ledger(sink)
        with self._write():
            self._db.executemany(
                "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?)", [(ledger, *row) for row in rows]
            )
            self._db.executemany(
                "DELETE FROM entry WHERE ledger = ? AND document_id = ?", [(ledger, id) for id in forgotten]
            )
            self._db.execute("UPDATE ledger SET version = version + 1 WHERE id = ?", [ledger])

    def _ledger(self, sink: str) -> int:
        """A sink's number; 0, which no sink has, if the sink has no ledger yet."""
        if sink not in self._ledgers:
            found = self._one("SELECT id FROM ledger WHERE sink = ?", [sink])
            if found is None:
                return 0
            self._ledgers[sink] = int(found[0])
        return self._ledgers[sink]

    # --- the fingerprints of a ledger, as an array ------------------------------------------------

    def known(self, sink: str) -> Known:
        """Every fingerprint of a ledger: from the file beside the checkpoint, or read out of it."""
        version = self._ledger_version(sink)
        kept = fingerprints.read(self._known_path(sink), version)
        if kept is not None:
            self._kept[sink], self._kept_records[sink] = version, kept.records
            return kept
        joined = bytearray()
        with translated(self._path), self._lock:
            rows = self._db.execute(
                "SELECT fingerprint FROM entry WHERE ledger = ? AND fingerprint IS NOT NULL", [self._ledger(sink)]
            )
            while batch := rows.fetchmany(50_000):
                joined += b"".join([row[0] for row in batch])
        return Known.of(fingerprints.from_bytes(joined))

    def keep_known(self, sink: str, known: Known, records: int | None = None) -> None:
        """Spare the next run the reading, and `records` the adding up, if nothing is written until then."""
        fingerprints.write(self._known_path(sink), known, self._ledger_version(sink), records)

    def has_kept_known(self, sink: str) -> bool:
        """Tell whether the file beside the checkpoint was read and nothing was written since."""
        return self._kept.get(sink) == self._ledger_version(sink)

    def records(self, sink: str) -> int | None:
        """How many records a sink holds, by its ledger; None while that is in doubt."""
        if any(UNKNOWN in entry.passages for entry in self.in_doubt(sink)):
            return None
        if self._kept_records.get(sink) is not None and self.has_kept_known(sink):
            return self._kept_records[sink]
        found = self._one("SELECT sum(length(passages)) FROM entry WHERE ledger = ?", [self._ledger(sink)])
        return int(found[0] or 0) // HASH_BYTES

    def _known_path(self, sink: str) -> Path:
        return self._folder / f"known-{self._ledger(sink)}.bin"

    def _ledger_version(self, sink: str) -> str:
        found = self._one("SELECT version, incarnation FROM ledger WHERE sink = ?", [sink])
        return f"{self._meta('uuid')}/{found[1]}/{found[0]}" if found else "none"

    # --- what people ask ------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        """64 bits of this store, for hashes that nobody can aim at; made by the first lease."""
        return int(self._meta("seed") or 0)

    @property
    def folder(self) -> Path:
        """Where the state is."""
        return self._folder

    @property
    def uuid(self) -> str:
        """The name of this store among all others; made by the first lease, and empty before."""
        return str(self._meta("uuid") or "")

    def ledger_status(self) -> list[LedgerStatus]:
        """Count every ledger."""
        return [
            LedgerStatus(sink, documents, (size_bytes or 0) // HASH_BYTES, in_doubt or 0, rejected or 0)
            for sink, documents, size_bytes, in_doubt, rejected in self._all(
                "SELECT sink, count(document_id), sum(length(passages)),"
                " sum(document_id IS NOT NULL AND fingerprint IS NULL AND problem IS NULL), sum(problem IS NOT NULL)"
                " FROM ledger LEFT JOIN entry ON entry.ledger = ledger.id GROUP BY ledger.id ORDER BY ledger.id",
                [],
            )
        ]

    def rejected(self) -> Iterator[Rejected]:
        """Every document and place that is left out, and why."""
        for place, reason in self._all("SELECT place, reason FROM unreadable ORDER BY place", []):
            yield Rejected("", place, reason)
        for sink, id, problem in self._all(
            "SELECT sink, document_id, problem FROM entry JOIN ledger ON ledger.id = ledger"
            " WHERE problem IS NOT NULL ORDER BY ledger, document_id",
            [],
        ):
            yield Rejected(sink, id, problem)

    def rejected_ids(self, sinks: Sequence[str]) -> set[DocumentId]:
        """The documents that some of these sinks do not have, for a reason of their own."""
        return {
            DocumentId(row[0])
            for sink in sinks
            for row in self._all(
                "SELECT document_id FROM entry WHERE ledger = ? AND problem IS NOT NULL", [self._ledger(sink)]
            )
        }

    def replace_unreadable(self, places: Iterable[tuple[str, str]]) -> None:
        """Note the unreadable places of a complete listing; writes only what differs."""
        now = dict(places)
        before = dict(self._all("SELECT place, reason FROM unreadable", []))
        if now != before:
            with self._write():
                self._db.execute("DELETE FROM unreadable")
                self._db.executemany("INSERT INTO unreadable VALUES (?, ?)", now.items())

    def start_run(self, now: float) -> int:
        """Note that a run is under way, and forget the oldest: a service makes a hundred thousand in a year."""
        with self._write():
            self._db.execute("DELETE FROM run WHERE id <= (SELECT max(id) FROM run) - ?", [RUNS_KEPT])
            return int(self._db.execute("INSERT INTO run (started_at) VALUES (?)", [now]).lastrowid or 0)

    def end_run(self, id: int, now: float, exit_code: int, report: dict[str, JsonValue]) -> None:
        """Note how a run ended."""
        with self._write():
            self._db.execute(
                "UPDATE run SET ended_at = ?, exit_code = ?, report = ? WHERE id = ?",
                [now, exit_code, json.dumps(report), id],
            )

    def last_runs(self, limit: int) -> list[Run]:
        """The latest runs, latest first."""
        rows = self._all(
            "SELECT id, started_at, ended_at, exit_code, report FROM run ORDER BY id DESC LIMIT ?", [limit]
        )
        return [Run(id, started, ended, code, json.loads(report)) for id, started, ended, code, report in rows]

    # --- plumbing ---------------------------------------------------------------------------------

    def _meta(self, key: str) -> str | int | None:
        found = self._one("SELECT value FROM meta WHERE key = ?", [key])
        return found[0] if found else None

    def _one(self, statement: str, values: Sequence[object]) -> Any:  # a row, typed as sqlite3 does
        with translated(self._path), self._lock:
            return self._db.execute(statement, values).fetchone()

    def _all(self, statement: str, values: Sequence[object]) -> list[Any]:
        with translated(self._path), self._lock:
            return self._db.execute(statement, values).fetchall()


def _row(entry: Entry, fingerprint: bytes | None) -> Row:
    return entry.document_id, fingerprint, entry.content, b"".join(entry.passages), entry.problem


def _entry(row: Row) -> Entry:
    id, fingerprint, content, passages, problem = row
    digests = tuple(passages[start : start + HASH_BYTES] for start in range(0, len(passages), HASH_BYTES))
    return Entry(DocumentId(id), fingerprint, content, digests, problem)
