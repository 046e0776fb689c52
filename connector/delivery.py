"""Everything that happens between the engine and one sink, so that sinks need not.

For a group of documents: note in the ledger what the sink may come to hold (`begin`), write the
records that differ, delete what is left over, note what it holds now (`commit`). Upserts come before
deletions, so a document is never absent from a search while it changes. A sink that fails for good
is stopped: it is left where its ledger says, for the next run, and the other sinks go on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import msgspec

from .errors import RejectedError, SinkError, TransientError
from .events import DocumentRejected, DocumentsCommitted, DocumentsDeleted, Emit, SinkStopped
from .model import UNKNOWN, DocumentId, EmbeddedRecord, Entry, RecordId, record_id
from .plan import Change
from .ports import CheckpointStore, Limits, Sink
from .report import SinkReport
from .retry import Retry

if TYPE_CHECKING:
    from .model import Vectors

T = TypeVar("T")

MAX_REJECTS_IN_A_ROW = 20  # then it is the sink, not the records
BYTES_PER_NUMBER = 12  # of a float32 as JSON, comma included
BYTES_PER_RECORD = 512  # ids, marks and punctuation


class _StoppedError(Exception):
    """Ends the work for this sink; never leaves this module."""


class Parcel(msgspec.Struct, frozen=True, gc=False):
    """One record on its way, and about how many bytes it takes in a request."""

    record: EmbeddedRecord
    weight_bytes: int


@dataclass(slots=True)
class Delivery:
    """Takes documents to one sink, in calls that fit, and commits what arrived."""

    sink: Sink
    dimension: int
    checkpoints: CheckpointStore
    retry: Retry
    emit: Emit
    stopped: str | None = field(default=None, init=False)
    behind: int = field(default=0, init=False)
    committed: bytearray = field(default_factory=bytearray, init=False)  # fingerprints, 16 bytes each
    upserted: int = field(default=0, init=False)
    deleted: int = field(default=0, init=False)
    upsert_calls: int = field(default=0, init=False)
    delete_calls: int = field(default=0, init=False)
    _rejects_in_a_row: int = field(default=0, init=False)
    _incarnation: str | None = field(default=None, init=False)
    _is_ready: bool = field(default=False, init=False)

    def check(self) -> None:
        """Find out which collection the sink writes to; ConfigError if it cannot hold such vectors."""
        self._incarnation = self.sink.check(self.dimension)

    def open_ledger(self) -> int:
        """Make the collection if `check` did not find it, and its ledger; before anything is paid for.

        Returns how many documents the ledger had of another collection; they are forgotten.
        """
        if self._incarnation is None:
            self._incarnation = self.sink.prepare(self.dimension)
            self._is_ready = True
        return self.checkpoints.open_ledger(self.sink.name, self._incarnation)

    def write(self, changes: Sequence[Change], vectors: Mapping[bytes, Vectors]) -> Collection[DocumentId]:
        """Bring changed documents to the sink; return those that it refused."""
        problems: dict[DocumentId, str] = {}
        self._unless_stopped(changes, lambda: self._write(changes, vectors, problems))
        return problems.keys()

    def remove(self, changes: Sequence[Change]) -> None:
        """Remove the records of documents that are rejected now, and note why."""
        self._unless_stopped(changes, lambda: self._write(changes, {}, {}))

    def forget(self, entries: Sequence[Entry]) -> None:
        """Remove every record of documents that are gone, and forget them."""
        self._unless_stopped(entries, lambda: self._forget(entries))

    def report(self) -> SinkReport:
        """Sum up."""
        return SinkReport(self.upserted, self.deleted, self.upsert_calls, self.delete_calls, self.behind, self.stopped)

    def _write(
        self, changes: Sequence[Change], vectors: Mapping[bytes, Vectors], problems: dict[DocumentId, str]
    ) -> None:
        if doubtful := [change.doubt() for change in changes if change.touches_sink]:
            self.checkpoints.begin(self.sink.name, doubtful)

        for call in pack(parcels(changes, vectors), self.sink.limits):
            for record, reason in self._upsert(call):
                problems.setdefault(record.document_id, reason)

        # A document is in a sink whole or not at all: old and new are not left mixed.
        done = [_refused(change, problems) if problems else change.done() for change in changes]
        extents = [max(change.extent_before, len(change.wanted.digests)) for change in changes]
        self._delete(
            record_id(entry.document_id, index)
            for entry, extent, change in zip(done, extents, changes, strict=True)
            if change.touches_sink
            for index in range(entry.extent, extent)
        )
        self.checkpoints.commit(self.sink.name, done)

        for entry in done:
            if entry.fingerprint is not None:
                self.committed += entry.fingerprint
            if entry.problem is not None:
                self.emit(DocumentRejected(self.sink.name, entry.document_id, entry.problem))
        accepted = sum(entry.problem is None for entry in done)
        self.emit(DocumentsCommitted(self.sink.name, accepted, sum(len(change.upserts) for change in changes)))

    def _forget(self, entries: Sequence[Entry]) -> None:
        self.checkpoints.begin(
            self.sink.name,
            [Entry(e.document_id, None, e.content, (UNKNOWN,) * e.extent, e.problem) for e in entries if e.extent],
        )
        self._delete(record_id(e.document_id, index) for e in entries for index in range(e.extent))
        self.checkpoints.commit(self.sink.name, (), [e.document_id for e in entries])
        self.emit(DocumentsDeleted(self.sink.name, len(entries)))

    def _upsert(self, call: Sequence[EmbeddedRecord]) -> list[tuple[EmbeddedRecord, str]]:
        """Write one call; find the records that make the sink refuse it by halving it."""
        try:
            self.upsert_calls += 1
            self._call(f"upsert {len(call)} records into {self.sink.name}", partial(self.sink.upsert, call))
        except RejectedError as error:
            if len(call) > 1:
                middle = len(call) // 2
                return self._upsert(call[:middle]) + self._upsert(call[middle:])
            self._rejects_in_a_row += 1
            if self._rejects_in_a_row > MAX_REJECTS_IN_A_ROW:
                self._stop(
                    f"{self._rejects_in_a_row} records in a row were refused, the last one because {error}", error
                )
            return [(call[0], str(error))]
        self._rejects_in_a_row = 0
        self.upserted += len(call)
        return []

    def _delete(self, ids: Iterable[RecordId]) -> None:
        for call in chunks(ids, self.sink.limits.records_per_call):
            self.delete_calls += 1
            self._call(f"delete {len(call)} records from {self.sink.name}", partial(self.sink.delete, call))
            self.deleted += len(call)

    def _make_ready(self) -> None:
        """Open the sink for its first write of a run; most runs write nothing, and opening may take long."""
        if not self._is_ready:
            if self.sink.prepare(self.dimension) != self._incarnation:
                raise SinkError("the collection was replaced while the run was under way")
            self._is_ready = True

    def _call(self, what: str, call: Callable[[], None]) -> None:
        try:
            self.retry(f"open {self.sink.name}", self._make_ready, self.emit)
            self.retry(what, call, self.emit)
        except (TransientError, SinkError) as error:
            self._stop(str(error) or type(error).__name__, error)

    def _stop(self, reason: str, cause: Exception) -> None:
        self.stopped = reason
        self.emit(SinkStopped(self.sink.name, reason))
        raise _StoppedError from cause

    def _unless_stopped(self, documents: Sequence[object], work: Callable[[], None]) -> None:
        """Do the work, and count its documents as behind if it is not done."""
        if not self.stopped:
            try:
                work()
            except _StoppedError:
                pass
            else:
                return
        self.behind += len(documents)


def _refused(change: Change, problems: Mapping[DocumentId, str]) -> Entry:
    """The ledger's line of a document, some of whose records the sink may have refused."""
    problem = problems.get(change.wanted.document_id)
    if problem is None:
        return change.done()
    return Entry(change.wanted.document_id, change.wanted.fingerprint, None, (), problem)


