"""`vector-sync jobs`: the embed jobs of a sync; and `vector-sync query-config`: how an application asks the index."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vector-sync --help` costs nothing

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from . import terminal
from .errors import ConfigError, SafetyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .config import Settings
    from .events import Emit, Event
    from .job_book import Job
    from .job_inspection import JobList, SeenJob
    from .jobs import Outcome
    from .model import JsonValue
    from .query_config import QueryConfig

CHARGED: Final = "what it has done is charged all the same, and gives no result"
NOT_STARTED: Final = "it was not started yet, so nothing is charged"
COLUMNS: Final = ("state", "job", "dataset", "attempt", "texts", "tokens", "billed", "age", "changed", "token", "why")

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")


def _settings(ctx: click.Context) -> Settings:
    from .config import Settings

    return Settings.load(ctx.obj)


# --- jobs ---


@click.group(invoke_without_command=True)
@click.option("--all", "everything", is_flag=True, help="Also all jobs that have ended, not only the latest.")
@as_json_option
@click.pass_context
def jobs(ctx: click.Context, everything: bool, as_json: bool) -> None:
    """List the embed jobs of this sync, open and past; no service is asked.

    A job that is open goes on by itself. The next sync, or `jobs wait`, takes in what it has made.
    """
    if ctx.invoked_subcommand:
        if everything or as_json:
            raise click.UsageError(f"options of `{ctx.invoked_subcommand}` stand behind it, and it takes others")
        return
    from . import job_inspection

    found = job_inspection.jobs(_settings(ctx), now=time.time(), everything=everything)
    if as_json:
        terminal.say(json.dumps(found.as_json()))
    else:
        _show(found)


def _show(found: JobList) -> None:
    if not found.jobs:
        terminal.say("there were no embed jobs yet")
        return
    terminal.table(COLUMNS, map(_row, found.jobs), numbers=range(3, 9))
    if found.ended_not_shown:
        terminal.say(f"... and {found.ended_not_shown:,} that ended before; `vector-sync jobs --all` lists them")


def _row(seen: SeenJob) -> tuple[str, ...]:
    job = seen.job
    return (
        str(job.state),
        job.job_id or "-",
        job.dataset_id or "-",
        str(job.attempt),
        f"{job.texts:,}",
        f"{job.tokens:,}",
        "-" if job.billed_tokens is None else f"{job.billed_tokens:,}",
        terminal.duration(seen.age_seconds),
        f"{terminal.duration(seen.seconds_in_state)} ago",
        job.token,
        job.problem or "",
    )


@jobs.command()
@as_json_option
@click.pass_context
def wait(ctx: click.Context, as_json: bool) -> None:
    """Wait until no embed job is open, and store the vectors; the next sync delivers them.

    Jobs that wait for their turn are started: they were planned, and allowed, by a sync.
    """
    from . import job_control

    with _progress() as emit:
        outcome = job_control.wait(_settings(ctx), emit=emit)
    if as_json:
        terminal.say(json.dumps(job_control.outcome_json(outcome)))
    else:
        terminal.say_all(_wait_lines(outcome))


def _wait_lines(outcome: Outcome) -> Iterator[str]:
    if outcome.stored_texts:
        yield (
            f"the vectors of {terminal.counted(outcome.stored_texts, 'text')} are stored; `vector-sync sync` delivers "
            "them, and pays for none of them again"
        )
    if outcome.billed_tokens:
        yield f"the service billed {terminal.counted(outcome.billed_tokens, 'token')}"
    if outcome.missing_texts:
        yield f"{terminal.counted(outcome.missing_texts, 'text')} had no sound vector; the next sync embeds them"
    if outcome.failed_jobs:
        failed = terminal.counted(outcome.failed_jobs, "job")
        texts = terminal.counted(outcome.failed_texts, "text")
        yield f"{failed} failed, of {texts}; the next sync embeds them. `vector-sync jobs` tells why"
    if outcome.dropped_texts:
        yield f"{terminal.counted(outcome.dropped_texts, 'text')} are not in a job any more; the next sync embeds them"
    if outcome.open_jobs:
        yield f"{terminal.counted(outcome.open_jobs, 'job')} still open: the service did not delete what is done with"
    if not (outcome.stored_texts or outcome.failed_jobs or outcome.dropped_texts or outcome.open_jobs):
        yield "no embed job was open"


@contextmanager
def _progress() -> Iterator[Emit]:
    """Show on stderr how far the open jobs are, and at once what becomes of one."""
    from .events import JobProgress

    so_far = terminal.SoFar()
    with terminal.stages() as show:

        def emit(event: Event) -> None:
            if told := so_far.add(event):
                terminal.complain(terminal.printable(told))
            elif isinstance(event, JobProgress):
                show("waiting", so_far.jobs_told(), event.fraction)

        yield emit


@jobs.command()
@click.argument("ids", metavar="[JOB_ID|TOKEN]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All jobs that are open.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json_option
@click.pass_context
def cancel(ctx: click.Context, ids: Sequence[str], *, everything: bool, yes: bool, as_json: bool) -> None:
    """Cancel open embed jobs. What is done of one is charged all the same, and gives no result.

    The next sync embeds its texts anew, and pays for them again. To let a job end costs nothing more than to begin it.
    """
    if bool(ids) == everything:
        raise click.UsageError("name the jobs to cancel, or --all; `vector-sync jobs` lists them")
    from . import job_control, job_inspection

    settings = _settings(ctx)
    chosen = _choose(job_inspection.jobs(settings, now=time.time()).open, ids)
    if chosen:
        _confirm(chosen, yes=yes)
    with _progress() as emit:
        done = job_control.cancel(settings, [seen.job.token for seen in chosen], emit=emit)
    if as_json:
        terminal.say(json.dumps(done.as_json()))
        return
    for job in done.complete:
        terminal.say(f"{job.job_id or job.token} is complete, and was not cancelled; `vector-sync jobs wait` stores it")
    if done.cancelled:
        texts = terminal.counted(sum(job.texts for job in done.cancelled), "text")
        charged = "; what was done is charged, and gives no result" if any(map(_may_be_charged, done.cancelled)) else ""
        terminal.say(
            f"cancelled {terminal.counted(len(done.cancelled), 'job')}{charged}; the next sync embeds {texts} anew"
        )
    elif not done.complete:
        terminal.say("no embed job is open")


def _choose(open_jobs: Sequence[SeenJob], ids: Sequence[str]) -> list[SeenJob]:
    """Find the open jobs that were named; all of them, if none was."""
    known = {name for seen in open_jobs for name in (seen.job.job_id, seen.job.token)}
    if unknown := [id for id in ids if id not in known]:
        raise ConfigError(f"no embed job {', '.join(unknown)} is open; `vector-sync jobs` lists them")
    return [seen for seen in open_jobs if not ids or seen.job.token in ids or seen.job.job_id in ids]


def _confirm(chosen: Sequence[SeenJob], *, yes: bool) -> None:
    for seen in chosen:
        job, age = seen.job, terminal.duration(seen.age_seconds)
        told = f"{job.job_id or job.token}: {job.state}, {terminal.counted(job.texts, 'text')}, {age} old"
        terminal.complain(terminal.printable(f"{told}; {CHARGED if _may_be_charged(job) else NOT_STARTED}"))
    if yes:
        return
    what = terminal.counted(len(chosen), "embed job")
    if not is_interactive():
        raise SafetyError(f"{what} would be cancelled, and what is done by then is charged; confirm it with --yes")
    if not click.confirm(f"cancel {what}?", err=True):
        raise SafetyError("nothing was cancelled")


def _may_be_charged(job: Job) -> bool:
    return bool(job.job_id or job.intent_at)


def is_interactive() -> bool:
    """Tell whether somebody is there to be asked."""
    return sys.stdin.isatty()


# --- query-config ---


@click.command("query-config")
@click.option("--sink", metavar="NAME", help="Which index, by its name in the settings.  [default: the first]")
@as_json_option
@click.pass_context
def query_config(ctx: click.Context, sink: str | None, as_json: bool) -> None:
    """Tell what an application needs to query the index as `search` does. Shows no secret."""
    from .query_config import query_config as read

    found = read(_settings(ctx), sink)
    if as_json:
        terminal.say(json.dumps(found.as_json()))
    else:
        terminal.say_all(map(terminal.printable, _toml(found)))


def _toml(found: QueryConfig) -> Iterator[str]:
    yield "# a question's vector, so that it is comparable with those of the passages"
    yield from _table("embedder", found.embedder)
    yield ""
    yield "# where the vectors are"
    yield from _table("sink", found.sink)
    if found.payload:
        yield ""
        yield "# what is stored beside a vector, and under which name"
        yield from _table("payload", found.payload)
    if found.filter:
        yield ""
        yield "# to find only this sync's records, should others write to the collection too"
        yield from _table("filter", found.filter)
    if found.secrets:
        yield ""
        yield "# where the secrets are: variables of the environment, or with _FILE the paths of files that hold them"
        yield from _table("secrets", found.secrets)


def _table(name: str, values: Mapping[str, JsonValue] | Mapping[str, str]) -> Iterator[str]:
    yield f"[{name}]"
    for key, value in values.items():
        yield f"# {key} is not set" if value is None else f"{_key(key)} = {_value(value)}"


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def _value(value: JsonValue) -> str:
    """Write a value as TOML does; for all but tables, that is JSON."""
    match value:
        case dict():
            inner = ", ".join(f"{_key(name)} = {_value(it)}" for name, it in value.items() if it is not None)
            return f"{{{inner}}}"
        case list():
            return f"[{', '.join(_value(it) for it in value if it is not None)}]"
        case _:
            return json.dumps(value, ensure_ascii=False)
