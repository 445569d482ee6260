"""melange_sky: the cheapest mix of cloud GPUs that serves an LLM within its SLO."""

__version__ = "0.1.0"
