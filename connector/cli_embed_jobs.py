"""`vector-sync embed-jobs`: serve the Embed Jobs API, and send files through it, ours or the hosted one.

A file's way costs money, so each of its steps can be gone on with: as soon as the service has something of it,
whatever ends the command says with which one to go on.
"""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vector-sync --help` costs nothing

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from . import terminal
from .errors import ConfigError, ConnectorError, RejectedError

if TYPE_CHECKING:
    from .cohere import Dataset, Job
    from .cohere.submission import FileToEmbed, Recipe, Submission
    from .config import CohereAccess
    from .events import Event

    Show = Callable[[str, str, float | None], None]

MEGABYTE: Final = 1_000_000
ROWS_BETWEEN_NEWS: Final = 10_000
WARNINGS_SHOWN: Final = 5
INPUT_TYPES: Final = ("search_document", "search_query", "classification", "clustering")
EMBEDDING_TYPES: Final = ("float", "int8", "uint8", "binary", "ubinary")


# --- the service ---


@click.group("embed-jobs", invoke_without_command=True)
@click.option("--host", help="Where to listen; anything but this machine needs a key.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="0 takes a free one.  [default: 8080]")
@click.option("--data", "folder", type=click.Path(path_type=Path), help="Where datasets, jobs and results are.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="A file with the key that clients must send.")
@click.option("--public-url", help="How clients reach it, for links to results.")
@click.option("--alias", "aliases", multiple=True, metavar="NAME=MODEL", help="Another name for a model; repeatable.")
@click.pass_context
def embed_jobs(
    ctx: click.Context,
    *,
    host: str | None,
    port: int | None,
    folder: Path | None,
    api_key_file: Path | None,
    public_url: str | None,
    aliases: Sequence[str],
) -> None:
    """Serve the Embed Jobs API, or send a file through one.

    Without a command, it serves until it is stopped. What is not given is read from [embed_jobs] of the settings
    file, if there is one, and from the environment.
    """
    if ctx.invoked_subcommand:
        if host or port or folder or api_key_file or public_url or aliases:
            raise click.UsageError(f"options of `{ctx.invoked_subcommand}` stand behind it, and it takes others")
        return
    from .config import load_embed_jobs
    from .settings_reader import read_secret

    given = {
        "host": host,
        "port": port,
        "path": folder,
        "api_key": api_key_file and read_secret(api_key_file, "--api-key-file"),
        "public_url": public_url,
        "aliases": dict(map(_alias, aliases)) or None,
    }
    settings = load_embed_jobs(ctx.obj, {name: value for name, value in given.items() if value is not None})
    try:
        from .embedjobs.server import serve
    except ImportError as error:
        if (error.name or "").startswith("connector"):
            raise
        raise ConfigError(f'the service needs {error.name}: pip install "vector-sync[serve]"') from None
    serve(settings, listening=_say_ready)


def _alias(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not (name and equals and model):
        raise click.BadParameter(f"{text!r} is not NAME=MODEL", param_hint="--alias")
    return name, model


def _say_ready(url: str) -> None:
    click.echo(f"serving Embed Jobs on {url}")  # flushed, as whoever has started it waits for the line


# --- a file's way ---


@dataclass(slots=True)
class _Way:
    """What the commands have in common: one service, one output, and how to go on if it ends before the end."""

    submission: Submission
    output: Path
    force: bool
    keep_remote: bool
    as_json: bool
    show: Show
    words: Sequence[str]  # of the command that goes on, after the id
    started: float = field(default_factory=time.monotonic)
    going_on: str = ""  # the command itself, once there is something to go on with

    def check(self, file: FileToEmbed) -> int:
        """Read the file as the service will, and count its rows; nothing is uploaded of one that is not right."""
        from .embedjobs.refusals import RefusalError
        from .embedjobs.rows import BadRow, InvalidFileError, check_options, read_rows
        from .embedjobs.values import DatasetOptions

        options = DatasetOptions(
            keep_fields=tuple(file.keep_fields),
            optional_fields=tuple(file.optional_fields),
            skip_malformed_input=file.skip_malformed_input,
            csv_delimiter=file.csv_delimiter or ",",
        )
        good = bad = 0
        try:
            check_options(options)
            for row in read_rows(file.path, file.path.name, options):
                if isinstance(row, BadRow):
                    bad += 1
                    if not file.skip_malformed_input:
                        raise RejectedError(f"{file.path}: {row.message}; nothing was uploaded")
                else:
                    good += 1
                if (good + bad) % ROWS_BETWEEN_NEWS == 0:
                    self.show("checking", terminal.counted(good + bad, "row"), None)
        except InvalidFileError as error:
            raise RejectedError(f"{file.path}: {error}; nothing was uploaded") from None
        except RefusalError as error:
            raise ConfigError(str(error)) from None
        except OSError as error:
            raise ConfigError(f"cannot read {file.path}: {(error.strerror or str(error)).lower()}") from None
        if not good:
            raise RejectedError(f"{file.path}: none of its rows can be used; nothing was uploaded")
        if bad:
            self.note(f"{terminal.counted(bad, 'row')} of {bad + good:,} will be left out")
        return good

    def choose(self, recipe: Recipe) -> Recipe:
        """Look whether the service and the key are right, and which model it is if none was named."""
        self.submission.check()
        return recipe if recipe.model else replace(recipe, model=self.submission.only_model())

    def upload(self, file: FileToEmbed) -> str:
        def on_sent(sent_bytes: int, of_bytes: int | None) -> None:
            fraction = sent_bytes / of_bytes if of_bytes else None
            self.show("uploading", f"{sent_bytes / MEGABYTE:,.1f} MB", fraction)

        return self.submission.upload(file, on_sent)

    def start(self, dataset_id: str, recipe: Recipe, name: str) -> str:
        """Wait until a dataset is validated, and start a job on it."""
        from .cohere.waiting import wait_for_dataset

        self.announce("dataset", dataset_id, recipe)
        client, patience, emit = self.submission.client, self.submission.patience, self.submission.emit

        def on_answer(dataset: Dataset) -> None:
            self.show("validating", dataset.status, None)

        dataset = wait_for_dataset(client, dataset_id, patience, on_answer=on_answer, emit=emit)
        for warning in dataset.warnings[:WARNINGS_SHOWN]:
            self.note(f"warning: {warning}")
        if (more := len(dataset.warnings) - WARNINGS_SHOWN) > 0:
            self.note(f"... and {terminal.counted(more, 'warning')} more")
        return self.submission.start(dataset_id, recipe, name)

    def finish(self, job_id: str, *, expected: int | None = None) -> None:
        """Wait for a job, write its result, and sum up."""
        from .cohere import records
        from .cohere.outputs import write_records
        from .cohere.waiting import wait_for_job

        self.announce("job", job_id)
        client, emit = self.submission.client, self.submission.emit

        def on_answer(job: Job) -> None:
            told = job.percent_complete
            self.show("embedding", job.status, None if told is None else told / 100)

        job = wait_for_job(client, job_id, self.submission.patience, on_answer=on_answer, emit=emit)
        if not job.output_dataset_id:
            raise ConfigError(f"job {job.id} is complete, but the service names no result")

        def on_written(rows: int) -> None:
            self.show("writing", terminal.counted(rows, "row"), rows / expected if expected else None)

        with records(client, job.output_dataset_id, emit=emit) as result:
            rows = write_records(result, self.output, replace=self.force, expected=expected, on_written=on_written)
        if not self.keep_remote:
            self.submission.clean_up(job)
        self._sum_up(job, rows)

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """If the body ends early, say how to go on, if there is something to go on with."""
        try:
            yield
        except KeyboardInterrupt:
            how = f"go on with: {self.going_on}" if self.going_on else "the service has nothing of it, run again"
            raise KeyboardInterrupt(f"stopped; {how}") from None
        except ConnectorError as error:
            if self.going_on and not isinstance(error, RejectedError):
                self.note(f"go on with: {self.going_on}")
            raise

    def note(self, line: str) -> None:
        """Say something beside the progress."""
        terminal.complain(terminal.printable(line))

    def remember(self, id: str, recipe: Recipe | None = None) -> None:
        """From now on there is something at the service to go on with."""
        more = recipe_words(recipe) if recipe and recipe.model else []
        self.going_on = shlex.join(["vector-sync", "embed-jobs", "resume", id, *self.words, *more])

    def announce(self, what: str, id: str, recipe: Recipe | None = None) -> None:
        """Say at once what the service has and how to go on with it: this process may be killed."""
        self.remember(id, recipe)
        self.note(f"{what} {id}; should this end too early, go on with: {self.going_on}")

    def _sum_up(self, job: Job, rows: int) -> None:
        seconds = time.monotonic() - self.started
        if self.as_json:
            answer = {
                "job_id": job.id,
                "model": job.model,
                "input_dataset_id": job.input_dataset_id,
                "output_dataset_id": job.output_dataset_id,
                "kept_remote": self.keep_remote,
                "output": str(self.output),
                "rows": rows,
                "tokens_billed": job.billed_tokens,
                "seconds": round(seconds, 3),
            }
            terminal.say(json.dumps(answer))
            return
        tokens = "tokens not told" if job.billed_tokens is None else terminal.counted(job.billed_tokens, "token")
        model = f"   {job.model}" if job.model else ""
        terminal.say(terminal.printable(f"{terminal.counted(rows, 'row')}   {tokens} billed{model}   {seconds:.1f} s"))
        terminal.say(terminal.printable(f"written to {self.output}"))
        if self.keep_remote:
            kept = " and ".join(filter(None, (job.input_dataset_id, job.output_dataset_id)))
            self.note(f"the service still has {kept}; --delete-remote deletes them when the file is written")


def _way_options(command: Callable[..., None]) -> Callable[..., None]:
    """Which service, and what becomes of the result; the command gets a `_Way`."""

    @wraps(command)
    def with_way(
        *,
        url: str | None,
        api_key_file: Path | None,
        output: Path,
        force: bool,
        keep_remote: bool,
        as_json: bool,
        **others: object,
    ) -> None:
        from .cohere.outputs import check_output
        from .config import CohereAccess

        check_output(output, replace=force)
        access = CohereAccess.load(url=url, api_key_file=api_key_file)
        words = ["--output", str(output), "--url", access.url]
        words += ["--api-key-file", str(api_key_file)] if api_key_file else []
        words += [*(["--force"] if force else []), *([] if keep_remote else ["--delete-remote"])]
        with terminal.stages() as show, _submission(access) as submission:
            command(_Way(submission, output, force, keep_remote, as_json, show, words), **others)

    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout."),
        click.option(
            "--keep-remote/--delete-remote",
            default=True,
            show_default=True,
            help="Whether the service keeps the dataset and the result when the file is written.",
        ),
        click.option("--force", is_flag=True, help="Overwrite the output."),
        click.option("--api-key-file", type=click.Path(path_type=Path), help="Where the key is.  [else: CO_API_KEY]"),
        click.option("--url", help="The service.  [default: CO_API_URL, else the hosted one]"),
        click.option(
            "--output", type=click.Path(path_type=Path), required=True, help="The result: .jsonl, .csv or .parquet."
        ),
    ):
        with_way = option(with_way)
    return with_way


def _recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """How vectors are made; the command gets a `Recipe`, whose model may be empty."""

    @wraps(command)
    def with_recipe(
        way: _Way,
        *,
        model: str | None,
        input_type: str,
        embedding_types: Sequence[str],
        truncate: str | None,
        **others: object,
    ) -> None:
        from .cohere.submission import Recipe

        if unknown := [name for name in _names(embedding_types) if name not in EMBEDDING_TYPES]:
            there_are = ", ".join(EMBEDDING_TYPES)
            raise click.BadParameter(f"{unknown[0]!r} is none; there are: {there_are}", param_hint="--embedding-types")
        command(way, Recipe(model or "", input_type, _names(embedding_types) or ("float",), truncate), **others)

    for option in (
        click.option("--truncate", type=click.Choice(("START", "END")), help="Which end of a long text is left out."),
        click.option("--embedding-types", multiple=True, metavar="A,B", help="Forms of vectors.  [default: float]"),
        click.option("--input-type", type=click.Choice(INPUT_TYPES), default=INPUT_TYPES[0], show_default=True),
        click.option("--model", help="Which model.  [default: the only one, if the service has one]"),
    ):
        with_recipe = option(with_recipe)
    return with_recipe


@embed_jobs.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--keep-fields", multiple=True, metavar="A,B", help="Fields that every row has, to be kept.")
@click.option("--optional-fields", multiple=True, metavar="A,B", help="Fields to be kept where there are any.")
@click.option("--name", help="What to call it at the service.  [default: the file's name]")
@click.option("--skip-malformed", is_flag=True, help="Leave bad rows out instead of refusing the file.")
@click.option("--csv-delimiter", default=",", show_default=True, help="What stands between the cells of a CSV file.")
@_way_options
@_recipe_options
def submit(
    way: _Way,
    recipe: Recipe,
    *,
    file: Path,
    keep_fields: Sequence[str],
    optional_fields: Sequence[str],
    name: str | None,
    skip_malformed: bool,
    csv_delimiter: str,
) -> None:
    """Embed the rows of FILE, .jsonl or .csv, by a job."""
    from .cohere.submission import FileToEmbed

    wanted = FileToEmbed(
        file,
        name or file.stem,
        keep_fields=_names(keep_fields),
        optional_fields=_names(optional_fields),
        skip_malformed_input=skip_malformed,
        csv_delimiter=csv_delimiter if csv_delimiter != "," else None,
    )
    with way.resumable():
        rows = way.check(wanted)
        chosen = way.choose(recipe)
        dataset_id = way.upload(wanted)
        job_id = way.start(dataset_id, chosen, wanted.name)
        way.finish(job_id, expected=None if skip_malformed else rows)


@embed_jobs.command()
@click.argument("id")
@_way_options
@_recipe_options
def resume(way: _Way, recipe: Recipe, *, id: str) -> None:
    """Go on with ID, a job or a dataset, where it was left.

    On a dataset that no job has embedded, --model and the like start one; without, nothing is started.
    """
    with way.resumable():
        way.remember(id, recipe)
        job = way.submission.find(id)
        if job is not None and not (job.has_failed and recipe.model):
            if recipe.model and job.model not in ("", recipe.model):
                way.note(f"there is a job already, with the model {job.model}; no other is started")
            way.finish(job.id)
        elif recipe.model:
            way.finish(way.start(job.input_dataset_id if job else id, recipe, id))
        else:
            raise ConfigError(f"no job reads the dataset {id}; add --model NAME to start one")


@contextmanager
def _submission(access: CohereAccess) -> Iterator[Submission]:
    """Open the way to a service, and show on stderr what it says beside its answers."""
    from .cohere import Cohere
    from .cohere.submission import Submission
    from .events import CallRetried

    told: set[str] = set()

    def warn(text: str) -> None:
        if text not in told:
            told.add(text)
            note(f"warning: {text}")

    def emit(event: Event) -> None:
        if isinstance(event, CallRetried):
            note(f"{event.what}: {event.error}; trying again in {event.wait_seconds:.0f} s")

    def note(line: str) -> None:
        terminal.complain(terminal.printable(line))

    with Cohere(access.url, access.api_key, on_warning=warn) as client:
        yield Submission.at(client, emit=emit, note=note)


def _names(given: Sequence[str]) -> tuple[str, ...]:
    """Read names, with commas between them or one an option."""
    return tuple(name.strip() for names in given for name in names.split(",") if name.strip())


def recipe_words(recipe: Recipe) -> list[str]:
    """Write a recipe as options."""
    words = ["--model", recipe.model, "--input-type", recipe.input_type]
    words += ["--embedding-types", ",".join(recipe.embedding_types)]
    return words + (["--truncate", recipe.truncate] if recipe.truncate else [])
