"""`vector-sync generations`: the indexes that different recipes made, and which of them readers get."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vector-sync --help` costs nothing

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from . import terminal
from .cli_jobs import as_json_option, is_interactive
from .errors import SafetyError

if TYPE_CHECKING:
    from .config import Settings
    from .generation_control import SeenGeneration, Switched

COLUMNS: Final = ("generation", "state", "sink", "readers", "documents", "in step", "created", "embedder")


def _settings(ctx: click.Context) -> Settings:
    from .config import Settings

    return Settings.load(ctx.obj)


@click.group(invoke_without_command=True)
@as_json_option
@click.pass_context
def generations(ctx: click.Context, as_json: bool) -> None:
    """List the generations of the index, and which one readers get; each sink is asked.

    A changed embedder or splitter makes a new generation beside the live one. Readers get it when it is whole.
    """
    if ctx.invoked_subcommand:
        if as_json:
            raise click.UsageError(f"options of `{ctx.invoked_subcommand}` stand behind it")
        return
    from . import generation_control

    found = generation_control.generations(_settings(ctx))
    if as_json:
        terminal.say(json.dumps({"generations": [it.as_json() for it in found]}))
    elif found:
        terminal.table(COLUMNS, [row for it in found for row in _rows(it)], numbers=(4,))
    else:
        terminal.say("nothing was synced yet")


def _rows(seen: SeenGeneration) -> Iterator[tuple[str, ...]]:
    created = time.strftime("%Y-%m-%d %H:%M", time.localtime(seen.created_at)) if seen.created_at else "-"
    last = ("yes" if seen.in_step else "no", created, seen.embedder)
    for name, sink in seen.sinks.items():
        readers = "get it" if sink.is_live else "-"
        yield (str(seen.number), str(seen.state), name, readers, f"{sink.documents:,}", *last)
    if not seen.sinks:
        yield (str(seen.number), str(seen.state), "-", "-", "-", *last)


@generations.command()
@click.argument("number", type=click.IntRange(min=1), required=False)
@as_json_option
@click.pass_context
def switch(ctx: click.Context, number: int | None, as_json: bool) -> None:
    """Send readers to generation NUMBER, or to the one that was built and waits for it."""
    from . import generation_control

    with terminal.progress() as emit:
        done = generation_control.switch_to(_settings(ctx), number, emit=emit)
    _show(done, as_json=as_json)


@generations.command()
@as_json_option
@click.pass_context
def rollback(ctx: click.Context, as_json: bool) -> None:
    """Send readers back to the generation that they got before. Embeds nothing."""
    from . import generation_control

    with terminal.progress() as emit:
        done = generation_control.roll_back(_settings(ctx), emit=emit)
    _show(done, as_json=as_json)


def _show(done: Switched, *, as_json: bool) -> None:
    if as_json:
        terminal.say(json.dumps(done.as_json()))
        return
    kept = f"; generation {done.before} is kept" if done.before not in (None, done.live) else ""
    terminal.say(f"readers get generation {done.live}{kept}")
    terminal.complain_all(done.notes)


@generations.command()
@click.argument("number", type=click.IntRange(min=1))
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json_option
@click.pass_context
def drop(ctx: click.Context, number: int, *, yes: bool, as_json: bool) -> None:
    """Remove generation NUMBER from every sink. Readers can never be sent back to it."""
    from . import generation_control

    if not yes:
        _confirm(number)
    with terminal.progress() as emit:
        done = generation_control.drop(_settings(ctx), number, emit=emit)
    if as_json:
        terminal.say(json.dumps(done.as_json()))
        return
    terminal.say(f"generation {number} is gone from {', '.join(done.sinks) or 'the state'}")
    terminal.complain_all(done.notes)


def _confirm(number: int) -> None:
    what = f"generation {number} would be removed, and roll-back to it is impossible then"
    if not is_interactive():
        raise SafetyError(f"{what}; confirm it with --yes")
    if not click.confirm(f"{what}; remove it?", err=True):
        raise SafetyError("nothing was removed")
