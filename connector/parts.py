"""What a sync is put together from, and what the operator decides about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .checkpoint import Checkpoints
from .lanes import PATIENCE_SECONDS
from .money import Ceilings
from .passages import PassageSplitter
from .plan import DeleteGuard, Recipe
from .ports import Embedder, Sink, Source
from .vectors import Keep, SqliteVectors


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator decides for a run."""

    max_delete_fraction: float = 0.1
    min_delete_count: int = 20  # that many documents may always be deleted
    confirm_deletes: int | None = None  # up to so many documents may be deleted in this run
    accept_reembed: bool = False  # the embedder or the splitter changed, and that is meant
    keep_vectors: Keep = "all"
    max_vector_bytes: int | None = None
    ceilings: Ceilings = field(default_factory=Ceilings)  # what embedding may cost
    threads: bool = True  # for sinks that are services, and for their calls; without, a run is the same each time
    wait_for_jobs: bool = True  # without, embed jobs that run are left to a later run, and so are their documents
    plan_jobs: bool = True  # without, what is much is embedded at once, too
    patience_seconds: float = PATIENCE_SECONDS  # see `lanes.Lanes.make_room`

    @property
    def guard(self) -> DeleteGuard:
        """The guard that these options ask for."""
        return DeleteGuard(self.max_delete_fraction, self.min_delete_count, self.confirm_deletes)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a sync is put together from. Checkpoints that are open for writing hold the lease."""

    source: Source
    embedder: Embedder
    splitter: PassageSplitter
    sinks: Sequence[Sink]
    checkpoints: Checkpoints
    vectors: SqliteVectors
    source_settings: str  # all that decides what `fetch` makes of a document

    @property
    def recipe(self) -> Recipe:
        """All that turns a document into records, except the document."""
        return Recipe(self.embedder.identity, self.splitter.identity, self.source_settings)
