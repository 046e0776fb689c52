"""How much of a bare SDK loop's speed is left when records go through the connector's delivery, per sink.

    python bench/sink_speed.py                                       # all sinks; five minutes
    python bench/sink_speed.py --records 20000 --repeats 5 --only qdrant
    python bench/sink_speed.py --passages 6                          # documents of six records

Each turn is a process (`sink_turn.py`), and so is the server, whose CPU is nobody's: it answers and drops what it got.
Turns are interleaved. The goal is 0.95 records a CPU second of the bare loop's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from contestants import default_python, run_script
from null_servers import null_server
from run_all import machine
from sink_turn import BULK, SINKS

GOAL = 0.95
SERVED = ("qdrant", "pinecone")
FLOOR_ONLY = ("memory",)  # a dictionary is no SDK: what it shows is what the delivery costs

Turns: TypeAlias = list[dict[str, Any]]


def ways(sink: str) -> tuple[str, ...]:
    return ("bare", "bulk", "delivery") if sink in BULK else ("bare", "delivery")


def take_turns(sinks: Sequence[str], records: int, passages: int, repeats: int, folder: Path | None) -> Turns:
    """Let every way of every sink have a turn before any has another."""
    turns: Turns = []
    arguments = ["--records", str(records), "--passages", str(passages)]
    for repeat in range(repeats):
        for sink in sinks:
            with null_server(sink) if sink in SERVED else nullcontext("") as url:
                for way in ways(sink):
                    turns.append(
                        {"sink": sink, "way": way, "repeat": repeat, **take(sink, way, url, arguments, folder)}
                    )
                    print(json.dumps(turns[-1]), flush=True)
    return turns


def take(sink: str, way: str, url: str, arguments: Sequence[str], folder: Path | None) -> dict[str, Any]:
    """Take one turn, in a process of its own and a folder that is new."""
    with tempfile.TemporaryDirectory(prefix="vector-sync-bench-", dir=folder) as work:
        whose = ["--sink", sink, "--way", way, "--folder", work, "--url", url]
        outcome = run_script(default_python(peers=False), "sink_turn.py", [*whose, *arguments])
    if outcome.exit_code or outcome.numbers is None:
        raise SystemExit(f"{sink}, {way}: FAILED\n{outcome.complaint}")
    return outcome.numbers


def cpu(turns: Turns, sink: str, way: str) -> float:
    return float(median(turn["cpu_seconds"] for turn in turns if (turn["sink"], turn["way"]) == (sink, way)))


def share(turns: Turns, sink: str) -> float:
    """Give the median of the shares of each repeat: the turns of one stood beside each other."""
    mine = [turn for turn in turns if turn["sink"] == sink]
    by = {(turn["way"], turn["repeat"]): turn["cpu_seconds"] for turn in mine}
    return float(median(by["bare", repeat] / by["delivery", repeat] for way, repeat in by if way == "bare"))


def table(turns: Turns, records: int) -> Iterator[str]:
    heads = ("records a call", "bare loop, CPU us a record", "SDK's bulk", "vector-sync", "records a CPU s", "share")
    yield f"| sink | {' | '.join(heads)} |"
    yield "|---|" + "---:|" * len(heads)
    for sink in dict.fromkeys(turn["sink"] for turn in turns):
        calls = next(turn["calls"] for turn in turns if (turn["sink"], turn["way"]) == (sink, "delivery"))
        bare, ours = (1e6 * cpu(turns, sink, way) / records for way in ("bare", "delivery"))
        bulk = f"{1e6 * cpu(turns, sink, 'bulk') / records:.1f}" if "bulk" in ways(sink) else ""
        yield (
            f"| {sink} | {records / calls:.0f} | {bare:.1f} | {bulk} | {ours:.1f} | {1e6 / ours:,.0f} "
            f"| {share(turns, sink):.2f} |"
        )


def goals(turns: Turns) -> Iterator[str]:
    yield "| goal | at least | measured | |"
    yield "|---|---:|---:|---|"
    for sink in dict.fromkeys(turn["sink"] for turn in turns):
        if sink not in FLOOR_ONLY:
            measured = share(turns, sink)
            verdict = "reached" if measured >= GOAL else "not reached"
            yield f"| {sink}: records a CPU second, share of the bare loop's | {GOAL} | {measured:.2f} | {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--passages", type=int, default=1, help="records of a document; 1 is the worst case")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default=",".join(SINKS), help="sinks; default: %(default)s")
    parser.add_argument(
        "--folder", type=Path, help="where to work; default: the folder for temporary files, a real disk"
    )
    parser.add_argument("--output", type=Path, help="a file for the raw numbers")
    options = parser.parse_args()
    sinks = [sink for sink in SINKS if sink in options.only.split(",")]
    where = machine()
    turns = take_turns(sinks, options.records, options.passages, options.repeats, options.folder)
    if options.output:
        options.output.write_text(json.dumps({"machine": where, "turns": turns}, indent=1))
    records = options.passages * (options.records // options.passages)
    print(
        f"\n{records:,} records, {options.passages} a document, medians of {options.repeats}. {where}\n\n"
        + "\n".join(table(turns, records))
        + "\n\n"
        + "\n".join(goals(turns))
    )


if __name__ == "__main__":
    main()
