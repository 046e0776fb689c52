"""vector-sync: keep a vector index in step with your documents."""

__version__ = "0.1.0"
