"""A saved plan at today's prices: what it costs now, and whether another mix is now cheaper.

The options that were weighed are in the plan with their capacities, so that nothing but prices is
read; the constraints that it was planned under hold for the other mix too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, InputError, NoPlanInTimeError
from melange_sky.names.clouds import CLOUDS
from melange_sky.optimizer import Problem, SolveOptions, demand_of, optimize
from melange_sky.planner.known_rates import with_known_rates
from melange_sky.planner.own_offers import own_offers
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.request import PlanRequest
from melange_sky.pricing import OfferQuery, load_offers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from melange_sky.capacities import DeploymentOption, OptionCapacity
    from melange_sky.offers import Offer, ReservedNodes
    from melange_sky.plans import Allocation, Plan, PlanWarning
    from melange_sky.spec import SpecSource

Shape = tuple[str, str, str, float]
OptionMix = tuple[tuple[str, "DeploymentOption", int], ...]
"""Model name, option, instances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepricedAllocation:
    """One allocation of the plan at today's price of its own region; prices are of one instance.

    `now_usd_per_hour` is None where the instance is no longer offered so, or its price is blocked:
    `reason` says which. `given` prices of a Mélange config never move.
    """

    model: str
    allocation: Allocation
    planned_usd_per_hour: float
    now_usd_per_hour: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repriced:
    """The plan now. `now_usd_per_hour` is None where any price is unknown.

    `best` is the cheapest mix of the plan's own options at today's prices, by model and option with
    instances; None where the plan's options cannot serve it any more, or where `late` says that no
    mix was found in time.
    """

    planned_usd_per_hour: float
    now_usd_per_hour: float | None
    allocations: tuple[RepricedAllocation, ...]
    best_usd_per_hour: float | None
    best: OptionMix = ()
    late: str | None = None

    @property
    def saving_usd_per_hour(self) -> float | None:
        """What the best mix saves on the planned one, both at today's prices."""
        if self.now_usd_per_hour is None or self.best_usd_per_hour is None:
            return None
        return self.now_usd_per_hour - self.best_usd_per_hour


@dataclass(frozen=True, slots=True, kw_only=True)
class MixPart:
    """So many instances of one option in the cheapest mix; the price is of one instance."""

    model: str
    option: str
    region: str | None
    instances: int
    price_usd_per_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDifference:
    """A saved plan, what it costs at the prices of `snapshot`, and the cheapest mix at them.

    `cheapest` is of the plan's own options, or where `weighs_all` of all offers, by a new plan.
    Its cost is None where nothing serves any more, or where `late` says that time ran out.
    """

    planned: Plan
    repriced: Repriced
    snapshot: str | None
    cheapest_usd_per_hour: float | None
    cheapest: tuple[MixPart, ...]
    late: str | None
    weighs_all: bool
    warnings: tuple[PlanWarning, ...] = ()

    @property
    def change_fraction(self) -> float | None:
        """What the plan costs now ÷ what it cost − 1; None where that is unknown."""
        now = self.repriced.now_usd_per_hour
        return None if now is None else now / self.repriced.planned_usd_per_hour - 1

    @property
    def saving_usd_per_hour(self) -> float | None:
        """What the cheapest mix saves on the planned one, both at today's prices."""
        now = self.repriced.now_usd_per_hour
        if now is None or self.cheapest_usd_per_hour is None:
            return None
        return now - self.cheapest_usd_per_hour


def diff_plan(
    planned: Plan,
    *,
    spec: SpecSource | None = None,
    offers: Path | None = None,
    time_limit_s: float = 30.0,
) -> PlanDifference:
    """Return what a saved plan costs at the newest prices at hand, and the cheapest mix now.

    Offers that the user stated stand as the plan has them, unless `spec` or `offers` state them anew. With
    `spec` that is planned anew over all offers, so that its limits hold. Opens no socket.
    Raises InputError for a plan whose prices were given by a Mélange config.
    """
    clouds = _clouds(planned)
    query = OfferQuery(
        infra=tuple((c, None) for c in clouds if c in CLOUDS),
        offline=True,
        offers_csv=offers,
        own=own_offers(spec),
        planned=_stated(planned),
    )
    book = load_offers(query)
    solve = SolveOptions(time_limit_s=time_limit_s)
    repriced = reprice(planned if spec else with_known_rates(planned), book.offers, solve)
    cost, mix, late = repriced.best_usd_per_hour, _parts(repriced.best), repriced.late
    if spec is not None:
        request = PlanRequest(
            prices=OfferQuery(offline=True, offers_csv=offers),
            solve=solve,
            sensitivity=False,
            reserved=_reserved(planned),
        )
        cost, mix, late = _anew(spec, request)
    return PlanDifference(
        planned=planned,
        repriced=repriced,
        snapshot=book.snapshot,
        cheapest_usd_per_hour=cost,
        cheapest=mix,
        late=late,
        weighs_all=spec is not None,
        warnings=book.warnings,
    )


def _stated(planned: Plan) -> tuple[Offer, ...]:
    """Return the offers of a plan that the user stated: nothing else knows them, and they stand as they are."""
    options = [c.option for model in planned.models for c in model.candidates]
    places = [place for o in options if o.offer is not None for place in o.places]
    return tuple(dict.fromkeys(offer for offer in places if offer.is_own))


