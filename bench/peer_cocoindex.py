"""CocoIndex 1.x with its Qdrant target, in two modes.

row   one processing component a row, memoised, which is how CocoIndex is meant to be used
file  one component for the whole file, and a memoised embedding within it
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from common import COLLECTION, DIMENSION, Job, Row, point_id, read_rows
from qdrant_counted import CountedClient

JOB = Job.from_command_line()
os.environ["COCOINDEX_DB"] = str(JOB.state / "coco.db")  # read when cocoindex is imported
os.environ["COCOINDEX_DISABLE_USAGE_TRACKING"] = "1"

import cocoindex as coco  # noqa: E402  # see above
import numpy as np  # noqa: E402  # with its like
from cocoindex.connectorkits.target import ManagedBy  # noqa: E402  # see above
from cocoindex.connectors import qdrant  # noqa: E402  # see above
from cocoindex.resources.schema import VectorSchema  # noqa: E402  # see above
from qdrant_client import QdrantClient  # noqa: E402  # with its like

DATABASE = coco.ContextKey[QdrantClient]("database")
CLIENT = CountedClient(JOB)


def point(row: Row, vector: list[float]) -> qdrant.PointStruct:
    payload = {
        "doc_id": row["id"],
        "title": row["title"],
        "views": row["views"],
        "url": row["url"],
        "text": row["text"],
    }
    return qdrant.PointStruct(id=point_id(row["id"]), vector=vector, payload=payload)


@coco.lifespan
async def lifespan(builder: coco.EnvironmentBuilder) -> AsyncIterator[None]:
    builder.provide(DATABASE, CLIENT)
    yield


@coco.fn(memo=True)
async def process_row(row: dict, target: qdrant.CollectionTarget) -> None:
    target.declare_point(point(row, JOB.meter.embed_lists([row["text"]])[0]))


@coco.fn(memo=True)
async def embed(text: str) -> list[float]:
    return JOB.meter.embed_lists([text])[0]


@coco.fn
async def process_file(target: qdrant.CollectionTarget) -> None:
    for row in read_rows(JOB.rows_file):
        target.declare_point(point(row, await embed(row["text"])))


async def keyed_rows() -> AsyncIterator[tuple[str, Row]]:
    for row in read_rows(JOB.rows_file):
        yield row["id"], row


@coco.fn
async def sync() -> None:
    target = await qdrant.mount_collection_target(
        DATABASE,
        collection_name=COLLECTION,
        schema=await qdrant.CollectionSchema.create(
            vectors=qdrant.QdrantVectorDef(
                schema=VectorSchema(dtype=np.dtype("float32"), size=DIMENSION), distance="cosine"
            )
        ),
        managed_by=ManagedBy.USER,
    )
    if JOB.mode == "file":
        await coco.mount(process_file, target)
    else:
        await coco.mount_each(process_row, keyed_rows(), target)


def main() -> None:
    app = coco.App(coco.AppConfig(name="bench"), sync)
    with JOB.measured(CLIENT.points_kept):
        app.update_blocking()


if __name__ == "__main__":
    main()
