"""Rules about numbers of instances: limits, capacity already paid for, minimums, replica floors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.names.limits import LimitKind
from melange_sky.optimizer.problem.canonical import matches
from melange_sky.optimizer.program.linear import GE, LE
from melange_sky.optimizer.rules.base import Clause, Rule, can_serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from melange_sky.constraints import Constraints, InstanceGroup
    from melange_sky.names.limits import LimitKey
    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.program.linear import Terms
    from melange_sky.optimizer.rules.base import FinishedFleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Rule):
    """Σ_k units_k × x_k ≤ limit, per accelerator (GPUs), cloud, region, instance type (instances)."""

    name = "limits"
    weight = 4

    limits: tuple[tuple[LimitKey, int], ...]

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> Limits | None:
        """Return the rule where there are limits."""
        limits = problem.constraints.limits
        return cls(limits=limits) if limits else None

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
            text=f"the limit of {limit} {key.unit}",
            steps=max(1, 2 * most),
            loosen=loosen,
            remedy=lambda step: f"raise the limit to {limit + step} {key.unit}",
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
class Fixed(Rule):
    """f_pk ≤ x_k over all paid groups p, Σ_k f_pk ≤ instances_p: paid instances cost nothing."""

    name = "fixed"
    changes_goal = True
    names_options = True

    groups: tuple[InstanceGroup, ...]

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> Fixed | None:
        """Return the rule where any capacity is paid for."""
        groups = problem.constraints.fixed
        return cls(groups=groups) if groups else None

    def add_rows(self, program: IntegerProgram) -> None:
        """Add f_pk, one row per group and one per column that any group pays for."""
        paid: dict[int, Terms] = {}
        for p, group in enumerate(self.groups):
            ks = _matching(program, group)
            for k in ks:
                f = program.lp.add(f"f_{p}_{k}", 0.0, group.instances, whole=True)
                program.fixed[p, k] = f
                paid.setdefault(k, []).append((f, 1.0))
            terms = [(program.fixed[p, k], 1.0) for k in ks]
            if terms:
                program.row(terms, LE, group.instances, f"fixed_{p}_has")
        for k, terms in sorted(paid.items()):
            terms = [*terms, (program.x[k], -1.0)]
            program.row(terms, LE, 0, f"fixed_pays_only_used_option_{k}")

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return none: what is paid for makes no fleet impossible."""
        return []

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield instances that are not billed although no group pays for them."""
        payments = _Payments(room=[group.instances for group in self.groups])
        for allocation in fleet.all_allocations():
            name = allocation.candidate.option.name
            if allocation.fixed_instances > allocation.instances:
                yield f"more of '{name}' are paid for than there are"
            payers = tuple(
                p
                for p, group in enumerate(self.groups)
                if matches(allocation.candidate.option, group)
            )
            unpaid = allocation.fixed_instances - payments.pay(payers, allocation.fixed_instances)
            if unpaid > 0:
                yield f"nothing pays for {unpaid} of '{name}'"

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return True: paid columns are pinned, and paying for the other only makes it cheaper."""
        return True

    def pins(self, column: Column, demand_name: str) -> bool:
        """Return whether any group pays for the column."""
        return any(matches(column.capacity.option, group) for group in self.groups)

    @property
    def tells_places_apart(self) -> bool:
        """True: what is paid for stands somewhere."""
        return True


@dataclass(slots=True, kw_only=True)
class _Payments:
    """Who pays for what: groups by number, instances by the groups that may pay for them.

    A maximal flow by augmenting paths: whatever the order, all is paid for that can be.
    """

    room: list[int]
    paid: dict[tuple[tuple[int, ...], int], int] = field(default_factory=dict)

    def pay(self, payers: tuple[int, ...], instances: int) -> int:
        """Let these groups pay for so many more instances; return how many they can."""
        total = 0
        while total < instances:
            moved = self._augment(payers, instances - total, set())
            if not moved:
                break
            total += moved
        return total

    def _augment(self, payers: tuple[int, ...], instances: int, tried: set[int]) -> int:
        for p in payers:
            if p in tried:
                continue
            tried.add(p)
            moved = min(instances, self.room[p])
            self.room[p] -= moved
            if not moved:
                moved = self._make_room(p, instances, tried)
            if moved:
                self.paid[payers, p] = self.paid.get((payers, p), 0) + moved
                return moved
        return 0

    def _make_room(self, p: int, instances: int, tried: set[int]) -> int:
        """Have other groups pay for some of what group p pays for; return how many."""
        for (payers, payer), count in list(self.paid.items()):
            if payer == p and count:
                moved = self._augment(payers, min(instances, count), tried)
                if moved:
                    self.paid[payers, p] -= moved
                    return moved
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimum(Rule):
    """Σ_k x_k ≥ instances_p over the columns that match group p."""

    name = "minimum"
    weight = 3
    counts_instances = True
    names_options = True

    groups: tuple[InstanceGroup, ...]

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> Minimum | None:
        """Return the rule where a minimum is asked for."""
        groups = problem.constraints.minimum
        return cls(groups=groups) if groups else None

    def add_rows(self, program: IntegerProgram) -> None:
        """Add one row per group that any column matches."""
        for p, group in enumerate(self.groups):
            terms = [(program.x[k], 1.0) for k in _matching(program, group)]
            if terms:
                program.row(terms, GE, group.instances, f"minimum_{p}")

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return each minimum, lowered by one instance at a time."""
        return [self._clause(n, group) for n, group in enumerate(self.groups)]

    def _clause(self, n: int, group: InstanceGroup) -> Clause:
        def loosen(constraints: Constraints, step: int) -> Constraints:
            minimum = list(constraints.minimum)
            minimum[n] = replace(group, instances=group.instances - step)
            return replace(constraints, minimum=tuple(minimum))

        return Clause(
            text=f"the minimum of {group.label()}",
            steps=max(1, group.instances),
            loosen=loosen,
            remedy=lambda step: f"lower the minimum to {group.instances - step}",
        )

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield every minimum that the fleet falls short of."""
        for group in self.groups:
            there = sum(
                allocation.instances
                for allocation in fleet.all_allocations()
                if matches(allocation.candidate.option, group)
            )
            if there < group.instances:
                yield f"{there} instances are there of the minimum of {group.label()}"

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return True: the columns of a minimum are pinned."""
        return True

    @property
    def least_instances(self) -> int:
        """The largest minimum."""
        return max(group.instances for group in self.groups)

    def pins(self, column: Column, demand_name: str) -> bool:
        """Return whether any minimum is of this column."""
        return any(matches(column.capacity.option, group) for group in self.groups)

    @property
    def tells_places_apart(self) -> bool:
        """True: a minimum may be one of a place."""
        return True


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
                remedy=lambda step: f"ask for at least {least - step} replicas",
            )
        ]

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield every model with too few instances that can serve it."""
        for demand, allocations in zip(fleet.demands, fleet.allocations, strict=True):
            replicas = sum(a.instances for a in allocations if can_serve(a, demand))
            if replicas < self.least:
                yield f"model '{demand.name}' has {replicas} replicas where {self.least} are asked for"

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return True: one instance becomes at least one."""
        return True

    @property
    def least_instances(self) -> int:
        """All replicas may be of one column."""
        return self.least


def _matching(program: IntegerProgram, group: InstanceGroup) -> list[int]:
    return [
        k
        for k, column in enumerate(program.canonical.columns)
        if matches(column.capacity.option, group)
    ]
