"""What the fleet would cost with one accelerator alone, over all its counts and offers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.optimizer.answers.lowest_cost import least_cost
from melange_sky.optimizer.answers.optimum import optimize
from melange_sky.optimizer.problem.question import Problem, SolveOptions
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.registry import constraints_among
from melange_sky.optimizer.search.solution_point import COST_TIE
from melange_sky.plans import Baseline

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.question import Demand


LARGE, LARGE_GAP = 50, 1e-3
"""Beside a plan that costs so many times the dearest option, fleets of one accelerator are found to this gap."""


def baselines(
    problem: Problem, plan_cost: tuple[float, ...], options: SolveOptions | None = None
) -> tuple[tuple[Baseline, ...], ...]:
    """Return, per demand, each accelerator's cheapest plan alone, by name.

    `plan_cost` is what the plan costs per demand. Each demand is planned by itself under the same
    constraints; a simplest-plan band and alternatives are left out, for they change no least cost.
    Each gets its part of the time that is left, twice the even one for most need little. Those that are not
    proven in it are taken up again, for at most as long as the others took together; one without an answer
    then is neither feasible nor infeasible.
    """
    plain = replace(
        options or SolveOptions(),
        within_fraction=0.0,
        alternatives=0,
        stay_close=None,
        known_usd_per_hour=None,
    )
    plain = plain.started()
    names = [sorted({c.option.accelerator for c in demand.options}) for demand in problem.demands]
    asked = [(d, accelerator) for d, of_demand in enumerate(names) for accelerator in of_demand]
    told = _Told(problem=problem, plan_cost=plan_cost)
    unsure = told.tell(asked, plain)
    again = replace(plain, deadline=plain.deadline.within(told.sure_s))
    told.tell(unsure, again)
    return tuple(
        tuple(told.rows[d, accelerator] for accelerator in of_demand)
        for d, of_demand in enumerate(names)
    )


@dataclass(slots=True, kw_only=True)
class _Told:
    """The rows told so far, and how many seconds those took of which more time could tell no better."""

    problem: Problem
    plan_cost: tuple[float, ...]
    rows: dict[tuple[int, str], Baseline] = field(default_factory=dict)
    sure_s: float = 0.0

    def tell(self, asked: list[tuple[int, str]], options: SolveOptions) -> list[tuple[int, str]]:
        """Tell of these demands and accelerators; return those that were not proven in time."""
        unsure = []
        for (d, accelerator), deadline in options.deadline.of_each(asked):
            demand, begun_s = self.problem.demands[d], deadline.clock()
            own = replace(options, deadline=deadline)
            if _is_large(demand, self.plan_cost[d]):
                own = replace(own, mip_gap=max(options.mip_gap, LARGE_GAP))
            row, is_sure = _baseline(self.problem, demand, accelerator, self.plan_cost[d], own)
            known = self.rows.get((d, accelerator))
            if is_sure or known is None or _cost_of(row) < _cost_of(known):
                self.rows[d, accelerator] = row
            if is_sure:
                self.sure_s += deadline.clock() - begun_s
            else:
                unsure.append((d, accelerator))
        return unsure


def _cost_of(row: Baseline) -> float:
    return math.inf if row.cost_usd_per_hour is None else row.cost_usd_per_hour


def _is_large(demand: Demand, plan_cost: float) -> bool:
    """Return whether a fleet is so large that the last tenth of a percent is not worth the time."""
    return plan_cost > LARGE * max(c.option.price_usd_per_hour for c in demand.options)


def _baseline(
    problem: Problem, demand: Demand, accelerator: str, plan_cost: float, options: SolveOptions
) -> tuple[Baseline, bool]:
    """Return the row of one accelerator, and whether more time could not tell it better."""
    candidates = tuple(c for c in demand.options if c.option.accelerator == accelerator)
    try:
        constraints = constraints_among(problem.constraints, [c.option for c in candidates])
    except InfeasibleError as error:
        return _none(accelerator, str(error), feasible=False), True
    demands = (replace(demand, options=candidates),)
    alone = replace(problem, demands=demands, constraints=constraints)
    least = least_cost(alone, options, settle=True)
    if least.termination is Termination.INFEASIBLE:
        return _none(accelerator, _why_none(alone, options), feasible=False), True
    cost = least.cost_usd_per_hour
    if cost is None:
        return _none(accelerator, _not_known(least.termination, options), feasible=None), False
    row = Baseline(
        accelerator=accelerator,
        feasible=True,
        reason=_doubt(least.gap, options, at_least=least.at_least),
        instances=least.instances,
        shape=least.shape,
        cost_usd_per_hour=cost,
        saving_fraction=1 - plan_cost / cost if cost > 0 else None,
        at_least=least.at_least,
    )
    return row, least.gap <= max(options.mip_gap, COST_TIE)


def _none(accelerator: str, reason: str, *, feasible: bool | None) -> Baseline:
    return Baseline(
        accelerator=accelerator,
        feasible=feasible,
        reason=reason,
        instances=None,
        cost_usd_per_hour=None,
        saving_fraction=None,
    )


def _doubt(gap: float, options: SolveOptions, *, at_least: bool = False) -> str | None:
    """Say where the cost is not proven least, so that the saving against it is not as told."""
    if at_least:
        return "at least: rates that were not simulated count as the most that they could be"
    if gap <= COST_TIE:
        return None
    if gap <= options.mip_gap:
        return f"found to within a gap: may cost up to {gap:.2%} less"
    return f"not proven optimal within the time limit: may cost up to {gap:.1%} less"


def _why_none(alone: Problem, options: SolveOptions) -> str:
    """Return what stands against a fleet that is known to be impossible."""
    try:
        optimize(alone, options)
    except InfeasibleError as error:
        return str(error)
    except NoPlanInTimeError:
        pass
    return "no fleet of it alone meets all rules (no time was left to find which rules conflict)"


def _not_known(termination: Termination, options: SolveOptions) -> str:
    if termination is Termination.LIMIT:
        return f"unknown: no answer within the time limit of {options.time_limit_s:g} s"
    return "unknown: the solver gave up"
