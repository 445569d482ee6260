"""Judge simulated or measured requests."""
