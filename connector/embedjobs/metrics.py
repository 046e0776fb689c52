"""What Prometheus is told: counted as it happens, or asked of the store at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .values import DatasetType, JobStatus, ValidationStatus

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from .store import Store

# From a poll, which takes a millisecond, to the upload of a gigabyte, which takes minutes.
DURATION_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The counters of one service; two services in a process do not mix."""

    def __init__(self, store: Store) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Stored(store))
        self._requests = Counter(
            "embed_jobs_http_requests",
            "Requests that were answered, or whose client went away (status 499)",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._durations = Histogram(
            "embed_jobs_http_request_duration_seconds",
            "From a request's head to the end of its answer",
            ("method", "route"),
            buckets=DURATION_SECONDS,
            registry=self._registry,
        )
        self._received = Counter(
            "embed_jobs_http_received_bytes", "Of requests' bodies", ("route",), registry=self._registry
        )
        self._sent = Counter("embed_jobs_http_sent_bytes", "Of answers' bodies", ("route",), registry=self._registry)
        self._rows = Counter("embed_jobs_embedded_rows", "Rows that jobs embedded", registry=self._registry)
        self._tokens = Counter(
            "embed_jobs_embedded_tokens", "Tokens that jobs embedded, after truncation", registry=self._registry
        )

    def count_request(
        self, *, method: str, route: str, status: int, seconds: float, received_bytes: int, sent_bytes: int
    ) -> None:
        """Count a request when it is over."""
        self._requests.labels(method, route, str(status)).inc()
        self._durations.labels(method, route).observe(seconds)
        self._received.labels(route).inc(received_bytes)
        self._sent.labels(route).inc(sent_bytes)

    def count_embedded(self, *, rows: int, tokens: int) -> None:
        """Count what a job has finished for good."""
        self._rows.inc(rows)
        self._tokens.inc(tokens)

    def text(self) -> bytes:
        """Write all of it in Prometheus's text format."""
        return generate_latest(self._registry)


class _Stored(Collector):
    """What the store has now."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> Iterator[Metric]:
        """Name nothing: the store is asked at a scrape, not at the start."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        datasets, jobs = self._store.dataset_counts(), self._store.job_counts()
        by_kind = GaugeMetricFamily("embed_jobs_datasets", "Datasets there are", labels=("type", "status"))
        by_status = GaugeMetricFamily("embed_jobs_jobs", "Jobs there are", labels=("status",))
        queues = GaugeMetricFamily("embed_jobs_queue_length", "What waits or is under way", labels=("queue",))
        for kind in product(DatasetType, ValidationStatus):
            by_kind.add_metric(kind, datasets[kind])
        for status in JobStatus:
            by_status.add_metric((status,), jobs[status])
        unfinished = (ValidationStatus.QUEUED, ValidationStatus.PROCESSING)
        queues.add_metric(("validation",), sum(datasets[DatasetType.EMBED_INPUT, status] for status in unfinished))
        queues.add_metric(("embedding",), sum(jobs[status] for status in JobStatus if status.is_open))
        stored = GaugeMetricFamily(
            "embed_jobs_stored_bytes", "Of all datasets and unfinished results", value=self._store.stored_bytes()
        )
        yield from (by_kind, by_status, queues, stored)
