"""Plan, replay, tighten what failed, plan again: until the verdict holds or it is clear why not.

Per round every model's fleet is replayed. Where the lower end of the attainment's interval is below
the target, how many times larger this fleet must be to hold is searched by replay; the capacities of
the accelerators that missed are derated by it, and the same optimizer chooses again among the same
candidates. A fleet that holds gives back what it can (`giving_back`); each fleet that is believed has
been replayed once more on seeds that nothing before has used, and only those replays are the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError
from melange_sky.planner.giving_back import Trials, give_back
from melange_sky.planner.replan import Choice, Kind, fleet_key, kind_of
from melange_sky.planner.verification import SimulationRequest, simulate_plan
from melange_sky.plans import ModelPlan, Plan, Verification, VerificationRound

if TYPE_CHECKING:
    from melange_sky.planner import PlanRequest
    from melange_sky.replay import Simulation, Verdict
    from melange_sky.spec import Spec

MAX_ROUNDS = 12
LARGEST_FACTOR = 8
LARGEST_STEP = 0.97
SEARCH_STEPS = 3
MAX_NUDGES = 20
FRESH_SEEDS = 2

Derates = list[dict[Kind, float]]
"""Per model: the factor on each accelerator's capacities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRequest:
    """What to replay in the loop; a fleet that holds is replayed on `FRESH_SEEDS` more seeds.

    `told` hears of every round.
    """

    simulation: SimulationRequest = field(default_factory=SimulationRequest)
    max_rounds: int = MAX_ROUNDS
    told: Callable[[VerificationRound], None] | None = None


