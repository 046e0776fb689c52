"""`kind = "files"`: one document a file, from a folder and the folders below it.

Listing reads no file. A version is made of what a stat says, which changes whenever the content
does, as long as the file is older than the clock's tick (`FileIdentity.is_racy`); of a younger one the
version is made for this listing only, so that the next looks again.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import msgspec
import xxhash
from pydantic import Field

from connector.errors import ConfigError, TransientError
from connector.model import Document, DocumentRef, ListingComplete, Rejection, Unreadable
from connector.plugins import BuildContext
from connector.ports import Source
from connector.sources.fields import EVERYTHING, FieldSettings, UnusableError, as_document_id, as_text
from connector.sources.listing_cache import FileIdentity
from connector.sources.markup import CONTENT_READER, read_content
from connector.sources.patterns import compile_patterns
from connector.sources.rows import as_versions

if TYPE_CHECKING:
    from connector.model import Positions, Versions

FILES_PER_BATCH = 4_096
MIB = 1 << 20
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe in its place must not hold us up
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}  # or no longer the file that was listed


class FilesSettings(FieldSettings):
    """Documents that are files: Markdown, HTML, reStructuredText and plain text."""

    kind: Literal["files"] = Field(default="files", description="the files of a folder: Markdown, HTML or plain text")
    path: Path = Field(description="the folder; a document's id is the path of its file relative to it")
    include: tuple[str, ...] = Field(
        default=("**/*.md", "**/*.markdown", "**/*.txt", "**/*.rst", "**/*.html", "**/*.htm"),
        description='which files: patterns of the path in the folder, case-sensitive; "**/" stands for any folders',
    )
    exclude: tuple[str, ...] = Field(
        default=("**/.*", "**/.*/**"), description="which of them not, written alike; by default, hidden ones"
    )
    optional_fields: tuple[str, ...] = Field(
        default=(EVERYTHING,),
        description='metadata that is kept where a file has it: "path", "title" and what its front matter names; '
        '"*" keeps everything',
    )
    max_bytes: int = Field(default=16 * MIB, gt=0, description="a larger file is rejected, and not read")

    def build(self, context: BuildContext) -> Source:
        return FilesSource(self, context)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file that the walk came by."""

    name: str  # the path relative to the root, with forward slashes
    version: bytes
    salt: int  # mixed into the version: 0, or the time of the listing if the file was young then


@dataclass(frozen=True, slots=True)
class FilesListing:
    """Some files that follow each other in the walk."""

    found: Sequence[_Found]
    versions: Versions
    fraction: float

    def refs(self, positions: Positions) -> Iterator[DocumentRef | Unreadable]:
        for position in positions.tolist():
            file = self.found[position]
            try:
                yield DocumentRef(as_document_id(file.name), file.version, file.salt)
            except UnusableError as error:
                yield Unreadable(self.place(position), f"the path cannot be an id: {error}")

    def place(self, position: int) -> str:
        return os.fsencode(self.found[position].name).decode(errors="backslashreplace")


