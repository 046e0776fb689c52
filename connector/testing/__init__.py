"""Contract kits: how a source, a sink, an embedder or a store is known to be right."""
