"""Have rejected documents looked at again, though neither they nor the recipe have changed.

For what was mended elsewhere: an embedder's or a sink's limit, a policy in the settings of a sink.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from .checkpoint import Checkpoints, Rejected
from .config import Settings
from .errors import ConfigError
from .model import DocumentId, Entry


def retry_rejected(settings: Settings, documents: Sequence[str] = ()) -> list[Rejected]:
    """Let the next sync look again at some rejected documents, or at all; tell which.

    Their lines in the ledgers stay, problem included, but bear no fingerprint any more, as those of documents that
    cannot be read just now. Places that the source cannot read are looked at in each run anyway.

    Raises:
        ConfigError: a document is named that is not rejected; nothing was written.
        LeaseError: a run has the state.
    """
    with closing(Checkpoints.open(settings.state_path)) as checkpoints:
        rejected = [it for it in checkpoints.rejected() if it.sink]
        if unknown := sorted(set(documents) - {it.place for it in rejected}):
            raise ConfigError(f'"{unknown[0]}" is not rejected; `vector-sync rejected` lists those that are')
        chosen = [it for it in rejected if not documents or it.place in documents]
        for sink in dict.fromkeys(it.sink for it in chosen):
            ids = [DocumentId(it.place) for it in chosen if it.sink == sink]
            entries = checkpoints.entries(sink, ids).values()
            checkpoints.commit(sink, [Entry(e.document_id, None, e.content, e.passages, e.problem) for e in entries])
        return chosen
