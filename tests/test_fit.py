"""What a sink cannot store is known before anything is paid for it, and what it stores otherwise is never silent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rig import FlakySink, Rig

from connector.engine import Options
from connector.errors import ExitCode, RejectedError
from connector.events import DocumentAltered, DocumentRejected
from connector.model import FITS, Draft, Fit
from connector.report import Alteration, Counts
from connector.terminal import plan_lines, sync_lines

LONG = "one two three four five. six seven eight nine ten. eleven twelve thirteen. fourteen fifteen sixteen"
TOO_LARGE = "400: metadata of 50,000 bytes, 40,960 are allowed"


class ParticularSink(FlakySink):
    """A sink that says beforehand what it cannot take; counts how often it was asked."""

    def __init__(self, name: str = "main", says: Callable[[Draft], Fit] = lambda _draft: FITS) -> None:
        super().__init__(name)
        self.says = says
        self.asked: list[Draft] = []

    def fit(self, draft: Draft) -> Fit:
        self.asked.append(draft)
        return self.says(draft)


def too_large(draft: Draft) -> Fit:
    return Fit(refusal=TOO_LARGE) if "large" in draft.metadata else FITS


def shortened(draft: Draft) -> Fit:
    return Fit(alterations=('"notes" is cut to 10 characters',)) if "notes" in draft.metadata else FITS


def particular(rig: Rig, *says: Callable[[Draft], Fit]) -> list[ParticularSink]:
    sinks = [ParticularSink(f"sink-{number}", each) for number, each in enumerate(says)]
    rig.sinks = list(sinks)
    return sinks


def test_what_no_sink_can_store_is_neither_embedded_nor_sent(rig: Rig) -> None:
    (sink,) = particular(rig, too_large)
    report = rig.sync({"a": "alpha", "bad": (LONG, {"large": True})})
    assert (report.exit_code, report.counts) == (ExitCode.REJECTED, Counts(added=1, rejected=1))
    assert rig.embedder.texts_seen == ["alpha"]
    assert sink.upserts == [["a#0"]]
    assert [e.reason for e in rig.events if isinstance(e, DocumentRejected)] == [TOO_LARGE]


def test_what_another_sink_takes_is_embedded_once_for_it(rig: Rig) -> None:
    particular(rig, too_large, lambda _draft: FITS)
    report = rig.sync({"a": "alpha", "bad": ("beta", {"large": True})})
    assert (report.counts, report.texts_embedded) == (Counts(added=1, rejected=1), 2)
    assert (set(rig.held(0)), set(rig.held(1))) == ({"a#0"}, {"a#0", "bad#0"})
    assert [(e.sink, e.document_id) for e in rig.events if isinstance(e, DocumentRejected)] == [("sink-0", "bad")]


def test_a_sink_is_asked_about_what_changed_and_about_nothing_else(rig: Rig) -> None:
    (sink,) = particular(rig, lambda _draft: FITS)
    rig.sync({"a": LONG, "b": "beta"})
    assert [(draft.document_id, "".join(draft.texts)[:3]) for draft in sink.asked] == [("a", "one"), ("b", "bet")]
    assert sink.asked[1].metadata == {"title": "beta"}
    sink.asked.clear()
    rig.sync()
    assert sink.asked == []
    rig.sync({"a": LONG, "b": "another"})
    assert [draft.document_id for draft in sink.asked] == ["b"]


def test_a_refused_document_is_not_asked_about_again_until_it_changes(rig: Rig) -> None:
    (sink,) = particular(rig, too_large)
    rig.sync({"a": "alpha", "bad": ("beta", {"large": True})})
    sink.asked.clear()
    report = rig.sync()
    assert (report.exit_code, report.counts) == (ExitCode.REJECTED, Counts(unchanged=1, rejected=1))
    assert sink.asked == []
    assert rig.sync({"a": "alpha", "bad": ("beta", {})}).counts == Counts(added=1, unchanged=1)
    assert rig.in_step()


def test_a_document_that_no_longer_fits_leaves_the_sink(rig: Rig) -> None:
    (sink,) = particular(rig, too_large)
    rig.sync({"a": LONG, "b": "beta"})
    report = rig.sync({"a": (LONG, {"large": True}), "b": "beta"})
    assert report.counts == Counts(unchanged=1, rejected=1)
    assert set(rig.held()) == {"b#0"}
    assert sink.deletes
    assert report.texts_embedded == 0


def test_refusing_most_of_what_is_there_is_guarded_like_deleting_it(rig: Rig) -> None:
    particular(rig, too_large)
    rig.sync({f"doc-{n}": (f"text {n}", {}) for n in range(100)})
    report = rig.sync({f"doc-{n}": (f"text {n}", {"large": True}) for n in range(100)})
    assert (report.exit_code, len(rig.sinks[0].records)) == (ExitCode.SAFETY, 100)
    assert "--confirm-deletes 100" in report.problems[-1]
    options = Options(threads=False, confirm_deletes=100)
    assert rig.sync(options=options).exit_code is ExitCode.REJECTED
    assert rig.sinks[0].records == {}


def test_a_plan_finds_what_does_not_fit(rig: Rig) -> None:
    particular(rig, too_large)
    rig.source.set({"a": "alpha", "bad": (LONG, {"large": True})})
    planned = rig.plan()
    assert (planned.counts, planned.texts_to_embed) == (Counts(added=1, rejected=1), 1)
    assert (planned.sinks["sink-0"].upserts, planned.sinks["sink-0"].refused) == (1, 1)
    assert {d.id: d.reason for d in planned.documents}["bad"] == TOO_LARGE
    assert any("1 document it could never store" in line for line in plan_lines(planned))
    assert rig.sync().counts == planned.counts


@pytest.mark.parametrize("verbose", [False, True])
def test_what_is_stored_otherwise_is_told_counted_and_named(rig: Rig, verbose: bool) -> None:
    particular(rig, shortened)
    documents = {f"doc-{n}": (f"text {n}", {"notes": "x" * 20} if n < 5 else {}) for n in range(8)}
    rig.source.set(dict(documents))
    planned = rig.plan()
    report = rig.sync()
    alteration = Alteration("sink-0", "doc-0", ('"notes" is cut to 10 characters',))
    assert (report.exit_code, report.counts) == (ExitCode.IN_STEP, Counts(added=8))
    assert planned.sinks["sink-0"].altered == report.sinks["sink-0"].altered == 5
    assert planned.altered[0] == report.altered[0] == alteration
    assert len([event for event in rig.events if isinstance(event, DocumentAltered)]) == 5
    told = report.as_json()["altered"]
    assert isinstance(told, list)
    assert len(told) == 5
    lines = [line for line in sync_lines(report, verbose=verbose) if "notes" in line]
    assert len(lines) == (5 if verbose else 3)
    assert any("and 2 more" in line for line in sync_lines(report, verbose=verbose)) is not verbose
    assert [line for line in plan_lines(planned, verbose=verbose) if "notes" in line] == lines
    assert rig.sync().sinks["sink-0"].altered == 0, "it is told of what is written, not of what is there"


def test_a_document_that_is_refused_after_all_is_not_told_to_be_altered(rig: Rig) -> None:
    (sink,) = particular(rig, shortened)
    sink.before_upsert = refuse
    report = rig.sync({"a": ("alpha", {"notes": "x"})})
    assert (report.counts, report.altered) == (Counts(rejected=1), ())
    assert not [event for event in rig.events if isinstance(event, DocumentAltered)]


def refuse(_records: object) -> None:
    raise RejectedError("400")


def test_a_document_is_counted_once_though_two_sinks_refuse_it(rig: Rig) -> None:
    particular(rig, too_large, too_large, lambda _draft: FITS)
    report = rig.sync({"a": "alpha", "bad": ("beta", {"large": True})})
    assert report.counts == Counts(added=1, rejected=1)
    assert rig.sync().counts == Counts(unchanged=1, rejected=1)
