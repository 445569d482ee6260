"""What the advice stands beside: a fleet for the peak, one option alone, and a perfect autoscaler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InfeasibleError
from melange_sky.reserve.covering import Covering
from melange_sky.reserve.known import Known
from melange_sky.reserve.tariff import Tariff

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.reserve.question import Question
    from melange_sky.reserve.search import Search

    Floats = NDArray[np.float64]


def perfect_autoscaler(question: Question) -> float:
    """Return the cost of each period's cheapest fleet of the base case, every used instance-hour at its cheapest.

    Owned instances cost nothing; a purchase counts at what its unit costs per period in which it counts.
    Raises InfeasibleError, TimeUpError.
    """
    base, owned = question.scenarios[0], question.owned_units()
    alike: dict[tuple[int, bytes, bytes], list[int]] = {}
    floors = base.rents[base.price]
    for purchase in question.purchases:
        active = question.active(purchase)
        if purchase.most > 0 and active.any():
            per_hour = purchase.usd / (float(active.sum()) * question.hours_each)
            for option, draw in purchase.draws.items():
                floors[active, option] = np.minimum(floors[active, option], draw * per_hour)
    for t in np.flatnonzero(base.rate_rps > 0).tolist():
        key = (int(question.mix[t]), floors[t].tobytes(), owned[t].tobytes())
        alike.setdefault(key, []).append(t)
    total = 0.0
    for (mix, _, _), members in alike.items():
        tariff = Tariff(free=owned[members[0]], full=floors[members[0]])
        rates, at = np.sort(base.rate_rps[members]), 0
        while at < len(rates):
            found = question.mixes[mix].cheapest(tariff, float(rates[at]))
            if found is None:
                raise InfeasibleError(f"no fleet serves {rates[at]:g} req/s")
            served = question.mixes[mix].rate(found.fleet)
            then = max(at + 1, int(np.searchsorted(rates, served, side="right")))
            total += found.cost * (then - at) * question.hours_each
            at = then
    return total


def whole_span_prices(question: Question) -> Floats:
    """Return what an instance of each option costs all the time in the base case, at its cheapest, USD."""
    base = question.scenarios[0]
    prices: Floats = base.rents[base.price].sum(axis=0) * question.hours_each
    for purchase in question.purchases:
        if purchase.most > 0 and question.active(purchase).all():
            for option, draw in purchase.draws.items():
                prices[option] = min(prices[option], draw * purchase.usd)
    return prices


def peak_held(question: Question) -> float:
    """Return the cost of the cheapest fleet that serves every period of the base case, all of it all the time.

    What is owned throughout costs nothing. Raises TimeUpError.
    """
    base = question.scenarios[0]
    tariff = Tariff(free=question.owned_units().min(axis=0), full=whole_span_prices(question))
    peaks = {
        m: float(base.rate_rps[question.mix == m].max(initial=0.0))
        for m in range(len(question.mixes))
    }
    peaks = {m: rate for m, rate in peaks.items() if rate > 0}
    if not peaks:
        return 0.0
    fleets = {}
    for m, rate in peaks.items():
        found = question.mixes[m].cheapest(tariff, rate)
        if found is None:
            raise InfeasibleError(f"no fleet serves {rate:g} req/s")
        fleets[m] = found
    if len(fleets) == 1:
        return next(iter(fleets.values())).cost
    # A fleet for several mixes keeps to each one's rows at the level that was cheapest for it alone.
    most = np.max([np.ceil(question.mixes[m].most * rate) for m, rate in peaks.items()], axis=0)
    levels = {m: question.mixes[m].level_of(found.fleet) for m, found in fleets.items()}
    while True:
        known = sum(len(level.worths) for level in levels.values())
        worths = np.vstack([levels[m].worths / rate for m, rate in peaks.items()])
        joint = Covering(worths=worths, most=most).cheapest(
            tariff, np.inf, question.mixes[0].deadline
        )
        if joint is None:
            raise InfeasibleError("no fleet serves the highest rate of every mix")
        able = [levels[m].rate(joint.fleet) >= rate * (1 - 1e-7) for m, rate in peaks.items()]
        if all(able) or known == sum(len(level.worths) for level in levels.values()):
            return joint.cost


def best_alone(search: Search) -> tuple[float, int] | None:
    """Return the least cost of the base case with one option alone and its best purchase, and which option.

    None where none serves alone. With one option a period's instances are given, and the cost is convex in what is
    bought, so that single steps and exchanges lead to the least. Raises TimeUpError.
    """
    market, mixes = search.market, search.market.question.mixes
    best: tuple[float, int] | None = None
    for option in range(len(market.question.options)):
        one = np.zeros(len(market.question.options))
        one[option] = 1.0
        rates = [mix.rate(one) for mix in mixes]
        asked = [float(g.rates_rps[-1]) / rates[g.mix] for g in market.groups if rates[g.mix] > 0]
        if len(asked) < len(market.groups):
            continue
        known = Known(mixes)
        for count in range(int(np.ceil(max(asked, default=0.0))) + 1):
            known.put(one * count, np.array(rates) * count)
        alone = search.among(known)
        cost = alone.by_steps()
        if best is None or cost < best[0]:
            best = (cost, option)
    return best
