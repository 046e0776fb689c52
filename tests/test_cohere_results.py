"""Results: records read from Avro parts as they arrive, whatever becomes of the connection, and files made of them."""

from __future__ import annotations

import csv
import io
import json
import logging
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fastavro
import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from embedjobs_service import in_thread
from fault_proxy import Answer, Cut, Drip, Drop, FaultProxy, Seen
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from connector.cohere import Cohere, LinkRefusedError, NotFoundError, Record, Timeouts, read_part, records
from connector.cohere.avro import AvroFile, CutShortError, UnreadableError
from connector.cohere.outputs import check_output, write_records
from connector.cohere.waiting import Patience, wait_for_dataset, wait_for_job
from connector.decimals import shortest
from connector.errors import ConfigError, RejectedError, TransientError
from connector.events import CallRetried, Event
from connector.retry import Retry

CANARY = "canary-0d41c2"
AT_ONCE = Retry(sleep=lambda _seconds: None)
DATASET, PARTS = "/v1/datasets/d", "/parts/.*"
TYPES = {"float": "float", "int8": "int", "uint8": "int", "binary": "int", "ubinary": "int"}
EMBEDDINGS = {
    "type": "record",
    "name": "embeddings",
    "fields": [
        {"name": name, "type": ["null", {"type": "array", "items": items}], "default": None}
        for name, items in TYPES.items()
    ],
}
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "row",
    "fields": [
        {"name": "text", "type": "string"},
        {"name": "embeddings", "type": EMBEDDINGS},
        {"name": "id", "type": "long"},
        {"name": "langs", "type": ["null", "long"], "default": None},
    ],
}
DIMENSION = 16


def row(number: int, **vectors: Sequence[float]) -> dict[str, Any]:
    floats = np.random.default_rng(number).standard_normal(DIMENSION).astype(np.float32).tolist()
    return {
        "text": f"text {number} ä",
        "embeddings": vectors or {"float": floats, "int8": [-128, 127, number % 100], "ubinary": [255, 0]},
        "id": number,
        "langs": number if number % 2 else None,
    }


def avro(
    rows: Sequence[Mapping[str, Any]], schema: object = SCHEMA, *, block_bytes: int = 200, codec: str = "null"
) -> bytes:
    file = io.BytesIO()
    parsed: Any = fastavro.parse_schema(json.loads(json.dumps(schema)))
    fastavro.writer(file, parsed, rows, codec=codec, sync_interval=block_bytes)
    return file.getvalue()


def blocks_of(raw: bytes) -> int:
    return sum(1 for _ in fastavro.block_reader(io.BytesIO(raw)))


class Store:
    """A dataset `d` and its parts behind links that can be made to expire; with ranges, if it is to have them."""

    def __init__(self, proxy: FaultProxy, *parts: bytes, ranges: bool = True, **more: Any) -> None:
        self.proxy = proxy
        self.parts = parts
        self.ranges = ranges
        self.sent_bytes = 0
        self.valid = 0  # the number of the signature that works
        self.listed: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda parts: parts
        self._more = more
        proxy.serve("GET", DATASET, self._dataset)
        proxy.serve("GET", PARTS, self._part)

    def expire(self) -> None:
        """Have the links given so far refused."""
        self.valid += 1

    def _dataset(self, _: Seen) -> Answer:
        parts = [
            {
                "id": f"p{index}",
                "index": index,
                "url": f"{self.proxy.url}/parts/{index}.avro?sig={self.valid}",
                **self._more,
            }
            for index in range(len(self.parts))
        ]
        dataset = {"id": "d", "validation_status": "validated", "dataset_parts": self.listed(parts)}
        return Answer.of({"dataset": dataset})

    def _part(self, seen: Seen) -> Answer:
        if dict(seen.query)["sig"] != str(self.valid):
            return Answer(403, b"<Error><Code>ExpiredToken</Code></Error>", {"Content-Type": "application/xml"})
        raw = self.parts[int(seen.path.removeprefix("/parts/").removesuffix(".avro"))]
        start = int(seen.headers["range"].removeprefix("bytes=").removesuffix("-")) if "range" in seen.headers else 0
        if not self.ranges or not start:
            self.sent_bytes += len(raw)
            return Answer(200, raw)
        if start >= len(raw):
            return Answer(416)
        self.sent_bytes += len(raw) - start
        return Answer(206, raw[start:], {"Content-Range": f"bytes {start}-{len(raw) - 1}/{len(raw)}"})


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[FaultProxy, Cohere]]:
    with FaultProxy() as proxy, Cohere(proxy.url, SecretStr(CANARY)) as client:
        yield proxy, client


