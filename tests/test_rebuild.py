"""A state that was lost is made again from the index alone, and the next sync finds nothing to do."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from crashes import Crash
from rig import Rig
from verify_rig import SharedSink, VerifyRig, found

from connector import rebuild as rebuild_module
from connector.checkpoint import Checkpoints
from connector.engine import Options
from connector.errors import ConfigError, ExitCode, SafetyError, SinkError
from connector.model import Detail, RecordId
from connector.plan import sha256_16
from connector.ports import Price
from connector.rebuild import UNFINISHED
from connector.testing.fakes import HashEmbedder

if TYPE_CHECKING:
    from collections.abc import Iterator

    import msgspec


def passages(letters: str) -> str:
    """A text that is split into one passage a letter."""
    return "\n\n".join(letter * 24 for letter in letters)


DOCUMENTS = {
    f"docs/{number:03}": (passages("abc"[: 1 + number % 3]) + f"\n\n{number}", {"number": number})
    for number in range(40)
}


@pytest.fixture
def sink() -> SharedSink:
    return SharedSink()


@pytest.fixture
def index(rig: Rig, sink: SharedSink) -> VerifyRig:
    """An index in step whose state is lost; what is paid and called is counted from here."""
    rig.sinks = [sink]
    rig.sync(DOCUMENTS)
    made = VerifyRig(rig)
    made.lose_the_state()
    forget_calls(made, sink)
    return made


def forget_calls(index: VerifyRig, sink: SharedSink) -> None:
    del index.rig.embedder.texts_seen[:], sink.upserts[:], sink.deletes[:]


def test_a_lost_state_is_made_again_and_the_next_sync_embeds_and_writes_nothing(
    index: VerifyRig, sink: SharedSink
) -> None:
    (rebuilt,) = index.rebuild()
    assert (rebuilt.documents, rebuilt.records, rebuilt.in_doubt) == (len(DOCUMENTS), len(sink.records), 0)
    assert rebuilt.is_ours
    assert rebuilt.without_vectors == ""
    assert found(index.verify(contents=True)) == {}
    forget_calls(index, sink)  # the few texts that showed that the vectors are right
    report = index.rig.sync()
    assert (report.exit_code, report.counts.unchanged, report.texts_embedded) == (ExitCode.IN_STEP, len(DOCUMENTS), 0)
    assert sink.calls == 0
    assert index.rig.in_step()
    assert index.rig.embedder.texts_seen == []


def test_the_ledger_is_the_one_that_was_lost(rig: Rig) -> None:
    sink = SharedSink()
    rig.sinks = [sink]
    rig.sync(DOCUMENTS)
    index = VerifyRig(rig)
    with contextlib.closing(Checkpoints.open(rig.folder, read_only=True)) as before:
        ids = list(DOCUMENTS)
        lines = before.entries("main", ids)
        recipe = before.recipe("main")
    index.lose_the_state()
    index.rebuild()
    with contextlib.closing(Checkpoints.open(rig.folder, read_only=True)) as after:
        assert {id: (it.content, it.passages, it.problem) for id, it in after.entries("main", ids).items()} == {
            id: (it.content, it.passages, it.problem) for id, it in lines.items()
        }
        assert after.recipe("main") == recipe
        assert after.in_doubt("main") == []


def test_the_vectors_are_the_ones_that_were_lost(index: VerifyRig, sink: SharedSink) -> None:
    (rebuilt,) = index.rebuild()
    assert rebuilt.vectors == len({record.text for record in sink.records.values()})
    forget_calls(index, sink)
    second = SharedSink("second")
    index.rig.sinks.append(second)
    assert index.rig.sync().texts_embedded == 0
    assert index.rig.in_step()


def test_documents_that_changed_or_went_meanwhile_are_put_right(index: VerifyRig, sink: SharedSink) -> None:
    now = {id: it for id, it in DOCUMENTS.items() if id > "docs/002"} | {
        "docs/007": ("changed", {}),
        "new": ("new", {}),
    }
    index.rebuild()
    forget_calls(index, sink)
    report = index.rig.sync(now)
    assert (report.counts.added, report.counts.changed, report.counts.deleted) == (1, 1, 3)
    assert sorted(index.rig.embedder.texts_seen) == ["changed", "new"]
    assert index.rig.in_step()


def test_without_a_rebuild_what_went_meanwhile_stays(index: VerifyRig) -> None:
    """Why there is such a command: nothing remembers these records but they themselves."""
    index.rig.sync({id: it for id, it in DOCUMENTS.items() if id > "docs/002"})
    assert not index.rig.in_step()
    assert set(found(index.verify())) == {"extra"}
    assert index.repair().exit_code is ExitCode.IN_STEP
    assert index.rig.in_step()


def test_a_ledger_that_is_not_lost_is_left_alone(index: VerifyRig, sink: SharedSink) -> None:
    index.rebuild()
    with pytest.raises(SafetyError, match="the ledger of main is not lost: it has 40 documents"):
        index.rebuild()
    assert found(index.verify()) == {}


def test_nothing_is_rebuilt_if_one_sink_cannot_be(rig: Rig, sink: SharedSink) -> None:
    rig.sinks = [sink]
    rig.sync(DOCUMENTS)
    index = VerifyRig(rig)
    index.lose_the_state()
    rig.sinks.append(SharedSink("never made"))
    with pytest.raises(ConfigError, match="never made has no collection yet"):
        index.rebuild()
    with contextlib.closing(Checkpoints.open(rig.folder, read_only=True)) as checkpoints:
        assert checkpoints.count("main") == 0
    assert [it.sink for it in index.rebuild(sinks=["main"])] == ["main"]


def test_foreign_records_are_counted_and_left_out(index: VerifyRig, sink: SharedSink) -> None:
    sink.add_foreign("theirs")
    sink.add("half \ud800", 0)
    (rebuilt,) = index.rebuild()
    assert (rebuilt.foreign, rebuilt.documents) == (2, len(DOCUMENTS))


def test_altered_and_missing_records_are_written_again(index: VerifyRig, sink: SharedSink) -> None:
    sink.change(RecordId("docs/002#0"), text="edited")
    sink.change(RecordId("docs/005#1"), metadata={})
    sink.remove(RecordId("docs/008#0"))
    (rebuilt,) = index.rebuild()
    assert rebuilt.in_doubt == 3
    index.rig.sync()
    assert index.rig.in_step()
    assert sorted(id for call in sink.upserts for id in call) == ["docs/002#0", "docs/005#1", "docs/008#0"]


def test_records_of_another_embedder_are_not_embedded_anew_unasked(index: VerifyRig, sink: SharedSink) -> None:
    index.rig.embedder = HashEmbedder(tokens_per_text=8, identity="another")
    (rebuilt,) = index.rebuild()
    assert not rebuilt.is_ours
    assert (rebuilt.vectors, rebuilt.in_doubt) == (0, 0)
    with pytest.raises(SafetyError, match="the embedder changed from an unknown one to another"):
        index.rig.sync()
    assert index.rig.embedder.texts_seen == []
    accepted = index.rig.sync(options=Options(threads=False, accept_reembed=True))
    assert accepted.exit_code is ExitCode.IN_STEP
    assert index.rig.in_step()


# --- vectors ----------------------------------------------------------------------------------------


class RoundingSink(SharedSink):
    """Keeps vectors as half floats, as a collection may be set to."""

    def scan(self, detail: Detail = Detail.MARKS) -> Iterator[msgspec.Struct]:  # type: ignore[override]
        import msgspec

        for record in super().scan(detail):
            vector = getattr(record, "vector", None)
            rounded = None if vector is None else vector.astype(np.float16).astype(np.float32)
            yield msgspec.structs.replace(record, vector=rounded) if vector is not None else record


def test_rounded_vectors_are_not_taken_for_the_embedders(rig: Rig) -> None:
    sink = RoundingSink()
    rig.sinks = [sink]
    rig.sync(DOCUMENTS)
    index = VerifyRig(rig)
    index.lose_the_state()
    (rebuilt,) = index.rebuild()
    assert rebuilt.without_vectors == "the index does not give them as the embedder made them"
    assert rebuilt.vectors == 0
    forget_calls(index, sink)
    assert rig.sync().texts_embedded == 0  # nothing has to be written, so no vector is missed
    assert sink.calls == 0


def test_a_vector_that_two_sinks_dispute_is_taken_from_neither_and_the_altered_one_is_named(rig: Rig) -> None:
    forged, right = SharedSink("forged"), SharedSink("right")
    rig.sinks = [forged, right]
    rig.sync(DOCUMENTS)
    index = VerifyRig(rig)
    index.lose_the_state()
    id = max(right.records, key=lambda it: sha256_16(right.records[it].text.encode()))  # so it is not among those tried
    forged.change(id, vector=np.roll(forged.records[id].vector, 1))
    index.rebuild()
    del rig.embedder.texts_seen[:]
    assert rig.sync(options=index.options).exit_code is ExitCode.IN_STEP
    assert rig.embedder.texts_seen == [right.records[id].text]
    seen = index.verify(contents=True)
    assert (found(seen, 0), found(seen, 1)) == ({"altered": {id}}, {})
    assert index.repair(contents=True).exit_code is ExitCode.IN_STEP
    assert rig.in_step()
    assert len(rig.embedder.texts_seen) == 1


def test_a_text_with_two_vectors_in_one_sink_has_none_in_the_store(rig: Rig, sink: SharedSink) -> None:
    rig.sinks = [sink]
    texts = {f"doc {number}": f"the text of {number}" for number in range(20)}
    last = max(texts.values(), key=lambda text: sha256_16(text.encode()))
    rig.sync({**texts, "copy": last})
    index = VerifyRig(rig)
    index.lose_the_state()
    sink.change(RecordId("copy#0"), vector=np.roll(sink.records[RecordId("copy#0")].vector, 1))
    (rebuilt,) = index.rebuild()
    assert (rebuilt.vectors, rebuilt.in_doubt) == (19, 2)
    del rig.embedder.texts_seen[:]
    assert rig.sync().exit_code is ExitCode.IN_STEP
    assert rig.embedder.texts_seen == [last]
    assert rig.in_step()


def test_of_each_write_a_few_vectors_are_tried(
    index: VerifyRig, sink: SharedSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild_module, "VECTORS_PER_WRITE", 8)
    late = list(sink.records)[-3]
    sink.change(late, vector=np.roll(sink.records[late].vector, 1))
    (rebuilt,) = index.rebuild()
    assert rebuilt.without_vectors == "the index does not give them as the embedder made them"
    assert 0 < rebuilt.vectors < len(sink.records)
    with contextlib.closing(index.rig._vectors()) as vectors:
        assert vectors.missing([sha256_16(sink.records[late].text.encode())])


def test_where_all_vectors_are_other_ones_no_more_are_disputed(
    rig: Rig, sink: SharedSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild_module, "MAX_DISPUTED", 5)
    monkeypatch.setattr(rebuild_module, "VECTORS_PER_WRITE", 8)
    other = SharedSink("other")
    rig.sinks = [sink, other]
    rig.sync(DOCUMENTS)
    index = VerifyRig(rig)
    index.lose_the_state()
    for id in other.records:
        other.change(id, vector=np.roll(other.records[id].vector, 1))
    rebuilt = index.rebuild(trust_vectors=True)[1]
    assert rebuilt.without_vectors == "the index does not give them as they are stored"
    assert 0 < rebuilt.in_doubt < rebuilt.records


def test_the_operator_may_trust_them_for_this_index(rig: Rig) -> None:
    rig.sinks = [RoundingSink()]
    rig.sync(DOCUMENTS)
    index = VerifyRig(rig)
    index.lose_the_state()
    del rig.embedder.texts_seen[:]
    (rebuilt,) = index.rebuild(trust_vectors=True)
    assert rebuilt.vectors > 0
    assert rig.embedder.texts_seen == []


@dataclass(slots=True)
class BilledHashes(HashEmbedder):
    """The same vectors, for money."""

    cost: float = 1.0

    @property
    def price(self) -> Price:
        return Price(self.cost, "USD", "the test")

    @property
    def billed_tokens(self) -> int:
        return 0


@pytest.mark.parametrize("cost,tries", [(1.0, False), (0.0, True)])
def test_whether_vectors_are_exact_is_tried_only_where_it_is_free(
    index: VerifyRig, sink: SharedSink, cost: float, tries: bool
) -> None:
    index.rig.embedder = BilledHashes(tokens_per_text=8, cost=cost)
    (rebuilt,) = index.rebuild()
    assert (rebuilt.vectors > 0, index.rig.embedder.texts_seen != []) == (tries, tries)
    assert rebuilt.without_vectors == ("" if tries else "to try whether they are exact would cost")
    assert rebuilt.is_ours
    assert index.rig.sync().texts_embedded == 0


def test_vectors_that_would_not_be_kept_are_not_stored(index: VerifyRig) -> None:
    (rebuilt,) = index.rebuild(keep_vectors=False)
    assert rebuilt.vectors == 0
    assert "undelivered" in rebuilt.without_vectors
    assert index.rig.embedder.texts_seen == []


# --- kills ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["commit", "writing"])
def test_a_rebuild_that_was_killed_is_begun_again_or_forgotten(
    index: VerifyRig, sink: SharedSink, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    whole = getattr(Checkpoints, method)

    def crash(*arguments: object, **named: object) -> None:
        if method == "commit":
            whole(*arguments, **named)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr("connector.rebuild.ENTRIES_PER_COMMIT", 7)
        patched.setattr(Checkpoints, method, crash)
        with pytest.raises(Crash):
            index.rebuild()
    with contextlib.closing(Checkpoints.open(index.rig.folder, read_only=True)) as checkpoints:
        assert (checkpoints.incarnation("main") or "").startswith(UNFINISHED)
        assert checkpoints.count("main") > 0
    again = index.rebuild()
    assert again[0].documents == len(DOCUMENTS)
    assert index.rig.sync().texts_embedded == 0
    assert index.rig.in_step()


def test_a_sync_forgets_what_a_killed_rebuild_has_left(
    index: VerifyRig, sink: SharedSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*arguments: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "writing", crash)
        with pytest.raises(Crash):
            index.rebuild()
    forget_calls(index, sink)
    report = index.rig.sync()
    assert report.counts.added == len(DOCUMENTS)
    assert index.rig.embedder.texts_seen == []  # the vectors were stored by then
    assert index.rig.in_step()


def test_a_sink_that_breaks_off_leaves_no_half_ledger(index: VerifyRig, sink: SharedSink) -> None:
    def refuse() -> None:
        raise SinkError("the key was revoked")

    sink.before_scan = refuse
    with pytest.raises(SinkError):
        index.rebuild()
    sink.before_scan = lambda: None
    assert index.rebuild()[0].documents == len(DOCUMENTS)
