"""Models that no rule ties are planned each by itself; those that limits tie, by what limits are worth.

One program of n models takes far longer than n programs of one. Without the rules that span models,
each model's own optimum is a bound, and where their fleets happen to keep those rules they are the
answer. Where they exceed limits, `limit_prices` finds what a GPU or an instance under a limit is worth.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.optimizer.answers.conflict import Conflict, Help
from melange_sky.optimizer.answers.limit_prices import plan_under_limits
from melange_sky.optimizer.answers.wording import conflict_error
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.base import TOLERANCE, FinishedFleet
from melange_sky.optimizer.rules.money import Budget
from melange_sky.optimizer.rules.registry import RULES, RuleSet
from melange_sky.optimizer.search.solution_point import COST_TIE
from melange_sky.plans import SolverReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from melange_sky.optimizer.answers.limit_prices import Bounded
    from melange_sky.optimizer.problem.question import Problem, Solution, SolveOptions

    PlanOne = Callable[[Problem, SolveOptions], Solution]


FEW = 4
"""So many models under limits are planned by one program too: it proves the optimum and settles ties."""


def plan_apart(problem: Problem, options: SolveOptions, plan_one: PlanOne) -> Solution | None:
    """Return the fleet of several models, each planned by `plan_one`; None where that answers nothing.

    That is so of one model, of what is asked of the whole fleet besides the least cost, where what
    spans models makes fleets cheaper (capacity already paid for), and where no fleet was found.
    Raises InfeasibleError where one of the models cannot be served, NoPlanInTimeError.
    """
    parts = None if _asks_of_all(options) else _parts(problem)
    if parts is None:
        return None
    start = options.deadline.clock()
    alone = _each(parts, replace(options, known_usd_per_hour=None), plan_one)
    broken = list(_broken(problem, options, alone))
    bounded: Bounded | None = None
    if broken:
        _check_budget(problem, options, alone)
        if problem.constraints.minimum or not problem.constraints.limits:
            return None
        bounded = plan_under_limits(parts, problem.constraints.limits, alone, options)
        if bounded is None or list(_broken(problem, options, bounded.solutions)):
            return None
        alone = list(bounded.solutions)
    joined = _joined(problem, alone, bounded, options, options.deadline.clock() - start)
    if bounded is None or len(parts) > FEW:
        return joined
    return _cheaper_together(problem, joined, options, plan_one)


def _asks_of_all(options: SolveOptions) -> bool:
    """Return whether more is asked of the whole fleet than the least cost."""
    return bool(options.within_fraction or options.alternatives or options.stay_close)


def parts_untied(problem: Problem, options: SolveOptions) -> tuple[Problem, ...] | None:
    """Return a problem per model where no rule spans them and the least cost alone is asked for, else None."""
    if _asks_of_all(options) or any(
        rule.spans_models for rule in RuleSet.of(problem, options).rules
    ):
        return None
    return _parts(problem)


def _cheaper_together(
    problem: Problem, joined: Solution, options: SolveOptions, plan_one: PlanOne
) -> Solution:
    """Return the proven, simplest fleet by one program where that ends in time, else the one at hand."""
    known = joined.cost_usd_per_hour
    half = replace(options, known_usd_per_hour=known, deadline=options.deadline.share(0.5))
    try:
        together = plan_one(problem, half)
    except (InfeasibleError, NoPlanInTimeError):
        return joined
    cheaper = together.cost_usd_per_hour < known * (1 - COST_TIE)
    return together if together.report.is_optimal or cheaper else joined


def _parts(problem: Problem) -> tuple[Problem, ...] | None:
    """Return a problem per model by name, without what spans them; None where that makes fleets dearer."""
    if len(problem.demands) < 2:
        return None
    constraints = problem.constraints
    for rule in RULES:
        untied = rule.untied(constraints)
        if untied is None:
            return None
        constraints = untied
    return tuple(
        replace(problem, demands=(demand,), constraints=constraints)
        for demand in sorted(problem.demands, key=lambda demand: demand.name)
    )


def _each(parts: Sequence[Problem], options: SolveOptions, plan_one: PlanOne) -> list[Solution]:
    """Plan each model by itself; those not proven in their part of the time again, in what the others left."""
    found = [
        _of_one(part, replace(options, deadline=own), plan_one)
        for part, own in options.deadline.of_each(parts)
    ]
    unsure = [n for n, solution in enumerate(found) if not solution.report.is_optimal]
    if len(unsure) == len(parts):
        return found
    for n, own in options.deadline.of_each(unsure):
        if own.passed:
            break
        known = found[n].cost_usd_per_hour
        with contextlib.suppress(NoPlanInTimeError):
            again = _of_one(
                parts[n], replace(options, deadline=own, known_usd_per_hour=known), plan_one
            )
            if again.report.is_optimal or again.cost_usd_per_hour < found[n].cost_usd_per_hour:
                found[n] = again
    return found


def _of_one(part: Problem, options: SolveOptions, plan_one: PlanOne) -> Solution:
    try:
        return plan_one(part, options)
    except InfeasibleError as error:
        raise error.naming(part.demands[0].name) from error


def _check_budget(problem: Problem, options: SolveOptions, alone: Sequence[Solution]) -> None:
    """Raise InfeasibleError where the models' own optima, without rules that span them, exceed a budget."""
    budget = Budget.of(problem, options)
    cost = sum(solution.cost_usd_per_hour * (1 - solution.report.mip_gap) for solution in alone)
    if budget is None or cost <= budget.usd_per_hour * (1 + TOLERANCE):
        return
    others = problem.constraints.limits or problem.constraints.minimum
    is_least = not others and all(solution.report.is_optimal for solution in alone)
    help_ = Help(clause=budget.clause, text=f"raise the budget to ${cost:.2f}/h")
    helps = (help_,) if is_least else ()
    raise conflict_error(Conflict(clauses=(budget.clause,), helps=helps, is_minimal=True))


