"""Embedders: what turns texts into vectors. The contract is `connector.ports.Embedder`."""
