"""One sync, run again and again in a thread of its own. Read `_live` first.

    it is due when                          then
    --------------------------------------  ---------------------------------------------------------------------------
    `schedule` says so                      a run
    a watched file changed                  a run
    people asked for it                     a run with what they allow, though it is not due
    embed jobs are open                     a look at them; a run only if one has ended
    its comparison is due, or was asked     every record is compared with its ledger, and mended

One run at a time: of this sync by the lease, of all syncs together by `turns`, so that a small machine is enough. A
paused sync begins none; what was due comes when it goes on. Embed jobs are never waited for in a run. A run that is
under way when the service stops ends in order, and the next start goes on.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import msgspec

from connector.checkpoint import Checkpoints
from connector.crontab import Crontab
from connector.errors import ConnectorError, ExitCode, LeaseError
from connector.serving.logs import trace_of
from connector.stopping import Stop

from .api import Wish
from .memory import Memory
from .schedule import ENDED_WELL, JOB_POLL_SECONDS, Due, LastRun, Timetable, has_failed, next_reconcile, next_run
from .standing import Ended, Standing, waited_for_jobs
from .work import Compared, Done, Surroundings, Work

if TYPE_CHECKING:
    from connector.config import Settings
    from connector.sections import ServiceSettings

    from .progress import Progress

LONGEST_WAIT_SECONDS: Final = 60.0  # then the clock is looked at again: people set it
NOTHING: Final = Wish()
TRIGGERS_KEPT: Final = 100


@dataclass(slots=True)
class _Asked:
    """What is to be done besides what is due."""

    wish: Wish | None = None
    changed: bool = False  # a watched file, or the settings


@dataclass(frozen=True, slots=True)
class Task:
    """What to do next, and why."""

    trigger: str
    wish: Wish = NOTHING
    reconcile: bool = False


@dataclass(slots=True)
class View:
    """What others may see of a runner at one time."""

    state: str
    ended: Ended | None
    standing: Standing | None
    standing_at: float
    progress: Progress | None
    due: Due | None
    reconcile_due: Due | None
    memory: Memory
    triggers: dict[int, str]
    unreadable_state: str | None
    behind_since: float | None
    last_success_at: float | None


class Runner:
    """The life of one sync in a service."""

    def __init__(self, name: str, settings: Settings, service: ServiceSettings, around: Surroundings) -> None:
        self.name = name
        self.settings = settings
        self._service = service
        self._around = around
        self._changed = threading.Condition()
        self._asked = _Asked()
        self._state = "starting"
        self._stopping = Stop()
        self._ended: Ended | None = None
        self._last: LastRun | None = None
        self._chance = around.chance()
        self._looked_at: float | None = None  # at open jobs, since the last run
        self._reconcile_after = 0.0
        self._plan_jobs = True
        self._standing: Standing | None = None
        self._standing_at = 0.0
        self._progress: Progress | None = None
        self._triggers: dict[int, str] = {}
        self._memory = Memory.read(settings.state_path)
        self._since = around.now()
        self._unreadable_state: str | None = "it has not been opened yet"
        self._behind_since: float | None = None
        self._last_success_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"sync {name}", daemon=True)

    # --- from other threads -------------------------------------------------------------------------

    def start(self) -> None:
        """Begin its life."""
        self._around.metrics.set_paused(self.name, is_paused=self._memory.is_paused)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether its thread goes on; if not, there is a bug in the log."""
        return self._thread.is_alive()

    @property
    def why_not_started(self) -> str | None:
        """Why its state has not been read even once; None: it has."""
        return self._unreadable_state if self._standing is None else None

    @property
    def unreadable_state(self) -> str | None:
        """Why its state could not be read the last time; None: it could."""
        return self._unreadable_state

    @property
    def exit_code(self) -> int | None:
        """How its latest run ended."""
        return self._ended.exit_code if self._ended else None

    @property
    def is_paused(self) -> bool:
        """Whether people have paused it."""
        return self._memory.is_paused

    def ask(self, wish: Wish) -> None:
        """Have it run as soon as it can, with all that was wished for until then."""
        with self._changed:
            self._asked.wish = wish | (self._asked.wish or NOTHING)
            self._changed.notify_all()

    def poke(self) -> None:
        """Have it work out again what is due: the clock was set."""
        with self._changed:
            self._changed.notify_all()

    def wake(self) -> None:
        """Have it run because something has changed."""
        with self._changed:
            self._asked.changed = True
            self._changed.notify_all()

    def pause(self, *, is_paused: bool) -> None:
        """Begin no more runs, or go on; a restart of the service changes nothing about it."""
        with self._changed:
            self._remember(msgspec.structs.replace(self._memory, is_paused=is_paused))
            self._changed.notify_all()
        self._around.metrics.set_paused(self.name, is_paused=is_paused)

    def configure(self, settings: Settings, service: ServiceSettings) -> None:
        """Take other settings from the next run on, which comes at once if they are others for the sync itself."""
        with self._changed:
            is_other = settings != self.settings
            self.settings, self._service = settings, service
            self._asked.changed |= is_other
            self._changed.notify_all()

    def stop(self) -> None:
        """Begin nothing more, and end what is under way in order."""
        self._stopping.ask()
        with self._changed:
            self._changed.notify_all()

    def hurry(self) -> None:
        """End what is under way as soon as its calls have returned."""
        self._stopping.hurry()

    def join(self, timeout_seconds: float) -> bool:
        """Wait until it has ended; tell whether it has."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def view(self) -> View:
        """Look at it."""
        with self._changed:
            now = self._around.now()
            return View(
                state="paused" if self._memory.is_paused and self._state == "idle" else self._state,
                ended=self._ended,
                standing=self._standing,
                standing_at=self._standing_at,
                progress=self._progress,
                due=None if self._memory.is_paused else self._due(now),
                reconcile_due=self._reconcile_due(now),
                memory=self._memory,
                triggers=dict(self._triggers),
                unreadable_state=self._unreadable_state,
                behind_since=self._behind_since,
                last_success_at=self._last_success_at,
            )

    # --- its life -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._live()
        except BaseException as error:  # noqa: BLE001 - the thread ends here, and the service is told to be restarted
            self._around.log.error("bug", sync=self.name, trace=trace_of(error))  # noqa: TRY400 - no words of the error

    def _live(self) -> None:
        """Wait until there is something to do, and do it, until it is stopped."""
        self._begin()
        while (task := self._next()) is not None:
            with self._turn() as has_turn:
                if not has_turn:
                    return
                if self._may_begin(task):
                    self._do(task)
                    gc.collect()  # what a run leaves is old by then: left alone, the collector comes to it after days

    def _begin(self) -> None:
        """Open the state once, which brings an old one up to date; take over what it remembers."""
        try:
            Checkpoints.open(self.settings.state_path).close()
        except LeaseError:
            pass  # whoever has it has brought it up to date
        except ConnectorError as error:
            self._around.log.warning("state_unreadable", sync=self.name, error=str(error))
            self._set(unreadable_state=str(error))
        self._look()
        with self._changed:
            self._last = self._remembered()
            self._state = "idle"

    def _remembered(self) -> LastRun | None:
        """Give the last run, if a timetable counts from it: at an interval, a service begins with a run."""
        runs = self._standing.status.runs if self._standing else ()
        if self._service.cron is None or not runs or runs[0].ended_at is None or runs[0].exit_code is None:
            return None
        codes = [ExitCode.IN_STEP if waited_for_jobs(run) else run.exit_code or 0 for run in runs]
        failures = next((n for n, code in enumerate(codes) if not has_failed(code)), len(runs))
        is_open = bool(self._standing and self._standing.jobs)
        return LastRun(runs[0].started_at, runs[0].ended_at, codes[0], failures, open_jobs=is_open)

    def _next(self) -> Task | None:
        """Wait for the next task; None: it is stopped."""
        with self._changed:
            self._state = "idle"
            while not self._stopping.is_asked:
                now = self._around.now()
                self._mind_the_clock(now)
                if task := self._task(now):
                    return task
                self._changed.wait(self._wait_seconds(now))
            return None

    def _task(self, now: float) -> Task | None:
        """Say what is to be done now, if anything is; what people ask for comes first."""
        if self._memory.is_paused:
            return None
        asked = self._asked
        if asked.wish is not None:
            wish, asked.wish, asked.changed = asked.wish, None, False
            return Task("request", wish, reconcile=wish.verify)
        if asked.changed:
            asked.changed = False
            return Task("watch")
        due = self._due(now)
        if due.at <= now:
            return Task(due.because)
        if (reconcile := self._reconcile_due(now)) and reconcile.at <= now:
            return Task("cron", reconcile=True)
        return None

    def _mind_the_clock(self, now: float) -> None:
        """Let all that was be over, if people put the clock back; else waits would last until it is there again."""
        if (last := self._last) and last.ended_at > now:
            self._last = replace(last, started_at=min(last.started_at, now), ended_at=now)
        if self._looked_at is not None:
            self._looked_at = min(self._looked_at, now)
        self._reconcile_after = min(self._reconcile_after, now + LONGEST_WAIT_SECONDS)
        self._since = min(self._since, now)
        if (at := self._memory.reconciled_at) is not None and at > now:
            self._memory = msgspec.structs.replace(self._memory, reconciled_at=now)

    def _wait_seconds(self, now: float) -> float:
        if self._memory.is_paused:
            return LONGEST_WAIT_SECONDS
        due = [it.at for it in (self._due(now), self._reconcile_due(now)) if it]
        return min(LONGEST_WAIT_SECONDS, max(0.0, min(due) - now))

    def _due(self, now: float) -> Due:
        due = next_run(self._timetable, self._last, now=now, chance=self._chance)
        if due.because != "jobs" or self._last is None or self._looked_at is None:
            return due
        look = Due(max(now, self._looked_at + JOB_POLL_SECONDS), "jobs")
        regular = next_run(self._timetable, replace(self._last, open_jobs=False), now=now, chance=self._chance)
        return min(look, regular, key=lambda it: it.at)

    def _reconcile_due(self, now: float) -> Due | None:
        cron = self._service.reconcile
        crontab = Crontab(cron, self._service.time_zone) if cron else None
        due = next_reconcile(crontab, self._memory.reconciled_at, since=self._since, now=now)
        return due and replace(due, at=max(due.at, self._reconcile_after))

    @property
    def _timetable(self) -> Timetable:
        return timetable(self._service)

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Wait for the other syncs' runs; False: it was stopped meanwhile."""
        turns = self._around.turns
        self._set(state="queued")
        while not turns.acquire(timeout=1.0):
            if self._stopping.is_asked:
                yield False
                return
        try:
            yield not self._stopping.is_asked
        finally:
            turns.release()

    def _may_begin(self, task: Task) -> bool:
        """Tell whether it was not paused while it was queued; if it was, what was asked for comes when it goes on."""
        with self._changed:
            if not self._memory.is_paused:
                return True
            if task.trigger == "request":
                self._asked.wish = task.wish | (self._asked.wish or NOTHING)
            self._asked.changed |= task.trigger == "watch"
            return False

    # --- what it does -------------------------------------------------------------------------------

    def _do(self, task: Task) -> None:
        """Do a task, and note how it ended."""
        work = Work(self.name, self.settings, self._around, self._stopping)
        if task.reconcile:
            self._set(state="verifying")
            found = work.reconcile(task.trigger, task.wish, self._watch_work, repair=self._service.repair)
            self._keep_in_mind(found)
            if found.done is not None:
                self._note(task.trigger, found.done)
            self._look()
            if task.trigger == "request":  # whoever asks for a comparison asks for a run
                self._sync(work, task)
        elif task.trigger != "jobs" or self._jobs_have_ended(work):
            self._sync(work, task)
        else:
            self._look()
        self._set(progress=None)

    def _sync(self, work: Work, task: Task) -> None:
        """Run once."""
        self._set(state="running")
        done = work.sync(task.trigger, task.wish, self._watch_work, plan_jobs=self._plan_jobs)
        self._plan_jobs = True
        self._note(task.trigger, done)
        self._look(is_as_before=done.found_nothing_to_do and self._is_next(done.run_id))

    def _is_next(self, run_id: int) -> bool:
        """Tell whether no other run, as one by the command line, has come since the state was read."""
        runs = self._standing.status.runs if self._standing else ()
        return bool(runs) and runs[0].id == run_id - 1

    def _watch_work(self, progress: Progress) -> None:
        self._set(progress=progress)

    def _jobs_have_ended(self, work: Work) -> bool:
        """Look at the open jobs: only when one has ended is a run worth its while."""
        found = work.look_at_jobs()
        self._set(looked_at=self._around.now())
        if found is None:
            return False
        self._plan_jobs = not found.failed_texts  # those of a job that was given up are embedded without one
        return bool(found.stored_texts or found.failed_texts or found.dropped_texts or not found.open_jobs)

    def _keep_in_mind(self, found: Compared) -> None:
        """Remember a comparison; one that another run, or a stop, has kept from being made is made up soon."""
        if found.exit_code == ExitCode.BUSY or self._stopping.is_asked:
            self._set(reconcile_after=self._around.now() + LONGEST_WAIT_SECONDS)
            return
        with self._changed:
            self._remember(
                msgspec.structs.replace(
                    self._memory,
                    reconciled_at=found.began_at,
                    reconcile_exit_code=found.exit_code,
                    reconcile_told=found.told,
                )
            )

    def _note(self, trigger: str, done: Done) -> None:
        """Remember how a run ended."""
        with self._changed:
            failures = (self._last.failures if self._last else 0) + 1 if done.has_failed else 0
            code = ExitCode.IN_STEP if done.waits_for_jobs else done.exit_code  # as far as the timetable is concerned
            self._last = LastRun(done.began_at, done.ended_at, code, failures, open_jobs=bool(done.open_jobs))
            self._chance, self._looked_at = self._around.chance(), None
            self._ended = Ended(done.exit_code, done.ended_at, done.problems, done.open_jobs)
            if done.exit_code in ENDED_WELL:
                self._last_success_at, self._behind_since = done.ended_at, None
            elif self._behind_since is None:
                self._behind_since = self._last_success_at or done.began_at
            if done.run_id:
                self._triggers[done.run_id] = trigger
                for old in list(self._triggers)[:-TRIGGERS_KEPT]:
                    del self._triggers[old]

    def _look(self, *, is_as_before: bool = False) -> None:
        """Read how the sync stands, for those who ask; to count all of it takes as long as a run with nothing to do."""
        now, before = self._around.now(), self._standing if is_as_before else None
        try:
            standing = Standing.look(self.settings, now=now, before=before)
        except ConnectorError as error:
            self._set(unreadable_state=str(error))
            return
        self._around.metrics.note_standing(self.name, standing.status)
        with self._changed:
            self._standing, self._standing_at, self._unreadable_state = standing, now, None
            if self._last_success_at is None:
                self._last_success_at = standing.last_success_at
            if self._ended is None and standing.status.runs and standing.status.runs[0].exit_code is not None:
                run = standing.status.runs[0]
                problems = run.report.get("problems")
                told = tuple(map(str, problems)) if isinstance(problems, list) else ()
                self._ended = Ended(run.exit_code or 0, run.ended_at or now, told, len(standing.jobs))
                if run.exit_code not in ENDED_WELL:
                    self._behind_since = self._last_success_at or run.started_at

    def _remember(self, memory: Memory) -> None:
        """Keep what is to outlast the service; a disk that is full costs only that it does not."""
        self._memory = memory
        try:
            memory.write(self.settings.state_path)
        except OSError as error:
            self._around.log.warning("not_remembered", sync=self.name, error=error.strerror or str(error))

    def _set(self, **values: object) -> None:
        with self._changed:
            for name, value in values.items():
                setattr(self, f"_{name}", value)


def timetable(service: ServiceSettings) -> Timetable:
    """Make a timetable of the settings."""
    every = Crontab(service.cron, service.time_zone) if service.cron else service.interval_seconds
    return Timetable(every, service.jitter)
