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
    DatasetsCleaned,
    DocumentsCommitted,
    DocumentsDeleted,
    EmbeddingForeseen,
    Emit,
    Event,
    JobAttemptLost,
    JobDropped,
    JobDuplicated,
    JobFailed,
    JobInDoubt,
    JobProgress,
    JobStarted,
    JobStored,
    JobUrgent,
    LedgerVoided,
    RowsListed,
    RunStarted,
    SinkFellBehind,
    SinkStopped,
    TextsEmbedded,
)
from .money import Forecast, Way, money
from .report import Alteration, Counts, PlanReport, Report

if TYPE_CHECKING:
    from rich.console import Console

    from .checkpoint import Run
    from .inspection import Check, Explanation, Status
    from .model import Hit

SECONDS_BETWEEN_LINES = 5.0
EXCERPT_CHARACTERS = 300
ALTERATIONS_SHOWN = 3  # where not all are asked for
SECONDS_PER_MINUTE = 60.0
SECONDS_PER_HOUR = 3_600.0
SECONDS_PER_DAY = 24 * SECONDS_PER_HOUR

WAYS = {"now": "at once", "jobs": "by embed jobs"}
STAGES_OF_A_JOB = {
    "planned": "waits for its turn",
    "uploaded": "its texts are being validated",
    "submitting": "looking whether it was started",
}
RUN_COUNTS = ("added", "changed", "deleted", "rejected")
BILL = ("by jobs", "tokens billed", "cost")
HOW_IT_ENDED = {
    ExitCode.IN_STEP: "in step",
    ExitCode.REJECTED: "in step but for the rejected",
    ExitCode.BEHIND: "not in step",
    ExitCode.SAFETY: "stopped to ask",
    ExitCode.DRIFT: "drifted",
}


def printable(text: str) -> str:
    """Replace what a terminal would obey instead of showing, and what it cannot show."""
    return "".join([character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text])


def counted(number: int, noun: str) -> str:
    """Write "1 call", "2,000 calls"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """Write how long something lasts in the unit that fits: "40 s", "12 min", "5.2 h", "3.0 days"."""
    if seconds < SECONDS_PER_MINUTE:
        return f"{seconds:.0f} s"
    if seconds < SECONDS_PER_HOUR:
        return f"{seconds / SECONDS_PER_MINUTE:.0f} min"
    if seconds < 2 * SECONDS_PER_DAY:
        return f"{seconds / SECONDS_PER_HOUR:.1f} h"
    return f"{seconds / SECONDS_PER_DAY:.1f} days"


def amount(cost: float, currency: str) -> str:
    """Write a sum of money: with cents, or small as it is."""
    return f"{cost:,.{2 if cost >= 1 or not cost else 4}f} {currency}"


# --- progress ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class SoFar:
    """What a run has done, by its events."""

    fraction: float = 0.0
    rows: int = 0
    texts: int = 0
    records: dict[str, int] = field(default_factory=dict)  # by sink
    deleted: dict[str, int] = field(default_factory=dict)  # documents, by sink
    jobs: dict[str, str] = field(default_factory=dict)  # by token: how each open one is

    def add(self, event: Event) -> str | None:
        """Count an event; some are worth a line at once."""
        told = None
        match event:
            case RunStarted(ledgers=ledgers):
                self.rows, self.fraction = 0, 0.0  # of this walk: there is one for each generation
                known = ", ".join(f"{sink} {counted(documents, 'document')}" for sink, documents in ledgers.items())
                told = f"reading the source; known: {known}"
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
                told = f"{what}: {error}; trying again in {seconds:.0f} s"
            case SinkStopped(sink=sink, error=error):
                told = f"{sink} stopped: {error}"
            case SinkFellBehind(sink=sink):
                told = f"{sink} is slower than the others, and is brought up when they are done"
            case LedgerVoided(sink=sink, documents=documents):
                told = f"{sink} is a new collection; {counted(documents, 'document')} will be written again"
            case _:
                told = self._add_of_jobs(event)  # a document's or a place's own trouble is told at the end
        return told

    def _add_of_jobs(self, event: Event) -> str | None:
        told = None
        match event:
            case EmbeddingForeseen(texts=texts, way=way, reason=reason):
                told = f"to embed: {counted(texts, 'text')}, {WAYS.get(way, way)}: {reason}"
            case JobStarted(token=token, job_id=id, texts=texts, adopted=adopted):
                self.jobs[token] = f"embed job {id}"
                of = f": {counted(texts, 'text')}" if texts else ""  # of one that was found, they are not known
                told = f"embed job {id} {'was found again' if adopted else 'runs'}{of}"
            case JobProgress(token=token, state=state, job_id=id, fraction=fraction):
                how = STAGES_OF_A_JOB.get(state) or ("runs" if fraction is None else f"{fraction:.0%}")
                self.jobs[token] = f"embed job {id} {how}" if id else f"an embed job: {how}"
            case JobStored(token=token, texts=texts):
                self.texts += texts
                self.jobs.pop(token, None)
                told = f"the vectors of {counted(texts, 'text')} of an embed job are stored"
            case JobInDoubt(error=error):
                told = f"looking whether the embed job was started: {error}"
            case JobAttemptLost(token=token, reason=reason):
                self.jobs.pop(token, None)
                told = f"an embed job came to nothing, and is tried again: {reason}"
            case JobFailed(token=token, reason=reason):
                self.jobs.pop(token, None)
                told = f"an embed job is given up, and its texts are embedded without one: {reason}"
            case JobDropped(token=token, texts=texts, reason=reason):
                self.jobs.pop(token, None)
                told = f"an embed job of {counted(texts, 'text')} is dropped: {reason}"
            case _:
                told = _other_news_of_jobs(event)
        return told

    def jobs_told(self) -> str:
        """Say how each open job is that was looked at."""
        return ", ".join(self.jobs.values())

    def counters(self) -> str:
        """Write the counts that are not zero."""
        parts = [f"{counted(self.rows, 'row')} listed", *([f"{self.texts:,} texts embedded"] if self.texts else [])]
        parts += self.jobs.values()
        parts += [f"{sink}: {counted(records, 'record')} written" for sink, records in self.records.items()]
        parts += [f"{sink}: {counted(documents, 'document')} deleted" for sink, documents in self.deleted.items()]
        return ", ".join(parts)


def _other_news_of_jobs(event: Event) -> str | None:
    match event:
        case JobDuplicated(job_id=id):
            return f"embed job {id} was a second one on the same texts, and is cancelled; what it did is charged"
        case JobUrgent(age_days=days):
            return f"an embed job is {days:.0f} days old, and the service will soon delete what belongs to it"
        case DatasetsCleaned(datasets=datasets):
            return f"{counted(datasets, 'dataset')} of ours that no job needs any more, deleted at the service"
        case _:
            return None


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


class StageLines:
    """Stages for logs: a line when one begins, and every few seconds while it lasts."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._stage = ""
        self._next_line_at = 0.0

    def __call__(self, stage: str, told: str, fraction: float | None) -> None:
        """Be told how far a stage is."""
        if stage == self._stage and self._clock() < self._next_line_at:
            return
        self._stage = stage
        self._next_line_at = self._clock() + SECONDS_BETWEEN_LINES
        self._write(printable(" ".join(filter(None, (stage, "" if fraction is None else f"{fraction:.0%}", told)))))