@pytest.fixture
def proxy(shared: tuple[FaultProxy, Cohere]) -> FaultProxy:
    shared[0].clear()
    return shared[0]


@pytest.fixture
def client(shared: tuple[FaultProxy, Cohere]) -> Cohere:
    return shared[1]


def ids(found: Iterator[Record]) -> list[object]:
    return [record.metadata["id"] for record in found]


# --- records ----------------------------------------------------------------------------------------


def test_a_record_has_a_text_the_vectors_that_were_asked_for_and_the_kept_fields(
    proxy: FaultProxy, client: Cohere
) -> None:
    Store(proxy, avro([row(number) for number in range(3)]))
    for number, record in enumerate(records(client, "d")):
        written = row(number)
        assert record.text == written["text"]
        assert record.metadata == {"id": number, "langs": written["langs"]}
        dtypes = {name: vector.dtype.name for name, vector in record.embeddings.items()}
        assert dtypes == {"float": "float32", "int8": "int8", "ubinary": "uint8"}
        for name, vector in record.embeddings.items():
            np.testing.assert_array_equal(vector, written["embeddings"][name])


def test_nothing_is_asked_before_the_first_record_is_wanted(proxy: FaultProxy, client: Cohere) -> None:
    Store(proxy, avro([row(0)]))
    found = records(client, "d")
    assert proxy.seen == []
    next(found)
    found.close()
    assert next(found, None) is None


def test_parts_are_read_by_their_index_each_once_whatever_their_order(proxy: FaultProxy, client: Cohere) -> None:
    store = Store(proxy, *(avro([row(2 * part), row(2 * part + 1)]) for part in range(3)))
    orders: list[Callable[[list[dict[str, Any]]], list[dict[str, Any]]]] = [
        lambda parts: parts,
        lambda parts: parts[::-1],
        lambda parts: [*parts, *parts],
        lambda parts: [{name: it for name, it in part.items() if it != 0} for part in parts[::-1]],  # zeros left out
        lambda parts: [{name: it for name, it in part.items() if name != "index"} for part in parts],
        lambda parts: [{name: it for name, it in part.items() if name not in ("index", "id")} for part in parts],
    ]
    for store.listed in orders:
        assert ids(records(client, "d")) == list(range(6))


def test_a_part_without_records_is_no_end(proxy: FaultProxy, client: Cohere) -> None:
    Store(proxy, avro([]), avro([row(1)]), avro([]))
    assert ids(records(client, "d")) == [1]


def test_a_dataset_without_parts_is_told_with_its_status(proxy: FaultProxy, client: Cohere) -> None:
    proxy.serve("GET", DATASET, Answer.of({"dataset": {"id": "d", "validation_status": "processing"}}))
    with pytest.raises(RejectedError, match="dataset d has nothing to read; its status is processing"):
        list(records(client, "d"))


def test_the_old_key_and_an_uploaded_dataset_are_read_too(proxy: FaultProxy, client: Cohere) -> None:
    floats = {"type": "array", "items": "double"}
    old = {
        "type": "record",
        "name": "row",
        "fields": [{"name": "text", "type": "string"}, {"name": "embedding", "type": floats}],
    }
    Store(proxy, avro([{"text": "a", "embedding": [0.5, 1]}, {"text": "b", "embedding": [2, 3]}], old))
    found = list(records(client, "d"))
    assert [record.embeddings["float"].tolist() for record in found] == [[0.5, 1], [2, 3]]
    assert {record.embeddings["float"].dtype.name for record in found} == {"float32"}
    assert [record.metadata for record in found] == [{}, {}]
    proxy.clear()
    text = {
        "type": "record",
        "name": "row",
        "fields": [{"name": "text", "type": "string"}, {"name": "id", "type": "long"}],
    }
    Store(proxy, avro([{"text": "a", "id": 1}], text))
    assert list(records(client, "d")) == [Record("a", {}, {"id": 1})]


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2"])
def test_the_codecs_of_a_plain_installation_are_read(proxy: FaultProxy, client: Cohere, codec: str) -> None:
    Store(proxy, avro([row(number) for number in range(20)], codec=codec))
    assert ids(records(client, "d")) == list(range(20))


