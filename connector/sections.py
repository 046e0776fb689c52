"""The sections of a settings file that no plug-in reads, each with its defaults; `config` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from .crontab import check_cron, check_time_zone
from .durations import parse_duration


class StateSettings(BaseModel):
    """Where the checkpoint and the vectors are, and how many vectors are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    path: Path = Field(default=Path("state"), description="folder of the checkpoint and the vector store")
    keep: Literal["all", "undelivered"] = Field(
        default="all",
        description="which vectors stay after a run: all of them, or only those that a sink has yet to get",
    )
    max_bytes: int | None = Field(default=None, ge=0, description="size cap of the vector store; none by default")


class SyncSettings(BaseModel):
    """Whose records these are, and how many documents a run may delete unasked."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(default="default", min_length=1, description="marks this sync's records in a shared collection")
    max_delete_fraction: float = Field(default=0.1, ge=0, le=1, description="of a sink's documents, per run")
    min_delete_count: int = Field(default=20, ge=0, description="that many documents may always be deleted")
    max_tokens: int | None = Field(default=None, ge=0, description="that a run may have embedded; none by default")
    max_cost: float | None = Field(default=None, ge=0, description="the same, in the price's currency")
    ask_above_cost: float | None = Field(default=1.0, ge=0, description="a first run that costs more asks")
    switch: Literal["auto", "manual"] = Field(
        default="auto",
        description="when readers get a new generation: as soon as it is in step and verified, or when they are sent",
    )


class EmbedJobsSettings(BaseModel):
    """The self-hosted Embed Jobs service. A sync does not read this section, and the service reads no other."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str = Field(default="127.0.0.1", description="where it listens; anything but this machine needs a key")
    port: int = Field(default=8080, ge=0, le=65535, description="0 takes a free one, and says which")
    path: Path = Field(default=Path("embed-jobs"), description="folder of its datasets, jobs and results")
    api_key: SecretStr | None = Field(default=None, description="what clients must send; none by default")
    public_url: str | None = Field(
        default=None,
        description="how clients reach it, for links to results; by default, what they called it by",
    )
    aliases: Mapping[str, str] = Field(
        default_factory=dict,
        description="other names that clients may ask for, each with the model that answers; none by default",
    )
    threads: int = Field(default=0, ge=0, description="CPU threads for one forward; 0 takes all cores it may run on")
    retention_days: int = Field(default=30, ge=1, description="datasets and results older than that are deleted")
    max_dataset_bytes: int = Field(default=1_500_000_000, ge=1, description="of one upload")
    max_storage_bytes: int = Field(default=10_000_000_000, ge=1, description="of all datasets and results")
    max_open_jobs: int = Field(default=100, ge=1, description="more are answered with 429, and welcome later")
    max_queued_datasets: int = Field(default=100, ge=1, description="the same, for uploads that wait for validation")


class ServiceSettings(BaseModel):
    """The long-running service: where it listens, and when its syncs run. `vector-sync serve` reads it.

    In a folder of settings files, those that are of the whole service stand in `service.toml`; the others there are
    defaults, and each sync's own file may have others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    OF_THE_WHOLE: ClassVar = frozenset({"host", "port", "token", "show", "grace_seconds", "log_level"})

    host: str = Field(default="127.0.0.1", description="where it listens; 0.0.0.0 for every address of the machine")
    port: int = Field(default=8090, ge=0, le=65535, description="0 takes a free one, and says which")
    token: SecretStr | None = Field(
        default=None, description="what POST /run, /pause and /resume ask for; without one they are off"
    )
    show: Literal["counts", "names", "text"] = Field(
        default="names",
        description="what the status page may show of documents: numbers; names and reasons of the rejected; "
        "or also their text, by a search box",
    )
    interval: str = Field(default="5m", description='from the end of a run to the next: "90s", "5m", "1h30m"')
    cron: str | None = Field(default=None, description='the times of the runs instead: "*/15 * * * *"')
    time_zone: str = Field(default="UTC", description="in which cron and reconcile are meant")
    jitter: float = Field(default=0.1, ge=0, le=1, description="of the interval, at most, added to it by chance")
    watch: bool = Field(default=True, description="run soon after a file has changed, where the source is files")
    reconcile: str | None = Field(
        default=None, description='when every record is compared with what was written: "0 3 * * SUN"'
    )
    repair: bool = Field(default=True, description="whether a reconcile also mends what it finds")
    grace_seconds: float = Field(default=25.0, ge=1, description="for what is under way when the service is stopped")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="how much is logged; each document by name only at debug"
    )

    @field_validator("interval", mode="before")
    @classmethod
    def _is_a_duration(cls, value: object) -> str:
        if not isinstance(value, str | int | float):
            raise ValueError("should be a length of time")  # noqa: TRY004 - pydantic tells ValueErrors
        parse_duration(value)
        return str(value)

    @field_validator("cron", "reconcile")
    @classmethod
    def _is_a_crontab(cls, value: str | None) -> str | None:
        return None if value is None else check_cron(value)

    @field_validator("time_zone")
    @classmethod
    def _is_a_time_zone(cls, value: str) -> str:
        return check_time_zone(value)

    @model_validator(mode="after")
    def _has_one_timetable(self) -> ServiceSettings:
        if self.cron is not None and "interval" in self.model_fields_set:
            raise ValueError("has both interval and cron; leave one of them out")
        return self

    @property
    def interval_seconds(self) -> float:
        """The interval as a number."""
        return parse_duration(self.interval)
