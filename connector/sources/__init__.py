"""Sources: where documents come from. The contract is `connector.ports.Source`."""
