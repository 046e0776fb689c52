"""Real processes, really killed, at every effect they have and at random moments; real files, stores and engine."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from connector.model import Document, DocumentId
from connector.passages import PassageSplitter
from connector.testing.fakes import HashEmbedder

qdrant_edge = pytest.importorskip("qdrant_edge", reason="the extra `edge` is not installed")

CHILD = Path(__file__).with_name("kill_child.py")
LETTERS = "abcdefghijklmnop"


def write(folder: Path, name: str, letters: str) -> None:
    """Write a file that is split into about one passage a letter."""
    path = folder / "docs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {name[0]}\n\n" + "\n\n".join(f"{letter * 90}." for letter in letters) + "\n")


def first_version(folder: Path) -> None:
    for number, letter in enumerate(LETTERS):
        write(folder, f"{letter}.md", LETTERS[number:])


def second_version(folder: Path) -> None:
    """Edit, shrink, grow, move, delete and add."""
    docs = folder / "docs"
    write(folder, "a.md", "xyz" + LETTERS[3:])
    write(folder, "b.md", "b")
    write(folder, "p.md", "pqrstuvw")
    (docs / "c.md").rename(docs / "moved.md")
    (docs / "d.md").unlink()
    write(folder, "deep/new.md", "nop")


def run(folder: Path, effect: int = 0, when: str = "before") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, CHILD, folder, str(effect), when]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def in_the_index(folder: Path) -> dict[tuple[str, int], str]:
    """Read with Qdrant's own client; a record that is there twice is an error."""
    shard = qdrant_edge.EdgeShard.load(str(folder / "state/index/docs/shard"))
    records, _ = shard.scroll(qdrant_edge.ScrollRequest(limit=10_000, with_payload=True, with_vector=False))
    shard.close()
    found = {(r.payload["_vs_document"], r.payload["_vs_index"]): r.payload["text"] for r in records}
    assert len(found) == len(records)
    return found


def in_the_folder(folder: Path) -> dict[tuple[str, int], str]:
    embedder = HashEmbedder(tokens_per_text=32)
    split = PassageSplitter(embedder.tokens_per_text, embedder.count_tokens)
    found = {}
    for path in (folder / "docs").rglob("*.md"):
        id = DocumentId(path.relative_to(folder / "docs").as_posix())
        for passage in split(Document(id, b"", path.read_text(), {}, markdown=True)):
            found[passage.document_id, passage.index] = passage.text
    return found


def assert_in_step(folder: Path) -> None:
    ended = run(folder)
    assert ended.returncode == 0, ended.stderr
    assert in_the_index(folder) == in_the_folder(folder)
    for name in ("checkpoint.db", "vectors.db"):
        with closing(sqlite3.connect(folder / "state" / name)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def rowids(folder: Path) -> dict[bytes, int]:
    """Where each vector stands; one that is stored anew stands elsewhere."""
    path = folder / "state/vectors.db"
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path)) as db:
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_schema")}
        return dict(db.execute("SELECT text_hash, id FROM vector")) if "vector" in tables else {}


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_effect_the_next_run_puts_it_right(folder: Path, when: str) -> None:
    first_version(folder)
    effects = int(run(folder).stdout)
    assert effects > 6
    second_version(folder)
    effects = max(effects, int(run(folder).stdout))
    for effect in range(1, effects + 1):
        place = folder / f"killed-{effect}"
        first_version(place)
        if effect % 2:  # half of the kills meet an empty index, half one that is to be changed
            assert run(place).returncode == 0
            second_version(place)
        killed = run(place, effect, when)
        before = rowids(place)
        if killed.returncode != -signal.SIGKILL:
            assert effect > int(killed.stdout)
            continue
        assert_in_step(place)
        after = rowids(place)
        assert all(after[text] == row for text, row in before.items()), "no stored text is embedded again"


@pytest.mark.slow
def test_killed_at_random_over_and_over_nothing_is_lost_doubled_or_embedded_again(folder: Path) -> None:
    chance = random.Random(7)
    first_version(folder)
    before: dict[bytes, int] = {}
    killed = 0
    for number in range(40):
        if number % 4 == 3:
            write(folder, f"{chance.choice(LETTERS)}.md", chance.choice(LETTERS) * chance.randint(1, 8))
        process = subprocess.Popen([sys.executable, CHILD, folder, "0", "before"], stdout=subprocess.DEVNULL)
        try:
            process.wait(timeout=chance.uniform(0.25, 0.8))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        after = rowids(folder)
        assert all(after[text] == row for text, row in before.items())
        before = after
    assert killed > 5
    assert_in_step(folder)


def test_a_second_process_leaves_with_a_clear_line_and_the_first_goes_on(folder: Path) -> None:
    first_version(folder)
    assert run(folder).returncode == 0
    hold = "import sys; from pathlib import Path; from connector.checkpoint import Checkpoints\n"
    hold += "store = Checkpoints.open(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, folder / "state"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused = run(folder)
        assert "LeaseError: another run holds" in refused.stderr
        assert f"process {holder.pid} on" in refused.stderr
        holder.kill()
    assert_in_step(folder)
