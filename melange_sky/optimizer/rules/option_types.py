"""Rules about how many kinds of options a model runs on: few to look after, or several to fall back on.

An option type is an option of a plan (one row of its table): an accelerator and count on an
instance type, its parallelism, on demand or spot, and its region where another rule names regions.
Types are counted for each served model by itself, for each runs on options of its own; an option
counts from its first instance on. One that serves none of the model's requests counts for no
minimum. No instance is made idle: the load is spread over all that there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer.program.linear import GE, LE
from melange_sky.optimizer.rules.base import Clause, Rule, can_serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.program.linear import Terms
    from melange_sky.optimizer.rules.base import FinishedFleet


def types(count: int) -> str:
    """Return so many option types in words."""
    return f"{count} option type" if count == 1 else f"{count} option types"


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxOptionTypes(Rule):
    """x_k ≤ bound_k × t_k with t_k ∈ {0, 1}; Σ_k t_k ≤ max_option_types for every model."""

    name = "max_option_types"
    weight = 2
    counts_types = True

    most: int

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> MaxOptionTypes | None:
        """Return the rule where option types are limited."""
        most = problem.constraints.max_option_types
        return None if most is None else cls(most=most)

    def add_rows(self, program: IntegerProgram) -> None:
        """Add t_k, one row per column and one per model."""
        for d in range(len(program.canonical.demands)):
            used: Terms = []
            for k in program.canonical.of_demand(d):
                t = program.lp.add(f"t_{k}", 0.0, 1.0, whole=True)
                terms = [(program.x[k], 1.0), (t, -float(program.bounds[k]))]
                program.row(terms, LE, 0, f"option_{k}_is_a_type")
                used.append((t, 1.0))
            program.row(used, LE, self.most, f"max_option_types_of_model_{d}")

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return the limit, raised by one type at a time up to all that a model may run on."""
        most = self.most
        options = max(len(canonical.of_demand(d)) for d in range(len(canonical.demands)))
        steps = max(1, options - most)
        return [
            Clause(
                text=f"at most {types(most)}",
                steps=steps,
                loosen=lambda constraints, step: replace(
                    constraints, max_option_types=None if step >= steps else most + step
                ),
                remedy=lambda step: f"allow {types(most + step)}",
            )
        ]

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield every model that runs on more types."""
        for demand, allocations in zip(fleet.demands, fleet.allocations, strict=True):
            used = {a.candidate.option.name for a in allocations if a.instances > 0}
            if len(used) > self.most:
                yield f"model '{demand.name}' runs on {types(len(used))} where at most {self.most} are allowed"

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return True: all of one type becomes all of one other."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class MinOptionTypes(Rule):
    """h_k ≤ x_k with h_k ∈ {0, 1}; Σ_k h_k ≥ min_option_types for every model.

    Over the columns that can serve the model at all.
    """

    name = "min_option_types"
    weight = 2
    counts_types = True

    least: int

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> MinOptionTypes | None:
        """Return the rule where several option types are asked for: every fleet has one."""
        least = problem.constraints.min_option_types
        return cls(least=least) if least > 1 else None

    def add_rows(self, program: IntegerProgram) -> None:
        """Add h_k, one row per column and one per model."""
        for d in range(len(program.canonical.demands)):
            used: Terms = []
            for k in program.canonical.of_demand(d):
                if program.canonical.columns[k].serves():
                    h = program.lp.add(f"h_{k}", 0.0, 1.0, whole=True)
                    program.row([(h, 1.0), (program.x[k], -1.0)], LE, 0, f"option_{k}_is_there")
                    used.append((h, 1.0))
            program.row(used, GE, self.least, f"min_option_types_of_model_{d}")

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return the floor, lowered by one type at a time; one type there is anyway."""
        least = self.least
        return [
            Clause(
                text=f"at least {types(least)}",
                steps=least - 1,
                loosen=lambda constraints, step: replace(
                    constraints, min_option_types=least - step
                ),
                remedy=lambda step: f"require only {types(least - step)}",
            )
        ]

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield every model that runs on fewer types that can serve it."""
        for demand, allocations in zip(fleet.demands, fleet.allocations, strict=True):
            used = {
                a.candidate.option.name
                for a in allocations
                if a.instances > 0 and can_serve(a, demand)
            }
            if len(used) < self.least:
                yield (
                    f"model '{demand.name}' runs on {types(len(used))} "
                    f"where {self.least} are required"
                )

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return True: with enough rivals one of them is not in the fleet yet, or enough are."""
        return True

    @property
    def rivals_needed(self) -> int:
        """As many as there must be types.

        A fleet that holds the column and lacks one of the rivals takes that one in its place; one
        that holds them all has types enough without it.
        """
        return self.least

    @property
    def least_instances(self) -> int:
        """One, idle or not."""
        return 1
