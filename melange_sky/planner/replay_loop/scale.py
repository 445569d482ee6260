"""Scale all capacities together, up where the fleet holds and down where it misses.

The larger the capacities are taken for, the smaller the fleet that the optimizer chooses. The largest
scale whose fleet holds in replay is looked for by doubling and bisection; that a larger scale's fleet
holds where a smaller one's misses is not looked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.planner.replay_loop.search import LEAST_SAVING

if TYPE_CHECKING:
    from melange_sky.planner.replay_loop.search import Search

STEP = 1.4
SMALLEST_SCALE = 1 / 16
FINE = 1.015
"""Ratio of scales below which no fleet between them is looked for."""

SMALLER = 0.95


def scale_to_hold(search: Search) -> None:
    """Find the fleet of the largest scale that holds and is sure; `search.cheapest` keeps it.

    Raises StopSearchError.
    """
    scale = _largest_that_holds(search)
    while scale is not None and not search.confirm():
        scale *= SMALLER
        if scale < SMALLEST_SCALE:
            return
        _holds_at(search, scale)


def _holds_at(search: Search, scale: float) -> bool:
    plan = search.plan(search.underated, scale=scale)
    return plan is not None and search.holds(plan)


def _largest_that_holds(search: Search) -> float | None:
    """Return the largest scale found whose fleet holds, None where none does."""
    if _holds_at(search, 1.0):
        low, high = _upwards(search)
    else:
        low = high = 1.0
        while not _holds_at(search, low := low / STEP):
            if low < SMALLEST_SCALE:
                return None
            high = low
    while high / low > FINE:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _holds_at(search, middle) else (low, middle)
    return low


def _upwards(search: Search) -> tuple[float, float]:
    """Return a scale that holds and one that does not; the same twice where none larger costs less."""
    most = search.replanner.largest_scale
    least = search.plan(search.underated, scale=most)
    low = high = 1.0
    while low < most:
        plan = search.plan(search.underated, scale=low)
        if plan is None or least is None:
            break
        if plan.cost_usd_per_hour <= least.cost_usd_per_hour + LEAST_SAVING:
            break
        high = min(low * STEP, most)
        if not _holds_at(search, high):
            return low, high
        low = high
    return low, low