def parcels(changes: Iterable[Change], vectors: Mapping[bytes, Vectors]) -> Iterator[Parcel]:
    """Make the records that changes ask for."""
    for change in changes:
        wanted = change.wanted
        for index in change.upserts:
            text, vector = wanted.texts[index], vectors[wanted.text_hashes[index]]
            text_bytes = len(text) if text.isascii() else 4 * len(text)
            yield Parcel(
                EmbeddedRecord(
                    id=record_id(wanted.document_id, index),
                    document_id=wanted.document_id,
                    index=index,
                    vector=vector,
                    text=text,
                    metadata=wanted.metadata,
                    digest=wanted.digests[index],
                ),
                BYTES_PER_NUMBER * len(vector) + text_bytes + wanted.metadata_bytes + BYTES_PER_RECORD,
            )


def pack(parcels: Iterable[Parcel], limits: Limits) -> Iterator[list[EmbeddedRecord]]:
    """Group records into calls that a sink accepts; a record that is too large has a call to itself."""
    call: list[EmbeddedRecord] = []
    size_bytes = 0
    for parcel in parcels:
        if call and (len(call) == limits.records_per_call or size_bytes + parcel.weight_bytes > limits.bytes_per_call):
            yield call
            call, size_bytes = [], 0
        call.append(parcel.record)
        size_bytes += parcel.weight_bytes
    if call:
        yield call


def chunks(members: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut a sequence into lists of at most `size`."""
    rest = iter(members)
    while chunk := list(islice(rest, size)):
        yield chunk
