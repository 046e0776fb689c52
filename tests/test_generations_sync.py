"""A changed recipe builds a new generation beside the live one: through settings, state and engine, as a sync does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import msgspec
import pytest
from generation_rig import NAMES, GenerationRig, HashSettings, ManySettings, OneSettings, reader
from generation_rig import rig as rig  # noqa: PLC0414 - a fixture

from connector.checkpoint import Checkpoints
from connector.errors import ConfigError, ExitCode, SafetyError, SinkError
from connector.generation_control import drop, generations, roll_back, switch_to
from connector.generation_parts import open_sync
from connector.generation_run import sync_generations
from connector.model import Detail, StoredRecord
from connector.parts import Options
from connector.retry import Retry
from connector.testing.generations_in_memory import GenerationInMemory


def test_a_first_sync_notes_the_first_generation(rig: GenerationRig) -> None:
    report = rig.sync()
    assert (report.exit_code, report.generation, report.others, report.notes) == (0, 1, (), ())
    assert rig.states() == {1: "live"}
    assert rig.in_step(1, 8)


def test_a_changed_recipe_asks_first_and_says_what_it_costs(rig: GenerationRig) -> None:
    rig.sync()
    rig.dimension, rig.embedder = 12, {"billed": True}
    planned = rig.plan()
    assert (planned.exit_code, planned.generation, planned.texts_to_embed) == (ExitCode.SAFETY, 2, 5)
    with pytest.raises(SafetyError) as asked:
        rig.sync()
    for told in (str(asked.value), planned.problems[-1]):
        assert "from hash/dim8/tokens256 to hash/dim12/tokens256" in told
        assert "generation 2 would be built beside 1" in told
        assert "5 texts to embed, 50 tokens, for 0.0500 EUR (a test)" in told
        assert "--accept-reembed" in told
    assert rig.states() == {1: "live"}
    assert rig.paid(12) == []
    assert set(rig.database.generations) == {1}


def test_an_accepted_one_is_built_verified_and_given_to_readers(rig: GenerationRig) -> None:
    rig.sync()
    rig.dimension = 12
    report = rig.sync(accept=True)
    assert (report.exit_code, report.generation, report.texts_embedded) == (0, 2, 5)
    assert [(other.generation, other.exit_code) for other in report.others] == [(1, 0)]
    assert "readers get generation 2 now" in report.notes[0]
    assert list(report.sinks) == ["main"]
    assert rig.states() == {1: "retained", 2: "live"}
    assert rig.database.live == 2
    assert rig.read() == 12
    assert rig.in_step(1, 8)
    assert rig.in_step(2, 12)


def test_readers_never_get_an_empty_or_a_mixed_answer(rig: GenerationRig) -> None:
    for number in range(200):
        rig.write(f"more{number}", f"Something about number {number}.")
    rig.sync()
    before = rig.settings

    def read() -> int:
        return rig.read()

    with reader(read) as found:
        rig.dimension = 12
        rig.sync(accept=True)
        roll_back(rig.settings)
        switch_to(rig.settings, 2)
        for _ in range(3):
            rig.read()
    assert set(found) <= {8, 12}
    assert len(found) > 2
    rig.dimension = 8
    assert before == rig.settings
    assert rig.read() == 12, "readers need not have the new settings"


def test_an_interrupted_build_goes_on_without_asking_again_and_both_receive_an_edit(rig: GenerationRig) -> None:
    rig.sync()
    rig.dimension = 12
    report = rig.sync(accept=True, max_tokens=20)
    assert report.exit_code == ExitCode.SAFETY
    assert rig.states() == {1: "live", 2: "building"}
    assert "generation 2 is being built; readers get generation 1 meanwhile" in report.notes
    assert rig.read() == 8
    rig.write("dogs", "Dogs are not cats.")
    (rig.folder / "docs" / "bees.md").unlink()
    report = rig.sync(max_tokens=20)
    assert rig.in_step(1, 8)
    assert rig.states()[2] == "building"
    report = rig.sync()
    assert (report.exit_code, rig.states()) == (0, {1: "retained", 2: "live"})
    assert rig.in_step(1, 8)
    assert rig.in_step(2, 12)
    assert sorted(set(rig.paid(12))) == sorted(rig.paid(12)), "no text was paid for twice"


def test_a_retained_generation_receives_changes_so_that_roll_back_embeds_nothing(rig: GenerationRig) -> None:
    rig.sync()
    rig.dimension = 12
    rig.sync(accept=True)
    rig.write("cats", "All there is to know about cats.\n\nAnd more.")
    rig.write("new", "Something new.")
    rig.sync()
    rig.write("cats", "All there is to know about cats.")
    rig.sync()
    paid = len(rig.paid(8)), len(rig.paid(12))
    done = roll_back(rig.settings)
    assert (done.live, done.before) == (1, 2)
    assert (len(rig.paid(8)), len(rig.paid(12))) == paid
    assert rig.read() == 8
    assert rig.in_step(1, 8)


def test_after_a_roll_back_readers_stay_there_while_both_receive_changes(rig: GenerationRig) -> None:
    rig.sync()
    rig.dimension = 12
    rig.sync(accept=True)
    roll_back(rig.settings)
    rig.write("new", "Something new.")
    report = rig.sync()
    assert (report.exit_code, report.generation) == (0, 2)
    assert "readers get generation 1, and the settings ask for 2" in report.notes[0]
    assert rig.read() == 8
    assert rig.in_step(1, 8)
    assert rig.in_step(2, 12)
    rig.dimension = 8
    assert rig.sync().generation == 1
    assert rig.states() == {1: "live", 2: "retained"}
    rig.dimension = 12
    assert switch_to(rig.settings, 2).live == 2
    assert rig.read() == 12


def test_metadata_is_refreshed_in_place(rig: GenerationRig) -> None:
    rig.sync()
    rig.write("cats", "---\ntitle: Cats\n---\nAll there is to know about cats.")
    rig.sync()
    assert rig.states() == {1: "live"}
    assert len(rig.paid(8)) == 5


def test_a_build_for_settings_of_yesterday_is_left_and_told_about(rig: GenerationRig) -> None:
    rig.sync()
    rig.dimension = 12
    rig.sync(accept=True, max_tokens=20)
    rig.dimension = 16
    with pytest.raises(SafetyError, match="generation 3 would be built beside 1"):
        rig.sync()
    paid = len(rig.paid(12))
    report = rig.sync(accept=True)
    assert rig.states() == {1: "retained", 2: "building", 3: "live"}
    assert any("generations drop 2" in note for note in report.notes)
    assert len(rig.paid(12)) == paid
    done = drop(rig.settings, 2)
    assert (done.number, done.sinks) == (2, ("main",))
    assert set(rig.database.generations) == {1, 3}
    rig.dimension = 20
    rig.sync(accept=True)
    assert rig.states() == {1: "retained", 3: "retained", 4: "live"}, "a number is never given twice"


def test_one_that_was_left_behind_by_other_settings_is_not_switched_to(rig: GenerationRig) -> None:
    rig.options = {"switch": "manual"}
    rig.sync()
    rig.dimension = 12
    rig.sync(accept=True)
    rig.dimension = 16
    rig.write("new", "Something new.")
    rig.sync(accept=True)
    with pytest.raises(SafetyError, match="generation 2 is not in step"):
        switch_to(rig.settings, 2)
    assert switch_to(rig.settings).live == 3
    rig.dimension = 12
    rig.sync()
    assert (switch_to(rig.settings, 2).live, rig.in_step(2, 12)) == (2, True)


def test_only_a_whole_generation_is_switched_to(rig: GenerationRig) -> None:
    rig.sync()
    rig.dimension = 12
    rig.options = {"switch": "manual"}
    rig.sync(accept=True, max_tokens=20)
    with pytest.raises(SafetyError, match="not in step"):
        switch_to(rig.settings)
    report = rig.sync()
    assert "`vector-sync generations switch 2` sends readers there" in report.notes[0]
    assert rig.read() == 8
    lost = rig.database.generations[2].records.popitem()
    with pytest.raises(SafetyError, match="1 of its records are missing"):
        switch_to(rig.settings)
    rig.database.generations[2].records.update([lost])
    assert switch_to(rig.settings).live == 2
    assert rig.read() == 12


def test_readers_are_not_sent_to_records_that_somebody_has_changed(rig: GenerationRig) -> None:
    rig.sync()
    rig.dimension = 12
    rig.options = {"switch": "manual"}
    rig.sync(accept=True)
    records = rig.database.generations[2].records
    id = next(iter(records))
    records[id] = msgspec.structs.replace(records[id], digest=bytes(range(16)))
    rig.options = {}
    report = rig.sync()
    assert report.exit_code == ExitCode.DRIFT
    assert any("1 of its records are missing" in line for line in report.problems)
    assert rig.states() == {1: "live", 2: "building"}
    assert rig.read() == 8


@pytest.mark.parametrize("late", [2, 99])
def test_what_a_service_only_tells_late_is_waited_for_before_readers_are_sent_there(
    rig: GenerationRig, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    rig.sync()
    scan, scans = GenerationInMemory.scan, count(1)

    def late_scan(sink: GenerationInMemory, detail: Detail = Detail.MARKS) -> Iterator[StoredRecord]:
        return iter(()) if next(scans) <= late else scan(sink, detail)

    monkeypatch.setattr(GenerationInMemory, "scan", late_scan)
    monkeypatch.setattr(GenerationInMemory, "count", lambda _: None)
    rig.dimension = 12
    with open_sync(rig.settings) as opened:
        report = sync_generations(opened, Options(accept_reembed=True), retry=Retry(sleep=lambda _: None))
    assert report.exit_code == (ExitCode.IN_STEP if late == 2 else ExitCode.DRIFT)
    assert rig.states() == ({1: "retained", 2: "live"} if late == 2 else {1: "live", 2: "building"})


@pytest.mark.parametrize("after", [False, True])
def test_a_switch_whose_answer_is_lost_is_finished_by_the_next_run(rig: GenerationRig, *, after: bool) -> None:
    rig.sync()
    rig.dimension = 12
    rig.sync(accept=True, max_tokens=20)
    rig.database.fail_next("make_live", SinkError("401"), after=after)
    report = rig.sync()
    assert report.exit_code == ExitCode.BEHIND
    assert any("readers could not be sent to generation 2" in line for line in report.problems)
    assert rig.states() == {1: "live", 2: "switching"}
    assert rig.read() == (12 if after else 8)
    rig.dimension = 8  # what was begun is finished, whatever the settings say now
    report = rig.sync()
    assert rig.states() == {1: "retained", 2: "live"}
    assert rig.database.live == 2
    assert len(rig.paid(12)) == 5


def test_the_sinks_are_believed_about_what_is_live(rig: GenerationRig) -> None:
    rig.sync()
    rig.dimension = 12
    rig.sync(accept=True)
    rig.database.live = 1
    report = rig.sync()
    assert any("generation 1 is live by the word of the sinks" in line for line in report.problems)
    assert rig.states() == {1: "live", 2: "retained"}
    assert rig.read() == 8
    assert rig.sync().exit_code == 0


def test_several_sinks_are_switched_together_and_one_that_is_added_later_gets_all_generations(
    rig: GenerationRig,
) -> None:
    rig.sinks["other"] = {"kind": "many", "database": "other"}
    rig.sync()
    rig.dimension = 12
    ManySettings.databases["other"].fail_next("upsert", SinkError("disk full"))
    report = rig.sync(accept=True)
    assert report.exit_code == ExitCode.BEHIND
    assert (rig.database.live, ManySettings.databases["other"].live) == (1, 1)
    rig.sinks["third"] = {"kind": "many", "database": "third"}
    report = rig.sync()
    assert report.exit_code == 0
    assert {name: database.live for name, database in ManySettings.databases.items()} == {
        "main": 2,
        "other": 2,
        "third": 2,
    }
    for database in ManySettings.databases:
        assert rig.in_step(1, 8, database)
        assert rig.in_step(2, 12, database)
    assert len(rig.paid(12)) == 5


def test_a_sink_that_was_away_while_the_others_were_switched_follows_them(rig: GenerationRig) -> None:
    rig.sinks["other"] = {"kind": "many", "database": "other"}
    rig.sync()
    del rig.sinks["other"]
    rig.dimension = 12
    rig.sync(accept=True)
    rig.sinks["other"] = {"kind": "many", "database": "other"}
    report = rig.sync()
    assert any("readers of sink other get generation 2 now" in note for note in report.notes)
    assert ManySettings.databases["other"].live == 2
    assert rig.in_step(2, 12, "other")


def test_an_old_embedder_that_cannot_be_had_leaves_its_generation_as_it_is(rig: GenerationRig) -> None:
    rig.sync()
    rig.dimension = 12
    HashSettings.installed.add(12)
    rig.sync(accept=True, max_tokens=20)
    rig.write("new", "Something new.")
    report = rig.sync()
    assert report.exit_code == 0
    assert any(
        "generation 1 (live) receives no changes" in line and "not installed" in line for line in report.problems
    )
    assert rig.states() == {1: "retained", 2: "live"}
    assert not rig.in_step(1, 8)
    assert roll_back(rig.settings).notes, "it is told that this one is behind"
    with pytest.raises(ConfigError, match="not installed"):
        rig.read()
    report = rig.sync()
    assert report.exit_code == ExitCode.BEHIND, "readers get what receives no changes"
    assert any("generation 1 (live) receives no changes" in line for line in report.problems)


def test_a_key_goes_only_to_the_service_that_it_is_for(rig: GenerationRig) -> None:
    rig.embedder = {"api_key": "old"}
    rig.sync()
    rig.dimension, rig.embedder = 12, {"api_key": "rolled"}
    rig.sync(accept=True, max_tokens=20)
    assert HashSettings.keys[-1] == ("http://one.example", "rolled"), "the same service gets the present key"
    rig.embedder = {"api_key": "of two", "url": "http://two.example"}
    HashSettings.keys.clear()
    rig.sync()
    assert set(HashSettings.keys) == {("http://two.example", "of two"), ("http://one.example", None)}
    assert "rolled" not in (rig.folder / "state" / "checkpoint.db").read_bytes().decode("latin-1")


def test_another_dimension_in_a_strangers_sink_is_refused_and_the_same_one_is_replaced_in_place(
    rig: GenerationRig,
) -> None:
    rig.sinks["plain"] = {"kind": "one"}
    rig.sync()
    rig.dimension = 12
    with pytest.raises(ConfigError, match="dimensions"):
        rig.sync(accept=True)
    rig.dimension, rig.embedder = 8, {"tokens_per_text": 128}
    with pytest.raises(SafetyError, match=r"all 5 documents .* --accept-reembed"):
        rig.sync()
    assert rig.rows()[0].made.embedder == "hash/dim8/tokens256"
    assert rig.sync(accept=True).exit_code == 0
    assert rig.states() == {1: "live"}
    assert rig.rows()[0].made.embedder == "hash/dim8/tokens128"
    assert len(OneSettings.sinks["plain"].records) == 5


def test_a_sink_that_could_not_be_switched_is_told_before_anything_is_noted_or_paid_for(rig: GenerationRig) -> None:
    rig.sync()
    rig.database.one_dimension = True
    rig.dimension = 12
    with pytest.raises(ConfigError, match="could not be made live"):
        rig.sync(accept=True)
    with pytest.raises(ConfigError, match="could not be made live"):
        rig.plan()
    assert rig.states() == {1: "live"}
    assert rig.paid(12) == []


def test_a_number_that_a_lost_state_gave_away_is_not_given_again(rig: GenerationRig) -> None:
    rig.sync()
    rig.dimension = 12
    rig.sync(accept=True)
    roll_back(rig.settings)
    shutil.rmtree(rig.folder / "state")
    rig.dimension = 8
    rig.sync()
    rig.dimension = 16
    report = rig.sync(accept=True)
    assert (report.exit_code, rig.states()) == (0, {1: "retained", 3: "live"}), report.problems
    assert (rig.read(), len(rig.database.held(2))) == (16, len(NAMES))


def test_what_a_sink_refuses_is_not_noted_as_what_readers_get(rig: GenerationRig) -> None:
    rig.sync()
    shutil.rmtree(rig.folder / "state")
    rig.dimension = 12
    with pytest.raises(ConfigError, match="dimensions"):
        rig.sync()
    assert rig.rows() == []


def test_vectors_are_pruned_only_when_no_generation_waits_for_them(rig: GenerationRig) -> None:
    rig.state = {"keep": "undelivered"}
    rig.sync()
    rig.dimension = 12
    rig.database.fail_next("upsert", SinkError("disk full"))
    rig.sync(accept=True)
    assert rig.states() == {1: "live", 2: "building"}
    rig.sync()
    assert rig.states() == {1: "retained", 2: "live"}
    assert len(rig.paid(12)) == 5


def test_a_state_of_an_older_version_has_its_first_generation_noted(rig: GenerationRig) -> None:
    rig.sync()
    forget_the_book(rig)
    rig.sync()
    assert rig.states() == {1: "live"}
    forget_the_book(rig)
    rig.dimension = 12
    with pytest.raises(SafetyError, match="generation 2 would be built beside 1"):
        rig.sync()
    with pytest.raises(ConfigError, match="its settings are not known"):
        rig.read()
    report = rig.sync(accept=True)
    assert report.exit_code == 0
    assert any("generation 1 (live) receives no changes" in line for line in report.problems)
    assert rig.states() == {1: "retained", 2: "live"}
    assert rig.read() == 12


def test_a_state_that_was_made_again_knows_the_generation_that_readers_get(rig: GenerationRig) -> None:
    rig.sync()
    rig.dimension = 12
    rig.sync(accept=True)
    drop(rig.settings, 1)
    forget_the_book(rig)  # as after `state rebuild`: there are ledgers, and no generations
    assert [(it.number, it.state) for it in generations(rig.settings)] == [(2, "live")]
    rig.dimension = 16
    with pytest.raises(SafetyError, match="generation 3 would be built beside 2"):
        rig.sync()
    assert rig.sync(accept=True).exit_code == 0
    assert rig.states() == {2: "retained", 3: "live"}


def forget_the_book(rig: GenerationRig) -> None:
    with closing(Checkpoints.open(rig.folder / "state")) as checkpoints, checkpoints.writing() as db:
        db.execute("DELETE FROM generation")
        db.execute("DELETE FROM sqlite_sequence")
