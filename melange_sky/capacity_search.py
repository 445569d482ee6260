"""The SLO-bound rate search, one for simulated and real targets."""
