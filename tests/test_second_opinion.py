"""NeedleDB, which nobody here wrote, and our emulator of Pinecone: the same calls of the SDK, and the same answers.

Where they differ, the difference is a test of its own, with what the service says of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from needledb_server import NeedleServer, needledb_python
from pinecone import Index
from pinecone.errors import ApiError
from pinecone_rig import NAMESPACE, decoded

from connector.model import EmbeddedRecord, RecordId
from connector.plugins import BuildContext
from connector.testing.pinecone_sdk import without_waiting
from connector.testing.pinecone_server import PineconeServer
from connector.testing.sinks import DIMENSION as SINK_DIMENSION
from connector.testing.sinks import SinkContract, record
from sinks.pinecone import PineconeSettings
from sinks.pinecone_records import RecordFormat
from sinks.pinecone_sink import PineconeSink

if TYPE_CHECKING:
    from connector.model import Vectors

DIMENSION = 4
RECORDS = 230
KINDS = ("even", "odd")
NUMBERS = count()
OWNER = "docs sync"
FOREIGN = "somebody#else"
FOREIGN_METADATA = {"text": "somebody else's", "_vs_source": "another sync", "_vs_index": 0}


@pytest.fixture(scope="module")
def needle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NeedleServer]:
    needledb_python()
    with NeedleServer(tmp_path_factory.mktemp("needledb")) as server:
        yield server


@pytest.fixture
def both(needle: NeedleServer, request: pytest.FixtureRequest) -> Iterator[tuple[Index, Index]]:
    name = f"i{next(NUMBERS)}"
    metric = getattr(request, "param", "dotproduct")  # as cosine, NeedleDB keeps vectors normalised: off by an ulp
    with (
        without_waiting(),
        PineconeServer() as server,
        Index(host=server.create(name, DIMENSION, metric), api_key="key") as ours,
        Index(host=needle.create(name, DIMENSION, metric), api_key="key") as theirs,
    ):
        yield ours, theirs
    needle.delete(name)


def fill(index: Index, namespace: str = "n") -> None:
    vectors = np.random.default_rng(5).normal(size=(RECORDS, DIMENSION)).astype(np.float32)
    records = [
        (
            f"doc-{number // 10}#{number:05d}",
            vectors[number].tolist(),
            {
                "number": number,
                "kind": KINDS[number % 2],
                "tags": ["a"] if number % 3 else ["a", "b"],
                "odd": number % 2 > 0,
            },
        )
        for number in range(RECORDS)
    ]
    assert index.upsert(vectors=records, namespace=namespace).upserted_count == RECORDS


def agree(both: tuple[Index, Index], ask: Callable[[Index], Any]) -> Any:
    """Ask both, and give what they agree on; a refusal counts as its status."""

    def answer(index: Index) -> Any:
        try:
            return ask(index)
        except ApiError as error:
            return error.status_code

    ours, theirs = (answer(index) for index in both)
    assert ours == theirs
    return ours


def records(index: Index, ids: list[str], namespace: str = "n") -> dict[str, Any]:
    found = index.fetch(ids=ids, namespace=namespace).vectors
    return {id: (np.float32(each.values).tolist(), each.metadata) for id, each in found.items()}


def pages(index: Index, **asked: Any) -> list[list[str]]:
    return [[each.id or "" for each in page.vectors] for page in index.list(**asked)]


FILTERS: tuple[dict[str, Any], ...] = (
    {"kind": "odd"},
    {"kind": {"$ne": "odd"}},
    {"number": {"$gte": 10, "$lt": 20}},
    {"number": {"$in": [1, 2, 999]}},
    {"number": {"$nin": [1, 2]}},
    {"tags": "b"},
    {"tags": {"$in": ["b", "c"]}},
    {"tags": {"$ne": "b"}},
    {"odd": True},
    {"odd": 1},
    {"number": True},
    {"missing": {"$exists": False}},
    {"missing": {"$ne": "x"}},
    {"$and": [{"kind": "even"}, {"number": {"$gt": 200}}]},
    {"$or": [{"number": 7}, {"number": {"$gte": 228}}]},
    {"number": {"$gt": "10"}},
    {"kind": {"$like": "o"}},
    {"$not": []},
)


@pytest.mark.parametrize("filter", FILTERS, ids=str)
def test_they_agree_on_filters(both: tuple[Index, Index], filter: dict[str, Any]) -> None:
    for index in both:
        fill(index)

    def found(index: Index) -> list[str]:
        matches = index.query(vector=[1.0, 0, 0, 0], top_k=RECORDS, filter=filter, namespace="n").matches
        return sorted(match.id for match in matches)

    agree(both, found)


@pytest.mark.parametrize("both", ["cosine", "dotproduct", "euclidean"], indirect=True)
def test_they_agree_on_what_is_near(both: tuple[Index, Index]) -> None:
    for index in both:
        fill(index)
    ours, theirs = (index.query(vector=[1.0, 2, 3, 4], top_k=50, namespace="n").matches for index in both)
    assert [match.id for match in ours] == [match.id for match in theirs]
    assert [match.score for match in ours] == pytest.approx([match.score for match in theirs], rel=1e-6)


def test_they_agree_on_records_and_lists(both: tuple[Index, Index]) -> None:
    for index in both:
        fill(index)
    ids = agree(both, lambda index: pages(index, namespace="n"))
    assert [len(page) for page in ids] == [100, 100, 30]
    assert len(agree(both, lambda index: records(index, [*ids[1], "missing"]))) == 100
    assert agree(both, lambda index: pages(index, prefix="doc-1#", namespace="n", limit=7))[0]
    agree(both, lambda index: pages(index, namespace="nowhere"))
    agree(both, lambda index: records(index, ["a"], "nowhere"))


def test_they_agree_on_updates_and_deletions(both: tuple[Index, Index]) -> None:
    for index in both:
        fill(index)
    first = "doc-0#00000"
    steps: tuple[Callable[[Index], Any], ...] = (
        lambda index: index.update(id=first, set_metadata={"kind": "new", "more": "m"}, namespace="n") and None,
        lambda index: index.update(id=first, values=[0.5, 0.5, 0.5, 0.5], namespace="n") and None,
        lambda index: index.upsert(vectors=[("doc-0#00001", [1.0, 0, 0, 0], {"only": "this"})], namespace="n") and None,
        lambda index: index.delete(ids=["doc-0#00002", "missing"], namespace="n"),
        lambda index: index.delete(filter={"number": {"$gte": 100}}, namespace="n"),
        lambda index: index.upsert(vectors=[("other", [1.0, 0, 0, 0])]) and None,
    )
    for step in steps:
        agree(both, step)
        left = agree(both, lambda index: pages(index, namespace="n"))
        agree(both, lambda index, ids=left[0]: records(index, ids))
    counts = agree(both, lambda index: index.describe_index_stats().total_vector_count)
    assert counts == 100
    agree(both, lambda index: index.delete(delete_all=True, namespace="n"))
    assert not any(agree(both, lambda index: pages(index, namespace="n")))


def test_they_differ_where_the_service_is_stricter(both: tuple[Index, Index]) -> None:
    """NeedleDB keeps 2^53 + 1, minds no missing namespace, and takes 10,000 records a call."""
    ours, theirs = both
    for index in both:
        index.upsert(vectors=[("a", [1.0, 0, 0, 0], {"big": 2**53 + 1})], namespace="n")
    big = [(index.fetch(ids=["a"], namespace="n").vectors["a"].metadata or {})["big"] for index in both]
    assert big == [2**53, 2**53 + 1]
    many = [(f"{number}", [1.0, 0, 0, 0]) for number in range(1001)]
    with pytest.raises(ApiError):
        ours.upsert(vectors=many, namespace="n")
    assert theirs.upsert(vectors=many, namespace="n").upserted_count == 1001
    with pytest.raises(ApiError):
        ours.delete(ids=["a"], namespace="nowhere")
    theirs.delete(ids=["a"], namespace="nowhere")


REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("another dimension", {"id": "a", "values": [1.0, 2.0]}),
    ("nested", {"id": "a", "values": [1.0, 0, 0, 0], "metadata": {"a": {"b": 1}}}),
    ("a list of numbers", {"id": "a", "values": [1.0, 0, 0, 0], "metadata": {"a": [1, 2]}}),
    ("a name with a dollar", {"id": "a", "values": [1.0, 0, 0, 0], "metadata": {"$a": 1}}),
    ("a long id", {"id": "a" * 513, "values": [1.0, 0, 0, 0]}),
    ("no id", {"id": "", "values": [1.0, 0, 0, 0]}),
    ("41 KB of metadata", {"id": "a", "values": [1.0, 0, 0, 0], "metadata": {"a": "x" * 41_000}}),
    ("zeros", {"id": "a", "values": [0.0, 0, 0, 0]}),
)


@pytest.mark.parametrize("both", ["cosine"], indirect=True)
@pytest.mark.parametrize("record", [record for _, record in REFUSED], ids=[name for name, _ in REFUSED])
def test_they_agree_on_what_is_refused(both: tuple[Index, Index], record: dict[str, Any]) -> None:
    sound = {"id": "sound", "values": [1.0, 0, 0, 0]}

    def send(index: Index) -> int:
        response = index._http._client.post("/vectors/upsert", json={"vectors": [sound, record], "namespace": "n"})
        return int(response.status_code)

    assert agree(both, send) == 400
    assert agree(both, lambda index: records(index, ["sound"])) == {}


class Harness:
    """The sink, NeedleDB, and what is done behind the sink's back."""

    def __init__(self, needle: NeedleServer, folder: Path, index: str) -> None:
        self._needle = needle
        self._folder = folder
        self._index = index
        self._host = needle.create(index, SINK_DIMENSION)
        self.sink = self._build()
        self.sink.prepare(SINK_DIMENSION)

    def stored(self) -> Mapping[RecordId, EmbeddedRecord]:
        found = [
            decoded(values, metadata)
            for values, metadata in self._needle.records(self._index, NAMESPACE).values()
            if metadata.get("_vs_source") == OWNER
        ]
        return {each.id: each for each in found}

    def exists(self) -> bool:
        return bool(self._needle.records(self._index, NAMESPACE))

    def reopen(self) -> PineconeSink:
        self.sink.close()
        self.sink = self._build()
        return self.sink

    def remove(self) -> None:
        self.sink.close()
        with Index(host=self._host, api_key="key") as index:
            index.delete(delete_all=True, namespace=NAMESPACE)

    def unacceptable(self) -> EmbeddedRecord:
        return record("bad", vector=np.full(SINK_DIMENSION, np.nan, dtype=np.float32), metadata={"nan": float("nan")})

    def fail_next_call(self, *, passing: bool, retry_after_seconds: float | None = None) -> None:
        raise AssertionError("waived: NeedleDB does not fail on request")

    def plant_foreign(self, vector: Vectors) -> None:
        self._put({"id": FOREIGN, "values": vector.tolist(), "metadata": FOREIGN_METADATA})

    def foreign_is_intact(self) -> bool:
        return self._needle.records(self._index, NAMESPACE)[FOREIGN][1] == FOREIGN_METADATA

    def damage(self, id: RecordId) -> None:
        name = RecordFormat.of(OWNER).vector_id(id)
        assert name is not None
        values, metadata = self._needle.records(self._index, NAMESPACE)[name]
        self._put({"id": name, "values": values, "metadata": {**metadata, "_vs_index": 7.5}})

    def _put(self, vector: dict[str, Any]) -> None:
        with Index(host=self._host, api_key="key") as index:
            index.upsert(vectors=[vector], namespace=NAMESPACE)

    def _build(self) -> PineconeSink:
        settings = PineconeSettings(index=self._index, namespace=NAMESPACE, host=self._host)
        sink = settings.build(BuildContext(self._folder, self._folder, "main", OWNER))
        assert isinstance(sink, PineconeSink)
        return sink


class TestPineconeSinkInNeedleDB(SinkContract):
    waived: ClassVar[Mapping[str, str]] = {
        "S7": "NeedleDB does not fail on request",
        "S12_fit_asks_no_service": "the same",
        "S12_fit_says_beforehand_what_upsert_does": "NeedleDB takes no empty names of metadata; Pinecone says it does",
        "S14": "Pinecone counts late, and the records of others as well, so it cannot tell",
    }

    @pytest.fixture
    def harness(self, needle: NeedleServer, tmp_path: Path) -> Iterator[Harness]:
        name = f"s{next(NUMBERS)}"
        with without_waiting():
            harness = Harness(needle, tmp_path, name)
            yield harness
            harness.sink.close()
        needle.delete(name)
