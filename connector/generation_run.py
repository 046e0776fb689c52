"""One sync of every generation that is to be kept in step: the engine runs once for each, all under one lease.

settle   finish a switch that was cut off; believe the sinks about what is live
decide   see `generations`; a new generation asks first, with its price
sync     the live one, the retained ones, then the one that is being built
switch   what was built, is in step and verified, is given to the readers
prune    vectors that no generation waits for
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

from . import engine
from .ahead import price_of
from .config import canonical
from .errors import ConfigError, ConnectorError, ExitCode, LeaseError, SafetyError, SinkError, TransientError
from .events import Emit, ignore
from .generation_parts import OpenSync
from .generation_switch import Settled, follow, settle, switch, verify
from .generations import Decision, Generation, State, Step, live_of, sink_and_number
from .money import Ceilings, Forecast, money, tokens_in_words
from .parts import Options
from .planning import plan
from .ports import Embedder
from .report import PlanReport, Report
from .retry import Retry
from .stopping import Stop

IN_STEP = frozenset({ExitCode.IN_STEP, ExitCode.REJECTED})


def sync_generations(
    opened: OpenSync,
    options: Options,
    *,
    retry: Retry = Retry(),  # noqa: B008  # frozen
    emit: Emit = ignore,
    now: Callable[[], float] = time.time,
    stop: Stop | None = None,
) -> Report:
    """Bring every generation to what the source has now, and send readers to the one that was built, if it is whole.

    The report is of the generation that the settings ask for; it has those of the others, and the worst exit code.

    Raises:
        SafetyError: a new generation would be built, and its price was not accepted.
        ConfigError, TransientError, LeaseError: see `engine.sync`; of the generation that the settings ask for.
    """
    settled = settle(opened, now=now(), retry=retry, emit=emit)
    decision = opened.decide(settled.generations, settled.words, accepted=options.accept_reembed)
    target = opened.target(decision, settled.generations, now())
    if decision.step is Step.ASK and (live := live_of(settled.generations)):
        raise SafetyError(_plan_new(opened, live, target, options, emit=emit).problems[-1])
    run = _Run(opened, options, settled, decision, target, retry, emit, now, stop or Stop())
    run.note_target()
    return run.sync()


def plan_generations(opened: OpenSync, options: Options, *, verbose: bool = False, emit: Emit = ignore) -> PlanReport:
    """Find what a sync would do about the generation that the settings ask for. Writes nothing."""
    words = opened.words()
    generations = opened.generations(words)
    decision = opened.decide(generations, words, accepted=options.accept_reembed)
    target = opened.target(decision, generations, time.time())
    if decision.step is Step.ASK and (live := live_of(generations)):
        report = _plan_new(opened, live, target, options, verbose=verbose, emit=emit)
    else:
        with opened.parts(target) as parts:
            report = plan(parts, _for_target(options, decision, target), verbose=verbose, emit=emit)
    return replace(
        report,
        generation=target.number,
        sinks={sink_and_number(name)[0]: sink for name, sink in report.sinks.items()},
        notes=tuple(_notes(decision, generations)),
    )


def _plan_new(
    opened: OpenSync,
    live: Generation,
    target: Generation,
    options: Options,
    *,
    verbose: bool = False,
    emit: Emit,
) -> PlanReport:
    """Plan a generation that nobody has accepted yet; the last problem asks for that, and says what it costs."""
    confirmed = replace(options, ceilings=replace(options.ceilings, confirmed=True))
    with opened.parts(target) as parts:
        report = plan(parts, confirmed, verbose=verbose, emit=emit)
    asks = (
        f"{target.made.difference(live.made)}, so generation {target.number} would be built beside {live.number}, "
        f"which readers keep until it is whole: {_price(report.forecast)}; accept it with --accept-reembed"
    )
    return replace(report, exit_code=max(report.exit_code, ExitCode.SAFETY), problems=(*report.problems, asks))


def _price(told: Forecast) -> str:
    cost = f", for {money(told)}" if told.price is not None else ""
    return f"{told.texts:,} texts to embed, {tokens_in_words(told)}{cost}"


def _for_target(options: Options, decision: Decision, target: Generation) -> Options:
    """Do not ask for a price that was accepted already; prune nothing that another generation waits for."""
    confirmed = options.ceilings.confirmed or target.accepted_at is not None or decision.step is Step.BUILD
    return replace(
        options, ceilings=replace(options.ceilings, confirmed=confirmed), keep_vectors="all", max_vector_bytes=None
    )


def _notes(decision: Decision, generations: Sequence[Generation]) -> list[str]:
    """Say what people should know of the generations, one line each."""
    notes = []
    states = {it.number: it.state for it in generations}
    if decision.step in (Step.BUILD, Step.BEGIN) and states.get(decision.target) is not State.LIVE:
        notes.append(f"generation {decision.target} is being built; readers get generation {decision.live} meanwhile")
    if decision.step is Step.HOLD:
        notes.append(
            f"readers get generation {decision.live}, and the settings ask for {decision.target}; "
            f"`vector-sync generations switch {decision.target}` sends them there"
        )
    notes += [
        f"generation {number} was half built for other settings, and is left as it is; "
        f"`vector-sync generations drop {number}` removes it"
        for number in decision.abandoned
        if states.get(number) is State.BUILDING
    ]
    notes += [
        f"generation {number} is half removed; `vector-sync generations drop {number}` finishes that"
        for number, state in states.items()
        if state is State.DROPPING
    ]
    return notes


@dataclass(slots=True)
class _Run:
    """One sync of several generations."""

    opened: OpenSync
    options: Options
    settled: Settled
    decision: Decision
    target: Generation
    retry: Retry
    emit: Emit
    now: Callable[[], float]
    stop: Stop
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reports: dict[int, Report] = field(default_factory=dict)
    without_changes: set[int] = field(default_factory=set)  # whose embedder cannot be had
    worst: ExitCode = ExitCode.IN_STEP

    def note_target(self) -> None:
        """Note the generations before anything is done for them, so that a kill leaves nothing unknown."""
        book = self.opened.book
        self.problems += self.settled.problems
        if self.settled.problems:
            self._worse(ExitCode.BEHIND)
        for number in self.decision.abandoned:
            book.set_in_step(number, in_step=False)  # this run may find changes, and it does not get them
        known = {it.number for it in book.all()}
        for it in self.settled.generations:
            if it.number not in known:  # the state is older than the book
                book.save(replace(it, created_at=self.now(), switched_at=self.now()))
        if self.decision.is_new:
            self.target = replace(self.target, accepted_at=self.now() if self.options.accept_reembed else None)
            self._check_sinks()
            book.save(self.target)
        elif self.decision.step is not Step.REPLACE:
            self._note_settings()
        elif self.options.accept_reembed:
            self._check_sinks()
            self._note_settings()

    def _check_sinks(self) -> None:
        """Raise ConfigError if a sink could not hold what is asked for, or not make it live; then it is not begun."""
        with self.opened.parts(self.target) as parts:
            for sink in parts.sinks:
                with suppress(TransientError, SinkError):  # the engine's to cope with
                    sink.check(parts.embedder.dimension)

    def _note_settings(self) -> None:
        """Keep the embedder's settings as they are now in the target's row."""
        stored = next(it for it in self.opened.book.all() if it.number == self.target.number)
        settings = canonical(self.opened.settings.embedder)
        if (stored.made, stored.embedder_settings) != (self.target.made, settings):
            self.opened.book.save(replace(stored, made=self.target.made, embedder_settings=settings))

    def sync(self) -> Report:
        """Sync each generation, then switch and prune."""
        order = [*self.decision.others]
        if self.target.number == self.decision.live or self.decision.live is None:
            order.insert(0, self.target.number)
        else:
            order.append(self.target.number)
        rows = {it.number: it for it in self.opened.book.all()}
        for number in order:
            if number == self.target.number:
                self._sync_target()
            else:
                self._sync_other(rows[number])
        self._give_to_readers()
        live = live_of(self.opened.book.all())
        if live and live.number in self.without_changes:
            self._worse(ExitCode.BEHIND)  # of a retained one it is no error; of this one readers see it
        self._prune(order)
        return self._report()

    def _sync_target(self) -> None:
        options = self._left(_for_target(self.options, self.decision, self.target))
        with self.opened.parts(self.target) as parts:
            report = engine.sync(parts, options, retry=self.retry, emit=self.emit, stop=self.stop)
        if self.decision.step is Step.REPLACE:
            self._note_settings()
        self._keep(self.target.number, report)

    def _sync_other(self, generation: Generation) -> None:
        """Let a generation that the settings do not ask for receive what changed, if its embedder can still be had."""
        options = replace(self.options, accept_reembed=False, keep_vectors="all", max_vector_bytes=None)
        try:
            with self.opened.parts(generation, is_target=False) as parts:
                options = self._left(options, parts.embedder)
                report = engine.sync(parts, options, retry=self.retry, emit=self.emit, stop=self.stop)
        except LeaseError:
            raise
        except ConnectorError as error:
            self.opened.book.set_in_step(generation.number, in_step=False)
            self.problems.append(f"generation {generation.number} ({generation.state}) receives no changes: {error}")
            self.without_changes.add(generation.number)
            if not isinstance(error, ConfigError):
                self._worse(ExitCode.BEHIND)
            return
        self._keep(generation.number, report)

    def _left(self, options: Options, embedder: Embedder | None = None) -> Options:
        """Give what is left of the run's ceilings by the generations before this one."""
        ceilings: Ceilings = options.ceilings
        tokens = sum(it.tokens_embedded for it in self.reports.values())
        costs = sum(it.cost or 0.0 for it in self.reports.values())
        max_cost = None if ceilings.max_cost is None else max(0.0, ceilings.max_cost - costs)
        if embedder is not None and price_of(embedder) is None:
            max_cost = None  # nobody knows what it costs, and it was allowed once
        max_tokens = None if ceilings.max_tokens is None else max(0, ceilings.max_tokens - tokens)
        return replace(options, ceilings=replace(ceilings, max_tokens=max_tokens, max_cost=max_cost))

    def _keep(self, number: int, report: Report) -> None:
        """Keep a generation's report, under the sinks' plain names."""
        sinks = {sink_and_number(name)[0]: sink for name, sink in report.sinks.items()}
        report = replace(report, generation=number, sinks=sinks)
        self.reports[number] = report
        self.opened.book.set_in_step(number, in_step=report.exit_code in IN_STEP)
        if number != self.target.number or self.decision.others:
            checkpoints = self.opened.checkpoints
            checkpoints.end_run(report.run_id, self.now(), report.exit_code, report.as_json())

    def _give_to_readers(self) -> None:
        """Switch to what was built; let a sink that was added, or was out of reach at a switch, follow the others."""
        report = self.reports[self.target.number]
        if report.exit_code not in IN_STEP:
            return
        number = self.target.number
        try:
            if self.decision.step in (Step.BUILD, Step.BEGIN):
                self._switch_to_built(number)
            elif number == self.decision.live:
                for name, word in self.settled.words.items():
                    if word not in (None, number):
                        self._follow(name, number)
        except (TransientError, SinkError) as error:
            self.problems.append(f"readers could not be sent to generation {number}; the next run goes on: {error}")
            self._worse(ExitCode.BEHIND)

    def _switch_to_built(self, number: int) -> None:
        if objection := verify(self.opened, number, retry=self.retry, emit=self.emit):
            self.problems.append(objection)
            self._worse(ExitCode.DRIFT)
        elif self.opened.settings.sync.switch == "manual":
            self.notes.append(
                f"generation {number} is in step; `vector-sync generations switch {number}` sends readers there"
            )
        else:
            switch(self.opened, number, now=self.now(), retry=self.retry, emit=self.emit)
            receives = "" if self.decision.live in self.without_changes else ", and receives changes,"
            self.notes.append(
                f"readers get generation {number} now; generation {self.decision.live} is kept{receives} "
                f"until `vector-sync generations drop {self.decision.live}`"
            )

    def _follow(self, name: str, number: int) -> None:
        if objection := verify(self.opened, number, retry=self.retry, emit=self.emit):
            self.problems.append(objection)
            self._worse(ExitCode.DRIFT)
        else:
            follow(self.opened, name, number, retry=self.retry, emit=self.emit)
            self.notes.append(f"readers of sink {name} get generation {number} now, as those of the others do")

    def _prune(self, order: Sequence[int]) -> None:
        """Forget vectors, if every generation that waits for some has them."""
        is_behind = any(number in self.reports and self.reports[number].exit_code not in IN_STEP for number in order)
        keep, max_bytes = self.options.keep_vectors, self.options.max_vector_bytes
        if is_behind or (keep == "all" and max_bytes is None) or any(it.is_building for it in self.opened.book.all()):
            return
        with closing(self.opened.vectors(self.opened.asked_embedder)) as vectors:
            vectors.prune(keep=keep, max_bytes=max_bytes)

    def _report(self) -> Report:
        report = self.reports.pop(self.target.number)
        others = tuple(self.reports.values())
        problems = [f"generation {it.generation}: {line}" for it in others for line in it.problems]
        notes = [*self.notes, *_notes(self.decision, self.opened.book.all())]
        return replace(
            report,
            exit_code=max(self.worst, report.exit_code, *(it.exit_code for it in others)),
            open_jobs=report.open_jobs + sum(it.open_jobs for it in others),
            problems=(*report.problems, *problems, *self.problems),
            notes=tuple(notes),
            others=others,
        )

    def _worse(self, code: ExitCode) -> None:
        self.worst = max(self.worst, code)
