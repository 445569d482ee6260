"""Choose a fleet again among the first plan's candidates: derated, or with so many instances at least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer import Demand, Problem, baselines, optimize
from melange_sky.planner.constraints import constraints_of
from melange_sky.planner.objectives import OBJECTIVE_CODES, objective_notes, price_notes

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.constraints import InstanceGroup
    from melange_sky.optimizer import Solution
    from melange_sky.planner import PlanRequest
    from melange_sky.plans import Plan
    from melange_sky.spec import Spec

Kind = tuple[str, int]
"""Accelerator and its count: what is derated, on whatever offer it runs."""


def kind_of(option: OptionCapacity) -> Kind:
    """Return what an option is derated as."""
    return option.option.accelerator, option.option.accelerator_count


def fleet_key(planned: Plan) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Return which options run in which numbers, per model: fleets with equal keys are the same."""
    return tuple(
        tuple(sorted((a.candidate.option.name, a.instances) for a in plan.allocations))
        for plan in planned.models
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What there is to choose among: the candidates of the `first` plan under the spec's rules."""

    first: Plan
    spec: Spec
    request: PlanRequest

    def plan(
        self, derates: Sequence[Mapping[Kind, float]], minimum: tuple[InstanceGroup, ...] = ()
    ) -> Plan:
        """Plan with capacities times `derates` (one mapping per model) and `minimum` besides the spec's.

        Raises InfeasibleError.
        """
        demands = tuple(
            Demand(
                name=plan.name,
                workload=plan.workload,
                options=tuple(_derated(o, mine.get(kind_of(o), 1.0)) for o in plan.candidates),
            )
            for plan, mine in zip(self.first.models, derates, strict=True)
        )
        rules = constraints_of(self.spec)
        rules = replace(rules, minimum=rules.minimum + minimum)
        problem = Problem(demands=demands, headroom=self.spec.headroom, constraints=rules)
        return self._planned(problem, optimize(problem, self.request.solve))

    def with_baselines(self, planned: Plan) -> Plan:
        """Return a plan of this choice with its baselines, by the capacities that it was chosen by."""
        demands = tuple(
            Demand(name=p.name, workload=p.workload, options=p.candidates) for p in planned.models
        )
        rules = constraints_of(self.spec)
        problem = Problem(demands=demands, headroom=self.spec.headroom, constraints=rules)
        costs = tuple(p.cost_usd_per_hour for p in planned.models)
        alone = baselines(problem, costs, self.request.solve)
        plans = tuple(replace(p, baselines=b) for p, b in zip(planned.models, alone, strict=True))
        return replace(planned, models=plans)

    def _planned(self, problem: Problem, solution: Solution) -> Plan:
        """Return the plan of another fleet; what the first one said of its own goes."""
        plans = tuple(
            replace(
                plan,
                allocations=solution.allocations[k],
                candidates=problem.demands[k].options,
            )
            for k, plan in enumerate(self.first.models)
        )
        stale = {*price_notes(a for p in self.first.models for a in p.allocations)}
        notes = objective_notes(problem, solution, self.request)
        notes += price_notes(a for p in plans for a in p.allocations)
        kept = tuple(
            w for w in self.first.warnings if w not in stale and w.code not in OBJECTIVE_CODES
        )
        return replace(
            self.first,
            models=plans,
            solver=solution.report,
            sensitivity=None,
            alternatives=(),
            warnings=notes + kept,
        )


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
