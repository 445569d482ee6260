"""What a reader must know of a chosen fleet: other objectives than least cost, doubts about its prices."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.offers import FlagScope
from melange_sky.optimizer import Step, least_cost
from melange_sky.plans import AlternativeMix, PlanWarning

if TYPE_CHECKING:
    from collections.abc import Iterable

    from melange_sky.optimizer import Problem, Robustness, Solution, SolveOptions
    from melange_sky.planner.request import PlanRequest
    from melange_sky.plans import Allocation


OBJECTIVE_CODES = frozenset({"robust", "simplest", "stay-close", "price-error", "time-limit"})
"""Codes of `objective_notes`, which hold of one fleet; another one needs its own."""


def alternative_mixes(solution: Solution) -> tuple[AlternativeMix, ...]:
    """Return the other fleets that were asked for."""
    return tuple(
        AlternativeMix(
            cost_usd_per_hour=other.cost_usd_per_hour,
            differs=other.differs,
            instances=tuple(
                (a.candidate.option.name, a.instances)
                for chosen in other.allocations
                for a in chosen
            ),
        )
        for other in solution.alternatives
    )


def price_notes(allocations: Iterable[Allocation]) -> tuple[PlanWarning, ...]:
    """Return the doubts that the sanity rules have about the prices of the chosen instances."""
    doubts = {}
    for allocation in allocations:
        option = allocation.candidate.option
        price = FlagScope.SPOT if option.use_spot else FlagScope.ON_DEMAND
        for flag in option.offer.flags if option.offer else ():
            if flag.touches in (price, FlagScope.ROW):
                assert option.offer is not None
                where = f"{option.offer.cloud}/{option.offer.region} {option.offer.instance_type}"
                doubts[flag.code, where] = PlanWarning(
                    code=flag.code, message=f"price of {where}: {flag.message}"
                )
    return tuple(doubts.values())


def objective_notes(
    problem: Problem, solution: Solution, request: PlanRequest
) -> tuple[PlanWarning, ...]:
    """Return what the reader must know of a plan that is not simply the cheapest one."""
    solve, cost = request.solve, solution.cost_usd_per_hour
    dearer = cost - solution.optimum_usd_per_hour
    notes = []
    if solve.robustness is not None:
        notes.append(_robust_note(problem, solution, solve, solve.robustness))
    if solution.unfinished:
        steps = " and to ".join(step.value for step in solution.unfinished)
        text = f"no time was left to {steps}; raise --time-limit"
        notes.append(PlanWarning(code="time-limit", message=text))
    if solve.within_fraction > 0 and Step.SIMPLEST not in solution.unfinished:
        notes.append(
            PlanWarning(
                code="simplest",
                message=f"the simplest mix within {solve.within_fraction * 100:.4g} % of the least cost: "
                f"${dearer:,.2f}/h more than the cheapest",
            )
        )
    if solve.stay_close is not None:
        notes.append(
            PlanWarning(
                code="stay-close",
                message=f"running instances were preferred: ${dearer:,.2f}/h more than the cheapest",
            )
        )
    if request.price_error > 0:
        low, high = cost * (1 - request.price_error), cost * (1 + request.price_error)
        notes.append(
            PlanWarning(
                code="price-error",
                message=f"if every price moves by {request.price_error * 100:.4g} % the plan costs "
                f"${low:,.2f}/h to ${high:,.2f}/h",
            )
        )
    return tuple(notes)


def _robust_note(
    problem: Problem, solution: Solution, solve: SolveOptions, robustness: Robustness
) -> PlanWarning:
    """Say what the plan bears and what that costs, by solving again without the protection."""
    plain = least_cost(problem, replace(solve, robustness=None, within_fraction=0.0))
    premium = ""
    if plain.cost_usd_per_hour is not None:
        dearer = solution.cost_usd_per_hour - plain.cost_usd_per_hour
        premium = f", ${dearer:,.2f}/h more than without"
    count = robustness.budget
    spread = "all sizes" if count is None else f"any {count} sizes per option"
    return PlanWarning(
        code="robust",
        message=f"the plan still serves its rate where {spread} carry "
        f"{robustness.throughput_error * 100:.4g} % less than planned{premium}",
    )
