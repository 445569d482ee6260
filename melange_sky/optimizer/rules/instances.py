"""Rules about numbers of instances, whatever they are: limits, and a floor of replicas."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.names.limits import LimitKind
from melange_sky.optimizer.program.linear import GE, LE
from melange_sky.optimizer.rules.base import Clause, Rule, can_serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from melange_sky.constraints import Constraints
    from melange_sky.names.limits import LimitKey
    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.rules.base import FinishedFleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Rule):
    """Σ_k units_k × x_k ≤ limit, per accelerator (GPUs), cloud, region, instance type (instances)."""

    name = "limits"
    spans_models = True
    weight = 4

    limits: tuple[tuple[LimitKey, int], ...]

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> Limits | None:
        """Return the rule where there are limits."""
        limits = problem.constraints.limits
        return cls(limits=limits) if limits else None

    @classmethod
    def untied(cls, constraints: Constraints) -> Constraints:
        """Return constraints without limits."""
        return replace(constraints, limits=())

    def add_rows(self, program: IntegerProgram) -> None:
        """Add one row per limit that any column counts against."""
        for n, (key, limit) in enumerate(self.limits):
            terms = [
                (x, float(column.units(key)))
                for x, column in zip(program.x, program.canonical.columns, strict=True)
                if column.units(key)
            ]
            if terms:
                program.row(terms, LE, limit, f"limit_{n}")

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return each limit, loosened by one unit at a time."""
        return [self._clause(n, canonical, bounds) for n in range(len(self.limits))]

    def _clause(self, n: int, canonical: Canonical, bounds: Sequence[int]) -> Clause:
        key, limit = self.limits[n]
        units = [column.units(key) for column in canonical.columns]
        most = sum(u * bound for u, bound in zip(units, bounds, strict=True))

        def loosen(constraints: Constraints, step: int) -> Constraints:
            limits = list(constraints.limits)
            limits[n] = (key, limit + step)
            return replace(constraints, limits=tuple(limits))

        return Clause(
            text=f"the limit of {key.counted(limit)}",
            steps=max(1, 2 * most),
            loosen=loosen,
            remedy=lambda step: f"raise the limit to {key.counted(limit + step)}",
            priced_step=min((u for u in units if u > 0), default=1),
        )

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield every limit that is exceeded."""
        for key, limit in self.limits:
            used = sum(
                allocation.instances * allocation.candidate.option.units(key)
                for allocation in fleet.all_allocations()
            )
            if used > limit:
                yield f"{used} of '{key}' are used where the limit is {limit}"

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return whether the copies count no more against any limit."""
        return all(copies * other.units(key) <= column.units(key) for key, _ in self.limits)

    @property
    def tells_places_apart(self) -> bool:
        """Whether any limit is one of places or instances."""
        return any(key.kind is not LimitKind.ACCELERATOR for key, _ in self.limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class MinReplicas(Rule):
    """Σ_k x_k ≥ min_replicas for every model, over the columns that can serve it at all."""

    name = "min_replicas"
    weight = 2
    counts_instances = True

    least: int

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> MinReplicas | None:
        """Return the rule where more than no replicas are asked for."""
        least = problem.constraints.min_replicas
        return cls(least=least) if least > 0 else None

    def add_rows(self, program: IntegerProgram) -> None:
        """Add one row per model."""
        for d in range(len(program.canonical.demands)):
            terms = [
                (program.x[k], 1.0)
                for k in program.canonical.of_demand(d)
                if program.canonical.columns[k].serves()
            ]
            program.row(terms, GE, self.least, f"min_replicas_of_model_{d}")

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return the floor, lowered by one replica at a time; one replica there is anyway."""
        least = self.least
        if least <= 1:
            return []
        return [
            Clause(
                text=f"at least {least} replicas",
                steps=least,
                loosen=lambda constraints, step: replace(constraints, min_replicas=least - step),
                remedy=lambda step: f"lower min_replicas to {least - step}",
            )
        ]

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield every model with too few instances that can serve it."""
        for demand, allocations in zip(fleet.demands, fleet.allocations, strict=True):
            replicas = sum(a.instances for a in allocations if can_serve(a, demand))
            if replicas < self.least:
                yield f"model '{demand.name}' has {replicas} replicas where {self.least} are required"

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return True: one instance becomes at least one."""
        return True

    @property
    def least_instances(self) -> int:
        """All replicas may be of one column."""
        return self.least