@contextmanager
def stages() -> Iterator[Callable[[str, str, float | None], None]]:
    """Show on stderr how far the stage at hand is, while the body runs: a bar on a terminal, lines elsewhere.

    What is given is called with the stage, what there is to tell of it, and which part of it is done, if that is known.
    """
    if not sys.stderr.isatty():
        yield StageLines(complain)
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_console(stderr=True), transient=True) as bar:
        shown, task = "", bar.add_task("", total=None)

        def show(stage: str, told: str, fraction: float | None) -> None:
            nonlocal shown, task
            if stage != shown:
                bar.remove_task(task)
                # A hair more than all: a bar that is full stops its clock, and there is more to come.
                shown, task = stage, bar.add_task("", total=None if fraction is None else 1.0001)
            bar.update(task, completed=fraction or 0.0, description=printable(f"{stage} {told}".rstrip()))

        yield show


# --- how a run ended --------------------------------------------------------------------------------


def sync_lines(report: Report, *, verbose: bool = False) -> Iterator[str]:
    """Sum a run up for people; `verbose` names every document that is not stored as it is."""
    counts = report.counts
    in_source = counts.added + counts.changed + counts.metadata_only + counts.moved + counts.unchanged
    how = HOW_IT_ENDED.get(report.exit_code, "not in step")
    yield f"{how}   {counted(in_source, 'document')}   {report.seconds:.1f} s"
    yield _counts_line(counts)
    embedded = f"{counted(report.texts_embedded, 'text')} ({counted(report.tokens_embedded, 'token')})"
    by_jobs = f", {report.texts_by_jobs:,} of them by jobs" if report.texts_by_jobs else ""
    yield f"embedded {embedded}{by_jobs}, reused {report.texts_reused:,}"
    if report.tokens_billed is not None:
        price = f", {amount(report.cost, report.currency)}" if report.cost and report.currency else ""
        yield f"the service billed {counted(report.tokens_billed, 'token')}{price}"
    width = max(map(len, report.sinks), default=0)
    for name, sink in report.sinks.items():
        upserted = f"upserted {counted(sink.upserted, 'record')} in {counted(sink.upsert_calls, 'call')}"
        deleted = f"deleted {sink.deleted:,} in {counted(sink.delete_calls, 'call')}"
        behind = f", {counted(sink.behind, 'document')} not in step" if sink.behind else ""
        yield f"{name:<{width}}  {upserted}, {deleted}{behind}"
    yield from _alteration_lines(report.altered, sum(sink.altered for sink in report.sinks.values()), verbose=verbose)
    for other in report.others:
        yield f"generation {other.generation} as well: {HOW_IT_ENDED.get(other.exit_code, 'not in step')}"
    yield from map(printable, report.notes)


