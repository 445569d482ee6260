"""Choose a fleet again among the first plan's candidates: derated, or with so many instances at least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.constraints import InstanceGroup
from melange_sky.optimizer import Problem, constraints_among, demand_of, optimize
from melange_sky.planner.notes import OBJECTIVE_CODES, allocation_notes, objective_notes

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.optimizer import Solution
    from melange_sky.planner.request import PlanRequest
    from melange_sky.plans import ModelPlan, Plan, PlanWarning

AcceleratorCount = tuple[str, int]
"""Accelerator and its count per instance: what is derated, on whatever offer it runs."""

Deratings = Mapping[AcceleratorCount, float]
"""The factors on one model's capacities, 1 for what is not in it."""

LARGEST_SCALE = 8.0
"""By how much capacities may be taken for larger than estimated: replay has the last word."""


def accelerator_count(candidate: OptionCapacity) -> AcceleratorCount:
    """Return what a candidate is derated as."""
    return candidate.option.accelerator, candidate.option.accelerator_count


def instance_group(candidate: OptionCapacity, replicas: int) -> InstanceGroup:
    """Return the instances of so many replicas as a group that constraints can name."""
    option, offer = candidate.option, candidate.option.offer
    return InstanceGroup(
        accelerator=option.accelerator,
        accelerator_count=option.accelerator_count,
        cloud=None if offer is None else offer.cloud,
        region=None if offer is None else offer.region,
        instance_type=None if offer is None else offer.instance_type,
        instances=replicas * option.nodes,
    )


def fleet_key(plan: Plan) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Return which options run in which numbers, per model: fleets with equal keys are the same."""
    return tuple(
        tuple(sorted((a.candidate.option.name, a.instances) for a in model.allocations))
        for model in plan.models
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Replanner:
    """Chooses among the candidates of the `first` plan, under its constraints.

    `request` is what the first plan was made by.
    """

    first: Plan
    request: PlanRequest

    @property
    def largest_scale(self) -> float:
        """The most that capacities may be scaled by: 1 where the plan must hold after a loss or an error
        of the estimates, which no replay of the whole fleet shows."""
        protected = self.first.constraints.spare or self.request.solve.robustness
        return 1.0 if protected else LARGEST_SCALE

    def plan(
        self,
        deratings: Sequence[Deratings],
        minimum: tuple[InstanceGroup, ...] = (),
        scale: float = 1.0,
    ) -> Plan:
        """Plan with derated capacities, one mapping per model, and `minimum` besides the plan's own.

        All capacities are taken `scale` times larger to choose by; the plan tells them, and each load,
        without it. Raises InfeasibleError, NoPlanInTimeError.
        """
        derated = [
            tuple(scaled(c, factors.get(accelerator_count(c), 1.0)) for c in model.candidates)
            for model, factors in zip(self.first.models, deratings, strict=True)
        ]
        demands = tuple(
            demand_of(model, tuple(scaled(c, scale) for c in options))
            for model, options in zip(self.first.models, derated, strict=True)
        )
        rules = self.first.constraints
        rules = replace(rules, minimum=rules.minimum + minimum)
        problem = Problem(demands=demands, headroom=self.first.headroom, constraints=rules)
        plan = self._replanned(problem, optimize(problem, self.request.solve))
        if scale == 1.0:
            return plan
        pairs = zip(plan.models, derated, strict=True)
        return replace(plan, models=tuple(_unscaled(m, c, scale) for m, c in pairs))

    @property
    def asks_budget(self) -> bool:
        """Whether any model's target is one over all of its requests."""
        return not all(model.attainment_per_bucket for model in self.first.models)

    def in_every_bucket(self) -> Replanner:
        """Return what chooses fleets that meet the target in every bucket."""
        models = tuple(replace(m, attainment_per_bucket=True) for m in self.first.models)
        return replace(self, first=replace(self.first, models=models))

    def as_asked(self, plan: Plan) -> Plan:
        """Return a plan whose models' targets are asked for as the first plan's are."""
        pairs = zip(plan.models, self.first.models, strict=True)
        models = (
            replace(m, attainment_per_bucket=asked.attainment_per_bucket) for m, asked in pairs
        )
        return replace(plan, models=tuple(models))

    def part(self, k: int) -> Replanner:
        """Return what chooses for one of the models by itself, under the same rules."""
        return replace(self, first=replace(self.first, models=(self.first.models[k],)))

    def alone(self, accelerator: str) -> Replanner:
        """Return what chooses among one accelerator's options for the only model, as baselines do.

        Raises InfeasibleError where these cannot keep to some rule.
        """
        (model,) = self.first.models
        options = tuple(c for c in model.candidates if c.option.accelerator == accelerator)
        rules = constraints_among(self.first.constraints, [c.option for c in options])
        model = replace(model, candidates=options, allocations=())
        solve = replace(self.request.solve, within_fraction=0.0, stay_close=None, alternatives=0)
        return Replanner(
            first=replace(self.first, models=(model,), constraints=rules),
            request=replace(self.request, solve=solve),
        )

    def of_models(self, models: tuple[ModelPlan, ...]) -> Plan:
        """Return a fleet that was not chosen by solving as a plan, unproven."""
        solver = replace(self.first.solver, status="feasible")
        plan = replace(
            self.first,
            models=models,
            solver=solver,
            sensitivity=None,
            form_gain=None,
            alternatives=(),
        )
        return replace(plan, warnings=self._warnings(plan, ()))

    def _replanned(self, problem: Problem, solution: Solution) -> Plan:
        """Return the plan of another fleet, without what the first one said of its own."""
        models = tuple(
            replace(
                model,
                allocations=solution.allocations[k],
                candidates=problem.demands[k].options,
            )
            for k, model in enumerate(self.first.models)
        )
        plan = replace(
            self.first,
            models=models,
            solver=solution.report,
            sensitivity=None,
            form_gain=None,
            alternatives=(),
        )
        notes = objective_notes(problem, solution, self.request)
        return replace(plan, warnings=self._warnings(plan, notes))

    def _warnings(self, plan: Plan, notes: tuple[PlanWarning, ...]) -> tuple[PlanWarning, ...]:
        """Return notes on another fleet in place of those that held of the first one alone."""
        stale = set(_allocation_notes(self.first))
        lasting = tuple(
            w for w in self.first.warnings if w not in stale and w.code not in OBJECTIVE_CODES
        )
        return notes + _allocation_notes(plan) + lasting


def _unscaled(model: ModelPlan, candidates: Sequence[OptionCapacity], scale: float) -> ModelPlan:
    """Return a model's plan with the capacities before scaling, and loads by these."""
    by_name = {c.option.name: c for c in candidates}
    allocations = tuple(
        replace(
            a,
            candidate=by_name[a.candidate.option.name],
            load_fraction=a.load_fraction * scale,
        )
        for a in model.allocations
    )
    return replace(model, candidates=tuple(candidates), allocations=allocations)


def _allocation_notes(plan: Plan) -> tuple[PlanWarning, ...]:
    (generation,) = {model.engine_generation for model in plan.models}
    return allocation_notes((a for m in plan.models for a in m.allocations), generation)


def scaled(candidate: OptionCapacity, factor: float) -> OptionCapacity:
    """Return the candidate with its capacities times `factor`; their origin stays."""

    if factor == 1.0:
        return candidate
    cells = tuple(tuple(cell.scaled(factor) for cell in row) for row in candidate.cells)
    return replace(candidate, cells=cells)
