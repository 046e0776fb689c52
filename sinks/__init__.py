"""Sinks: one vector database a file. The contract is `connector.ports.Sink`."""
