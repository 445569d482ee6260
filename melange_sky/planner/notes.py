"""What a reader must know of a chosen fleet: other objectives than least cost, doubts about its prices."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.capacities import Origin
from melange_sky.offers import FlagScope
from melange_sky.optimizer import Step, least_cost
from melange_sky.planfile import allocation_origin
from melange_sky.plans import AlternativeMix, PlanWarning, RateSummary
from melange_sky.profiles import engine_generation
from melange_sky.steps import NETWORK_GBPS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from melange_sky.capacities import DeploymentOption
    from melange_sky.optimizer import Problem, Robustness, Solution, SolveOptions
    from melange_sky.planner.request import PlanRequest
    from melange_sky.plans import Allocation, Elastic
    from melange_sky.workload import Workload


OBJECTIVE_CODES = frozenset(
    {"robust", "simplest", "stay-close", "price-error", "time-limit", "quantization"}
)
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


def allocation_notes(
    allocations: Iterable[Allocation], generation: str | None
) -> tuple[PlanWarning, ...]:
    """Return the doubts about the prices and the step times of the chosen instances."""
    chosen = tuple(allocations)
    return (*price_notes(chosen), *split_notes(chosen), *run_notes(chosen, generation))


def run_notes(allocations: Iterable[Allocation], generation: str | None) -> tuple[PlanWarning, ...]:
    """Say of which chosen GPUs the estimates rest on no published run of this engine."""
    if generation is None:
        return ()
    known = engine_generation(generation)
    names = sorted(
        {
            a.candidate.option.gpu
            for a in allocations
            if allocation_origin(a) is Origin.ESTIMATED
            and not known.has_runs(a.candidate.option.gpu)
        }
    )
    if not names:
        return ()
    message = (
        f"no published run of today's engine on {' or '.join(names)} is known, so that the "
        "estimates are wide there; measure first: melange-sky profile run --quick takes five minutes"
    )
    return (PlanWarning(code="no-published-run", message=message),)


def split_notes(allocations: Iterable[Allocation]) -> tuple[PlanWarning, ...]:
    """Say of which chosen options the rates rest on assumptions that no measured run stands behind."""
    notes = {}
    for allocation in allocations:
        option = allocation.candidate.option
        if option.engine is None or allocation_origin(allocation) is not Origin.ESTIMATED:
            continue
        what, split = assumed_of(option), option.engine.split
        if what is None:
            continue
        text = f"{option.accelerators} {split.label}: step times of {what} follow from assumptions, not from measured runs"
        tells = "; only a trial tells" if split.nodes > 1 else "; melange-sky profile launch tells"
        notes[text] = PlanWarning(code="assumed-split", message=text + tells)
    return tuple(notes.values())


def assumed_of(option: DeploymentOption) -> str | None:
    """Return of what an option's step times follow from assumptions, None where measured runs stand behind."""
    if option.engine is None:
        return None
    split = option.engine.split
    if split.nodes > 1:
        return f"replicas over several instances (at {NETWORK_GBPS:g} GB/s between them)"
    if split.step_together:
        return "engines that share spread experts"
    return "pipeline stages" if split.pipeline > 1 else None


def rate_summary(workload: Workload) -> RateSummary | None:
    """Return the planned rate against what the traffic brings, None where no more than a rate is known."""
    arrivals = workload.arrivals
    if arrivals is None:
        return None
    profile, planned = arrivals.profile, workload.rate_rps
    if profile is None:
        return RateSummary(
            rule=arrivals.rule.value,
            mean_rps=arrivals.mean_rps,
            planned_rps=planned,
            burstiness=arrivals.burstiness,
        )
    return RateSummary(
        rule=arrivals.rule.value,
        mean_rps=arrivals.mean_rps,
        planned_rps=planned,
        peak_rps=profile.peak_rps,
        quantile=profile.fraction_under(planned),
        dispersion=profile.dispersion_by_seconds,
        burstiness=profile.burst_dispersion,
    )


def rate_text(summary: RateSummary) -> str:
    """Return at which rate a model is planned, and what its traffic brings."""
    text = f"planned at {summary.planned_rps:.3g} req/s (mean {summary.mean_rps:.3g}"
    if summary.peak_rps is not None:
        text += f", busiest five minutes {summary.peak_rps:.3g}"
    return text + f", burstiness {summary.burstiness:.3g})"


def elastic_notes(elastic: Elastic | None) -> tuple[PlanWarning, ...]:
    """Say what an elastic fleet cannot do yet when it is new."""
    if elastic is None or elastic.min >= 1:
        return ()
    return (
        PlanWarning(
            code="elastic",
            message=f"elastic.min is {elastic.min:g}: a new service starts with its fewest replicas, and SkyServe adds "
            f"others only once requests have come for {elastic.upscale_delay_s:g} s and these have started; until then "
            "the fleet serves less than the plan's rate. Apply the plan without `elastic` first, then with it: what "
            "runs is kept",
        ),
    )


def headroom_notes(headroom: float) -> tuple[PlanWarning, ...]:
    """Return a word on a plan that keeps nothing free."""
    if headroom > 0:
        return ()
    return (
        PlanWarning(
            code="headroom",
            message="headroom is 0: the plan holds only if every capacity and the rate are as estimated; "
            "leave headroom out to keep 10 % of each replica free, or size the fleet with --verify",
        ),
    )


def rate_notes(workload: Workload) -> tuple[PlanWarning, ...]:
    """Return a word on a rate that its own trace exceeds, as the spec asks for."""
    summary = rate_summary(workload)
    if summary is None or workload.arrivals is None or workload.arrivals.is_open:
        return ()
    if summary.peak_rps is None or summary.planned_rps >= summary.peak_rps:
        return ()
    return (
        PlanWarning(
            code="rate",
            message=f"{rate_text(summary)} as workload.rate says: the trace is above that rate for "
            f"{1 - (summary.quantile or 0.0):.1%} of the time; leave workload.rate out to plan at the "
            "least rate that holds over the trace",
        ),
    )


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