def _broken(
    problem: Problem, options: SolveOptions, solutions: Sequence[Solution]
) -> Iterator[str]:
    """Yield what these fleets together break of the rules that span models."""
    fleet = FinishedFleet(
        problem=problem,
        options=options,
        demands=tuple(sorted(problem.demands, key=lambda demand: demand.name)),
        allocations=tuple(solution.allocations[0] for solution in solutions),
        goal_usd_per_hour=sum(solution.cost_usd_per_hour for solution in solutions),
        shares_after_loss=lambda demand, lost: None,
    )
    for rule in RuleSet.of(problem, options).rules:
        if rule.spans_models:
            yield from rule.violations(fleet)


def _joined(
    problem: Problem,
    solutions: Sequence[Solution],
    bounded: Bounded | None,
    options: SolveOptions,
    seconds: float,
) -> Solution:
    """Return the fleets, by the models' names, as one answer, with what is proven of their sum."""
    cost = sum(solution.cost_usd_per_hour for solution in solutions)
    if bounded is None:
        unproven = sum(s.report.mip_gap * s.cost_usd_per_hour for s in solutions)
        bound = cost - unproven
    else:
        bound = bounded.bound_usd_per_hour
    gap = max(0.0, 1 - bound / cost) if cost > 0 else 0.0
    is_proven = gap <= max(options.mip_gap, COST_TIE)
    names = sorted(demand.name for demand in problem.demands)
    by_name = {n: s.allocations[0] for n, s in zip(names, solutions, strict=True)}
    report = SolverReport(
        status=(Termination.OPTIMAL if is_proven else Termination.FEASIBLE).value,
        mip_gap=gap if gap > COST_TIE else 0.0,
        solve_seconds=seconds,
        solver=solutions[0].report.solver,
        bound_usd_per_hour=bound,
        limit_prices=() if bounded is None else bounded.limit_prices,
    )
    return replace(
        solutions[0],
        allocations=tuple(by_name[demand.name] for demand in problem.demands),
        report=report,
        cost_usd_per_hour=cost,
        optimum_usd_per_hour=cost,
        unfinished=tuple(dict.fromkeys(step for s in solutions for step in s.unfinished)),
    )
