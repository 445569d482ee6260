"""Many models under shared limits: column generation over whole fleets of each model.

The master program picks one known fleet per model within the limits. Its dual values are what one more
GPU or instance under each limit is worth; each model is planned anew with those on top of its prices,
which yields its next fleet, and a bound of every fleet's cost (Lagrange):

    Σ_models least (cost + Σ_l price_l × units_l) − Σ_l price_l × limit_l

(Dantzig & Wolfe, Operations Research 8(1), 1960; the prices are smoothed towards those of the best
bound: Wentges, International Transactions in Operational Research 4(2), 1997.) The known fleets are
then picked as wholes. All work is counted in rounds, so that the answer is the same on a busy machine
unless its deadline passes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.optimizer.answers.allocations import allocate
from melange_sky.optimizer.answers.repriced import Limits, Prices, Repriced
from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.problem.question import Solution, Step
from melange_sky.optimizer.program.linear import EQ, LE, Linear
from melange_sky.optimizer.program.run import has_highs, run
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.levels import (
    Levelled,
    find_cheapest_levels,
    needed_levels,
    within,
)
from melange_sky.optimizer.search.solution_point import COST_TIE
from melange_sky.plans import SolverReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.search.cheapest import Cheapest
    from melange_sky.plans import Allocation

    Instances = tuple[tuple[str, int], ...]

log = logging.getLogger(__name__)

ROUNDS = 24
CLOSE = 2e-3
"""How near the bound and the master program come before no more fleets are looked for."""

SMOOTH = 0.5
PICK_GAP = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """A fleet per model within the limits, a bound of the least cost, and the prices behind the bound.

    `limit_prices`: per limit, by name, USD per hour of one more GPU or instance; no less would be saved
    by it than the bound tells.
    """

    solutions: tuple[Solution, ...]
    bound_usd_per_hour: float
    limit_prices: tuple[tuple[str, float], ...]


def plan_under_limits(
    parts: Sequence[Problem],
    limits: Limits,
    alone: Sequence[Solution],
    options: SolveOptions,
) -> Bounded | None:
    """Return fleets of the models that together keep to the limits, None where none were found.

    `alone` are the fleets of the models, each by itself, at no price for the limits.
    """
    if options.solver == "cbc" or not has_highs():
        return None
    search = _Search(parts=parts, limits=limits, options=options)
    search.take(list(map(_Found.of, alone)), search.free)
    try:
        search.generate()
    except (InfeasibleError, NoPlanInTimeError, TimeUpError):
        log.info("no time was left to look for more fleets under the limits")
    picked = search.pick()
    if picked is None:
        return None
    prices = [(str(key), price) for (key, _), price in zip(limits, search.best, strict=True)]
    return Bounded(
        solutions=picked,
        bound_usd_per_hour=search.bound,
        limit_prices=tuple((name, price) for name, price in prices if price > 0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The cheapest fleet of a model at some prices on the limits, `cost_usd_per_hour` with these on top.

    `instances` are by option name; `solution` settles who serves what, at those prices.
    """

    cost_usd_per_hour: float
    gap: float
    instances: Instances
    solution: Callable[[], Solution]

    @classmethod
    def of(cls, solution: Solution) -> _Found:
        """Return what a whole solution of one model tells."""
        chosen = solution.allocations[0]
        return cls(
            cost_usd_per_hour=solution.cost_usd_per_hour,
            gap=solution.report.mip_gap,
            instances=tuple((a.candidate.option.name, a.instances) for a in chosen),
            solution=lambda: solution,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fleet:
    """One model's fleet: what it costs at true prices, and what it counts against each limit."""

    found: _Found
    cost_usd_per_hour: float
    units: tuple[int, ...]

    def cost_at(self, prices: Prices) -> float:
        """Return what it costs with these prices on the limits on top."""
        units = zip(prices, self.units, strict=True)
        return self.cost_usd_per_hour + sum(price * count for price, count in units)


@dataclass(slots=True, kw_only=True)
class _Search:
    """The fleets known per model, and the best bound with its prices."""

    parts: Sequence[Problem]
    limits: Limits
    options: SolveOptions
    models: list[Repriced] = field(default_factory=list)
    fleets: list[dict[Instances, _Fleet]] = field(default_factory=list)
    bound: float = 0.0
    best: Prices = ()

    def __post_init__(self) -> None:
        self.fleets = [{} for _ in self.parts]
        self.best = self.free

    @property
    def free(self) -> Prices:
        """No price on any limit."""
        return (0.0,) * len(self.limits)

    def generate(self) -> None:
        """Look for fleets that the master program could use, until it meets the bound or for so many rounds.

        Raises NoPlanInTimeError.
        """
        self.take(self._planned(self._forbidding()), self._forbidding())
        for _ in range(ROUNDS):
            value, prices = self._master()
            if value <= self.bound * (1 + CLOSE):
                return
            known = sum(map(len, self.fleets))
            mixed = tuple(
                SMOOTH * price + (1 - SMOOTH) * best
                for price, best in zip(prices, self.best, strict=True)
            )
            self.take(self._planned(mixed), mixed)
            if sum(map(len, self.fleets)) == known:
                # Nothing new between: only the master's own prices can still tell of a fleet.
                self.take(self._planned(prices), prices)
                if sum(map(len, self.fleets)) == known:
                    return

    def take(self, found: Sequence[_Found], prices: Prices) -> None:
        """Keep the fleets of all models at these prices on the limits, and the bound that they prove."""
        bound = sum(one.cost_usd_per_hour * (1 - one.gap) for one in found)
        for n, (part, one) in enumerate(zip(self.parts, found, strict=True)):
            if one.instances not in self.fleets[n]:
                self.fleets[n][one.instances] = self._fleet(part, one)
        bound -= sum(price * limit for price, (_, limit) in zip(prices, self.limits, strict=True))
        if bound > self.bound:
            self.bound, self.best = bound, prices

    def _fleet(self, part: Problem, found: _Found) -> _Fleet:
        by_name = {c.option.name: c.option for c in part.demands[0].options}
        chosen = [(by_name[name], count) for name, count in found.instances]
        return _Fleet(
            found=found,
            cost_usd_per_hour=sum(count * option.price_usd_per_hour for option, count in chosen),
            units=tuple(
                sum(count * option.units(key) for option, count in chosen) for key, _ in self.limits
            ),
        )

    def pick(self) -> tuple[Solution, ...] | None:
        """Return the cheapest choice of known fleets within the limits, None where there is none."""
        program, places = self._program(whole=True)
        options = replace(self.options, mip_gap=PICK_GAP)
        outcome = run(program, replace(options, deadline=options.deadline.at_least(1.0)))
        if not outcome.termination.has_solution:
            return None
        chosen = [max(known, key=lambda place: outcome.values[place[0]])[1] for known in places]
        settled = [
            _at_true_prices(part, fleet.found.solution())
            for part, fleet in zip(self.parts, chosen, strict=True)
        ]
        rules = RuleSet.of(self.parts[0], self.options)
        if rules.counts_instances or rules.spare_instances:
            return tuple(settled)
        return tuple(map(_without_idle, settled))

    def _planned(self, prices: Prices) -> list[_Found]:
        """Plan every model with these prices on top of its options' own."""
        if not self.models:
            self.models = [Repriced.of(part, self.options) for part in self.parts]
        found = []
        each = self.options.deadline.of_each(self.models)
        for fleets, (model, deadline) in zip(self.fleets, each, strict=True):
            own = replace(self.options, deadline=deadline, known_usd_per_hour=None)
            most = min(fleet.cost_at(prices) for fleet in fleets.values())
            found.append(_cheapest(model.at(self.limits, prices), own, most))
        return found

    def _forbidding(self) -> Prices:
        """Return prices at which what is limited is used only where nothing else serves."""
        most = max(c.option.price_usd_per_hour for p in self.parts for c in p.demands[0].options)
        return (most,) * len(self.limits)

    def _program(self, *, whole: bool) -> tuple[Linear, list[list[tuple[int, _Fleet]]]]:
        """Return the master program: one fleet per model, its units within the limits."""
        program, places = Linear(), []
        for n, known in enumerate(self.fleets):
            columns = [
                (program.add(f"z_{n}_{f}", 0.0, 1.0, whole=whole), fleet)
                for f, fleet in enumerate(known.values())
            ]
            program.goal += [(z, fleet.cost_usd_per_hour) for z, fleet in columns]
            program.row([(z, 1.0) for z, _ in columns], EQ, 1, f"one_fleet_of_model_{n}")
            places.append(columns)
        for k, (_, limit) in enumerate(self.limits):
            terms = [(z, float(fleet.units[k])) for columns in places for z, fleet in columns]
            if not whole:  # so that there is a solution, and prices, from the first round on
                over = program.add(f"over_{k}")
                program.goal.append((over, 2 * self._forbidding()[k]))
                terms.append((over, -1.0))
            program.row(terms, LE, limit, f"limit_{k}")
        return program, places

    def _master(self) -> tuple[float, Prices]:
        """Return the master program's value with fleets divisible, and the limits' dual values."""
        from melange_sky.optimizer.program.highs import solve_with_duals

        program, _ = self._program(whole=False)
        value, duals = solve_with_duals(program, self.options.deadline)
        return value, tuple(max(0.0, -dual) for dual in duals[len(self.parts) :])


def _cheapest(forms: Sequence[Levelled], options: SolveOptions, most: float) -> _Found:
    """Return the cheapest fleet of one model, of which one is known that costs `most`.

    Raises NoPlanInTimeError where none was found in time.
    """
    late = NoPlanInTimeError(options.time_limit_s)
    try:
        kept = [(form, within(form, options, most)) for form in forms]
        worth = [replace(form, canonical=c) for form, c in kept if c is not None]
        levels = find_cheapest_levels(needed_levels(worth, options), options)
    except TimeUpError:
        raise late from None
    if isinstance(levels, Termination):
        raise late
    cheapest = levels[0].cheapest
    columns, point = cheapest.program.canonical.columns, cheapest.point
    return _Found(
        cost_usd_per_hour=point.cost,
        gap=cheapest.gap,
        instances=tuple(
            (column.name, count)
            for column, count in zip(columns, point.instances, strict=True)
            if count
        ),
        solution=lambda: _solution(cheapest),
    )


def _solution(cheapest: Cheapest) -> Solution:
    """Return who serves what on a fleet that was found, at the prices at which it was."""
    allocated = allocate(cheapest.program, cheapest.point)
    gap, cost = cheapest.gap, cheapest.point.cost
    status = Termination.OPTIMAL if gap <= COST_TIE else Termination.FEASIBLE
    unfinished = {Step.SHARES: not allocated.is_even, Step.CHECK: not allocated.is_checked}
    return Solution(
        allocations=allocated.by_demand,
        report=SolverReport(
            status=status.value, mip_gap=gap, solve_seconds=0.0, solver=cheapest.outcome.solver
        ),
        cost_usd_per_hour=cost,
        optimum_usd_per_hour=cost,
        unfinished=tuple(step for step, is_left in unfinished.items() if is_left),
    )


def _without_idle(solution: Solution) -> Solution:
    """Return a solution without instances that serve nothing, as one found in a hurry may hold."""
    (chosen,) = solution.allocations
    busy = tuple(a for a in chosen if a.rate_rps > 0 or not a.billed_replicas)
    if len(busy) in (0, len(chosen)):
        return solution
    cost = sum(a.cost_usd_per_hour for a in busy)
    return replace(solution, allocations=(busy,), cost_usd_per_hour=cost, optimum_usd_per_hour=cost)


def _at_true_prices(part: Problem, solution: Solution) -> Solution:
    """Return a solution with the options as the problem has them, and its cost by them."""
    by_name = {c.option.name: c for c in part.demands[0].options}
    allocations: tuple[Allocation, ...] = tuple(
        replace(a, candidate=by_name[a.candidate.option.name]) for a in solution.allocations[0]
    )
    cost = sum(a.cost_usd_per_hour for a in allocations)
    return replace(
        solution, allocations=(allocations,), cost_usd_per_hour=cost, optimum_usd_per_hour=cost
    )
