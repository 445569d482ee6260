"""`plan.json`: the plan on disk, written and read back without loss."""