class FilesSource:
    """Reads the files below a folder."""

    def __init__(self, settings: FilesSettings, context: BuildContext, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._root = context.resolve(settings.path)
        self._include = compile_patterns(settings.include)
        self._exclude = compile_patterns(settings.exclude)
        self._metadata = settings.metadata_fields()
        self._seed = _settings_seed(settings, context.seed)
        self._now = now

    def check(self) -> None:
        try:
            is_folder = stat.S_ISDIR(self._root.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError(f"the folder {self._root} does not exist") from error
        except OSError as error:
            raise ConfigError(f"the folder {self._root} cannot be read: {error.strerror}") from error
        if not is_folder:
            raise ConfigError(f'{self._root} is not a folder; for a file of rows, use kind = "table"')

    def list(self) -> Iterator[FilesListing | ListingComplete]:
        self.check()
        count, fraction = 0, 0.0
        unlisted: deque[str] = deque()
        batch: deque[_Found] = deque()
        for found, fraction in self._walk(unlisted):
            batch.append(found)
            if len(batch) == FILES_PER_BATCH:
                yield _listing(batch, fraction)
                count += len(batch)
                batch.clear()
        if batch:
            yield _listing(batch, fraction)
        if unlisted:
            more = f" (and {len(unlisted) - 1} more like it)" if len(unlisted) > 1 else ""
            raise TransientError(f"{unlisted[0]}{more}, so the listing is not complete; run again")
        yield ListingComplete(count + len(batch))

    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[Document | Rejection]:
        for ref in refs:
            try:
                raw = self._read(ref)
                if raw is not None:
                    yield self._document(ref, raw)
            except UnusableError as error:
                yield Rejection(ref.id, ref.version, str(error))
            except OSError as error:
                if error.errno not in _GONE:
                    yield Rejection(ref.id, ref.version, f"it cannot be read: {error.strerror or error}", passing=True)

    def watched_paths(self) -> Sequence[Path]:
        return [self._root]

    def may_list(self, path: Path) -> bool:
        if not path.is_relative_to(self._root):
            return False
        name = path.relative_to(self._root)
        if not self._include.fullmatch(name.as_posix()) or self._exclude.fullmatch(name.as_posix()):
            return False
        return not any(self._exclude.fullmatch(f"{folder.as_posix()}/") for folder in name.parents[:-1])

    def _walk(self, unlisted: deque[str]) -> Iterator[tuple[_Found, float]]:
        """Come by each file once, in sorted order; tells how far along the walk is.

        A folder's share of the whole is divided among the folders in it, as their sizes are not known.
        What cannot be listed is noted in `unlisted`.
        """
        real_root = os.path.realpath(self._root)
        now_ns = int(self._now() * 1e9)
        folders = [("", 0.0, 1.0)]
        while folders:
            prefix, start, end = folders.pop()
            try:
                with os.scandir(self._root / prefix) as entries:
                    here = sorted(entries, key=lambda entry: entry.name)
                below = [entry.name for entry in here if entry.is_dir(follow_symlinks=False)]
            except OSError as error:
                unlisted.append(f"folder {self._root / prefix} cannot be listed: {error.strerror}")
                continue
            share = (end - start) / (len(below) + 1)
            for entry in here:
                try:
                    found = self._look_at(entry, prefix + entry.name, real_root, now_ns)
                except FileNotFoundError:
                    continue  # gone since its folder was read
                except OSError as error:
                    unlisted.append(f"{entry.path} cannot be looked at: {error.strerror}")
                    continue
                if found is not None:
                    yield found, start + share
            for number, name in reversed([*enumerate(below, 1)]):
                if not self._exclude.fullmatch(f"{prefix}{name}/"):
                    folders.append((f"{prefix}{name}/", start + number * share, start + (number + 1) * share))

    def _look_at(self, entry: os.DirEntry[str], name: str, real_root: str, now_ns: int) -> _Found | None:
        """Make a version of what an entry is; None if it is no file of ours."""
        if not self._include.fullmatch(name) or self._exclude.fullmatch(name):
            return None
        if not entry.is_symlink():
            return self._found(name, entry.stat(follow_symlinks=False), now_ns)
        target = os.path.realpath(entry.path)
        try:
            status = Path(target).stat()
        except OSError as error:
            if error.errno not in _GONE:
                raise
            # It leads to nothing; `fetch` says so.
            return _Found(name, self._version(name, target), 0)
        if _is_within(target, real_root):
            return self._found(name, status, now_ns)
        return None if stat.S_ISDIR(status.st_mode) else _Found(name, self._version(name, target), 0)

    def _found(self, name: str, status: os.stat_result, now_ns: int) -> _Found | None:
        if not stat.S_ISREG(status.st_mode):
            return None
        identity = FileIdentity.of(status)
        salt = now_ns if identity.is_racy(now_ns) else 0
        return _Found(name, self._version(name, identity, salt), salt)

    def _version(self, name: str, state: FileIdentity | str, salt: int = 0) -> bytes:
        """Hash the state of a file, or where the link leads that stands in its place."""
        seen = os.fsencode(state) if isinstance(state, str) else state
        return xxhash.xxh3_128_digest(msgspec.msgpack.encode((os.fsencode(name), seen, salt)), self._seed)

    def _read(self, ref: DocumentRef) -> bytes | None:
        """Read a file if it is as it was listed, before and after; else None."""
        salt = ref.locator if isinstance(ref.locator, int) else 0
        with os.fdopen(os.open(self._target(ref), _OPEN_FLAGS), "rb", buffering=0) as file:
            if self._version_of(ref.id, file.fileno(), salt) != ref.version:
                return None
            size = os.fstat(file.fileno()).st_size
            if size > self._settings.max_bytes:
                raise UnusableError(f"it has {size:,} bytes; max_bytes allows {self._settings.max_bytes:,}")
            raw = file.read(size)
            return raw if self._version_of(ref.id, file.fileno(), salt) == ref.version else None

    def _version_of(self, name: str, descriptor: int, salt: int) -> bytes:
        return self._version(name, FileIdentity.of(os.fstat(descriptor)), salt)

    def _target(self, ref: DocumentRef) -> Path:
        """Follow a link, but not out of the root. A file swapped in afterwards has another version."""
        path = self._root / ref.id
        if not path.is_symlink():
            return path
        target = Path(os.path.realpath(path))
        if not _is_within(str(target), os.path.realpath(self._root)):
            raise UnusableError(f"the link leads out of {self._root}")
        if not target.exists():
            raise UnusableError("the link leads to nothing")
        return target

    def _document(self, ref: DocumentRef, raw: bytes) -> Document:
        content = read_content(raw, PurePosixPath(ref.id).suffix)
        if not content.text or content.text.isspace():
            raise UnusableError("no text: the file is empty" if not raw else "no text in the file")
        title = content.fields.get("title") or content.title or PurePosixPath(ref.id).stem
        metadata = self._metadata.choose({**content.fields, "path": ref.id, "title": title})
        return Document(ref.id, ref.version, as_text(content.text, "text"), metadata, content.markdown)


def _listing(batch: Sequence[_Found], fraction: float) -> FilesListing:
    return FilesListing(tuple(batch), as_versions(b"".join([file.version for file in batch])), fraction)


def _is_within(path: str, root: str) -> bool:
    return path.startswith(root.rstrip("/") + "/")


def _settings_seed(settings: FilesSettings, seed: int) -> int:
    """Make every version depend on what decides the text and metadata of a file, besides the file."""
    chosen = [sorted(settings.keep_fields), sorted(settings.optional_fields), settings.max_bytes, CONTENT_READER]
    return xxhash.xxh3_64_intdigest(msgspec.json.encode(chosen), seed)
