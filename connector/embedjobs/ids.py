"""The names that the service gives: to datasets, results and jobs, in the hosted service's form."""

from __future__ import annotations

import re
import secrets
import string
import unicodedata
import uuid
from collections.abc import Callable

SLUG_CHARACTERS = 40  # bounds a folder's name; a dataset's name is below 50
MARK_CHARACTERS = 6
LETTERS = string.ascii_lowercase + string.digits
ID = re.compile(r"[a-z0-9]+(-+[a-z0-9]+)*")


def slug(name: str) -> str:
    """Make a name fit for ids and files: "Sample_File 2" gives "sample-file-2"; never empty."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:SLUG_CHARACTERS].strip("-") or "dataset"


def result_name(name: str) -> str:
    """Name the result of a job on a dataset of that name; the spelling is the hosted service's."""
    return f"embeded-{slug(name)}"


def new_dataset_id(name: str, *, choose: Callable[[str], str] = secrets.choice) -> str:
    """Make an id such as "sample-file-m613zv"; two billion for each name, so the caller looks whether it is taken."""
    return f"{slug(name)}-{''.join(choose(LETTERS) for _ in range(MARK_CHARACTERS))}"


def new_job_id() -> str:
    """Make a UUID."""
    return str(uuid.uuid4())


def is_id(text: str) -> bool:
    """Tell whether a text can be an id, and so a folder's name."""
    return ID.fullmatch(text) is not None
