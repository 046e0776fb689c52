"""Bring every sink to what the source has now. Start reading here.

    ahead       where embedding costs: what is missing, is that meant, and jobs for what is much
    survey      what differs from each sink's ledger, in groups of documents
    embedding   a vector for each text that needs one: from the store, or from the embedder into it
    delivery    begin, upsert, delete leftovers, commit: for each sink in a lane of its own
    departures  then, after a complete listing and if the guard agrees, what is gone goes

A sink's ledger moves only after the sink's answer, so a run may stop anywhere and the next one
carries on. What is repeated is harmless: records have fixed names, and vectors are stored.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from .ahead import Ahead, Missing, foresee, price_of, texts_to_write
from .checkpoint import Checkpoints
from .delivery import Delivery, chunks
from .embedding import Embedding
from .errors import ConfigError, SafetyError, TransientError, UnknownOutcomeError
from .events import Emit, Event, LedgerVoided, RunStarted, ignore
from .job_book import JobBook
from .jobs import Jobs, Outcome
from .lanes import Lane
from .money import Ceilings, Spending, cost
from .pace import Pace
from .passages import PassageSplitter
from .plan import Change, DeleteGuard, Recipe
from .ports import BilledEmbedder, Embedder, JobEmbedder, Sink, Source
from .report import PlannedDocument, PlanReport, Report, SinkPlan
from .retry import Retry
from .survey import Survey, Update
from .tally import Departures, Tally, exit_code
from .vectors import Keep, SqliteVectors

if TYPE_CHECKING:
    from .model import Vectors

DOCUMENTS_PER_DELETION = 1000
JOBS_FOLDER = "jobs"  # of the state: the texts that wait for their jobs


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator decides for a run."""

    max_delete_fraction: float = 0.1
    min_delete_count: int = 20  # that many documents may always be deleted
    confirm_deletes: int | None = None  # up to so many documents may be deleted in this run
    accept_reembed: bool = False  # the embedder or the splitter changed, and that is meant
    keep_vectors: Keep = "all"
    max_vector_bytes: int | None = None
    ceilings: Ceilings = field(default_factory=Ceilings)  # what embedding may cost
    threads: bool = True  # one for each sink that is a service; without, a run is the same each time

    @property
    def guard(self) -> DeleteGuard:
        """The guard that these options ask for."""
        return DeleteGuard(self.max_delete_fraction, self.min_delete_count, self.confirm_deletes)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a sync is put together from. Checkpoints that are open for writing hold the lease."""

    source: Source
    embedder: Embedder
    splitter: PassageSplitter
    sinks: Sequence[Sink]
    checkpoints: Checkpoints
    vectors: SqliteVectors
    source_settings: str  # all that decides what `fetch` makes of a document

    @property
    def recipe(self) -> Recipe:
        """All that turns a document into records, except the document."""
        return Recipe(self.embedder.identity, self.splitter.identity, self.source_settings)


def sync(
    parts: Parts,
    options: Options = Options(),  # frozen
    *,
    retry: Retry = Retry(),  # noqa: B008  # frozen
    emit: Emit = ignore,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Sync once. The report says how it ended, also where something was left undone.

    Raises:
        ConfigError: the source or a sink cannot work as configured; nothing was embedded.
        SafetyError: every document would be embedded again, and nobody has accepted that.
        TransientError: the state folder cannot be written; what is committed stays.
        LeaseError: another process took the state over.
    """
    run = _Run(parts, options, retry, _one_at_a_time(emit), clock)
    run.prepare()
    run.embed_ahead()
    with ExitStack() as open_lanes:
        lanes = {
            sink.name: open_lanes.enter_context(
                Lane(sink.name, threaded=options.threads and not sink.limits.in_process)
            )
            for sink in parts.sinks
        }
        run.bring_what_differs(lanes)
        departures = run.tally.departures(run.survey, options.guard)
        run.take_out(departures, lanes)
    return run.end(departures)


