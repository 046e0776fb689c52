"""The calls on datasets. Options come in the query string; the body of an upload is the file alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from .failures import NAME_CHARACTERS, documented
from .links import Links
from .refusals import BadRequestError
from .rows import check_options
from .store import Store
from .upload import Uploads
from .values import DatasetOptions, DatasetType
from .wire import DatasetCreated, DatasetFound, DatasetsFound, Link, Nothing, Usage, dataset_json

OUTPUT_TYPES: Final = frozenset({DatasetType.EMBED_RESULT.value, "cluster-result", "cluster-outliers"})
MOST_ROWS: Final = 2**31 - 1  # of an answer; larger numbers mean "all" as well, and SQLite takes no more than 64 bits
DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

UPLOAD_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {
                        "data": {
                            "type": "string",
                            "format": "binary",
                            "description": "The file, .jsonl or .csv by its name; `file` is taken as well",
                        },
                        "eval_data": {
                            "type": "string",
                            "format": "binary",
                            "description": "Taken and dropped: no embed job uses it; the same for `eval_file`",
                        },
                    },
                }
            }
        },
    }
}


def _dated(text: object) -> object:
    """Refuse bare numbers, which pydantic reads as seconds since 1970."""
    if isinstance(text, str) and not DATE.match(text):
        raise ValueError("should be a time as in 2026-11-22T18:54:00Z")
    return text


def _utc(time: datetime) -> datetime:
    """Bring a time to UTC, which one without a zone is in already; near the ends of the calendar there is none."""
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        raise ValueError("should be a time between the years 1 and 9999, in UTC") from None


def _count(number: float) -> int:
    if number != int(number):  # pydantic's own check lets tiny numbers through
        raise ValueError("should be a whole number")
    return min(int(number), MOST_ROWS)


Time = Annotated[datetime, BeforeValidator(_dated), AfterValidator(_utc)]
Count = Annotated[float, Field(ge=0, allow_inf_nan=False, json_schema_extra={"multipleOf": 1}), AfterValidator(_count)]
"""SDKs send `10.0` for ten."""
DatasetName = Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARACTERS)]
Delimiter = Annotated[str, StringConstraints(min_length=1, max_length=1, pattern=r'^[^"\r\n]$')]


def router(
    store: Store, links: Links, uploads: Uploads, *, wake: Callable[[], None], base_url: str | None
) -> APIRouter:
    """Make the routes. `wake` is called when a dataset came or went; `base_url` is how clients reach us, if known."""
    api = APIRouter(tags=["datasets"])

    def link_for(request: Request) -> Link:
        base = base_url or str(request.base_url)
        return partial(links.make, base)

    @api.post(
        "/datasets",
        summary="Upload a dataset",
        responses=documented(400, 401, 408, 413, 429, 503, 507),
        openapi_extra=UPLOAD_BODY,
    )
    async def create_dataset(
        *,
        request: Request,
        name: Annotated[DatasetName, Query(description="Need not be unique; of less than 50 characters")],
        type: Annotated[str, Query(json_schema_extra={"enum": [DatasetType.EMBED_INPUT]})],
        keep_fields: Annotated[list[str], Query(description="Must be in every row; go into the result")] = [],  # noqa: B006 - never changed
        optional_fields: Annotated[list[str], Query(description="Go into the result, null where missing")] = [],  # noqa: B006
        skip_malformed_input: Annotated[bool, Query(description="Leave bad rows out, with a warning")] = False,
        keep_original_file: Annotated[bool, Query(description="Link to the upload as it was, too")] = False,
        csv_delimiter: Annotated[Delimiter, Query(description="One character")] = ",",
        text_separator: Annotated[str, Query(description="Ignored: .txt files are not taken")] = "",  # noqa: ARG001 - documented
        dry_run: Annotated[  # noqa: ARG001
            bool,
            Query(deprecated=True, description="Ignored: the dataset is kept. SDK 5 may send it"),
        ] = False,
    ) -> DatasetCreated:
        """Take a file. It is validated later: ask for the dataset until it is `validated` or `failed`.

        An answer means that the file is on the disk. There is no idempotency key, so a client that got no answer
        looks for the name in the list before it sends the file again.
        """
        _check_type(type)
        options = DatasetOptions(
            keep_fields=tuple(keep_fields),
            optional_fields=tuple(optional_fields),
            skip_malformed_input=skip_malformed_input,
            keep_original_file=keep_original_file,
            csv_delimiter=csv_delimiter,
        )
        check_options(options)
        path = await to_thread.run_sync(store.new_upload)
        content_type = request.headers.get("content-type", "")
        file_name = await uploads.receive(request.stream(), content_type=content_type, to=path)
        dataset = await to_thread.run_sync(
            partial(store.add_dataset, path, name=name, file_name=file_name, options=options)
        )
        wake()
        return DatasetCreated(id=dataset.id)

    @api.get(
        "/datasets",
        summary="List datasets, newest first",
        response_model_exclude_none=True,
        responses=documented(401, 503),
    )
    def list_datasets(
        *,
        request: Request,
        dataset_type: Annotated[str | None, Query(alias="datasetType")] = None,
        validation_status: Annotated[str | None, Query(alias="validationStatus")] = None,
        before: Annotated[Time | None, Query(description="Created before, in RFC 3339")] = None,
        after: Annotated[Time | None, Query(description="Created after, in RFC 3339")] = None,
        limit: Annotated[Count | None, Query(description="All of them, if not said")] = None,
        offset: Annotated[Count, Query()] = 0,
        snake_dataset_type: Annotated[str | None, Query(alias="dataset_type", deprecated=True)] = None,
        snake_validation_status: Annotated[str | None, Query(alias="validation_status", deprecated=True)] = None,
    ) -> DatasetsFound:
        found = store.datasets(
            type=dataset_type or snake_dataset_type,
            status=validation_status or snake_validation_status,
            before=before,
            after=after,
            limit=None if limit is None else int(limit),
            offset=int(offset),
        )
        link = link_for(request)
        return DatasetsFound(datasets=[dataset_json(dataset, link) for dataset in found])

    @api.get("/datasets/usage", summary="Tell how much is stored", responses=documented(401, 503))
    def usage() -> Usage:
        return Usage(organization_usage=store.stored_bytes())

    @api.get(
        "/datasets/{id}",
        summary="Look a dataset up",
        response_model_exclude_none=True,
        responses=documented(401, 404, 503),
    )
    def find_dataset(request: Request, id: str) -> DatasetFound:
        return DatasetFound(dataset=dataset_json(store.dataset(id), link_for(request)))

    @api.delete("/datasets/{id}", summary="Delete a dataset", responses=documented(400, 401, 404, 503))
    def delete_dataset(id: str) -> Nothing:
        """Delete a dataset and its files. Links to them end. While a job reads it, it stays."""
        store.delete_dataset(id)
        wake()
        return Nothing()

    return api


def _check_type(type: str) -> None:
    if type in OUTPUT_TYPES:
        raise BadRequestError("output dataset types are not supported for upload")
    if type != DatasetType.EMBED_INPUT:
        raise BadRequestError("dataset type is invalid: this service takes embed-input")
