"""From spec, prices and demand to the question that the reservation search answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.constraints import Constraints
from melange_sky.errors import InfeasibleError, InputError
from melange_sky.optimizer import SolveOptions, least_cost
from melange_sky.planner.assumed_splits import without_assumed
from melange_sky.planner.prepare import prepare_with
from melange_sky.planner.reserving.hourly_models import at_rates, in_proportions, stated_rates
from melange_sky.planner.reserving.material import Mix
from melange_sky.planner.reserving.owned_units import owned_units
from melange_sky.planner.reserving.purchases import AskedRates, Purchasable, purchasable
from melange_sky.planner.reserving.survivors import HourPrices, survivors
from melange_sky.planner.reserving.under_rules import idle_notes, require_fleets, served_mixes
from melange_sky.reserve.question import Question, Scenario
from melange_sky.spec.histogram import to_workload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from melange_sky.capacities import OptionCapacity
    from melange_sky.commitments import Owned
    from melange_sky.optimizer import Deadline
    from melange_sky.planner.options import PlannedOffer
    from melange_sky.planner.request import PlanRequest
    from melange_sky.planner.reserving.material import Given
    from melange_sky.planner.reserving.wishes import ReserveOptions
    from melange_sky.spec import Spec
    from melange_sky.spec.hourly import HourlyDemand
    from melange_sky.spec.scenarios import Change, ScenarioChanges

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """The question with all that its answer is told by.

    `mixes` are in the order of the question's; `purchasable` in that of its purchases; `owned` are stated units,
    `offers` those that a plan would have, no region pinned.
    """

    spec: Spec
    options: ReserveOptions
    demand: HourlyDemand
    mixes: tuple[Mix, ...]
    changes: tuple[ScenarioChanges, ...]
    purchasable: tuple[Purchasable, ...]
    owned: tuple[Owned, ...]
    offers: tuple[PlannedOffer, ...]
    question: Question
    notes: tuple[str, ...] = ()

    @property
    def told_mixes(self) -> tuple[Mix, ...]:
        """The mixes that are told of: one at the models' mean rates where the demand states those of each."""
        if not self.demand.of_models:
            return self.mixes
        (first, *_) = self.mixes
        means = [float(self.rates_of(m).mean()) for m in range(len(self.spec.models))]
        return (at_rates(first, means),)

    def rates_of(self, model: int) -> Floats:
        """Return the base case's rates of one model, by its place in the spec, (periods)."""
        parts = np.array([mix.parts[model] for mix in self.mixes])
        rates: Floats = self.question.scenarios[0].rate_rps * parts[self.question.mix]
        return rates

    def candidate(self, option: int) -> OptionCapacity:
        """Return an option by its index, with the capacities of some mix."""
        name = self.question.options[option]
        return next(mix.named[name] for mix in self.mixes if name in mix.named)


def mixes_of(given: Given, request: PlanRequest) -> tuple[Mix, ...]:
    """Look up what the options of each mix can carry. Raises InputError, InfeasibleError where none serves one."""
    demand = given.demand
    mix = _places(demand)
    peaks = np.max([_rates(demand, change.demand) for change in given.changes], axis=0)
    return tuple(
        _mix(given, label, float(peaks[mix == k].max()), request)
        for k, label in enumerate(demand.labels)
    )


def question_of(
    given: Given, mixes: tuple[Mix, ...], options: ReserveOptions, deadline: Deadline
) -> Asked:
    """Put the question together. Raises InputError, InfeasibleError, TimeUpError."""
    spec, demand = given.spec, given.demand
    mix = _places(demand)
    rates = [_rates(demand, change.demand) for change in given.changes]
    peaks = np.max(rates, axis=0)
    known = _by_name(mixes)
    rents, rows = _prices(list(known.values()), given)
    mixes = survivors(mixes, _hour_prices(known, rents, given), given.owned)
    names = tuple(dict.fromkeys(name for m in mixes for name in m.named))
    if not names:
        raise InfeasibleError(f"{spec.name}: no option serves any size of the demand")
    candidates = _by_name(mixes)
    rents = rents[:, [list(known).index(name) for name in names]]
    served = served_mixes(mixes, names, deadline)
    dearest = mixes
    if (stated := stated_rates(spec, demand)) is not None:
        mixes, served, mix = in_proportions(mixes[0], served[0], stated)
        busiest = int(mix[peaks.argmax()])
        dearest = (mixes[busiest].at_rate(float(peaks.max())),)
        require_fleets(
            dearest, served[busiest : busiest + 1], rents, [float(peaks.max())], deadline
        )
    else:
        tops = [float(peaks[mix == k].max()) for k in range(len(mixes))]
        require_fleets(mixes, served, rents, tops, deadline)
    hours = demand.step_s / 3600
    keys = {name: key for one in mixes for name, key in one.keys.items()}
    rates_asked = AskedRates(
        mix=mix,
        peaks_rps=peaks,
        models=[keys[name][0] for name in names],
        peak_usd_per_hour=lambda: _peak_usd_per_hour(dearest, deadline),
    )
    listed = [candidates[name].option for name in names]
    bought = purchasable(given, listed, served, rates_asked, options)
    owned, shared = owned_units(given, {name: candidates[name] for name in names})
    question = Question(
        options=names,
        mixes=served,
        mix=mix,
        hours_each=hours,
        scenarios=tuple(
            Scenario(name=change.name, rate_rps=rate, rents=rents, price=row, weight=change.weight)
            for change, rate, row in zip(given.changes, rates, rows, strict=True)
        ),
        purchases=tuple(one.purchase for one in bought),
        owned=owned,
        shared=shared,
        objective=options.aim,
        startup_hours=options.startup_s / 3600,
        min_run_hours=options.min_run_s / 3600,
        within=options.within_fraction,
        budget_upfront_usd=math.inf if options.budget_upfront is None else options.budget_upfront,
    )
    return Asked(
        spec=spec,
        options=options,
        demand=demand,
        mixes=mixes,
        changes=given.changes,
        purchasable=bought,
        owned=given.owned,
        offers=given.offers,
        question=question,
        notes=(*given.notes, *idle_notes(mixes, peaks)),
    )


