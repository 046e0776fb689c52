"""What a kill and a meddler leave behind, with a real index on disk.

crash  SIGKILL when the index has acknowledged half of the points, then run again to the end:
       how many points there are, and how many texts both runs embedded more than once
drift  sync, delete a tenth of the points behind the tool's back, sync again: are they back?

python bench/crash_drift.py             # vector-sync, on qdrant-edge
python bench/crash_drift.py --peers     # and the floor and the peers, on qdrant-client's local mode
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from common import COLLECTION, DIMENSION, Job, generate
from contestants import CONTESTANTS, Contestant, Outcome, default_python, run_script

PROBED = (
    *[
        one
        for one in CONTESTANTS
        if one.name in {"vector-sync", "llamaindex, cache on", "cocoindex, a component a row"}
    ],
    Contestant("floor, batches of 100", "floor.py", ("--batch", "100")),
    Contestant("langchain, batches of 100", "peer_langchain.py"),
    Contestant("llamaindex, its own node ids", "peer_llamaindex.py", ("--mode", "random-ids")),
)

DELETE_FROM_QDRANT = """
import sys
from qdrant_client import QdrantClient, models
client = QdrantClient(path=sys.argv[1])
found, _ = client.scroll(sys.argv[2], limit=int(sys.argv[3]))
client.delete(sys.argv[2], models.PointIdsList(points=[point.id for point in found]))
client.close()
"""


@dataclass(frozen=True, slots=True)
class Probe:
    """One contestant, and a place to work."""

    contestant: Contestant
    python: Path
    rows: int
    rows_file: Path
    state: Path

    def crash(self) -> str:
        """Kill it halfway, let it finish, and say what came of it."""
        self._begin()
        killed = self._sync("--crash-after", str(self.rows // 2))
        if killed.exit_code != -signal.SIGKILL or killed.numbers is None:
            return f"was not killed, but ended with {killed.exit_code}: {killed.complaint}"
        finished = self._sync()
        if finished.exit_code or finished.numbers is None:
            return f"does not come back: {finished.complaint}"
        twice = killed.numbers["texts"] + finished.numbers["texts"] - self.rows
        return f"{finished.numbers['points']} points of {self.rows}, {twice} texts embedded twice"

    def drift(self) -> str:
        """Take points away behind its back, and say whether it notices."""
        self._begin()
        self._sync()
        self._delete(self.rows // 10)
        again = self._sync()
        if again.exit_code or again.numbers is None:
            return f"fails: {again.complaint}"
        return f"{again.numbers['points']} points of {self.rows} after the next sync"

    def _begin(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir()

    def _sync(self, *arguments: str) -> Outcome:
        places: Sequence[str | Path] = ["--rows-file", self.rows_file, "--state", self.state, "--sink", "embedded"]
        return run_script(self.python, self.contestant.script, [*places, *self.contestant.arguments, *arguments])

    def _delete(self, count: int) -> None:
        if self.contestant.script == "ours.py":
            delete_from_edge(Job(self.rows_file, self.state), count)
        else:
            arguments = [str(self.state / "qdrant"), COLLECTION, str(count)]
            subprocess.run([self.python, "-c", DELETE_FROM_QDRANT, *arguments], check=True)


def delete_from_edge(job: Job, count: int) -> None:
    """Delete some of vector-sync's records, of which its ledger is not told."""
    from ours import open_edge

    with closing(open_edge(job)) as sink:
        sink.prepare(DIMENSION)
        sink.delete([record.id for record in islice(sink.scan(), count)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    print("| | killed halfway, then run again | a tenth deleted from outside |\n|---|---|---|")
    folder = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="vector-sync-crash-", dir=folder if folder.is_dir() else None) as work:
        rows_file = Path(work) / "rows.jsonl"
        generate(rows_file, options.rows)
        for contestant in PROBED:
            if options.peers or contestant.script == "ours.py":
                python = default_python(peers=options.peers)
                probe = Probe(contestant, python, options.rows, rows_file, Path(work) / "state")
                print(f"| {contestant.name} | {probe.crash()} | {probe.drift()} |", flush=True)


if __name__ == "__main__":
    main()
