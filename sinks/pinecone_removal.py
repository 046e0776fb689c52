"""Take away what is ours in a namespace, and the namespace itself only if nobody else has anything in it.

    what                     is removed
    -----------------------  -----------------------------------------------------------------------------------
    our records, our marker  always: by our mark, so whatever else is there stays, another sync's marker included
    the namespace            of generation N, NAMESPACE@N, which we have made: if a list of it shows it empty
                             of generation 1, never: whoever named it in the settings may keep other things there
    the index INDEX-N        if it bears our tags, its namespace was removed, and the index counts no records in others

Pinecone is eventually consistent, so a list that is empty may only be late. But the writes to a namespace have an
order, and who sees one sees those before it (docs.pinecone.io, "Check data freshness", read 2026-11). So a record of
ours is written last, and a list that shows it, and nothing else, shows all that was written before. What a stranger
writes in the moment between that list and the removal goes with the namespace; its name says whose it is.
"""

from __future__ import annotations

from typing import Final
from uuid import uuid4

from pinecone import errors

from connector.errors import TransientError
from connector.model import RESERVED_PREFIX
from connector.retry import Retry

from .pinecone_filters import all_of
from .pinecone_index import IndexFacts
from .pinecone_places import Notes
from .pinecone_reading import Reading
from .pinecone_records import RecordFormat

LAST: Final = f"{RESERVED_PREFIX}last"


def clear(notes: Notes, format: RecordFormat) -> bool:
    """Delete our records and notes; False if there is no such namespace.

    The marker goes first: what a kill leaves without it is not taken for a whole generation.
    """
    notes.delete(format.marker_id)
    try:
        notes.client.delete(filter=all_of(format.owner), namespace=notes.namespace, timeout=notes.timeout_seconds)
    except errors.NotFoundError:
        return False
    return True


def remove_if_empty(notes: Notes, format: RecordFormat, facts: IndexFacts, until_seen: Retry) -> bool:
    """Delete a namespace that `clear` has left, if nobody else has records in it; tell whether it is gone.

    TransientError if what was written to it cannot be listed yet.
    """
    if facts.dimension is None:
        return False  # an emulator that does not say what could be written
    reading = Reading(notes.client, notes.namespace, notes.timeout_seconds)
    last = format.last_id(uuid4().hex)
    notes.put(last, {LAST: True}, facts)

    def see() -> None:
        if last not in reading.page(None, prefix=last)[0]:
            raise TransientError("what was deleted from Pinecone may still be there; the next run goes on")

    until_seen(f"list what is left in the namespace {notes.namespace}", see)
    if reading.page(None) != ([last], None):
        notes.delete(last)
        return False
    notes.client.delete_namespace(name=notes.namespace, timeout=notes.timeout_seconds)
    return True
