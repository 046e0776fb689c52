"""Everything that happens between the engine and one sink, so that sinks need not.

For a group of documents: note in the ledger what the sink may come to hold (`begin`), write the
records that differ, delete what is left over, note what it holds now (`commit`). Upserts come before
deletions, so a document is never absent from a search while it changes. Calls of one group go on beside each other
where the sink takes that; the commit waits for all of them. A sink that fails for good, at whatever call,
is stopped: it is left where its ledger says, for the next run, and the other sinks go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NoReturn, TypeVar

from .errors import RejectedError, SinkError, TransientError
from .events import DocumentAltered, DocumentRejected, DocumentsCommitted, DocumentsDeleted, Emit, SinkStopped
from .lanes import make_together
from .model import UNKNOWN, DocumentId, EmbeddedRecord, Entry, RecordId, record_id
from .parcels import chunks, pack, parcels
from .plan import Change
from .ports import CheckpointStore, Sink
from .report import MAX_ALTERATIONS, Alteration, SinkReport
from .retry import Retry

if TYPE_CHECKING:
    from .model import Vectors

T = TypeVar("T")

MAX_REJECTS_IN_A_ROW = 20  # then it is the sink, not the records
STOPS = (TransientError, SinkError)


class _StoppedError(Exception):
    """Ends the work for this sink; never leaves this module."""


@dataclass(slots=True)
class Delivery:
    """Takes documents to one sink, in calls that fit, and commits what arrived."""

    sink: Sink
    dimension: int
    checkpoints: CheckpointStore
    retry: Retry
    emit: Emit
    threads: bool = True  # for calls beside each other, where the sink takes them; without, they keep their order
    stopped: str | None = field(default=None, init=False)
    behind: int = field(default=0, init=False)
    committed: bytearray = field(default_factory=bytearray, init=False)  # fingerprints, 16 bytes each
    upserted: int = field(default=0, init=False)
    deleted: int = field(default=0, init=False)
    upsert_calls: int = field(default=0, init=False)
    delete_calls: int = field(default=0, init=False)
    altered: int = field(default=0, init=False)
    alterations: list[Alteration] = field(default_factory=list, init=False)  # the first of them
    _rejects_in_a_row: int = field(default=0, init=False)
    _incarnation: str | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)  # of the counts, between calls
    _is_given_up: bool = field(default=False, init=False)  # calls that wait to be made again are not
    is_ready: bool = field(default=False, init=False)  # opened for writing, in this run

    def check(self) -> None:
        """Find out which collection the sink writes to; ConfigError if it cannot hold such vectors.

        A sink that does not answer is stopped, for this run.
        """
        self._unless_stopped((), self._check)

    def open_ledger(self) -> int:
        """Make the collection if `check` did not find it, and its ledger; before anything is paid for.

        Returns how many documents the ledger had of another collection; they are forgotten. The ledger of a sink that
        is stopped is left alone.
        """
        if self._incarnation is None:
            self._unless_stopped((), self._make_anew)
        if self.stopped or self._incarnation is None:
            return 0
        return self.checkpoints.open_ledger(self.sink.name, self._incarnation)

    @property
    def answers(self) -> bool:
        """Whether the sink can be asked something without opening what this run did not need."""
        return self.is_ready or not self.sink.limits.in_process

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
        return SinkReport(
            upserted=self.upserted,
            deleted=self.deleted,
            upsert_calls=self.upsert_calls,
            delete_calls=self.delete_calls,
            behind=self.behind,
            stopped=self.stopped,
            altered=self.altered,
        )

    def _check(self) -> None:
        self._incarnation = self._try(f"check {self.sink.name}", lambda: self.sink.check(self.dimension))

    def _make_anew(self) -> None:
        self._incarnation = self._try(f"make {self.sink.name}", lambda: self.sink.prepare(self.dimension))
        self.is_ready = True

    def _write(
        self, changes: Sequence[Change], vectors: Mapping[bytes, Vectors], problems: dict[DocumentId, str]
    ) -> None:
        if doubtful := [change.doubt() for change in changes if change.touches_sink]:
            self.checkpoints.begin(self.sink.name, doubtful)

        upserts = (partial(self._upsert, call) for call in pack(parcels(changes, vectors), self.sink.limits))
        for record, reason in chain.from_iterable(self._make(upserts)):
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

        for change, entry in zip(changes, done, strict=True):
            if entry.fingerprint is not None:
                self.committed += entry.fingerprint
            if entry.problem is not None:
                self.emit(DocumentRejected(self.sink.name, entry.document_id, entry.problem))
            elif change.alterations:
                self._note_alteration(entry.document_id, change.alterations)
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

    def _note_alteration(self, id: DocumentId, alterations: tuple[str, ...]) -> None:
        self.altered += 1
        if len(self.alterations) < MAX_ALTERATIONS:
            self.alterations.append(Alteration(self.sink.name, id, alterations))
        self.emit(DocumentAltered(self.sink.name, id, alterations))

    def _upsert(self, call: Sequence[EmbeddedRecord]) -> list[tuple[EmbeddedRecord, str]]:
        """Write one call; find the records that make the sink refuse it by halving it."""
        try:
            with self._lock:
                self.upsert_calls += 1
            self._try(f"upsert {len(call)} records into {self.sink.name}", partial(self.sink.upsert, call))
        except RejectedError as error:
            if len(call) > 1:
                middle = len(call) // 2
                return self._upsert(call[:middle]) + self._upsert(call[middle:])
            with self._lock:
                self._rejects_in_a_row += 1
                rejects = self._rejects_in_a_row
            if rejects > MAX_REJECTS_IN_A_ROW:
                self._stop(f"{rejects} records in a row were refused, the last one because {error}", error)
            return [(call[0], str(error))]
        with self._lock:
            self._rejects_in_a_row = 0
            self.upserted += len(call)
        return []

    def _delete(self, ids: Iterable[RecordId]) -> None:
        self._make(partial(self._delete_call, call) for call in chunks(ids, self.sink.limits.records_per_call))

    def _delete_call(self, call: Sequence[RecordId]) -> None:
        with self._lock:
            self.delete_calls += 1
        try:
            self._try(f"delete {len(call)} records from {self.sink.name}", partial(self.sink.delete, call))
        except RejectedError as error:  # of no record: it is the sink that does not delete
            self._stop(str(error), error)
        with self._lock:
            self.deleted += len(call)

    def _make(self, calls: Iterator[Callable[[], T]]) -> list[T]:
        """Make a group's upserts, or its deletions, as many at a time as the sink takes; open it before the first."""
        if (first := next(calls, None)) is None:
            return []
        self._try(f"open {self.sink.name}", self._make_ready)
        if not self.threads or self.sink.limits.concurrent_calls == 1 or (second := next(calls, None)) is None:
            return [call() for call in chain((first,), calls)]
        at_a_time = self.sink.limits.concurrent_calls
        all_calls = (partial(self._unless_given_up, call) for call in chain((first, second), calls))
        return make_together(all_calls, at_a_time=at_a_time, give_up=self.give_up)

    def _make_ready(self) -> None:
        """Open the sink for its first write of a run; most runs write nothing, and opening may take long."""
        if not self.is_ready:
            if self.sink.prepare(self.dimension) != self._incarnation:
                raise SinkError("the collection was replaced while the run was under way")
            self.is_ready = True

    def _try(self, what: str, call: Callable[[], T]) -> T:
        """Make a call, again and again while its failure may pass; one that lasts stops the sink."""
        try:
            return self.retry(what, partial(self._unless_given_up, call), self.emit)
        except STOPS as error:
            if self._is_given_up:
                raise _StoppedError from error
            self._stop(str(error) or type(error).__name__, error)

    def _unless_given_up(self, call: Callable[[], T]) -> T:
        if self._is_given_up:
            raise _StoppedError
        return call()

    def give_up(self) -> None:
        """Make no more calls, also none that waits to be made again: the run ends early, or the sink has stopped."""
        self._is_given_up = True

    def _stop(self, reason: str, cause: Exception) -> NoReturn:
        with self._lock:
            is_first, self.stopped = self.stopped is None, self.stopped or reason
        self.give_up()
        if is_first:
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
