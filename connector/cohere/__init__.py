"""A client of Cohere's datasets, embed jobs and Embed, hosted or self-hosted, on httpx and fastavro alone.

    from connector.cohere import Cohere, records

    with Cohere("https://api.cohere.com", SecretStr("...")) as client:
        for record in records(client, client.job(job_id).output_dataset_id):
            record.text, record.embeddings["float"], record.metadata

Read `client.py` first: each of its methods is one HTTP exchange. `waiting.py` waits, `results.py` reads results.
"""

from .client import Cohere
from .exchange import Timeouts
from .failures import (
    DatasetFailedError,
    JobFailedError,
    LinkRefusedError,
    NoAvroError,
    NotFoundError,
    StillWaitingError,
)
from .results import Record, Records, read_part, records
from .values import Dataset, DatasetPart, Embedded, Job

__all__ = [
    "Cohere",
    "Dataset",
    "DatasetFailedError",
    "DatasetPart",
    "Embedded",
    "Job",
    "JobFailedError",
    "LinkRefusedError",
    "NoAvroError",
    "NotFoundError",
    "Record",
    "Records",
    "StillWaitingError",
    "Timeouts",
    "read_part",
    "records",
]
