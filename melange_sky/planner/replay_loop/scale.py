"""Scale all capacities together, up where the fleet holds and down where it misses.

The larger the capacities are taken for, the smaller the fleet that the optimizer chooses. The largest
scale whose fleet holds in replay is looked for by doubling and bisection; that a larger scale's fleet
holds where a smaller one's misses is not looked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.planner.replay_loop.search import LEAST_SAVING

if TYPE_CHECKING:
    from melange_sky.planner.replay_loop.search import Search
    from melange_sky.plans import Plan

STEP = 1.4
SMALLEST_SCALE = 1 / 16
FINE = 1.015
"""Ratio of scales below which no fleet between them is looked for."""

SMALLER = 0.95


def scale_to_hold(search: Search, *, strict: bool = False) -> None:
    """Find the fleet of the largest scale that holds and is sure; `search.cheapest` keeps it.

    With `strict` the optimizer meets the target in every bucket: its fleets leave nothing late, and
    some of them hold where cheaper ones by estimate do not. Raises StopSearchError.
    """
    scaling = _Scaling(search=search, strict=strict)
    scale = scaling.largest_that_holds()
    while scale is not None and not search.confirm():
        scale *= SMALLER
        if scale < SMALLEST_SCALE:
            return
        scaling.holds_at(scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scaling:
    """One search along the scales."""

    search: Search
    strict: bool

    def plan(self, scale: float) -> Plan | None:
        """Return the fleet that the optimizer chooses at a scale."""
        return self.search.plan(self.search.underated, scale=scale, strict=self.strict)

    def holds_at(self, scale: float) -> bool:
        """Return whether the fleet of a scale holds; one that is dearer than a sure one is not asked."""
        plan = self.plan(scale)
        if plan is None:
            return False
        sure = self.search.cheapest
        is_dearer = sure is not None and sure.cost <= plan.cost_usd_per_hour
        return is_dearer or self.search.holds(plan)

    def largest_that_holds(self) -> float | None:
        """Return the largest scale found whose fleet holds, None where none does."""
        if self.holds_at(1.0):
            low, high = self._upwards()
        else:
            low = high = 1.0
            while not self.holds_at(low := low / STEP):
                if low < SMALLEST_SCALE:
                    return None
                high = low
        while high / low > FINE:
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.holds_at(middle) else (low, middle)
        return low

    def _upwards(self) -> tuple[float, float]:
        """Return a scale that holds and one that does not; the same twice where none larger costs less."""
        most = self.search.replanner.largest_scale
        least = self.plan(most)
        low = high = 1.0
        while low < most:
            plan = self.plan(low)
            if plan is None or least is None:
                break
            if plan.cost_usd_per_hour <= least.cost_usd_per_hour + LEAST_SAVING:
                break
            high = min(low * STEP, most)
            if not self.holds_at(high):
                return low, high
            low = high
        return low, low
