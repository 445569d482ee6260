"""What a caller may ask of the planner beyond the spec."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer import SolveOptions
from melange_sky.pricing import OfferQuery
from melange_sky.spec import DICT_PATH

if TYPE_CHECKING:
    from collections.abc import Callable

    from melange_sky.offers import ReservedNodes
    from melange_sky.plans.reuse import Routing
    from melange_sky.spec import SpecSource


SEARCH_FRACTION = 0.7
"""Of the time limit, where a fleet was found; baselines and the cost band need the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """How to plan a spec. `price_error` is the fraction by which prices may move, `confidence` the
    probability with which each estimated capacity shall be reached, `engine_generation` the constants
    of estimates (None: those of the engine's version).

    `hits` are, by model, what options' replicas find in their prefix caches (`planner.hits`), under a gateway with such
    `affinity` (session or off); none by default.
    `reserved` nodes are counted as free instead of those that SkyPilot would be asked for (None).
    `progress` is called during long work (done, total).
    """

    prices: OfferQuery = field(default_factory=OfferQuery)
    allow_flagged: bool = False
    solve: SolveOptions = field(default_factory=SolveOptions)
    sensitivity: bool = True
    price_error: float = 0.0
    confidence: float = 0.5
    engine_generation: str | None = None
    as_needed: bool = False
    hits: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    affinity: Routing = "session"
    reserved: tuple[ReservedNodes, ...] | None = None
    progress: Callable[[int, int], None] | None = None

    def started(self) -> PlanRequest:
        """Return the request with the time for all solving running: plan, baselines, cost band."""
        solve = replace(self.solve.started(), search_fraction=SEARCH_FRACTION)
        return replace(self, solve=solve)


def launching(spec: SpecSource) -> str:
    """Return what launches the measuring jobs of a spec; one given as a mapping is to be put into a file."""
    if isinstance(spec, Mapping) or spec == DICT_PATH:
        return "melange-sky profile launch SPEC.yaml"
    return f"melange-sky profile launch {shlex.quote(str(spec))}"
