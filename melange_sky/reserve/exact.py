"""The cheapest fleets of all for a group's periods beside a purchase."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InfeasibleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.reserve.known import Known
    from melange_sky.reserve.market import Group, Market
    from melange_sky.reserve.tariff import Tariff

    Floats = NDArray[np.float64]


def learn_cheapest(
    market: Market, known: Known, group: Group, tariff: Tariff, *, is_near: bool = True
) -> float:
    """Learn the cheapest fleets for a group's periods, lowest rates first; return what they cost at least, USD.

    Fleets that are `is_near` to these where the cheapest take long. Raises InfeasibleError, TimeUpError.
    """
    rates, at, least = group.rates_rps, 0, 0.0
    mix = market.question.mixes[group.mix]
    seek = mix.near if is_near else mix.cheapest
    while at < len(rates):
        found = seek(tariff, float(rates[at]))
        if found is None:
            raise InfeasibleError(f"no fleet serves {rates[at]:g} req/s")
        served = known.rate(known.learn(found.fleet), group.mix)
        then = max(at + 1, int(np.searchsorted(rates, served, side="right")))
        least += max(found.bound, 0.0) * (then - at)
        at = then
    return least * market.question.hours_each


def least_costs(market: Market, known: Known, units: Floats) -> Floats:
    """Return what every scenario costs at least with a purchase, (scenarios), USD. Raises as `learn_cheapest` does."""
    costs = np.zeros(len(market.question.scenarios))
    for group in market.groups:
        tariff = market.beside(group, units)
        costs[group.scenario] += learn_cheapest(market, known, group, tariff, is_near=False)
    least: Floats = costs + float(market.usd @ units)
    return least
