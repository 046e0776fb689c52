"""`vector-sync verify`: is every record there, as it was written? And `vector-sync state rebuild`: a lost memory."""

# ruff: noqa: PLC0415 - a command imports what it needs when it runs, so that `vector-sync --help` costs nothing

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from . import terminal
from .cli_jobs import as_json_option

if TYPE_CHECKING:
    from .config import Settings
    from .drift import Finding, SinkFindings, Verified
    from .model import JsonValue
    from .rebuild import Rebuilt
    from .scratch import Scratch
    from .verification import Repaired

NAMES_SHOWN: Final = 20  # of each kind, for people
sink_option = click.option(
    "--sink", "sinks", metavar="NAME", multiple=True, help="Which index, by its name in the settings.  [default: all]"
)


def _settings(ctx: click.Context) -> Settings:
    from .config import Settings

    return Settings.load(ctx.obj)


@click.command()
@click.option("--repair", is_flag=True, help="Mend what is found by a sync, which embeds nothing that is stored.")
@click.option("--contents", is_flag=True, help="Also compare each text, its metadata and its vector.")
@sink_option
@click.option("--confirm-deletes", type=click.IntRange(min=0), metavar="N", help="Let the repair delete N documents.")
@click.option("-v", "--verbose", is_flag=True, help="Name every record that is found, not only the first of each kind.")
@as_json_option
@click.pass_context
def verify(
    ctx: click.Context,
    *,
    repair: bool,
    contents: bool,
    sinks: Sequence[str],
    confirm_deletes: int | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Compare every record of an index with what the state remembers of it. Without --repair, writes nothing.

    Exit codes: 0 in step, 5 records are missing, stale, altered, extra or stray. Foreign ones are told, and left alone.
    """
    if confirm_deletes is not None and not repair:
        raise click.UsageError("--confirm-deletes is for --repair; to look deletes nothing")
    from . import index_control
    from .index_control import Looking
    from .scratch import Scratch

    settings = _settings(ctx)
    looking = Looking(tuple(sinks), contents=contents, keep_all=verbose)
    with Scratch.open(settings.state_path) as scratch:
        if repair:
            done = index_control.repair(
                settings,
                scratch,
                looking,
                confirm_deletes=confirm_deletes,
                showing=terminal.stages,
                telling=terminal.progress,
            )
            _show_repaired(done, scratch, verbose=verbose, as_json=as_json)
            ctx.exit(done.exit_code)
        with terminal.stages() as show:
            found = index_control.verify(settings, scratch, looking, show=show)
        if as_json:
            _write_json(found, {"exit_code": int(found.exit_code)}, scratch if verbose else None)
        else:
            terminal.say_all(_lines(found, scratch if verbose else None))
        terminal.complain_all(found.notes)
        ctx.exit(found.exit_code)


def _show_repaired(done: Repaired, scratch: Scratch, *, verbose: bool, as_json: bool) -> None:
    if as_json:
        more: dict[str, JsonValue] = {
            "exit_code": int(done.exit_code),
            "sync": done.synced.as_json() if done.synced else None,
            "after": {done.found.name(it): it.as_json() for it in done.left.sinks},
        }
        _write_json(done.found, more, scratch if verbose else None)
    else:
        terminal.say_all(_lines(done.found, scratch if verbose else None))
        if done.synced is None:
            terminal.say("nothing that a repair could mend" if done.found.drifted else "nothing to repair")
        else:
            terminal.say("")
            terminal.say_all(terminal.sync_lines(done.synced))
            terminal.say("")
            terminal.say("verified again:")
            terminal.say_all(_lines(replace(done.left, names=done.found.names), None))
    terminal.complain_all(done.found.notes)
    if done.synced:
        terminal.complain_all(done.synced.problems)


# --- for people ---


def _lines(found: Verified, scratch: Scratch | None) -> Iterator[str]:
    """Sum up each sink, and name what was found: the first of each kind, or all that the scratch file has."""
    for sink in found.sinks:
        yield f"{found.name(sink)}: {_summary(sink)}"
        yield from _remarks(sink)
        if scratch:
            yield from map(_finding_line, scratch.findings(sink.sink))
        else:
            for kind, first in sink.first.items():
                yield from map(_finding_line, first[:NAMES_SHOWN])
                if more := sink.counts[kind] - len(first[:NAMES_SHOWN]):
                    yield f"  ... and {more:,} more that are {kind}; --verbose names them"


def _summary(sink: SinkFindings) -> str:
    if sink.error:
        return f"cannot be read: {terminal.printable(sink.error)}"
    told = [f"{terminal.counted(sink.in_step, 'record')} in step"]
    told += [f"{count:,} {kind}" for kind, count in sink.counts.items() if count]
    return ", ".join(told)


def _remarks(sink: SinkFindings) -> Iterator[str]:
    """Say what the counts do not.

    there is                                   remark
    -----------------------------------------  ------------------------------------------------
    no ledger, and records of ours             the state is lost, or was never there
    a ledger of another collection             the collection was made anew
    doubt                                      a run was cut off
    stray records                              no sync can delete them, so somebody has to
    vectors that the store does not have       they were not compared
    contents that the sink altered by a rule   they were compared by their marks only
    """
    if sink.error:
        return
    if not sink.has_ledger:
        yield "  nothing was synced to it from this state; if the state was lost, see `vector-sync state rebuild`"
    elif sink.is_anew:
        yield "  its collection is not the one that the ledger is of; the next sync fills it again"
    if sink.in_doubt:
        yield f"  {terminal.counted(sink.in_doubt, 'record')} in doubt: a run was cut off; the next sync puts it right"
    if sink.strays:
        yield (
            f"  {terminal.counted(sink.strays, 'record')} stray: our mark, under a name that no record of ours has; "
            "a repair cannot remove that: delete it in the database, by its name"
        )
    if sink.unchecked:
        yield f"  {terminal.counted(sink.unchecked, 'record')} not stored as sent, by its settings: compared by marks"
    if sink.vectors_unchecked:
        yield f"  {terminal.counted(sink.vectors_unchecked, 'vector')} not compared: not in the vector store"


def _finding_line(finding: Finding) -> str:
    told = f"of {finding.owner}" if finding.owner else finding.reason
    return terminal.printable(f"  {finding.kind:<8} {finding.name}" + (f"  ({told})" if told else ""))


# --- for programs ---


def _write_json(found: Verified, more: dict[str, JsonValue], scratch: Scratch | None) -> None:
    """Write one object, piece by piece: with --verbose, what was found may be more than memory holds."""
    import sys

    write = sys.stdout.write
    write(json.dumps(more)[:-1] + ', "sinks": {')
    for number, sink in enumerate(found.sinks):
        write((", " if number else "") + json.dumps(found.name(sink)) + ": " + json.dumps(sink.as_json())[:-1])
        write(', "findings": [')
        held = [finding for first in sink.first.values() for finding in first]
        findings: Iterable[Finding] = scratch.findings(sink.sink) if scratch else held
        listed = 0
        for finding in findings:
            write((", " if listed else "") + json.dumps(finding.as_json()))
            listed += 1
        write(f'], "not_listed": {sum(sink.counts.values()) - listed}}}')
    write("}}\n")


# --- state rebuild ---


@click.group()
def state() -> None:
    """Look after the state: the memory of what has been synced."""


@state.command("rebuild")
@sink_option
@click.option(
    "--trust-vectors",
    is_flag=True,
    help="Store the vectors as the index gives them, though nothing shows they are exact.",
)
@as_json_option
@click.pass_context
def rebuild(ctx: click.Context, *, sinks: Sequence[str], trust_vectors: bool, as_json: bool) -> None:
    """Make a lost state again from what the index holds. Embeds nothing that is billed; writes nothing to the index.

    For an empty state only. Run `vector-sync plan` after it: it should find nothing to embed.
    """
    from . import index_control

    with terminal.stages() as show:
        done = index_control.rebuild(_settings(ctx), sinks=sinks, trust_vectors=trust_vectors, show=show)
    if as_json:
        terminal.say(json.dumps({"sinks": {it.sink: it.as_json() for it in done}}))
    else:
        for it in done:
            terminal.say_all(_rebuilt_lines(it))


def _rebuilt_lines(done: Rebuilt) -> Iterator[str]:
    documents, records = terminal.counted(done.documents, "document"), terminal.counted(done.records, "record")
    yield f"{done.sink}: its ledger has {documents} with {records} again, and the store {done.vectors:,} new vectors"
    if not done.is_ours:
        yield (
            "  most of the records were made by another embedder, or altered since; "
            "the next sync asks before it embeds them anew"
        )
    if done.in_doubt:
        yield f"  {terminal.counted(done.in_doubt, 'record')} missing or altered; the next sync writes them"
    if done.foreign:
        yield f"  {terminal.counted(done.foreign, 'record')} not ours, and left alone"
    if done.is_ours and done.without_vectors:
        yield f"  its vectors were not stored: {done.without_vectors}; a sync needs one only to write a record again"
