"""Bring every sink to what the source has now. Start reading here.

    ahead       where embedding costs: what is missing, is that meant, and jobs for what is much
    walk        over the source, once for all sinks, and once more for those that could not keep up:
      survey      what differs from each sink's ledger, in groups of documents; what a sink could never store
      embedding   a vector for each text that needs one: from the store, or from the embedder into it
      delivery    begin, upsert, delete leftovers, commit: for each sink in a lane of its own
      departures  then, after a complete listing and if the guard agrees, what is gone goes
    summary     how it ended, and whether each sink holds as many records as were written

A sink's ledger moves only after the sink's answer, so a run may stop anywhere and the next one
carries on. What is repeated is harmless: records have fixed names, and vectors are stored. A sink that
does not answer is stopped, at the start or at any later call, and the others go on without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from .ahead import Ahead, price_of
from .delivery import Delivery
from .embedding import Embedding
from .errors import (
    BUG,
    INTERRUPTED,
    ConfigError,
    ConnectorError,
    SafetyError,
    StoppedError,
    TransientError,
    UnknownOutcomeError,
)
from .events import Emit, Event, LedgerVoided, RunStarted, ignore
from .job_book import JobBook
from .jobs import Jobs, Outcome
from .lanes import Lanes
from .model import JsonValue
from .money import Spending, cost
from .pace import Pace
from .parts import Options, Parts
from .planning import plan, survey_of
from .ports import BilledEmbedder, JobEmbedder
from .report import Report, SinkReport
from .retry import Retry
from .stopping import Stop
from .summary import drift, objections, reembed_objection, sink_problems, source_problems
from .survey import Survey, Update
from .tally import exit_code
from .walk import Walk

__all__ = ["JOBS_FOLDER", "Options", "Parts", "plan", "sync"]

JOBS_FOLDER = "jobs"  # of the state: the texts that wait for their jobs


def sync(
    parts: Parts,
    options: Options = Options(),  # noqa: B008  # frozen
    *,
    retry: Retry = Retry(),  # noqa: B008  # frozen
    emit: Emit = ignore,
    clock: Callable[[], float] = time.monotonic,
    stop: Stop | None = None,
) -> Report:
    """Sync once. The report says how it ended, also where something was left undone, or `stop` was asked.

    Raises:
        ConfigError: the source or a sink cannot work as configured; nothing was embedded.
        SafetyError: every document would be embedded again, and nobody has accepted that.
        TransientError: the state folder cannot be written; what is committed stays.
        LeaseError: another process took the state over.
    """
    run = _Run(parts, options, retry, _one_at_a_time(emit), clock, stop or Stop())
    with run.stop.heeded(run.ending.set, run.give_up):
        try:
            run.prepare()
            run.embed_ahead()
            run.walk()
            return run.end()
        except (Exception, KeyboardInterrupt) as error:
            run.note_failure(error)
            raise


class _Run:
    """One sync: its parts, and what it has done so far."""

    def __init__(  # noqa: PLR0917 - called once, by `sync`, with what it was called with
        self, parts: Parts, options: Options, retry: Retry, emit: Emit, clock: Callable[[], float], stop: Stop
    ) -> None:
        self.parts, self.options, self.emit, self.clock, self.stop = parts, options, emit, clock, stop
        self.started = clock()
        self.ending = threading.Event()  # early: nobody waits any more
        self.retry = retry = retry.until(self.ending)
        self.jobs: Jobs | None = None
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
            stop,
        )
        self.deliveries = {
            sink.name: Delivery(sink, parts.embedder.dimension, parts.checkpoints, retry, emit, threads=options.threads)
            for sink in parts.sinks
        }
        self.survey: Survey
        self.walks: list[Walk] = []
        self.run_id = 0

    @property
    def stopped(self) -> list[str]:
        """The sinks that are given up for this run."""
        return [name for name, delivery in self.deliveries.items() if delivery.stopped]

    def prepare(self) -> None:
        """Make every sink and its ledger ready, before anything is read or paid for."""
        parts, checkpoints = self.parts, self.parts.checkpoints
        recipe = parts.recipe.parts()
        parts.source.check()
        for delivery in self.deliveries.values():
            delivery.check()
        if not self.options.accept_reembed and (objection := reembed_objection(parts, without=self.stopped)):
            raise SafetyError(objection)
        for name, delivery in self.deliveries.items():
            if forgotten := delivery.open_ledger():
                self.emit(LedgerVoided(name, forgotten))
            if not delivery.stopped and checkpoints.recipe(name) != recipe:
                checkpoints.set_recipe(name, recipe)
        self.run_id = checkpoints.start_run(time.time())
        self.survey = survey_of(parts, self.emit, left_out=self.stopped, stop=self.stop)
        self.emit(RunStarted(self.run_id, {name: len(s.known) for name, s in self.survey.sightings.items()}))

    def embed_ahead(self) -> None:
        """Where embedding costs, see what it is going to be before it begins; what is much goes through jobs now."""
        parts = self.parts
        if len(self.stopped) == len(parts.sinks):
            return
        self.jobs = jobs = self._jobs()
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
            wait=self.options.wait_for_jobs,
            plan_jobs=self.options.plan_jobs,
        )
        is_first = not any(parts.checkpoints.count(name) for name in self.deliveries)
        try:
            self.ahead.embed(self._groups, first_run=is_first)
            self.stop.demand()
        except SafetyError as error:
            self.objection = str(error)
        except (TransientError, UnknownOutcomeError, StoppedError) as error:
            self.survey.break_off(error)

    def _groups(self) -> Iterable[Sequence[Update]]:
        return survey_of(self.parts, ignore, left_out=self.stopped, stop=self.stop).groups()

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
            stop=lambda: self.stop.is_asked,
        )

    def walk(self) -> None:
        """Walk the source for all sinks, and again for those that could not keep up, each time for fewer of them."""
        threaded = {sink.name: self.options.threads and not sink.limits.in_process for sink in self.parts.sinks}
        with Lanes(threaded, give_up=self.give_up, patience_seconds=self.options.patience_seconds) as lanes:
            walk = Walk(self.survey, self.deliveries, self.embedding, lanes, self.emit, self._open_texts)
            while True:
                self.walks.append(walk)
                if not (self.objection or walk.survey.error):
                    walk.bring_what_differs()
                    self.objection = walk.objection
                walk.take_out(self.options.guard, self.walks[0].departures.objection if self.walks[1:] else None)
                lanes.drain(walk.slow)
                if not walk.slow or not walk.survey.complete:
                    break
                survey, deliveries = self._survey_again(walk.slow), self._begin_anew(walk.slow)
                walk = Walk(survey, deliveries, self.embedding, lanes, ignore, self._open_texts)

    @property
    def _open_texts(self) -> Callable[[Sequence[bytes]], set[bytes]] | None:
        """What tells which texts are in an open job, if one was left open."""
        return self.jobs.open_texts if self.jobs is not None and self.jobs.has_open() else None

    def give_up(self) -> None:
        """Make no more calls to any sink, and wait for nothing."""
        for delivery in self.deliveries.values():
            delivery.give_up()
        self.ending.set()

    def _survey_again(self, names: Sequence[str]) -> Survey:
        """Begin a walk for some sinks, from what their ledgers have by now; what it finds wrong was told before."""
        survey = survey_of(self.parts, ignore, sinks=names, stop=self.stop)
        survey.live = self.survey.live
        return survey

    def _begin_anew(self, names: Sequence[str]) -> dict[str, Delivery]:
        for name in names:
            self.deliveries[name].committed.clear()  # is in the ledger, from which the new walk starts
        return {name: self.deliveries[name] for name in names}

    def end(self) -> Report:
        """Note how the run ended; where all is in step, leave what makes the next one quick."""
        parts, checkpoints, first = self.parts, self.parts.checkpoints, self.walks[0]
        if first.survey.complete:
            checkpoints.replace_unreadable([*first.survey.unreadable, *first.survey.duplicates])
        for walk in self.walks[1:]:
            first.tally.refuse_later(walk.tally.refused.keys() - first.survey.still_rejected)
        counts = first.tally.counts(first.survey, first.departures)
        sinks, drifted = self._end_sinks()
        behind = any(not w.survey.complete or w.survey.skipped or w.survey.waiting for w in self.walks)
        behind = behind or any(sink.behind or sink.stopped for sink in sinks.values())
        if not behind and not drifted:
            parts.vectors.prune(keep=self.options.keep_vectors, max_bytes=self.options.max_vector_bytes)
        objection = self.objection or next(objections(walk.departures for walk in self.walks), None)
        by_jobs, texts_tried = (self.ahead.outcome, self.ahead.texts_tried) if self.ahead else (Outcome(), 0)
        price = price_of(parts_embedder := parts.embedder)
        billed = None
        if isinstance(parts_embedder, BilledEmbedder):
            billed = parts_embedder.billed_tokens + by_jobs.billed_tokens
        report = Report(
            counts=counts,
            texts_embedded=self.embedding.texts_embedded + by_jobs.stored_texts,
            texts_reused=max(0, self.embedding.texts_reused - by_jobs.stored_texts - texts_tried),
            texts_by_jobs=by_jobs.stored_texts,
            open_jobs=by_jobs.open_jobs,
            tokens_embedded=self.embedding.tokens_embedded + by_jobs.stored_tokens,
            tokens_billed=billed,
            cost=None if billed is None else cost(billed, price),
            currency=price.currency if price else None,
            sinks=sinks,
            seconds=self.clock() - self.started,
            exit_code=exit_code(rejected=counts.rejected, behind=behind, objection=objection, drifted=bool(drifted)),
            problems=tuple(self._problems(counts.rejected, drifted)),
            run_id=self.run_id,
            altered=tuple(alteration for delivery in self.deliveries.values() for alteration in delivery.alterations),
        )
        checkpoints.end_run(self.run_id, time.time(), report.exit_code, replace(report, altered=()).as_json())
        return report

    def _end_sinks(self) -> tuple[dict[str, SinkReport], list[str]]:
        """Sum up each sink, and say which have drifted; of those in step, keep what makes the next run quick."""
        checkpoints = self.parts.checkpoints
        surveys = {name: walk.survey for walk in self.walks for name in walk.deliveries}  # the latest of each
        reports: dict[str, SinkReport] = {}
        drifted: list[str] = []
        for name, delivery in self.deliveries.items():
            survey, difference = surveys[name], None
            delivery.behind += len(survey.skipped) + survey.waiting
            if delivery.stopped and name in survey.left_out:
                delivery.behind += survey.lacking(name)
            if not (delivery.behind or delivery.stopped or not survey.complete):
                records = checkpoints.records(name) if delivery.answers else None
                if not checkpoints.has_kept_known(name):
                    checkpoints.keep_known(name, survey.sightings[name].still_valid(delivery.committed), records)
                difference, told = drift(delivery.sink, records)
                drifted += [told] if told else []
            reports[name] = replace(delivery.report(), drift=difference)
        return reports, drifted

    def _problems(self, rejected: int, drifted: Sequence[str]) -> Iterator[str]:
        if not self.objection:
            yield from source_problems([walk.survey for walk in self.walks], rejected)
        yield from sink_problems(self.deliveries)
        yield from drifted
        yield from objections(walk.departures for walk in self.walks)
        if self.objection:
            yield self.objection

    def note_failure(self, error: BaseException) -> None:
        """Note how the run ended that ends by an error, as far as it got and the state can be written."""
        if isinstance(error, ConnectorError):
            exit_code: int = error.exit_code
        else:
            exit_code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else BUG
        if self.run_id:
            told: dict[str, JsonValue] = {"problems": [str(error) or type(error).__name__], "exit_code": exit_code}
            with suppress(Exception):  # the error that ended the run is the one to be told
                self.parts.checkpoints.end_run(self.run_id, time.time(), exit_code, told)


def _one_at_a_time(emit: Emit) -> Emit:
    """Call a subscriber from one thread at a time."""
    lock = threading.Lock()

    def emit_locked(event: Event) -> None:
        with lock:
            emit(event)

    return emit_locked
