"""What a saved plan costs at other prices, and what would be planned at them.

Needs nothing but the plan: its candidates carry every option with its capacities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import Demand, Problem, SolveOptions, baselines, optimize
from melange_sky.plan import FleetPlan, Plan
from melange_sky.planner.clock import created_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from melange_sky.capacity import DeploymentOption, OptionCapacity
    from melange_sky.offers import Offer

    OfferKey = tuple[str, str, str, float]
    OffersByKey = Mapping[OfferKey, Iterable[Offer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One allocated option's price then and now; `now` is None where it is no longer sold."""

    option: str
    instances: int
    then_usd_per_hour: float
    now_usd_per_hour: float | None
    offer: Offer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repriced:
    """A plan at other prices.

    `cost_now_usd_per_hour` is None where an allocated option is no longer sold. `best` is what would
    be planned now from the same candidates, None (with `reason`) where nothing can be.
    """

    cost_then_usd_per_hour: float
    cost_now_usd_per_hour: float | None
    moves: tuple[Move, ...]
    best: Plan | FleetPlan | None
    reason: str | None = None

    @property
    def saving_usd_per_hour(self) -> float | None:
        """How much less the best plan costs than this one does now; None where unknown."""
        if self.best is None or self.cost_now_usd_per_hour is None:
            return None
        return self.cost_now_usd_per_hour - self.best.cost_usd_per_hour


def reprice(
    planned: Plan | FleetPlan, offers: Iterable[Offer], options: SolveOptions | None = None
) -> Repriced:
    """Return the plan at the prices of `offers`; blocked prices count as not sold."""
    known: dict[OfferKey, list[Offer]] = {}
    for offer in offers:
        known.setdefault(_key(offer), []).append(offer)
    models = planned.models if isinstance(planned, FleetPlan) else (planned,)
    moves = tuple(move for model in models for move in _moves(model, known))
    cost_now: float | None = 0.0
    for model in models:
        for allocation in model.allocations:
            found = _cheapest(allocation.option.option, known)
            price = found.price(allocation.option.option.use_spot) if found else None
            if price is None or cost_now is None:
                cost_now = None
                break
            cost_now += (allocation.instances - allocation.fixed_instances) * price
    best, reason = None, None
    try:
        best = _replan(planned, models, known, options or SolveOptions())
    except InfeasibleError as error:
        reason = str(error)
    return Repriced(
        cost_then_usd_per_hour=planned.cost_usd_per_hour,
        cost_now_usd_per_hour=cost_now,
        moves=moves,
        best=best,
        reason=reason,
    )


def _key(offer: Offer) -> OfferKey:
    return offer.cloud, offer.instance_type, offer.accelerator, offer.accelerator_count


def _cheapest(option: DeploymentOption, known: OffersByKey) -> Offer | None:
    """Return the cheapest sound offer among the option's own region and its fallbacks."""
    if option.offer is None:
        return None
    regions = {option.offer.region, *(offer.region for offer in option.fallbacks)}
    sound = [
        offer
        for offer in known.get(_key(option.offer), ())
        if offer.region in regions
        and not offer.blocked(option.use_spot)
        and offer.price(option.use_spot) is not None
    ]
    return min(sound, key=lambda o: (o.price(option.use_spot) or 0.0, o.region), default=None)


def _moves(plan: Plan, known: OffersByKey) -> list[Move]:
    rows = []
    for allocation in plan.allocations:
        option = allocation.option.option
        offer = _cheapest(option, known)
        rows.append(
            Move(
                option=option.name,
                instances=allocation.instances,
                then_usd_per_hour=option.price_usd_per_hour,
                now_usd_per_hour=offer.price(option.use_spot) if offer else None,
                offer=offer,
            )
        )
    return rows


def _repriced(
    candidates: Iterable[OptionCapacity], known: OffersByKey
) -> tuple[OptionCapacity, ...]:
    rows = []
    for candidate in candidates:
        option = candidate.option
        offer = _cheapest(option, known)
        price = offer.price(option.use_spot) if offer else None
        if offer is None or price is None or option.offer is None:
            continue
        places = {place.region: place for place in (option.offer, *option.fallbacks)}
        others = tuple(place for region, place in sorted(places.items()) if region != offer.region)
        moved = replace(option, price_usd_per_hour=price, offer=offer, fallbacks=others)
        rows.append(replace(candidate, option=moved))
    return tuple(rows)


def _replan(
    planned: Plan | FleetPlan, models: tuple[Plan, ...], known: OffersByKey, options: SolveOptions
) -> Plan | FleetPlan:
    demands = tuple(
        Demand(name=m.name, workload=m.workload, options=_repriced(m.candidates, known))
        for m in models
    )
    for demand in demands:
        if not demand.options:
            raise InfeasibleError(
                f"{demand.name}: none of the plan's options is sold at these prices"
            )
    problem = Problem(demands=demands, headroom=models[0].headroom, constraints=planned.constraints)
    solution = optimize(problem, options)
    costs = tuple(sum(a.cost_usd_per_hour for a in mine) for mine in solution.allocations)
    alone = baselines(problem, costs, options)
    now = created_at()
    plans = tuple(
        replace(
            model,
            created_at=now,
            allocations=solution.allocations[k],
            baselines=alone[k],
            solver=solution.report,
            candidates=demands[k].options,
            sensitivity=None,
        )
        for k, model in enumerate(models)
    )
    if isinstance(planned, Plan):
        return plans[0]
    return replace(planned, created_at=now, models=plans, solver=solution.report, sensitivity=None)
