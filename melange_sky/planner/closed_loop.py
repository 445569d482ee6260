"""Plan, replay, tighten what failed, plan again: until the verdict holds or it is clear why not.

Per round every model's fleet is replayed. Where the lower end of the attainment's interval is below
the target, how many times larger this fleet must be to hold is searched by replay; the capacities of
the accelerators that missed are derated by it, and the same optimizer chooses again among the same
candidates. A fleet that holds is replayed once more on seeds that the loop has
not used; only these last replays are the verdict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import Demand, Problem, baselines, optimize
from melange_sky.plan import FleetPlan, Plan, Verification, VerificationRound, models_of
from melange_sky.planner.constraints import constraints_of
from melange_sky.planner.verification import SimulationRequest, simulate_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from melange_sky.capacity import OptionCapacity
    from melange_sky.optimizer import Solution
    from melange_sky.planner import PlanRequest
    from melange_sky.spec import Spec
    from melange_sky.verify import Simulation, Verdict

Kind = tuple[str, int]
"""Accelerator and its count: what is derated, on whatever offer it runs."""

MAX_ROUNDS = 12
LARGEST_FACTOR = 8
LARGEST_STEP = 0.97
SEARCH_STEPS = 3
MAX_NUDGES = 20
FRESH_SEEDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRequest:
    """What to replay in the loop; a fleet that holds is replayed on `FRESH_SEEDS` more seeds.

    `told` hears of every round.
    """

    simulation: SimulationRequest = field(default_factory=SimulationRequest)
    max_rounds: int = MAX_ROUNDS
    told: Callable[[VerificationRound], None] | None = None


def plan_verified(
    planned: Plan | FleetPlan, spec: Spec, request: PlanRequest, loop: LoopRequest
) -> Plan | FleetPlan:
    """Return the plan that holds in replay, with its rounds; or the last one, with the reason.

    `planned` must come from `spec` and `request`. `verification.holds` says which it is.
    """
    first = planned
    derates: list[dict[Kind, float]] = [{} for _ in models_of(planned)]
    rounds: list[list[VerificationRound]] = [[] for _ in models_of(planned)]
    for number in range(loop.max_rounds):
        simulations = _replay_all(planned, loop, number)
        failing = [k for k, s in enumerate(simulations) if not _holds(s.verdict)]
        if not failing:
            return _with_record(planned, first, rounds, simulations, None)
        reason = None
        for k in failing:
            reason = reason or _tighten(simulations[k], derates[k], loop)
        for k, simulation in enumerate(simulations):
            rounds[k].append(_round(simulation, derates[k]))
            if loop.told is not None:
                loop.told(rounds[k][-1])
        if reason is None and number + 1 == loop.max_rounds:
            reason = f"not there after {loop.max_rounds} rounds"
        if reason is None:
            try:
                planned = _another_fleet(planned, first, spec, request, derates, failing)
            except InfeasibleError as error:
                reason = f"no fleet is left: {error}"
        if reason is not None:
            return _with_record(planned, first, rounds, simulations, reason)
    raise AssertionError("the loop ends by itself")


def _holds(verdict: Verdict) -> bool:
    return verdict.interval[0] >= verdict.target


def _replay_all(planned: Plan | FleetPlan, loop: LoopRequest, number: int) -> list[Simulation]:
    """Replay each model: on the loop's seed and, where that holds, on fresh ones; the worst counts."""
    found = []
    for plan in models_of(planned):
        worst = _seeded(plan, _quick(loop), 0)
        for fresh in range(FRESH_SEEDS):
            if not _holds(worst.verdict):
                break
            again = _seeded(plan, loop, 1 + number * FRESH_SEEDS + fresh)
            worst = min(worst, again, key=lambda s: s.verdict.interval[0])
        found.append(worst)
    return found


def _quick(loop: LoopRequest) -> LoopRequest:
    """A search needs to know which side of the target a fleet is on, and no more."""
    return replace(loop, simulation=replace(loop.simulation, until_sure=True))


def _seeded(plan: Plan, loop: LoopRequest, offset: int) -> Simulation:
    how = loop.simulation.how
    return simulate_plan(plan, replace(loop.simulation, how=replace(how, seed=how.seed + offset)))


def _tighten(simulation: Simulation, derates: dict[Kind, float], loop: LoopRequest) -> str | None:
    """Derate what missed by how much larger the fleet must be; return why that cannot help."""
    plan = simulation.plan
    factor = _factor_that_holds(plan, loop)
    if factor is None:
        worst = min(simulation.verdict.buckets, key=lambda b: (b.attainment - 1) * b.requests)
        return (
            f"{plan.name}: the SLO is missed even by a fleet {LARGEST_FACTOR} times as large, most in "
            f"{plan.workload.label(*worst.bucket)} ({worst.attainment:.0%} within limits): the limits "
            "are too tight for these accelerators rather than the fleet too small"
        )
    step = min(1 / factor, LARGEST_STEP)
    for kind in _missing_kinds(simulation):
        derates[kind] = derates.get(kind, 1.0) * step
    return None


def _missing_kinds(simulation: Simulation) -> set[Kind]:
    """Return the accelerators whose own requests miss the target; all where none does alone."""
    verdict = simulation.verdict
    pairs = list(zip(simulation.plan.allocations, verdict.options, strict=True))
    kinds = {
        _kind(allocation.option)
        for allocation, seen in pairs
        if seen.attainment is not None and seen.attainment < verdict.target
    }
    return kinds or {_kind(allocation.option) for allocation, _ in pairs}


