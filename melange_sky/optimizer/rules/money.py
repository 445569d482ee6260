"""Rules about money: the budget, and the price of turning a running fleet over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer.program.linear import GE, LE
from melange_sky.optimizer.rules.base import TOLERANCE, Clause, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from melange_sky.constraints import Constraints
    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.problem.question import Problem, SolveOptions, StayClose
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.rules.base import FinishedFleet

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Rule):
    """Σ_k price_k × x_k − what is already paid ≤ budget."""

    name = "budget"
    spans_models = True
    weight = 5

    usd_per_hour: float

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> Budget | None:
        """Return the rule where there is a budget."""
        budget = problem.constraints.budget_usd_per_hour
        return None if budget is None else cls(usd_per_hour=budget)

    @classmethod
    def untied(cls, constraints: Constraints) -> Constraints:
        """Return constraints without a budget."""
        return replace(constraints, budget_usd_per_hour=None)

    def add_rows(self, program: IntegerProgram) -> None:
        """Add one row."""
        program.row(program.cost_terms(), LE, self.usd_per_hour + _ROUNDING, "budget")

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return the budget as its one part."""
        return [self.clause]

    @property
    def clause(self) -> Clause:
        """The budget, which is lifted at once: how far it must rise is the least cost."""
        return Clause(
            text=f"the budget of ${self.usd_per_hour:g}/h",
            steps=1,
            loosen=lambda constraints, _: replace(constraints, budget_usd_per_hour=None),
            remedy=lambda _: "lift the budget",
            is_budget=True,
        )

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield what is billed where it is over the budget."""
        if fleet.cost_usd_per_hour > self.usd_per_hour * (1 + TOLERANCE):
            yield f"${fleet.cost_usd_per_hour:.6f}/h is billed where the budget is ${self.usd_per_hour:g}/h"

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return True: the copies cost no more."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class StayCloseToFleet(Rule):
    """c_k ≥ x_k − running_k and c_k ≥ running_k − x_k; the goal counts switch × c_k."""

    name = "stay_close"
    changes_goal = True
    names_options = True

    close: StayClose

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> StayCloseToFleet | None:
        """Return the rule where a running fleet is named."""
        return None if options.stay_close is None else cls(close=options.stay_close)

    def add_rows(self, program: IntegerProgram) -> None:
        """Add c_k and its two rows per column, and its price to the goal."""
        for k, count in enumerate(self._running(program.canonical)):
            changes = program.lp.add(f"c_{k}")
            program.extra_goal.append((changes, self.close.switch_usd_per_hour))
            for sign, word in ((1.0, "started"), (-1.0, "stopped")):
                terms = [(changes, 1.0), (program.x[k], -sign)]
                program.row(terms, GE, -sign * count, f"{word}_option_{k}")

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return none: changes have a price and no limit."""
        return []

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield the goal where it is not what is billed plus the price of the changes."""
        change = {(demand, option): -count for demand, option, count in self.close.instances}
        options = {(d.name, c.option.name) for d in fleet.demands for c in d.options}
        for demand, allocations in zip(fleet.demands, fleet.allocations, strict=True):
            for allocation in allocations:
                key = demand.name, allocation.candidate.option.name
                change[key] = change.get(key, 0) + allocation.instances
        moved = sum(abs(count) for key, count in change.items() if key in options)
        goal = fleet.cost_usd_per_hour + self.close.switch_usd_per_hour * moved
        if abs(goal - fleet.goal_usd_per_hour) > TOLERANCE * max(1.0, goal):
            yield (
                f"the goal is {fleet.goal_usd_per_hour:.6f} where cost and changes come to {goal:.6f}"
            )

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return whether it is one for one: each copy more would be one more change."""
        return copies == 1

    @property
    def least_instances(self) -> int:
        """As many as run, for staying may be cheaper than stopping."""
        return max((count for _, _, count in self.close.instances), default=0)

    def pins(self, column: Column, demand_name: str) -> bool:
        """Return whether instances of the column run."""
        return any(
            (demand, option) == (demand_name, column.name) and count > 0
            for demand, option, count in self.close.instances
        )

    def goal_beyond_cost(self, canonical: Canonical, instances: Sequence[int]) -> float:
        """Return the price of changing the running fleet into these instances."""
        return self.close.switch_usd_per_hour * sum(
            abs(count - running)
            for count, running in zip(instances, self._running(canonical), strict=True)
        )

    def _running(self, canonical: Canonical) -> list[int]:
        running = {(demand, option): count for demand, option, count in self.close.instances}
        return [
            running.get((canonical.demands[column.demand].name, column.name), 0)
            for column in canonical.columns
        ]
