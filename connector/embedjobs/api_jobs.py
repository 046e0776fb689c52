"""The calls on embed jobs."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Response

from .api_models import warn
from .failures import documented
from .models import Catalogue
from .store import Store
from .values import EmbeddingType, JobOptions, Truncate
from .wire import JobCreated, JobJson, JobRequest, JobsFound, Nothing, alias_warning, job_json, job_meta


def router(store: Store, catalogue: Catalogue, *, wake: Callable[[], None]) -> APIRouter:
    """Make the routes. `wake` is called when there is something to do, or to leave undone."""
    api = APIRouter(tags=["embed jobs"])

    @api.post(
        "/embed-jobs",
        summary="Start an embed job",
        response_model_exclude_none=True,
        responses=documented(400, 401, 404, 413, 429, 503),
    )
    def create_job(request: JobRequest, response: Response) -> JobCreated:
        """Embed a dataset. Ask for the job until it is `complete`; its result is the dataset `output_dataset_id`.

        An answer means that the job survives a restart. If `model` is an alias, the header X-API-Warning and
        `meta.warnings` say which model answers.
        """
        asked = set(request.embedding_types or (EmbeddingType.FLOAT,))
        options = JobOptions(
            model=catalogue.find(request.model).name,
            requested_model=request.model,
            input_type=request.input_type,
            embedding_types=tuple(type for type in EmbeddingType if type in asked),
            truncate=Truncate(request.truncate or Truncate.END),
            name=request.name or "",
        )
        job = store.add_job(request.dataset_id, options)
        wake()
        warn(response, alias_warning(job.options.requested_model, job.options.model))
        return JobCreated(job_id=job.id, meta=job_meta(job))

    @api.get(
        "/embed-jobs",
        summary="List embed jobs, newest first",
        response_model_exclude_none=True,
        responses=documented(401, 503),
    )
    def list_jobs() -> JobsFound:
        return JobsFound(embed_jobs=[job_json(job) for job in store.jobs()])

    @api.get(
        "/embed-jobs/{id}",
        summary="Look an embed job up",
        response_model_exclude_none=True,
        responses=documented(401, 404, 503),
    )
    def find_job(id: str, response: Response) -> JobJson:
        job = store.job(id)
        warn(response, alias_warning(job.options.requested_model, job.options.model))
        return job_json(job)

    @api.post("/embed-jobs/{id}/cancel", summary="Cancel an embed job", responses=documented(401, 404, 503))
    def cancel_job(id: str) -> Nothing:
        """Have a job stop; its result so far is dropped. One that is over stays as it is, and this is a success."""
        store.cancel(id)
        wake()
        return Nothing()

    return api
