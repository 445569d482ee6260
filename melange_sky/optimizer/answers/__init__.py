"""What comes out: the optimum, the least cost, baselines, conflicts, reasons, sweeps."""