@dataclass(slots=True, kw_only=True)
class _Loop:
    """The loop's state: what it may choose, what it learned, and how many fresh seeds are used up."""

    choice: Choice
    request: LoopRequest
    derates: Derates
    rounds: list[list[VerificationRound]]
    used_seeds: int = 1

    def note(self, simulations: list[Simulation], derates: Sequence[Mapping[Kind, float]]) -> None:
        """Record what was replayed, one round per model."""
        for k, simulation in enumerate(simulations):
            self.rounds[k].append(_round(simulation, derates[k]))
            if self.request.told is not None:
                self.request.told(self.rounds[k][-1])

    def replay(self, planned: Plan) -> list[Simulation]:
        """Replay on the loop's own seed, no longer than it takes to be sure."""
        quick = _quick(self.request)
        return [_seeded(plan, quick, 0) for plan in planned.models]

    def replay_fresh(self, planned: Plan) -> list[Simulation]:
        """Replay on seeds that nothing has used yet; each model's worst replay counts."""
        offsets = range(self.used_seeds, self.used_seeds + FRESH_SEEDS)
        self.used_seeds += FRESH_SEEDS
        found = []
        jobs = self.request.simulation.jobs
        inner = replace(self.request.simulation, jobs=max(1, jobs // FRESH_SEEDS))
        each = replace(self.request, simulation=inner)
        with ThreadPoolExecutor(max_workers=min(max(1, jobs), FRESH_SEEDS)) as pool:
            for plan in planned.models:
                seen = pool.map(lambda offset, p=plan: _seeded(p, each, offset), offsets)
                found.append(min(seen, key=lambda s: s.verdict.interval[0]))
        return found


def plan_verified(planned: Plan, spec: Spec, request: PlanRequest, loop: LoopRequest) -> Plan:
    """Return the plan that holds in replay, with its rounds; or the last one, with the reason.

    `planned` must come from `spec` and `request`. `verification.holds` says which it is.
    """
    count = len(planned.models)
    choice = Choice(first=planned, spec=spec, request=request)
    state = _Loop(
        choice=choice,
        request=loop,
        derates=[{} for _ in range(count)],
        rounds=[[] for _ in range(count)],
    )
    for number in range(loop.max_rounds):
        simulations = state.replay(planned)
        if _all_hold(simulations):
            simulations = state.replay_fresh(planned)
        failing = [k for k, s in enumerate(simulations) if not _holds(s.verdict)]
        if not failing:
            return _cheapest(state, planned, simulations)
        reason = _tighten_all(state, simulations, failing)
        state.note(simulations, state.derates)
        if reason is None and number + 1 == loop.max_rounds:
            reason = f"not there after {loop.max_rounds} rounds"
        if reason is None:
            try:
                planned = _another_fleet(planned, state, failing)
            except InfeasibleError as error:
                reason = f"no fleet is left: {error}"
        if reason is not None:
            return _with_record(planned, state, simulations, reason)
    raise AssertionError("the loop ends by itself")


def _holds(verdict: Verdict) -> bool:
    return verdict.interval[0] >= verdict.target


def _all_hold(simulations: list[Simulation]) -> bool:
    return all(_holds(s.verdict) for s in simulations)


def _quick(loop: LoopRequest) -> LoopRequest:
    """A search needs to know which side of the target a fleet is on, and no more."""
    return replace(loop, simulation=replace(loop.simulation, until_sure=True))


def _seeded(plan: ModelPlan, loop: LoopRequest, offset: int) -> Simulation:
    how = loop.simulation.how
    return simulate_plan(plan, replace(loop.simulation, how=replace(how, seed=how.seed + offset)))


def _cheapest(state: _Loop, planned: Plan, simulations: list[Simulation]) -> Plan:
    """Give back from a plan that holds; return the cheapest that holds on fresh seeds too."""
    first = state.choice.first
    if planned.cost_usd_per_hour <= first.cost_usd_per_hour:
        return _with_record(planned, state, simulations, None)
    state.note(simulations, state.derates)

    def holds(fleet: Plan, derates: Sequence[Mapping[Kind, float]]) -> bool:
        seen = state.replay(fleet)
        state.note(seen, derates)
        return _all_hold(seen)

    held = give_back(Trials(choice=state.choice, holds=holds, held=[planned]), state.derates)
    for fleet in reversed(held[1:]):
        seen = state.replay_fresh(fleet)
        if _all_hold(seen):
            return _with_record(fleet, state, seen, None)
        pairs = zip(fleet.models, first.models, strict=True)
        state.note(seen, [_derates_of(plan, before) for plan, before in pairs])
    return _with_record(planned, state, simulations, None)


def _tighten_all(state: _Loop, simulations: list[Simulation], failing: list[int]) -> str | None:
    reason = None
    for k in failing:
        reason = reason or _tighten(simulations[k], state.derates[k], state.request)
    return reason


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
        kind_of(allocation.candidate)
        for allocation, seen in pairs
        if seen.attainment is not None and seen.attainment < verdict.target
    }
    return kinds or {kind_of(allocation.candidate) for allocation, _ in pairs}


def _factor_that_holds(plan: ModelPlan, loop: LoopRequest) -> float | None:
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


def _another_fleet(planned: Plan, state: _Loop, failing: list[int]) -> Plan:
    """Plan again; while that only shifts shares within the fleet that failed, derate it further."""
    found = state.choice.plan(state.derates)
    for _ in range(MAX_NUDGES):
        same = [k for k in failing if fleet_key(found)[k] == fleet_key(planned)[k]]
        if not same:
            return found
        for k in same:
            for kind in {kind_of(a.candidate) for a in found.models[k].allocations}:
                state.derates[k][kind] = state.derates[k].get(kind, 1.0) * LARGEST_STEP
        found = state.choice.plan(state.derates)
    return found


def _round(simulation: Simulation, derates: Mapping[Kind, float]) -> VerificationRound:
    plan, verdict = simulation.plan, simulation.verdict
    return VerificationRound(
        cost_usd_per_hour=plan.cost_usd_per_hour,
        fleet=" + ".join(
            f"{a.instances} × {a.candidate.option.accelerator}:{a.candidate.option.accelerator_count}"
            for a in plan.allocations
        ),
        attainment=verdict.attainment,
        low=verdict.interval[0],
        high=verdict.interval[1],
        derated=tuple(sorted((f"{name}:{count}", f) for (name, count), f in derates.items())),
    )


def _with_record(
    planned: Plan, state: _Loop, simulations: list[Simulation], reason: str | None
) -> Plan:
    """Return the plan with how it was verified; the last round is its own."""
    if planned is not state.choice.first:
        planned = _unproven(state.choice.with_baselines(planned))
    pairs = zip(planned.models, state.choice.first.models, strict=True)
    plans = []
    for k, (plan, before) in enumerate(pairs):
        verdict, rounds = simulations[k].verdict, state.rounds[k]
        if reason is None:
            rounds = [*rounds, _round(simulations[k], _derates_of(plan, before))]
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
                    rounds=tuple(rounds),
                ),
            )
        )
    return replace(planned, models=tuple(plans))


def _unproven(planned: Plan) -> Plan:
    """Return a plan that replay changed: the optimum of a stricter problem, proven cheapest of nothing."""
    return replace(planned, solver=replace(planned.solver, status="feasible"))


def _derates_of(plan: ModelPlan, before: ModelPlan) -> dict[Kind, float]:
    """Return by which factors a plan's capacities differ from those of the plan before any replay."""
    found: dict[Kind, float] = {}
    for now, then in zip(plan.candidates, before.candidates, strict=True):
        for mine, its in zip(sum(now.cells, ()), sum(then.cells, ()), strict=True):
            if mine.max_rate_rps and its.max_rate_rps:
                found[kind_of(now)] = mine.max_rate_rps / its.max_rate_rps
                break
    return {kind: factor for kind, factor in found.items() if factor < 1.0}