def test_another_codec_is_told_by_name(proxy: FaultProxy, client: Cohere) -> None:
    raw = avro([row(0)], codec="deflate").replace(b"\x0edeflate", b"\x0esnappyy")
    Store(proxy, raw)
    with pytest.raises(RejectedError, match="snappyy"):
        list(records(client, "d"))


def test_a_body_that_a_proxy_has_compressed_is_unpacked(proxy: FaultProxy, client: Cohere) -> None:
    import gzip

    packed = Answer(200, gzip.compress(avro([row(7)])), {"Content-Encoding": "gzip"})
    Store(proxy)
    proxy.serve("GET", "/packed", packed)
    assert ids(read_part(client, f"{proxy.url}/packed")) == [7]
    assert proxy.seen[0].headers["accept-encoding"] == "identity"


# --- interrupted ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_is_cut_anywhere_goes_on_where_it_was(proxy: FaultProxy, client: Cohere, ranges: bool) -> None:
    parts = [avro([row(number) for number in range(first, first + 12)]) for first in (0, 12)]
    assert all(blocks_of(raw) > 3 for raw in parts)
    for after_bytes in range(0, len(parts[0]), 151):
        proxy.clear()
        store = Store(proxy, *parts, ranges=ranges)
        proxy.on("GET", PARTS, Cut(after_bytes), times=2)
        assert ids(records(client, "d", retry=AT_ONCE)) == list(range(24)), after_bytes
        assert (store.sent_bytes < 3 * len(parts[0]) + len(parts[1])) or not ranges or after_bytes < 1000


def test_what_has_arrived_is_not_asked_for_again(proxy: FaultProxy, client: Cohere) -> None:
    raw = avro([row(number) for number in range(40)])
    store = Store(proxy, raw)
    proxy.on("GET", PARTS, Cut(len(raw) - 10))
    assert ids(records(client, "d", retry=AT_ONCE)) == list(range(40))
    assert store.sent_bytes < len(raw) * 1.2


def test_a_connection_that_is_lost_or_stuck_is_left_and_the_rest_read_by_another(proxy: FaultProxy) -> None:
    raw = avro([row(number) for number in range(40)])
    Store(proxy, raw)
    release = threading.Event()
    proxy.on("GET", PARTS, Drip(release))
    proxy.on("GET", PARTS, Drop())
    proxy.on("GET", DATASET, Answer(503))
    events: list[Event] = []
    with Cohere(proxy.url, None, timeouts=Timeouts(read_seconds=0.2)) as client:
        assert ids(records(client, "d", retry=AT_ONCE, emit=events.append)) == list(range(40))
    release.set()
    assert len(events) == 3
    assert len(proxy.requests("GET", DATASET)) == 4  # fresh links for each attempt
    assert all(isinstance(event, CallRetried) and event.what == "download of dataset d" for event in events)


def test_links_that_expire_while_records_are_used_are_replaced_without_a_wait(
    proxy: FaultProxy, client: Cohere
) -> None:
    store = Store(proxy, *(avro([row(2 * part), row(2 * part + 1)]) for part in range(4)))

    def fail(_seconds: float) -> None:
        raise AssertionError("a link that has expired is nothing to wait for")

    found = []
    for record in records(client, "d", retry=Retry(sleep=fail)):
        found.append(record.metadata["id"])
        store.expire()
    assert found == list(range(8))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_link_that_is_refused_again_and_again_is_told_without_its_signature(
    proxy: FaultProxy, client: Cohere, status: int
) -> None:
    Store(proxy, avro([row(0)]))
    proxy.on("GET", PARTS, Answer(status), times=None)
    with pytest.raises(LinkRefusedError, match=f"HTTP {status}, the link has expired") as raised:
        list(records(client, "d", retry=AT_ONCE))
    assert "sig=" not in str(raised.value)
    assert len(proxy.requests("GET", DATASET)) == AT_ONCE.attempts


