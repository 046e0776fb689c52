"""The sink for Pinecone in trouble: errors, late readers, other people's records, generations that cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_rig import CONFIG, install, make_project
from pinecone import Vector
from pinecone_rig import INDEX, KEY, NAMESPACE, build, stored_in
from real_servers import RealIndex, real_pinecone, unique
from rig import Rig
from verify_rig import VerifyRig, found

from connector.errors import ConfigError, ConnectorError, RejectedError, SinkError, TransientError
from connector.filters import Between, Equals
from connector.model import DocumentId, Draft, EmbeddedRecord, ForeignRecord, Metadata, record_id
from connector.plugins import BuildContext
from connector.ports import GenerationSink
from connector.retry import Retry
from connector.testing.fakes import HashEmbedder
from connector.testing.pinecone_server import Partial, PineconeServer, Reset, Status
from connector.testing.sinks import DIMENSION, VECTORS, ours, record, stored
from sinks.pinecone import PineconeSettings
from sinks.pinecone_records import RecordFormat
from sinks.pinecone_removal import clear, remove_if_empty
from sinks.pinecone_sink import PineconeSink

__all__ = ["real_pinecone"]  # a fixture


@pytest.fixture
def server() -> Iterator[PineconeServer]:
    with PineconeServer(api_key=KEY) as server:
        yield server


class Sinks:
    """Builds sinks, and closes them in the end."""

    def __init__(self, server: PineconeServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.built: list[PineconeSink] = []

    def __call__(self, **settings: Any) -> PineconeSink:
        self.built.append(build(self.server, self.folder, **settings))
        return self.built[-1]

    def prepared(self, dimension: int = DIMENSION, **settings: Any) -> PineconeSink:
        sink = self(**settings)
        sink.prepare(dimension)
        return sink


@pytest.fixture
def sinks(server: PineconeServer, tmp_path: Path) -> Iterator[Sinks]:
    made = Sinks(server, tmp_path)
    yield made
    for sink in made.built:
        sink.close()


# --- settings ---------------------------------------------------------------------------------------------


def test_the_key_is_asked_for_where_there_is_no_emulator(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='the sink "main" needs api_key'):
        PineconeSettings(index="docs").build(BuildContext(tmp_path, tmp_path, "main"))


def test_an_emulator_needs_no_key_of_ours(tmp_path: Path) -> None:
    with PineconeServer() as server:
        sink = build(server, tmp_path, api_key=None)
        assert sink.prepare(DIMENSION)
        sink.close()


def test_without_the_client_it_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("sinks.pinecone_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pinecone", None)
    with pytest.raises(ConfigError, match=r'pip install "vector-sync\[pinecone\]"'):
        PineconeSettings(api_key=KEY, index="docs").build(BuildContext(tmp_path, tmp_path, "main"))


def test_the_settings_load_without_the_client() -> None:
    program = "import sys; import sinks.pinecone; sys.exit('pinecone' in sys.modules or 'httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- the index --------------------------------------------------------------------------------------------


def test_a_missing_index_is_made_when_it_is_said_where(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks(metric="dotproduct")
    assert sink.check(7) is None
    assert not server.indexes
    incarnation = sink.prepare(7)
    made = server.indexes[INDEX]
    assert (made.dimension, made.metric, made.tags["made_by"]) == (7, "dotproduct", "vector-sync")
    assert sink.check(7) == incarnation


@pytest.mark.parametrize("without", [{"cloud": None}, {"region": None}, {"create": False}])
def test_a_missing_index_is_not_made_when_it_is_not_said_where(sinks: Sinks, without: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match='there is no index "passages"; make it, or set cloud and region'):
        sinks(**without).check(DIMENSION)


def test_an_index_of_another_metric_is_refused(server: PineconeServer, sinks: Sinks) -> None:
    server.create(INDEX, DIMENSION, "euclidean")
    with pytest.raises(ConfigError, match='was made for the metric "euclidean", the settings say "cosine"'):
        sinks().check(DIMENSION)


def test_an_index_can_be_named_by_its_host_alone(server: PineconeServer, sinks: Sinks) -> None:
    host = server.create(INDEX, DIMENSION)
    sink = sinks(host=host, controller_host=None)
    incarnation = sink.prepare(DIMENSION)
    sink.upsert([record()])
    assert sinks(host=host, controller_host=None).check(DIMENSION) == incarnation
    assert list(sink.scan()) == [stored(record())]
    assert not {seen.route for seen in server.requests} & {"describe_index", "create_index", "list_indexes"}
    with pytest.raises(ConfigError, match=f"holds vectors of {DIMENSION} dimensions, the embedder makes 5"):
        sink.check(5)


def test_an_index_that_is_gone_is_a_sink_error(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks.prepared()
    server.indexes.clear()
    with pytest.raises(SinkError, match='the index "passages", namespace "docs"'):
        sink.upsert([record()])


# --- the incarnation --------------------------------------------------------------------------------------


def test_a_namespace_that_others_have_emptied_is_another_one(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks.prepared()
    first = sink.check(DIMENSION)
    server.remove(INDEX, NAMESPACE, list(server.records(INDEX, NAMESPACE)))
    assert sink.check(DIMENSION) is None
    assert sink.prepare(DIMENSION) != first


def test_a_marker_that_cannot_be_read_yet_is_waited_for(server: PineconeServer, sinks: Sinks) -> None:
    sink, waits = sinks(), list[float]()
    patient = Retry(attempts=4, sleep=waits.append, random=lambda: 1.0)
    sink._collection._until_seen = patient
    server.terms.lag.fetch = 2
    incarnation = sink.prepare(DIMENSION)
    assert waits == [0.5, 1.0]
    assert sinks().check(DIMENSION) == incarnation


def test_a_marker_that_is_never_seen_ends_the_attempt_and_not_more(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks()
    sink._collection._until_seen = Retry(attempts=2, sleep=lambda _: None)
    server.terms.lag.fetch = 100
    with pytest.raises(TransientError, match="cannot be read yet"):
        sink.prepare(DIMENSION)


def test_the_marker_is_like_no_text(server: PineconeServer, sinks: Sinks) -> None:
    sinks.prepared(6, metric="euclidean")
    [marker] = server.records(INDEX, NAMESPACE).values()
    assert np.linalg.norm(marker.values) > 1000
    assert "_vs_source" not in marker.metadata


# --- several syncs in one namespace -----------------------------------------------------------------------


def test_two_syncs_in_one_namespace_do_not_see_each_other(server: PineconeServer, sinks: Sinks) -> None:
    one, two = sinks.prepared(owner="one"), sinks.prepared(owner="two")
    assert one.check(DIMENSION) != two.check(DIMENSION)
    one.upsert([record()])
    two.upsert([record(text="of two"), record("more")])
    assert ours(one.scan()) == [stored(record())]
    foreign = [each for each in one.scan() if isinstance(each, ForeignRecord)]
    assert {(each.name, each.owner) for each in foreign} == {
        ("two!doc#00000", "two"),
        ("two!more#00000", "two"),
        (RecordFormat.of("two").marker_id, "two"),
    }
    assert [hit.text for hit in two.search(VECTORS[0], 1)] == ["of two"]
    one.delete([record().id])
    assert len(stored_in(server, owner="two")) == 2


# --- errors -----------------------------------------------------------------------------------------------


def attempt(sink: PineconeSink, operation: str) -> None:
    if operation == "upsert":
        sink.upsert([record(), record(index=1)])
    elif operation == "delete":
        sink.delete([record().id])
    elif operation == "list":
        list(sink.scan())
    elif operation == "query":
        sink.search(VECTORS[0], 3)
    else:
        sink.check(DIMENSION)


STATUSES = [
    *((status, TransientError) for status in (408, 425, 429, 500, 502, 503, 504)),
    *((status, SinkError) for status in (401, 402, 403, 409, 412)),
]


@pytest.mark.parametrize("operation", ["upsert", "delete", "list", "query", "fetch"])
@pytest.mark.parametrize("status,expected", [*STATUSES, (400, None), (413, None), (422, None)])
def test_each_failure_is_of_whoever_must_act(
    server: PineconeServer, sinks: Sinks, operation: str, status: int, expected: type[ConnectorError] | None
) -> None:
    sink = sinks.prepared()
    wanted = expected or (RejectedError if operation == "upsert" else SinkError)
    before = server.calls[operation]
    server.on(operation, Status(status, f"the words of\nthe service, {KEY}"))
    with pytest.raises(wanted) as caught:
        attempt(sink, operation)
    assert "the words of the service, (the key)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert server.calls[operation] - before == 1  # the SDK does not retry: that is the delivery's to tell
    attempt(sink, operation)


@pytest.mark.parametrize("told,wait", [("1.5", 1.5), ("7", 7.0), ("soon", None), ("-1", None), ("inf", None)])
@pytest.mark.parametrize("status", [429, 503])
def test_the_wait_that_the_service_names_is_kept(
    server: PineconeServer, sinks: Sinks, status: int, told: str, wait: float | None
) -> None:
    sink = sinks.prepared()
    server.on("upsert", Status(status, retry_after=told))
    with pytest.raises(TransientError) as caught:
        sink.upsert([record()])
    assert caught.value.retry_after_seconds == wait


def test_a_wait_until_a_date_is_understood(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks.prepared()
    server.on("upsert", Status(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"))
    with pytest.raises(TransientError) as caught:
        sink.upsert([record()])
    assert caught.value.retry_after_seconds == 0


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("operation", ["upsert", "delete"])
def test_a_lost_answer_is_no_lost_record(server: PineconeServer, sinks: Sinks, operation: str, after: bool) -> None:
    sink = sinks.prepared()
    if operation == "delete":
        attempt(sink, "upsert")
    server.on(operation, Reset(after=after))
    with pytest.raises(TransientError):
        attempt(sink, operation)
    attempt(sink, operation)
    assert len(stored_in(server)) == (2 if operation == "upsert" else 1)


def test_a_count_that_is_too_small_is_no_success(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks.prepared()
    server.on("upsert", Partial(0.5, status=200))
    with pytest.raises(TransientError, match="took 1 of 2 records, without saying which"):
        attempt(sink, "upsert")


def test_an_answer_of_a_gateway_is_told_and_passes(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks.prepared()
    server.on("upsert", Status(502, body="<html>\n<h1>Bad gateway</h1>" + "x" * 5000))
    with pytest.raises(TransientError, match=r"<html> <h1>Bad gateway") as caught:
        sink.upsert([record()])
    assert len(str(caught.value)) < 1000


def test_a_poisoned_record_is_rejected_with_the_services_words_and_the_others_are_not(
    server: PineconeServer, sinks: Sinks
) -> None:
    sink = sinks.prepared()
    server.poison("docs%20sync!bad#00000", "this one is cursed")
    with pytest.raises(RejectedError, match="this one is cursed"):
        sink.upsert([record(), record("bad")])
    sink.upsert([record()])
    assert list(stored_in(server)) == [record().id]


def test_a_wrong_key_is_found_by_check_and_never_told(server: PineconeServer, sinks: Sinks) -> None:
    server.create(INDEX, DIMENSION)
    sink = sinks(api_key="pc-wrong-canary")
    with pytest.raises(SinkError, match="401") as caught:
        sink.check(DIMENSION)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_service_that_is_not_there_is_a_passing_failure(sinks: Sinks) -> None:
    with pytest.raises(TransientError, match="cannot be used"):
        sinks(controller_host="http://127.0.0.1:9").check(DIMENSION)


def test_nothing_shows_the_key(sinks: Sinks) -> None:
    sink = sinks()
    settings = PineconeSettings(api_key=KEY, index=INDEX)
    assert KEY not in repr(settings)
    assert KEY not in repr(sink)
    assert KEY not in repr(vars(sink)["_failures"])


def test_deleting_from_a_namespace_that_is_gone_is_done(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks.prepared()
    server.on("delete", Status(404, "Namespace not found"))
    sink.delete([record().id])
    sink.delete(["no record's name"])  # type: ignore[list-item]  # it was never accepted, so it is not asked about
    assert server.calls["delete"] == 1


def test_vectors_are_sent_in_the_fewest_digits_and_kept_bit_for_bit(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks.prepared(64)
    vectors = np.random.default_rng(3).standard_normal((50, 64)).astype(np.float32)
    sink.upsert([record(index=index, vector=vector) for index, vector in enumerate(vectors)])
    [_, seen] = [seen for seen in server.requests if seen.route == "upsert"]  # the first is of the marker
    kept = stored_in(server)
    assert all((kept[record(index=index).id].vector == vector).all() for index, vector in enumerate(vectors))
    assert seen.request_bytes < 0.65 * sum(len(json.dumps(vector.tolist())) for vector in vectors) + 50 * 400


def test_an_sdk_with_another_encoder_is_given_lists(
    server: PineconeServer, sinks: Sinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = sinks.prepared()
    monkeypatch.setattr("sinks.pinecone_sink.written", lambda vectors: [object()] * len(vectors))
    sink.upsert([record()])
    assert stored_in(server) == {record().id: record()}


# --- reading ----------------------------------------------------------------------------------------------


def test_a_long_collection_with_long_ids_is_scanned_in_pages(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks.prepared()
    records = [record("ö" * 70, index) for index in range(150)] + [record(f"d{n}") for n in range(160)]
    sink.upsert(records)
    assert len(ours(sink.scan())) == len(records)
    assert server.calls["list"] == 4
    assert server.calls["fetch"] > 6
    assert max(len(seen.path) for seen in server.requests) < 9000


def test_a_record_that_goes_away_during_a_scan_is_left_out(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks.prepared()
    sink.upsert([record(), record("gone")])
    server.terms.lag.list = 1
    sink.delete([record("gone").id])
    assert list(sink.scan()) == [stored(record())]


@pytest.mark.parametrize("limit", [1, 50, 51, 120, 20_000])
def test_a_search_gives_as_many_as_are_asked_for(sinks: Sinks, limit: int) -> None:
    sink = sinks.prepared()
    sink.upsert([record(index=index) for index in range(130)])
    assert len(sink.search(VECTORS[0], limit)) == min(limit, 130)


def test_no_hits_are_asked_for_without_a_limit(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks.prepared()
    assert sink.search(VECTORS[0], 0) == []
    assert server.calls["query"] == 0


def test_a_search_asks_again_when_what_it_found_was_not_what_was_meant(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks.prepared()
    others = [record("other", index, vector=VECTORS[0], metadata={"pages": [1, index]}) for index in range(200)]
    sink.upsert([*others, record("wanted", vector=VECTORS[-1], metadata={"pages": [1000, 2]})])
    [hit] = sink.search(VECTORS[0], 1, [Equals("pages", 1000)])
    assert hit.document_id == "wanted"
    assert server.calls["query"] == 5  # 1, 4, 16, 64, 256


def test_euclidean_scores_are_higher_when_nearer(sinks: Sinks) -> None:
    sink = sinks.prepared(metric="euclidean")
    sink.upsert([record(index=index) for index in range(3)])
    scores = [hit.score for hit in sink.search(VECTORS[0], 3, [Between("page", at_least=7)])]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 0


def test_a_question_of_another_dimension_is_rejected(sinks: Sinks) -> None:
    sink = sinks.prepared()
    with pytest.raises(RejectedError, match=f"has {DIMENSION} dimensions"):
        sink.search(np.ones(3, dtype=np.float32), 1)


def test_where_there_is_no_index_nothing_is_found(sinks: Sinks) -> None:
    sink = sinks()
    assert sink.search(VECTORS[0], 3) == []
    assert list(sink.scan()) == []
    assert sink.live() is None


def test_a_cut_text_is_told_and_has_the_vector_of_all_of_it(server: PineconeServer, sinks: Sinks) -> None:
    sink = sinks.prepared(oversized="truncate")
    long = record(text="ö" * 60_000)
    [line] = sink.fit(Draft(long.document_id, (long.text,), long.metadata)).alterations
    assert line.startswith('the field "text" of passage 0 is cut to ')
    sink.upsert([long])
    [kept] = stored_in(server).values()
    assert long.text.startswith(kept.text)
    assert len(kept.text) > 20_000
    assert kept.vector.tolist() == long.vector.tolist()
    [hit] = sink.search(long.vector, 1)
    assert (hit.text, hit.metadata) == (kept.text, long.metadata)


@pytest.mark.parametrize(
    "settings,text,metadata",
    [
        ({"unsupported": "drop"}, "a text", {"none": None, "n": 1}),
        ({"oversized": "truncate"}, "x" * 60_000, {"n": 1}),
        ({"oversized": "truncate", "unsupported": "drop"}, "x" * 60_000, {"none": None}),
        ({"oversized": "drop"}, "a text", {"long": "x" * 60_000, "n": 1}),
    ],
)
def test_what_was_altered_in_writing_is_no_drift_and_what_others_alter_is(
    server: PineconeServer, sinks: Sinks, folder: Path, settings: dict[str, Any], text: str, metadata: Metadata
) -> None:
    rig = Rig(folder, embedder=HashEmbedder(tokens_per_text=100_000))
    rig.sinks = [sinks(**settings)]  # type: ignore[list-item]  # whichever it is
    rig.sync({"altered": (text, metadata), "whole": ("another text", {"n": 2})})
    index = VerifyRig(rig)
    verified = index.verify(contents=True)
    assert found(verified) == {}
    assert (verified.sinks[0].in_step, verified.sinks[0].unchecked) == (2, 1)
    name = RecordFormat.of("docs sync").vector_id(record_id(DocumentId("whole"), 0))
    assert name is not None
    whole = server.records(INDEX, NAMESPACE)[name]
    server.put(INDEX, NAMESPACE, {name: (whole.values.tolist(), {**whole.metadata, "n": 3})})
    assert found(index.verify(contents=True)) == {"altered": {"whole#0"}}


# --- generations ------------------------------------------------------------------------------------------


def kept(server: PineconeServer, index: str, namespace: str) -> list[EmbeddedRecord]:
    return list(stored_in(server, namespace, index=index).values())


def test_a_generation_of_another_dimension_has_an_index_of_its_own(server: PineconeServer, sinks: Sinks) -> None:
    sinks.prepared().upsert([record()])
    new = sinks(generation=2)
    assert new.check(3) is None
    assert list(server.indexes) == [INDEX]
    new.prepare(3)
    new.upsert([record(vector=np.ones(3, dtype=np.float32))])
    assert server.indexes[f"{INDEX}-2"].dimension == 3
    assert len(kept(server, f"{INDEX}-2", "docs@2")) == 1
    new.make_live()
    reader = sinks(generation=2)
    assert (reader.live(), len(list(reader.scan()))) == (2, 1)
    assert reader.address() == {"index": f"{INDEX}-2", "namespace": "docs@2"}
    old = sinks(generation=1)
    old.drop()
    assert list(server.records(INDEX, NAMESPACE)) == []
    assert reader.live() == 2


def test_a_dropped_generation_takes_its_index_with_it(server: PineconeServer, sinks: Sinks) -> None:
    sinks.prepared()
    sinks.prepared(3, generation=2)
    sinks(generation=2).drop()
    assert list(server.indexes) == [INDEX]


def test_an_index_that_another_collection_also_uses_stays(server: PineconeServer, sinks: Sinks) -> None:
    sinks.prepared()
    sinks.prepared(3, generation=2)
    sinks.prepared(namespace="wiki")
    sinks.prepared(3, namespace="wiki", generation=2)
    sinks(generation=2).drop()
    assert not server.records(f"{INDEX}-2", "docs@2")
    assert server.records(f"{INDEX}-2", "wiki@2")


def test_an_index_that_others_made_is_neither_used_nor_deleted(server: PineconeServer, sinks: Sinks) -> None:
    sinks.prepared()
    server.create(f"{INDEX}-2", 3)
    sink = sinks(generation=2)
    with pytest.raises(
        ConfigError, match='takes an index "passages-2", and there is one that vector-sync did not make'
    ):
        sink.check(3)
    sink.drop()
    assert f"{INDEX}-2" in server.indexes


@pytest.mark.parametrize(
    "settings,dimension,said",
    [
        ({"alias": "docs-live"}, 5, 'the namespace alias "docs-live" cannot lead'),
        ({"cloud": None}, 5, "not made without cloud and region"),
        ({"namespace": ""}, DIMENSION, "no name to go by"),
    ],
)
def test_a_generation_that_could_not_be_made_live_is_refused_and_told_why(
    sinks: Sinks, settings: dict[str, Any], dimension: int, said: str
) -> None:
    sinks.prepared()
    with pytest.raises(ConfigError, match=said):
        sinks(generation=2, **settings).check(dimension)


def test_a_host_leaves_no_way_to_another_index(server: PineconeServer, sinks: Sinks) -> None:
    host = server.create(INDEX, DIMENSION)
    sink = sinks(host=host, generation=2)
    with pytest.raises(ConfigError, match="leave out host"):
        sink.check(5)
    assert sink.prepare(DIMENSION)


def test_a_name_that_would_be_too_long_is_refused(server: PineconeServer, sinks: Sinks) -> None:
    server.create("x" * 45, DIMENSION)
    with pytest.raises(ConfigError, match="longer than the 45 characters"):
        sinks(index="x" * 45, generation=2).check(5)


def test_a_drop_leaves_what_others_keep_in_the_namespace(server: PineconeServer, sinks: Sinks) -> None:
    sinks.prepared().upsert([record()])
    server.put(INDEX, NAMESPACE, {"theirs": ([1, 0, 0, 0], {"text": "theirs"})})
    sinks.prepared(generation=2).make_live()
    sinks(generation=1).drop()
    assert list(server.records(INDEX, NAMESPACE)) == ["theirs"]


def patient_drop(sinks: Sinks, attempts: int = 9, **settings: Any) -> PineconeSink:
    """Build a sink whose drop does not wait between two looks."""
    sink = sinks(**settings)
    sink._collection._until_seen = Retry(attempts=attempts, sleep=lambda _: None)
    return sink


@pytest.mark.parametrize("dimension", [DIMENSION, 3], ids=["a namespace", "an index of its own"])
@pytest.mark.parametrize("late", ["query", "list", "stats", "fetch"])
def test_a_drop_leaves_what_a_stranger_wrote_a_moment_ago(
    server: PineconeServer, sinks: Sinks, late: str, dimension: int
) -> None:
    sinks.prepared()
    setattr(server.terms.lag, late, 3)
    sink = patient_drop(sinks, generation=2)
    sink.prepare(dimension)
    sink.upsert([record(vector=np.ones(dimension, dtype=np.float32))])
    index = INDEX if dimension == DIMENSION else f"{INDEX}-2"
    theirs = [Vector("theirs", [1.0] * dimension)]
    sink._service.open(index).upsert(vectors=theirs, namespace="docs@2", show_progress=False)
    sink.drop()
    sink.drop()
    assert list(server.records(index, "docs@2")) == ["theirs"]


def test_another_syncs_marker_is_a_strangers_record(server: PineconeServer, sinks: Sinks) -> None:
    sinks.prepared()
    sinks.prepared(owner="another")
    incarnation = sinks.prepared(owner="another", generation=2).check(DIMENSION)
    sinks.prepared(generation=2).drop()
    assert sinks(owner="another", generation=2).check(DIMENSION) == incarnation


def test_only_namespaces_of_our_making_are_removed(server: PineconeServer, sinks: Sinks) -> None:
    for generation in (1, 2, 3):
        sinks.prepared(generation=generation).upsert([record()])
    sinks(generation=3).make_live()
    sinks(generation=1).drop()
    sinks(generation=2).drop()
    assert server.indexes[INDEX].namespaces.keys() - {"docs@live", ""} == {NAMESPACE, "docs@3"}
    assert not server.records(INDEX, NAMESPACE)


@pytest.mark.parametrize("next_run", ["drop", "prepare"])
def test_a_drop_whose_deletion_is_not_seen_is_finished_by_the_next_run(
    server: PineconeServer, sinks: Sinks, next_run: str
) -> None:
    sinks.prepared()
    sinks.prepared(generation=2).upsert([record()])
    server.terms.lag.list = 100
    with pytest.raises(TransientError, match="may still be there; the next run goes on"):
        patient_drop(sinks, generation=2, attempts=2).drop()
    assert server.calls["delete_namespace"] == 0
    assert not stored_in(server, "docs@2")
    server.terms.lag.list = 0
    server.settle()
    if next_run == "drop":
        sinks(generation=2).drop()
        assert "docs@2" not in server.indexes[INDEX].namespaces
    else:
        sinks(generation=2).prepare(DIMENSION)
        assert list(server.records(INDEX, "docs@2")) == [RecordFormat.of("docs sync").marker_id]


def test_an_alias_that_has_the_name_of_a_namespace_is_refused_before_anything_is_made(
    server: PineconeServer, sinks: Sinks
) -> None:
    server.create(INDEX, DIMENSION)
    server.put(INDEX, "taken", {"theirs": ([1, 0, 0, 0], {})})
    with pytest.raises(ConfigError, match='"taken" cannot be made, the index "passages" has a namespace of that name'):
        sinks(alias="taken").check(DIMENSION)


def test_all_calls_about_aliases_use_one_connection(sinks: Sinks) -> None:
    sink = sinks.prepared(alias="docs-live")
    first = sink._service.aliases(INDEX).client
    sink.live()
    sink.make_live()
    assert sink._service.aliases(INDEX).client is first


def test_a_service_without_aliases_is_told(tmp_path: Path) -> None:
    with PineconeServer(aliases=False) as server:
        server.create(INDEX, DIMENSION)
        sink = build(server, tmp_path, alias="docs-live")
        with pytest.raises(ConfigError, match='the index "passages" has no namespace aliases; leave out alias'):
            sink.check(DIMENSION)
        sink.close()


def test_an_alias_that_leads_elsewhere_is_not_taken_over(server: PineconeServer, sinks: Sinks) -> None:
    server.create(INDEX, DIMENSION)
    server.put(INDEX, "theirs", {"a": ([1, 0, 0, 0], {})})
    sink = sinks(alias="docs-live")
    sink._service.aliases(INDEX).point("docs-live", "theirs")
    with pytest.raises(ConfigError, match='leads to the namespace "theirs", which is not ours; choose another alias'):
        sink.check(DIMENSION)
    with pytest.raises(SinkError, match="not ours"):
        sink.prepare(DIMENSION)


def test_an_alias_may_not_have_the_name_of_a_namespace_of_ours(sinks: Sinks) -> None:
    sinks.prepared()
    for alias in (NAMESPACE, f"{NAMESPACE}@2"):
        with pytest.raises(ConfigError, match="choose another"):
            sinks(alias=alias).check(DIMENSION)


@pytest.mark.parametrize("route", ["create_alias", "repoint_alias"])
def test_a_lost_answer_of_an_alias_is_decided_by_the_next_call(
    server: PineconeServer, sinks: Sinks, route: str
) -> None:
    sinks.prepared(alias="docs-live")
    sink = sinks.prepared(alias="docs-live", generation=2)
    if route == "create_alias":
        server.indexes[INDEX].aliases.clear()
    server.on(route, Reset(after=True))
    with pytest.raises(TransientError):
        sink.make_live()
    sink.make_live()
    assert sink.live() == 2


def published(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "live" / "main.json").read_text())
    return found


def test_readers_are_told_in_a_file_where_the_live_generation_is(sinks: Sinks, tmp_path: Path) -> None:
    sinks.prepared()
    assert published(tmp_path) == {"generation": 1, "index": INDEX, "namespace": NAMESPACE}
    sinks.prepared(3, generation=2).make_live()
    assert published(tmp_path) == {"generation": 2, "index": f"{INDEX}-2", "namespace": "docs@2"}
    assert [path.name for path in (tmp_path / "live").iterdir()] == ["main.json"]


def test_a_file_that_was_lost_is_written_again_by_the_word_of_pinecone(sinks: Sinks, tmp_path: Path) -> None:
    sinks.prepared()
    sinks.prepared(generation=2).make_live()
    told = published(tmp_path)
    for again in ("prepare", "make_live"):
        (tmp_path / "live" / "main.json").unlink()
        sink = sinks(generation=2)
        if again == "prepare":
            sink.prepare(DIMENSION)
        else:
            sink.make_live()
        assert published(tmp_path) == told


def test_who_only_reads_writes_no_file(sinks: Sinks, tmp_path: Path) -> None:
    sinks.prepared(read_only=True)
    assert not (tmp_path / "live").exists()


def test_a_file_that_cannot_be_written_is_told(sinks: Sinks, tmp_path: Path) -> None:
    (tmp_path / "live").write_text("in the way")
    with pytest.raises(SinkError, match=r"main\.json cannot be written"):
        sinks.prepared()


def test_what_is_live_outlives_our_own_state(sinks: Sinks, tmp_path: Path) -> None:
    sinks.prepared()
    sinks.prepared(generation=2).make_live()
    elsewhere = tmp_path / "restored"
    elsewhere.mkdir()
    sinks.folder = elsewhere
    assert sinks(generation=1).live() == 2


def test_it_is_a_sink_of_generations(sinks: Sinks) -> None:
    assert isinstance(sinks(), GenerationSink)


# --- what applications are told ---------------------------------------------------------------------------


def test_of_pinecone_it_is_told_where_the_records_are_and_what_is_in_them(
    server: PineconeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    project = make_project(tmp_path / "project", monkeypatch)
    install(monkeypatch, {"sinks": {"pinecone": PineconeSettings}})
    monkeypatch.setenv("VECTOR_SYNC_SINKS__MAIN__API_KEY", KEY)
    settings = f'"pinecone"\nindex = "{INDEX}"\ncontroller_host = "{server.url}"\ncloud = "aws"\nregion = "r"\n'
    project.configure(CONFIG.replace('"qdrant-edge"\n', settings))
    project.synced()
    answer = project.answer("query-config")
    assert isinstance(answer["sink"], dict)
    told = {name: answer["sink"][name] for name in ("kind", "index", "namespace", "metric", "generation")}
    assert told == {"kind": "pinecone", "index": INDEX, "namespace": NAMESPACE, "metric": "cosine", "generation": 1}
    assert "region" not in answer["sink"]
    assert isinstance(answer["payload"], dict)
    assert (answer["payload"]["text"], answer["payload"]["json"]) == ("text", "_vs_json")
    assert answer["filter"] == {"_vs_source": "default"}
    assert answer["secrets"] == {"sink.api_key": "VECTOR_SYNC_SINKS__MAIN__API_KEY"}
    assert KEY not in json.dumps(answer)
    assert len(stored_in(server, owner="default")) >= 3


# --- a round through everything, also at a real service ---------------------------------------------------


def round_trip(sink: PineconeSink, dimension: int, until_seen: Retry) -> None:
    """Write, read, search, change and drop, waiting for what is read late."""
    vectors = np.eye(3, dimension, dtype=np.float32)
    records = [record("a/ö#1", index, vector=vectors[index], metadata={"n": index, "l": [index]}) for index in range(3)]

    def see(wanted: list[EmbeddedRecord]) -> None:
        def look() -> None:
            if ours(sink.scan()) != [stored(each) for each in wanted]:
                raise TransientError("not yet")

        until_seen("scan", look)

    def find(where: list[Equals | Between], wanted: list[int]) -> None:
        def look() -> None:
            if sorted(hit.index for hit in sink.search(vectors[0], 10, where)) != wanted:
                raise TransientError("not yet")

        until_seen("search", look)

    incarnation = sink.prepare(dimension)
    try:
        assert sink.check(dimension) == incarnation
        assert sink.live() == 1
        sink.upsert(records)
        see(records)
        find([], [0, 1, 2])
        find([Equals("n", 1)], [1])
        find([Between("n", at_least=1)], [1, 2])
        find([Equals("l", 2)], [2])
        sink.delete([records[0].id])
        see(records[1:])
    finally:
        place, facts = sink._collection.for_writing()
        notes = sink._collection._notes(place)
        assert clear(notes, sink._format)
        assert remove_if_empty(notes, sink._format, facts, until_seen)


def test_a_round_through_everything_where_readers_are_late(server: PineconeServer, sinks: Sinks) -> None:
    server.terms.lag.list = server.terms.lag.fetch = server.terms.lag.query = 1
    sink = sinks()
    patient = Retry(sleep=lambda _: None)
    sink._collection._until_seen = patient
    round_trip(sink, DIMENSION, patient)
    assert NAMESPACE not in server.indexes[INDEX].namespaces


def test_a_round_through_everything_at_a_real_service(real_pinecone: RealIndex, tmp_path: Path) -> None:
    settings = PineconeSettings(
        api_key=real_pinecone.api_key, index=real_pinecone.name, namespace=unique("vector-sync-test"), create=False
    )
    sink = settings.build(BuildContext(tmp_path, tmp_path, "main", "docs sync"))
    assert isinstance(sink, PineconeSink)
    try:
        facts = sink._service.describe(real_pinecone.name)
        assert facts is not None
        assert facts.dimension is not None
        round_trip(sink, facts.dimension, Retry(attempts=20, first_wait_seconds=1.0, longest_wait_seconds=10.0))
    finally:
        sink.close()
