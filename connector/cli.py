"""The command line: reads the words, calls one function, shows what it returns.

stdout is for answers and stderr for everything else. With --json, stdout is exactly one JSON
object, also when the command fails. Exit codes are those of `errors`, and

    70   a bug in vector-sync: there is a traceback (EX_SOFTWARE of sysexits.h)
    130  stopped by Ctrl-C
    143  stopped by SIGTERM
    141  nobody reads the output any more
"""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vector-sync --help` costs nothing

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

import click

from . import __version__, terminal
from .cli_embed_jobs import embed_jobs
from .cli_generations import generations
from .cli_jobs import jobs, query_config
from .cli_service import probe, serve
from .cli_verify import state, verify
from .errors import BUG, ConfigError, ConnectorError
from .starter import starter

if TYPE_CHECKING:
    from types import FrameType

    from .config import Settings
    from .model import JsonValue
    from .starter import StarterKind

OUTPUT_CLOSED = 141
SIGNALLED = 128  # and the signal: as shells say it

STDERR: Final = 2  # written to from a signal's handler, where streams may be in the middle of a line

Command = TypeVar("Command", bound=Callable[..., object])


class Commands(click.Group):
    """All commands, and how each of them fails."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether the answer is to be JSON, before anything in the words can be wrong."""
        ctx.meta["json"] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an error becomes its line and its exit code."""
        try:
            try:
                with _stopped_by_signals():
                    return super().invoke(ctx)
            finally:
                sys.stdout.flush()  # here, where a closed pipe is no surprise
        except ConnectorError as error:
            _fail(ctx, str(error), error.exit_code)
        except click.UsageError as error:
            if ctx.meta["json"]:
                _fail(ctx, error.format_message(), error.exit_code)
            raise
        except KeyboardInterrupt as stop:
            number = stop.number if isinstance(stop, _StoppedBySignal) else signal.SIGINT
            _fail(ctx, str(stop) or "stopped; nothing is lost, run again", SIGNALLED + number)
        except BrokenPipeError:
            _discard_output()
            ctx.exit(OUTPUT_CLOSED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # noqa: BLE001 - shown whole, and with an exit code that nothing else has
            traceback.print_exc()
            _fail(ctx, f"a bug in vector-sync ({type(error).__name__}); nothing is lost", BUG)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM end a command in order, and the second at once: as harmless as any kill.

    A command that is the first process of a container gets no SIGTERM at all unless it asks for it. A service takes
    its signals itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end_in_order(number: int, _frame: FrameType | None) -> NoReturn:
        for each in before:
            signal.signal(each, lambda number, _frame: os._exit(SIGNALLED + number))
        again = "Ctrl-C again" if number == signal.SIGINT else "the same signal again"
        os.write(STDERR, f"\nstopping after the calls under way; {again} stops at once\n".encode())
        raise _StoppedBySignal(number)

    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: was for number, was in defaults.items() if signal.getsignal(number) == was}  # not what is ignored
    for number in before:
        signal.signal(number, end_in_order)
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


class _StoppedBySignal(KeyboardInterrupt):
    """A KeyboardInterrupt, whichever signal it was: all that runs knows what to do with one."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _fail(ctx: click.Context, message: str, exit_code: int) -> NoReturn:
    """Say what is wrong, a line for each problem, and end."""
    if ctx.meta["json"]:
        _print_json({"error": message, "exit_code": int(exit_code)})
    for line in message.splitlines():
        terminal.complain(f"vector-sync: error: {terminal.printable(line)}")
    ctx.exit(int(exit_code))


def _discard_output() -> None:
    """Send what is still in the buffers nowhere, or the interpreter complains at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def _print_json(answer: Mapping[str, JsonValue]) -> None:
    terminal.say(json.dumps(answer))


def _settings(ctx: click.Context) -> Settings:
    from .config import Settings

    return Settings.load(ctx.obj)


def json_option(command: Command) -> Command:
    """Let a command answer in JSON."""
    return click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")(command)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=Path("vector-sync.toml"),
    envvar="VECTOR_SYNC_CONFIG",
    show_default=True,
    show_envvar=True,
    help="The settings file.",
)
@click.option("--no-color", is_flag=True, help="Show no colours; so does the variable NO_COLOR.")
@click.version_option(__version__, prog_name="vector-sync")
@click.pass_context
def main(ctx: click.Context, config: Path, no_color: bool) -> None:
    """Keep a vector index in step with your documents.

    Begin with `vector-sync init`, then `check`, `plan` and `sync`. Exit codes: 0 in step, 1 some documents are
    rejected, 2 wrong settings, 3 not in step yet, 4 stopped to ask, 5 verify found drift,
    75 another run is under way.
    """
    ctx.obj = config
    if no_color:
        os.environ["NO_COLOR"] = "1"  # rich reads it


@main.command()
@click.option(
    "--kind", type=click.Choice(["files", "table"]), default="files", show_default=True, help="Where documents are."
)
@click.pass_context
def init(ctx: click.Context, kind: StarterKind) -> None:
    """Write a commented settings file to begin with."""
    path: Path = ctx.obj
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(starter(kind))
    except FileExistsError:
        raise ConfigError(f"{path} exists, and is not overwritten; name another file with --config") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    terminal.say(f"wrote {path}; name your documents in it under [source], then run `vector-sync check`")


@main.command()
@click.pass_context
def check(ctx: click.Context) -> None:
    """Look whether everything that a sync needs is there. Writes nothing."""
    from . import inspection

    settings = _settings(ctx)
    checks = [inspection.Check("settings", str(ctx.obj)), *inspection.check(settings)]
    terminal.say_all(terminal.check_lines(checks))
    ctx.exit(inspection.exit_code_of(checks))


@main.command()
@click.option("-v", "--verbose", is_flag=True, help="Name every document that a sync would touch.")
@json_option
@click.pass_context
def plan(ctx: click.Context, verbose: bool, as_json: bool) -> None:
    """Tell what a sync would do. Writes nothing, embeds nothing."""
    from .composition import plan_sync

    with terminal.progress() as emit:
        report = plan_sync(_settings(ctx), verbose=verbose, emit=emit)
    if as_json:
        _print_json(report.as_json())
    else:
        terminal.say_all(terminal.plan_lines(report, verbose=verbose))
    terminal.complain_all(report.problems)
    ctx.exit(report.exit_code)


@main.command()
@click.option("--confirm-deletes", type=click.IntRange(min=0), metavar="N", help="Let up to N documents be deleted.")
@click.option("--accept-reembed", is_flag=True, help="Build a new generation: the embedder or the splitter changed.")
@click.option("--max-tokens", type=click.IntRange(min=0), metavar="N", help="Stop before more tokens are embedded.")
@click.option("--max-cost", type=click.FloatRange(min=0), metavar="X", help="Stop before embedding costs more.")
@click.option("--yes", is_flag=True, help="Confirm what a first run costs, where it would ask.")
@click.option("--no-wait", is_flag=True, help="Leave embed jobs running; a later run takes in what they have.")
@click.option("-v", "--verbose", is_flag=True, help="Name every document that is not stored as it is.")
@json_option
@click.pass_context
def sync(
    ctx: click.Context,
    *,
    confirm_deletes: int | None,
    accept_reembed: bool,
    max_tokens: int | None,
    max_cost: float | None,
    yes: bool,
    no_wait: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Bring every index to what the documents are now."""
    import gc

    from . import composition

    gc.set_threshold(20_000, 50, 100)  # records come and go by the thousand, none in a cycle: 5 to 10 % of a first sync

    with terminal.progress() as emit:
        report = composition.sync(
            _settings(ctx),
            confirm_deletes=confirm_deletes,
            accept_reembed=accept_reembed,
            max_tokens=max_tokens,
            max_cost=max_cost,
            confirm_cost=yes,
            wait_for_jobs=not no_wait,
            emit=emit,
        )
    if as_json:
        _print_json(report.as_json())
    else:
        terminal.say_all(terminal.sync_lines(report, verbose=verbose))
    terminal.complain_all(report.problems)
    ctx.exit(report.exit_code)


@main.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Tell how every index stands, and how the last runs ended."""
    from . import inspection

    found = inspection.status(_settings(ctx))
    if as_json:
        _print_json(found.as_json())
    else:
        terminal.show_status(found)


@main.command()
@click.argument("text")
@click.option("--limit", type=click.IntRange(min=1), default=5, show_default=True, help="How many passages.")
@click.option("--sink", metavar="NAME", help="Which index, by its name in the settings.  [default: the first]")
@click.option(
    "--where",
    metavar="CONDITION",
    multiple=True,
    help="Only passages whose metadata holds this: lang=en, 'year>=2019', 'lang in en,de'. May be given several times.",
)
@json_option
@click.pass_context
def search(
    ctx: click.Context, *, text: str, limit: int, sink: str | None, where: tuple[str, ...], as_json: bool
) -> None:
    """Find the passages nearest to TEXT."""
    from . import inspection
    from .filters import parse

    if not text.strip():
        raise click.BadParameter("say what to look for", param_hint="TEXT")
    conditions = [parse(each) for each in where]
    hits = inspection.search(_settings(ctx), text, limit=limit, sink=sink, where=conditions)
    if as_json:
        _print_json({"hits": [inspection.hit_json(hit) for hit in hits]})
    else:
        terminal.say_all(terminal.hit_lines(hits))


@main.command()
@json_option
@click.pass_context
def rejected(ctx: click.Context, as_json: bool) -> None:
    """List the documents that are left out, and why."""
    from . import inspection

    found = inspection.rejected(_settings(ctx))
    if as_json:
        _print_json({"rejected": [{"sink": it.sink, "place": it.place, "reason": it.reason} for it in found]})
    elif found:
        terminal.table(("document or place", "sink", "reason"), [(it.place, it.sink, it.reason) for it in found])
    else:
        terminal.say("no document is rejected")


@main.command()
@click.argument("documents", nargs=-1, metavar="[DOCUMENT_ID]...")
@json_option
@click.pass_context
def retry(ctx: click.Context, documents: tuple[str, ...], as_json: bool) -> None:
    """Let the next sync look again at rejected documents; at all of them, if none is named."""
    from . import retrial

    chosen = retrial.retry_rejected(_settings(ctx), documents)
    if as_json:
        _print_json({"retried": [{"sink": it.sink, "place": it.place, "reason": it.reason} for it in chosen]})
    else:
        count = len({it.place for it in chosen})
        terminal.say(f"the next sync looks again at {count} rejected document{'' if count == 1 else 's'}")


@main.command()
@click.argument("document_id")
@json_option
@click.pass_context
def explain(ctx: click.Context, document_id: str, as_json: bool) -> None:
    """Tell why a document is, or is not, in the index."""
    from . import inspection
    from .model import DocumentId

    found = inspection.explain(_settings(ctx), DocumentId(document_id))
    if as_json:
        _print_json(found.as_json())
    else:
        terminal.say_all(terminal.explanation_lines(found))


main.add_command(embed_jobs)
main.add_command(generations)
main.add_command(jobs)
main.add_command(probe)
main.add_command(query_config)
main.add_command(serve)
main.add_command(state)
main.add_command(verify)
