"""What people see: progress made from events alone, summaries and tables.

Whatever comes from documents or services is made `printable` first, so that none of it can move
the cursor or colour the screen.
"""

# ruff: noqa: PLC0415 - rich is imported where it draws: it costs more than a whole run with nothing to do

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .errors import ExitCode
from .events import (
    CallRetried,
    DocumentsCommitted,
    DocumentsDeleted,
    Emit,
    Event,
    LedgerVoided,
    RowsListed,
    RunStarted,
    SinkStopped,
    TextsEmbedded,
)
from .report import Counts, PlanReport, Report

if TYPE_CHECKING:
    from rich.console import Console

    from .inspection import Check, Explanation, Status
    from .model import Hit

SECONDS_BETWEEN_LINES = 5.0
EXCERPT_CHARACTERS = 300

HOW_IT_ENDED = {
    ExitCode.IN_STEP: "in step",
    ExitCode.REJECTED: "in step but for the rejected",
    ExitCode.BEHIND: "not in step",
    ExitCode.SAFETY: "stopped to ask",
}


def printable(text: str) -> str:
    """Replace what a terminal would obey instead of showing, and what it cannot show."""
    return "".join([character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text])


def counted(number: int, noun: str) -> str:
    """Write "1 call", "2,000 calls"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


# --- progress ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class SoFar:
    """What a run has done, by its events."""

    fraction: float = 0.0
    rows: int = 0
    texts: int = 0
    records: dict[str, int] = field(default_factory=dict)  # by sink
    deleted: dict[str, int] = field(default_factory=dict)  # documents, by sink

    def add(self, event: Event) -> str | None:
        """Count an event; some are worth a line at once."""
        match event:
            case RunStarted(ledgers=ledgers):
                known = ", ".join(f"{sink} {counted(documents, 'document')}" for sink, documents in ledgers.items())
                return f"reading the source; known: {known}"
            case RowsListed(rows=rows, fraction=fraction):
                self.rows = max(self.rows, rows)
                self.fraction = max(self.fraction, fraction)
            case TextsEmbedded(texts=texts):
                self.texts += texts
            case DocumentsCommitted(sink=sink, records=records):
                self.records[sink] = self.records.get(sink, 0) + records
            case DocumentsDeleted(sink=sink, documents=documents):
                self.deleted[sink] = self.deleted.get(sink, 0) + documents
            case CallRetried(what=what, error=error, wait_seconds=seconds):
                return f"{what}: {error}; trying again in {seconds:.0f} s"
            case SinkStopped(sink=sink, error=error):
                return f"{sink} stopped: {error}"
            case LedgerVoided(sink=sink, documents=documents):
                return f"{sink} is a new collection; {counted(documents, 'document')} will be written again"
            case _:
                pass  # a document's or a place's own trouble is told at the end
        return None

    def counters(self) -> str:
        """Write the counts that are not zero."""
        parts = [f"{counted(self.rows, 'row')} listed", *([f"{self.texts:,} texts embedded"] if self.texts else [])]
        parts += [f"{sink}: {counted(records, 'record')} written" for sink, records in self.records.items()]
        parts += [f"{sink}: {counted(documents, 'document')} deleted" for sink, documents in self.deleted.items()]
        return ", ".join(parts)


class ProgressLines:
    """Progress for logs: one line every few seconds at most, but for what is worth one at once."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._so_far = SoFar()
        self._next_line_at = clock() + SECONDS_BETWEEN_LINES

    def __call__(self, event: Event) -> None:
        """Be a subscriber."""
        if told := self._so_far.add(event):
            self._write(printable(told))
        elif self._clock() >= self._next_line_at:
            self._write(f"{self._so_far.fraction:4.0%}  {self._so_far.counters()}")
            self._next_line_at = self._clock() + SECONDS_BETWEEN_LINES


