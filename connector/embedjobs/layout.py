"""Where the service's files are, and the few things that are done to them: sync, move, measure, sweep."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from connector.errors import ConfigError, TransientError

from .ids import is_id

KEY_BYTES = 32

DISK_TROUBLE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ESTALE,
    }
)
"""What an operator can mend, or what passes by itself; any other OSError is a bug of ours."""


@contextmanager
def disk_trouble(what: str) -> Iterator[None]:
    """Turn the disk's errors into a TransientError ("cannot <what>: ..."); the same call may do later."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise
        raise TransientError(
            f"cannot {what}: {error.strerror}; free some space on the disk or mend it, nothing is lost"
        ) from error


class Layout:
    """The service's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "embed-jobs.sqlite"
        self.uploads = folder / "uploads"
        self.datasets = folder / "datasets"
        self._key = folder / "url-key"

    def prepare(self) -> None:
        """Make the folders; whatever was being uploaded is gone."""
        remove(self.uploads)
        for path in (self.uploads, self.datasets):
            path.mkdir(parents=True, exist_ok=True)
        sync(self.folder)

    def new_upload(self) -> Path:
        return self.uploads / secrets.token_hex(8)

    def dataset(self, id: str) -> Path:
        """Name a dataset's folder; ValueError if the id would lead elsewhere."""
        if not is_id(id):
            raise ValueError(f"{id!r} is no id")
        return self.datasets / id

    def make_dataset(self, id: str, *, exist_ok: bool = False) -> Path:
        """Make a dataset's folder, durably."""
        path = self.dataset(id)
        path.mkdir(exist_ok=exist_ok)
        sync(self.datasets)
        return path

    def url_key(self) -> bytes:
        """Read the key, made if there is none."""
        if not self._key.exists():
            draft = self._key.with_suffix(".new")
            remove(draft)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._key)
            sync(self.folder)
        key = self._key.read_bytes()
        if len(key) != KEY_BYTES:
            raise ConfigError(f"{self._key} is damaged; remove it, and the links that were given out end")
        return key

    def sweep(self, named: Mapping[str, Collection[str]]) -> None:
        """Remove every dataset's folder that is not named, and from the others every file that is not named."""
        for folder in sorted(self.datasets.iterdir()):
            if folder.name in named:
                keep_only(folder, named[folder.name])
            else:
                remove(folder)


def original_name(file_name: str) -> str:
    """Name the file that an upload is kept in: "original" with the ending of what the client called it."""
    ending = re.search(r"\.[a-z0-9]{1,10}$", file_name.lower())
    return f"original{ending.group() if ending else ''}"


def sync(path: Path) -> None:
    """Make a file's contents, or a folder's names, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder that nothing names, if it is there; what cannot go now is left to the next start."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise


def keep_only(folder: Path, names: Collection[str]) -> None:
    """Remove all else from a folder, if it is there."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name not in names:
                remove(path)


def size_bytes(folder: Path) -> int:
    """Measure the files of a folder; those that go meanwhile, or a folder that is not there, take nothing."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    total += entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        return total
    return total