def test_a_dataset_that_is_deleted_meanwhile_is_told(proxy: FaultProxy, client: Cohere) -> None:
    store = Store(proxy, avro([row(0)]), avro([row(1)]))
    found = records(client, "d", retry=AT_ONCE)
    next(found)
    store.expire()
    proxy.on("GET", DATASET, Answer.of({"message": "dataset with the id 'd' not found"}, 404))
    with pytest.raises(NotFoundError):
        next(found)


def test_a_dataset_whose_parts_change_meanwhile_is_told(proxy: FaultProxy, client: Cohere) -> None:
    store = Store(proxy, avro([row(0)]), avro([row(1)]))
    found = records(client, "d", retry=AT_ONCE)
    next(found)
    store.expire()
    store.listed = lambda parts: parts[:1]
    with pytest.raises(RejectedError, match="not what it was"):
        next(found)


def test_fewer_or_more_records_than_told_are_told(proxy: FaultProxy, client: Cohere) -> None:
    Store(proxy, avro([row(0), row(1)]), num_rows=2)
    assert ids(records(client, "d")) == [0, 1]
    proxy.clear()
    Store(proxy, avro([row(0), row(1)]), num_rows=1)
    with pytest.raises(RejectedError, match="has 2 records, and should have 1"):
        list(records(client, "d"))
    proxy.clear()
    Store(proxy, avro([row(0), row(1)]), num_rows=3)
    events: list[Event] = []
    with pytest.raises(TransientError, match="shorter than it should be"):
        list(records(client, "d", retry=AT_ONCE, emit=events.append))
    assert "part 1 of dataset d ended after 2 of 3 records" in str(events[0])


def test_a_store_that_is_down_is_a_passing_failure_and_its_wait_is_kept(proxy: FaultProxy, client: Cohere) -> None:
    Store(proxy, avro([row(0)]))
    waits: list[float] = []
    proxy.on("GET", PARTS, Answer(429, headers={"Retry-After": "9"}))
    assert ids(records(client, "d", retry=Retry(sleep=waits.append))) == [0]
    assert waits == [9.0]


@pytest.mark.parametrize("body", [b"<html>", b"<html>" * 100, b"x" * 5000, b"Obj\x02" + avro([row(0)])[4:]])
def test_what_is_no_avro_file_is_told_at_once(proxy: FaultProxy, client: Cohere, body: bytes) -> None:
    Store(proxy, body)
    with pytest.raises(RejectedError, match="dataset d cannot be read as an Avro file"):
        list(records(client, "d"))


@pytest.mark.parametrize("size", [0, 1, 4, 20])
def test_less_than_a_header_is_a_download_that_broke(proxy: FaultProxy, client: Cohere, size: int) -> None:
    Store(proxy, avro([row(0)])[:size])
    with pytest.raises(TransientError, match="dataset d ended too early"):
        list(records(client, "d", retry=AT_ONCE))


def test_stopping_early_lets_the_connection_go(proxy: FaultProxy, client: Cohere) -> None:
    Store(proxy, avro([row(number) for number in range(400)]))

    def open_connections() -> int:
        pool = client._exchange._http._transport._pool  # type: ignore[attr-defined]
        return sum(not (connection.is_idle() or connection.is_closed()) for connection in pool.connections)

    with records(client, "d") as found:
        next(found)
        assert open_connections() == 1
    assert open_connections() == 0
    left = records(client, "d")
    next(left)
    del left
    assert open_connections() == 0
    part = read_part(client, client.dataset("d").parts[0].url)
    next(part)
    part.close()
    assert open_connections() == 0


# --- links ------------------------------------------------------------------------------------------


