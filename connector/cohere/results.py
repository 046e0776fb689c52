"""Read what a job has made: records, in their order, from the parts of a dataset.

A download that breaks goes on at the last whole block, by a range where the store can do that, and with fresh
links: those a service gives expire, and the dataset is asked for again before every attempt. A block has arrived
whole before its first record is given out, so no record comes twice and none is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Self

import msgspec
import numpy as np

from connector.errors import RejectedError, TransientError
from connector.events import Emit, ignore
from connector.retry import Retry

from .avro import AvroFile, Block, CutShortError, OtherFileError, Row, Schema, UnreadableError
from .failures import LinkRefusedError, NoAvroError
from .values import VECTOR_DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from connector.model import JsonValue

    from .client import Cohere
    from .values import DatasetPart, Vector


class Record(msgspec.Struct, frozen=True):
    """One row of a result: a text, its vectors, and the fields that were kept.

    An optional field that the row did not have is there, and None. A dataset that was uploaded has no vectors.
    """

    text: str
    embeddings: Mapping[str, Vector]  # by embedding type, of those that were asked for
    metadata: Mapping[str, JsonValue]


def records(client: Cohere, dataset_id: str, *, retry: Retry | None = None, emit: Emit = ignore) -> Records:
    """Read the records of a dataset, in order, in constant memory. Asks for nothing before the first is wanted."""
    return Records(client, dataset_id, retry or Retry(), emit)


def read_part(client: Cohere, url: str) -> Generator[Record, None, None]:
    """Read the records of one part by its link, in one attempt.

    LinkRefusedError says that the link has expired; TransientError, that the download broke.
    """
    with client.open_link(url) as pieces, _translated("the part"):
        file = AvroFile(pieces)
        while (block := file.next_block()) is not None:
            for row in block:
                yield _record(row)


class Records(Iterator[Record]):
    """Records as they come. Stop early as you like; `close`, or the end of a `with`, ends the download."""

    def __init__(self, client: Cohere, dataset_id: str, retry: Retry, emit: Emit) -> None:
        self._what = f"download of dataset {dataset_id}"
        self._download = _Download(client, dataset_id)
        self._retry = retry
        self._emit = emit
        # A function rather than a method: records that nobody holds any more let go of their connection at once.
        self._records = _records_of(self._download, partial(retry, self._what, emit=emit))

    def __next__(self) -> Record:
        return next(self._records)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go. There are no more records then."""
        self._records.close()
        self._download.close()

    @property
    def schema(self) -> Schema:
        """The Avro schema of the records. Begins the download if it has not begun."""
        return self._retry(self._what, self._download.schema, self._emit)


def _records_of(
    download: _Download, repeated: Callable[[Callable[[], Block | None]], Block | None]
) -> Generator[Record, None, None]:
    with closing(download):
        while (block := repeated(download.next_block)) is not None:
            with _translated(f"dataset {download.id}"):
                for row in block:
                    yield _record(row)


class _Download:
    """All parts of a dataset, one after the other. A call that failed for a passing reason may be made again."""

    def __init__(self, client: Cohere, dataset_id: str) -> None:
        self._client = client
        self.id = dataset_id
        self._parts: Sequence[DatasetPart] = ()
        self._has_links = False  # in the parts, and nothing has gone wrong with them
        self._number = 0  # of the part at hand
        self._rows = 0  # of it that have arrived
        self._file: AvroFile | None = None  # of the part at hand, once it was begun
        self._schema: Schema = {}
        self._connection = ExitStack()
        self._is_connected = False

    def close(self) -> None:
        """Let the connection go."""
        self._is_connected = False
        self._connection.close()

    def schema(self) -> Schema:
        """Tell the schema of the part at hand, or of the one before; begin if nothing was begun."""
        with self._attempt():
            if not self._schema:
                self._connect()
            return self._schema

    def next_block(self) -> Block | None:
        """Read one block of the part at hand, or of the next one; None at the end."""
        with self._attempt():
            while not self._parts or self._number < len(self._parts):
                if (block := self._connect().next_block()) is not None:
                    self._rows += block.row_count
                    return block
                self._end_part()
            return None

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """After a failure that may pass, make sure that the next attempt has a new connection and fresh links."""
        try:
            with _translated(f"dataset {self.id}"):
                yield
        except TransientError:
            self.close()
            self._has_links = False
            raise

    def _connect(self) -> AvroFile:
        """Give the part at hand, ready to read on; with fresh links if those there are do not work any more."""
        if self._file is not None and self._is_connected:
            return self._file
        if self._has_links:
            with suppress(LinkRefusedError):
                return self._open()
        self._take_links()
        return self._open()

    def _take_links(self) -> None:
        dataset = self._client.dataset(self.id)
        parts = dataset.ordered_parts
        if not parts:
            raise RejectedError(f"dataset {self.id} has nothing to read; its status is {dataset.status or 'not said'}")
        if self._parts and [part.id for part in parts] != [part.id for part in self._parts]:
            raise RejectedError(f"dataset {self.id} is not what it was when its download began; begin again")
        self._parts = parts
        self._has_links = True

    def _open(self) -> AvroFile:
        first_byte = self._file.position if self._file else 0
        link = self._parts[self._number].url
        pieces = self._connection.enter_context(self._client.open_link(link, first_byte=first_byte))
        if self._file is None:
            self._file = AvroFile(pieces)
            self._schema = self._file.schema
        else:
            self._file.read_on(pieces)
        self._is_connected = True
        return self._file

    def _end_part(self) -> None:
        """Compare with what the service has told of the part, and go to the next one."""
        told = self._parts[self._number].rows
        which = f"part {self._number + 1} of dataset {self.id}"
        if told and self._rows < told:
            raise TransientError(f"{which} ended after {self._rows} of {told} records")
        if told and self._rows > told:
            raise RejectedError(f"{which} has {self._rows} records, and should have {told}")
        self.close()
        self._file = None
        self._number, self._rows = self._number + 1, 0


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Make the errors of reading a file ours."""
    try:
        yield
    except CutShortError:
        raise TransientError(f"{what} ended too early") from None
    except OtherFileError as error:
        raise NoAvroError(f"{what} cannot be read as an Avro file: {error}") from None
    except UnreadableError as error:
        raise RejectedError(f"{what} cannot be read as an Avro file: {error}") from None


def _record(row: Row) -> Record:
    text = row.pop("text", None)
    found = row.pop("embeddings", None)
    if found is None:
        found = row.pop("embedding", None)  # its name until 2024-02-12; some of the docs still say so
    by_type = found if isinstance(found, dict) else {"float": found}
    return Record(
        text if isinstance(text, str) else "",
        {name: _vector(numbers, name) for name, numbers in by_type.items() if numbers is not None},
        row,
    )


def _vector(numbers: Sequence[float] | NDArray[np.float64], embedding_type: str) -> Vector:
    vector: Vector = np.asarray(numbers, dtype=VECTOR_DTYPES.get(embedding_type))
    return vector
