"""The tests have teeth: each of these mutants of the engine is caught by them.

A mutant is one line of the protocol taken out. It runs in a copy of the tree, against the tests that
are there to notice it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SEVERAL = ("tests/test_several_sinks.py",)
FIT = ("tests/test_fit.py",)
STOP = ("tests/test_stop_in_order.py", "tests/test_stopping.py")
ENOUGH = ("tests/test_sync.py", "tests/test_plan.py", "tests/test_stores.py", "tests/test_crash.py")


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ENOUGH


MUTANTS = [
    Mutant("no begin before writing", "delivery.py", "self.checkpoints.begin(self.sink.name, doubtful)", "pass"),
    Mutant("no begin before deleting", "delivery.py", "for e in entries if e.extent],", "for e in entries if False],"),
    Mutant("begin keeps the fingerprint", "checkpoint.py", "[_row(entry, None) for entry in entries]", "[_row(entry, entry.fingerprint) for entry in entries]"),
    Mutant("doubt keeps the digests", "plan.py", "            held[index] = UNKNOWN", "            held[index] = held[index]"),
    Mutant("doubt claims the new text", "plan.py", "content = self.before.content if self.before else None", "content = self.wanted.content"),
    Mutant("the extent forgets the old records", "delivery.py", "max(change.extent_before, len(change.wanted.digests))", "len(change.wanted.digests)"),
    Mutant("leftovers stay", "delivery.py", "for index in range(entry.extent, extent)", "for index in range(0)"),
    Mutant("old records go before the new ones come", "delivery.py", "        upserts = (partial(", "        self._delete(record_id(c.wanted.document_id, i) for c in changes for i in c.upserts if i < c.extent_before)\n        upserts = (partial("),
    Mutant("commit before the sink", "delivery.py", "        upserts = (partial(", "        self.checkpoints.commit(self.sink.name, [c.done() for c in changes])\n        upserts = (partial("),
    Mutant("a rejected document is tried again each run", "delivery.py", "Entry(change.wanted.document_id, change.wanted.fingerprint, None, (), problem)", "Entry(change.wanted.document_id, None, None, (), problem)"),
    Mutant("half of a rejected document stays", "delivery.py", "    return Entry(change.wanted.document_id, change.wanted.fingerprint, None, (), problem)", "    return Entry(change.wanted.document_id, change.wanted.fingerprint, None, change.wanted.digests, problem)"),
    Mutant("every refusal is the sink's fault", "delivery.py", "if rejects > MAX_REJECTS_IN_A_ROW:", "if True:"),
    Mutant("refusals are never the sink's fault", "delivery.py", "if rejects > MAX_REJECTS_IN_A_ROW:", "if False:"),
    Mutant("refusals add up for ever", "delivery.py", "            self._rejects_in_a_row = 0\n            self.upserted", "            self.upserted"),
    Mutant("halving drops the second half", "delivery.py", "return self._upsert(call[:middle]) + self._upsert(call[middle:])", "return self._upsert(call[:middle])"),
    Mutant("a stopped sink counts nothing as behind", "delivery.py", "        self.behind += len(documents)", "        pass"),
    Mutant("vectors are used before they are stored", "embedding.py", "        self.vectors.put(call, vectors)\n        return", "        return"),
    Mutant("vectors of the store are not looked for", "embedding.py", "found = dict(self.vectors.get(list(texts)))", "found = {}"),
    Mutant("embedding halves and drops", "embedding.py", "return self._embed(call[:middle], texts, refused) + self._embed(call[middle:], texts, refused)", "return self._embed(call[:middle], texts, refused)"),
    Mutant("a broken listing counts as complete", "survey.py", "        self.error = error\n        self.complete = False", "        self.complete = True"),
    Mutant("documents in doubt are never gone", "survey.py", "        if doubtful:\n", "        if False:\n"),
    Mutant("documents in doubt are always gone", "survey.py", "if not is_listed]", "]"),
    Mutant("the second row of an id wins", "survey.py", "if repeats or self._supersedes_a_listed_row(ref, entries):", "if False:"),
    Mutant("a changed row is unseen", "fingerprints.py", "        self.state[place] = SUPERSEDED\n", ""),
    Mutant("kept fingerprints forget what was committed", "fingerprints.py", "np.concatenate((self.known.hashes(self.state == SEEN), from_bytes(committed)))", "self.known.hashes(self.state == SEEN)"),
    Mutant("kept fingerprints of any version are believed", "fingerprints.py", 'if not sound or header.get("ledger") != ledger_version:', "if not sound:"),
    Mutant("writes do not raise the ledger's version", "checkpoint.py", '            self._db.execute("UPDATE ledger SET version = version + 1 WHERE id = ?", [ledger])\n', ""),
    Mutant("the epoch is not checked", "checkpoint.py", "if held.rowcount != 1:", "if False:"),
    Mutant("one ledger for all sinks", "checkpoint.py", "            self._ledgers[sink] = int(found[0])", "            self._ledgers[sink] = 1"),
    Mutant("a new collection keeps its ledger", "checkpoint.py", "            if known != incarnation:", "            if False:"),
    Mutant("the recipe is left out of the fingerprint", "plan.py", "return np.bitwise_xor(versions, np.frombuffer(recipe, dtype=np.uint8))", "return versions"),
    Mutant("metadata are left out of the digest", "plan.py", "    made_of.update(metadata_json)\n", ""),
    Mutant("no guard", "plan.py", "        if not gone or (self.confirmed", "        return None\n        if not gone or (self.confirmed"),
    Mutant("the guard is asked and not heeded", "walk.py", "            if departures.objection:\n                delivery", "            if False:\n                delivery"),
    Mutant("rejections escape the guard", "tally.py", "        return [change for change in changes if not change.removes_document]", "        return changes"),
    Mutant("moved documents count as deleted", "tally.py", "            gone=len(leaving) - moved,", "            gone=len(leaving),"),
    Mutant("fingerprints are kept though something is behind", "engine.py", "            if not (delivery.behind or delivery.stopped or not survey.complete):", "            if True:"),
    Mutant("a skipped document counts as done", "engine.py", "delivery.behind += len(survey.skipped) + survey.waiting", "delivery.behind += survey.waiting"),
    Mutant("check comes after paying", "engine.py", "            delivery.check()\n", "            pass\n"),
    Mutant("another embedder is not asked about", "engine.py", "if not self.options.accept_reembed and (objection", "if False and (objection"),
    Mutant("a sink that is down ends the run", "delivery.py", "STOPS = (TransientError, SinkError)", "STOPS = (SinkError,)", SEVERAL),
    Mutant("a stopped sink's ledger is touched", "delivery.py", "        if self.stopped or self._incarnation is None:\n            return 0\n", "", SEVERAL),
    Mutant("calls wait on when the sink has stopped", "delivery.py", "        if self._is_given_up:\n            raise _StoppedError\n", "", SEVERAL),
    Mutant("alterations are silent", "delivery.py", "            elif change.alterations:", "            elif False:", FIT),
    Mutant("sinks are not asked beforehand", "survey.py", "if not change.upserts or sink not in self.fits:", "if True:", FIT),
    Mutant("documents are read for sinks that are left out", "survey.py", "                continue\n            is_new", "            is_new", SEVERAL),
    Mutant("a slow sink is not brought up", "engine.py", "                if not walk.slow or not walk.survey.complete:", "                if True:", SEVERAL),
    Mutant("what a slow sink was sent counts twice", "engine.py", "            self.deliveries[name].committed.clear()", "            pass", SEVERAL),
    Mutant("drift is not looked for", "summary.py", "    if count == expected:", "    if True:", SEVERAL),
    Mutant("a failed run has no end", "engine.py", "        run.note_failure(error)\n", "", SEVERAL),
    Mutant("a document that waits for a job counts as done", "engine.py", "len(survey.skipped) + survey.waiting", "len(survey.skipped)", STOP),
    Mutant("what a job has is embedded again", "walk.py", "        group = self._without_waiting(group)\n", "", STOP),
    Mutant("jobs are waited for all the same", "jobs.py", "if not wait and self._all_run():", "if False:", STOP),
    Mutant("jobs are left before they run", "jobs.py", "if not wait and self._all_run():", "if not wait:", STOP),
    Mutant("a stop is not heeded before a call", "embedding.py", "        self.stop.demand()\n", "", STOP),
    Mutant("a stop is not heeded by the walk", "survey.py", "                self.stop.demand()\n", "", STOP),
    Mutant("a stop is told to nobody", "stopping.py", "            for in_order, _ in self._heeding:\n                in_order()\n", "", STOP),
    Mutant("a hurry is told to nobody", "stopping.py", "            for _, at_once in self._heeding:\n                at_once()\n", "", STOP),
    Mutant("a named wait is ignored", "retry.py", "if error.retry_after_seconds is not None:", "if False:"),
]  # fmt: skip


def test_every_mutant_fits_the_code() -> None:
    for mutant in MUTANTS:
        assert (ROOT / "connector" / mutant.file).read_text().count(mutant.old) == 1, mutant.name


@pytest.mark.exhaustive
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mutant_is_caught(mutant: Mutant, folder: Path) -> None:
    for part in ("connector", "sinks", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    file = folder / "connector" / mutant.file
    code = file.read_text()
    assert code.count(mutant.old) == 1, "the mutant does not fit the code any more"
    file.write_text(code.replace(mutant.old, mutant.new))
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--basetemp={folder / 'tmp'}",
            *mutant.tests,
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stdout[-2000:] + run.stderr[-2000:]
