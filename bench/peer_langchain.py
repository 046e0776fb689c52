"""LangChain's indexing API: `index` with `cleanup="full"`, SQLRecordManager on SQLite, QdrantVectorStore.

Keys are sha1, because Qdrant refuses the ids that the other encoders make. `--batch`: LangChain's batch_size, 100 if
not given.
"""

from __future__ import annotations

from collections.abc import Iterator

from common import COLLECTION, Job, read_rows
from langchain_classic.indexes import SQLRecordManager
from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import index
from langchain_qdrant import QdrantVectorStore
from qdrant_counted import CountedClient

LANGCHAIN_BATCH = 100


class CountedEmbeddings(Embeddings):
    """The benchmark's embedding, as LangChain calls it."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._job.meter.embed_lists(texts)

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


class RowLoader(BaseLoader):
    """The benchmark's rows, as LangChain loads them."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def lazy_load(self) -> Iterator[Document]:
        for row in read_rows(self._job.rows_file):
            metadata = {"source": row["id"], "title": row["title"], "views": row["views"], "url": row["url"]}
            yield Document(page_content=row["text"], metadata=metadata)


def main() -> None:
    job = Job.from_command_line()
    client = CountedClient(job)
    with job.measured(client.points_kept):
        records = SQLRecordManager("qdrant/bench", db_url=f"sqlite:///{job.state / 'records.sqlite'}")
        records.create_schema()
        store = QdrantVectorStore(
            client=client,
            collection_name=COLLECTION,
            embedding=CountedEmbeddings(job),
            validate_collection_config=False,
        )
        index(
            RowLoader(job),
            records,
            store,
            cleanup="full",
            source_id_key="source",
            key_encoder="sha1",
            batch_size=job.batch or LANGCHAIN_BATCH,
        )


if __name__ == "__main__":
    main()
