"""The least cost and its mix at many request rates: the data behind cost-versus-rate figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.baseline import baselines
from melange_sky.optimizer.robust import Mix, mix_of
from melange_sky.optimizer.solve import optimize

if TYPE_CHECKING:
    from melange_sky.optimizer.problem import Demand, Problem, SolveOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One point: the total rate and TPOT limit asked, and the plan there; None where there is none."""

    rate_rps: float
    tpot_s: float | None
    cost_usd_per_hour: float | None
    status: str
    mix: Mix
    best_single: str | None
    best_single_usd_per_hour: float | None
    reason: str | None = None


def sweep_rates(
    problem: Problem, options: SolveOptions, rates_rps: tuple[float, ...], tpot_s: float | None
) -> tuple[SweepPoint, ...]:
    """Plan the same workload scaled to each total rate. Capacities do not depend on the rate."""
    return tuple(_point(at_rate(problem, rate), options, rate, tpot_s) for rate in rates_rps)


def at_rate(problem: Problem, rate_rps: float) -> Problem:
    """Return the problem with all rates scaled to sum to `rate_rps` over all demands."""
    total = sum(demand.workload.rate_rps for demand in problem.demands)
    factor = rate_rps / total if total > 0 else 0.0
    return replace(problem, demands=tuple(_scaled(d, factor) for d in problem.demands))


def _scaled(demand: Demand, factor: float) -> Demand:
    rates = tuple(tuple(rate * factor for rate in row) for row in demand.workload.rates_rps)
    return replace(demand, workload=replace(demand.workload, rates_rps=rates))


def _point(
    problem: Problem, options: SolveOptions, rate_rps: float, tpot_s: float | None
) -> SweepPoint:
    try:
        solution = optimize(problem, options)
    except InfeasibleError as error:
        return SweepPoint(
            rate_rps=rate_rps, tpot_s=tpot_s, cost_usd_per_hour=None, status="infeasible", mix=(),
            best_single=None, best_single_usd_per_hour=None, reason=str(error),
        )  # fmt: skip
    single, single_cost = _best_single(problem, solution.cost_usd_per_hour, options)
    return SweepPoint(
        rate_rps=rate_rps,
        tpot_s=tpot_s,
        cost_usd_per_hour=solution.cost_usd_per_hour,
        status=solution.report.status,
        mix=mix_of(solution),
        best_single=single,
        best_single_usd_per_hour=single_cost,
    )


def _best_single(
    problem: Problem, cost: float, options: SolveOptions
) -> tuple[str | None, float | None]:
    """Return the cheapest accelerator alone; unknown for several models, which need not share one."""
    if len(problem.demands) != 1:
        return None, None
    priced = [
        (b.cost_usd_per_hour, b.accelerator)
        for b in baselines(problem, (cost,), options)[0]
        if b.cost_usd_per_hour is not None
    ]
    return (min(priced)[1], min(priced)[0]) if priced else (None, None)
