"""A run that is stopped by Ctrl-C ends soon, and nothing of it goes on beside the next run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from rig import Rig

from connector.checkpoint import Checkpoints
from connector.engine import Options, sync
from connector.errors import TransientError
from connector.events import CallRetried, Event
from connector.lanes import Lane
from connector.retry import Retry
from connector.survey import DOCUMENTS_PER_GROUP
from connector.testing.qdrant_server import QdrantServer

LONG_SECONDS = 30.0  # that a run which does not heed the stop would wait; one that does, does not wait at all
UPSERTS = r"/collections/[^/]+/points"


def test_a_call_that_waits_to_be_made_again_is_not_made_when_the_run_is_stopped(rig: Rig) -> None:
    (sink,) = rig.sinks
    called: list[int] = []
    waits = threading.Event()

    def busy(records: object) -> None:
        called.append(1)
        raise TransientError("busy", retry_after_seconds=LONG_SECONDS)

    def stop_at_the_second_group(text: str) -> bool:
        if int(text.rpartition(" ")[2]) >= DOCUMENTS_PER_GROUP:
            assert waits.wait(LONG_SECONDS)
            raise KeyboardInterrupt
        return False

    def emit(event: Event) -> None:
        if isinstance(event, CallRetried):
            waits.set()

    sink.before_upsert = busy
    rig.embedder.reject = stop_at_the_second_group
    rig.source.set({f"doc-{n:05}": f"text number {n}" for n in range(DOCUMENTS_PER_GROUP + 1)})
    with closing(Checkpoints.open(rig.folder)) as checkpoints, closing(rig._vectors()) as vectors:
        parts = rig._parts(checkpoints, vectors)
        with pytest.raises(KeyboardInterrupt):
            sync(parts, Options(threads=True), retry=Retry(attempts=3), emit=emit)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]
    assert called == [1]


def test_a_lane_is_closed_only_when_its_work_has_ended_though_ctrl_c_is_pressed_again() -> None:
    lane = Lane("main", threaded=True)
    begun, released, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        released.wait(LONG_SECONDS)
        done.set()

    class Impatient:
        """Stands for the thread: somebody presses Ctrl-C while it is waited for, and then the work goes on."""

        def __init__(self, thread: threading.Thread) -> None:
            self._thread = thread

        def is_alive(self) -> bool:
            return self._thread.is_alive()

        def join(self) -> None:
            if not released.is_set():
                released.set()
                raise KeyboardInterrupt
            self._thread.join()

    assert lane._thread is not None
    lane._thread = Impatient(lane._thread)  # type: ignore[assignment]
    lane.put(work)
    assert begun.wait(LONG_SECONDS)
    with pytest.raises(KeyboardInterrupt):
        lane.close()
    assert done.is_set()


def test_waits_end_when_the_event_is_set_and_the_call_is_not_made_again() -> None:
    ended = threading.Event()
    ended.set()
    called: list[int] = []

    def call() -> None:
        called.append(1)
        raise TransientError("busy", retry_after_seconds=LONG_SECONDS)

    with pytest.raises(TransientError, match="busy"):
        Retry().until(ended)("ask", call)
    assert called == [1]


def test_a_wait_that_is_too_long_is_left_to_the_next_run() -> None:
    slept: list[float] = []

    def call() -> None:
        raise TransientError("429 slow down", retry_after_seconds=86_400)

    with pytest.raises(TransientError, match="429 slow down; the service asks to come back in 86,400 s"):
        Retry(sleep=slept.append)("ask", call)
    assert slept == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "TERM"])
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_a_signal_ends_the_command_though_a_server_asks_for_a_long_wait_or_does_not_answer(
    tmp_path: Path, times: int, number: signal.Signals
) -> None:
    """Once: the wait is given up. Twice: the process ends at once, whatever is under way."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "note.md").write_text("# A note\n\nThe ferry leaves at nine.\n")
    with QdrantServer() as server:
        (tmp_path / "vector-sync.toml").write_text(
            '[source]\nkind = "files"\npath = "docs"\n[embedder]\nkind = "local"\n'
            f'[sinks.main]\nkind = "qdrant"\nurl = "{server.url}"\n'
        )
        if times == 1:
            server.faults.answer(429, "slow down", retry_after="500", times=None, path=UPSERTS)
        else:
            server.faults.hang(times=None, path=UPSERTS)
        with subprocess.Popen(
            [sys.executable, "-u", "-m", "connector", "sync"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509  # one call
        ) as process:
            assert process.stderr is not None
            if times == 1:
                assert any("500 s" in line for line in process.stderr)
            else:
                assert server.faults.reached.wait(LONG_SECONDS)
            process.send_signal(number)
            assert any("again stops at once" in line for line in process.stderr)
            if times == 2:
                process.send_signal(number)
            assert process.wait(LONG_SECONDS) == 128 + number
        server.faults.release()
        assert server.points_written == 0
