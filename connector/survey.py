"""Find what changed: compare the source's listing with every ledger, and fetch what differs.

Cheapest test first. A row whose fingerprint every ledger has is seen and done with: it is not
parsed, looked up or written. The others are parsed for their id, looked up in the ledgers, fetched,
split, and come out as groups of `Update`. Each sink says beforehand which of them it cannot store, so that
nothing is paid for those. Nothing is written here, so a plan is the same survey.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec
import numpy as np

from .errors import StoppedError, TransientError, UnknownOutcomeError
from .events import Emit, PlaceUnreadable, RowsListed
from .fingerprints import HashSet, Known, Sightings, hash_ids
from .model import Document, DocumentId, DocumentRef, Draft, Entry, Fit, ListingComplete, Rejection, Unreadable
from .passages import PassageSplitter
from .plan import Change, Kind, Recipe, Wanted, compare, fingerprint, fingerprints, kind_of_document, want, want_nothing
from .ports import Listing, Source
from .stopping import Stop

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .model import Versions

DOCUMENTS_PER_GROUP = 1000
CHARACTERS_PER_GROUP = 1_000_000  # about a thousand passages: seconds of a local model, and of progress shown


Broken: TypeAlias = TransientError | UnknownOutcomeError | StoppedError
"""What may end a walk before its end."""


class Ledgers(Protocol):
    """What a survey reads of the checkpoint store."""

    def known(self, sink: str) -> Known: ...
    def in_doubt(self, sink: str) -> list[Entry]: ...
    def entries(self, sink: str, ids: Sequence[DocumentId]) -> dict[DocumentId, Entry]: ...
    def with_fingerprints(self, sink: str, wanted: Versions) -> list[Entry]: ...
    def rejected_ids(self, sinks: Sequence[str]) -> set[DocumentId]: ...


class Update(msgspec.Struct, frozen=True, gc=False):
    """What to do about one document, in each sink that is not in step with it."""

    wanted: Wanted
    changes: Mapping[str, Change]  # by sink
    kind: Kind

    @property
    def problem(self) -> str | None:
        """Why the document is rejected, by its source, its embedder or a sink."""
        return self.wanted.problem or next(filter(None, (c.wanted.problem for c in self.changes.values())), None)

    def refuse(self, reason: str) -> Update:
        """The same document, found to be impossible to embed."""
        wanted = Wanted(self.wanted.document_id, self.wanted.fingerprint, problem=reason)
        return Update(wanted, {sink: change.refuse(reason) for sink, change in self.changes.items()}, Kind.REJECTED)


class _Parsed(msgspec.Struct, frozen=True, gc=False):
    """A listed row that some ledger does not know, and what the ledgers know of its id."""

    ref: DocumentRef
    before: Mapping[str, Entry]  # by sink


@dataclass(slots=True)
class Survey:
    """One walk over the source. After `groups` is used up, the other fields are final."""

    source: Source
    splitter: PassageSplitter
    recipe: Recipe
    ledgers: Ledgers
    sinks: Sequence[str]
    emit: Emit
    anew: frozenset[str] = frozenset()  # sinks that hold nothing, whatever their ledger says
    fits: Mapping[str, Callable[[Draft], Fit]] = field(default_factory=dict)  # by sink: `Sink.fit`
    stop: Stop = field(default_factory=Stop)
    left_out: dict[str, int] = field(default_factory=dict, init=False)  # rows, by sink, that it lacks since it was
    sightings: dict[str, Sightings] = field(default_factory=dict, init=False)
    live: int = field(init=False)  # documents of the largest ledger
    complete: bool = field(default=False, init=False)
    error: Broken | None = field(default=None, init=False)  # why it is not complete
    rows: int = field(default=0, init=False)
    rows_known: int = field(default=0, init=False)
    unchanged: int = field(default=0, init=False)  # parsed, and found as it was
    unreadable: list[tuple[str, str]] = field(default_factory=list, init=False)  # place, reason
    duplicates: list[tuple[str, str]] = field(default_factory=list, init=False)  # place, reason
    skipped: list[DocumentId] = field(default_factory=list, init=False)  # changed while they were read
    waiting: int = field(default=0, init=False)  # documents some of whose texts are in an open embed job
    still_rejected: set[DocumentId] = field(init=False)  # by earlier runs, and not looked at again
    _in_doubt: dict[str, list[Entry]] = field(default_factory=dict, init=False)
    _recipe_hash: bytes = field(init=False)
    _fraction: float = field(default=0.0, init=False)
    _ids: HashSet = field(default_factory=HashSet, init=False)

    def __post_init__(self) -> None:
        for sink in self.sinks:
            is_new = sink in self.anew
            self.sightings[sink] = Sightings(Known.of(hash_ids(())) if is_new else self.ledgers.known(sink))
            self._in_doubt[sink] = [] if is_new else self.ledgers.in_doubt(sink)
        self.live = max((len(s.known) + len(self._in_doubt[sink]) for sink, s in self.sightings.items()), default=0)
        self.still_rejected = self.ledgers.rejected_ids(self.sinks)
        self._recipe_hash = self.recipe.hash()

    @property
    def heeded(self) -> list[str]:
        """The sinks that the walk is for: those that were not left out of it."""
        return [sink for sink in self.sinks if sink not in self.left_out]

    def leave_out(self, sink: str) -> None:
        """Go on without a sink that has stopped or cannot keep up: no document is read for it any more."""
        self.left_out.setdefault(sink, 0)

    def lacking(self, sink: str) -> int:
        """About how many documents a sink that was left out is not in step with, told without reading any."""
        rows = max(0, self.left_out[sink] - len(self.unreadable) - len(self.duplicates))
        return max(rows, len(self.sightings[sink].unseen())) if self.complete else rows

    def groups(self) -> Iterator[list[Update]]:
        """Walk the source, and give the documents that differ in groups of bounded size.

        A source that breaks off ends the walk: what was listed until then is still given, and
        `complete` stays False, so nothing counts as deleted. StoppedError: the run was asked to end.
        """
        pending: list[_Parsed] = []
        for batch in self._listing():
            pending += self._compare(batch)
            self._tell(batch.fraction, len(pending))
            while len(pending) >= DOCUMENTS_PER_GROUP:
                some, pending = pending[:DOCUMENTS_PER_GROUP], pending[DOCUMENTS_PER_GROUP:]
                for group, waiting in self._fetch(some):
                    yield group
                    self._tell(batch.fraction, len(pending) + waiting)
        for group, waiting in self._fetch(pending):
            yield group
            self._tell(1.0, waiting)

    def _tell(self, listed: float, pending: int) -> None:
        """Tell how far the walk is: of what is listed, the documents that wait are still to be done."""
        done = listed * (1 - pending / self.rows) if self.rows else listed
        self._fraction = max(self._fraction, done)
        self.emit(RowsListed(self.rows, self.rows_known, self._fraction))

    def _listing(self) -> Iterator[Listing]:
        try:
            for batch in self.source.list():
                self.stop.demand()
                if not isinstance(batch, ListingComplete):
                    yield batch
                elif self.complete or batch.count != self.rows:
                    raise AssertionError(f"the source counts {batch.count} rows and listed {self.rows} [D1]")
                else:
                    self.complete = True
        except TransientError as error:
            self.break_off(error)

    def break_off(self, error: Broken | None) -> None:
        """Note that the walk did not come to its end, so what it did not show may still be there."""
        self.error = error
        self.complete = False

    def gone(self, sink: str) -> list[Entry]:
        """The documents that a ledger has and the complete listing does not."""
        unseen = self.ledgers.with_fingerprints(sink, self.sightings[sink].unseen())
        doubtful = self._in_doubt[sink]
        if doubtful:
            listed = self._ids.contains(hash_ids(entry.document_id for entry in doubtful))
            unseen += [entry for entry, is_listed in zip(doubtful, listed, strict=True) if not is_listed]
        self.still_rejected -= {entry.document_id for entry in unseen}
        return unseen

    def _compare(self, batch: Listing) -> list[_Parsed]:
        """Mark the rows that are known, and parse the others."""
        hashes = fingerprints(batch.versions, self._recipe_hash)
        is_new = np.zeros(len(hashes), dtype=np.bool_)
        is_repeated = np.zeros(len(hashes), dtype=np.bool_)
        for sink, sightings in self.sightings.items():
            is_known, was_seen = sightings.see(hashes)
            if sink in self.left_out:
                self.left_out[sink] += int(np.count_nonzero(~is_known))
                continue
            is_new |= ~is_known
            is_repeated |= was_seen
        self.rows += len(hashes)
        positions = np.flatnonzero(is_new | is_repeated)
        self.rows_known += len(hashes) - len(positions)
        return self._parse(batch, positions, is_repeated) if len(positions) else []

    def _parse(self, batch: Listing, positions: NDArray[np.intp], is_repeated: NDArray[np.bool_]) -> list[_Parsed]:
        rows: list[tuple[int, DocumentRef]] = []
        for position, ref in zip(positions.tolist(), batch.refs(positions), strict=True):
            if isinstance(ref, Unreadable):
                self._note(self.unreadable, ref.place, ref.reason)
            elif is_repeated[position]:
                self._note_duplicate(batch.place(position), ref.id)
            else:
                rows.append((position, ref))
        came_before = self._ids.add(hash_ids(ref.id for _, ref in rows))
        before = self._entries([ref.id for _, ref in rows])
        parsed = []
        for (position, ref), repeats in zip(rows, came_before, strict=True):
            entries = before.get(ref.id, {})
            if repeats or self._supersedes_a_listed_row(ref, entries):
                self._note_duplicate(batch.place(position), ref.id)
            else:
                parsed.append(_Parsed(ref, entries))
        return parsed

    def _entries(self, ids: list[DocumentId]) -> dict[DocumentId, dict[str, Entry]]:
        """Look ids up in every ledger that has any."""
        found: dict[DocumentId, dict[str, Entry]] = {}
        for sink in self.heeded:
            if len(self.sightings[sink].known) or self._in_doubt[sink]:
                for start in range(0, len(ids), DOCUMENTS_PER_GROUP):
                    some = ids[start : start + DOCUMENTS_PER_GROUP]
                    for id, entry in self.ledgers.entries(sink, some).items():
                        found.setdefault(id, {})[sink] = entry
        return found

    def _supersedes_a_listed_row(self, ref: DocumentRef, entries: Mapping[str, Entry]) -> bool:
        """Note that the ledgers' versions of a document are not the listed one; tell if they are listed too."""
        if not entries:
            return False
        listed = fingerprint(ref.version, self._recipe_hash)
        others = {sink: e.fingerprint for sink, e in entries.items() if e.fingerprint not in (None, listed)}
        seen = [self.sightings[sink].supersede(other) for sink, other in others.items() if other is not None]
        return any(seen)  # a list, so that every ledger is told

    def _fetch(self, parsed: Sequence[_Parsed]) -> Iterator[tuple[list[Update], int]]:
        """Fetch documents, in groups whose text is not too much to hold; tell how many are still to come."""
        waiting = {row.ref.id: row for row in parsed}
        self.still_rejected -= waiting.keys()
        documents: list[Document] = []
        characters = 0
        refused: list[Update] = []
        for fetched in self.source.fetch([row.ref for row in parsed]) if parsed else ():
            if isinstance(fetched, Rejection):
                refused += self._updates([want_nothing(fetched, self._recipe_hash)], waiting)
                continue
            documents.append(fetched)
            characters += len(fetched.text)
            if characters > CHARACTERS_PER_GROUP:
                yield self._updates(self._wanted(documents), waiting), len(waiting)
                documents, characters = [], 0
        last = refused + self._updates(self._wanted(documents), waiting)
        self.skipped += waiting
        yield last, 0

    def _wanted(self, documents: Sequence[Document]) -> list[Wanted]:
        return [
            want(document, split.passages, split.tokens, self.recipe, self._recipe_hash)
            for document, split in zip(documents, self.splitter.split_many(documents), strict=True)
        ]

    def _updates(self, group: Sequence[Wanted], waiting: dict[DocumentId, _Parsed]) -> list[Update]:
        """Compare documents with the ledgers; those that every sink has are only counted."""
        updates = []
        for wanted in group:
            before = waiting.pop(wanted.document_id).before
            entries = {sink: before.get(sink) for sink in self.heeded}
            changes = {
                sink: self._ask(sink, compare(wanted, entry))
                for sink, entry in entries.items()
                if entry is None or entry.fingerprint is None or entry.fingerprint != wanted.fingerprint
            }
            kind = kind_of_document([_kind(changes.get(sink), entry) for sink, entry in entries.items()])
            if changes:
                updates.append(Update(wanted, changes, kind))
            elif kind is Kind.REJECTED:
                self.still_rejected.add(wanted.document_id)
            if kind is Kind.UNCHANGED:
                self.unchanged += 1
        return updates

    def _ask(self, sink: str, change: Change) -> Change:
        """Have a sink say whether it can store what it is about to be sent, before anything is paid for it."""
        if not change.upserts or sink not in self.fits:
            return change
        wanted = change.wanted
        fit = self.fits[sink](Draft(wanted.document_id, wanted.texts, wanted.metadata))
        if fit.refusal is not None:
            return change.refuse(fit.refusal)
        return msgspec.structs.replace(change, alterations=fit.alterations) if fit.alterations else change

    def _note_duplicate(self, place: str, id: DocumentId) -> None:
        self._note(self.duplicates, place, f'repeats the id "{id}" of an earlier row, which is the one that counts')

    def _note(self, notes: list[tuple[str, str]], place: str, reason: str) -> None:
        notes.append((place, reason))
        self.emit(PlaceUnreadable(place, reason))


def _kind(change: Change | None, entry: Entry | None) -> Kind:
    """What changed about a document in one sink, one that is in step with it included."""
    if change:
        return change.kind
    return Kind.REJECTED if entry and entry.problem is not None else Kind.UNCHANGED
