"""Plan with prefix caches: which fleet is cheapest depends on what its caches find, and that on the fleet.

Memory, numbers and routing decide what is found. So a fleet is planned with a first guess from the stack-distance curve,
replayed, and planned again with what its replicas found, half way down from the guess at first, until a fleet finds
at least what it was planned with. Guesses only fall, so this ends; it ends on the safe side, for the fleet that is kept
was replayed itself and found no less. A guess is for one option alone: a replica takes the part of the
traffic that it carries, so its share of all sessions does not depend on what runs beside it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

import numpy as np

from melange_sky.planner.hits import MOST_FOUND, Hits
from melange_sky.planner.replay_loop.replay import (
    NO_AFFINITY,
    SimulationRequest,
    shares_prefixes,
    simulate_plan,
)
from melange_sky.planner.reuse_guesses import STEPS, first_guesses, profile_by_input
from melange_sky.planner.reuse_notes import CODE, blind_note, reuse_notes
from melange_sky.plans import OptionHits
from melange_sky.plans.reuse import Routing
from melange_sky.replay import Replay

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.planner.request import PlanRequest
    from melange_sky.plans import ModelPlan, Plan, PlanWarning
    from melange_sky.spec import Spec

log = logging.getLogger(__name__)

PlanHow = Callable[["Spec", "PlanRequest"], "Plan"]

DAMPED_ROUNDS, MOST_ROUNDS = 3, 12
MEASURED_REQUESTS, MEASURED_S = 10_000, 900.0
THINK_TIMES = 4.0
"""Sampled traffic lasts for so many of the longer think times at least; what is found counts in its second half."""

MOST_REQUESTS = 300_000
LEAST_GAIN_USD = 1e-6


def plan_with_reuse(spec: Spec, request: PlanRequest, how: PlanHow, seed: int = 0) -> Plan:
    """Plan a spec, counting on what prompts share where its workloads say so.

    `how` plans a spec by a request. Without such a workload that is all that is done.
    """
    if all(served.workload.reuse is None for served in spec.models):
        return how(spec, request)
    quick = replace(request, sensitivity=False)
    cold = how(_cold(spec), quick)
    rounds = _Rounds(spec=spec, request=request, how=how, seed=seed)
    best = rounds.settled(cold, request.affinity)
    if best is None or best.plan.cost_usd_per_hour > cold.cost_usd_per_hour + LEAST_GAIN_USD:
        return how(spec, request)
    blind = None
    if request.affinity != NO_AFFINITY:
        blind = rounds.settled(cold, NO_AFFINITY)
    plan = how(spec, best.request) if request.sensitivity else best.plan
    plan = _planned_with(plan, best.guesses)
    return rounds.told(plan, (cold, cold if blind is None else blind.plan))


def _cold(spec: Spec) -> Spec:
    models = tuple(replace(m, workload=replace(m.workload, reuse=None)) for m in spec.models)
    return replace(spec, models=models)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settled:
    """A plan whose fleet finds what it was planned with, how it was asked for, and those guesses by model."""

    plan: Plan
    request: PlanRequest
    guesses: dict[str, dict[str, float]]


@dataclass(slots=True, kw_only=True)
class _Rounds:
    spec: Spec
    request: PlanRequest
    how: PlanHow
    seed: int

    def settled(self, cold: Plan, affinity: Routing) -> _Settled | None:
        """Return a plan whose fleet finds at least what it was planned with, None where no round came to that."""
        guesses = {
            model.name: first_guesses(model, affinity) for model in self._with_workloads(cold)
        }
        profiles = {
            model.name: profile_by_input(model, self.seed) for model in self._with_workloads(cold)
        }
        for number in range(MOST_ROUNDS):
            hits = {name: _rows(by_option, profiles[name]) for name, by_option in guesses.items()}
            request = replace(self.request, hits=hits, affinity=affinity, as_needed=False)
            plan = self.how(self.spec, replace(request, sensitivity=False))
            fell = False
            for model in plan.models:
                found = found_by(model, self.seed)
                fell |= _lower(guesses[model.name], found, damp=number < DAMPED_ROUNDS)
            log.info(
                "reuse, round %d: %s, $%.4f/h, %s",
                number + 1,
                affinity,
                plan.cost_usd_per_hour,
                "finds less than planned" if fell else "finds what it was planned with",
            )
            if not fell:
                return _Settled(plan=plan, request=request, guesses=guesses)
        return None

    def _with_workloads(self, plan: Plan) -> list[ModelPlan]:
        """Return a cold plan's models with what their prompts share."""
        pairs = zip(plan.models, self.spec.models, strict=True)
        return [
            replace(model, workload=replace(model.workload, reuse=served.workload.reuse))
            for model, served in pairs
        ]

    def told(self, plan: Plan, costs: tuple[Plan, Plan]) -> Plan:
        """Return the plan with what its replicas find, what other plans would cost, and what to know of it."""
        models = []
        for model, cold, blind in zip(plan.models, costs[0].models, costs[1].models, strict=True):
            if model.reuse is None:
                models.append(model)
                continue
            reuse = replace(
                with_found(model, self.seed).reuse or model.reuse,
                cold_usd_per_hour=cold.cost_usd_per_hour,
                blind_usd_per_hour=blind.cost_usd_per_hour,
            )
            models.append(replace(model, reuse=reuse))
        plan = replace(plan, models=tuple(models))
        return replace(plan, warnings=(*reuse_notes(plan), *plan.warnings))


