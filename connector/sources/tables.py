"""`kind = "table"`: one document a row, from JSONL, CSV or Parquet files.

A listing yields hashes of rows, not rows; only a row whose hash is unknown is ever parsed. How
much of a file is read for that is the cache's business (`listing_cache`).
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec
import xxhash
from pydantic import Field

from connector.errors import ConfigError, TransientError
from connector.model import Document, DocumentRef, ListingComplete, Rejection, Unreadable
from connector.plugins import BuildContext
from connector.ports import Source
from connector.sources.fields import Fields, FieldSettings, UnusableError, as_text
from connector.sources.listing_cache import CachedListing, Extent, FileIdentity, ListingCache
from connector.sources.rows import RowFraming, RowLocator, row_locator
from connector.sources.text_tables import CsvRows, JsonLines, TextTable

if TYPE_CHECKING:
    from connector.model import Positions, Versions

JSON_SUFFIXES = (".jsonl", ".ndjson")
CSV_SUFFIX = ".csv"
PARQUET_SUFFIX = ".parquet"
SUFFIXES = (*JSON_SUFFIXES, CSV_SUFFIX, PARQUET_SUFFIX)


class TableSettings(FieldSettings):
    """Documents that are rows of JSONL, CSV or Parquet files."""

    kind: Literal["table"] = Field(default="table", description="rows of JSONL, CSV or Parquet files")
    path: Path = Field(
        description='a file, or a pattern for several ("data/*.jsonl", "data/**/*.csv"); they are read in sorted order'
    )
    id_field: str = Field(
        default="id", min_length=1, description="the field with the document's id: a string or integer"
    )
    text_field: str = Field(default="text", min_length=1, description="the field with the text that is embedded")
    delimiter: str = Field(
        default=",",
        min_length=1,
        max_length=1,
        pattern=r'^[^"\r\n]$',
        description='what separates the cells of a .csv file; "\\t" is a tab',
    )

    def build(self, context: BuildContext) -> Source:
        return TableSource(self, context)


class Table(Protocol):
    """One file of rows. An OSError from it means that the file cannot be read just now."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def name(self) -> str:
        """The file's name, for people."""
        ...

    @property
    def identity(self) -> FileIdentity:
        """The state that the file was in when it was first looked at."""
        ...

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns that every row has; None if each row names its own."""
        ...

    @property
    def row_seed(self) -> int:
        """What rows are hashed with."""
        ...

    @property
    def start(self) -> int:
        """Where the first extent begins."""
        ...

    @property
    def total(self) -> int:
        """Where the last extent ends."""
        ...

    def holds(self, extent: Extent) -> bool:
        """Tell whether the file still has, at an extent's place, what it had there."""
        ...

    def read(self, after: Extent | None) -> Iterator[tuple[Extent, Versions]]:
        """Hash the rows that come after an extent."""
        ...

    def refs(self, extent: Extent, versions: Versions, positions: Positions) -> Iterator[DocumentRef | Unreadable]:
        """Parse some rows of an extent; TransientError if they are not what was hashed."""
        ...

    def place(self, extent: Extent, position: int) -> str:
        """Name a row of an extent for people."""
        ...

    def place_of(self, locator: RowLocator) -> str:
        """Name a row that was listed for people."""
        ...

    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[tuple[DocumentRef, Fields | UnusableError]]:
        """Parse rows where they were listed; leave out those that are not there any more."""
        ...

    def refuse_if_changed(self) -> None:
        """Raise TransientError if the file was written to since it was first looked at."""
        ...

    def close(self) -> None:
        """Close the file, if it was opened."""
        ...


@dataclass(frozen=True, slots=True)
class TableListing:
    """One extent of one file, as a batch of the listing."""

    table: Table
    extent: Extent
    versions: Versions
    fraction: float

    def refs(self, positions: Positions) -> Iterator[DocumentRef | Unreadable]:
        with _reading(self.table.name):
            yield from self.table.refs(self.extent, self.versions, positions)

    def place(self, position: int) -> str:
        with _reading(self.table.name):
            return self.table.place(self.extent, position)


