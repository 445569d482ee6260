"""The cheapest path of fleets through the periods where starting costs and what started must run for a while.

A period's fleet is one of the frontier's. An instance that starts is billed for its start-up; none is stopped
within `least` periods of the last start in its fleet, which keeps every instance's minimum run time. The path is
found by dynamic programming over (period × fleet × periods since the last start).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """The cost in USD and each period's fleet, a place in the frontier."""

    cost_usd: float
    places: NDArray[np.intp]


def cheapest_path(
    fleets: Floats, costs: Floats, starts: Callable[[int], Floats], least: int
) -> Path:
    """Return the cheapest path through fleets, (fleets × options), the first all zero: what ran before.

    `costs`, (periods × fleets), is what a fleet costs in a period, inf where it does not serve; `starts` gives,
    for a period, what it costs to come from one fleet to another there, (fleets × fleets).
    """
    more = (fleets[None] > fleets[:, None]).any(axis=2)  # [from, to]: something starts
    less = (fleets[None] < fleets[:, None]).any(axis=2)
    count, old = len(fleets), max(least, 1) - 1
    value = np.full((old + 1, count), np.inf)
    value[old, 0] = 0.0
    came = np.zeros((len(costs), old + 1, count, 2), dtype=np.int32)  # age and fleet before
    for t, cost in enumerate(costs):
        start = starts(t)
        fresh = np.full((old + 1, count), np.inf)
        youngest = value.argmin(axis=0)
        least_value = value[youngest, np.arange(count)]
        for ages, values, allowed in (
            (youngest, least_value, ~less),
            (np.full(count, old), value[old], less),
        ):
            for age, kind in ((0, more), (old, ~more)):
                if kind is not more and allowed is not less:
                    continue  # the same fleet: below, by age
                reached = np.where(allowed & kind, values[:, None] + start, np.inf)
                before = reached.argmin(axis=0)
                best = reached[before, np.arange(count)]
                better = best < fresh[age]
                fresh[age][better] = best[better]
                came[t, age, better, 0] = ages[before[better]]
                came[t, age, better, 1] = before[better]
        for age in range(old + 1):
            then = min(age + 1, old)
            better = value[age] < fresh[then]
            fresh[then][better] = value[age][better]
            came[t, then, better, 0] = age
            came[t, then, better, 1] = np.flatnonzero(better)
        value = fresh + cost
    age, place = divmod(int(value.argmin()), count)
    total = float(value[age, place])
    places = np.zeros(len(costs), dtype=np.intp)
    for t in range(len(costs) - 1, -1, -1):
        places[t] = place
        age, place = came[t, age, place]
    return Path(cost_usd=total, places=places)