def test_the_key_never_goes_to_a_link_and_its_signature_never_into_a_log(
    proxy: FaultProxy, client: Cohere, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = Store(proxy, avro([row(0)]))
    proxy.serve("GET", "/moved", Answer(302, headers={"Location": "/parts/0.avro?sig=0"}))
    assert ids(read_part(client, f"{proxy.url}/moved?sig=0")) == [0]
    assert ids(read_part(client, "/parts/0.avro?sig=0")) == [0]  # a relative link starts at the service
    assert ids(records(client, "d")) == [0]
    store.expire()
    with pytest.raises(LinkRefusedError):
        list(read_part(client, f"{proxy.url}/parts/0.avro?sig=0"))
    assert [seen.path for seen in proxy.seen if "authorization" in seen.headers] == [DATASET]
    assert "HTTP Request" in caplog.text
    assert "sig=" not in caplog.text
    assert CANARY not in caplog.text


def test_redirects_of_a_link_stay_what_they_were_and_end(proxy: FaultProxy, client: Cohere) -> None:
    for number, to in enumerate(("https://127.0.0.1/x", "file:///etc/passwd", "ftp://127.0.0.1/")):
        proxy.serve("GET", f"/{number}", Answer(302, headers={"Location": to}))
        with pytest.raises(ConfigError, match=f"leads from http to {to.partition(':')[0]}"):
            next(read_part(client, f"{proxy.url}/{number}"))
    proxy.serve("GET", "/round", Answer(302, headers={"Location": "/round"}))
    with pytest.raises(ConfigError, match="redirects"):
        next(read_part(client, f"{proxy.url}/round"))


@pytest.mark.parametrize("link", ["", "parts/0", "file:///etc/passwd", "ftp://a/b", "http://", "http:x", "data:,x"])
def test_a_link_that_is_no_web_address_is_refused(client: Cohere, link: str) -> None:
    with pytest.raises(ConfigError):
        next(read_part(client, link))


def test_a_result_does_not_come_in_the_clear_from_a_service_that_is_reached_by_https() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, content=avro([row(3)]))

    with Cohere("https://a", SecretStr(CANARY), transport=httpx.MockTransport(answer)) as client:
        with pytest.raises(ConfigError, match="public URL"):
            next(read_part(client, "http://a/part"))
        assert asked == []
        assert ids(read_part(client, "https://b/part")) == [3]
    assert "authorization" not in asked[0].headers


# --- Avro -------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
floats32 = st.floats(width=32, allow_nan=False)


@settings(deadline=None)
@given(
    vectors=st.lists(
        st.none() | st.integers(0, 3).flatmap(lambda size: st.lists(floats32, min_size=size, max_size=size)),
        min_size=1,
        max_size=12,
    ),
    items=st.sampled_from(["float", "double"]),
    block_bytes=st.integers(1, 60),
)
def test_vectors_that_are_taken_whole_are_those_that_fastavro_reads_one_by_one(
    vectors: list[list[float] | None], items: str, block_bytes: int
) -> None:
    kind = ["null", {"type": "array", "items": items}]
    of_all = {
        "type": "record",
        "name": "embeddings",
        "fields": [{"name": name, "type": kind} for name in ("float", "more")],
    }
    fields = [{"name": "text", "type": "string"}, {"name": "embeddings", "type": of_all}, {"name": "n", "type": "long"}]
    rows = [
        {"text": "x" * number, "embeddings": {"float": vector, "more": vectors[-1 - number]}, "n": number}
        for number, vector in enumerate(vectors)
    ]
    raw = avro(rows, {"type": "record", "name": "row", "fields": fields}, block_bytes=block_bytes)
    file = AvroFile([raw])
    found: list[dict[str, Any]] = []
    while (block := file.next_block()) is not None:
        found += list(block)
    for made, expected in zip(found, fastavro.reader(io.BytesIO(raw)), strict=True):
        plain = {name: None if it is None else list(it) for name, it in made["embeddings"].items()}
        assert made | {"embeddings": plain} == expected


