"""Calls that fit, calls that are made again, and lanes that do not wait for each other."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import FlakySink, Rig

from connector.engine import Options
from connector.errors import ExitCode, TransientError
from connector.lanes import Lane
from connector.model import Document, DocumentId, EmbeddedRecord, Passage, record_id
from connector.parcels import BYTES_PER_NUMBER, Parcel, chunks, pack, parcels
from connector.plan import Recipe, compare, want
from connector.ports import Limits
from connector.retry import Retry

ID = DocumentId("doc")


def parcel(index: int, weight_bytes: int) -> Parcel:
    vector = np.zeros(2, dtype=np.float32)
    return Parcel(EmbeddedRecord(record_id(ID, index), ID, index, vector, "", {}, bytes(16)), weight_bytes)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 7), st.integers(1, 100))
def test_no_call_breaks_a_limit_and_no_record_is_lost(weights: list[int], records: int, bytes_: int) -> None:
    sent = [parcel(n, weight) for n, weight in enumerate(weights)]
    calls = list(pack(sent, Limits(records_per_call=records, bytes_per_call=bytes_)))
    assert [record for call in calls for record in call] == [p.record for p in sent]
    for call in calls:
        assert 0 < len(call) <= records
        assert len(call) == 1 or sum(weights[record.index] for record in call) <= bytes_


def test_calls_are_not_cut_shorter_than_they_must_be() -> None:
    calls = list(pack([parcel(n, 10) for n in range(9)], Limits(records_per_call=100, bytes_per_call=40)))
    assert [len(call) for call in calls] == [4, 4, 1]


@pytest.mark.parametrize("text", ["plain", 'quotes " and \\ and \n', "ümläut", "日本語", "\U0001f600" * 9])
def test_a_record_is_never_weighed_too_light(text: str) -> None:
    msgspec = pytest.importorskip("msgspec")
    recipe = Recipe("embedder", "splitter", "{}")
    document = Document(ID, bytes(16), text, {"title": text})
    wanted = want(document, [Passage(ID, 0, text)], [1], recipe, recipe.hash())
    vector = np.full(64, -1.1754944e-38, dtype=np.float32)
    (only,) = parcels([compare(wanted, None)], {wanted.text_hashes[0]: vector})
    payload = {"text": text, "title": text, "_vs_document": ID, "_vs_digest": "0" * 32, "_vs_index": 0}
    as_json = msgspec.json.encode({"id": "0" * 36, "vector": vector.tolist(), "payload": payload})
    numbers = 64 * BYTES_PER_NUMBER  # as the shortest float32, which `tolist` does not give
    assert only.weight_bytes >= len(as_json) - len(str(vector.tolist())) + numbers


def test_chunks_are_full_but_for_the_last() -> None:
    assert list(chunks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks([], 3)) == []


def test_waits_grow_up_to_the_longest_and_then_the_error_is_the_callers() -> None:
    waits: list[float] = []
    retry = Retry(attempts=6, first_wait_seconds=1, longest_wait_seconds=5, sleep=waits.append, random=lambda: 1.0)

    def busy() -> None:
        raise TransientError("busy")

    with pytest.raises(TransientError, match="busy"):
        retry("call", busy)
    assert waits == [1, 2, 4, 5, 5]


def test_what_is_not_transient_is_not_tried_again() -> None:
    calls = []

    def broken() -> None:
        calls.append(1)
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        Retry()("call", broken)
    assert calls == [1]


def test_a_bug_in_a_lane_is_raised_where_it_is_waited_for() -> None:
    def bug() -> None:
        raise ZeroDivisionError

    with Lane("one", threaded=True) as lane:
        lane.put(bug)
        with pytest.raises(ZeroDivisionError):
            lane.drain()


def test_a_lane_does_nothing_more_after_a_bug() -> None:
    done: list[int] = []

    def bug() -> None:
        raise ZeroDivisionError

    with Lane("one", threaded=True) as lane:
        gate = threading.Event()
        lane.put(gate.wait)
        lane.put(bug)
        lane.put(lambda: done.append(1))
        gate.set()
        with pytest.raises(ZeroDivisionError):
            lane.drain()
    assert done == []


def test_a_slow_sink_does_not_hold_up_the_others(rig: Rig) -> None:
    """The slow sink's first call ends only when the other sink has everything: with one lane for both, never."""
    slow, quick = FlakySink("slow"), FlakySink("quick")
    rig.sinks = [slow, quick]
    quick_is_done = threading.Event()
    waited: list[bool] = []

    def note(_records: object) -> None:
        if len(quick.records) + 1000 >= 2000:
            quick_is_done.set()

    quick.before_upsert = note
    slow.before_upsert = lambda _records: waited.append(quick_is_done.wait(timeout=30))
    report = rig.sync({f"doc-{n}": f"text {n}" for n in range(2000)}, Options(threads=True))
    assert report.exit_code is ExitCode.IN_STEP
    assert all(waited)
    assert rig.in_step()
