"""The loop: replay a plan, derate the accelerators that missed, choose another fleet, again.

Per round every model's fleet is replayed. Where the lower end of the attainment's interval is below
the target, how many times larger this fleet must be to hold is searched by replay; the capacities of
the accelerators that missed are derated by it, and the same optimizer chooses again among the same
candidates. Once a fleet holds, cheaper ones near it are looked for (`ease`); each fleet that is
believed has been replayed once more on seeds that nothing before has used, and only those replays are
the verdict.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.planner.replay_loop.ease import EaseSearch, cheaper_fleets
from melange_sky.planner.replay_loop.replan import (
    AcceleratorCount,
    Deratings,
    Replanner,
    accelerator_count,
    fleet_key,
)
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan
from melange_sky.plans import ModelPlan, Plan, Verification, VerificationRound

if TYPE_CHECKING:
    from melange_sky.planner.request import PlanRequest
    from melange_sky.replay import Simulation, Verdict

log = logging.getLogger(__name__)

MAX_ROUNDS = 12
LARGEST_FACTOR = 8
LARGEST_STEP = 0.97
SEARCH_STEPS = 3
MAX_NUDGES = 20
FRESH_SEEDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRequest:
    """What to replay in the loop; a fleet that holds is replayed on `FRESH_SEEDS` more seeds.

    `on_round` gets every round once it is replayed.
    """

    simulation: SimulationRequest = field(default_factory=SimulationRequest)
    max_rounds: int = MAX_ROUNDS
    on_round: Callable[[VerificationRound], None] | None = None


@dataclass(slots=True, kw_only=True)
class _LoopState:
    """What the loop has learned: per model the deratings and the rounds; and the seeds used up."""

    replanner: Replanner
    request: LoopRequest
    deratings: list[dict[AcceleratorCount, float]]
    rounds: list[list[VerificationRound]]
    used_seeds: int = 1

    def record(self, simulations: list[Simulation], deratings: Sequence[Deratings]) -> None:
        """Add what was replayed as a round of each model."""
        for k, simulation in enumerate(simulations):
            self.rounds[k].append(_round(simulation, deratings[k]))
            one = self.rounds[k][-1]
            log.info(
                "round %d: %s, attainment %.4f", len(self.rounds[k]), one.fleet, one.attainment
            )
            if self.request.on_round is not None:
                self.request.on_round(self.rounds[k][-1])

    def replay(self, plan: Plan) -> list[Simulation]:
        """Replay on the loop's own seed, no longer than it takes to be sure."""
        request = _until_sure(self.request.simulation)
        return [simulate_plan(model, request) for model in plan.models]

    def replay_fresh(self, plan: Plan) -> list[Simulation]:
        """Replay on seeds that nothing has used yet; each model's worst replay counts."""
        offsets = range(self.used_seeds, self.used_seeds + FRESH_SEEDS)
        self.used_seeds += FRESH_SEEDS
        jobs = self.request.simulation.jobs
        each = replace(self.request.simulation, jobs=max(1, jobs // FRESH_SEEDS))

        def worst(model: ModelPlan) -> Simulation:
            replays = pool.map(
                lambda offset: simulate_plan(model, _reseeded(each, offset)), offsets
            )
            return min(replays, key=lambda s: s.verdict.interval[0])

        with ThreadPoolExecutor(max_workers=min(max(1, jobs), FRESH_SEEDS)) as pool:
            return [worst(model) for model in plan.models]


def plan_verified(plan: Plan, request: PlanRequest, loop: LoopRequest) -> Plan:
    """Return the plan that holds in replay, with its rounds; or the last one, with the reason.

    `plan` must come from `request`. `verification.holds` says which it is.
    """
    count = len(plan.models)
    state = _LoopState(
        replanner=Replanner(first=plan, request=request),
        request=loop,
        deratings=[{} for _ in range(count)],
        rounds=[[] for _ in range(count)],
    )
    for number in range(loop.max_rounds):
        simulations = state.replay(plan)
        if _all_hold(simulations):
            simulations = state.replay_fresh(plan)
        failing = [k for k, s in enumerate(simulations) if not _holds(s.verdict)]
        if not failing:
            return _cheapest(state, plan, simulations)
        reason = _tighten_all(state, simulations, failing)
        state.record(simulations, state.deratings)
        if reason is None and number + 1 == loop.max_rounds:
            reason = f"no fleet holds after {loop.max_rounds} rounds"
        if reason is None:
            try:
                plan = _another_fleet(plan, state, failing)
            except InfeasibleError as error:
                reason = f"no fleet is left: {error}"
            except NoPlanInTimeError as error:
                late = f"the search for a fleet that holds was cut short: {error}"
                return _cut_short(_with_record(plan, state, simulations, late))
        if reason is not None:
            return _with_record(plan, state, simulations, reason)
    raise AssertionError("the loop ends by itself")


def _holds(verdict: Verdict) -> bool:
    return verdict.interval[0] >= verdict.target


def _all_hold(simulations: list[Simulation]) -> bool:
    return all(_holds(s.verdict) for s in simulations)


def _until_sure(simulation: SimulationRequest) -> SimulationRequest:
    """A search needs to know which side of the target a fleet is on, and no more."""
    return replace(simulation, until_sure=True)


def _reseeded(simulation: SimulationRequest, offset: int) -> SimulationRequest:
    how = simulation.how
    return replace(simulation, how=replace(how, seed=how.seed + offset))


def _cheapest(state: _LoopState, plan: Plan, simulations: list[Simulation]) -> Plan:
    """Return the cheapest plan near one that holds, such that it holds on fresh seeds too."""
    first = state.replanner.first
    if plan.cost_usd_per_hour <= first.cost_usd_per_hour:
        return _with_record(plan, state, simulations, None)
    state.record(simulations, state.deratings)

    def holds(fleet: Plan, deratings: Sequence[Deratings]) -> bool:
        replays = state.replay(fleet)
        state.record(replays, deratings)
        return _all_hold(replays)

    search = EaseSearch(replanner=state.replanner, holds=holds, held=[plan])
    held = cheaper_fleets(search, state.deratings)
    for fleet in reversed(held[1:]):
        replays = state.replay_fresh(fleet)
        if _all_hold(replays):
            return _with_record(fleet, state, replays, None)
        pairs = zip(fleet.models, first.models, strict=True)
        state.record(replays, [_deratings_of(model, before) for model, before in pairs])
    return _with_record(plan, state, simulations, None)


def _tighten_all(
    state: _LoopState, simulations: list[Simulation], failing: list[int]
) -> str | None:
    reason = None
    for k in failing:
        reason = reason or _tighten(simulations[k], state.deratings[k], state.request.simulation)
    return reason


def _tighten(
    simulation: Simulation, deratings: dict[AcceleratorCount, float], request: SimulationRequest
) -> str | None:
    """Derate what missed by how much larger the fleet must be; return why that cannot help."""
    plan = simulation.plan
    factor = _factor_that_holds(plan, request)
    if factor is None:
        worst = min(simulation.verdict.buckets, key=lambda b: (b.attainment - 1) * b.requests)
        return (
            f"{plan.name}: the SLO is missed even by a fleet {LARGEST_FACTOR} times as large, most in "
            f"{plan.workload.label(*worst.bucket)} ({worst.attainment:.0%} within limits): the limits "
            "are too tight for these accelerators rather than the fleet too small"
        )
    step = min(1 / factor, LARGEST_STEP)
    for kind in _accelerators_that_missed(simulation):
        deratings[kind] = deratings.get(kind, 1.0) * step
    return None


def _accelerators_that_missed(simulation: Simulation) -> set[AcceleratorCount]:
    """Return the accelerators whose own requests miss the target; all where none does by itself."""
    verdict = simulation.verdict
    pairs = list(zip(simulation.plan.allocations, verdict.options, strict=True))
    missed = {
        accelerator_count(allocation.candidate)
        for allocation, option in pairs
        if option.attainment is not None and option.attainment < verdict.target
    }
    return missed or {accelerator_count(allocation.candidate) for allocation, _ in pairs}


def _factor_that_holds(plan: ModelPlan, request: SimulationRequest) -> float | None:
    """Return how many times larger the fleet must be to hold, None where `LARGEST_FACTOR` is too few.

    The fleet grows rather than the traffic shrinking: half the traffic has bursts as high as all of it.
    """

    def holds(factor: float) -> bool:
        larger = tuple(
            replace(a, instances=math.ceil(a.instances * factor)) for a in plan.allocations
        )
        return _holds(
            simulate_plan(replace(plan, allocations=larger), _until_sure(request)).verdict
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


def _another_fleet(plan: Plan, state: _LoopState, failing: list[int]) -> Plan:
    """Plan again; while that only shifts shares within the fleet that failed, derate it further."""
    another = state.replanner.plan(state.deratings)
    for _ in range(MAX_NUDGES):
        same = [k for k in failing if fleet_key(another)[k] == fleet_key(plan)[k]]
        if not same:
            return another
        for k in same:
            deratings = state.deratings[k]
            for kind in {accelerator_count(a.candidate) for a in another.models[k].allocations}:
                deratings[kind] = deratings.get(kind, 1.0) * LARGEST_STEP
        another = state.replanner.plan(state.deratings)
    return another


def _round(simulation: Simulation, deratings: Deratings) -> VerificationRound:
    plan, verdict = simulation.plan, simulation.verdict
    return VerificationRound(
        cost_usd_per_hour=plan.cost_usd_per_hour,
        fleet=plan.fleet_text(),
        attainment=verdict.attainment,
        low=verdict.interval[0],
        high=verdict.interval[1],
        derated=tuple(sorted((f"{name}:{count}", f) for (name, count), f in deratings.items())),
    )


def _with_record(
    plan: Plan, state: _LoopState, simulations: list[Simulation], reason: str | None
) -> Plan:
    """Return the plan with how it was verified; where it holds, the last round is its own."""
    first = state.replanner.first
    if plan is not first:
        plan = _unproven(state.replanner.with_baselines(plan))
    models = []
    for k, (model, before) in enumerate(zip(plan.models, first.models, strict=True)):
        rounds = state.rounds[k]
        if reason is None:
            rounds = [*rounds, _round(simulations[k], _deratings_of(model, before))]
        premium = model.cost_usd_per_hour - before.cost_usd_per_hour
        verification = _verification(simulations[k], rounds, premium, reason)
        models.append(replace(model, verification=verification))
    return replace(plan, models=tuple(models))


def _verification(
    simulation: Simulation,
    rounds: Sequence[VerificationRound],
    premium_usd_per_hour: float,
    reason: str | None,
) -> Verification:
    verdict = simulation.verdict
    return Verification(
        holds=reason is None,
        reason=reason,
        traffic=simulation.traffic,
        requests=verdict.requests,
        attainment=verdict.attainment,
        low=verdict.interval[0],
        high=verdict.interval[1],
        premium_usd_per_hour=premium_usd_per_hour,
        rounds=tuple(rounds),
    )


def _cut_short(plan: Plan) -> Plan:
    """Return the plan, said to be the last one that there was time for."""
    return replace(
        plan,
        models=tuple(
            replace(model, verification=replace(model.verification, cut_short=True))
            for model in plan.models
            if model.verification is not None
        ),
    )


def _unproven(plan: Plan) -> Plan:
    """Return a plan that replay changed: the optimum of a stricter problem, proven cheapest of nothing."""
    return replace(plan, solver=replace(plan.solver, status="feasible"))


def _deratings_of(model: ModelPlan, before: ModelPlan) -> Deratings:
    """Return by which factors a model's capacities differ from those before any replay."""
    factors: dict[AcceleratorCount, float] = {}
    for now, then in zip(model.candidates, before.candidates, strict=True):
        for cell, cell_before in zip(sum(now.cells, ()), sum(then.cells, ()), strict=True):
            if cell.max_rate_rps and cell_before.max_rate_rps:
                factors[accelerator_count(now)] = cell.max_rate_rps / cell_before.max_rate_rps
                break
    return {kind: factor for kind, factor in factors.items() if factor < 1.0}
