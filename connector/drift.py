"""What a sink holds against what its ledger says. Pure: two walks in one order are merged, a document at a time.

For one record:

    the ledger has   the sink has there           finding
    ---------------  ---------------------------  -------------------------------------------------------------
    its digest       nothing                      MISSING
    its digest       another digest               STALE
    its digest       what cannot be read as ours  STALE, as it is damaged: whoever it says it is of
    its digest       that digest, of other        ALTERED: somebody edited it and left the mark alone
                     contents or vector
    its digest       that digest                  none: in step
    UNKNOWN          anything                     none: in doubt, and the next sync puts it right
    no such place    a record of ours             EXTRA: beyond the extent, or of a document that it has not
    -                our mark, at no such name    STRAY: copied, or damaged; a sync has no name for it to delete
    -                another mark, or none        FOREIGN: told, never touched, and no drift

`judge` sees the records that can be read as ours; where the others stand is found by their names, in `verification`.

A fingerprint that is gone excuses nothing: the digests beside it are still known. So the records of a document that was
begun, but are not written to, are compared like all others. A rejected document holds nothing: a record of it is EXTRA.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from .errors import ExitCode
from .model import UNKNOWN, DocumentId, Entry, JsonValue, RecordId, record_id

MAX_INDEX: Final = 1_000_000
"""A mark with a higher index is not ours: no document has so many passages, and a ledger's line would take 16 MB."""


class Drift(StrEnum):
    """How a record differs from what its ledger says."""

    MISSING = "missing"
    STALE = "stale"
    ALTERED = "altered"
    EXTRA = "extra"
    STRAY = "stray"
    FOREIGN = "foreign"


MENDED: Final = (Drift.MISSING, Drift.STALE, Drift.ALTERED, Drift.EXTRA)
"""What a sync puts right."""
OURS: Final = (*MENDED, Drift.STRAY)
"""What is drift; the rest is somebody else's."""


class Reason(StrEnum):
    """In what a record differs that bears a mark of ours; where it is not told, in the digest."""

    CONTENTS = "text or metadata"
    VECTOR = "vector"
    DAMAGED = "damaged"  # its marks cannot be read, or its text or vector is gone


FINDINGS_HELD: Final = 1000  # in memory, of each kind and sink


class Finding(msgspec.Struct, frozen=True, gc=False):
    """One record that is not as its ledger says."""

    kind: Drift
    name: str  # of the record; of a stray or foreign one, as its database names it
    document_id: DocumentId | None = None  # of those, none
    owner: str | None = None  # of those: whose mark it bears, if any
    reason: Reason | None = None

    def as_json(self) -> dict[str, JsonValue]:
        """Plain JSON values; what does not apply is left out."""
        told = {
            "kind": str(self.kind),
            "name": self.name,
            "document_id": self.document_id,
            "owner": self.owner,
            "reason": self.reason and str(self.reason),
        }
        return {name: value for name, value in told.items() if value is not None}


class Mark(msgspec.Struct, frozen=True, gc=False):
    """What is kept of one record of a scan."""

    document_id: DocumentId
    index: int
    digest: bytes
    text_hash: bytes | None = None  # None: its contents were not asked for
    altered: Reason | None = None  # in what it is not as its digest says


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """How one document stands in one sink."""

    in_step: int = 0  # records
    in_doubt: int = 0  # the same
    findings: tuple[Finding, ...] = ()
    unseen: tuple[RecordId, ...] = ()  # in doubt, and nothing that can be read as ours is there
    doubt: Entry | None = None  # the ledger's line that says no more than is known; None: it says that already


class Expected(msgspec.Struct, frozen=True, gc=False):
    """How many records a ledger says that its sink holds."""

    records: int
    exact: bool  # else some of them are in doubt, and may not be there

    def objection(self, counted: int | None) -> str | None:
        """Say that a sink holds another number of records; None if it may be right, or could not be counted.

        That the numbers agree proves little: five that are missing and five that are extra cancel out.
        """
        if counted is None or counted == self.records or (not self.exact and counted < self.records):
            return None
        return f"it holds {counted:,} records where its ledger has {self.records:,}; `vector-sync verify` names them"


def judge(id: DocumentId, entry: Entry | None, held: Sequence[Mark]) -> Verdict:
    """Compare one document's records, by their index, with its line of the ledger; see the table of the module.

    The doubt has UNKNOWN wherever something was found, and room for every extra record. So the next sync writes what
    should be there, and deletes what should not, or the whole document where the source does not have it.
    """
    passages = entry.passages if entry else ()
    if [record.digest for record in held] == list(passages) and _is_sound(held, passages):
        return Verdict(in_step=len(passages))
    there = {record.index: record for record in held}
    there |= {record.index: record for record in held if _differs(record, passages)}  # of two in one place, the worse
    findings = []
    digests = list(passages)
    in_step, in_doubt, unseen = 0, 0, []
    for index, digest in enumerate(passages):
        found = there.pop(index, None)
        if digest == UNKNOWN:
            in_doubt += 1
            unseen += [record_id(id, index)] if found is None else []
        elif found is not None and found.digest == digest and not found.altered:
            in_step += 1
        else:
            findings.append(_finding(id, index, found, digest))
            digests[index] = UNKNOWN
    if there:
        findings += [Finding(Drift.EXTRA, record_id(id, index), id) for index in sorted(there)]
        digests += [UNKNOWN] * (max(there) + 1 - len(digests))
    if not findings:
        return Verdict(in_step, in_doubt, unseen=tuple(unseen))
    before = entry or Entry(id, None, None, ())
    doubt = Entry(id, None, before.content, tuple(digests), before.problem)
    return Verdict(in_step, in_doubt, tuple(findings), tuple(unseen), doubt)