def _kind(option: OptionCapacity) -> Kind:
    return option.option.accelerator, option.option.accelerator_count


def _factor_that_holds(plan: Plan, loop: LoopRequest) -> float | None:
    """Return how many times larger the fleet must be to hold, None where `LARGEST_FACTOR` is too few.

    The fleet grows rather than the traffic shrinking: half the traffic has bursts as high as all of it.
    """

    def holds(factor: float) -> bool:
        larger = tuple(
            replace(a, instances=math.ceil(a.instances * factor)) for a in plan.allocations
        )
        return _holds(
            simulate_plan(replace(plan, allocations=larger), _quick(loop).simulation).verdict
        )

    low, high = 1.0, 1.0
    while not holds(high := high * 1.7):
        if high > LARGEST_FACTOR:
            return None
        low = high
    for _ in range(SEARCH_STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return math.sqrt(low * high)


def _another_fleet(
    planned: Plan | FleetPlan,
    first: Plan | FleetPlan,
    spec: Spec,
    request: PlanRequest,
    derates: list[dict[Kind, float]],
    failing: list[int],
) -> Plan | FleetPlan:
    """Plan again; while that only shifts shares within the fleet that failed, derate it further."""
    found = _plan_again(planned, first, spec, request, derates)
    for _ in range(MAX_NUDGES):
        same = [k for k in failing if _fleet(models_of(found)[k]) == _fleet(models_of(planned)[k])]
        if not same:
            return found
        for k in same:
            for kind in {_kind(a.option) for a in models_of(found)[k].allocations}:
                derates[k][kind] = derates[k].get(kind, 1.0) * LARGEST_STEP
        found = _plan_again(planned, first, spec, request, derates)
    return found


def _fleet(plan: Plan) -> list[tuple[str, int]]:
    return sorted((a.option.option.name, a.instances) for a in plan.allocations)


def _plan_again(
    planned: Plan | FleetPlan,
    first: Plan | FleetPlan,
    spec: Spec,
    request: PlanRequest,
    derates: list[dict[Kind, float]],
) -> Plan | FleetPlan:
    """Choose again among the first plan's candidates, derated."""
    demands = tuple(
        Demand(
            name=plan.name,
            workload=plan.workload,
            options=tuple(_derated(o, mine.get(_kind(o), 1.0)) for o in plan.candidates),
        )
        for plan, mine in zip(models_of(first), derates, strict=True)
    )
    problem = Problem(demands=demands, headroom=spec.headroom, constraints=constraints_of(spec))
    solution = optimize(problem, request.solve)
    alone = baselines(problem, _costs(solution), request.solve)
    plans = tuple(
        replace(
            plan,
            allocations=solution.allocations[k],
            baselines=alone[k],
            solver=solution.report,
            candidates=demands[k].options,
            sensitivity=None,
        )
        for k, plan in enumerate(models_of(planned))
    )
    if isinstance(planned, FleetPlan):
        return replace(planned, models=plans, solver=solution.report, sensitivity=None)
    return plans[0]


def _costs(solution: Solution) -> tuple[float, ...]:
    return tuple(sum(a.cost_usd_per_hour for a in mine) for mine in solution.allocations)


def _derated(option: OptionCapacity, factor: float) -> OptionCapacity:
    """Return the option with its capacities times `factor`; their origin stays."""

    def scaled(rate: float | None) -> float | None:
        return None if rate is None else rate * factor

    if factor == 1.0:
        return option
    cells = tuple(
        tuple(
            replace(
                cell,
                max_rate_rps=scaled(cell.max_rate_rps),
                low_rps=scaled(cell.low_rps),
                high_rps=scaled(cell.high_rps),
            )
            for cell in row
        )
        for row in option.cells
    )
    return replace(option, cells=cells)


def _round(simulation: Simulation, derates: dict[Kind, float]) -> VerificationRound:
    plan, verdict = simulation.plan, simulation.verdict
    return VerificationRound(
        cost_usd_per_hour=plan.cost_usd_per_hour,
        fleet=" + ".join(
            f"{a.instances} × {a.option.option.accelerator}:{a.option.option.accelerator_count}"
            for a in plan.allocations
        ),
        attainment=verdict.attainment,
        low=verdict.interval[0],
        high=verdict.interval[1],
        derated=tuple(sorted((f"{name}:{count}", f) for (name, count), f in derates.items())),
    )


def _with_record(
    planned: Plan | FleetPlan,
    first: Plan | FleetPlan,
    rounds: list[list[VerificationRound]],
    simulations: list[Simulation],
    reason: str | None,
) -> Plan | FleetPlan:
    plans = []
    for k, (plan, before) in enumerate(zip(models_of(planned), models_of(first), strict=True)):
        verdict = simulations[k].verdict
        mine = rounds[k]
        if reason is None:
            last = mine[-1].derated if mine else ()
            kept = {(n.rpartition(":")[0], int(n.rpartition(":")[2])): f for n, f in last}
            mine = [*mine, _round(simulations[k], kept)]
        plans.append(
            replace(
                plan,
                verification=Verification(
                    holds=reason is None,
                    reason=reason,
                    traffic=simulations[k].traffic,
                    requests=verdict.requests,
                    attainment=verdict.attainment,
                    low=verdict.interval[0],
                    high=verdict.interval[1],
                    premium_usd_per_hour=plan.cost_usd_per_hour - before.cost_usd_per_hour,
                    rounds=tuple(mine),
                ),
            )
        )
    return replace(planned, models=tuple(plans)) if isinstance(planned, FleetPlan) else plans[0]
