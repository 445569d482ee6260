"""Which options a fleet of a known cost can hold at all: the rest need not enter the program.

Were instances divisible, each bucket b would cost at least π_b = min_k price_k × load_bk ÷ usable,
and Σ π_b bounds every fleet's cost from below. For any π, and so for this one, relaxing "every
bucket is served" with π as the price of doing so gives the bound

    Σ_b π_b + Σ_k min over n_k of (price_k × n_k − the most π-value that n_k instances can carry)

whose terms here are all at least 0 and do not fall with n_k. An option of which one instance wastes
more than a known cost leaves above Σ π_b is in no fleet of that cost. (Lagrangian relaxation and
reduced-cost fixing: Geoffrion, Mathematical Programming Study 2, 1974.) All other constraints only
make fleets dearer, so the bound holds under them, except where one changes the goal.

Where requests may be late, each is charged λ for what it takes of the misses that the target allows:
π_b = min over k and ways of price_k × load_bk ÷ usable + λ × missed_b, the bound is Σ π_b − λ × allowed,
and a late share is worth λ × missed_b less to carry. Every λ ≥ 0 gives a bound; the best one is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from melange_sky.optimizer.rules.registry import RuleSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem, SolveOptions

    Floats = NDArray[np.float64]

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
    known, waste = Waste.of(canonical, problem), np.zeros(len(everything))
    for part in known.parts:
        waste[part.indices] = part.prices - _most_value(part.loads, part.values)
    room = _room(most_usd_per_hour, known.bound)
    return [k for k in everything if waste[k] <= room]


def least_goal(canonical: Canonical, problem: Problem, options: SolveOptions) -> float:
    """Return a bound of every fleet's goal from below, 0 where a rule makes it another than the cost."""
    is_cost = RuleSet.of(problem, options).goal_is_cost
    return max(0.0, Waste.of(canonical, problem).bound) if is_cost else 0.0


class Waste(NamedTuple):
    """What instances of each column must waste, and the bound of every fleet's cost from below."""

    columns: int
    parts: tuple[_Part, ...]
    bound: float

    @classmethod
    def of(cls, canonical: Canonical, problem: Problem) -> Waste:
        """Look at every column of a problem, once."""
        known: Waste | None = canonical.learned.get(problem.headroom)
        if known is None:
            parts = tuple(_by_demand(canonical, problem))
            known = cls(len(canonical.columns), parts, sum(part.bound for part in parts))
            canonical.learned[problem.headroom] = known
        return known

    def of_counts(self, most_usd_per_hour: float) -> tuple[float, list[list[float]]]:
        """Return what a fleet of at most this cost may waste, and what 0, 1, … of each column waste.

        Each column's list ends with the most instances that such a fleet can hold.
        """
        room = _room(most_usd_per_hour, self.bound)
        wasted = [[0.0] for _ in range(self.columns)]
        for part in self.parts:
            values = part.values
            for k, price, load in zip(part.indices, part.prices.tolist(), part.loads, strict=True):
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


class _Part(NamedTuple):
    """One demand: its columns, their prices, and the loads that each bucket fills in each way.

    `loads`, (columns × ways of buckets), are per usable instance, inf where a column cannot serve so;
    `values`, (ways of buckets,), are what carrying one is worth, and `bound` the least cost of all.
    """

    indices: list[int]
    prices: Floats
    loads: Floats
    values: Floats
    bound: float


def _by_demand(canonical: Canonical, problem: Problem) -> Iterator[_Part]:
    for d, buckets in enumerate(canonical.buckets):
        indices = canonical.of_demand(d)
        if not indices or not buckets:
            continue
        columns = [canonical.columns[k] for k in indices]
        prices = np.array([column.price for column in columns])
        if any(column.may_be_late for column in columns):
            yield _with_late(canonical, problem, d, indices, prices)
            continue
        loads = canonical.least_loads(indices) / (1 - problem.headroom)
        values = (prices[:, None] * loads).min(axis=0)
        yield _Part(indices, prices, loads, values, float(values.sum()))


def _with_late(
    canonical: Canonical, problem: Problem, d: int, indices: list[int], prices: Floats
) -> _Part:
    """Return the part of a demand of which some requests may be late."""
    demand, rates = canonical.demands[d], np.array([b.rate_rps for b in canonical.buckets[d]])
    loads = canonical.loads_by_way(indices) / (1 - problem.headroom)
    weights = np.array([demand.way_weight(way) for way in range(loads.shape[1])])
    missed = weights[:, None] * rates
    allowed = demand.may_miss_fraction * float(rates.sum())
    least = (prices[:, None, None] * loads).min(axis=0)

    price = _best_price(least, missed, allowed)
    worth = (least + price * missed).min(axis=0)
    bound = float(worth.sum()) - price * allowed
    values = np.maximum(worth - price * missed, 0.0)
    flat = loads.reshape(len(indices), -1)
    return _Part(indices, prices, flat, values.ravel(), bound)


def _best_price(least: Floats, missed: Floats, allowed: float) -> float:
    """Return the price of a miss whose bound is the highest.

    The bound rises up to there, then falls, and bends only where two ways of a bucket cost the same.
    """
    ways = range(len(least))
    with np.errstate(invalid="ignore", divide="ignore"):
        bends = [
            (least[a] - least[b]) / (missed[b] - missed[a]) for a in ways for b in ways if a < b
        ]
    known = np.concatenate(bends)
    prices: list[float] = sorted({0.0, *known[np.isfinite(known) & (known > 0)].tolist()})
    low, high = 0, len(prices) - 1
    while low < high:
        middle = (low + high) // 2
        way = (least + (prices[middle] + prices[middle + 1]) / 2 * missed).argmin(axis=0)
        rises = np.take_along_axis(missed, way[None], axis=0).sum() > allowed
        low, high = (middle + 1, high) if rises else (low, middle)
    return float(prices[low])


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
