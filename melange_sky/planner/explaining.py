"""Why a saved plan is what it is, what else there was, what errors would do: what `explain` does."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from melange_sky.optimizer import (
    Explanation,
    OtherFleet,
    Robustness,
    RobustReport,
    SolveOptions,
    explain,
    other_fleets,
    problem_of,
    robust_report,
)
from melange_sky.planner.known_rates import with_known_rates
from melange_sky.planner.plan_summary import PlanSummary, summarize_plan
from melange_sky.plans import Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """What to say beyond the reasons: the flags of `explain`, by their names."""

    alternatives: int = 0
    within_fraction: float = 0.0
    throughput_error: float = 0.0
    price_error: float = 0.0
    error_budget: int | None = None
    replay: bool = True
    time_limit_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReasons:
    """A summary and the reasons, other good fleets, and what wrong figures would do where that was asked."""

    plan: Plan
    summary: PlanSummary
    explanation: Explanation
    others: tuple[OtherFleet, ...] = ()
    robustness: RobustReport | None = None


def explain_plan(planned: Plan, options: ExplainOptions) -> PlanReasons:
    """Return why a plan is what it is, from the plan alone; no prices are read.

    Rates that the plan left unsimulated are simulated first: other fleets may rest on them.
    """
    planned = with_known_rates(planned)
    solve = SolveOptions(time_limit_s=options.time_limit_s)
    problem = problem_of(planned)
    explanation = explain(planned, solve)
    log.info(
        "%d sizes, %d options in use, %d rules priced",
        len(explanation.buckets),
        len(explanation.options),
        len(explanation.rules),
    )
    others = other_fleets(problem, solve, options.alternatives, options.within_fraction)
    robust = None
    if options.throughput_error or options.price_error:
        protection = Robustness(
            throughput_error=options.throughput_error, budget=options.error_budget
        )
        robust = robust_report(problem, solve, protection, options.price_error)
    return PlanReasons(
        plan=planned,
        summary=summarize_plan(planned, solve, replay=options.replay),
        explanation=explanation,
        others=tuple(others),
        robustness=robust,
    )