def _mix(given: Given, label: str, peak_rps: float, request: PlanRequest) -> Mix:
    """Return a mix with the options that may serve it."""
    parts = _parts(given.spec)
    stated = stated_rates(given.spec, given.demand)
    if stated is not None and stated.any():  # each model at its own highest rate, whenever that is
        grown = max(float(_factors(given.demand, change.demand).max()) for change in given.changes)
        own = stated.max(axis=1) * grown
        parts, peak_rps = (own / own.sum()).tolist(), float(own.sum())
    known = given.sizes.get(label)
    models = []
    for served, part in zip(given.spec.models, parts, strict=True):
        workload = served.workload
        if known is not None:
            workload = replace(
                to_workload(known, 1.0), images=workload.images, reuse=workload.reuse
            )
        workload = replace(workload.at_rate((peak_rps or 1.0) * part), arrivals=None)
        models.append(replace(served, workload=workload))
    spec = replace(given.spec, models=tuple(models))
    prepared = prepare_with(spec, request, given.found)
    firm = without_assumed(prepared.problem, spec.resources.assumed_splits)
    # what is paid already is the question's, for it may end within the demand
    rules: Constraints = replace(firm.constraints, fixed=())
    return Mix(
        label=label,
        workload=models[0].workload,
        prepared=prepared,
        problem=replace(firm, constraints=rules),
    )


def _parts(spec: Spec) -> list[float]:
    """Return each model's part of the total rate, as the spec's own rates have it."""
    rates = [served.workload.rate_rps for served in spec.models]
    return [rate / sum(rates) for rate in rates]


def _places(demand: HourlyDemand) -> NDArray[np.intp]:
    """Return which of its mixes each step is of, (periods)."""
    place = {label: k for k, label in enumerate(demand.labels)}
    return np.array([place[label] for label in demand.mix], dtype=np.intp)


def _peak_usd_per_hour(mixes: Sequence[Mix], deadline: Deadline) -> float:
    """Return what the cheapest fleet of the dearest mix costs on demand at its highest rate. Raises TimeUpError."""
    solve = SolveOptions(deadline=deadline)
    found = [least_cost(mix.problem, solve).cost_usd_per_hour for mix in mixes]
    if None in found:
        deadline.check()
    return max((cost for cost in found if cost is not None), default=0.0)


def _by_name(mixes: Sequence[Mix]) -> dict[str, OptionCapacity]:
    return {name: one for mix in mixes for name, one in mix.named.items()}


def _rates(demand: HourlyDemand, change: Change | None) -> Floats:
    return np.array(demand.rate_rps) * _factors(demand, change)


def _factors(demand: HourlyDemand, change: Change | None) -> Floats:
    """Return a change's factor in every step; a step in which it begins is unchanged."""
    if change is None:
        return np.ones(len(demand.starts))
    if change.since is None:
        return np.full(len(demand.starts), change.factor)
    since = change.since
    return np.array([change.factor if start >= since else 1.0 for start in demand.starts])


def _prices(
    candidates: Sequence[OptionCapacity], given: Given
) -> tuple[Floats, list[NDArray[np.intp]]]:
    """Return the rows of on-demand prices, (rows × options), and each scenario's row in every step."""
    base = np.array([c.option.price_usd_per_hour for c in candidates])
    table: list[Floats] = []
    of_scenario = []
    for change in given.changes:
        factors = np.ones((len(given.demand.starts), len(candidates)))
        for accelerator, by in change.prices:
            here = np.array(
                [
                    accelerator in ("", c.option.accelerator) and not c.option.use_spot
                    for c in candidates
                ]
            )
            _check_change(change, by, accelerator, here, given.demand)
            factors[:, here] *= _factors(given.demand, by)[:, None]
        kinds, place = np.unique(factors, axis=0, return_inverse=True)
        of_scenario.append((place.reshape(-1) + len(table)).astype(np.intp))
        table += [base * row for row in kinds]
    return np.array(table), of_scenario


def _check_change(
    scenario: ScenarioChanges,
    by: Change,
    accelerator: str,
    here: NDArray[np.bool_],
    demand: HourlyDemand,
) -> None:
    """Raise InputError for a change that changes nothing: a slip in a name or a date."""
    if not here.any():
        raise InputError(
            f"{scenario.where}: price: no option has the accelerator '{accelerator}', so its price changes nothing"
        )
    if by.since is not None and by.since > demand.starts[-1]:
        raise InputError(
            f"{scenario.where}: price: {by.since.date()} lies beyond the demand, which ends "
            f"{demand.starts[-1].date()}; repeat the demand with --growth 0, or give a date within it"
        )


def _hour_prices(
    candidates: Mapping[str, OptionCapacity], rents: Floats, given: Given
) -> dict[str, HourPrices]:
    """Return what an hour of each option costs rented, in every row of prices, and at its cheapest term."""
    found = {}
    for k, (name, candidate) in enumerate(candidates.items()):
        option, offer = candidate.option, candidate.option.offer
        terms = [
            term.all_in_usd_per_hour * option.nodes
            for term in given.terms
            if offer is not None
            and not option.use_spot
            and term.covers(offer.cloud, offer.region, offer.instance_type)
        ]
        found[name] = HourPrices(rented=rents[:, k], committed=min(terms, default=math.inf))
    return found
