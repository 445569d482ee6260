"""Find the highest open-loop Poisson rate at which a target still meets its SLO.

One search for real and simulated targets. `find_max_rate` sends the probes; `judge` says what one
probe means; `rate_from_probes` answers another SLO from probes that were kept.
"""

from __future__ import annotations

from melange_sky.capacity_search.judge import REAL_SEARCH, Probe, SearchOptions, Verdict, judge
from melange_sky.capacity_search.search import ProbeAborted, SearchResult, Target, find_max_rate
from melange_sky.capacity_search.stored import rate_from_probes

__all__ = [
    "REAL_SEARCH",
    "Probe",
    "ProbeAborted",
    "SearchOptions",
    "SearchResult",
    "Target",
    "Verdict",
    "find_max_rate",
    "judge",
    "rate_from_probes",
]
