"""Whether splits are planned whose step times follow from assumptions, which no measured run stands behind.

Spread experts, pipeline stages and replicas over several instances have wide error bands. By default
they are planned where nothing else serves, or where they would still save money at the low end of
what their band adds; else the plan does without them and says what they might save.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.capacities import Origin
from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import Termination, least_cost, optimize
from melange_sky.parallelism import AssumedSplits
from melange_sky.planner.notes import assumed_of
from melange_sky.plans import PlanWarning
from melange_sky.steps import ErrorBand, split_band

if TYPE_CHECKING:
    from melange_sky.capacities import CapacityCell, OptionCapacity
    from melange_sky.optimizer import Demand, Problem, Solution, SolveOptions

CODE = "assumed-split"
SAME_USD = 1e-6
LEAST_TOLD_USD = 0.005

_FROM_ASSUMPTIONS = (Origin.ESTIMATED, Origin.BOUND)


def without_assumed(problem: Problem, rule: AssumedSplits) -> Problem:
    """Return the problem without splits that rest on assumptions.

    A model of which nothing else serves some size keeps them, unless none are to be planned at all.
    """
    if rule is AssumedSplits.ALL:
        return problem
    demands = []
    for demand in problem.demands:
        firm = tuple(c for c in demand.options if not _is_assumed(c, demand))
        kept = rule is AssumedSplits.ROBUST and _serves_less(demand, firm)
        demands.append(demand if kept else replace(demand, options=firm))
    return replace(problem, demands=tuple(demands))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rivals:
    """What is held against an optimum with assumed splits, as far as it is known already.

    `firm` is the optimum without them, `saves_at_low_end` whether they still save at the low end of their band.
    """

    firm: Solution | None = None
    saves_at_low_end: bool | None = None


def settled(
    problem: Problem,
    solution: Solution,
    rule: AssumedSplits,
    solve: SolveOptions,
    known: Rivals = Rivals(),
) -> tuple[Problem, Solution, tuple[PlanWarning, ...]]:
    """Return the problem to plan and its solution, given the optimum of one that holds every split.

    The warnings say what would be saved by splits that were left out. What is `known` is not solved again.
    """
    firm = without_assumed(problem, rule)
    if firm == problem:
        return problem, solution, ()
    used = _used(problem, solution)
    if not used:
        return firm, solution, ()
    try:
        other = known.firm or optimize(firm, solve)
    except InfeasibleError as error:
        if rule is AssumedSplits.NONE:
            shapes = _shapes(used)
            raise error.noting([f"resources.assumed_splits: none leaves out {shapes}"]) from error
        return problem, solution, ()
    if rule is AssumedSplits.ROBUST:
        still = known.saves_at_low_end
        if still is None:
            still = _saves_at_low_end(problem, other, solve)
        if still:
            return problem, solution, ()
    return firm, other, _left_out(used, solution, other)


def has_rivals(problem: Problem, solution: Solution, rule: AssumedSplits) -> bool:
    """Return whether `settled` would hold other optima against this one."""
    return bool(_used(problem, solution)) and without_assumed(problem, rule) != problem


def saves(low_end_usd_per_hour: float, firm: Solution) -> bool:
    """Return whether assumed splits save, given the least cost of a problem with them at their low end."""
    return low_end_usd_per_hour < firm.cost_usd_per_hour - SAME_USD


def _used(problem: Problem, solution: Solution) -> list[OptionCapacity]:
    """Return the options with assumed splits that a fleet holds."""
    return [
        c
        for demand, chosen in zip(problem.demands, solution.allocations, strict=True)
        for c in (a.candidate for a in chosen)
        if _is_assumed(c, demand)
    ]


def _serves_less(demand: Demand, firm: tuple[OptionCapacity, ...]) -> bool:
    def served(options: tuple[OptionCapacity, ...], i: int, j: int) -> bool:
        return any(c.cells[i][j].largest_rps for c in options)

    return any(
        served(demand.options, i, j) and not served(firm, i, j)
        for i, j in demand.workload.buckets()
    )


def _is_assumed(capacity: OptionCapacity, demand: Demand) -> bool:
    """Return whether an option's rates of this traffic rest on assumptions, in part at least."""
    if assumed_of(capacity.option) is None:
        return False
    cells = (capacity.cells[i][j] for i, j in demand.workload.buckets())
    return any(cell.origin in _FROM_ASSUMPTIONS for cell in cells)


def _saves_at_low_end(problem: Problem, firm: Solution, solve: SolveOptions) -> bool:
    """Return whether assumed splits still save where they carry as little as their band allows."""
    alone = replace(solve, within_fraction=0.0, alternatives=0, stay_close=None)
    least = least_cost(at_low_end(problem), alone)
    if least.termination is Termination.LIMIT or least.cost_usd_per_hour is None:
        return False
    return saves(least.cost_usd_per_hour, firm)


def at_low_end(problem: Problem) -> Problem:
    """Return the problem with assumed splits that carry as little as their band allows.

    What is not simulated yet carries that part of its bound at most, where no calibration stands behind it.
    """
    demands = tuple(
        replace(d, options=tuple(_at_low_end(c) if _is_assumed(c, d) else c for c in d.options))
        for d in problem.demands
    )
    return replace(problem, demands=demands)


def _at_low_end(capacity: OptionCapacity) -> OptionCapacity:
    engine = capacity.option.engine
    assert engine is not None
    factor = split_band(ErrorBand(low=1.0, high=1.0, basis=""), engine.split).low

    def lowered(cell: CapacityCell) -> CapacityCell:
        return cell.scaled(factor) if cell.origin in _FROM_ASSUMPTIONS else cell

    return replace(capacity, cells=tuple(tuple(map(lowered, row)) for row in capacity.cells))


def _shapes(options: list[OptionCapacity]) -> str:
    return ", ".join(dict.fromkeys(c.option.shape for c in options))


def _left_out(
    used: list[OptionCapacity], solution: Solution, firm: Solution
) -> tuple[PlanWarning, ...]:
    if solution.cost_usd_per_hour > firm.cost_usd_per_hour - LEAST_TOLD_USD:
        return ()
    what = " and ".join(dict.fromkeys(assumed_of(c.option) or "" for c in used))
    return (
        PlanWarning(
            code=CODE,
            message=f"left out: {_shapes(used)}, with which ${solution.cost_usd_per_hour:,.2f}/h instead of "
            f"${firm.cost_usd_per_hour:,.2f}/h would be planned; step times of {what} follow from assumptions, "
            "and at the low end of their band nothing is saved; resources.assumed_splits: all lets them in",
        ),
    )
