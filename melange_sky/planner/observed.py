"""The traffic that a gateway observed against the planned one: does another plan pay?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.optimizer import Problem, SolveOptions, Termination, demand_of, least_cost
from melange_sky.planner.known_rates import with_known_rates
from melange_sky.spec.demand import load_distribution
from melange_sky.spec.histogram import to_workload
from melange_sky.workload import Workload, bucket_index

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.optimizer import LeastCost
    from melange_sky.plans import ModelPlan, Plan
    from melange_sky.workload import Matrix

WORTH_FRACTION = 0.05
"""A plan that is cheaper by less than this is not worth a change of the fleet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficVerdict:
    """Observed rates in the plan's buckets (requests per second) and what they need.

    `least_usd_per_hour` is the least cost of a fleet for these rates, with the plan's options, prices
    and headroom; None where none exists. `unplanned` names observed buckets for which the plan has
    no capacity; they are not in that cost. `pays` is whether another plan pays.
    """

    rates_rps: Matrix
    least_usd_per_hour: float | None
    unplanned: tuple[str, ...]
    pays: bool
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketTraffic:
    """One bucket's planned and observed rate, requests per second."""

    bucket: str
    planned_rps: float
    seen_rps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedTraffic:
    """Observed against planned traffic, bucket by bucket, and whether another plan pays.

    `least_usd_per_hour`: see `TrafficVerdict`. `replan` and `verdict` say what to do.
    """

    buckets: tuple[BucketTraffic, ...]
    cost_usd_per_hour: float
    least_usd_per_hour: float | None
    replan: bool
    verdict: str


def observed_traffic(planned: Plan, observed: Path) -> ObservedTraffic:
    """Compare a plan of one model with the histogram that its gateway wrote.

    Raises InputError for a plan of several models and for a file without a rate.
    """
    if len(planned.models) != 1:
        raise InputError("--observed: give the plan.json of one model; this plan has several")
    workload, histogram = planned.models[0].workload, load_distribution(observed)
    if histogram.rate_rps is None:
        raise InputError(f"{observed}: has no rate_rps, so it cannot be compared with a plan")
    judged = judge_traffic(planned, to_workload(histogram, histogram.rate_rps), SolveOptions())
    planned_rps = workload.rates_rps
    return ObservedTraffic(
        buckets=tuple(
            BucketTraffic(bucket=workload.label(i, j), planned_rps=planned_rps[i][j], seen_rps=rate)
            for i, row in enumerate(judged.rates_rps)
            for j, rate in enumerate(row)
            if rate > 0 or planned_rps[i][j] > 0
        ),
        cost_usd_per_hour=planned.cost_usd_per_hour,
        least_usd_per_hour=judged.least_usd_per_hour,
        replan=judged.pays,
        verdict=judged.verdict,
    )


def judge_traffic(plan: Plan, observed: Workload, options: SolveOptions) -> TrafficVerdict:
    """Judge a plan of one model by the traffic of its gateway, on whatever grid that counted."""
    (model,) = with_known_rates(plan).models
    rates = in_buckets_of(model, observed)
    servable, unplanned = _split(model, rates)
    demand = demand_of(
        replace(model, workload=replace(model.workload, rates_rps=servable)), model.candidates
    )
    problem = Problem(demands=(demand,), headroom=plan.headroom, constraints=plan.constraints)
    least = least_cost(problem, options) if any(map(any, servable)) else None
    cost = None if least is None else least.cost_usd_per_hour
    pays, verdict = _verdict(plan, least, unplanned, any(map(any, rates)))
    return TrafficVerdict(
        rates_rps=rates, least_usd_per_hour=cost, unplanned=unplanned, pays=pays, verdict=verdict
    )


def in_buckets_of(plan: ModelPlan, observed: Workload) -> Matrix:
    """Move each observed bucket, at its mean size, into the plan's; what lies beyond goes outermost."""
    inputs, outputs = plan.workload.input_edges, plan.workload.output_edges
    rates = [[0.0] * (len(outputs) - 1) for _ in inputs[1:]]
    for i, j in observed.buckets():
        row = bucket_index(inputs, observed.input_sizes[i][j])
        column = bucket_index(outputs, observed.output_sizes[i][j])
        rates[-1 if row is None else row][-1 if column is None else column] += observed.rates_rps[
            i
        ][j]
    return tuple(map(tuple, rates))


def _split(plan: ModelPlan, rates: Matrix) -> tuple[Matrix, tuple[str, ...]]:
    """Return the rates of buckets that some option can serve, and the others' names."""
    unplanned = []
    servable = [list(row) for row in rates]
    for i, row in enumerate(rates):
        for j, rate in enumerate(row):
            if rate > 0 and all(c.cells[i][j].banded_rps is None for c in plan.candidates):
                unplanned.append(plan.workload.label(i, j))
                servable[i][j] = 0.0
    return tuple(map(tuple, servable)), tuple(unplanned)


def _verdict(
    plan: Plan, cheapest: LeastCost | None, unplanned: tuple[str, ...], any_seen: bool
) -> tuple[bool, str]:
    if not any_seen:
        return False, "no traffic has been observed yet"
    if unplanned:
        return (
            True,
            f"replan: the traffic has sizes that the plan does not cover ({', '.join(unplanned[:3])})",
        )
    least = None if cheapest is None else cheapest.cost_usd_per_hour
    if cheapest is not None and cheapest.termination is Termination.LIMIT:
        return (
            False,
            "unknown: the time limit was reached before the cost of the observed traffic was found",
        )
    if least is None:
        return (
            True,
            "replan: no fleet of the plan's options serves the observed traffic within its limits",
        )
    now = plan.cost_usd_per_hour
    if least > now * (1 + 1e-9):
        return (
            True,
            f"replan: the observed traffic needs ${least:,.2f}/h, the plan costs ${now:,.2f}/h",
        )
    if least < now * (1 - WORTH_FRACTION):
        return (
            True,
            f"replan: ${least:,.2f}/h would serve the observed traffic, the plan costs ${now:,.2f}/h",
        )
    return False, "the plan still fits the observed traffic"
