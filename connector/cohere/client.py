"""The client of Cohere's wire: hosted, or any server that speaks it, ours included.

Each method is one HTTP exchange, but for `all_datasets`. Nothing is retried here: the caller repeats what may be
repeated (`connector.retry`), and looks first where an `UnknownOutcomeError` says that something may have been made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Self, TypeVar
from urllib.parse import quote

import msgspec
import numpy as np
from pydantic import SecretStr

from connector.errors import ConfigError, ConnectorError

from .exchange import Exchange, Query, Timeouts, utc_now
from .failures import without_id
from .uploads import Upload, opened
from .values import (
    NAME_CHARACTERS,
    TEXTS_PER_CALL,
    VECTOR_DTYPES,
    Created,
    CreatedJob,
    Dataset,
    DatasetAnswer,
    DatasetsAnswer,
    EmbedAnswer,
    Embedded,
    Job,
    JobsAnswer,
    ModelsAnswer,
    UsageAnswer,
)

if TYPE_CHECKING:
    import httpx

    from .values import VectorBatch

Answer = TypeVar("Answer")


def _ignore_warning(text: str) -> None:
    del text


def _ignore_sent(sent_bytes: int, of_bytes: int | None) -> None:
    del sent_bytes, of_bytes


class Cohere:
    """One service, and the key for it. May be used from several threads; close it, or use it in a `with`."""

    def __init__(
        self,
        base_url: str,
        api_key: SecretStr | None,
        *,
        timeouts: Timeouts | None = None,
        transport: httpx.BaseTransport | None = None,
        on_warning: Callable[[str], None] = _ignore_warning,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """Connect to nothing yet. ConfigError for an address or a key that cannot work; it never shows the key.

        `base_url` is with or without `/v1`. `on_warning` is told what the service says beside its answers.
        """
        self._exchange = Exchange(
            base_url,
            api_key,
            timeouts=timeouts or Timeouts(),
            transport=transport,
            on_warning=on_warning,
            now=now,
        )

    def __repr__(self) -> str:
        return f"Cohere({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._exchange.close()

    @property
    def url(self) -> str:
        """The address of the service, without `/v1`."""
        return self._exchange.root

    def check(self) -> None:
        """Ask for as little as can be; ConfigError if the address or the key is wrong."""
        self.datasets(limit=1)

    # --- datasets ---

    def create_dataset(
        self,
        file: Path | BinaryIO,
        *,
        name: str,
        file_name: str | None = None,
        type: str = "embed-input",
        keep_fields: Sequence[str] = (),
        optional_fields: Sequence[str] = (),
        skip_malformed_input: bool = False,
        keep_original_file: bool = False,
        csv_delimiter: str | None = None,
        on_sent: Callable[[int, int | None], None] = _ignore_sent,
    ) -> str:
        """Upload a file, from where it stands to its end; give the id of the dataset, which is validated later.

        The file is streamed; after a failure it stands where it stood, if it can be rewound. Its name tells the
        service what is in it: `file_name` is needed unless `file` is a path. UnknownOutcomeError if it may have
        been taken: then look for the name in `datasets`.
        """
        if not 0 < len(name) <= NAME_CHARACTERS:
            raise ConfigError(f"the dataset's name has {len(name)} characters; 1 to {NAME_CHARACTERS} are allowed")
        if file_name is None:
            file_name = file.name if isinstance(file, Path) else ""
        query: list[tuple[str, str | int | bool]] = [
            ("name", name),
            ("type", type),
            *[("keep_fields", field) for field in keep_fields],
            *[("optional_fields", field) for field in optional_fields],
        ]
        if skip_malformed_input:
            query.append(("skip_malformed_input", True))
        if keep_original_file:
            query.append(("keep_original_file", True))
        if csv_delimiter is not None:
            query.append(("csv_delimiter", csv_delimiter))
        with opened(file) as stream:
            upload = Upload(stream, file_name, on_sent)
            try:
                answer = self._exchange.ask(
                    "POST", "/v1/datasets", query=query, content=upload, headers=upload.headers, makes=True
                )
            except ConnectorError:
                upload.rewind()
                raise
        return self._read(answer, Created, f"POST {self.url}/v1/datasets", makes=True).id

    def dataset(self, id: str) -> Dataset:
        """Look a dataset up, with fresh links to its parts; NotFoundError."""
        return self._get(f"/v1/datasets/{quote(id, safe='')}", DatasetAnswer).dataset

    def datasets(
        self,
        *,
        type: str | None = None,
        status: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> tuple[Dataset, ...]:
        """List datasets; how many come without a `limit` is the service's choice."""
        filters: tuple[tuple[str, str | int | None], ...] = (
            ("datasetType", type),
            ("validationStatus", status),
            ("before", _as_rfc3339(before)),
            ("after", _as_rfc3339(after)),
            ("limit", limit),
            ("offset", offset),
        )
        query = [(name, value) for name, value in filters if value is not None]
        return self._get("/v1/datasets", DatasetsAnswer, query=query).datasets

    def all_datasets(self, *, page: int = 100) -> Iterator[Dataset]:
        """List all datasets, an exchange a page, until one has nothing new.

        The service may make its pages shorter than is asked for, or know no pages at all.
        """
        seen: set[str] = set()
        offset = 0
        while True:
            found = self.datasets(limit=page, offset=offset)
            new = [dataset for dataset in found if dataset.id not in seen]
            if not new:
                return
            yield from new
            seen |= {dataset.id for dataset in new}
            offset += len(found)

    def delete_dataset(self, id: str) -> None:
        """Delete a dataset; NotFoundError if it is gone already."""
        self._exchange.ask("DELETE", f"/v1/datasets/{quote(id, safe='')}")

    def usage_bytes(self) -> int:
        """Tell how much the organisation has stored."""
        return self._get("/v1/datasets/usage", UsageAnswer).organization_usage

    # --- jobs ---

    def create_job(
        self,
        *,
        dataset_id: str,
        model: str,
        input_type: str,
        embedding_types: Sequence[str] = ("float",),
        truncate: str | None = None,
        name: str | None = None,
    ) -> str:
        """Start a job, which costs money; give its id.

        UnknownOutcomeError if it may have been started: then look in `jobs` for one that reads the dataset.
        Any other error says that it was not.
        """
        body: dict[str, object] = {
            "model": model,
            "dataset_id": dataset_id,
            "input_type": input_type,
            "embedding_types": list(embedding_types),
        }
        body |= {name: value for name, value in (("truncate", truncate), ("name", name)) if value is not None}
        answer = self._post("/v1/embed-jobs", body, makes=True)
        return self._read(answer, CreatedJob, f"POST {self.url}/v1/embed-jobs", makes=True).job_id

    def job(self, id: str) -> Job:
        """Look a job up; NotFoundError."""
        return self._get(f"/v1/embed-jobs/{quote(id, safe='')}", Job)

    def jobs(self) -> tuple[Job, ...]:
        """List all jobs of the key's owner, also the ended ones."""
        return self._get("/v1/embed-jobs", JobsAnswer).embed_jobs

    def cancel_job(self, id: str) -> None:
        """Ask a job to stop; of one that has ended, nothing. What is done of it is charged, and not given out."""
        self._exchange.ask("POST", f"/v1/embed-jobs/{quote(id, safe='')}/cancel")

    # --- vectors at once ---

    def embed(
        self,
        texts: Sequence[str],
        *,
        model: str,
        input_type: str,
        embedding_types: Sequence[str] = ("float",),
        truncate: str | None = None,
        version: Literal[1, 2] = 2,
    ) -> Embedded:
        """Embed up to 96 texts. Safe to repeat, though a lost answer has been charged."""
        if not 0 < len(texts) <= TEXTS_PER_CALL:
            raise ValueError(f"one call takes 1 to {TEXTS_PER_CALL} texts, not {len(texts)}")
        path = f"/v{version}/embed"
        body: dict[str, object] = {
            "model": model,
            "texts": list(texts),
            "input_type": input_type,
            "embedding_types": list(embedding_types),
        }
        if truncate is not None:
            body["truncate"] = truncate
        raw = self._post(path, body)
        try:
            answer = msgspec.json.decode(raw, type=EmbedAnswer)
            found = answer.embeddings if isinstance(answer.embeddings, dict) else {"float": answer.embeddings}
            vectors = {name: _vectors(found[name], name, len(texts)) for name in embedding_types}
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, ValueError, OverflowError) as error:
            raise without_id(f"POST {self.url}{path}", f"{type(error).__name__}: {error}", makes=False) from None
        return Embedded(vectors, answer.billed_tokens)

    def models(self, endpoint: str = "embed") -> tuple[str, ...]:
        """Name the models that answer at an endpoint, by their own names."""
        found = self._get("/v1/models", ModelsAnswer, query=[("endpoint", endpoint)]).models
        return tuple(it.name for it in found if not it.alias_of and (not it.endpoints or endpoint in it.endpoints))

    # --- files ---

    def open_link(self, url: str, *, first_byte: int = 0) -> AbstractContextManager[Iterator[bytes]]:
        """Ask for a part by its link, without the key, and read it as it comes; `results` makes records of it.

        LinkRefusedError if the link has expired: then the dataset has a new one.
        """
        return self._exchange.open_link(url, first_byte=first_byte)

    # --- how ---

    def _get(self, path: str, shape: type[Answer], query: Query = ()) -> Answer:
        return self._read(self._exchange.ask("GET", path, query=query), shape, f"GET {self.url}{path}", makes=False)

    def _post(self, path: str, body: dict[str, object], *, makes: bool = False) -> bytes:
        json = {"Content-Type": "application/json"}
        return self._exchange.ask("POST", path, content=msgspec.json.encode(body), headers=json, makes=makes)

    @staticmethod
    def _read(answer: bytes, shape: type[Answer], what: str, *, makes: bool) -> Answer:
        try:
            return msgspec.convert(_without_nulls(msgspec.json.decode(answer)), shape, strict=False)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise without_id(what, str(error), makes=makes) from None


def _as_rfc3339(time: datetime | None) -> str | None:
    """Write a time in UTC; a naive one is in this machine's zone, as in Cohere's SDK."""
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _without_nulls(value: object) -> object:
    """Let null be as good as missing: services write one for the other."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value if inner is not None]
    return value


def _vectors(found: msgspec.Raw | list[list[float]], embedding_type: str, texts: int) -> VectorBatch:
    rows = found if isinstance(found, list) else msgspec.json.decode(found, type=list[list[float]])
    if len(rows) != texts:
        raise ValueError(f"{len(rows)} vectors for {texts} texts")
    return np.array(rows, dtype=VECTOR_DTYPES[embedding_type])