@contextmanager
def progress() -> Iterator[Emit]:
    """Show progress on stderr while the body runs: a bar on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield ProgressLines(complain)
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=30), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=_console(stderr=True), transient=True) as bar:
        # A hair more than all: a bar that is full stops its clock, and the last documents are still to be embedded.
        task = bar.add_task("opening", total=1.0001)
        so_far = SoFar()

        def show(event: Event) -> None:
            if told := so_far.add(event):
                bar.console.print(printable(told))
            bar.update(task, completed=so_far.fraction, description=printable(so_far.counters()))

        yield show


# --- how a run ended --------------------------------------------------------------------------------


def sync_lines(report: Report) -> Iterator[str]:
    """Sum a run up for people."""
    counts = report.counts
    in_source = counts.added + counts.changed + counts.metadata_only + counts.moved + counts.unchanged
    how = HOW_IT_ENDED.get(report.exit_code, "not in step")
    yield f"{how}   {counted(in_source, 'document')}   {report.seconds:.1f} s"
    yield _counts_line(counts)
    embedded = f"{counted(report.texts_embedded, 'text')} ({counted(report.tokens_embedded, 'token')})"
    yield f"embedded {embedded}, reused {report.texts_reused:,}"
    width = max(map(len, report.sinks), default=0)
    for name, sink in report.sinks.items():
        upserted = f"upserted {counted(sink.upserted, 'record')} in {counted(sink.upsert_calls, 'call')}"
        deleted = f"deleted {sink.deleted:,} in {counted(sink.delete_calls, 'call')}"
        behind = f", {counted(sink.behind, 'document')} not in step" if sink.behind else ""
        yield f"{name:<{width}}  {upserted}, {deleted}{behind}"


def plan_lines(report: PlanReport) -> Iterator[str]:
    """Say what a run would do."""
    for document in report.documents:
        yield printable(f"{document.kind:<14} {document.id}" + (f"   {document.reason}" if document.reason else ""))
    yield _counts_line(report.counts)
    embed = f"{counted(report.texts_to_embed, 'text')} ({counted(report.tokens_to_embed, 'token')})"
    yield f"to embed {embed}, to reuse {report.texts_reused:,}"
    width = max(map(len, report.sinks), default=0)
    for name, sink in report.sinks.items():
        yield f"{name:<{width}}  to upsert {counted(sink.upserts, 'record')}, to delete {sink.deletes:,}"
    yield f"nothing was written   {report.seconds:.1f} s"


def _counts_line(counts: Counts) -> str:
    return (
        f"added {counts.added:,}  changed {counts.changed:,}  "
        f"metadata {counts.metadata_only:,}  moved {counts.moved:,}  "
        f"deleted {counts.deleted:,}  unchanged {counts.unchanged:,}  rejected {counts.rejected:,}"
    )


# --- the other commands -----------------------------------------------------------------------------


def check_lines(checks: Sequence[Check]) -> Iterator[str]:
    """Write one line a part."""
    width = max(len(check.part) for check in checks)
    for check in checks:
        answer = f"error: {check.error}" if check.error else f"ok ({check.found})"
        yield f"{check.part:<{width}}  {printable(answer)}"


def show_status(status: Status) -> None:
    """Print how the sinks stand, and the last runs."""
    table(
        ("sink", "documents", "records", "in doubt", "rejected"),
        [(s.sink, f"{s.documents:,}", f"{s.records:,}", f"{s.in_doubt:,}", f"{s.rejected:,}") for s in status.sinks],
        numbers=range(1, 5),
    )
    say("")
    if status.runs:
        table(
            ("run", "started", "took", "exit", "added", "changed", "deleted", "rejected"),
            [
                (
                    str(run.id),
                    time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started_at)),
                    "-" if run.ended_at is None else f"{run.ended_at - run.started_at:.1f} s",
                    "-" if run.exit_code is None else str(run.exit_code),
                    *[f"{run.report.get(name, '-')}" for name in ("added", "changed", "deleted", "rejected")],
                )
                for run in status.runs
            ],
            numbers=(0, *range(2, 8)),
        )
    else:
        say("no run yet")
    say("")
    say(f"vector store: {counted(status.vectors, 'vector')}, {status.vectors_bytes / 1e6:,.1f} MB")
    say(f"running now: {status.running or 'nothing'}")


def hit_lines(hits: Sequence[Hit]) -> Iterator[str]:
    """Write the answers to a search, each with the beginning of its passage."""
    if not hits:
        yield "nothing found"
    for number, hit in enumerate(hits, start=1):
        title = hit.metadata.get("title")
        yield printable(f"{number}. {hit.score:.3f}  {hit.id}" + (f"  {title}" if isinstance(title, str) else ""))
        excerpt = " ".join(hit.text.split())
        more = " ..." if len(excerpt) > EXCERPT_CHARACTERS else ""
        yield f"   {printable(excerpt[:EXCERPT_CHARACTERS])}{more}"


def explanation_lines(explanation: Explanation) -> Iterator[str]:
    """Write why a document is, or is not, in the indexes."""
    name = printable(explanation.document_id)
    if explanation.place is None:
        yield f"{name}: the source does not list it"
    else:
        yield f"{name}: the source lists it at {printable(explanation.place)}"
    if explanation.refusal:
        yield f"the source cannot give it: {printable(explanation.refusal)}"
    for standing in explanation.sinks:
        reason = f"; {printable(standing.reason)}" if standing.reason else ""
        yield f"{standing.sink}: {standing.state}, {counted(standing.records, 'record')}{reason}"
    for place in explanation.unreadable:
        yield f"this place cannot be read, and may hide it: {printable(f'{place.place}: {place.reason}')}"
    if run := explanation.last_run:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started_at))
        yield f"last run: {when}, " + ("not finished" if run.exit_code is None else f"exit code {run.exit_code}")
    else:
        yield "last run: none yet"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()) -> None:
    """Print a table; the columns in `numbers` stand to the right. Nothing is cut where no terminal is."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    to_the_right = set(numbers)
    for column, title in enumerate(header):
        drawn.add_column(title, justify="right" if column in to_the_right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*map(printable, row))
    _console().print(drawn)


def say(line: str) -> None:
    """Print a line on stdout."""
    sys.stdout.write(f"{line}\n")


def say_all(lines: Iterable[str]) -> None:
    """Print lines on stdout."""
    for line in lines:
        say(line)


def complain_all(lines: Iterable[str]) -> None:
    """Print lines on stderr."""
    for line in lines:
        complain(printable(line))


def complain(line: str) -> None:
    """Print a line on stderr, after what stands on stdout."""
    sys.stdout.flush()
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 10_000
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)