class _Run:
    """One sync: its parts, and what it has done so far."""

    def __init__(self, parts: Parts, options: Options, retry: Retry, emit: Emit, clock: Callable[[], float]) -> None:
        self.parts, self.options, self.emit, self.clock = parts, options, emit, clock
        self.started = clock()
        self.retry = retry
        self.tally = Tally()
        self.ahead: Ahead | None = None
        self.objection: str | None = None  # why the run stops to ask before it embeds more
        self.spending = Spending(options.ceilings.tokens(price_of(parts.embedder)))
        self.embedding = Embedding(
            parts.embedder,
            parts.vectors,
            retry,
            emit,
            self.spending,
            Pace(parts.embedder.limits, clock=clock, sleep=retry.sleep),
        )
        self.deliveries = {
            sink.name: Delivery(sink, parts.embedder.dimension, parts.checkpoints, retry, emit) for sink in parts.sinks
        }
        self.survey: Survey
        self.run_id = 0

    def prepare(self) -> None:
        """Make every sink and its ledger ready, before anything is read or paid for."""
        parts, checkpoints = self.parts, self.parts.checkpoints
        recipe = parts.recipe.parts()
        parts.source.check()
        for delivery in self.deliveries.values():
            delivery.check()
        if not self.options.accept_reembed and (objection := reembed_objection(parts)):
            raise SafetyError(objection)
        for name, delivery in self.deliveries.items():
            if forgotten := delivery.open_ledger():
                self.emit(LedgerVoided(name, forgotten))
            if checkpoints.recipe(name) != recipe:
                checkpoints.set_recipe(name, recipe)
        self.run_id = checkpoints.start_run(time.time())
        self.survey = _survey(parts, self.emit)
        self.emit(RunStarted(self.run_id, {name: len(s.known) for name, s in self.survey.sightings.items()}))

    def embed_ahead(self) -> None:
        """Where embedding costs, see what it is going to be before it begins; what is much goes through jobs now."""
        parts = self.parts
        jobs = self._jobs()
        if jobs is None and not isinstance(parts.embedder, BilledEmbedder):
            return
        self.ahead = Ahead(
            parts.embedder,
            parts.vectors,
            jobs,
            self.embedding,
            spool=parts.checkpoints.folder,
            ceilings=self.options.ceilings,
            spending=self.spending,
            emit=self.emit,
        )
        is_first = not any(parts.checkpoints.count(name) for name in self.deliveries)
        try:
            self.ahead.embed(lambda: _survey(parts, ignore).groups(), first_run=is_first)
        except SafetyError as error:
            self.objection = str(error)
        except (TransientError, UnknownOutcomeError) as error:
            self.survey.break_off(error)

    def _jobs(self) -> Jobs | None:
        embedder, checkpoints = self.parts.embedder, self.parts.checkpoints
        if not isinstance(embedder, JobEmbedder):
            if waiting := len(JobBook(checkpoints).open_jobs(embedder.identity)):
                raise ConfigError(
                    f"{waiting} embed jobs are open, and with these settings the embedder has no jobs, so their texts "
                    "would be paid for again; allow jobs, then `vector-sync jobs wait`, or `jobs cancel --all`"
                )
            return None
        return Jobs(
            embedder,
            JobBook(checkpoints),
            self.parts.vectors,
            checkpoints.folder / JOBS_FOLDER,
            retry=self.retry,
            emit=self.emit,
            monotonic=self.clock,
            sleep=self.retry.sleep,
        )

    def bring_what_differs(self, lanes: Mapping[str, Lane]) -> None:
        """Embed and deliver, group by group, until the source is walked, nobody listens or no more may be spent."""
        if self.objection or self.survey.error:
            return
        try:
            for group in self.survey.groups():
                vectors, refused = self.embedding.embed(texts_to_write(group))
                updates = [_refuse(update, refused) for update in group] if refused else group
                self.tally.add(updates)
                for name, delivery in self.deliveries.items():
                    if changes := self.tally.due(name, updates):
                        lanes[name].put(partial(self._deliver, delivery, updates, changes, vectors))
                if all(delivery.stopped for delivery in self.deliveries.values()):
                    break
        except TransientError as error:  # the source or the embedder gave up; what was delivered stays
            self.survey.break_off(error)
        except SafetyError as error:
            self.objection = str(error)
            self.survey.break_off(None)
        for lane in lanes.values():
            lane.drain()

    def _deliver(
        self,
        delivery: Delivery,
        updates: Sequence[Update],
        changes: Sequence[Change],
        vectors: Mapping[bytes, Vectors],
    ) -> None:
        self.tally.refuse(updates, delivery.write(changes, vectors))

    def take_out(self, departures: Departures, lanes: Mapping[str, Lane]) -> None:
        """Remove what is gone or rejected, unless the guard objects."""
        for name, delivery in self.deliveries.items():
            if departures.objection:
                delivery.behind += departures.behind(name)
                continue
            for removals in chunks(departures.removals[name], DOCUMENTS_PER_DELETION):
                lanes[name].put(partial(delivery.remove, removals))
            for gone in chunks(departures.gone[name], DOCUMENTS_PER_DELETION):
                lanes[name].put(partial(delivery.forget, gone))
        for lane in lanes.values():
            lane.drain()

    def end(self, departures: Departures) -> Report:
        """Note how the run ended; where all is in step, leave what makes the next one quick."""
        survey, checkpoints = self.survey, self.parts.checkpoints
        if survey.complete:
            checkpoints.replace_unreadable([*survey.unreadable, *survey.duplicates])
        counts = self.tally.counts(survey, departures)
        behind = not survey.complete or bool(survey.skipped)
        for name, delivery in self.deliveries.items():
            delivery.behind += len(survey.skipped)
            if delivery.behind or delivery.stopped or not survey.complete:
                behind = True
            elif not checkpoints.has_kept_known(name):
                checkpoints.keep_known(name, survey.sightings[name].still_valid(delivery.committed))
        if not behind:
            self.parts.vectors.prune(keep=self.options.keep_vectors, max_bytes=self.options.max_vector_bytes)
        by_jobs, texts_tried = (self.ahead.outcome, self.ahead.texts_tried) if self.ahead else (Outcome(), 0)
        price = price_of(parts_embedder := self.parts.embedder)
        billed = None
        if isinstance(parts_embedder, BilledEmbedder):
            billed = parts_embedder.billed_tokens + by_jobs.billed_tokens
        report = Report(
            counts=counts,
            texts_embedded=self.embedding.texts_embedded + by_jobs.stored_texts,
            texts_reused=self.embedding.texts_reused - by_jobs.stored_texts - texts_tried,
            texts_by_jobs=by_jobs.stored_texts,
            tokens_embedded=self.embedding.tokens_embedded + by_jobs.stored_tokens,
            tokens_billed=billed,
            cost=None if billed is None else cost(billed, price),
            currency=price.currency if price else None,
            sinks={name: delivery.report() for name, delivery in self.deliveries.items()},
            seconds=self.clock() - self.started,
            exit_code=exit_code(
                rejected=counts.rejected, behind=behind, objection=self.objection or departures.objection
            ),
            problems=(
                *([] if self.objection else _source_problems(survey, counts.rejected)),
                *self._sink_problems(),
                *_objections(departures),
                *([self.objection] if self.objection else []),
            ),
            run_id=self.run_id,
        )
        checkpoints.end_run(self.run_id, time.time(), report.exit_code, report.as_json())
        return report

    def _sink_problems(self) -> Iterable[str]:
        for name, delivery in self.deliveries.items():
            if delivery.stopped:
                yield (
                    f"sink {name} stopped, {delivery.behind} documents behind; "
                    f"run again when this is mended: {delivery.stopped}"
                )


