"""From a problem to the fleet: least cost first, then the simplest fleet of that cost."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.errors import MelangeError, NoPlanInTimeError
from melange_sky.optimizer.answers.allocations import allocate
from melange_sky.optimizer.answers.alternatives import find_alternatives
from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.problem.question import Alternative, Solution, SolveOptions, Step
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.search.levels import find_cheapest_levels, levelled_forms, settle_levels
from melange_sky.optimizer.search.solution_point import COST_TIE
from melange_sky.plans import SolverReport

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.question import Problem
    from melange_sky.optimizer.search.cheapest import Cheapest
    from melange_sky.optimizer.search.levels import Level
    from melange_sky.optimizer.search.simplest import Settled


def optimize(problem: Problem, options: SolveOptions | None = None) -> Solution:
    """Return the cheapest fleet that serves every demand within the constraints.

    Among fleets of equal cost: fewest option types, then fewest instances, then first by name.
    Raises InfeasibleError with the buckets or the constraints that stand against it,
    NoPlanInTimeError where none was found in the time, InputError for unusable figures.
    """
    options = (options or SolveOptions()).started()
    if len(problem.demands) < 2:
        return _together(problem, options)
    from melange_sky.optimizer.answers.apart import plan_apart  # one model does without

    return plan_apart(problem, options, _together) or _together(problem, options)


def _together(problem: Problem, options: SolveOptions) -> Solution:
    """Return the cheapest fleet by one program of all models."""
    start = options.deadline.clock()
    levels = _cheapest(problem, options)
    cheapest, settled = levels[0].cheapest, settle_levels(levels, options)
    allocated = allocate(settled.program, settled.point)
    alternatives, all_found = _alternatives(settled, options)
    simplest = settled.in_time or not (cheapest.is_proven or options.within_fraction)
    unfinished = {
        Step.SIMPLEST: not simplest,
        Step.SHARES: not allocated.is_even,
        Step.ALTERNATIVES: not all_found,
        Step.CHECK: not allocated.is_checked,
    }
    return Solution(
        allocations=allocated.by_demand,
        report=_report(cheapest, options, options.deadline.clock() - start),
        cost_usd_per_hour=settled.point.cost,
        optimum_usd_per_hour=cheapest.point.cost,
        alternatives=alternatives,
        unfinished=tuple(step for step, is_left in unfinished.items() if is_left),
    )


def _report(cheapest: Cheapest, options: SolveOptions, seconds: float) -> SolverReport:
    gap = cheapest.gap
    is_proven = gap <= max(options.mip_gap, COST_TIE)
    return SolverReport(
        status=(Termination.OPTIMAL if is_proven else Termination.FEASIBLE).value,
        mip_gap=gap if gap > COST_TIE else 0.0,
        solve_seconds=seconds,
        solver=cheapest.outcome.solver,
    )


def _alternatives(settled: Settled, options: SolveOptions) -> tuple[tuple[Alternative, ...], bool]:
    """Return the alternatives found, and whether there was time for all that were asked for."""
    # Half of what is left: a plan's baselines come after them.
    half = replace(options, deadline=options.deadline.share(0.5))
    more = find_alternatives(settled.program, settled.point, half)
    alternatives: list[Alternative] = []
    while True:
        try:
            alternatives.append(next(more))
        except StopIteration:
            return tuple(alternatives), True
        except TimeUpError:
            return tuple(alternatives), False


def _cheapest(problem: Problem, options: SolveOptions) -> tuple[Level, ...]:
    late = NoPlanInTimeError(options.time_limit_s)
    try:
        forms = levelled_forms(problem, options)
    except TimeUpError:
        raise late from None
    cheapest = find_cheapest_levels(forms, options)
    if not isinstance(cheapest, Termination):
        return cheapest
    if cheapest is Termination.INFEASIBLE:
        from melange_sky.optimizer.answers.conflict import find_conflict
        from melange_sky.optimizer.answers.wording import conflict_error

        raise conflict_error(find_conflict(forms, options))
    if cheapest is Termination.LIMIT:
        raise late
    raise MelangeError("the solver gave up: it found no plan and did not prove that there is none")
