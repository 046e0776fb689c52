"""What the Qdrant emulator does with points: each method is one route, told the collection and the body as JSON.

Local mode does the work. What it leaves out is done before: ids, numbers as the server's JSON reads them, the type
that vectors are kept in, strict mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from qdrant_client.http import models as wire

from .qdrant_server_state import Collection, Refusal, Settings, State
from .qdrant_server_values import INSERT, SELECTOR, as_kept, as_read, check_id, parsed, points_of, shown


class Points:
    """The routes below `/collections/{name}/points`. Whoever calls holds the state's lock."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._local = state.local
        self.written = 0
        self.deleted = 0

    # --- writing ---

    def upsert(self, collection: Collection, body: Any) -> None:
        asked = parsed(INSERT, body)
        points = points_of(asked)
        if not points:
            raise Refusal(422, "Validation error in JSON body: [points: must not be empty]")
        self._strict(collection, lambda strict: strict.over("upsert_max_batchsize", len(points), "upsert limit"))
        most = collection.strict.settings.get("max_points_count") if collection.strict else None
        if most is not None and self._local.count(collection.name).count >= most:
            raise Refusal(
                400,
                f"Bad request: Max points count limit of {most} reached!. "
                "Help: Reduce the amount of points or increase the limit.",
            )
        collection.rate("write", len(points))
        self._local.upsert(
            collection.name,
            [self._kept(collection, point) for point in points],
            update_filter=asked.update_filter,
            update_mode=asked.update_mode,
        )
        self.written += len(points)

    def delete(self, collection: Collection, body: Any) -> None:
        selector = self._selector(collection, parsed(SELECTOR, body))
        before = self._local.count(collection.name).count
        self._local.delete(collection.name, selector)
        self.deleted += before - self._local.count(collection.name).count

    def set_payload(self, collection: Collection, body: Any) -> None:
        asked = parsed(wire.SetPayload, body)
        selector = self._selector(collection, asked)
        self._local.set_payload(collection.name, payload=as_read(asked.payload), points=selector, key=asked.key)

    def overwrite_payload(self, collection: Collection, body: Any) -> None:
        asked = parsed(wire.SetPayload, body)
        selector = self._selector(collection, asked)
        self._local.overwrite_payload(collection.name, payload=as_read(asked.payload), points=selector)

    def delete_payload(self, collection: Collection, body: Any) -> None:
        asked = parsed(wire.DeletePayload, body)
        self._local.delete_payload(collection.name, keys=asked.keys, points=self._selector(collection, asked))

    def clear_payload(self, collection: Collection, body: Any) -> None:
        self._local.clear_payload(collection.name, self._selector(collection, parsed(SELECTOR, body)))

    def update_vectors(self, collection: Collection, body: Any) -> None:
        asked = parsed(wire.UpdateVectors, body)
        collection.rate("write", len(asked.points))
        for point in asked.points:
            check_id(point.id)
        self._local.update_vectors(collection.name, asked.points, update_filter=asked.update_filter)

    def delete_vectors(self, collection: Collection, body: Any) -> None:
        asked = parsed(wire.DeleteVectors, body)
        self._local.delete_vectors(collection.name, asked.vector, self._selector(collection, asked))

    def batch(self, collection: Collection, body: Any) -> int:
        """Do the operations in their order; one that fails leaves those before it. Gives their number."""
        operations = parsed(wire.UpdateOperations, body).operations
        for operation, asked in zip(operations, body["operations"], strict=True):
            ((name, arguments),) = asked.items()
            del operation
            BATCHED[name](self, collection, arguments)
        return len(operations)

    # --- reading ---

    def retrieve(self, collection: Collection, body: Any) -> Any:
        asked = parsed(wire.PointRequest, body)
        collection.rate("read", len(asked.ids))
        return self._shown(
            collection,
            self._local.retrieve(
                collection.name,
                [check_id(id) for id in asked.ids],
                with_payload=_default(asked.with_payload, True),
                with_vectors=_default(asked.with_vector, False),
            ),
        )

    def get(self, collection: Collection, id: str) -> Any:
        wanted = check_id(int(id) if id.isdecimal() else id)
        found = self._local.retrieve(collection.name, [wanted], with_payload=True, with_vectors=True)
        if not found:
            raise Refusal(404, f"Not found: Point with id {id} does not exists!")
        return self._shown(collection, found)[0]

    def scroll(self, collection: Collection, body: Any) -> Any:
        asked = parsed(wire.ScrollRequest, body)
        limit = self._limit(collection, asked.limit)
        self._readable(collection, asked.filter)
        points, following = self._local.scroll(
            collection.name,
            scroll_filter=asked.filter,
            limit=limit,
            offset=None if asked.offset is None else check_id(asked.offset),
            order_by=self._order(collection, asked.order_by),
            with_payload=_default(asked.with_payload, True),
            with_vectors=_default(asked.with_vector, False),
        )
        return {"points": self._shown(collection, points), "next_page_offset": following}

    def count(self, collection: Collection, body: Any) -> Any:
        asked = parsed(wire.CountRequest, body)
        self._strict(collection, lambda strict: strict.exact(asked.exact))
        self._readable(collection, asked.filter)
        return {"count": self._local.count(collection.name, count_filter=asked.filter).count}

    def query(self, collection: Collection, body: Any) -> Any:
        asked = parsed(wire.QueryRequest, body)
        limit = self._limit(collection, asked.limit)
        params = asked.params
        self._strict(collection, lambda strict: strict.exact(params.exact if params else None))
        self._strict(
            collection,
            lambda strict: strict.over("search_max_hnsw_ef", params.hnsw_ef if params else None, "hnsw_ef"),
        )
        self._readable(collection, asked.filter)
        query: Any = asked.query  # local mode takes what the wire takes
        found = self._local.query_points(
            collection.name,
            query=query,
            using=asked.using,
            prefetch=asked.prefetch,
            query_filter=asked.filter,
            limit=limit,
            offset=asked.offset,
            with_payload=_default(asked.with_payload, False),
            with_vectors=_default(asked.with_vector, False),
            score_threshold=asked.score_threshold,
            lookup_from=asked.lookup_from,
        )
        return {"points": self._shown(collection, found.points)}

    def query_batch(self, collection: Collection, body: Any) -> Any:
        parsed(wire.QueryRequestBatch, body)
        count = len(body["searches"])
        self._strict(collection, lambda strict: strict.over("search_max_batchsize", count, "search batch size"))
        return [self.query(collection, one) for one in body["searches"]]

    def facet(self, collection: Collection, body: Any) -> Any:
        asked = parsed(wire.FacetRequest, body)
        self._readable(collection, asked.filter)
        if asked.key not in collection.indexes:
            raise Refusal(
                400, f"Bad request: No appropriate index for faceting: `{asked.key}`. Please create one to facet on it."
            )
        hits = self._local.facet(collection.name, key=asked.key, facet_filter=asked.filter, limit=asked.limit or 10)
        return {"hits": [{"value": hit.value, "count": hit.count} for hit in hits.hits]}

    # --- what they share ---

    def _kept(self, collection: Collection, point: wire.PointStruct) -> wire.PointStruct:
        vectors = collection.vectors()
        vector: Any = point.vector
        if isinstance(vector, dict):
            vector = {name: as_kept(one, vectors.get(name, {})) for name, one in vector.items()}
        elif "" in vectors:
            vector = as_kept(vector, vectors[""])
        return wire.PointStruct.model_construct(
            id=check_id(point.id), vector=vector, payload=as_read(point.payload) if point.payload else {}
        )

    def _selector(self, collection: Collection, asked: Any) -> Any:
        """Give which points an update is for, if strict mode lets it."""
        ids, chosen = getattr(asked, "points", None), getattr(asked, "filter", None)
        if ids is not None:
            collection.rate("write", len(ids))
            return [check_id(id) for id in ids]
        if chosen is None:
            raise Refusal(400, "Bad request: No filter or points provided")
        self._strict(collection, lambda strict: strict.filter("unindexed_filtering_update", chosen))
        collection.rate("write", self._local.count(collection.name, count_filter=chosen).count)
        return chosen

    def _readable(self, collection: Collection, given: wire.Filter | None) -> None:
        self._strict(collection, lambda strict: strict.filter("unindexed_filtering_retrieve", given))
        collection.rate("read", 1)

    def _limit(self, collection: Collection, limit: int | None) -> int:
        if limit is not None and limit < 1:
            raise Refusal(422, f"Validation error in JSON body: [limit: value {limit} invalid, must be 1 or larger]")
        self._strict(collection, lambda strict: strict.over("max_query_limit", limit, "limit"))
        return limit or 10

    def _order(self, collection: Collection, order_by: Any) -> Any:
        if order_by is None:
            return None
        key = order_by if isinstance(order_by, str) else order_by.key
        if collection.indexes.get(key, {}).get("data_type") not in ("integer", "float", "datetime", "uuid"):
            raise Refusal(
                400,
                f"Bad request: No range index for `order_by` key: `{key}`. Please create one to use `order_by`. "
                "Check https://qdrant.tech/documentation/concepts/indexing/#payload-index to see which payload "
                "schemas support Range conditions",
            )
        return order_by

    def _strict(self, collection: Collection, check: Callable[[Any], str | None]) -> None:
        strict = collection.strict
        words = check(strict) if strict else None
        if words:
            raise Refusal(400, words)

    def _shown(self, collection: Collection, points: Iterable[Any]) -> list[Settings]:
        vectors = collection.vectors()
        return [shown(point, vectors) for point in points]


BATCHED: dict[str, Callable[[Points, Collection, Any], None]] = {
    "upsert": Points.upsert,
    "delete": Points.delete,
    "set_payload": Points.set_payload,
    "overwrite_payload": Points.overwrite_payload,
    "delete_payload": Points.delete_payload,
    "clear_payload": Points.clear_payload,
    "update_vectors": Points.update_vectors,
    "delete_vectors": Points.delete_vectors,
}


def _default(given: Any, otherwise: bool) -> Any:
    return otherwise if given is None else given