def plan(
    parts: Parts,
    options: Options = Options(),  # frozen
    *,
    verbose: bool = False,
    emit: Emit = ignore,
    clock: Callable[[], float] = time.monotonic,
) -> PlanReport:
    """Find what a sync would do. Writes nothing; `verbose` names the documents.

    Raises:
        ConfigError: the source or a sink cannot work as configured.
    """
    started = clock()
    checkpoints = parts.checkpoints
    parts.source.check()
    held = {sink.name: sink.check(parts.embedder.dimension) for sink in parts.sinks}
    anew = frozenset(name for name, incarnation in held.items() if incarnation != checkpoints.incarnation(name))
    survey = _survey(parts, emit, anew)
    tally = Tally()
    missing = Missing(parts.vectors)
    upserts: dict[str, int] = dict.fromkeys(held, 0)
    leftovers: dict[str, int] = dict.fromkeys(held, 0)
    documents: list[PlannedDocument] = []
    for group in survey.groups():
        missing.add(texts_to_write(group))
        tally.add(group)
        for name in held:
            for change in tally.due(name, group):
                upserts[name] += len(change.upserts)
                if change.touches_sink:
                    leftovers[name] += max(0, change.extent_before - len(change.wanted.digests))
        if verbose:
            documents += [PlannedDocument(u.wanted.document_id, str(u.kind), u.wanted.problem or "") for u in group]
    departures = tally.departures(survey, options.guard)
    if verbose:
        gone = {entry.document_id for entries in departures.gone.values() for entry in entries}
        documents += [PlannedDocument(id, "deleted") for id in sorted(gone)]
        documents += [PlannedDocument(place, "rejected", why) for place, why in survey.unreadable + survey.duplicates]
    counts = tally.counts(survey, replace(departures, objection=None))  # what a sync would ask about counts, too
    reembed = None if options.accept_reembed else reembed_objection(parts)
    forecast = foresee(parts.embedder, missing)
    is_first = not any(checkpoints.count(name) for name in held)
    spending = options.ceilings.objection(forecast, first_run=is_first) or options.ceilings.short_of(forecast)
    return PlanReport(
        counts=counts,
        texts_to_embed=missing.texts,
        texts_reused=missing.reused,
        tokens_to_embed=missing.tokens,
        forecast=forecast,
        sinks={
            name: SinkPlan(
                upserts[name],
                leftovers[name]
                + sum(entry.extent for entry in departures.gone[name])
                + sum(change.extent_before for change in departures.removals[name]),
            )
            for name in held
        },
        seconds=clock() - started,
        exit_code=exit_code(
            rejected=counts.rejected, behind=not survey.complete, objection=departures.objection or reembed or spending
        ),
        problems=(
            *_source_problems(survey, counts.rejected),
            *_objections(departures),
            *filter(None, (reembed, spending)),
        ),
        documents=tuple(documents),
    )


