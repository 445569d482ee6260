"""What the advice stands beside: a fleet for the peak, one option alone, and a perfect autoscaler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InfeasibleError
from melange_sky.reserve.known import Known
from melange_sky.reserve.tariff import SURE, Pool, Tariff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.question import Purchase, Question
    from melange_sky.reserve.search import Search
    from melange_sky.reserve.serving import Served

    Floats = NDArray[np.float64]

_ROUNDING = 1e-9


def perfect_autoscaler(question: Question) -> float:
    """Return the cost of each period's cheapest fleet of the base case, every used instance-hour at its cheapest.

    Owned instances cost nothing; a purchase counts at what its unit costs per period in which it counts.
    Raises InfeasibleError, TimeUpError.
    """
    base, owned = question.scenarios[0], question.owned_units()
    alike: dict[tuple[int, bytes, bytes, bytes], list[int]] = {}
    shared = [(p, question.active(p)) for p in question.shared]
    floors = base.rents[base.price]
    for purchase in question.purchases:
        active = question.active(purchase)
        if purchase.most > 0 and active.any():
            per_hour = purchase.usd / (float(active.sum()) * question.hours_each)
            for option, draw in purchase.draws.items():
                floors[active, option] = np.minimum(floors[active, option], draw * per_hour)
    for t in np.flatnonzero(base.rate_rps > 0).tolist():
        there = bytes(int(active[t]) for _, active in shared)
        key = (int(question.mix[t]), floors[t].tobytes(), owned[t].tobytes(), there)
        alike.setdefault(key, []).append(t)
    total = 0.0
    for (mix, _, _, _), members in alike.items():
        first = members[0]
        there_then = [p for p, active in shared if active[first]]
        tariff = _at_prices(owned[first], floors[first], there_then)
        rates, at = np.sort(base.rate_rps[members]), 0
        while at < len(rates):
            found = question.mixes[mix].cheapest(tariff, float(rates[at]))
            if found is None:
                raise InfeasibleError(f"no fleet serves {rates[at]:g} req/s")
            served = question.mixes[mix].rate(found.fleet)
            then = max(at + 1, int(np.searchsorted(rates, served, side="right")))
            total += found.bound * (then - at) * question.hours_each
            at = then
    return total


def _at_prices(owned: Floats, full: Floats, shared: Sequence[Purchase]) -> Tariff:
    """Return what fleets cost beside what is owned, some of it shared among models."""
    pools = []
    for n, purchase in enumerate(shared):
        draws = np.zeros(len(full))
        draws[list(purchase.draws)] = list(purchase.draws.values())
        pools.append(Pool.of(n, draws, full, [(0.0, float(purchase.most), SURE)]))
    return Tariff(free=owned, full=full, pools=tuple(pools))


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
    always = [p for p in question.shared if question.active(p).all()]
    tariff = _at_prices(question.owned_units().min(axis=0), whole_span_prices(question), always)
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
    joint = type(question.mixes[0]).cheapest_for_all(
        [question.mixes[m] for m in peaks], list(peaks.values()), tariff
    )
    if joint is None:
        raise InfeasibleError("no fleet serves the highest rate of every mix")
    return joint.cost


def best_alone(search: Search) -> tuple[float, int] | None:
    """Return the least cost of the base case with one option alone and its best purchase, and which option.

    None where none serves alone. With one option a period's instances are given, and the cost is convex in what is
    bought, so that single steps and exchanges lead to the least. Raises TimeUpError.
    """
    market, mixes = search.market, search.market.question.mixes
    best: tuple[float, int] | None = None
    peaks = np.zeros(len(mixes))
    for group in market.groups:
        peaks[group.mix] = max(peaks[group.mix], float(group.rates_rps[-1]))
    for option in range(len(market.question.options)):
        known = _alone(mixes, option, peaks)
        if known is None:
            continue
        alone = search.among(known)
        cost = alone.by_steps()
        if best is None or cost < best[0]:
            best = (cost, option)
    return best


def _alone(mixes: Sequence[Served], option: int, peaks_rps: Floats) -> Known | None:
    """Return so many instances of one option alone as its mixes' highest rates need, None where none suffice."""
    known = Known(mixes)
    pairs = list(zip(mixes, peaks_rps.tolist(), strict=True))
    most = int(np.ceil(max(float(mix.most[option]) * peak for mix, peak in pairs) - _ROUNDING))
    if any(mix.rate_alone(option, most) < peak for mix, peak in pairs):
        return None
    for count in range(most + 1):
        rates = np.array([mix.rate_alone(option, count) for mix in mixes])
        fleet = np.zeros(len(mixes[0].most))
        fleet[option] = count
        known.put(fleet, rates)
        if (rates >= peaks_rps).all():
            return known
    return None
