"""What a run does, and what it costs, when all is well and when a part of the world is not."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rig import FlakySink, Rig

from connector.checkpoint import Checkpoints
from connector.engine import Options
from connector.errors import ConfigError, ExitCode, LeaseError, RejectedError, SafetyError, SinkError, TransientError
from connector.events import DocumentRejected, LedgerVoided, RowsListed, SinkStopped, TextsEmbedded
from connector.model import DocumentId, EmbeddedRecord, Rejection
from connector.report import Counts
from connector.testing.dict_source import Row
from connector.testing.fakes import HashEmbedder

LONG = "one two three four five. six seven eight nine ten. eleven twelve thirteen. fourteen fifteen sixteen"


def many(count: int) -> dict[str, str]:
    return {f"doc-{n:04}": f"text number {n}" for n in range(count)}


def picky(word: str) -> Callable[[Sequence[EmbeddedRecord]], None]:
    def refuse(records: Sequence[EmbeddedRecord]) -> None:
        if any(word in record.text for record in records):
            raise RejectedError(f"400: no '{word}' here")

    return refuse


def down(error: Exception) -> Callable[[object], None]:
    def fail(_records: object) -> None:
        raise error

    return fail


# --- all is well --------------------------------------------------------------------------------


def test_a_first_sync_brings_everything(rig: Rig) -> None:
    report = rig.sync({"a": "alpha", "b": LONG})
    assert rig.in_step()
    assert report.counts == Counts(added=2)
    assert report.exit_code is ExitCode.IN_STEP
    assert report.texts_embedded == len(rig.sinks[0].records) > 2


def test_a_second_sync_embeds_nothing_and_calls_no_sink(rig: Rig) -> None:
    rig.sync(many(20))
    calls, paid = rig.sinks[0].calls, list(rig.embedder.texts_seen)
    report = rig.sync()
    assert report.counts == Counts(unchanged=20)
    assert (rig.sinks[0].calls, rig.embedder.texts_seen) == (calls, paid)
    assert rig.source.fetched == list(many(20))  # by the first run only


def test_only_the_changed_passage_of_a_document_is_embedded_and_written(rig: Rig) -> None:
    rig.sync({"a": ("x" * 24 + "\n\n" + "y" * 24 + "\n\n" + "z" * 24, {})})
    rig.embedder.texts_seen.clear()
    report = rig.sync({"a": ("x" * 24 + "\n\n" + "Y" * 24 + "\n\n" + "z" * 24, {})})
    assert rig.embedder.texts_seen == ["Y" * 24]
    assert rig.sinks[0].upserts[-1] == ["a#1"]
    assert report.counts == Counts(changed=1)
    assert rig.in_step()


def test_an_edit_of_metadata_embeds_nothing(rig: Rig) -> None:
    rig.sync({"a": (LONG, {"tag": 1}), "b": ("beta", {})})
    rig.embedder.texts_seen.clear()
    report = rig.sync({"a": (LONG, {"tag": 2}), "b": ("beta", {})})
    assert report.counts == Counts(metadata_only=1, unchanged=1)
    assert (rig.embedder.texts_seen, report.texts_embedded) == ([], 0)
    assert rig.in_step()


def test_a_moved_document_embeds_nothing_and_is_neither_added_nor_deleted(rig: Rig) -> None:
    rig.sync({"old/a": "alpha", "b": "beta"})
    report = rig.sync({"new/a": "alpha", "b": "beta"})
    assert report.counts == Counts(moved=1, unchanged=1)
    assert report.texts_embedded == 0
    assert rig.in_step()


def test_the_same_text_in_many_documents_is_paid_for_once(rig: Rig) -> None:
    report = rig.sync({f"doc-{n}": "the same" for n in range(50)})
    assert rig.embedder.texts_seen == ["the same"]
    assert report.counts.added == 50
    assert rig.in_step()


def test_a_new_version_with_the_same_content_touches_no_sink(rig: Rig) -> None:
    rig.source.rows = [Row("a", "alpha")]
    rig.sync()
    calls = rig.sinks[0].calls
    rig.source.rows = [Row("a", "alpha", salt="rewritten")]
    assert rig.sync().counts == Counts(unchanged=1)
    assert rig.sinks[0].calls == calls
    rig.source.fetched.clear()
    rig.sync()
    assert rig.source.fetched == [], "the ledger remembers the new version"


def test_a_document_that_shrinks_leaves_no_passage_behind(rig: Rig) -> None:
    rig.sync({"a": LONG})
    rig.sync({"a": "short"})
    assert set(rig.held()) == {"a#0"}
    assert rig.in_step()


def test_a_document_is_never_absent_while_it_changes(rig: Rig) -> None:
    rig.sync({"a": LONG})
    seen: list[bool] = []
    rig.sinks[0].before_upsert = rig.sinks[0].before_delete = lambda _: seen.append("a#0" in rig.sinks[0].records)
    rig.sync({"a": "short"})
    assert seen == [True, True]


def test_a_document_that_is_gone_is_deleted_and_forgotten(rig: Rig) -> None:
    rig.sync({"a": LONG, "b": "beta"})
    report = rig.sync({"b": "beta"})
    assert report.counts == Counts(deleted=1, unchanged=1)
    assert rig.in_step()
    assert rig.sync({"a": LONG, "b": "beta"}).texts_embedded == 0, "the vectors are still there"
    assert rig.in_step()


def test_a_hundred_scattered_edits_are_two_calls_to_the_embedder_and_one_to_the_sink(rig: Rig) -> None:
    documents = many(3000)
    rig.sync(documents)
    before = rig.embedder.calls
    report = rig.sync({id: text + (" edited" if int(id[4:]) % 30 == 7 else "") for id, text in documents.items()})
    assert report.counts == Counts(changed=100, unchanged=2900)
    assert rig.embedder.calls - before == 2
    assert report.sinks["main"].upsert_calls == 1


def test_rows_that_are_known_are_never_fetched(rig: Rig) -> None:
    rig.sync(many(30))
    rig.source.fetched.clear()
    rig.sync({**many(30), "doc-0007": "another text"})
    assert rig.source.fetched == ["doc-0007"]


def test_progress_never_goes_back_and_is_not_full_before_the_last_document_is_embedded(rig: Rig) -> None:
    rig.source.rows_per_batch = 2500
    rig.sync(many(2500))
    shown = [event for event in rig.events if isinstance(event, RowsListed | TextsEmbedded)]
    fractions = [event.fraction for event in shown if isinstance(event, RowsListed)]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0, "all is listed, and nothing dealt with"
    assert [round(fraction, 1) for fraction in fractions[1:]] == [0.4, 0.8, 1.0]
    assert isinstance(shown[-1], RowsListed)


@pytest.mark.parametrize("threads", [False, True])
def test_two_sinks_are_brought_in_step_and_each_text_is_paid_for_once(rig: Rig, threads: bool) -> None:
    rig.sinks = [FlakySink("one"), FlakySink("two")]
    report = rig.sync(many(2500), Options(threads=threads))
    assert rig.in_step()
    assert len(rig.embedder.texts_seen) == report.texts_embedded == 2500


def test_a_new_sink_is_filled_for_nothing_and_the_old_one_is_not_called(rig: Rig) -> None:
    rig.sync(many(10))
    calls = rig.sinks[0].calls
    rig.sinks.append(FlakySink("second"))
    report = rig.sync()
    assert rig.in_step()
    assert (report.texts_embedded, report.texts_reused, rig.sinks[0].calls) == (0, 10, calls)
    assert report.counts == Counts(unchanged=10)
    assert report.sinks["second"].upserted == 10


def test_a_collection_that_was_made_anew_is_filled_again_for_nothing(rig: Rig) -> None:
    rig.sync(many(10))
    rig.sinks = [FlakySink()]
    assert rig.sync().texts_embedded == 0
    assert rig.in_step()
    assert [event for event in rig.events if isinstance(event, LedgerVoided)] == [LedgerVoided("main", 10)]


# --- the recipe ---------------------------------------------------------------------------------


def test_another_embedder_is_asked_for_and_then_embeds_everything(rig: Rig) -> None:
    rig.sync(many(5))
    rig.embedder = HashEmbedder(tokens_per_text=8, identity="another")
    with pytest.raises(SafetyError, match=r"embedder changed .* all 5 documents .* --accept-reembed"):
        rig.sync()
    assert rig.embedder.texts_seen == []
    report = rig.sync(options=Options(threads=False, accept_reembed=True))
    assert report.texts_embedded == 5
    assert rig.in_step()
    assert rig.sync().texts_embedded == 0


def test_other_settings_of_the_source_look_at_everything_again_and_embed_nothing(rig: Rig) -> None:
    rig.sync(many(5))
    rig.source_settings = '{"keep_fields": ["title"]}'
    calls = rig.sinks[0].calls
    report = rig.sync()
    assert report.counts == Counts(unchanged=5)
    assert (report.texts_embedded, rig.sinks[0].calls) == (0, calls)


# --- a sink that is not well ----------------------------------------------------------------------


def test_a_stopped_sink_does_not_stop_the_others_and_catches_up_for_nothing(rig: Rig) -> None:
    rig.sinks = [FlakySink("one"), FlakySink("two")]
    rig.sinks[0].before_upsert = down(SinkError("key revoked"))
    report = rig.sync(many(10))
    assert report.exit_code is ExitCode.BEHIND
    assert (report.sinks["one"].stopped, report.sinks["one"].behind) == ("key revoked", 10)
    assert rig.held(0) == {}
    assert rig.held(1) == rig.expected()
    assert any("sink one stopped, 10 documents behind" in problem for problem in report.problems)
    rig.sinks[0].before_upsert = lambda _: None
    report = rig.sync()
    assert (report.exit_code, report.texts_embedded) == (ExitCode.IN_STEP, 0)
    assert rig.in_step()


def test_a_named_wait_is_kept_to_and_the_call_made_again(rig: Rig) -> None:
    failures = [TransientError("429", retry_after_seconds=7), TransientError("503")]

    def busy(_: object) -> None:
        if failures:
            raise failures.pop(0)

    rig.sinks[0].before_upsert = busy
    assert rig.sync({"a": "alpha"}).exit_code is ExitCode.IN_STEP
    assert rig.waits_seconds == [7, 1.0]
    assert rig.in_step()


def test_a_failure_that_outlives_the_retries_stops_the_sink(rig: Rig) -> None:
    rig.sinks[0].before_upsert = down(TransientError("503"))
    report = rig.sync(many(3))
    assert report.exit_code is ExitCode.BEHIND
    assert [event.error for event in rig.events if isinstance(event, SinkStopped)] == ["503"]
    rig.sinks[0].before_upsert = lambda _: None
    rig.sync()
    assert rig.in_step()


def test_one_record_that_is_refused_costs_its_document_only(rig: Rig) -> None:
    rig.sinks[0].before_upsert = picky("poison")
    report = rig.sync({**many(30), "bad": f"{LONG} poison", "z": LONG})
    assert report.exit_code is ExitCode.REJECTED
    assert report.counts == Counts(added=31, rejected=1)
    assert {id.split("#")[0] for id in rig.held()} == {*many(30), "z"}
    reasons = {event.document_id: event.reason for event in rig.events if isinstance(event, DocumentRejected)}
    assert reasons == {"bad": "400: no 'poison' here"}


def test_a_rejected_document_is_not_sent_or_paid_for_again_until_it_changes(rig: Rig) -> None:
    rig.sinks[0].before_upsert = picky("poison")
    rig.sync({"a": "alpha", "bad": "poison"})
    paid, calls = len(rig.embedder.texts_seen), rig.sinks[0].calls
    report = rig.sync()
    assert report.counts == Counts(unchanged=1, rejected=1)
    assert report.exit_code is ExitCode.REJECTED
    assert (len(rig.embedder.texts_seen), rig.sinks[0].calls) == (paid, calls)
    report = rig.sync({"a": "alpha", "bad": "cured"})
    assert report.counts == Counts(added=1, unchanged=1)
    assert rig.in_step()


def test_a_document_whose_new_version_is_refused_leaves_no_half_behind(rig: Rig) -> None:
    rig.sync({"a": LONG, "b": "beta"})
    rig.sinks[0].before_upsert = picky("poison")
    rig.sync({"a": LONG + " poison", "b": "beta"})
    assert set(rig.held()) == {"b#0"}


def test_many_refusals_in_a_row_mean_that_it_is_the_sink(rig: Rig) -> None:
    rig.sinks[0].before_upsert = down(RejectedError("400: unknown field"))
    report = rig.sync(many(30))
    assert report.exit_code is ExitCode.BEHIND
    assert report.sinks["main"].behind == 30
    assert "21 records in a row were refused" in (report.sinks["main"].stopped or "")
    rig.sinks[0].before_upsert = lambda _: None
    assert rig.sync().counts == Counts(added=30)
    assert rig.in_step()


def test_twenty_bad_neighbours_are_not_the_sink(rig: Rig) -> None:
    rig.sinks[0].before_upsert = picky("bad")
    documents = {f"{n:02}": ("bad" if n < 20 else "good") + f" {n}" for n in range(40)}
    report = rig.sync(documents)
    assert report.counts == Counts(added=20, rejected=20)
    assert report.sinks["main"].stopped is None


def test_refusals_here_and_there_never_add_up(rig: Rig) -> None:
    rig.sinks[0].before_upsert = picky("bad")
    report = rig.sync({f"{n:02}": ("bad" if n % 2 else "good") + f" {n}" for n in range(60)})
    assert report.counts == Counts(added=30, rejected=30)


def test_a_sink_that_stops_while_deleting_deletes_the_rest_later(rig: Rig) -> None:
    rig.sync(many(10))
    rig.sinks[0].before_delete = down(SinkError("read only"))
    report = rig.sync(many(3))
    assert (report.exit_code, report.sinks["main"].behind) == (ExitCode.BEHIND, 7)
    rig.sinks[0].before_delete = lambda _: None
    assert rig.sync().exit_code is ExitCode.IN_STEP
    assert rig.in_step()


# --- an embedder that is not well ---------------------------------------------------------------


def test_what_was_embedded_before_the_embedder_failed_is_not_paid_for_again(rig: Rig) -> None:
    rig.embedder.texts_per_call = 4
    rig.embedder.fail_next()
    documents = many(10)

    calls = 0
    embed = rig.embedder.embed

    class Failing:
        def __getattr__(self, name: str) -> object:
            return getattr(rig.embedder, name)

        def embed(self, texts: Sequence[str], input_type: object) -> object:
            nonlocal calls
            calls += 1
            if calls > 2:
                raise TransientError("503")
            return embed(texts, input_type)  # type: ignore[arg-type]

    rig.wrap = lambda part, name: Failing() if name == "embedder" else part
    report = rig.sync(documents)
    assert (report.exit_code, report.texts_embedded) == (ExitCode.BEHIND, 8)
    rig.wrap = lambda part, _name: part
    assert rig.sync().texts_embedded == 2
    assert sorted(rig.embedder.texts_seen) == sorted(documents.values())
    assert rig.in_step()


def test_a_text_that_can_never_be_embedded_rejects_its_document_only(rig: Rig) -> None:
    rig.embedder.reject = lambda text: "poison" in text
    report = rig.sync({**many(30), "bad": "poison"})
    assert report.counts == Counts(added=30, rejected=1)
    assert "bad#0" not in rig.held()
    paid = len(rig.embedder.texts_seen)
    assert rig.sync().counts == Counts(unchanged=30, rejected=1)
    assert len(rig.embedder.texts_seen) == paid


def test_an_old_version_goes_when_the_new_one_cannot_be_embedded(rig: Rig) -> None:
    rig.sync({**many(30), "bad": "fine"})
    rig.embedder.reject = lambda text: "poison" in text
    rig.sync({**many(30), "bad": "poison"})
    assert "bad#0" not in rig.held()


# --- a source that is not well --------------------------------------------------------------------


def test_a_listing_that_breaks_off_deletes_nothing_and_keeps_its_upserts(rig: Rig) -> None:
    rig.sync(many(9))
    rig.source.set({"doc-0000": "edited", **{id: text for id, text in many(9).items() if id > "doc-0002"}})
    rig.source.breaks_off_after = 3
    report = rig.sync()
    assert report.exit_code is ExitCode.BEHIND
    assert len(rig.sinks[0].records) == 9
    assert rig.held()["doc-0000#0"][0] == "edited"
    assert any("nothing was deleted" in problem for problem in report.problems)
    rig.source.breaks_off_after = None
    assert rig.sync().counts.deleted == 2
    assert rig.in_step()


def test_an_empty_listing_deletes_nothing_until_it_is_confirmed(rig: Rig) -> None:
    rig.sync({"a": "alpha", "b": "beta"})
    report = rig.sync({})
    assert (report.exit_code, report.sinks["main"].behind) == (ExitCode.SAFETY, 2)
    assert "lists nothing" in report.problems[-1]
    assert "--confirm-deletes 2" in report.problems[-1]
    assert len(rig.sinks[0].records) == 2
    assert rig.sync(options=Options(threads=False, confirm_deletes=2)).counts == Counts(deleted=2)
    assert rig.sinks[0].records == {}


def test_eleven_percent_of_a_thousand_gone_stops_and_the_upserts_of_the_run_are_kept(rig: Rig) -> None:
    rig.sync(many(1000))
    kept = {id: text for id, text in many(1000).items() if int(id[4:]) >= 110}
    report = rig.sync({**kept, "new": "a new one", "doc-0500": "edited"})
    assert report.exit_code is ExitCode.SAFETY
    assert "110 of 1000 documents would be deleted" in report.problems[-1]
    assert "--confirm-deletes 110" in report.problems[-1]
    assert (report.counts.added, report.counts.changed, report.counts.deleted) == (1, 1, 0)
    assert rig.held()["new#0"][0] == "a new one"
    assert len(rig.sinks[0].records) == 1001
    with_too_few = rig.sync(options=Options(threads=False, confirm_deletes=109))
    assert with_too_few.exit_code is ExitCode.SAFETY
    assert rig.sync(options=Options(threads=False, confirm_deletes=110)).counts.deleted == 110
    assert rig.in_step()


def test_ten_percent_of_a_thousand_may_go(rig: Rig) -> None:
    rig.sync(many(1000))
    assert rig.sync({id: t for id, t in many(1000).items() if int(id[4:]) >= 100}).counts.deleted == 100


def test_twenty_documents_may_always_go(rig: Rig) -> None:
    rig.sync(many(21))
    assert rig.sync({"doc-0000": "text number 0"}).counts.deleted == 20


def test_rejected_documents_that_go_take_nothing_along_and_are_not_asked_about(rig: Rig) -> None:
    rig.sinks[0].before_upsert = picky("bad")
    both = {f"{n:02}-{kind}": f"{kind} {n}" for n in range(21) for kind in ("good", "bad")}
    rig.sync(both)
    report = rig.sync({id: text for id, text in both.items() if "good" in id})
    assert (report.exit_code, report.counts) == (ExitCode.IN_STEP, Counts(deleted=21, unchanged=21))


def test_a_folder_that_is_renamed_is_not_a_mass_deletion(rig: Rig) -> None:
    rig.sync({f"old/{id}": text for id, text in many(100).items()})
    report = rig.sync({f"new/{id}": text for id, text in many(100).items()})
    assert report.counts == Counts(moved=100)
    assert rig.in_step()


def test_a_place_that_cannot_be_read_withholds_deletions(rig: Rig) -> None:
    rig.sync({"a": "alpha", "b": "beta", "c": "gamma"})
    rig.source.rows = [rig.source.rows[0], Row(None), rig.source.rows[2]]
    report = rig.sync()
    assert report.exit_code is ExitCode.SAFETY
    assert report.counts == Counts(unchanged=2, rejected=1)
    assert "b#0" in rig.held()
    assert "1 places of the source could not be read" in report.problems[-1]
    assert rig.sync(options=Options(threads=False, confirm_deletes=1)).exit_code is ExitCode.REJECTED
    assert "b#0" not in rig.held()


def test_a_place_that_cannot_be_read_is_only_reported_when_nothing_is_missing(rig: Rig) -> None:
    rig.source.rows = [Row("a", "alpha"), Row(None)]
    report = rig.sync()
    assert (report.exit_code, report.counts) == (ExitCode.REJECTED, Counts(added=1, rejected=1))
    with_checkpoint = Checkpoints.open(rig.folder, read_only=True)
    assert [(r.sink, r.place, r.reason) for r in with_checkpoint.rejected()] == [("", "row 1", "not a row")]
    with_checkpoint.close()
    rig.source.rows = [Row("a", "alpha")]
    assert rig.sync().exit_code is ExitCode.IN_STEP


@pytest.mark.parametrize("between_runs", [0, 1])
def test_of_two_rows_with_one_id_the_first_counts_in_every_run(rig: Rig, between_runs: int) -> None:
    rows = [Row("a", "first"), Row("b", "beta"), Row("a", "second"), Row("c", "gamma"), Row("a", "third")]
    rig.source.rows = rows[:between_runs] + rows[between_runs + 1 :] if between_runs else rows
    for _ in range(3):
        report = rig.sync()
        assert rig.held()["a#0"][0] == "first"
    rig.source.rows = rows
    for _ in range(2):
        report = rig.sync()
        assert (report.exit_code, report.counts.rejected) == (ExitCode.REJECTED, 2)
        assert rig.held()["a#0"][0] == "first"
    assert {r.place for r in _rejected(rig)} == {"row 2", "row 4"}


def test_a_new_row_before_a_known_one_of_the_same_id_wins_and_stays(rig: Rig) -> None:
    rig.source.rows = [Row("a", "old")]
    rig.sync()
    rig.source.rows = [Row("a", "new"), Row("x", "x"), Row("y", "y"), Row("a", "old")]
    for _ in range(3):
        assert rig.sync().counts.rejected == 1
        assert rig.held()["a#0"][0] == "new"
    rig.source.rows = [Row("x", "x"), Row("y", "y"), Row("a", "old")]
    assert rig.sync().exit_code is ExitCode.IN_STEP
    assert rig.in_step()


def test_the_very_same_row_twice_is_a_duplicate(rig: Rig) -> None:
    rig.source.rows = [Row("a", "alpha"), Row("a", "alpha"), Row("b", "beta"), Row("c", "c"), Row("a", "alpha")]
    for _ in range(3):
        report = rig.sync()
        assert (report.counts.rejected, report.counts.added + report.counts.unchanged) == (2, 3)
    assert sorted(rig.held()) == ["a#0", "b#0", "c#0"]


def test_a_document_that_the_source_rejects_now_leaves_the_index(rig: Rig) -> None:
    rig.sync({"a": "alpha", "b": "beta"})
    rig.source.rows[0] = dataclasses.replace(rig.source.rows[0], salt="edited")
    rig.source.rejected["a"] = Rejection(DocumentId("a"), b"", 'no field "title"')
    report = rig.sync()
    assert (report.exit_code, report.counts) == (ExitCode.REJECTED, Counts(unchanged=1, rejected=1))
    assert set(rig.held()) == {"b#0"}
    assert [(r.sink, r.place, r.reason) for r in _rejected(rig)] == [("main", "a", 'no field "title"')]
    rig.source.fetched.clear()
    assert rig.sync().counts == Counts(unchanged=1, rejected=1)
    assert rig.source.fetched == []


def test_rejecting_most_documents_is_guarded_like_deleting_them(rig: Rig) -> None:
    rig.sync(many(100))
    rig.source.rows = [dataclasses.replace(row, salt="edited") for row in rig.source.rows]
    for id in many(100):
        rig.source.rejected[id] = Rejection(DocumentId(id), b"", 'no field "title"')
    report = rig.sync()
    assert (report.exit_code, report.sinks["main"].behind) == (ExitCode.SAFETY, 100)
    assert len(rig.sinks[0].records) == 100
    rig.source.rejected.clear()
    assert rig.sync().counts == Counts(unchanged=100)


def test_a_document_that_cannot_be_read_just_now_stays_as_it_is_and_is_tried_again(rig: Rig) -> None:
    rig.sync({"a": "alpha", "b": "beta"})
    rig.source.set({"a": "alpha edited", "b": "beta"})
    rig.source.rejected["a"] = Rejection(DocumentId("a"), b"", "permission denied", passing=True)
    for _ in range(2):
        report = rig.sync()
        assert (report.exit_code, report.counts) == (ExitCode.REJECTED, Counts(unchanged=1, rejected=1))
        assert rig.held()["a#0"][0] == "alpha"
    rig.source.rejected.clear()
    assert rig.sync().counts == Counts(changed=1, unchanged=1)
    assert rig.in_step()


def test_a_document_that_could_never_be_read_and_is_gone_again_is_forgotten(rig: Rig) -> None:
    rig.source.rejected["a"] = Rejection(DocumentId("a"), b"", "permission denied", passing=True)
    rig.sync({"a": "alpha", "b": "beta"})
    assert rig.sync({"b": "beta"}).exit_code is ExitCode.IN_STEP
    assert _rejected(rig) == []


def test_a_document_that_vanishes_while_it_is_read_is_looked_for_again(rig: Rig) -> None:
    rig.source.vanished.add("a")
    report = rig.sync({"a": "alpha", "b": "beta"})
    assert (report.exit_code, report.sinks["main"].behind) == (ExitCode.BEHIND, 1)
    assert "such as a" in report.problems[0]
    rig.source.vanished.clear()
    assert rig.sync({"b": "beta"}).exit_code is ExitCode.IN_STEP
    assert rig.in_step()


def test_a_document_that_is_edited_while_it_is_read_is_delivered_as_it_was_read(rig: Rig) -> None:
    as_read = Row("a", "as read")
    rig.source.rows = [Row("a", "as listed"), Row("b", "beta")]
    rig.source.edited["a"] = as_read
    rig.sync()
    assert rig.held()["a#0"][0] == "as read"
    rig.source.rows[0] = as_read
    rig.source.fetched.clear()
    assert rig.sync().counts == Counts(unchanged=2)
    assert rig.source.fetched == [], "the ledger has the version that was read"


def test_a_text_that_comes_back_after_a_refused_one_is_restored(rig: Rig) -> None:
    rig.sync({"a": LONG})
    rig.sinks[0].before_upsert = picky("poison")
    rig.sync({"a": LONG + " poison"})
    rig.sinks[0].before_upsert = lambda _: None
    assert rig.sync({"a": LONG}).texts_embedded == 0
    assert rig.in_step()


# --- the state ------------------------------------------------------------------------------------


def test_losing_the_vector_store_costs_money_and_nothing_else(rig: Rig) -> None:
    rig.sync(many(5))
    for file in rig.folder.glob("vectors.db*"):
        file.unlink()
    assert rig.sync().texts_embedded == 0
    assert rig.sync({**many(5), "doc-0000": ("text number 0", {"new": 1})}).texts_embedded == 1
    assert rig.in_step()


def test_losing_the_checkpoint_compares_everything_anew_and_embeds_nothing(rig: Rig) -> None:
    rig.sync(many(5))
    for file in rig.folder.glob("checkpoint.db*"):
        file.unlink()
    assert rig.sync().texts_embedded == 0
    assert rig.in_step()


@pytest.mark.parametrize("harm", ["missing", "truncated", "flipped", "empty", "of another version"])
def test_the_kept_fingerprints_are_only_a_cache(rig: Rig, harm: str) -> None:
    rig.sync(many(50))
    stale = next(rig.folder.glob("known-*.bin")).read_bytes()
    rig.sync(many(60))
    (kept,) = rig.folder.glob("known-*.bin")
    content = kept.read_bytes()
    match harm:
        case "missing":
            kept.unlink()
        case "truncated":
            kept.write_bytes(content[:-16])
        case "flipped":
            kept.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        case "empty":
            kept.write_bytes(b"")
        case _:
            kept.write_bytes(stale)
    calls = rig.sinks[0].calls
    assert rig.sync().counts == Counts(unchanged=60)
    assert rig.sinks[0].calls == calls
    rig.sync(many(55))
    assert rig.in_step()


def test_a_second_process_is_told_who_holds_the_state(rig: Rig) -> None:
    holding = Checkpoints.open(rig.folder)
    with pytest.raises(LeaseError, match=r"another run holds .* process \d+ on"):
        rig.sync({"a": "alpha"})
    holding.close()
    assert rig.sync({"a": "alpha"}).exit_code is ExitCode.IN_STEP


def test_a_process_that_slept_through_another_run_writes_nothing(rig: Rig) -> None:
    rig.sync({"a": "alpha"})

    def usurp(_: object) -> None:
        with sqlite3.connect(rig.folder / "checkpoint.db") as other:
            other.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
        other.close()

    rig.sinks[0].before_upsert = usurp
    with pytest.raises(LeaseError, match="taken over"):
        rig.sync({"a": "alpha", "b": "beta"})
    reader = Checkpoints.open(rig.folder, read_only=True)
    entry = reader.entry("main", DocumentId("b"))
    reader.close()
    assert entry is not None
    assert entry.fingerprint is None, "begun, never committed"


def test_vectors_are_forgotten_when_the_settings_say_so(rig: Rig) -> None:
    options = Options(threads=False, keep_vectors="undelivered")
    rig.sync(many(5), options)
    rig.sinks = [FlakySink()]
    assert rig.sync(options=options).texts_embedded == 5


def test_the_vector_store_is_kept_under_its_cap_oldest_first(rig: Rig) -> None:
    rig.embedder = HashEmbedder(dimension=512, tokens_per_text=8)
    cap_bytes = 1_000_000
    report = rig.sync(many(2000), Options(threads=False, max_vector_bytes=cap_bytes))
    assert report.exit_code is ExitCode.IN_STEP
    rig.sinks = [FlakySink()]
    again = rig.sync().texts_embedded
    assert 2000 - cap_bytes // 2048 <= again < 2000
    assert rig.in_step()


def test_check_comes_before_anything_is_read_or_paid_for(rig: Rig) -> None:
    rig.sync({"a": "alpha"})
    rig.embedder = HashEmbedder(dimension=16, tokens_per_text=8)
    rig.source.fetched.clear()
    with pytest.raises(ConfigError, match="16"):
        rig.sync({"b": "beta"}, Options(threads=False, accept_reembed=True))
    assert (rig.source.fetched, rig.embedder.texts_seen) == ([], [])


def test_no_collection_is_made_while_another_sink_is_refused(rig: Rig) -> None:
    rig.sinks = [FlakySink("new"), FlakySink("wrong")]
    rig.sinks[1].prepare(99)
    with pytest.raises(ConfigError, match="99"):
        rig.sync({"a": "alpha"})
    assert rig.sinks[0].check(rig.embedder.dimension) is None, "not made"


# --- the plan -------------------------------------------------------------------------------------


def test_a_plan_says_what_the_sync_then_does_and_writes_nothing(rig: Rig) -> None:
    rig.sync({"a": LONG, "b": ("beta", {"n": 1}), "old/c": "gamma", "d": "delta"})
    rig.source.set({"a": LONG[:40], "b": ("beta", {"n": 2}), "new/c": "gamma", "e": "epsilon"})
    before = _files(rig.folder)
    planned = rig.plan()
    assert _files(rig.folder) == before
    assert rig.sinks[0].calls == 1
    done = rig.sync()
    assert planned.counts == done.counts == Counts(added=1, changed=1, metadata_only=1, moved=1, deleted=1)
    assert (planned.texts_to_embed, planned.tokens_to_embed) == (done.texts_embedded, done.tokens_embedded)
    assert planned.sinks["main"].upserts == done.sinks["main"].upserted
    assert planned.sinks["main"].deletes == done.sinks["main"].deleted
    assert {d.id: d.kind for d in planned.documents}["b"] == "metadata_only"


def test_a_plan_of_a_first_sync_makes_no_state_folder(rig: Rig, folder: Path) -> None:
    rig.folder = folder / "state"
    rig.source.set(many(3))
    assert rig.plan().counts == Counts(added=3)
    assert not rig.folder.exists()


def test_a_plan_warns_of_what_a_sync_would_stop_for(rig: Rig) -> None:
    rig.sync(many(100))
    rig.source.set({"doc-0000": "text number 0"})
    planned = rig.plan()
    assert planned.exit_code is ExitCode.SAFETY
    assert "--confirm-deletes 99" in planned.problems[-1]


def _files(folder: Path) -> dict[str, bytes]:
    """The files of a state folder; SQLite's own notes between processes left out."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(("-shm", "-wal"))}


def _rejected(rig: Rig) -> list[object]:
    reader = Checkpoints.open(rig.folder, read_only=True)
    try:
        return list(reader.rejected())
    finally:
        reader.close()
