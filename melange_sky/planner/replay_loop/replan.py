"""Choose a fleet again among the first plan's candidates: derated, or with so many instances at least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer import Demand, Problem, baselines, optimize
from melange_sky.planner.notes import OBJECTIVE_CODES, objective_notes, price_notes

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.constraints import InstanceGroup
    from melange_sky.optimizer import Solution
    from melange_sky.planner.request import PlanRequest
    from melange_sky.plans import Plan, PlanWarning

AcceleratorCount = tuple[str, int]
"""Accelerator and its count per instance: what is derated, on whatever offer it runs."""

Deratings = Mapping[AcceleratorCount, float]
"""The factors on one model's capacities, 1 for what is not in it."""


def accelerator_count(candidate: OptionCapacity) -> AcceleratorCount:
    """Return what a candidate is derated as."""
    return candidate.option.accelerator, candidate.option.accelerator_count


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

    def plan(self, deratings: Sequence[Deratings], minimum: tuple[InstanceGroup, ...] = ()) -> Plan:
        """Plan with derated capacities, one mapping per model, and `minimum` besides the plan's own.

        Raises InfeasibleError, NoPlanInTimeError.
        """
        demands = tuple(
            Demand(
                name=model.name,
                workload=model.workload,
                options=tuple(
                    _derated(c, factors.get(accelerator_count(c), 1.0)) for c in model.candidates
                ),
            )
            for model, factors in zip(self.first.models, deratings, strict=True)
        )
        rules = self.first.constraints
        rules = replace(rules, minimum=rules.minimum + minimum)
        problem = Problem(demands=demands, headroom=self.first.headroom, constraints=rules)
        return self._replanned(problem, optimize(problem, self.request.solve))

    def with_baselines(self, plan: Plan) -> Plan:
        """Return a plan of these candidates with its baselines, by the capacities it was chosen by."""
        demands = tuple(
            Demand(name=m.name, workload=m.workload, options=m.candidates) for m in plan.models
        )
        problem = Problem(demands=demands, headroom=plan.headroom, constraints=plan.constraints)
        costs = tuple(model.cost_usd_per_hour for model in plan.models)
        singles = baselines(problem, costs, self.request.solve)
        pairs = zip(plan.models, singles, strict=True)
        return replace(plan, models=tuple(replace(m, baselines=b) for m, b in pairs))

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
            alternatives=(),
        )
        stale = set(_price_notes(self.first))
        notes = objective_notes(problem, solution, self.request) + _price_notes(plan)
        lasting = tuple(
            w for w in self.first.warnings if w not in stale and w.code not in OBJECTIVE_CODES
        )
        return replace(plan, warnings=notes + lasting)


def _price_notes(plan: Plan) -> tuple[PlanWarning, ...]:
    return price_notes(a for model in plan.models for a in model.allocations)


def _derated(candidate: OptionCapacity, factor: float) -> OptionCapacity:
    """Return the candidate with its capacities times `factor`; their origin stays."""

    def scaled(rate: float | None) -> float | None:
        return None if rate is None else rate * factor

    if factor == 1.0:
        return candidate
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
        for row in candidate.cells
    )
    return replace(candidate, cells=cells)
