"""From terms to what the search may buy: whole instances, steps of spend, windows of a block."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.planner.reserving.terms import equal_usd_per_hour, is_block, term_name
from melange_sky.reserve.question import Purchase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from melange_sky.capacities import DeploymentOption
    from melange_sky.commitments import Commitment
    from melange_sky.planner.reserving.material import Given
    from melange_sky.planner.reserving.wishes import ReserveOptions
    from melange_sky.reserve.serving import Served
    from melange_sky.spec.hourly import HourlyDemand

    Floats = NDArray[np.float64]
    Active = NDArray[np.bool_]

SPEND_STEPS = 200
"""About so many steps make the most that may be spent an hour."""

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Purchasable:
    """A purchase of the question, and the terms behind it: one, or those that a spend commitment discounts.

    `step_usd_per_hour` is what a unit of spend pays an hour, None for instances. `rates` are, by option, what an
    hour of a running instance costs under it. `dearer` are terms of the same instances that cost more an hour.
    """

    purchase: Purchase
    terms: tuple[Commitment, ...]
    rates: Mapping[int, float]
    step_usd_per_hour: float | None = None
    dearer: tuple[Commitment, ...] = ()

    @property
    def term(self) -> Commitment:
        """The first of its terms."""
        return self.terms[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AskedRates:
    """Each period's mix and its highest rate, (periods), and the model that each option serves, by name.

    `peak_usd_per_hour` finds what the dearest hour costs.
    """

    mix: NDArray[np.intp]
    peaks_rps: Floats
    models: Sequence[str]
    peak_usd_per_hour: Callable[[], float]


def purchasable(
    given: Given,
    options: Sequence[DeploymentOption],
    mixes: Sequence[Served],
    asked: AskedRates,
    wishes: ReserveOptions,
) -> tuple[Purchasable, ...]:
    """Return what may be bought for some options.

    Of terms that pay for the same instances in the same hours only the cheapest is weighed, unless a budget
    bounds what may be paid upfront.
    """
    most = _most(mixes, asked)
    found: list[Purchasable] = []
    for term in given.terms:
        if term.kind == "instance":
            uses = (asked.models, most)
            found += _instances(term, given.demand, options, uses, wishes.discount_rate)
    if any(term.kind == "spend" for term in given.terms):
        found += _spend(given, options, asked.peak_usd_per_hour(), wishes.discount_rate)
    return found_best(found) if wishes.budget_upfront is None else tuple(found)


def found_best(found: Sequence[Purchasable]) -> tuple[Purchasable, ...]:
    """Return the cheapest purchases among those of the same instances in the same hours."""
    groups: dict[tuple[object, ...], list[Purchasable]] = defaultdict(list)
    for one in found:
        active = one.purchase.active
        hours = None if active is None else active.tobytes()
        kind = one.step_usd_per_hour is None or one.purchase.name
        groups[kind, frozenset(one.rates) if kind is True else None, hours].append(one)
    best = []
    for group in groups.values():
        first, *rest = sorted(group, key=lambda one: (one.purchase.usd, one.term.term_hours))
        best.append(replace(first, dearer=tuple(other.term for other in rest)))
    return tuple(best)


def _most(mixes: Sequence[Served], asked: AskedRates) -> Floats:
    """Return the most instances of each option that any hour has use for."""
    rows = [
        np.ceil(served.most * float(asked.peaks_rps[asked.mix == k].max()) - 1e-9)
        for k, served in enumerate(mixes)
    ]
    most: Floats = np.max(rows, axis=0)
    return most


def _covered(term: Commitment, options: Sequence[DeploymentOption]) -> list[int]:
    return [
        k
        for k, option in enumerate(options)
        if option.offer is not None
        and not option.use_spot
        and term.covers(option.offer.cloud, option.offer.region, option.offer.instance_type)
    ]


def _instances(
    term: Commitment,
    demand: HourlyDemand,
    options: Sequence[DeploymentOption],
    uses: tuple[Sequence[str], Floats],
    discount_rate: float,
) -> Iterator[Purchasable]:
    """Yield the purchases of an instance term: one, or one per window of a block.

    `uses` are the model of each option, and the most of it that any hour has use for.
    """
    covered = _covered(term, options)
    if not covered:
        return
    by_model: dict[str, float] = {}
    for k in covered:
        model, most = uses[0][k], float(uses[1][k]) * options[k].nodes
        by_model[model] = max(by_model.get(model, 0.0), most)
    units = int(sum(by_model.values()))
    for sold, active in _windows(term, demand):
        rate = equal_usd_per_hour(sold, discount_rate)
        hours = demand.hours if active is None else float(active.sum()) * demand.step_s / 3600
        usd = sold.total_usd if is_block(sold) else rate * hours
        yield Purchasable(
            purchase=Purchase(
                name=_name(sold),
                usd=usd,
                draws={k: float(options[k].nodes) for k in covered},
                most=units,
                upfront_usd=sold.upfront_usd,
                active=active,
            ),
            terms=(sold,),
            rates={k: rate * options[k].nodes for k in covered},
        )


def _name(term: Commitment) -> str:
    if term.starts is None:
        return term_name(term)
    return f"{term_name(term)} from {term.starts.isoformat()}"


def _windows(term: Commitment, demand: HourlyDemand) -> Iterator[tuple[Commitment, Active | None]]:
    """Yield a term with the periods in which it holds: from the demand's start on, or a block's windows.

    A block of open dates may begin on any day of the demand and last any whole days within it.
    """
    if not is_block(term):
        yield term, _during(demand, demand.starts[0], term.term_hours)
        return
    if term.starts is not None:
        ends = term.ends or term.starts + timedelta(hours=term.term_hours)
        active = np.array([term.starts <= start < ends for start in demand.starts])
        if active.any():
            yield term, active
        return
    days = int(demand.hours // 24)
    for first in range(days):
        start = demand.starts[0] + first * DAY
        for length in range(math.ceil(term.term_hours / 24), days - first + 1):
            hours = 24.0 * length
            if hours > (term.longest_hours or term.term_hours):
                break
            block = replace(term.lasting(hours), starts=start, ends=start + length * DAY)
            yield block, _during(demand, start, hours)


def _during(demand: HourlyDemand, start: datetime, hours: float) -> Active | None:
    """Return the periods of so many hours from a start on, None for all."""
    at = demand.starts.index(start)
    active = np.zeros(len(demand.starts), dtype=bool)
    active[at : at + math.floor(hours * 3600 / demand.step_s + 1e-9)] = True
    return None if active.all() else active


def _spend(
    given: Given, options: Sequence[DeploymentOption], peak_usd: float, discount_rate: float
) -> Iterator[Purchasable]:
    """Yield a purchase for each pool of spend terms: whole steps of USD per hour.

    No hour has use for more than its cheapest fleet costs on demand, `peak_usd` at the most.
    """
    pools: dict[tuple[str | None, float, bool], list[Commitment]] = defaultdict(list)
    for term in given.terms:
        if term.kind == "spend":
            pools[term.pool, term.term_hours, term.upfront_usd > 0].append(term)
    for terms in pools.values():
        rates = dict(_rates(terms, options))
        if not rates:
            continue
        step = _round_step(peak_usd / SPEND_STEPS)
        first = terms[0]
        active = _during(given.demand, given.demand.starts[0], first.term_hours)
        hours = given.demand.hours
        if active is not None:
            hours = float(active.sum()) * given.demand.step_s / 3600
        dearer = equal_usd_per_hour(first, discount_rate) / first.all_in_usd_per_hour
        upfront = first.upfront_usd / first.total_usd
        yield Purchasable(
            purchase=Purchase(
                name=f"{first.pool or first.product}",
                usd=step * hours * dearer,
                draws={k: rate / step for k, rate in rates.items()},
                most=math.ceil(peak_usd / step),
                upfront_usd=step * first.term_hours * upfront,
                active=active,
            ),
            terms=tuple(terms),
            rates=rates,
            step_usd_per_hour=step,
        )


def _rates(
    terms: Iterable[Commitment], options: Sequence[DeploymentOption]
) -> Iterator[tuple[int, float]]:
    for k, option in enumerate(options):
        rates = [
            term.all_in_usd_per_hour * option.nodes
            for term in terms
            if k in _covered(term, options)
        ]
        if rates:
            yield k, min(rates)


def _round_step(usd: float) -> float:
    """Return a step of 1, 2 or 5 times a power of ten that is about so large, at least a cent."""
    power = 10.0 ** math.floor(math.log10(max(usd, 0.01)))
    return max(0.01, next(power * by for by in (1, 2, 5, 10) if power * by >= usd - 1e-12))