def test_a_vector_that_is_written_in_two_pieces_is_read_whole() -> None:
    floats = {"type": "array", "items": "float"}
    fields = [{"name": "text", "type": "string"}, {"name": "embedding", "type": floats}]
    head = avro([], {"type": "record", "name": "row", "fields": fields})
    one, two = np.float32(1).tobytes(), np.float32(2).tobytes()
    whole = b"\x02a" + b"\x04" + one + two + b"\x00"  # "a", an array of 2 and no more
    pieces = b"\x02b" + b"\x04" + one + two + b"\x02" + two + b"\x00"  # "b", 2 and then 1 more
    rows = whole + pieces + whole
    file = AvroFile([head, bytes((2 * 3, 2 * len(rows))), rows, head[-16:]])
    block = file.next_block()
    assert block is not None
    assert [(row["text"], list(row["embedding"])) for row in block] == [("a", [1, 2]), ("b", [1, 2, 2]), ("a", [1, 2])]


ONE_FILE = avro([row(number) for number in range(6)], codec="null")


@settings(deadline=None)
@given(st.data())
def test_damage_is_told_and_never_taken_for_a_bug(data: st.DataObject) -> None:
    raw = bytearray(ONE_FILE)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    try:
        file = AvroFile([bytes(raw)])
        while (block := file.next_block()) is not None:
            list(block)
    except (CutShortError, UnreadableError):
        pass


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_the_pieces_in_which_a_file_comes_do_not_matter(sizes: list[int]) -> None:
    pieces: list[bytes] = []
    at = 0
    while at < len(ONE_FILE):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(ONE_FILE[at : at + size])
        at += size
    file = AvroFile(pieces)
    found = []
    while (block := file.next_block()) is not None:
        found += [row["id"] for row in block]
    assert found == list(range(6))
    assert file.position == len(ONE_FILE)


def test_memory_does_not_grow_with_a_file() -> None:
    head, _, _ = avro([]).partition(b"nothing")
    block = avro([row(number) for number in range(200)], block_bytes=1 << 20)[len(head) :]
    sync = head[-16:]
    block = block[:-16] + sync

    def pieces(blocks: int) -> Iterator[bytes]:
        yield head
        for _ in range(blocks):
            yield block

    def peak_bytes(blocks: int) -> int:
        tracemalloc.start()
        try:
            file = AvroFile(pieces(blocks))
            count = 0
            while (found := file.next_block()) is not None:
                count += sum(1 for _ in found)
            assert count == 200 * blocks
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(1)
    assert peak_bytes(60) < 2 * peak_bytes(3)


# --- files of one's own -----------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(floats32 | st.floats(width=32, allow_nan=True), max_size=60))
def test_floats_are_written_as_short_as_numpy_writes_them(numbers: list[float]) -> None:
    exact = np.array(numbers, np.float32)
    for number, short in zip(exact, shortest(exact).tolist(), strict=True):
        assert str(short) == str(float(str(number)))


def test_floats_of_all_sizes_are_written_as_short_as_numpy_writes_them() -> None:
    bits = np.random.default_rng(5).integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32)
    odd = np.array([9.85307e-10, -9.79135e-07, 0.1, 1e-45, 3.4e38, 16777216, -0.0], np.float32)
    exact = np.concatenate((bits[np.isfinite(bits)], odd))
    assert shortest(exact).tolist() == [float(str(number)) for number in exact]


KEPT: Sequence[Mapping[str, Any]] = (
    {"id": 1, "name": 'a "quoted", ä\nline', "score": 0.1, "ok": True, "tags": ["x", "é"], "more": {"a": 1}, "any": 7},
    {"id": None, "name": "", "score": 1e300, "ok": None, "tags": [], "more": {}, "any": "seven"},
)
KEPT_SCHEMA = {
    "type": "record",
    "name": "row",
    "fields": [
        *SCHEMA["fields"][:2],
        {"name": "id", "type": ["null", "long"]},
        {"name": "name", "type": "string"},
        {"name": "score", "type": "double"},
        {"name": "ok", "type": ["null", "boolean"]},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "more", "type": {"type": "map", "values": "long"}},
        {"name": "any", "type": ["null", "long", "string"]},
    ],
}
VECTORS: Mapping[str, Sequence[float]] = {
    "float": [0.1, -0.5],
    "int8": [-128, 127],
    "uint8": [0, 255],
    "binary": [-3],
    "ubinary": [250],
}


