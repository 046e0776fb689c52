"""What /status and the probes tell, from the runners' views. Any thread may ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import connector
from connector.errors import BUG, ExitCode

from . import standing
from .schedule import ENDED_WELL
from .words import iso

if TYPE_CHECKING:
    from connector.config import Settings
    from connector.model import JsonValue
    from connector.service_config import ServiceConfig

    from .runner import Runner, View

NOT_READY: dict[int, str] = {
    ExitCode.CONFIG: "the settings of the sync {name}, or what they name, cannot work; see its status",
    BUG: "a run of the sync {name} met a bug; see the log",
}
"""What people have to mend before anything works again. A sink that is down is not among it."""


class Reporter:
    """Tells how a service stands."""

    def __init__(self, config: ServiceConfig, now: Callable[[], float]) -> None:
        self._now = now
        self._started_at = self._loaded_at = now()
        self._config = config
        self._has_token = config.service.token is not None  # another one counts after a restart
        self.config_error: str | None = None  # of the settings that a reload refused

    def take(self, config: ServiceConfig) -> None:
        """Note that other settings count from now on."""
        self._config, self._loaded_at, self.config_error = config, self._now(), None

    def status(self, runners: Mapping[str, Runner], *, is_stopping: bool) -> dict[str, JsonValue]:
        """Tell how everything stands."""
        service = self._config.service
        return {
            "version": connector.__version__,
            "now": iso(self._now()),
            "started_at": iso(self._started_at),
            "stopping": is_stopping,
            "config": {
                "path": str(self._config.path),
                "loaded_at": iso(self._loaded_at),
                "error": self.config_error,
            },
            "actions": self._has_token,
            "show": service.show,
            "syncs": [self._sync(name, runner) for name, runner in runners.items()],
        }

    def why_not_started(self, runners: Mapping[str, Runner]) -> str | None:
        """Say which sync has not opened its state yet, and why not."""
        for name, runner in runners.items():
            if runner.why_not_started is not None:
                return f"the state of the sync {name}: {runner.why_not_started}"
        return None

    def why_not_ready(self, runners: Mapping[str, Runner]) -> str | None:
        """Say what people have to mend."""
        for name, runner in runners.items():
            if runner.unreadable_state is not None:
                return f"the state of the sync {name} cannot be read; see the log"
            if runner.exit_code in NOT_READY:
                return NOT_READY[runner.exit_code].format(name=name)
        return None

    def _sync(self, name: str, runner: Runner) -> dict[str, JsonValue]:
        view, now = runner.view(), self._now()
        names = self._config.service.show != "counts"
        ended, found = view.ended, view.standing
        in_step = None if ended is None else ended.exit_code in ENDED_WELL
        jobs = found.jobs if found else ()
        why = standing.why(ended, jobs, names=names)
        if view.unreadable_state is not None and view.state != "starting":
            why = f"its state cannot be read: {view.unreadable_state}" if names else "its state cannot be read"
        kinds = {sink: section.kind for sink, section in runner.settings.sinks.items()}
        is_waiting = view.due is not None and view.state in ("idle", "paused")
        return {
            "name": name,
            "state": view.state,
            "in_step": in_step,
            "last_exit_code": ended.exit_code if ended else None,
            "why": why,
            "question": standing.question(ended, names=names),
            "next_run_at": iso(view.due.at) if view.due and is_waiting else None,
            "next_because": view.due.because if view.due and is_waiting else None,
            "last_success_at": None if view.last_success_at is None else iso(view.last_success_at),
            "behind_seconds": None if in_step is not False else round(max(0.0, now - (view.behind_since or now))),
            "source": runner.settings.source.kind,
            "embedder": _embedder(runner.settings),
            "generation": _generation(view),
            "sinks": standing.sinks_json(found, kinds, names=names) if found else [],
            "progress": view.progress.as_json(names=names) if view.progress else None,
            "jobs": standing.jobs_json(jobs, later_seconds=max(0.0, now - view.standing_at)),
            "rejected": standing.rejected_json(found, names=names) if found else {"count": 0, "shown": []},
            "runs": standing.runs_json(found.status.runs, view.triggers, names=names) if found else [],
            "reconcile": _reconcile(view, names=names),
        }


def _embedder(settings: Settings) -> str:
    model = getattr(settings.embedder, "model", None)
    return f"{settings.embedder.kind} {model}" if isinstance(model, str) else settings.embedder.kind


def _generation(view: View) -> int | None:
    for run in view.standing.status.runs if view.standing else ():
        if isinstance(number := run.report.get("generation"), int):
            return number
    return None


def _reconcile(view: View, *, names: bool) -> dict[str, JsonValue] | None:
    memory, due = view.memory, view.reconcile_due
    if due is None and memory.reconciled_at is None:
        return None
    return {
        "next_at": iso(due.at) if due else None,
        "last_at": None if memory.reconciled_at is None else iso(memory.reconciled_at),
        "last_exit_code": memory.reconcile_exit_code,
        "told": memory.reconcile_told if names else None,
    }
