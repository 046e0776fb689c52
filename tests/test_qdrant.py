"""The sink for a Qdrant server: what it makes, what it reads of limits, and what it takes failures for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException
from qdrant_rig import FOREIGN, OWNER, KeptClient, build, ours, point, raw_client

from connector.errors import ConfigError, ConnectorError, RejectedError, SinkError, TransientError
from connector.filters import AnyOf, Between, Condition, Equals, matches
from connector.model import FITS, Detail, Draft, EmbeddedRecord, ForeignRecord, Metadata, StoredRecord
from connector.plugins import BuildContext
from connector.ports import GenerationSink
from connector.query_config import WRITING_SETTINGS
from connector.testing.qdrant_server import QdrantServer
from connector.testing.sink_records import DIMENSION, VECTORS, record, stored
from sinks.qdrant import QdrantSettings, QdrantSink
from sinks.qdrant_failures import explained, wait_seconds

KEY = "canary-5b1e"
COSINE = models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
UPSERTS = r"/collections/[^/]+/points"
DELETIONS = r"/collections/[^/]+/points/delete"


@pytest.fixture(scope="module")
def listening() -> Iterator[QdrantServer]:
    with QdrantServer(api_key=KEY, max_request_bytes=32 * 1024 * 1024) as server:
        yield server


@pytest.fixture
def server(listening: QdrantServer) -> Iterator[QdrantServer]:
    yield listening
    listening.faults.clear()


@pytest.fixture(scope="module")
def looking(listening: QdrantServer) -> Iterator[QdrantClient]:
    client = raw_client(listening.url, KEY)
    yield client
    client.close()


@pytest.fixture
def raw(server: QdrantServer, looking: QdrantClient) -> Iterator[QdrantClient]:
    yield looking
    for each in looking.get_collections().collections:
        looking.delete_collection(each.name)


@pytest.fixture
def sink(server: QdrantServer, raw: QdrantClient) -> Iterator[QdrantSink]:
    made = at(server)
    made.prepare(DIMENSION)
    yield made
    made.close()


def at(server: QdrantServer, *, generation: int = 1, owner: str = OWNER, **settings: Any) -> QdrantSink:
    given = QdrantSettings.model_validate({"url": server.url, "api_key": KEY, **settings})
    return build(given, generation=generation, owner=owner)


def in_process(**settings: Any) -> QdrantSink:
    made = build(QdrantSettings.model_validate({"url": ":memory:", **settings}), KeptClient())
    made.prepare(DIMENSION)
    return made


# --- settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:6333",
        "https://q.example.com:443/prefix",
        "http://[::1]:6333",
        "http://my_qdrant:6333",
        ":memory:",
    ],
)
def test_an_address_is_taken(url: str) -> None:
    assert QdrantSettings(url=url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6333",
        "q.example.com",
        "ftp://q.example.com",
        "http://",
        "http://h:port",
        "http://h:0",
        "",
        "memory",
        "http://a b",
        "http://a/b c",
        "http://[::1",
        "http://a,b",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="should be like"):
        QdrantSettings(url=url)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ValidationError, match="api_key") as caught:
        QdrantSettings(url=f"https://me:{KEY}@q.example.com")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["", f"{KEY}\n", f" {KEY}", f"{KEY}é"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValidationError, match="cannot be sent") as caught:
        QdrantSettings(api_key=SecretStr(key))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", ["docs", "Größe", "a b", "docs.2024", "a" * 200])
def test_a_name_of_a_collection_is_taken(name: str) -> None:
    assert QdrantSettings(collection=name).collection == name


@pytest.mark.parametrize("name", ["", ".", "..", ".docs", "docs@1", "a/b", "a\\b", "a:b", "a*", "a\x00", "a" * 201])
def test_a_name_that_qdrant_or_a_generation_could_not_have_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        QdrantSettings(collection=name)


@pytest.mark.parametrize("field", ["", 'a"b', "a\\b"])
def test_a_field_that_qdrant_cannot_name_is_not_indexed(field: str) -> None:
    with pytest.raises(ValidationError, match="cannot index"):
        QdrantSettings(index_fields={field: "keyword"})


def test_without_its_client_the_sink_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("sinks.qdrant_")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(ConfigError, match=r"vector-sync\[qdrant\]"):
        QdrantSettings().build(BuildContext(Path(), Path(), name="main"))


def test_the_settings_are_read_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("sinks.qdrant")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert importlib.import_module("sinks.qdrant").QdrantSettings().collection == "docs"


def test_building_the_sink_asks_nobody(server: QdrantServer) -> None:
    before = server.calls.total()
    at(server).close()
    assert server.calls.total() == before


def test_it_has_generations() -> None:
    assert isinstance(in_process(), GenerationSink)


def test_readers_are_told_what_concerns_them_and_no_more() -> None:
    told = set(QdrantSettings.model_fields) - set(WRITING_SETTINGS["qdrant"])
    assert told == {"kind", "url", "api_key", "collection", "vector", "distance", "index_fields"}
    assert set(WRITING_SETTINGS["qdrant"]) < set(QdrantSettings.model_fields)


# --- what is made -----------------------------------------------------------------------------------


def test_a_collection_is_made_as_the_settings_say(server: QdrantServer, raw: QdrantClient) -> None:
    made = at(
        server,
        vector="body",
        distance="dot",
        datatype="float16",
        quantization="scalar",
        quantization_in_ram=True,
        on_disk=True,
        shard_number=3,
        replication_factor=2,
        write_consistency_factor=2,
        index_fields={"lang": "keyword", "a.b": "integer", "größe": "float", "when": "datetime", "text": "text"},
    )
    made.prepare(DIMENSION)
    info = raw.get_collection("docs@1")
    params = info.config.params
    assert isinstance(params.vectors, dict)
    body = params.vectors["body"]
    assert (body.size, body.distance, body.datatype, body.on_disk) == (4, models.Distance.DOT, "float16", True)
    assert (params.shard_number, params.replication_factor, params.write_consistency_factor) == (3, 2, 2)
    quantization = info.config.quantization_config
    assert isinstance(quantization, models.ScalarQuantization)
    assert quantization.scalar.always_ram
    assert {key: str(found.data_type) for key, found in info.payload_schema.items()} == {
        "_vs_source": "keyword",
        "lang": "keyword",
        '"a.b"': "integer",
        '"größe"': "float",
        "when": "datetime",
        "text": "text",
    }
    made.upsert([record()])
    assert [hit.id for hit in made.search(VECTORS[0], 5)] == [record().id]
    [read] = made.scan(Detail.VECTORS)
    assert isinstance(read, StoredRecord)
    np.testing.assert_array_equal(read.vector, record().vector)
    made.close()


def test_binary_quantization_can_be_asked_for(server: QdrantServer, raw: QdrantClient) -> None:
    made = at(server, quantization="binary")
    made.prepare(DIMENSION)
    assert isinstance(raw.get_collection("docs@1").config.quantization_config, models.BinaryQuantization)
    made.close()


def test_indexes_are_there_before_readers_are(server: QdrantServer, raw: QdrantClient) -> None:
    made = at(server, index_fields={"lang": "keyword"})
    made.prepare(DIMENSION)
    steps = [seen.route for seen in server.seen if not seen.route.startswith("GET")]
    index, alias = "PUT /collections/{name}/index", "POST /collections/aliases"
    assert steps[-4:] == ["PUT /collections/{name}", index, index, alias]
    made.close()


@pytest.mark.parametrize("killed_after", ["the collection", "the mark", "an index"])
def test_what_a_killed_prepare_left_is_finished(server: QdrantServer, raw: QdrantClient, killed_after: str) -> None:
    raw.create_collection("docs@1", vectors_config=COSINE)
    if killed_after != "the collection":
        raw.update_collection("docs@1", metadata={"vector_sync": {"incarnation": "abc"}})
    if killed_after == "an index":
        raw.create_payload_index("docs@1", "_vs_source", models.PayloadSchemaType.KEYWORD)
    made = at(server, index_fields={"lang": "keyword"})
    first = made.prepare(DIMENSION)
    assert (first == "abc") == (killed_after != "the collection")
    assert set(raw.get_collection("docs@1").payload_schema) == {"_vs_source", "lang"}
    assert made.live() == 1
    assert at(server).check(DIMENSION) == first
    made.close()


def test_two_that_make_a_collection_at_once_share_it(
    server: QdrantServer, raw: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, slow = at(server, owner="another sync"), at(server)
    create = slow._server.create

    def overtaken(name: str, dimension: int) -> None:
        quick.prepare(DIMENSION)
        create(name, dimension)

    monkeypatch.setattr(slow._server, "create", overtaken)
    assert slow.prepare(DIMENSION) == quick.prepare(DIMENSION)
    for each in (quick, slow):
        each.close()


def test_an_index_that_is_there_is_not_made_again(server: QdrantServer, sink: QdrantSink) -> None:
    before = server.calls["PUT /collections/{name}/index"]
    sink.prepare(DIMENSION)
    assert server.calls["PUT /collections/{name}/index"] == before


def test_two_syncs_share_a_collection_and_its_incarnation(server: QdrantServer, sink: QdrantSink) -> None:
    other = at(server, owner="another sync")
    assert other.prepare(DIMENSION) == sink.prepare(DIMENSION)
    sink.upsert([record(text="ours")])
    other.upsert([record(text="theirs"), record("more")])
    assert (sink.count(), other.count()) == (1, 2)
    assert [hit.text for hit in sink.search(VECTORS[0], 5)] == ["ours"]
    assert {each.owner for each in sink.scan() if isinstance(each, ForeignRecord)} == {"another sync"}
    other.delete([record().id])
    assert sink.count() == 1
    other.close()


# --- a collection that is there ---------------------------------------------------------------------


def test_a_collection_of_the_users_is_generation_1_as_it_is(server: QdrantServer, raw: QdrantClient) -> None:
    raw.create_collection("docs", vectors_config=COSINE, metadata={"team": "search"})
    raw.upsert("docs", [point(FOREIGN, VECTORS[0], "", {"mine": 1})])
    made = at(server)
    assert made.check(DIMENSION) is None
    incarnation = made.prepare(DIMENSION)
    assert made.check(DIMENSION) == incarnation
    assert raw.get_aliases().aliases == []
    assert (raw.get_collection("docs").config.metadata or {})["team"] == "search"
    made.upsert([record()])
    assert list(ours(raw, "docs")) == [record().id]
    assert (made.live(), made.count()) == (1, 1)
    assert made.address() == {"collection": "docs"}
    made.make_live()
    with pytest.raises(ConfigError, match="readers get"):
        made.drop()
    assert [found.payload for found in raw.retrieve("docs", [str(FOREIGN)])] == [{"mine": 1}]
    made.close()


def test_a_collection_of_the_users_has_no_second_generation(server: QdrantServer, raw: QdrantClient) -> None:
    raw.create_collection("docs", vectors_config=COSINE)
    made = at(server, generation=2)
    with pytest.raises(ConfigError, match=r"not behind an alias.*set `collection`"):
        made.check(DIMENSION)
    made.drop()
    assert raw.collection_exists("docs")
    made.close()


def test_an_alias_of_somebody_elses_is_not_taken(server: QdrantServer, raw: QdrantClient) -> None:
    raw.create_collection("docs_2024", vectors_config=COSINE)
    alias = models.CreateAlias(collection_name="docs_2024", alias_name="docs")
    raw.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    made = at(server)
    with pytest.raises(ConfigError, match=r'"docs" .* is an alias of the collection "docs_2024"'):
        made.check(DIMENSION)
    made.close()


@pytest.mark.parametrize(
    "settings, vectors, words",
    [
        ({}, {"body": COSINE}, 'has no vector ""; it has: "body"'),
        ({"vector": "title"}, {"body": COSINE, "other": COSINE}, 'no vector "title"; it has: "body", "other"'),
        ({"vector": "body"}, COSINE, 'no vector "body"; it has: ""'),
        ({}, models.VectorParams(size=5, distance=models.Distance.COSINE), "5 dimensions, the embedder makes 4"),
        (
            {},
            models.VectorParams(size=4, distance=models.Distance.DOT),
            'the distance "dot", the settings say "cosine"',
        ),
        ({"distance": "euclid"}, models.VectorParams(size=4, distance=models.Distance.MANHATTAN), '"manhattan"'),
        (
            {},
            models.VectorParams(
                size=4,
                distance=models.Distance.COSINE,
                multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            ),
            "several vectors a point",
        ),
    ],
)
def test_a_collection_that_cannot_hold_the_vectors_is_refused(
    server: QdrantServer, raw: QdrantClient, settings: Mapping[str, Any], vectors: Any, words: str
) -> None:
    raw.create_collection("docs", vectors_config=vectors)
    made = at(server, **settings)
    for refusing in (made.check, made.prepare):
        with pytest.raises(ConfigError) as caught:
            refusing(DIMENSION)
        assert words in str(caught.value)
        assert '"docs"' in str(caught.value)
        assert "\n" not in str(caught.value)
    made.close()


def test_softer_differences_are_left_to_the_operator(server: QdrantServer, raw: QdrantClient) -> None:
    half = models.VectorParams(size=4, distance=models.Distance.COSINE, datatype=models.Datatype.FLOAT16)
    raw.create_collection("docs", vectors_config=half, shard_number=2)
    made = at(server, datatype="float32", shard_number=5, quantization="scalar", on_disk=True)
    made.check(DIMENSION)
    made.prepare(DIMENSION)
    info = raw.get_collection("docs").config
    assert isinstance(info.params.vectors, models.VectorParams)
    assert (info.params.vectors.datatype, info.params.shard_number) == (models.Datatype.FLOAT16, 2)
    assert info.quantization_config is None
    made.close()


def test_a_server_that_keeps_no_metadata_is_too_old() -> None:
    class Old(KeptClient):
        def create_collection(self, *args: Any, metadata: object = None, **kwargs: Any) -> bool:
            return super().create_collection(*args, **kwargs)

        def update_collection(self, *args: Any, **kwargs: Any) -> bool:
            return True

    made = build(QdrantSettings(url=":memory:"), Old())
    with pytest.raises(ConfigError, match=r"1\.16"):
        made.prepare(DIMENSION)


# --- limits -----------------------------------------------------------------------------------------


def strict(raw: QdrantClient, **limits: Any) -> None:
    config = models.StrictModeConfig(enabled=True, **limits)
    raw.create_collection("docs", vectors_config=COSINE, strict_mode_config=config)


def test_strict_mode_limits_what_a_call_carries(server: QdrantServer, raw: QdrantClient) -> None:
    strict(raw, upsert_max_batchsize=3)
    made = at(server, records_per_call=100, concurrent_calls=2)
    assert made.limits.records_per_call == 100
    made.check(DIMENSION)
    assert (made.limits.records_per_call, made.limits.concurrent_calls, made.limits.in_process) == (3, 2, False)
    made.prepare(DIMENSION)
    made.upsert([record(index=index) for index in range(3)])
    assert made.count() == 3
    made.close()


def test_limits_of_a_strict_mode_that_is_off_are_none(server: QdrantServer, raw: QdrantClient) -> None:
    off = models.StrictModeConfig(enabled=False, upsert_max_batchsize=3, search_allow_exact=False)
    raw.create_collection("docs", vectors_config=COSINE, strict_mode_config=off)
    made = at(server)
    made.prepare(DIMENSION)
    assert (made.limits.records_per_call, made.count()) == (256, 0)
    made.close()


def test_the_strictest_collection_is_written_and_read(server: QdrantServer, raw: QdrantClient) -> None:
    strict(
        raw,
        max_query_limit=2,
        max_timeout=5,
        unindexed_filtering_retrieve=False,
        unindexed_filtering_update=False,
        search_allow_exact=False,
    )
    made = at(server, timeout_seconds=60, index_fields={"lang": "keyword"})
    made.prepare(DIMENSION)
    records = [record(index=index, metadata={"lang": "en"}) for index in range(5)]
    made.upsert(records)
    assert sorted(made.scan(), key=str) == [stored(each) for each in records]
    assert len(made.search(VECTORS[0], 5, [Equals("lang", "en")])) == 2  # no more than it allows
    assert made.count() is None
    with pytest.raises(SinkError, match='Index required but not found for "year"'):
        made.search(VECTORS[0], 5, [Between("year", at_least=1)])
    made.delete([each.id for each in records])
    assert list(made.scan()) == []
    made.close()


def test_every_call_tells_the_server_its_timeout(server: QdrantServer, raw: QdrantClient) -> None:
    made = at(server, timeout_seconds=11)
    made.prepare(DIMENSION)
    made.upsert([record()])
    made.delete([record().id])
    list(made.scan())
    made.search(VECTORS[0], 1)
    made.count()
    asked = [seen for seen in server.seen if "/points" in seen.path][-5:]
    assert [seen.query.get("timeout") for seen in asked] == ["11"] * 5
    assert [seen.query.get("wait") for seen in asked[:2]] == ["true"] * 2
    made.close()


# --- failures ---------------------------------------------------------------------------------------


def test_a_wait_is_read_however_it_is_written() -> None:
    assert wait_seconds("7") == 7
    assert wait_seconds("1.5") == 1.5
    assert wait_seconds("-3") == 0
    soon = wait_seconds(format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))
    assert soon is not None
    assert 3000 < soon <= 3600
    assert wait_seconds(format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)) == 0
    for nothing in ("", "soon", "nan", "inf", "Wed, 21 Oct 2026 07:28:00"):
        assert wait_seconds(nothing) is None


STATUSES: Sequence[tuple[int, str, type[ConnectorError], type[ConnectorError]]] = (
    # status, words, to an upsert, to anything else
    (400, "Wrong input: bad payload", RejectedError, SinkError),
    (413, "too large", RejectedError, SinkError),
    (422, "Validation error in JSON body", RejectedError, SinkError),
    (400, "Wrong input: Not existing vector name error: body", SinkError, SinkError),
    (400, "Wrong input: Vector dimension error: expected dim: 4, got 5", SinkError, SinkError),
    (400, "Bad request: Max points count limit of 10 reached!", SinkError, SinkError),
    (400, "Bad request: Resident memory usage is at 95% of total memory", SinkError, SinkError),
    (401, "Invalid API key or JWT", SinkError, SinkError),
    (403, "Forbidden: Global manage access is required", SinkError, SinkError),
    (404, "Not found: Collection `docs@1` doesn't exist!", SinkError, SinkError),
    (409, "conflict", SinkError, SinkError),
    (507, "Insufficient storage: disk", SinkError, SinkError),
    (408, "Timeout: operation timed out", TransientError, TransientError),
    (429, "Rate limiting exceeded", TransientError, TransientError),
    (500, "Service internal error: 1 of 2 shards failed", TransientError, TransientError),
    (502, "bad gateway", TransientError, TransientError),
    (503, "Shard temporarily unavailable", TransientError, TransientError),
    (504, "gateway timeout", TransientError, TransientError),
    (522, "connection timed out", TransientError, TransientError),
)


@pytest.mark.parametrize("status, words, to_upsert, to_others", STATUSES)
def test_each_status_means_what_the_table_says(
    server: QdrantServer,
    sink: QdrantSink,
    status: int,
    words: str,
    to_upsert: type[ConnectorError],
    to_others: type[ConnectorError],
) -> None:
    calls: Sequence[tuple[Callable[[], object], type[ConnectorError]]] = (
        (partial(sink.upsert, [record()]), to_upsert),
        (partial(sink.delete, [record().id]), to_others),
        (lambda: list(sink.scan()), to_others),
        (partial(sink.search, VECTORS[0], 1), to_others),
        (sink.count, to_others),
        (sink.live, to_others),
        (partial(sink.prepare, DIMENSION), to_others),
        (partial(sink.check, DIMENSION), to_others),
    )
    for call, expected in calls:
        server.faults.answer(status, words)
        with pytest.raises(ConnectorError) as caught:
            call()
        assert type(caught.value) is expected
        assert words in str(caught.value)
        assert str(status) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert KEY not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert server.faults.pending == []


@pytest.mark.parametrize("status, wait, expected", [(429, "7", 7), (429, "1.5", 1.5), (429, "", None), (503, "9", 9)])
def test_the_wait_that_is_named_is_kept(
    server: QdrantServer, sink: QdrantSink, status: int, wait: str, expected: float | None
) -> None:
    for call in (partial(sink.upsert, [record()]), partial(sink.delete, [record().id]), sink.count):
        server.faults.answer(status, "slow down", retry_after=wait)
        with pytest.raises(TransientError) as caught:
            call()
        assert caught.value.retry_after_seconds == expected


def test_a_lost_answer_is_no_lost_record(server: QdrantServer, sink: QdrantSink, raw: QdrantClient) -> None:
    server.faults.lose(path=UPSERTS)
    with pytest.raises(TransientError):
        sink.upsert([record()])
    sink.upsert([record()])
    assert list(ours(raw, "docs@1")) == [record().id]
    server.faults.lose(path=DELETIONS)
    with pytest.raises(TransientError):
        sink.delete([record().id])
    sink.delete([record().id])
    assert sink.count() == 0


def test_a_broken_connection_and_half_a_call_may_pass(server: QdrantServer, sink: QdrantSink) -> None:
    server.faults.reset(path=UPSERTS)
    server.faults.tear(path=UPSERTS)
    for _ in range(2):
        with pytest.raises(TransientError):
            sink.upsert([record(), record("more")])
    sink.upsert([record(), record("more")])
    assert sink.count() == 2


def test_a_server_that_says_nothing_is_not_waited_for_for_ever(server: QdrantServer, raw: QdrantClient) -> None:
    made = at(server, timeout_seconds=1)
    made.prepare(DIMENSION)
    server.faults.hang(path=UPSERTS)
    with pytest.raises(TransientError, match="timed out"):
        made.upsert([record()])
    server.faults.release()
    made.close()


@pytest.mark.parametrize("status", ["acknowledged", "wait_timeout"])
def test_what_is_not_yet_applied_is_not_done(server: QdrantServer, sink: QdrantSink, status: str) -> None:
    for call in (partial(sink.upsert, [record()]), partial(sink.delete, [record().id])):
        server.faults.say(status, path=rf"{UPSERTS}|{DELETIONS}")
        with pytest.raises(TransientError, match=status):
            call()


def test_a_server_that_is_not_there_may_come_back() -> None:
    with QdrantServer() as gone:
        made = at(gone)
    for call in (partial(made.check, DIMENSION), partial(made.upsert, [record()]), made.count):
        with pytest.raises(TransientError, match="Qdrant server at http://127"):
            call()
    made.close()


def test_a_service_that_is_not_qdrant_is_the_operators_to_mend() -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Please log in</html>")

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as page:
        thread = Thread(target=page.serve_forever, args=(0.01,))
        thread.start()
        made = build(QdrantSettings(url=f"http://127.0.0.1:{page.server_port}"))
        try:
            for call in (partial(made.check, DIMENSION), made.live):
                with pytest.raises(SinkError, match="not Qdrant's"):
                    call()
        finally:
            page.shutdown()
            thread.join()
            made.close()


def test_an_answer_of_another_shape_and_a_bad_certificate_do_not_pass() -> None:
    with pytest.raises(ValidationError) as shape:
        models.CountResult.model_validate({"count": "many"})
    certificate = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    for source in (shape.value, certificate):
        failure = ResponseHandlingException(source)
        assert type(explained(failure, "it")) is SinkError
        assert type(explained(failure, "it", upserts=True)) is SinkError
    assert explained(ResponseHandlingException(RuntimeError("a bug")), "it") is None
    assert explained(RuntimeError("a bug"), "it") is None


def test_a_poisoned_record_is_rejected_in_the_servers_words(server: QdrantServer, sink: QdrantSink) -> None:
    server.faults.poison("bad", words="Wrong input: that one")
    with pytest.raises(RejectedError, match="Wrong input: that one"):
        sink.upsert([record("good"), record("bad")])
    sink.upsert([record("good")])
    assert sink.count() == 1


def test_a_collection_that_was_removed_meanwhile_is_the_sinks_failure(sink: QdrantSink, raw: QdrantClient) -> None:
    raw.delete_collection("docs@1")
    for call in (partial(sink.upsert, [record()]), partial(sink.delete, [record().id])):
        with pytest.raises(SinkError, match="docs@1"):
            call()
    sink.close()
    with pytest.raises(SinkError, match="never prepared"):
        sink.upsert([record()])
    assert (list(sink.scan()), sink.count(), sink.search(VECTORS[0], 1)) == ([], 0, [])


def test_a_wrong_key_is_told_by_check_and_a_missing_one_too(server: QdrantServer) -> None:
    for key in ("canary-other", None):
        made = build(QdrantSettings.model_validate({"url": server.url, "api_key": key}))
        with pytest.raises(SinkError, match="401") as caught:
            made.check(DIMENSION)
        assert "canary" not in str(caught.value)
        assert "canary" not in repr(made) + repr(vars(made))
        made.close()


# --- records ----------------------------------------------------------------------------------------


def test_vectors_are_sent_short_and_read_back_bit_for_bit(server: QdrantServer, raw: QdrantClient) -> None:
    made = at(server, distance="dot", collection="wide")
    made.prepare(384)
    random = np.random.default_rng(5).standard_normal((50, 384)).astype(np.float32)
    extremes = np.array([3.4028235e38, 1.1754944e-38, 1e-45, -0.0, 0.1, 16777217.0] * 64, dtype=np.float32)
    vectors = [*random, extremes]
    made.upsert([record(index=index, vector=vector) for index, vector in enumerate(vectors)])
    read = {each.index: each.vector for each in made.scan(Detail.VECTORS) if isinstance(each, StoredRecord)}
    for index, vector in enumerate(vectors):
        np.testing.assert_array_equal(read[index], vector)
    sent = next(seen for seen in reversed(server.seen) if seen.route == "PUT /collections/{name}/points")
    assert sent.size_bytes / (51 * 384) < 13  # as doubles, more than 20 bytes each
    made.close()


def test_a_record_too_large_for_a_request_does_not_fit_and_is_never_sent(
    server: QdrantServer, sink: QdrantSink
) -> None:
    large = record(text="x" * 33_000_000)
    escaped = record(text="\0" * 6_000_000)
    fitting = record("fitting", text="x" * 16_000_000)
    for each in (large, escaped):
        assert "larger than a request" in (sink.fit(Draft(each.document_id, ("", each.text), {})).refusal or "")
        before = server.calls.total()
        with pytest.raises(RejectedError):
            sink.upsert([each])
        assert server.calls.total() == before
    assert sink.fit(Draft(fitting.document_id, (fitting.text,), {})) == FITS
    with pytest.raises(RejectedError):
        sink.upsert([fitting, record("more", text="x" * 17_000_000)])  # to be sent one by one
    sink.upsert([fitting])
    assert sink.count() == 1


@pytest.mark.parametrize("bad", [0.5, -1.0, 256.0])
def test_numbers_that_uint8_would_cut_are_rejected(bad: float) -> None:
    made = in_process(datatype="uint8", distance="dot")
    made.upsert([record(vector=np.array([0, 1, 254, 255], dtype=np.float32))])
    with pytest.raises(RejectedError, match="uint8"):
        made.upsert([record(vector=np.array([0, 1, 2, bad], dtype=np.float32))])


def test_numbers_that_float16_would_make_infinite_are_rejected() -> None:
    made = in_process(datatype="float16", distance="dot")
    made.upsert([record(vector=np.array([0, 1, 2, 65504], dtype=np.float32))])
    with pytest.raises(RejectedError, match="float16"):
        made.upsert([record(vector=np.array([0, 1, 2, -65505], dtype=np.float32))])


def test_a_point_without_our_vector_is_foreign_where_vectors_are_asked_for(
    server: QdrantServer, raw: QdrantClient
) -> None:
    raw.create_collection("docs", vectors_config={"body": COSINE, "title": COSINE})
    made = at(server, vector="body")
    made.prepare(DIMENSION)
    made.upsert([record("whole"), record("hollow")])
    hollow = str(made._format.point_id(record("hollow").id))
    raw.delete_vectors("docs", ["body"], [hollow])
    assert {type(each) for each in made.scan(Detail.CONTENTS)} == {StoredRecord}
    assert [each for each in made.scan(Detail.VECTORS) if isinstance(each, ForeignRecord)] == [
        ForeignRecord(hollow, OWNER)
    ]
    made.close()


def test_points_with_numbers_for_ids_are_foreign(sink: QdrantSink, raw: QdrantClient) -> None:
    theirs = models.PointStruct(id=2**64 - 1, vector=VECTORS[0].tolist(), payload=None)
    copied = point(UUID(int=1), VECTORS[0], "", sink._format.payload(record()))
    raw.upsert("docs@1", [theirs, copied])
    names = {each.name: each.owner for each in sink.scan() if isinstance(each, ForeignRecord)}
    assert names == {str(2**64 - 1): None, str(UUID(int=1)): OWNER}
    assert sink.search(VECTORS[0], 5) == []


def test_a_scan_reads_page_by_page(sink: QdrantSink, server: QdrantServer) -> None:
    records = [record(index=index) for index in range(600)]
    for start in range(0, 600, 200):
        sink.upsert(records[start : start + 200])
    before = server.calls["POST /collections/{name}/points/scroll"]
    assert len({each.id for each in sink.scan(Detail.VECTORS) if isinstance(each, StoredRecord)}) == 600
    assert server.calls["POST /collections/{name}/points/scroll"] - before == 3


@pytest.mark.parametrize("where", ["in process", "over HTTP"])
def test_calls_may_be_made_from_several_threads(server: QdrantServer, raw: QdrantClient, where: str) -> None:
    made = in_process() if where == "in process" else at(server, concurrent_calls=4)
    made.prepare(DIMENSION)
    calls = [[record(f"doc {number}", index) for index in range(20)] for number in range(12)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(made.upsert, calls))
        list(threads.map(made.delete, [[call[0].id] for call in calls]))
    assert made.count() == 12 * 19
    made.close()


def test_the_client_in_process_is_called_by_one_thread_at_a_time() -> None:
    class Meeting(KeptClient):
        both = Barrier(2)
        met = False

        def upsert(self, *args: Any, **kwargs: Any) -> models.UpdateResult:
            with suppress(BrokenBarrierError):
                self.both.wait(timeout=0.2)
                self.met = True
            return super().upsert(*args, **kwargs)

    raw = Meeting()
    made = build(QdrantSettings(url=":memory:"), raw)
    made.prepare(DIMENSION)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(made.upsert, [[record("a")], [record("b")]]))
    assert (made.count(), raw.met) == (2, False)


def test_connections_are_kept_between_calls(server: QdrantServer, raw: QdrantClient) -> None:
    made = at(server)
    made.prepare(DIMENSION)
    pool = made._server._connected()._client.openapi_client.client._client._transport._pool  # type: ignore[attr-defined]
    assert len(pool.connections) == 1
    made.close()
    assert pool.connections == []
    assert made.count() == 0  # it connects anew
    made.close()


# --- generations ------------------------------------------------------------------------------------


def test_readers_who_ask_for_the_alias_get_the_live_generation(
    server: QdrantServer, sink: QdrantSink, raw: QdrantClient
) -> None:
    sink.upsert([record("old")])
    new = at(server, generation=2)
    new.prepare(DIMENSION + 1)
    new.upsert([record("new", vector=np.ones(DIMENSION + 1, dtype=np.float32))])
    assert list(ours(raw, "docs")) == [record("old").id]
    before = server.calls["POST /collections/aliases"]
    new.make_live()
    assert server.calls["POST /collections/aliases"] - before == 1
    assert list(ours(raw, "docs")) == [record("new").id]
    sink.make_live()
    assert list(ours(raw, "docs")) == [record("old").id]
    new.close()


def test_a_client_is_told_the_collection_of_its_generation(server: QdrantServer, sink: QdrantSink) -> None:
    new = at(server, generation=2)
    new.prepare(DIMENSION)
    new.make_live()
    assert sink.address() == {"collection": "docs@1", "alias": "docs"}
    assert new.address() == {"collection": "docs@2", "alias": "docs"}
    new.close()


def test_a_switch_whose_answer_is_lost_is_made_once(server: QdrantServer, sink: QdrantSink) -> None:
    new = at(server, generation=2)
    new.prepare(DIMENSION)
    server.faults.lose(path="/collections/aliases")
    with pytest.raises(TransientError):
        new.make_live()
    assert new.live() == 2
    new.make_live()
    assert sink.live() == 2
    new.close()


def test_a_generation_with_records_of_others_is_not_dropped(
    server: QdrantServer, sink: QdrantSink, raw: QdrantClient
) -> None:
    new = at(server, generation=2)
    new.prepare(DIMENSION)
    new.make_live()
    other = at(server, owner="another sync")
    other.prepare(DIMENSION)
    other.upsert([record()])
    with pytest.raises(ConfigError, match="holds 1 points that are not of the sync"):
        sink.drop()
    other.delete([record().id])
    sink.drop()
    assert not raw.collection_exists("docs@1")
    for each in (new, other):
        each.close()


def test_names_that_only_look_like_generations_are_not_ours(server: QdrantServer, raw: QdrantClient) -> None:
    for name in ("docs@0", "docs@01", "docs@x", "docs2@1"):
        raw.create_collection(name, vectors_config=COSINE)
        alias = models.CreateAlias(collection_name=name, alias_name="docs")
        raw.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
        made = at(server)
        with pytest.raises(ConfigError, match="did not name"):
            made.live()
        made.close()


# --- filters ----------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.sampled_from(["", "a", "b", "1", "True"]),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, -0.0, 1.0, 2.5, 2**53, 2**53 + 1, -(2**63), 2**64 - 1, 1e300, 5e-324]),
)
VALUES = st.one_of(
    SCALARS, st.none(), st.lists(st.one_of(SCALARS, st.none(), st.lists(SCALARS, max_size=2)), max_size=3)
)
NAMES = st.sampled_from(["f", "a.b", "a[0]", "with space", 'quo"te', "back\\slash", "größe"])
BOUNDS = st.one_of(st.none(), st.integers(-3, 3), st.sampled_from([0.5, -0.5, 2.0**53, 1e300, float("inf")]))
CONDITIONS = st.one_of(
    st.builds(Equals, NAMES, SCALARS),
    st.builds(AnyOf, NAMES, st.lists(SCALARS, max_size=3).map(tuple)),
    st.builds(Between, NAMES, BOUNDS, BOUNDS, BOUNDS, BOUNDS),
)


@pytest.fixture(scope="module")
def found_in() -> QdrantSink:
    return in_process()


@settings(deadline=None)
@given(
    kept=st.lists(st.dictionaries(NAMES, VALUES, max_size=3), min_size=1, max_size=6),
    where=st.lists(CONDITIONS, max_size=2),
)
def test_a_search_finds_what_the_conditions_say(
    found_in: QdrantSink, kept: Sequence[Metadata], where: Sequence[Condition]
) -> None:
    records: list[EmbeddedRecord] = [record(f"doc {number}", metadata=each) for number, each in enumerate(kept)]
    found_in.upsert(records)
    found = sorted(hit.id for hit in found_in.search(VECTORS[0], len(records), where))
    found_in.delete([each.id for each in records])
    assert found == [each.id for each in records if matches(each.metadata, where)]
