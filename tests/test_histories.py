"""Random histories of edits, failures and crashes: after every run that says it is in step, it is."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from crashes import Crash, World
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from rig import FlakySink, Rig

from connector.engine import Options
from connector.errors import ExitCode, RejectedError, SinkError, TransientError
from connector.model import EmbeddedRecord
from connector.testing.dict_source import Row

IDS = ("a", "b", "dir/c", "dir/d", "e")
POISON = "poison"
MEMORY = Path("/dev/shm")
letters = st.text("abcdefgh", min_size=1, max_size=4)


class Histories(RuleBasedStateMachine):
    """A source that is edited, two sinks, and a run now and then that may be cut short."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.rig = Rig(self.folder, options=Options(threads=False, max_delete_fraction=1.0, confirm_deletes=100))
        self.world = World()
        self.documents: dict[str, tuple[str, int]] = {}
        self.stored: set[str] = set()

    @initialize(two=st.booleans())
    def open(self, two: bool) -> None:
        self.rig.sinks = [FlakySink("one"), FlakySink("two")][: 2 if two else 1]
        self.world.install(self.rig)

    # --- the source changes ---

    @rule(id=st.sampled_from(IDS), text=letters, tag=st.integers(0, 2))
    def write(self, id: str, text: str, tag: int) -> None:
        self.documents[id] = ("\n\n".join(letter * 24 for letter in text), tag)

    @rule(id=st.sampled_from(IDS))
    def write_poison(self, id: str) -> None:
        self.documents[id] = ("a" * 24 + "\n\n" + POISON, 0)

    @rule(id=st.sampled_from(IDS))
    def remove(self, id: str) -> None:
        self.documents.pop(id, None)

    @rule(old=st.sampled_from(IDS), new=st.sampled_from(IDS))
    def move(self, old: str, new: str) -> None:
        if old in self.documents:
            self.documents[new] = self.documents.pop(old)

    # --- the world changes ---

    @rule(down=st.sampled_from([None, SinkError("down"), TransientError("busy")]), which=st.integers(0, 1))
    def sink_goes(self, down: Exception | None, which: int) -> None:
        def meet(records: Sequence[EmbeddedRecord]) -> None:
            if down is not None:
                raise down
            if any(POISON in record.text for record in records):
                raise RejectedError("400")

        def meet_deletion(_ids: object) -> None:
            if down is not None:
                raise down

        sink = self.rig.sinks[which % len(self.rig.sinks)]
        sink.before_upsert, sink.before_delete = meet, meet_deletion

    @precondition(lambda self: len(self.rig.sinks) == 2)
    @rule()
    def collection_is_lost(self) -> None:
        self.rig.sinks[1] = FlakySink("two")

    @rule()
    def fingerprints_are_lost(self) -> None:
        for file in self.folder.glob("known-*"):
            file.unlink()

    @rule(number=st.integers(1, 30), after=st.booleans())
    def crash_later(self, number: int, after: bool) -> None:
        self.world.crash_at, self.world.after = number, after

    # --- runs ---

    @rule(breaks_off_after=st.none() | st.integers(0, 3))
    def sync(self, breaks_off_after: int | None) -> None:
        self.rig.source.rows = [Row(id, text, {"tag": tag}) for id, (text, tag) in self.documents.items()]
        self.rig.source.breaks_off_after = breaks_off_after
        try:
            report = self.rig.sync()
        except Crash:
            return
        if report.exit_code in (ExitCode.IN_STEP, ExitCode.REJECTED):
            self.assert_in_step()
            assert sum(self.listed(report)) == len(self.documents)

    @rule()
    def sync_in_a_sane_world(self) -> None:
        self.world.crash_at = None
        for which in range(len(self.rig.sinks)):
            self.sink_goes(None, which)
        self.sync(None)
        self.assert_in_step()
        del self.world.touched[:]
        self.sync(None)
        assert not {"upsert", "delete", "embed", "put", "begin", "commit"} & set(self.world.touched)

    def assert_in_step(self) -> None:
        wanted = self.rig.expected()
        for number, sink in enumerate(self.rig.sinks):
            held = self.rig.held(number)
            refused = {id for id, (text, _) in self.documents.items() if POISON in text and f"{id}#0" not in held}
            assert held == {id: value for id, value in wanted.items() if id.split("#")[0] not in refused}, sink.name

    @staticmethod
    def listed(report: object) -> list[int]:
        counts = report.counts  # type: ignore[attr-defined]
        return [counts.added, counts.changed, counts.metadata_only, counts.moved, counts.unchanged, counts.rejected]

    @invariant()
    def nothing_stored_is_paid_for_again(self) -> None:
        assert self.world.paid_though_stored == []

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


Histories.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
test_random_histories_end_in_step = Histories.TestCase
