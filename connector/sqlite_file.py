"""Open one of our SQLite files so that a power cut, a full disk or a wrong file does no harm.

One connection writes and checkpoints; every other one is read-only. That keeps clear of the
WAL-reset bug of SQLite 3.7.0 to 3.51.2 (sqlite.org/wal.html#walresetbug, read November 2026),
which needs two.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import ConfigError, TransientError

PAGE_CACHE_KIB = 32_768
LOG_BYTES = 16 * 1024 * 1024  # of the write-ahead log, before it is copied into the file
FILE_IS_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
FILE_IS_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
FILE_IS_CLOSED_TO_US = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})


def open_file(
    path: Path, *, application_id: int, migrations: Sequence[str], read_only: bool, page_bytes: int = 4096
) -> sqlite3.Connection:
    """Open a file, made anew or brought up to the latest schema unless it is only to be read.

    `migrations[n]` brings schema version n to n + 1; each runs in one transaction with its
    version number, so a kill leaves the file at one version or the next. A read-only file that
    does not exist opens as an empty one in memory.

    Raises:
        ConfigError: the file is not ours, damaged, of a newer version, or closed to us.
        TransientError: the disk is full.
    """
    with translated(path):
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        absent = read_only and not path.exists()
        target = "file::memory:" if absent else path.absolute().as_uri() + _mode(path, read_only=read_only)
        # Used from several threads, always under the owner's lock.
        db = sqlite3.connect(target, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0)
        try:
            db.execute(f"PRAGMA page_size = {page_bytes}")  # of a file that is yet to be made
            db.execute(f"PRAGMA wal_autocheckpoint = {LOG_BYTES // page_bytes}")
            _check_and_migrate(db, path, application_id, migrations, writable=absent or not read_only)
        except BaseException:
            db.close()
            raise
        return db


def _mode(path: Path, *, read_only: bool) -> str:
    if not read_only:
        return ""
    # A reader of a WAL file makes notes beside it; where it may not, nobody else can be writing.
    return "?mode=ro" if os.access(path.parent, os.W_OK) else "?mode=ro&immutable=1"


def _check_and_migrate(
    db: sqlite3.Connection, path: Path, application_id: int, migrations: Sequence[str], *, writable: bool
) -> None:
    found_id: int = db.execute("PRAGMA application_id").fetchone()[0]
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    tables: int = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if found_id != application_id and (found_id or tables):
        raise ConfigError(f"{path} is not a file of vector-sync; name another folder under [state] path")
    if version > len(migrations):
        raise ConfigError(
            f"{path} was written by a newer vector-sync (schema {version}, this one knows {len(migrations)}); "
            "upgrade vector-sync, or restore the backup made before the upgrade"
        )
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA cell_size_check = ON")
    db.execute(f"PRAGMA cache_size = -{PAGE_CACHE_KIB}")
    if writable:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        for number, statements in enumerate(migrations[version:], start=version + 1):
            db.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id = {application_id};"
                f"{statements}; PRAGMA user_version = {number}; COMMIT"
            )
    elif version < len(migrations):
        raise ConfigError(
            f"{path} is of an older vector-sync (schema {version}); run `vector-sync sync` once to upgrade it"
        )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors that an operator can mend into ours; the others are bugs and pass through.

    SQLite says                        becomes
    ---------------------------------  --------------
    full, I/O error                    TransientError: nothing is lost, the next run goes on
    corrupt, not a database            ConfigError
    read-only, cannot open, permission ConfigError
    """
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        translation = _translate(path, error)
        if translation is error:  # to be its own cause would send whoever follows the causes in a circle
            raise
        raise translation from error


def _translate(path: Path, error: sqlite3.DatabaseError | OSError) -> Exception:
    if isinstance(error, OSError):
        return ConfigError(f"cannot open {path}: {error.strerror}")
    primary_code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the extended code is in the higher bytes
    if primary_code in FILE_IS_FULL:
        return TransientError(
            f"cannot write {path}: {error}; free some space on its disk and run again, nothing is lost"
        )
    if primary_code in FILE_IS_DAMAGED:
        return ConfigError(
            f"{path} is damaged ({error}); restore it from a backup, or move it away: "
            "the next run then compares everything anew"
        )
    if primary_code in FILE_IS_CLOSED_TO_US:
        return ConfigError(f"cannot open {path} for writing: {error}; check the owner and the mode of its folder")
    return error


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Do all of the body's statements durably, or none."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite has already rolled back by itself if the disk was full
            db.execute("ROLLBACK")
        raise
