# ruff: noqa: E501  # a mutant is a line of code beside the line that it replaces
"""The tests of the jobs have teeth: each of these mutants of the state machine is caught by them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_teeth import ROOT, Mutant

ENOUGH = ("tests/test_jobs.py", "tests/test_job_histories.py")

MUTANTS = [
    Mutant("no write-ahead", "jobs.py", "        job = self._save(job, State.SUBMITTING, intent_at=self._clock())\n", ""),
    Mutant("no adoption", "job_looks.py", "if one.dataset_id == job.dataset_id", "if False"),
    Mutant("adoption by name", "job_looks.py", "if one.dataset_id == job.dataset_id", "if one.name.startswith('vs-')"),
    Mutant("no settle", "job_steps.py", "Step.WAIT if facts.unseen_seconds < settle_seconds else Step.LOSE", "Step.LOSE"),
    Mutant("settles at once after a restart", "job_looks.py", "            watch.unseen_since = began\n", "            watch.unseen_since = -1e9\n"),
    Mutant("the start is repeated", "jobs.py", 'job_id = self._embedder.start_job(job.dataset_id or "", job.name)', 'try:\n                job_id = self._embedder.start_job(job.dataset_id or "", job.name)\n            except UnknownOutcomeError:\n                job_id = self._embedder.start_job(job.dataset_id or "", job.name)'),
    Mutant("an unknown outcome counts as none", "jobs.py", "            self._emit(JobInDoubt(job.token, str(error)))\n            return job", "            self._emit(JobInDoubt(job.token, str(error)))\n            return self._save(job, State.UPLOADED)"),
    Mutant("no fence", "jobs.py", "        self._looks.delete_datasets(job)\n        hashes =", "        hashes ="),
    Mutant("the next attempt takes the same dataset", "jobs.py", "name=name, dataset_id=None, job_id=None", "name=job.name, dataset_id=None, job_id=None"),
    Mutant("match by position", "job_intake.py", "        for position, hash in enumerate(hashes):", "        for position, hash in enumerate([*(self.wanted or hashes)][: len(hashes)]):"),
    Mutant("rows of others are taken in", "job_intake.py", "else hash in self.wanted", "else True"),
    Mutant("vectors that are not finite are taken in", "job_intake.py", "if not sound[position] or", "if"),
    Mutant("vectors of another dimension are taken in", "job_intake.py", "vectors.shape != (len(hashes), self.dimension)", "False"),
    Mutant("vectors are stored after the state", "jobs.py", '            self._looks.call("read the result', '            self._save(job, State.STORED, output_dataset_id=output_id)\n            self._looks.call("read the result'),
    Mutant("the remote result goes before it is stored", "jobs.py", "lambda: intake.take(self._embedder.results(output_id))", "lambda: (kept := list(self._embedder.results(output_id)), self._looks.delete_dataset(output_id), intake.take(kept))[-1]"),
    Mutant("vectors are not stored", "job_intake.py", "            self.vectors.put(list(waiting), np.stack(list(waiting.values())))\n", ""),
    Mutant("the hashes of a failed job are kept", "job_book.py", "if job.state is State.STORED or not job.is_open:", "if job.state is State.STORED:"),
    Mutant("the hashes of a stored job are kept", "job_book.py", "if job.state is State.STORED or not job.is_open:", "if job.state is State.FAILED:"),
    Mutant("texts are planned though they are in an open job", "job_planning.py", "if hash not in taken and", "if"),
    Mutant("a sealed file forgets what it has", "job_planning.py", "            taken |= shard.hashes\n", ""),
    Mutant("a file is not sealed", "job_planning.py", "        self.spool.seal(shard)\n", ""),
    Mutant("an upload is not looked for", "job_looks.py", "dataset=self._dataset_named(job.name))", "dataset=None)"),
    Mutant("the book is not compared with the service", "jobs.py", "        self._bring_in_line(prefix, Remote(self._looks.datasets(prefix), self._looks.jobs()))\n", ""),
    Mutant("found jobs are not waited for", "jobs.py", "return self._drive(lambda job: job.found)", "return self._outcome"),
    Mutant("another embedder's results are taken in", "job_sweep.py", "if token.startswith(mark_of(identity)):", "if True:"),
    Mutant("everybody's datasets are cleaned", "job_sweep.py", "if token_of(prefix, dataset.name) is not None\n        and", "if"),
    Mutant("fresh datasets are cleaned", "job_sweep.py", "now - dataset.created_at > ORPHAN_SECONDS", "True"),
    Mutant("orphans stay", "job_sweep.py", "now - dataset.created_at > ORPHAN_SECONDS", "False"),
    Mutant("datasets stay when a job is done", "jobs.py", "        try:\n            self._looks.delete_datasets(job)", "        try:\n            pass"),
    Mutant("attempts without end", "job_steps.py", "if attempt >= MAX_ATTEMPTS:", "if False:"),
    Mutant("duplicates are not cancelled", "jobs.py", "            if other.phase is RemotePhase.PENDING:", "            if False:"),
    Mutant("a stop cancels", "jobs.py", "        while not self._stop():", "        while not (self._stop() and [self._looks.cancel_job(j.job_id) for j in self._book.open_jobs() if j.job_id] is not None):"),
    Mutant("as many jobs as there are", "jobs.py", "if job.state is State.PLANNED and in_flight >= self._limits.open_jobs:", "if False:"),
    Mutant("a named wait is ignored", "job_looks.py", "wait_seconds = grown if named is None else named", "wait_seconds = grown"),
    Mutant("a refused start stays in doubt", "jobs.py", "            job = self._save(job, State.UPLOADED)\n            self._looks.put_off", "            self._looks.put_off"),
    Mutant("a wrong key leaves a job in doubt", "jobs.py", "            self._save(job, State.UPLOADED)\n            raise", "            raise"),
    Mutant("what is stored already is paid again", "job_steps.py", "    if all_stored:", "    if False:"),
    Mutant("two open jobs for a text", "checkpoint.py", "PRIMARY KEY (embedder, text_hash)\n", "PRIMARY KEY (embedder, text_hash, job)\n"),
]  # fmt: skip


def test_every_mutant_of_the_jobs_fits_the_code() -> None:
    for mutant in MUTANTS:
        assert (ROOT / "connector" / mutant.file).read_text().count(mutant.old) == 1, mutant.name


@pytest.mark.exhaustive
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mutant_of_the_jobs_is_caught(mutant: Mutant, folder: Path) -> None:
    for part in ("connector", "sinks", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    file = folder / "connector" / mutant.file
    code = file.read_text()
    assert code.count(mutant.old) == 1, "the mutant does not fit the code any more"
    file.write_text(code.replace(mutant.old, mutant.new))
    pytest_of_its_own = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*pytest_of_its_own, f"--basetemp={folder / 'tmp'}", *ENOUGH],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stdout[-2000:] + run.stderr[-2000:]
