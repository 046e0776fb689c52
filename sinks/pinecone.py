"""Pinecone: a collection in one namespace of an index, through Pinecone's own client.

Settings only; the client is an extra, and imported when a sink is built. `sinks.pinecone_sink` is the sink.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from connector.errors import ConfigError
from connector.plugins import BuildContext, SinkSettings
from connector.ports import Limits, Sink

from .pinecone_metadata import Oversized, Policies, Unsupported


class PineconeSettings(SinkSettings):
    """Keep the records in Pinecone.

    Limits of one call: 1,000 records and 2 MB (docs.pinecone.io, "Operation limits", read 2026-11).
    """

    kind: Literal["pinecone"] = Field(default="pinecone", description="Pinecone, or an emulator of it")
    api_key: SecretStr | None = Field(default=None, description="the project's key; only emulators ask for none")
    index: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,43}[a-z0-9])?$", description="the index; made if cloud and region are given"
    )
    namespace: str = Field(
        default="docs",
        max_length=480,
        pattern=r"^[\x21-\x7e]*$",
        description='the namespace; "" is the default one, which cannot have generations',
    )
    alias: str | None = Field(
        default=None,
        max_length=512,
        pattern=r"^[^\s/?#%&=\\;+]+$",
        description="a namespace alias that always leads to the live generation",
    )
    host: str | None = Field(
        default=None, pattern=r"^https?://", description="the index's own address; else it is looked up by its name"
    )
    controller_host: str | None = Field(
        default=None, pattern=r"^https?://", description="the control plane's address, of an emulator"
    )
    create: bool = Field(default=True, description="make the index if it is missing; takes cloud and region")
    cloud: str | None = Field(default=None, min_length=1, description="where a new index is made")
    region: str | None = Field(default=None, min_length=1, description="the same")
    metric: Literal["cosine", "dotproduct", "euclidean"] = Field(
        default="cosine", description="how nearness is measured"
    )
    unsupported: Unsupported = Field(
        default="json", description="what becomes of metadata values that Pinecone does not have"
    )
    oversized: Oversized = Field(default="fail", description="what becomes of a record of more than 40 KB")
    timeout_seconds: float = Field(default=60.0, gt=0, description="how long to wait for an answer")
    concurrent_calls: int = Field(default=4, ge=1, le=16, description="how many calls are under way at one time")
    records_per_call: int = Field(default=1000, ge=1, le=1000, description="how many records a call carries at most")
    bytes_per_call: int = Field(
        default=1_900_000, ge=50_000, le=2_000_000, description="how large a call is at most, about"
    )

    def build(self, context: BuildContext) -> Sink:
        try:
            from .pinecone_index import Service  # noqa: PLC0415 - the client is an extra
            from .pinecone_sink import PineconeSink  # noqa: PLC0415 - the same
        except ImportError as error:
            raise ConfigError(
                f'the sink "{context.name}" needs Pinecone\'s client ({error}): pip install "vector-sync[pinecone]"'
            ) from error
        key = self.api_key.get_secret_value().strip() if self.api_key is not None else ""
        if not key and self.host is None and self.controller_host is None:
            raise ConfigError(f'the sink "{context.name}" needs api_key, the key of the project at Pinecone')
        service = Service(
            api_key=key,
            controller_host=self.controller_host,
            host=self.host,
            timeout_seconds=self.timeout_seconds,
        )
        return PineconeSink(
            context,
            service,
            key=key,
            index=self.index,
            namespace=self.namespace,
            alias=self.alias,
            metric=self.metric,
            region=(self.cloud, self.region) if self.create and self.cloud and self.region else None,
            policies=Policies(self.unsupported, self.oversized),
            timeout_seconds=self.timeout_seconds,
            limits=Limits(self.records_per_call, self.bytes_per_call, self.concurrent_calls),
        )