def written(proxy: FaultProxy, client: Cohere, path: Path, raw: bytes, **options: Any) -> Path:
    Store(proxy, raw)
    with records(client, "d") as found:
        write_records(found, path, **{"replace": False} | options)
    assert list(path.parent.iterdir()) == [path]
    return path


def kept_rows() -> bytes:
    return avro([{"text": f"text {n} ä\n", "embeddings": VECTORS, **kept} for n, kept in enumerate(KEPT)], KEPT_SCHEMA)


def test_jsonl_has_an_object_a_line_and_short_floats(proxy: FaultProxy, client: Cohere, tmp_path: Path) -> None:
    lines = written(proxy, client, tmp_path / "out.jsonl", kept_rows()).read_text("utf-8").split("\n")
    assert lines.pop() == ""
    expected = [{"text": f"text {n} ä\n", "embeddings": VECTORS, **kept} for n, kept in enumerate(KEPT)]
    assert [json.loads(line) for line in lines] == expected
    assert lines[0].startswith('{"text":"text 0 ä\\n","embeddings":{"float":[0.1,-0.5],"int8":[-128,127],')


def test_csv_is_read_back_by_any_reader_with_objects_as_json(proxy: FaultProxy, client: Cohere, tmp_path: Path) -> None:
    path = written(proxy, client, tmp_path / "out.csv", kept_rows())
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, strict=True)
    assert header == ["text", "embeddings", *KEPT[0]]
    assert [json.loads(row[1]) for row in rows] == [VECTORS, VECTORS]
    assert rows[0][0] == "text 0 ä\n"
    assert rows[0][2:] == ["1", KEPT[0]["name"], "0.1", "true", '["x","é"]', '{"a":1}', "7"]
    assert rows[1][2:] == ["", "", "1e300", "", "[]", "{}", "seven"]


def test_parquet_has_typed_columns(proxy: FaultProxy, client: Cohere, tmp_path: Path) -> None:
    table = pq.read_table(written(proxy, client, tmp_path / "out.parquet", kept_rows()))
    assert {field.name: str(field.type) for field in table.schema} == {
        "text": "string",
        "embeddings.float": "fixed_size_list<element: float>[2]",
        "embeddings.int8": "fixed_size_list<element: int8>[2]",
        "embeddings.uint8": "fixed_size_list<element: uint8>[2]",
        "embeddings.binary": "fixed_size_list<element: int8>[1]",
        "embeddings.ubinary": "fixed_size_list<element: uint8>[1]",
        "id": "int64",
        "name": "string",
        "score": "double",
        "ok": "bool",
        "tags": "list<element: string>",
        "more": "map<string, int64 ('more')>",
        "any": "string",
    }
    for n, row in enumerate(table.to_pylist(maps_as_pydicts="strict")):
        assert row["text"] == f"text {n} ä\n"
        assert {name: row[name] for name in KEPT[n] if name != "any"} == {
            k: v for k, v in KEPT[n].items() if k != "any"
        }
        assert row["any"] == json.dumps(KEPT[n]["any"])
        np.testing.assert_array_equal(
            np.array(row["embeddings.float"], np.float32), np.array(VECTORS["float"], np.float32)
        )


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_a_result_of_no_records_is_a_file_of_no_records(
    proxy: FaultProxy, client: Cohere, tmp_path: Path, name: str
) -> None:
    path = written(proxy, client, tmp_path / name, avro([], KEPT_SCHEMA), expected=0)
    if name.endswith(".parquet"):
        table = pq.read_table(path)
        assert (table.num_rows, table.column_names) == (0, ["text", *KEPT[0]])
    else:
        assert path.read_bytes() == {"out.jsonl": b"", "out.csv": b"text,embeddings\r\n"}[name]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_many_records_are_all_written_in_order(proxy: FaultProxy, client: Cohere, tmp_path: Path, name: str) -> None:
    counts: list[int] = []
    raw = avro([row(number) for number in range(300)], block_bytes=5000)
    path = written(proxy, client, tmp_path / name, raw, expected=300, on_written=counts.append)
    assert counts[-1] == 300
    if name.endswith(".parquet"):
        table = pq.read_table(path)
        found, vectors = table["id"].to_pylist(), table["embeddings.float"].to_pylist()
    elif name.endswith(".csv"):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found = [int(each["id"]) for each in rows]
        vectors = [json.loads(each["embeddings"])["float"] for each in rows]
    else:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found, vectors = [line["id"] for line in lines], [line["embeddings"]["float"] for line in lines]
    assert found == list(range(300))
    expected = np.array([row(number)["embeddings"]["float"] for number in range(300)], np.float32)
    np.testing.assert_array_equal(np.array(vectors, np.float32), expected)


