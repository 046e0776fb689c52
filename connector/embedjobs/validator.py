"""Takes queued datasets to their end, oldest first.

what `validation` says                the dataset is
------------------------------------  -----------------------------------------------------------------------
Validated, Invalid                    validated, failed
stopped: the service stops            queued
stopped: it was deleted               gone, with its files
the disk is full or fails             processing, until it is tried again after a wait; others are taken meanwhile
a bug                                 failed, "internal error"; the log has the trace
"""

from __future__ import annotations

import time
from collections.abc import Callable

from connector.errors import ConnectorError

from .events import BugFound, DatasetFailed, DatasetValidated, Emit, Postponed, reason_of, trace_of
from .layout import disk_trouble, keep_only
from .rotation import INTERNAL_ERROR, Waits
from .rows import StoppedError
from .store import Store
from .validation import Invalid, validate
from .values import Dataset


class Validator:
    """The worker of the datasets. One thread calls `turn` again and again."""

    def __init__(
        self,
        store: Store,
        *,
        emit: Emit,
        is_stopping: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._emit = emit
        self._is_stopping = is_stopping
        self._monotonic = monotonic
        self._held: dict[str, Dataset] = {}  # taken from the queue, and to be tried again
        self._waits = Waits(monotonic)

    def turn(self) -> float | None:
        """Validate the next dataset.

        Gives the seconds after which there may be more to do: 0 for at once, None for when somebody adds a dataset.
        """
        held = next((id for id in self._held if not self._waits.wait_seconds(id)), None)
        dataset = self._held.pop(held) if held is not None else self._store.next_to_validate()
        if dataset is None:
            return min((self._waits.wait_seconds(id) for id in self._held), default=None)
        try:
            self._validate(dataset)
            self._waits.forget(dataset.id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the dataset is not to be lost from sight
            if not isinstance(error, ConnectorError):
                self._emit(BugFound(f"validation of {dataset.id}", trace_of(error)))
            self._held[dataset.id] = dataset
            keep_only(self._store.folder_of(dataset.id), {dataset.original})  # the disk may be full
            wait_seconds = self._waits.postpone(dataset.id, error)
            self._emit(Postponed(f"validation of {dataset.id}", reason_of(error), wait_seconds))
        return 0.0

    def _validate(self, dataset: Dataset) -> None:
        started = self._monotonic()
        try:
            with disk_trouble("write a dataset's parts"):
                outcome = validate(
                    dataset, self._store.folder_of(dataset.id), is_stopped=lambda: self._is_unwanted(dataset.id)
                )
        except StoppedError:
            self._store.requeue(dataset.id)
            return
        except ConnectorError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug costs one dataset, not the service
            self._emit(BugFound(f"validation of {dataset.id}", trace_of(error)))
            outcome = Invalid(INTERNAL_ERROR)
        if isinstance(outcome, Invalid):
            self._store.invalid(dataset.id, error=outcome.error, warnings=outcome.warnings)
            if self._store.has_dataset(dataset.id):  # else it was deleted in the last moment
                self._emit(DatasetFailed(dataset.id, len(outcome.warnings), self._monotonic() - started))
            return
        self._store.validated(dataset.id, parts=outcome.parts, schema=outcome.schema, warnings=outcome.warnings)
        if self._store.has_dataset(dataset.id):
            self._emit(
                DatasetValidated(
                    dataset.id,
                    rows=sum(part.rows for part in outcome.parts),
                    parts=len(outcome.parts),
                    warnings=len(outcome.warnings),
                    seconds=self._monotonic() - started,
                )
            )

    def _is_unwanted(self, id: str) -> bool:
        return self._is_stopping() or not self._store.has_dataset(id)
