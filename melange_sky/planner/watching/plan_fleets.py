"""The fleets that a plan's options, prices and rules allow, chosen by the planner's optimizer and remembered."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InfeasibleError, InputError, NoPlanInTimeError
from melange_sky.optimizer import Problem, SolveOptions, constraints_among, optimize, problem_of
from melange_sky.optimizer.answers.rate_sweep import at_rate
from melange_sky.optimizer.rules.groups import matches
from melange_sky.planner.known_rates import with_known_rates, with_other_sizes
from melange_sky.planner.replay_loop.replan import instance_group
from melange_sky.planner.watching.given_fleet import model_at
from melange_sky.planner.watching.proven import ProvenRates
from melange_sky.reserve.build import served_by
from melange_sky.watching.fleets import NOTHING, Counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.capacities import OptionCapacity
    from melange_sky.optimizer import Solution
    from melange_sky.planner.watching.proven import RateOrigin
    from melange_sky.plans import Plan

    Floats = NDArray[np.float64]

RUNG = 1.02
"""Rates are rounded up to powers of it, so that a week asks for a few hundred fleets at most."""
_MOST_GAIN, _MOST_LOSS = 25, 75
"""Rungs by which a fleet may hold more than it is planned for, and less: factors of 1.6 and 4.4. Replicas that rules ask
for, of an option that hardly serves, may hold a fleet far below."""
RARE = 1e-3
"""Sizes that fewer requests have than such a part of them are no reason for another fleet."""
_MOST_LOSSES = 3
_SECONDS = 20.0


class PlanFleets:
    """`melange_sky.watching.fleets.Fleets` of a plan of one model: see there for what the methods say.

    `demand` holds the plan's traffic; options that can serve none of it are left out.
    """

    def __init__(self, plan: Plan) -> None:
        """Take a plan's options; simulates rates that it knows bounds of. Raises InputError for several models."""
        if len(plan.models) != 1:
            raise InputError("watch follows one model; this plan has several: make a plan for each")
        self.plan = with_known_rates(plan)
        self._problem = problem_of(self.plan)
        (demand,) = self._problem.demands
        if demand.workload.rate_rps <= 0:
            raise InputError("the plan's workload has no rate, so that no mix of sizes is known")
        self._candidates: tuple[OptionCapacity, ...] = demand.options
        self.options = tuple(c.option.name for c in self._candidates)
        self.prices = tuple(c.option.price_usd_per_hour for c in self._candidates)
        self._served = served_by(self._problem, self.options)
        self._chosen: set[str] = set()
        self._rates: dict[Counts, float] = {}
        self._found: dict[tuple[int, frozenset[str], Counts | None], Counts | None] = {}
        self._shrunk: dict[tuple[Counts, int], Counts] = {}
        self._enough: dict[tuple[int, frozenset[str], Counts | None], Counts | None] = {}
        self._gain = 0
        self._proven = ProvenRates(self.plan)

    @property
    def shares(self) -> Floats:
        """The sizes that fleets are reckoned for, as shares of the requests, (inputs × outputs)."""
        (demand,) = self._problem.demands
        rates = np.array(demand.workload.rates_rps)
        shares: Floats = rates / rates.sum()
        return shares

    def loads(self) -> dict[str, Floats]:
        """Return replica-seconds of a request by option, (inputs × outputs), NaN where that is not known."""
        return {
            c.option.name: np.array(
                [
                    [1 / cell.max_rate_rps if cell.max_rate_rps else math.nan for cell in row]
                    for row in c.cells
                ]
            )
            for c in self._candidates
        }

    def of_mix(self, shares: Floats) -> PlanFleets:
        """Return the fleets of the same options for requests of other sizes, (inputs × outputs) of shares.

        Sizes of fewer than `RARE` of the requests are left out. Raises InfeasibleError where no option serves a size.
        """
        (model,) = self.plan.models
        kept = np.where(shares >= RARE, shares, 0.0)
        rates = kept / kept.sum() * model.workload.rate_rps
        workload = replace(
            model.workload,
            rates_rps=tuple(map(tuple, rates.tolist())),
            source="traffic that was watched",
            coverage=None,
        )
        return PlanFleets(with_other_sizes(self.plan, workload))

    def planned(self) -> Counts:
        """Return the plan's own fleet."""
        (model,) = self.plan.models
        counts = {a.candidate.option.name: a.instances for a in model.allocations}
        return tuple(counts.get(name, 0) for name in self.options)

    def rate(self, fleet: Counts) -> float:
        """Return the highest rate of a fleet; with spare instances, of the worst that losing them leaves."""
        return min((self._rate(rest) for rest in self._left(fleet)), default=0.0)

    def planned_rate(self, fleet: Counts) -> float:
        """Return the highest rate by the plan's capacities, headroom kept, as `rate` does by replay."""
        return min((self._planned(rest) for rest in self._left(fleet)), default=0.0)

    def origin(self, fleet: Counts) -> RateOrigin:
        """Return where a fleet's rate is known from."""
        known = all(self._proven_rate(rest) is not None for rest in self._left(fleet))
        return "replayed" if known else "planned"

    def _left(self, fleet: Counts) -> Sequence[Counts]:
        """Return what is left of a fleet when spare instances are lost, whichever they are."""
        spare = self.plan.constraints.spare
        if not spare:
            return (fleet,)
        kinds = [k for k, n in enumerate(fleet) if n]
        lost = combinations_with_replacement(kinds, min(spare, _MOST_LOSSES))
        left = (tuple(n - loss.count(k) for k, n in enumerate(fleet)) for loss in lost)
        return [rest for rest in left if min(rest) >= 0]

    def _rate(self, fleet: Counts) -> float:
        proven = self._proven_rate(fleet)
        return self._planned(fleet) if proven is None else proven

    def _planned(self, fleet: Counts) -> float:
        if fleet not in self._rates:
            self._rates[fleet] = self._served.rate(np.array(fleet, dtype=np.float64))
        return self._rates[fleet]

    def _proven_rate(self, fleet: Counts) -> float | None:
        most = self._planned(fleet)
        if most <= 0:
            return None
        counts = {name: n for name, n in zip(self.options, fleet, strict=True) if n}
        return self._proven.of(
            counts, lambda: model_at(self.plan, counts, most, most, self.paid(fleet))
        )

    def save(self) -> None:
        """Keep what was replayed, for the next time."""
        self._proven.save()

    def cost(self, fleet: Counts) -> float:
        """Return what a fleet is billed per hour; what the plan has as paid for costs nothing."""
        paid = self.paid(fleet)
        rows = zip(self.options, fleet, self.prices, strict=True)
        return sum((n - paid.get(name, 0)) * price for name, n, price in rows)

    def paid(self, fleet: Counts) -> dict[str, int]:
        """Return how many replicas of each option the plan has as paid for, fixed or reserved."""
        found: dict[str, int] = {}
        billed = list(fleet)
        for group in self.plan.constraints.fixed:
            left = group.instances
            for k, candidate in enumerate(self._candidates):
                if billed[k] and matches(candidate.option, group):
                    nodes = candidate.option.nodes
                    taken = min(billed[k], left // nodes)
                    billed[k], left = billed[k] - taken, left - taken * nodes
                    name = candidate.option.name
                    found[name] = found.get(name, 0) + taken
        return found

    def kept(self, fleet: Counts) -> Counts:
        """Return the replicas of each option that the plan has as paid for."""
        paid = self.paid(fleet)
        return tuple(paid.get(name, 0) for name in self.options)

    def cheapest(self, rate_rps: float, without: frozenset[str] = NOTHING) -> Counts | None:
        """Return the cheapest fleet for a rate, a fiftieth more at most."""
        return self._least(rung(rate_rps), without, None)

    def grown(
        self, fleet: Counts, rate_rps: float, without: frozenset[str] = NOTHING
    ) -> Counts | None:
        """Return what serves a rate with the least added to a fleet, of what the cheapest fleets are made of."""
        self.cheapest(rate_rps, without)
        return self._least(rung(rate_rps), without, fleet)

    def _least(self, want: int, without: frozenset[str], held: Counts | None) -> Counts | None:
        """Return the fleet that is planned for the lowest rate of all whose own rate is enough.

        Fleets cost no less the more they are planned for; the search begins where the last one ended.
        """
        key = want, without, held
        if key not in self._enough:
            step = self._lowest(want, without, held)
            self._enough[key] = None if step is None else self._solved(step, without, held)
            self._gain = self._gain if step is None else want - step
        return self._enough[key]

    def _lowest(self, want: int, without: frozenset[str], held: Counts | None) -> int | None:
        """Return the rung that this fleet is planned for, by ever longer steps and halving."""

        def is_enough(step: int) -> bool:
            fleet = self._solved(step, without, held)
            return fleet is not None and self.rate(fleet) >= RUNG**want

        least, most = want - _MOST_GAIN, want + _MOST_LOSS
        low = high = max(want - self._gain, least)
        jump = 1
        if is_enough(high):
            while (low := max(high - jump, least - 1)) >= least and is_enough(low):
                high, jump = low, 2 * jump
        else:
            while not is_enough(high := min(low + jump, most)):
                if self._solved(high, without, held) is not None and high < most:
                    low, jump = high, 2 * jump
                elif jump == 1:
                    return None
                else:
                    jump = 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_enough(middle) else (middle, high)
        return high

    def shrunk(self, fleet: Counts, rate_rps: float) -> Counts | None:
        """Return a fleet without what it can spare, dearest first; what is paid for or the rules ask for stays."""
        key = fleet, rung(rate_rps)
        if key not in self._shrunk:
            self._shrunk[key] = self._spared(fleet, RUNG ** key[1])
        return self._shrunk[key]

    def _spared(self, fleet: Counts, rate_rps: float) -> Counts:
        rules = self.plan.constraints
        if rules.minimum or rules.min_option_types > 1 or rules.max_share_per_region:
            return fleet  # `cheapest` keeps to such rules
        if rules.max_share_per_cloud or rules.min_replicas >= sum(fleet):
            return fleet
        rest, kept = list(fleet), self.kept(fleet)
        for k in sorted(range(len(rest)), key=lambda k: -self.prices[k]):
            while rest[k] > kept[k] and sum(rest) > max(rules.min_replicas, 1):
                rest[k] -= 1
                if self.rate(tuple(rest)) < rate_rps:
                    rest[k] += 1
                    break
        return tuple(rest)

    def _solved(self, step: int, without: frozenset[str], held: Counts | None) -> Counts | None:
        key = step, without, held
        if key not in self._found:
            self._found[key] = self._optimum(RUNG**step, without, held)
        return self._found[key]

    def _optimum(
        self, rate_rps: float, without: frozenset[str], held: Counts | None
    ) -> Counts | None:
        problem = at_rate(self._problem, rate_rps)
        running = {name for name, n in zip(self.options, held or (), strict=False) if n}
        if held is not None:  # additions are chosen among what cheapest fleets are made of
            problem = _among(problem, self._chosen | running)
        if without:
            problem = _among(problem, set(self.options) - (without - running))
        if held is not None:
            kept = tuple(
                instance_group(candidate, n)
                for candidate, n in zip(self._candidates, held, strict=True)
                if n
            )
            rules = problem.constraints
            problem = replace(problem, constraints=replace(rules, minimum=rules.minimum + kept))
        try:
            found = self._counts(optimize(problem, SolveOptions(time_limit_s=_SECONDS)))
        except (InfeasibleError, InputError, NoPlanInTimeError):
            return None
        rows = zip(self.options, found, held or found, strict=True)
        more = {name for name, n, had in rows if n > had}
        return None if more & without else found

    def _counts(self, solution: Solution) -> Counts:
        (allocations,) = solution.allocations
        counts = {a.candidate.option.name: a.instances for a in allocations}
        self._chosen |= set(counts)
        return tuple(counts.get(name, 0) for name in self.options)


def rung(rate_rps: float) -> int:
    """Return the power of `RUNG` that a rate is rounded up to."""
    return math.ceil(math.log(max(rate_rps, 1e-6)) / math.log(RUNG) - 1e-9)


def _among(problem: Problem, names: Set[str]) -> Problem:
    """Return a problem with these options alone, and the rules that speak of them."""
    (demand,) = problem.demands
    options = tuple(c for c in demand.options if c.option.name in names)
    rules = constraints_among(problem.constraints, [c.option for c in options])
    return replace(problem, demands=(replace(demand, options=options),), constraints=rules)
