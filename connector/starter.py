"""The settings file that `vector-sync init` writes: short, with what most people change first.

`config.example.toml` shows every setting; a test holds both to the settings there are.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

StarterKind: TypeAlias = Literal["files", "table"]

_SOURCE: Final[dict[StarterKind, str]] = {
    "files": """\
[source]
kind = "files"                        # the files of a folder: Markdown, HTML or plain text
path = "docs"                         # the folder
include = ["**/*.md", "**/*.txt"]     # which of its files
""",
    "table": """\
[source]
kind = "table"                        # rows of JSONL, CSV or Parquet files
path = "data/*.jsonl"                 # a file, or a pattern for several
id_field = "id"                       # the field with the document's id
text_field = "text"                   # the field with the text that is embedded
keep_fields = []                      # metadata that every document must have, such as ["title", "url"]
optional_fields = []                  # metadata that is kept where a document has it
""",
}

_REST: Final = """
[embedder]
kind = "local"                        # a model on this machine: no key, no network

[sinks.main]                          # one section for each index; "main" is a name of your choice
kind = "qdrant-edge"                  # Qdrant's engine, embedded: a folder, no server
path = "state/index"
collection = "docs"

[state]
path = "state"                        # what has been synced, and the vectors: keep it between runs

[sync]
max_delete_fraction = 0.1             # a run that would delete more of the documents stops and asks
"""

_HEAD: Final = """\
# vector-sync: keeps a vector index in step with your documents.
#
#     vector-sync check     is everything there?
#     vector-sync plan      what would a sync do?
#     vector-sync sync      do it
#
# Paths are relative to this file. Every setting can also come from the environment, which wins:
# VECTOR_SYNC_SYNC__MAX_DELETE_FRACTION=0.2. Secrets come from there only, never from this file.

"""


def starter(kind: StarterKind) -> str:
    """Write the file for one kind of source."""
    return _HEAD + _SOURCE[kind] + _REST