def _alteration_lines(altered: Sequence[Alteration], count: int, *, verbose: bool) -> Iterator[str]:
    """Name documents that a sink stores otherwise than they are: a few, or all that were kept."""
    if not count:
        return
    yield f"{counted(count, 'document')} not stored as they are:" if count > 1 else "1 document not stored as it is:"
    shown = altered if verbose else altered[:ALTERATIONS_SHOWN]
    for alteration in shown:
        yield printable(f"  {alteration.sink}  {alteration.document_id}: {'; '.join(alteration.alterations)}")
    if len(shown) < count:
        yield f"  and {count - len(shown):,} more" + ("" if verbose else "; see --verbose, or --json")


def plan_lines(report: PlanReport, *, verbose: bool = False) -> Iterator[str]:
    """Say what a run would do."""
    for document in report.documents:
        yield printable(f"{document.kind:<14} {document.id}" + (f"   {document.reason}" if document.reason else ""))
    yield _counts_line(report.counts)
    about, estimated = ("", "") if report.forecast.counts_exactly else ("about ", ", estimated")
    tokens = f"{about}{counted(report.tokens_to_embed, 'token')}{estimated}"
    yield f"to embed {counted(report.texts_to_embed, 'text')} ({tokens}), to reuse {report.texts_reused:,}"
    yield from _forecast_lines(report.forecast)
    width = max(map(len, report.sinks), default=0)
    for name, sink in report.sinks.items():
        if sink.stopped:
            yield f"{name:<{width}}  does not answer"
            continue
        refused = f", {counted(sink.refused, 'document')} it could never store" if sink.refused else ""
        yield f"{name:<{width}}  to upsert {counted(sink.upserts, 'record')}, to delete {sink.deletes:,}{refused}"
    yield from _alteration_lines(report.altered, sum(sink.altered for sink in report.sinks.values()), verbose=verbose)
    yield from map(printable, report.notes)
    yield f"nothing was written   {report.seconds:.1f} s"


def _forecast_lines(told: Forecast) -> Iterator[str]:
    """Say which way the texts would go and what that costs, where there is a choice or a price."""
    if told.way is Way.NONE or (told.price is None and told.minutes is None and told.way is Way.NOW):
        return
    yield f"{WAYS[told.way]}, in {counted(told.requests, 'request')}: {told.reason}"
    if told.minutes is not None:
        yield f"takes {told.minutes:,.1f} minutes at least, at the rate limit"
    if told.price is not None:
        yield f"costs {money(told) if told.cost else f'nothing ({told.price.source})'}"


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
        is_billed = any(run.report.get("tokens_billed") is not None for run in status.runs)
        table(
            ("run", "started", "took", "exit", *RUN_COUNTS, *(BILL if is_billed else ())),
            [(*_run_row(run), *(_bill_row(run) if is_billed else ())) for run in status.runs],
            numbers=(0, *range(2, 11)),
        )
    else:
        say("no run yet")
    say("")
    if status.oldest_open_job_seconds is not None:
        age = duration(status.oldest_open_job_seconds)
        say(f"embed jobs: {status.open_jobs:,} open, the oldest for {age}; see `vector-sync jobs`")
    say(f"vector store: {counted(status.vectors, 'vector')}, {status.vectors_bytes / 1e6:,.1f} MB")
    say(f"running now: {status.running or 'nothing'}")


def _run_row(run: Run) -> tuple[str, ...]:
    return (
        str(run.id),
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started_at)),
        "-" if run.ended_at is None else f"{run.ended_at - run.started_at:.1f} s",
        "-" if run.exit_code is None else str(run.exit_code),
        *[f"{run.report.get(name, '-')}" for name in RUN_COUNTS],
    )


def _bill_row(run: Run) -> tuple[str, ...]:
    by_jobs, billed, cost, currency = [
        run.report.get(n) for n in ("texts_by_jobs", "tokens_billed", "cost", "currency")
    ]
    return (
        f"{by_jobs:,}" if isinstance(by_jobs, int) else "-",
        f"{billed:,}" if isinstance(billed, int) else "-",
        amount(float(cost), str(currency)) if isinstance(cost, int | float) else "-",
    )


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
