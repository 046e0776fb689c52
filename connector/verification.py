"""Compare what every sink holds with its ledger, and mend what differs. Start with the table in `drift`.

    a scan of the sink -> scratch file, sorted by document --+
                       |                                     +-> merge -> findings [-> doubts]
    the ledger, by document, a page at a time ---------------+               |
                       |                                                     | those that are missing, by their names
                       +-> scratch file: what cannot be read as ours -> what stands in their place; the rest of it
                                                                        is stray or foreign

Repair has no way of its own to write to a sink. It turns what was found into doubt, in the words of the protocol: a
ledger's line that says no more than is known. Then an ordinary sync does what it always does about doubt, under its
guards and from the vector store. So a kill anywhere leaves doubt at most, and the next sync puts it right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

from msgspec.structs import replace

from . import ledger_walk
from .drift import Drift, Finding, Mark, Reason, SinkFindings, Verdict, Verified, merge
from .errors import ConfigError, ExitCode, LeaseError, SinkError, TransientError
from .events import CallRetried, Emit, Event, ignore
from .generations import sink_and_number
from .model import Detail, Entry, ForeignRecord, RecordId, StoredRecord
from .parcels import chunks
from .parts import Parts
from .ports import NamingSink, Sink
from .report import Report
from .retry import Retry
from .scratch import Scratch
from .soundness import Contents, is_plausible

ENTRIES_PER_DOUBT = 1000  # written in one transaction
RECORDS_PER_TELLING = 10_000
RECORDS_PER_CHECK = 100  # held with all that is in them

Show: TypeAlias = Callable[[str, str, float | None], None]
"""Told how far a stage is: its name, what there is to tell, and which part is done, if that is known."""


def show_nothing(_stage: str, _told: str, _fraction: float | None) -> None:
    """Nobody looks on."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was found, what the sync did about it, and how it stands now."""

    found: Verified
    synced: Report | None  # None: there was nothing to mend
    left: Verified

    @property
    def exit_code(self) -> ExitCode:
        """Say how it ended.

        left               the sync ended with  exit code
        -----------------  -------------------  ----------------------------------------------
        no drift or doubt  anything             0: what else the sync did not do is not drift
        doubt, no drift    anything             that of the sync: it stopped before it was done
        drift              3 or 4               that of the sync
        drift              0 or 1               5
        a sink unread      anything             3, unless it is one of those above
        """
        if (self.left.drifted or self.left.in_doubt) and self.synced and self.synced.exit_code >= ExitCode.BEHIND:
            return self.synced.exit_code
        if self.left.in_doubt and not self.left.drifted and self.synced:
            return self.synced.exit_code
        return self.left.exit_code


def verify(
    parts: Parts,
    scratch: Scratch,
    *,
    sinks: Sequence[str] = (),
    contents: bool = False,
    keep_all: bool = False,
    retry: Retry = Retry(),  # noqa: B008  # frozen
    show: Show = show_nothing,
) -> Verified:
    """Compare some sinks, or all, with their ledgers; nothing is written.

    By the digests that the records bear; with `contents` also what they hold with their digests, and their vectors with
    those of the store. `keep_all` keeps every finding in the scratch file.

    Raises:
        LeaseError: a run is under way, or one wrote meanwhile; what it is about to change would look like drift.
        ConfigError: a sink cannot work as the settings say.
    """
    if holder := parts.checkpoints.holder():
        raise LeaseError(f"a run is under way ({holder}), and its records would look like drift; verify when it ended")
    look = _Look(parts, scratch, retry, show, contents=contents, keep_all=keep_all)
    return Verified(tuple([look.at(sink) for sink in named(parts, sinks)]))


def repair(
    opens: Sequence[Callable[[], AbstractContextManager[Parts]]],
    sync: Callable[[Emit], Report],
    scratch: Scratch,
    *,
    sinks: Sequence[str] = (),
    contents: bool = False,
    keep_all: bool = False,
    retry: Retry = Retry(),  # noqa: B008  # frozen
    showing: Callable[[], AbstractContextManager[Show]] = lambda: nullcontext(show_nothing),
    telling: Callable[[], AbstractContextManager[Emit]] = lambda: nullcontext(ignore),
) -> Repaired:
    """Verify, turn what was found into doubt, sync, and verify again; all while the checkpoints are open for writing.

    `opens` give the parts of each generation, one after the other, and `sync` is of them all. `showing` and `telling`
    open what shows the progress of a look, and of the sync.

    Raises:
        ConfigError, SafetyError, TransientError, LeaseError: as `sync`; the doubt stays, and does no harm.
    """

    def look(show: Show, *, is_first: bool) -> Verified:
        found: list[SinkFindings] = []
        for opened in opens:
            with opened() as parts:
                look = _Look(
                    parts,
                    scratch,
                    retry,
                    show,
                    contents=contents,
                    keep_all=keep_all and is_first,
                    holds_lease=True,
                    doubts=is_first,
                )
                found += [look.at(sink) for sink in named(parts, sinks)]
        return Verified(tuple(found))

    with showing() as show:
        found = look(show, is_first=True)
    if not (found.mendable or found.in_doubt or any(sink.is_anew for sink in found.sinks)):
        return Repaired(found, None, found)
    with telling() as emit:
        synced = sync(emit)
    with showing() as show:
        return Repaired(found, synced, look(show, is_first=False))