def _rows(guesses: dict[str, float], profile: NDArray[np.float64]) -> Hits:
    return {
        name: tuple(np.minimum(fraction * profile, MOST_FOUND).tolist())
        for name, fraction in guesses.items()
    }


def _lower(guesses: dict[str, float], found: dict[str, float], *, damp: bool) -> bool:
    """Lower what was guessed too high, half way where it is damped; return whether any was."""
    fell = False
    for name, fraction in found.items():
        guess, down = guesses.get(name, 0.0), math.floor(fraction * STEPS) / STEPS
        if guess <= fraction:
            continue
        fell = True
        middle = math.floor((guess + down) / 2 * STEPS) / STEPS
        guesses[name] = middle if damp and down < middle < guess else min(down, guess)
    return fell


def _planned_with(plan: Plan, guesses: dict[str, dict[str, float]]) -> Plan:
    """Return a plan that tells what its options were planned with."""
    models = []
    for model in plan.models:
        if model.reuse is None:
            models.append(model)
            continue
        names = [a.candidate.option.name for a in model.allocations]
        planned = tuple(
            OptionHits(option=n, planned=guesses[model.name].get(n, 0.0), affinity=0.0, blind=0.0)
            for n in names
        )
        models.append(replace(model, reuse=replace(model.reuse, hits=planned)))
    return replace(plan, models=tuple(models))


def with_found(model: ModelPlan, seed: int = 0) -> ModelPlan:
    """Return a model's plan with what its fleet finds with affinity and without."""
    reuse = model.reuse
    if reuse is None:
        return model
    planned = {hits.option: hits.planned for hits in reuse.hits}
    near, far = (
        found_by(replace(model, reuse=replace(reuse, affinity=word)), seed)
        for word in get_args(Routing)
    )
    hits = tuple(
        OptionHits(
            option=name,
            planned=planned.get(name, 0.0),
            affinity=near.get(name, 0.0),
            blind=far.get(name, 0.0),
        )
        for name in (a.candidate.option.name for a in model.allocations)
    )
    return replace(model, reuse=replace(reuse, hits=hits))


def with_found_again(plan: Plan, simulation: SimulationRequest) -> Plan:
    """Return a verified plan with what its fleet finds, and how it would do in that replay without affinity.

    What other plans would cost is known by estimate alone, which is no measure of a verified one.
    """
    if all(model.reuse is None for model in plan.models):
        return plan
    models: list[ModelPlan] = []
    notes: list[PlanWarning] = []
    for model in plan.models:
        if model.reuse is None:
            models.append(model)
            continue
        reuse = replace(model.reuse, cold_usd_per_hour=None, blind_usd_per_hour=None)
        model = with_found(replace(model, reuse=reuse), simulation.how.seed)
        models.append(model)
        if reuse.affinity != NO_AFFINITY:
            blind = replace(model, reuse=replace(reuse, affinity=NO_AFFINITY))
            verdict = simulate_plan(blind, replace(simulation, on_progress=None)).verdict
            notes.append(blind_note(model, verdict.attainment, verdict.target))
    plan = replace(plan, models=tuple(models))
    kept = [w for w in plan.warnings if w.code != CODE]
    return replace(plan, warnings=(*reuse_notes(plan), *notes, *kept))


def found_by(model: ModelPlan, seed: int = 0) -> dict[str, float]:
    """Return what each option of a planned fleet finds of its prompts' tokens, once its caches are full."""
    if not shares_prefixes(model):
        return {}
    run = simulate_plan(model, _traffic(model, seed)).run
    if run.found_tokens is None:
        return {}
    counts = run.log.arrival_s >= run.log.arrival_s[-1] / 2
    found: dict[str, float] = {}
    for k, name in enumerate(run.log.options):
        mine = counts & (run.log.option == k)
        total = float(run.log.input_tokens[mine].sum())
        found[name] = float(run.found_tokens[mine].sum()) / total if total > 0 else 0.0
    return found


def _traffic(model: ModelPlan, seed: int) -> SimulationRequest:
    """Return the traffic in which caches are looked at: the trace where there is one, else long enough."""
    arrivals = model.workload.arrivals
    if arrivals is not None and arrivals.trace is not None:
        return SimulationRequest(trace=arrivals.trace, how=Replay(seed=seed))
    rate_rps = model.workload.rate_rps
    think = model.workload.reuse and model.workload.reuse.think_time_s
    lasts_s = max(MEASURED_S, MEASURED_REQUESTS / rate_rps, THINK_TIMES * think.p95 if think else 0)
    return SimulationRequest(
        duration_s=min(lasts_s, MOST_REQUESTS / rate_rps), how=Replay(seed=seed)
    )