def reembed_objection(parts: Parts) -> str | None:
    """Say that a sync would embed everything again, and why; None if it would not."""
    for sink in parts.sinks:
        changed = parts.recipe.reembeds(parts.checkpoints.recipe(sink.name))
        if changed and (documents := parts.checkpoints.count(sink.name)):
            return (
                f"{changed}, so all {documents} documents of sink {sink.name} would be split and embedded again; "
                "see what it costs with `vector-sync plan`, and accept it with --accept-reembed"
            )
    return None


def _survey(parts: Parts, emit: Emit, anew: frozenset[str] = frozenset()) -> Survey:
    names = [sink.name for sink in parts.sinks]
    return Survey(parts.source, parts.splitter, parts.recipe, parts.checkpoints, names, emit, anew)


def _refuse(update: Update, refused: Mapping[bytes, str]) -> Update:
    """Reject a document if the embedder refused one of its texts: it is in the sinks whole or not at all."""
    reasons = [refused[hash] for hash in update.wanted.text_hashes if hash in refused]
    return update.refuse(reasons[0]) if reasons else update


def _source_problems(survey: Survey, rejected: int) -> Iterable[str]:
    if survey.error is not None:
        yield f"{survey.error}"
    if not survey.complete:
        yield "the source was not read to its end, so nothing was deleted"
    if survey.skipped:
        yield (
            f"{len(survey.skipped)} documents changed or vanished while they were read, "
            f"such as {survey.skipped[0]}; the next run looks again"
        )
    if rejected:
        yield f"{rejected} documents are rejected; `vector-sync rejected` tells why"


def _objections(departures: Departures) -> Iterable[str]:
    if departures.objection:
        yield departures.objection


def _one_at_a_time(emit: Emit) -> Emit:
    """Call a subscriber from one thread at a time."""
    lock = threading.Lock()

    def emit_locked(event: Event) -> None:
        with lock:
            emit(event)

    return emit_locked