class TableSource:
    """Reads the rows of the files that a path or a pattern names."""

    def __init__(
        self,
        settings: TableSettings,
        context: BuildContext,
        cache: ListingCache | None = None,
        framing: RowFraming | None = None,
    ) -> None:
        framing = framing or RowFraming(quoted=False)
        self._settings = settings
        self._context = context
        self._metadata = settings.metadata_fields()
        self._cache = cache or ListingCache(context.state_path / "listings", read_only=context.read_only)
        self._seed = _settings_seed(settings, context.seed)
        self._fetched_last: Table | None = None
        self._json = JsonLines(settings.id_field, framing)
        self._csv = CsvRows(settings.id_field, settings.delimiter, replace(framing, quoted=True))

    def check(self) -> None:
        name = str(self._settings.path)
        try:
            for path in self._paths():
                name = self._name(path)
                with contextlib.closing(self._open(path)) as table:
                    self._require_columns(table)
        except OSError as error:
            raise ConfigError(f"{name} cannot be read: {error.strerror or error}") from error

    def list(self) -> Iterator[TableListing | ListingComplete]:
        with _reading(str(self._settings.path)):
            paths = self._paths()
            sizes = [path.stat().st_size for path in paths]
        self._cache.sweep(self._cache_name(path) for path in paths)
        count, bytes_before, all_bytes = 0, 0, max(1, sum(sizes))
        for path, size in zip(paths, sizes, strict=True):
            with _reading(self._name(path)), contextlib.closing(self._open(path)) as table:
                for extent, versions in self._extents(table, self._cache_name(path)):
                    count += len(versions)
                    listed = bytes_before + size * min(1.0, extent.end / max(1, table.total))
                    if extent.row_count:
                        yield TableListing(table, extent, versions, fraction=listed / all_bytes)
            bytes_before += size
        yield ListingComplete(count)

    def fetch(self, refs: Sequence[DocumentRef]) -> Iterator[Document | Rejection]:
        of_path: defaultdict[Path, deque[DocumentRef]] = defaultdict(deque)
        for ref in refs:
            of_path[row_locator(ref).path].append(ref)
        for path, some in of_path.items():
            with _reading(self._name(path)):
                try:
                    table = self._open_again(path)
                except FileNotFoundError:
                    continue  # gone since it was listed
                with contextlib.closing(table):
                    for ref, row in table.fetch(some):
                        yield self._document(ref, row, table)

    def watched_paths(self) -> Sequence[Path]:
        """Name the folder in which a pattern begins; or the file, and what it leads to if it is a link."""
        whole = self._context.resolve(self._settings.path)
        for number, part in enumerate(whole.parts):
            if glob.has_magic(part):
                return [Path(*whole.parts[:number])]
        return list(dict.fromkeys([whole, Path(os.path.realpath(whole))]))

    def may_list(self, path: Path) -> bool:
        return path.suffix.lower() in SUFFIXES

    def _document(self, ref: DocumentRef, row: Fields | UnusableError, table: Table) -> Document | Rejection:
        settings = self._settings
        try:
            if isinstance(row, UnusableError):
                raise row
            text = as_text(row.get(settings.text_field), settings.text_field)
            metadata = self._metadata.choose(row, apart=(settings.id_field, settings.text_field))
        except UnusableError as error:
            return Rejection(ref.id, ref.version, f"{table.place_of(row_locator(ref))}: {error}")
        return Document(ref.id, ref.version, text, metadata)

    def _extents(self, table: Table, cache_name: str) -> Iterator[tuple[Extent, Versions]]:
        """List one file by the cheapest test that is sure; see `listing_cache`."""
        cached = self._cache.find(cache_name)
        if cached is not None and cached.is_current(table.identity):
            yield from cached.replay()
            return
        self._require_columns(table)
        writer = self._cache.writer(cache_name)
        try:
            for extent, versions in _read(table, cached):
                writer.add(extent, versions)
                yield extent, versions
            table.refuse_if_changed()
            writer.keep(table.identity, table.row_seed)
        finally:
            writer.discard()

    def _require_columns(self, table: Table) -> None:
        if table.columns is None:
            return
        if repeated := sorted({name for name in table.columns if table.columns.count(name) > 1}):
            raise ConfigError(f'{table.name} has several columns named "{repeated[0]}"')
        for setting, name in (
            ("id_field", self._settings.id_field),
            ("text_field", self._settings.text_field),
            *(("keep_fields", name) for name in self._settings.keep_fields),
        ):
            if name not in table.columns:
                has = ", ".join(table.columns)
                raise ConfigError(f'{setting} names "{name}", which is no column of {table.name}; it has: {has}')

    def _open(self, path: Path) -> Table:
        """Look at a file; its rows are read later. OSError if it cannot be looked at."""
        identity = FileIdentity.of(path.stat())
        if path.suffix.lower() == PARQUET_SUFFIX:
            return _parquet_table(path, self._name(path), identity, self._seed, self._settings)
        row_format = self._csv if path.suffix.lower() == CSV_SUFFIX else self._json
        return TextTable(path, self._name(path), row_format, self._seed, identity)

    def _open_again(self, path: Path) -> Table:
        """Open a file to fetch from it; a Parquet file goes on where it was left, as rows come in order."""
        table = self._open(path)
        if path.suffix.lower() != PARQUET_SUFFIX:
            return table
        last = self._fetched_last
        if last is not None and last.path == path and last.identity == table.identity:
            return last
        self._fetched_last = table
        return table

    def _paths(self) -> Sequence[Path]:
        """Find the files, in sorted order; ConfigError if there is none."""
        whole = self._context.resolve(self._settings.path)
        if whole.is_dir():
            raise ConfigError(
                f'path {self._settings.path} is a folder; name its files, as in "{self._settings.path}/*.jsonl"'
            )
        found = [whole]
        if not whole.exists():
            pattern = str(self._settings.path.expanduser())
            names = glob.glob(pattern, root_dir=self._context.base_path, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
            found = sorted(path for path in map(self._context.resolve, map(Path, names)) if not path.is_dir())
        if not found:
            raise ConfigError(f"path {self._settings.path} matches no file in {self._context.base_path}")
        for path in found:
            if path.suffix.lower() not in SUFFIXES:
                raise ConfigError(f"{self._name(path)} is none of {', '.join(SUFFIXES)}; narrow the path, or rename it")
        return found

    def _name(self, path: Path) -> str:
        base = self._context.base_path.absolute()
        return str(path.relative_to(base) if path.is_relative_to(base) else path)

    def _cache_name(self, path: Path) -> str:
        return xxhash.xxh3_128_hexdigest(os.fsencode(path), self._seed)


def _read(table: Table, cached: CachedListing | None) -> Iterator[tuple[Extent, Versions]]:
    """Replay what the file still holds of an earlier listing, and read the rest."""
    last: Extent | None = None
    position = table.start
    if cached is not None and cached.footer.row_seed == table.row_seed:
        for extent, versions in cached.replay():
            goes_on = cached.ends_with(extent) and cached.footer.identity.size != table.identity.size
            if extent.start != position or goes_on or not table.holds(extent):
                break
            yield extent, versions
            last, position = extent, extent.end
    yield from table.read(after=last)


def _parquet_table(path: Path, name: str, identity: FileIdentity, seed: int, settings: TableSettings) -> Table:
    try:
        from connector.sources.parquet_tables import ParquetTable  # noqa: PLC0415 - pyarrow is an extra, and slow to import
    except ImportError as error:
        raise ConfigError(f'{name} needs pyarrow: pip install "vector-sync[parquet]"') from error
    named = (settings.id_field, settings.text_field, *settings.keep_fields, *settings.optional_fields)
    return ParquetTable(path, name, identity, seed, id_field=settings.id_field, fields=named)


def _settings_seed(settings: TableSettings, seed: int) -> int:
    """Make every version depend on the settings that decide what becomes of a row."""
    chosen = [
        settings.id_field,
        settings.text_field,
        settings.delimiter,
        sorted(settings.keep_fields),
        sorted(settings.optional_fields),
    ]
    return xxhash.xxh3_64_intdigest(msgspec.json.encode(chosen), seed)


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TransientError(f"{name} cannot be read: {error.strerror or error}; run again") from error
