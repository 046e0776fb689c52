"""What tests need, ours and yours: contract kits and emulated services.

| what | where |
|---|---|
| the contracts of plug-ins, as pytest classes | `sources`, `sinks`, `generations`, `embedders`, `jobs`, `stores` |
| a Qdrant and a Pinecone on this machine, that go wrong on request | `qdrant_server`, `pinecone_server` |
| Pinecone's SDK without its pauses | `pinecone_sdk` |

`docs/testing.md` shows how.
"""
