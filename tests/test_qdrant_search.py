"""What Qdrant is asked in a search lets through all that matches, and hardly anything else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from connector.filters import AnyOf, Between, Condition, Equals, matches
from connector.model import Hit, RecordId
from connector.testing.sink_reading import CONDITIONS, FILTERED
from connector.testing.sinks import DIMENSION, VECTORS, record
from sinks.qdrant_edge_shard import Shard
from sinks.qdrant_payload import PointFormat
from sinks.qdrant_search import LARGEST, Is, OneOf, Within, path, questions, search_until_enough

HUGE = 10**400

OURS = PointFormat.of("docs sync")
RECORDS = {OURS.point_id(it.id): it for it in (record(f"doc {n}", metadata=held) for n, held in enumerate(FILTERED))}


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shard]:
    shard = Shard.create(tmp_path_factory.mktemp("engine") / "shard", DIMENSION, "cosine")
    vectors = np.stack([each.vector for each in RECORDS.values()])
    shard.upsert(list(RECORDS), vectors, [OURS.payload(each) for each in RECORDS.values()])
    yield shard
    shard.close()


def found(shard: Shard, where: list[Condition]) -> set[RecordId]:
    """Ask the engine alone."""
    asked = questions(where)
    if asked is None:
        return set()
    return {RECORDS[point].id for _, point, _ in shard.nearest("docs sync", asked, VECTORS[0], len(RECORDS))}


@pytest.mark.parametrize("where", CONDITIONS, ids=str)
def test_the_engine_lets_through_all_that_matches(shard: Shard, where: list[Condition]) -> None:
    wanted = {each.id for each in RECORDS.values() if matches(each.metadata, where)}
    assert wanted <= found(shard, where)


def test_the_engine_lets_through_little_else(shard: Shard) -> None:
    """Of texts: two names that it cannot be told. (Of numbers: lists of lists, and integers that are one double.)"""
    excess = {
        str(where[0].field): len(found(shard, list(where)))
        - sum(matches(it.metadata, where) for it in RECORDS.values())
        for where in CONDITIONS
        if len(where) == 1 and where[0].field != "year"
    }
    assert {field for field, more in excess.items() if more} == {'"quoted"', "back\\slash"}


@pytest.mark.parametrize(
    "where,asked",
    [
        ([], []),
        ([Equals("lang", "en")], [[OneOf("lang", ("en",))]]),
        ([Equals("lang", True)], [[Is("lang", value=True)]]),
        ([Equals("year", 2)], [[Within("year", at_least=2.0, at_most=2.0)]]),
        (
            [AnyOf("a b", ("x", 2.5, False, "y"))],
            [[OneOf('"a b"', ("x", "y")), Within('"a b"', at_least=2.5, at_most=2.5), Is('"a b"', value=False)]],
        ),
        ([Between("year", above=1, below=2)], [[Within("year", above=1.0, below=2.0)]]),
        ([Between("year")], [[Within("year", at_least=-LARGEST)]]),
        ([Equals('a"b', "x")], []),
        ([Equals('a"b', "x"), Equals("lang", "en")], [[OneOf("lang", ("en",))]]),
    ],
)
def test_each_condition_is_a_question_with_alternatives(where: list[Condition], asked: list[object]) -> None:
    assert questions(where) == asked


@pytest.mark.parametrize(
    "condition",
    [
        AnyOf("lang", ()),
        AnyOf("lang", ("half \ud83d",)),
        Equals("half \ud83d", "x"),
        Equals("text", "a text"),
        Equals("_vs_source", "docs sync"),
        Equals("year", float("nan")),
        Between("year", at_least=float("nan")),
    ],
    ids=ascii,
)
def test_where_nothing_can_match_nothing_is_asked(condition: Condition) -> None:
    assert questions([Equals("lang", "en"), condition]) is None


@pytest.mark.parametrize("bound", [2**53, 2**53 + 1, 2**64, HUGE, -HUGE, float("inf"), float("-inf")], ids=ascii)
def test_bounds_that_doubles_cannot_tell_apart_are_widened_and_finite(bound: float) -> None:
    for condition in (
        Equals("year", bound),
        Between("year", at_least=bound),
        Between("year", above=bound),
        Between("year", at_most=bound),
        Between("year", below=bound),
        Between("year", above=bound, at_least=bound, below=bound, at_most=bound),
    ):
        [[within]] = questions([condition]) or []
        assert isinstance(within, Within)
        assert within.above is None
        assert within.below is None
        assert within.at_least is None or -LARGEST <= within.at_least <= max(-LARGEST, bound)
        assert within.at_most is None or min(LARGEST, bound) <= within.at_most <= LARGEST


@pytest.mark.parametrize(
    "field,key",
    [
        ("lang", "lang"),
        ("a-b_C9", "a-b_C9"),
        ("a.b", '"a.b"'),
        ("a[0]", '"a[0]"'),
        ("a b", '"a b"'),
        ("", '""'),
        ("größe", '"größe"'),
        ("it's", '"it\'s"'),
        ("line\n", '"line\n"'),
        ('a"b', None),
        ("a\\b", None),
    ],
)
def test_names_are_quoted_as_qdrant_reads_them(field: str, key: str | None) -> None:
    assert path(field) == key


def test_more_is_asked_for_until_enough_is_accepted_or_there_is_no_more() -> None:
    asked: list[int] = []

    def ask(limit: int) -> list[int]:
        asked.append(limit)
        return list(range(100))[:limit]

    def accept(number: int) -> Hit | None:
        found = record(index=number)
        return Hit(found.id, found.document_id, number, 1.0, "", {}) if number % 10 == 9 else None

    assert [hit.index for hit in search_until_enough(ask, accept, 2)] == [9, 19]
    assert asked == [2, 8, 32]
    asked.clear()
    assert len(search_until_enough(ask, accept, 20)) == 10
    assert asked == [20, 80, 320]
