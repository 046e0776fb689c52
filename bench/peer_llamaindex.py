"""LlamaIndex's IngestionPipeline: document store and vector store, UPSERTS_AND_DELETE, kept on disk between runs.

One node a document, as in the other scripts, with a SOURCE relationship so that deletion works. Modes:

    cache       the pipeline's cache is on, as it is by default
    no-cache    it is off
    random-ids  as `cache`, with the uuid4 node ids that LlamaIndex's own splitters make
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from common import COLLECTION, Job, point_id, read_rows
from llama_index.core import Document
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.schema import BaseNode, NodeRelationship, TextNode, TransformComponent
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_counted import CountedClient

JOB = Job.from_command_line()  # LlamaIndex's parts are pydantic models, which it copies and hashes


class CountedEmbedding(BaseEmbedding):
    """The benchmark's embedding, as LlamaIndex calls it."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return JOB.meter.embed_lists(texts)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class OneNode(TransformComponent):
    """Makes one node of each document."""

    def __call__(self, nodes: Sequence[BaseNode], **options: Any) -> list[TextNode]:
        del options
        return [
            TextNode(
                text=node.text,
                metadata=node.metadata,
                id_=str(uuid4()) if JOB.mode == "random-ids" else point_id(node.id_),
                relationships={NodeRelationship.SOURCE: node.as_related_node_info()},
            )
            for node in nodes
        ]


def main() -> None:
    client = CountedClient(JOB)
    kept = JOB.state / "pipeline"
    with JOB.measured(client.points_kept):
        pipeline = IngestionPipeline(
            transformations=[OneNode(), CountedEmbedding(embed_batch_size=100)],
            vector_store=QdrantVectorStore(client=client, collection_name=COLLECTION),
            docstore=SimpleDocumentStore(),
            docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
            disable_cache=JOB.mode == "no-cache",
        )
        if kept.exists():
            pipeline.load(str(kept))
        documents = [
            Document(
                text=row["text"],
                id_=row["id"],
                metadata={"title": row["title"], "views": row["views"], "url": row["url"]},
            )
            for row in read_rows(JOB.rows_file)
        ]
        pipeline.run(documents=documents)
        pipeline.persist(str(kept))


if __name__ == "__main__":
    main()