def named(parts: Parts, names: Sequence[str]) -> list[Sink]:
    """Find sinks by their names in the settings; all of them, if none is named."""
    there = {sink.name: sink_and_number(sink.name)[0] for sink in parts.sinks}
    if unknown := [name for name in names if name not in there.values()]:
        raise ConfigError(f'there is no sink "{unknown[0]}" in the settings; there are: {", ".join(there.values())}')
    return [sink for sink in parts.sinks if not names or there[sink.name] in names]


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at every sink."""

    parts: Parts
    scratch: Scratch
    retry: Retry
    show: Show
    contents: bool = False
    keep_all: bool = False
    holds_lease: bool = False
    doubts: bool = False  # write them into the ledgers

    def at(self, sink: Sink) -> SinkFindings:
        """Compare one sink with its ledger."""
        name, checkpoints = sink.name, self.parts.checkpoints
        before = ledger_walk.version(checkpoints, name)
        found = SinkFindings(name)
        try:
            incarnation = self.retry(f"look at {name}", lambda: sink.check(self.parts.embedder.dimension), self._tell)
            found = self.retry(f"read {name}", lambda: self._scan(sink), self._tell)
        except (SinkError, TransientError) as error:
            found.error = str(error)
            return found
        found.is_anew = incarnation != checkpoints.incarnation(name)
        found.has_ledger = before is not None
        for some in chunks(self._judge(sink, found), ENTRIES_PER_DOUBT):
            if self.doubts and not found.is_anew:
                checkpoints.begin(name, some)
        for finding in self.scratch.still_set_aside():
            self._note(found, finding)
        if self.doubts and found.is_anew and incarnation is not None:
            # As the sync would: what the ledger has of another collection is forgotten. What this one holds is doubted.
            checkpoints.open_ledger(name, incarnation)
            for some in chunks(filter(None, (verdict.doubt for verdict in self._verdicts(name))), ENTRIES_PER_DOUBT):
                checkpoints.begin(name, some)
        if not self.holds_lease and ledger_walk.version(checkpoints, name) != before:
            raise LeaseError(
                f"a run wrote to the ledger of {name} while it was compared, so what was found may be of its making; "
                "verify when no run is under way, or with --repair, which keeps runs waiting"
            )
        return found

    def _tell(self, event: Event) -> None:
        if isinstance(event, CallRetried):
            self.show(event.what, f"{event.error}; trying again in {event.wait_seconds:.0f} s", None)

    def _scan(self, sink: Sink) -> SinkFindings:
        """Bring a sink's marks to the scratch file, and what cannot be read as ours."""
        found = SinkFindings(sink.name)
        if self.keep_all:
            self.scratch.forget(sink.name)
        self.scratch.write(self._marks(sink, found))
        return found

    def _marks(self, sink: Sink, found: SinkFindings) -> Iterator[Mark]:
        identity = self.parts.embedder.identity
        made_by = self.parts.checkpoints.recipe(sink.name).get("embedder", "")
        contents = Contents(frozenset([identity, made_by]), identity, self.parts.vectors)
        if not self.contents:
            for it in self._readable(sink, Detail.MARKS):
                yield Mark(it.document_id, it.index, it.digest)
            return
        detail = Detail.VECTORS if self.parts.vectors.count() else Detail.CONTENTS
        for some in chunks(self._readable(sink, detail), RECORDS_PER_CHECK):
            for record, checked in zip(some, contents.check(some), strict=True):
                found.unchecked += not checked.contents
                found.vectors_unchecked += checked.contents and not (checked.vector or checked.reason)
                yield Mark(record.document_id, record.index, record.digest, altered=checked.reason)

    def _readable(self, sink: Sink, detail: Detail) -> Iterator[StoredRecord]:
        """Scan a sink; set aside what cannot be read as a record of ours."""
        expected = ledger_walk.expected(self.parts.checkpoints, sink.name).records
        naming = sink if isinstance(sink, NamingSink) else None
        for number, record in enumerate(sink.scan(detail)):
            if not number % RECORDS_PER_TELLING:
                done = min(1.0, number / expected) if expected else None
                self.show(f"reading {sink.name}", f"{number:,} records", done)
            if isinstance(record, ForeignRecord):
                is_stray = naming is not None and record.owner == naming.owner
                kind = Drift.STRAY if is_stray else Drift.FOREIGN
                self.scratch.set_aside(Finding(kind, record.name, owner=record.owner))
            elif not is_plausible(record):
                name = naming.record_name(record.id) if naming else None
                self.scratch.set_aside(Finding(Drift.STRAY, name or record.id))
            else:
                yield record

    def _judge(self, sink: Sink, found: SinkFindings) -> Iterator[Entry]:
        """Count what the merge finds; give the lines that say no more than is known."""
        for number, verdict in enumerate(self._verdicts(found.sink)):
            if not number % RECORDS_PER_TELLING:
                self.show(f"comparing {found.sink}", f"{number:,} documents", None)
            found.in_step += verdict.in_step
            found.in_doubt += verdict.in_doubt
            for id in verdict.unseen:
                self._is_damaged(sink, id)  # in doubt, and not stray or foreign
            for finding in verdict.findings:
                is_damaged = finding.kind is Drift.MISSING and self._is_damaged(sink, RecordId(finding.name))
                self._note(found, replace(finding, kind=Drift.STALE, reason=Reason.DAMAGED) if is_damaged else finding)
            if verdict.doubt is not None:
                yield verdict.doubt

    def _is_damaged(self, sink: Sink, id: RecordId) -> bool:
        """Tell whether something stands in the place of a record that cannot be read as ours; it is that record."""
        name = sink.record_name(id) if isinstance(sink, NamingSink) else None
        return name is not None and self.scratch.claim(name)

    def _verdicts(self, sink: str) -> Iterator[Verdict]:
        return merge(ledger_walk.walk(self.parts.checkpoints, sink), self.scratch.documents())

    def _note(self, found: SinkFindings, finding: Finding) -> None:
        found.add(finding)
        if self.keep_all:
            self.scratch.note(found.sink, [finding])
