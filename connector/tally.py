"""Add a run up: what changed, what is to leave the index, and how the run ended. Pure."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .errors import ExitCode
from .fingerprints import HashSet, count_common, hash_ids
from .model import DocumentId, Entry
from .plan import Change, DeleteGuard, Kind
from .report import Counts
from .survey import Survey, Update


@dataclass(frozen=True, slots=True)
class Departures:
    """What is to leave each sink at the end of a run, by sink."""

    gone: Mapping[str, Sequence[Entry]]  # no longer listed
    removals: Mapping[str, Sequence[Change]]  # listed, and rejected now
    moved: int = 0  # how many of the gone came back under another id
    documents: int = 0  # how many different documents are gone, the moved ones included
    objection: str | None = None  # why nothing may leave

    def behind(self, sink: str) -> int:
        """How many documents a sink holds that it should not, if nothing leaves."""
        return len(self.gone[sink]) + len(self.removals[sink])


@dataclass(slots=True)
class Tally:
    """What a run has found so far."""

    kinds: Counter[Kind] = field(default_factory=Counter)
    removals: dict[str, list[Change]] = field(default_factory=dict)
    refused: dict[DocumentId, Kind] = field(default_factory=dict)  # what became of documents but for a sink's refusal
    _added: bytearray = field(default_factory=bytearray)  # contents of added documents, 16 bytes each
    _never_came: bytearray = field(default_factory=bytearray)  # the same, of those that a sink refused
    _put_off: dict[Kind, HashSet] = field(default_factory=dict)
    _refusing: threading.Lock = field(default_factory=threading.Lock)

    def add(self, updates: Iterable[Update]) -> None:
        """Count documents that differ from some ledger."""
        for update in updates:
            if update.kind is not Kind.UNCHANGED:  # the survey counts those
                self.kinds[update.kind] += 1
            if update.kind is Kind.ADDED:
                self._added += update.wanted.content or b""
            if update.kind is Kind.REJECTED and update.wanted.problem is None:
                self.refused.setdefault(update.wanted.document_id, Kind.REJECTED)

    def due(self, sink: str, updates: Iterable[Update]) -> list[Change]:
        """Pick what is to be written to a sink now, and put off the removals until the guard has spoken."""
        changes = [update.changes[sink] for update in updates if sink in update.changes]
        self.removals.setdefault(sink, []).extend(change for change in changes if change.removes_document)
        return [change for change in changes if not change.removes_document]

    def refuse(self, updates: Iterable[Update], refused: Collection[DocumentId]) -> None:
        """Note which of some documents a sink refused; called from the lanes."""
        with self._refusing:
            for update in updates if refused else ():
                id, kind = update.wanted.document_id, update.kind
                if id in refused and id not in self.refused:
                    self.refused[id] = kind
                    if kind is Kind.ADDED:
                        self._never_came += update.wanted.content or b""

    def put_off(self, updates: Iterable[Update]) -> None:
        """Note what documents are counted as that some sink is to be given later: 16 bytes each."""
        ids: dict[Kind, list[DocumentId]] = {}
        for update in updates:
            ids.setdefault(update.kind, []).append(update.wanted.document_id)
        for kind, some in ids.items():
            self._put_off.setdefault(kind, HashSet()).add(hash_ids(some))

    def refuse_later(self, ids: Collection[DocumentId]) -> None:
        """Note what a sink refused of that; what was not put off was known to all the others."""
        for id in ids:
            hashed = hash_ids([id])
            kinds = [kind for kind, members in self._put_off.items() if members.contains(hashed).any()]
            self.refused.setdefault(id, kinds[0] if kinds else Kind.UNCHANGED)

    def departures(self, survey: Survey, guard: DeleteGuard) -> Departures:
        """Find what is to leave the sinks; nothing is, if the listing did not end or the guard objects.

        Nothing is to leave a sink that was left out: what it does not show may only not have been looked at.
        """
        nothing = Departures(dict.fromkeys(survey.sinks, ()), dict.fromkeys(survey.sinks, ()))
        if not survey.complete:
            return nothing
        removals = {**nothing.removals, **{sink: self.removals.get(sink, []) for sink in survey.heeded}}
        gone = {**nothing.gone, **{sink: survey.gone(sink) for sink in survey.heeded}}
        contents = {entry.document_id: entry.content or b"" for entries in gone.values() for entry in entries}
        moved = count_common(self._added, b"".join(contents.values()), except_for=bytes(self._never_came))
        missing = {entry.document_id for entries in gone.values() for entry in entries if entry.extent}
        leaving = missing | {change.wanted.document_id for changes in removals.values() for change in changes}
        objection = guard.objection(
            gone=len(leaving) - moved,
            live=survey.live,
            listed=survey.rows,
            unreadable=len(survey.unreadable) if len(missing) > moved else 0,
        )
        return Departures(gone, removals, moved, len(contents), objection)

    def counts(self, survey: Survey, departures: Departures) -> Counts:
        """Count every listed row once, and the documents that are gone."""
        refused: Counter[Kind] = Counter(kind for kind in self.refused.values() if kind is not Kind.REJECTED)
        kinds = self.kinds - refused
        known = survey.rows_known + survey.unchanged - len(survey.still_rejected)
        places = len(survey.unreadable) + len(survey.duplicates)
        return Counts(
            added=kinds[Kind.ADDED] - departures.moved,
            changed=kinds[Kind.CHANGED],
            metadata_only=kinds[Kind.METADATA_ONLY],
            moved=departures.moved,
            deleted=0 if departures.objection else departures.documents - departures.moved,
            unchanged=known - refused[Kind.UNCHANGED],
            rejected=kinds[Kind.REJECTED] + refused.total() + len(survey.still_rejected) + places,
        )


def exit_code(*, rejected: int, behind: bool, objection: str | None, drifted: bool = False) -> ExitCode:
    """Say how a run ended; of several, the worst.

    of       comes first, as
    -------  ---------------------------------------------------------------------------------------------
    DRIFT    what is found in an index that was thought to be in step puts all the other words in doubt; and
             it would stay unseen for as long as another sink is down, or an objection waits for an answer
    SAFETY   it waits for the operator's word, and running again changes nothing
    BEHIND   the next run mends it
    """
    codes = [ExitCode.IN_STEP]
    if rejected:
        codes.append(ExitCode.REJECTED)
    if behind:
        codes.append(ExitCode.BEHIND)
    if objection:
        codes.append(ExitCode.SAFETY)
    if drifted:
        codes.append(ExitCode.DRIFT)
    return max(codes)
