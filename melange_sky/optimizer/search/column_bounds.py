"""Which options a fleet of a known cost can hold at all: the rest need not enter the program.

Were instances divisible, each bucket b would cost at least π_b = min_k price_k × load_bk ÷ usable,
and Σ π_b bounds every fleet's cost from below. For any π, and so for this one, relaxing "every
bucket is served" with π as the price of doing so gives the bound

    Σ_b π_b + Σ_k min over n_k of (price_k × n_k − the most π-value that n_k instances can carry)

whose terms here are all at least 0 and do not fall with n_k. An option of which one instance wastes
more than a known cost leaves above Σ π_b is in no fleet of that cost. (Lagrangian relaxation and
reduced-cost fixing: Geoffrion, Mathematical Programming Study 2, 1974.) All other constraints only
make fleets dearer, so the bound holds under them, except where one changes the goal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.rules.registry import RuleSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem, SolveOptions

_SLACK = 1e-6
"""Relative room for what the solver's tolerances let pass."""

MOST_COUNTED = 10_000
"""Instances of one column beyond which nobody counts one by one; see `equal_cost.py`."""


def worth_a_look(
    canonical: Canonical, problem: Problem, options: SolveOptions, most_usd_per_hour: float
) -> list[int]:
    """Return the indices of the columns that a fleet of at most this cost can hold.

    All of them where a rule makes the goal another than the cost.
    """
    everything = list(range(len(canonical.columns)))
    if not RuleSet.of(problem, options).goal_is_cost:
        return everything
    bound, waste = 0.0, np.zeros(len(everything))
    for indices, prices, loads, values in _by_demand(canonical, problem):
        bound += float(values.sum())
        waste[indices] = prices - _most_value(loads, values)
    room = _room(most_usd_per_hour, bound)
    return [k for k in everything if waste[k] <= room]


def least_possible(canonical: Canonical, problem: Problem) -> float:
    """Return a bound of every fleet's cost from below: were instances divisible."""
    return sum(float(values.sum()) for _, _, _, values in _by_demand(canonical, problem))


def wastes(
    canonical: Canonical, problem: Problem, most_usd_per_hour: float
) -> tuple[float, list[list[float]]]:
    """Return what a fleet of at most this cost may waste, and what 0, 1, … of each column waste.

    Each column's list ends with the most instances that such a fleet can hold.
    """
    bound, wasted = 0.0, [[0.0] for _ in canonical.columns]
    parts = list(_by_demand(canonical, problem))
    for _, _, _, values in parts:
        bound += float(values.sum())
    room = _room(most_usd_per_hour, bound)
    for indices, prices, loads, values in parts:
        for k, price, load in zip(indices, prices.tolist(), loads, strict=True):
            count = np.arange(1.0, min(most_usd_per_hour / price, MOST_COUNTED) + 1.0)
            able = np.flatnonzero(np.isfinite(load))
            order = able[np.argsort(-(values[able] / load[able]), kind="stable")]
            carried = np.interp(
                count,
                np.concatenate(([0.0], np.cumsum(load[order]))),
                np.concatenate(([0.0], np.cumsum(values[order]))),
            )
            waste = price * count - carried
            wasted[k] += waste[waste <= room].tolist()
    return room, wasted


def _by_demand(
    canonical: Canonical, problem: Problem
) -> Iterator[tuple[list[int], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """Yield each demand's columns, their prices, their loads per usable instance, and the π."""
    for demand in range(len(canonical.demands)):
        indices = canonical.of_demand(demand)
        if not indices or not canonical.buckets[demand]:
            continue
        loads = canonical.least_loads(indices) / (1 - problem.headroom)
        prices = np.array([canonical.columns[k].price for k in indices])
        yield indices, prices, loads, (prices[:, None] * loads).min(axis=0)


def _room(most_usd_per_hour: float, bound: float) -> float:
    return most_usd_per_hour - bound + _SLACK * max(1.0, most_usd_per_hour)


def _most_value(loads: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, per option, the most value that one full instance carries: the best buckets first.

    `loads` has shape (options × buckets) in instances, inf where an option cannot serve.
    """
    able = np.isfinite(loads)
    filled = np.where(able, loads, 0.0)
    density = np.divide(values, loads, out=np.zeros_like(loads), where=able)
    order = np.argsort(-density, axis=1, kind="stable")
    filled = np.take_along_axis(filled, order, axis=1)
    before = np.cumsum(filled, axis=1) - filled
    taken = np.clip(1.0 - before, 0.0, filled)
    worth: NDArray[np.float64] = (taken * np.take_along_axis(density, order, axis=1)).sum(axis=1)
    return worth