def _reserved(planned: Plan) -> tuple[ReservedNodes, ...]:
    """Return the free nodes that a plan counted: they stand as it has them."""
    options = [c.option for model in planned.models for c in model.candidates]
    return tuple(dict.fromkeys(o.reserved for o in options if o.reserved is not None))


def _anew(
    spec: SpecSource, request: PlanRequest
) -> tuple[float | None, tuple[MixPart, ...], str | None]:
    """Return the cost and mix of a new plan, or why none was found in time."""
    try:
        anew = plan_spec(spec, request)
    except NoPlanInTimeError as error:
        return None, (), str(error)
    return anew.cost_usd_per_hour, _parts(_mix_of(anew)), None


def _clouds(planned: Plan) -> tuple[str, ...]:
    offers = [c.option.offer for m in planned.models for c in m.candidates]
    if not any(offers):
        raise InputError("the plan's prices were given by a Mélange config: nothing can move")
    return tuple(dict.fromkeys(offer.cloud for offer in offers if offer is not None))


def _mix_of(planned: Plan) -> OptionMix:
    return tuple(
        (model.name, a.candidate.option, a.instances)
        for model in planned.models
        for a in model.allocations
    )


def _parts(mix: OptionMix) -> tuple[MixPart, ...]:
    return tuple(
        MixPart(
            model=model,
            option=option.name,
            region=option.offer.region if option.offer else None,
            instances=instances,
            price_usd_per_hour=option.price_usd_per_hour,
        )
        for model, option, instances in mix
    )


def reprice(planned: Plan, offers: Sequence[Offer], solve: SolveOptions | None = None) -> Repriced:
    """Return the plan's cost and the cheapest mix of its options at the prices of `offers`."""
    by_shape: dict[Shape, list[Offer]] = {}
    for offer in offers:
        by_shape.setdefault(_shape(offer), []).append(offer)
    rows = [_repriced(m.name, a, by_shape) for m in planned.models for a in m.allocations]
    prices = [row.now_usd_per_hour for row in rows]
    now = None
    if None not in prices:
        now = sum((row.now_usd_per_hour or 0.0) * row.allocation.billed_replicas for row in rows)
    best_cost, best, late = _best(planned, by_shape, solve or SolveOptions())
    return Repriced(
        planned_usd_per_hour=planned.cost_usd_per_hour,
        now_usd_per_hour=now,
        allocations=tuple(rows),
        best_usd_per_hour=best_cost,
        best=best,
        late=late,
    )


def _shape(offer: Offer) -> Shape:
    return offer.cloud, offer.instance_type, offer.accelerator, offer.accelerator_count


def _repriced(
    model: str, allocation: Allocation, by_shape: Mapping[Shape, Sequence[Offer]]
) -> RepricedAllocation:
    option = allocation.candidate.option
    now, reason = _price_in(option, by_shape)
    return RepricedAllocation(
        model=model,
        allocation=allocation,
        planned_usd_per_hour=option.price_usd_per_hour,
        now_usd_per_hour=now,
        reason=reason,
    )


def _price_in(
    option: DeploymentOption, by_shape: Mapping[Shape, Sequence[Offer]]
) -> tuple[float | None, str | None]:
    """Today's price of the option where it was planned, or None and why."""
    if option.offer is None:
        return option.price_usd_per_hour, None
    same = [o for o in by_shape.get(_shape(option.offer), ()) if o.region == option.offer.region]
    if not same:
        return None, "no longer offered there"
    blocked = same[0].blocked(option.use_spot)
    if blocked:
        return None, f"{blocked[0].code}: {blocked[0].message}"
    price = same[0].price(option.use_spot)
    if price is None:
        return None, "no longer sold this way"
    return option.nodes * price, None


def _best(
    planned: Plan,
    by_shape: Mapping[Shape, Sequence[Offer]],
    solve: SolveOptions,
) -> tuple[float | None, OptionMix, str | None]:
    """Return the cheapest mix and its cost, or none, and where time ran out the reason."""
    demands = []
    for model in planned.models:
        options = tuple(filter(None, (_today(c, by_shape) for c in model.candidates)))
        if not options:
            return None, (), None
        demands.append(demand_of(model, options))
    problem = Problem(
        demands=tuple(demands), headroom=planned.headroom, constraints=planned.constraints
    )
    try:
        solution = optimize(problem, solve)
    except InfeasibleError:
        return None, (), None
    except NoPlanInTimeError as error:
        return None, (), str(error)
    mix = tuple(
        (model.name, a.candidate.option, a.instances)
        for model, allocations in zip(planned.models, solution.allocations, strict=True)
        for a in allocations
    )
    return solution.cost_usd_per_hour, mix, None


def _today(
    candidate: OptionCapacity, by_shape: Mapping[Shape, Sequence[Offer]]
) -> OptionCapacity | None:
    """The option at the cheapest of today's prices in the regions it was weighed with."""
    option = candidate.option
    if option.offer is None:
        return candidate
    regions = {place.region for place in option.places}
    usable = [
        (price, o.region, o)
        for o in by_shape.get(_shape(option.offer), ())
        if o.region in regions
        and not o.blocked(option.use_spot)
        and (price := o.price(option.use_spot)) is not None
    ]
    if not usable:
        return None
    price, _, offer = min(usable, key=lambda row: row[:2])
    price = option.nodes * price
    return replace(candidate, option=replace(option, offer=offer, price_usd_per_hour=price))