def _is_sound(held: Sequence[Mark], passages: Sequence[bytes]) -> bool:
    return UNKNOWN not in passages and all(
        record.index == place and not record.altered for place, record in enumerate(held)
    )


def _differs(record: Mark, passages: Sequence[bytes]) -> bool:
    return record.index >= len(passages) or record.digest != passages[record.index] or bool(record.altered)


def _finding(id: DocumentId, index: int, found: Mark | None, digest: bytes) -> Finding:
    name = record_id(id, index)
    if found is None:
        return Finding(Drift.MISSING, name, id)
    if found.digest != digest:
        return Finding(Drift.STALE, name, id)
    return Finding(Drift.ALTERED, name, id, reason=found.altered)


def merge(entries: Iterable[Entry], stored: Iterable[tuple[DocumentId, Sequence[Mark]]]) -> Iterator[Verdict]:
    """Judge every document of a ledger and of a sink; both are walked in the order of their document ids."""
    ledger, sink = iter(entries), iter(stored)
    entry, group = next(ledger, None), next(sink, None)
    while entry is not None or group is not None:
        if entry is not None and (group is None or entry.document_id < group[0]):
            yield judge(entry.document_id, entry, ())
            entry = next(ledger, None)
        elif group is not None and (entry is None or group[0] < entry.document_id):
            yield judge(group[0], None, group[1])
            group = next(sink, None)
        elif entry is not None and group is not None:
            yield judge(entry.document_id, entry, group[1])
            entry, group = next(ledger, None), next(sink, None)


@dataclass(slots=True)
class SinkFindings:
    """How one sink stands against its ledger."""

    sink: str
    is_anew: bool = False  # the ledger is of another collection, or there is none; the next sync fills it again
    has_ledger: bool = True
    in_step: int = 0  # records
    in_doubt: int = 0  # records; the ledger itself does not know, and the next sync puts it right
    unchecked: int = 0  # records in step by their mark, whose contents the sink does not give as they were sent
    vectors_unchecked: int = 0  # records whose contents were compared, and not the vector: the store does not have it
    counts: dict[Drift, int] = field(default_factory=lambda: dict.fromkeys(Drift, 0))
    first: dict[Drift, list[Finding]] = field(default_factory=lambda: {kind: [] for kind in Drift})
    error: str | None = None  # why it could not be read

    @property
    def drifted(self) -> int:
        """How many records of ours are not as the ledger says."""
        return sum(self.counts[kind] for kind in OURS)

    @property
    def mendable(self) -> int:
        """How many of those a sync can put right."""
        return sum(self.counts[kind] for kind in MENDED)

    @property
    def strays(self) -> int:
        """How many bear our mark and cannot be ours."""
        return self.counts[Drift.STRAY]

    def add(self, finding: Finding) -> None:
        """Count a finding, and hold it if it is among the first of its kind."""
        self.counts[finding.kind] += 1
        if len(self.first[finding.kind]) < FINDINGS_HELD:
            self.first[finding.kind].append(finding)

    def as_json(self) -> dict[str, JsonValue]:
        """Plain JSON values, but for the findings themselves."""
        return {
            "in_step": self.in_step,
            **{str(kind): count for kind, count in self.counts.items()},
            "in_doubt": self.in_doubt,
            "unchecked": self.unchecked,
            "vectors_unchecked": self.vectors_unchecked,
            "new_collection": self.is_anew,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Verified:
    """What one look at the sinks found."""

    sinks: tuple[SinkFindings, ...]
    notes: tuple[str, ...] = ()  # what could not be looked at, and why: one line each
    names: Mapping[str, str] = field(default_factory=dict)  # for people, by ledger; see `names_for_people`

    def name(self, sink: SinkFindings) -> str:
        """Name a sink for people: the plain name is that of the generation that readers get."""
        return self.names.get(sink.sink, sink.sink)

    @property
    def drifted(self) -> int:
        """How many records, in all sinks together, are not as the ledgers say."""
        return sum(sink.drifted for sink in self.sinks)

    @property
    def mendable(self) -> int:
        """How many of those a sync can put right."""
        return sum(sink.mendable for sink in self.sinks)

    @property
    def in_doubt(self) -> int:
        """How many records the ledgers do not know."""
        return sum(sink.in_doubt for sink in self.sinks)

    @property
    def exit_code(self) -> ExitCode:
        """Drift is the worst; a sink that could not be read is behind. What is foreign is neither."""
        if self.drifted:
            return ExitCode.DRIFT
        return ExitCode.BEHIND if any(sink.error for sink in self.sinks) else ExitCode.IN_STEP
