"""Find the highest open-loop Poisson rate at which a target still meets its SLO.

One search for real and simulated targets. `find_max_rate` sends the probes; `probe_verdict` says what one
probe means; `rate_from_probes` answers another SLO from probes that were kept; `choose_size` says
which request size to measure next and when enough is known.
"""

from __future__ import annotations

from melange_sky.capacity_search.probe_verdict import (
    REAL_SEARCH,
    Probe,
    ProbeVerdict,
    SearchOptions,
    judge,
    surely_fails,
)
from melange_sky.capacity_search.search import ProbeAborted, SearchResult, Target, find_max_rate
from melange_sky.capacity_search.sizes import (
    MeasuredRate,
    NextSize,
    SizeDemand,
    choose_size,
    even_demand,
    inferred_rates,
    plan_sizes,
    predicted_rates,
    search_near,
)
from melange_sky.capacity_search.stored import rate_from_probes
from melange_sky.capacity_search.surface import (
    FARTHEST_SD,
    RatioPoint,
    ratio_surface,
    reaches_any,
)

__all__ = [
    "FARTHEST_SD",
    "REAL_SEARCH",
    "MeasuredRate",
    "NextSize",
    "Probe",
    "ProbeAborted",
    "ProbeVerdict",
    "RatioPoint",
    "SearchOptions",
    "SearchResult",
    "SizeDemand",
    "Target",
    "choose_size",
    "even_demand",
    "find_max_rate",
    "inferred_rates",
    "judge",
    "plan_sizes",
    "predicted_rates",
    "rate_from_probes",
    "ratio_surface",
    "reaches_any",
    "search_near",
    "surely_fails",
]