def test_a_file_is_there_when_it_is_whole_and_not_before(proxy: FaultProxy, client: Cohere, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for broken in (avro([row(0)]) + b"x", avro([row(0), row(1)])):
        with pytest.raises((RejectedError, TransientError)):
            written(proxy, client, path, broken, expected=1)
        assert list(tmp_path.iterdir()) == []
        proxy.clear()
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        written(proxy, client, path, avro([row(0)]))
    assert path.read_text() == "mine"
    written(proxy, client, path, avro([row(0)]), replace=True)
    assert json.loads(path.read_text())["id"] == 0


def test_an_output_that_cannot_be_is_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "there.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    for name, told in {
        "out.txt": "should end in .jsonl, .csv or .parquet",
        "nowhere/out.csv": "its folder is not there",
        "folder.csv": "it is a folder",
        "there.csv": "say --force",
    }.items():
        with pytest.raises(ConfigError, match=told):
            check_output(tmp_path / name, replace=False)
    check_output(tmp_path / "there.csv", replace=True)
    check_output(tmp_path / "OUT.JSONL", replace=False)


def test_vectors_of_several_lengths_fit_jsonl_and_are_refused_for_parquet(
    proxy: FaultProxy, client: Cohere, tmp_path: Path
) -> None:
    raw = avro([row(0, float=[1.0]), row(1, float=[1.0, 2.0]), row(2, int8=[1])])
    lines = written(proxy, client, tmp_path / "out.jsonl", raw).read_text().splitlines()
    vectors = [json.loads(line)["embeddings"] for line in lines]
    assert vectors == [{"float": [1]}, {"float": [1, 2]}, {"int8": [1]}]
    with pytest.raises(RejectedError, match="Parquet"):
        written(proxy, client, tmp_path / "out.parquet", raw)


def test_results_of_the_self_hosted_service_are_read_with_ranges(tmp_path: Path) -> None:
    content = "".join(json.dumps({"text": f"text {number}", "id": number}) + "\n" for number in range(2000))
    waits = Patience(waits_seconds=(0.01,))
    with in_thread(tmp_path) as service, FaultProxy(service.url) as proxy, Cohere(proxy.url, None) as client:
        id = client.create_dataset(io.BytesIO(content.encode()), name="n", file_name="a.jsonl", keep_fields=["id"])
        wait_for_dataset(client, id, waits)
        job = client.create_job(
            dataset_id=id, model="hash", input_type="search_document", embedding_types=["float", "int8", "uint8"]
        )
        result = wait_for_job(client, job, waits).output_dataset_id
        proxy.on("GET", PARTS, Cut(150_000))
        proxy.on("GET", PARTS, Cut(100_000))
        assert ids(records(client, result, retry=AT_ONCE)) == list(range(2000))
        ranges = [seen.headers.get("range") for seen in proxy.requests("GET", PARTS)]
        assert ranges[0] is None
        assert all(ranges[1:])
        straight = [record for part in client.dataset(result).ordered_parts for record in read_part(client, part.url)]
        assert [record.text for record in straight] == [f"text {number}" for number in range(2000)]
        for record in straight[:10]:
            assert np.linalg.norm(record.embeddings["float"]) == pytest.approx(1, abs=1e-5)
            assert {name: vector.dtype.name for name, vector in record.embeddings.items()} == {
                "float": "float32",
                "int8": "int8",
                "uint8": "uint8",
            }
