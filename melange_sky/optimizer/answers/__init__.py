"""What is told: the optimum, the least cost, baselines, conflicts, reasons, sweeps."""
