"""Find the highest open-loop Poisson rate at which a target still meets its SLO.

One search for real and simulated targets. `find_max_rate` sends the probes; `judge` says what one
probe means, and judges stored probes anew for another SLO.
"""

from __future__ import annotations

from melange_sky.capacity_search.judge import Probe, SearchOptions, Verdict, judge
from melange_sky.capacity_search.search import ProbeAborted, SearchResult, Target, find_max_rate

__all__ = [
    "Probe",
    "ProbeAborted",
    "SearchOptions",
    "SearchResult",
    "Target",
    "Verdict",
    "find_max_rate",
    "judge",
]
