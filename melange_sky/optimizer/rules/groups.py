"""Rules about groups of instances: those already paid for, and those asked for as a minimum."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError
from melange_sky.names.accelerators import names_of
from melange_sky.optimizer.program.linear import GE, LE
from melange_sky.optimizer.rules.base import Clause, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from melange_sky.capacities import DeploymentOption
    from melange_sky.constraints import Constraints, InstanceGroup
    from melange_sky.offers import Offer
    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.program.linear import Terms
    from melange_sky.optimizer.rules.base import FinishedFleet


@dataclass(frozen=True, slots=True, kw_only=True)
class _GroupRule(Rule):
    """A rule about groups of instances: it names options, and keeps those that it names."""

    names_options = True
    spans_models = True

    groups: tuple[InstanceGroup, ...]

    @staticmethod
    @abstractmethod
    def asked_for(constraints: Constraints) -> tuple[InstanceGroup, ...]:
        """Return the groups that constraints hold for the rule."""

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> _GroupRule | None:
        """Return the rule where any group is asked for."""
        groups = cls.asked_for(problem.constraints)
        return cls(groups=groups) if groups else None

    @classmethod
    def input_problems(cls, problem: Problem) -> Iterable[str]:
        """Yield each group that no option is one of."""
        options = [capacity.option for demand in problem.demands for capacity in demand.options]
        for group in cls.asked_for(problem.constraints):
            if group.instances > 0 and not _any_of(options, group):
                yield (
                    f"{cls.name}: no candidate option is one of {group.label()}; "
                    "check accelerators and infra, or remove it"
                )

    def pins(self, column: Column, demand_name: str) -> bool:
        """Return whether the column is one of any group."""
        return any(matches(column.capacity.option, group) for group in self.groups)

    @property
    def tells_places_apart(self) -> bool:
        """True: a group may be one of a place."""
        return True


class Fixed(_GroupRule):
    """Σ_p f_pk ≤ nodes_k × x_k, Σ_k f_pk ≤ instances_p over paid groups p: paid instances cost nothing."""

    __slots__ = ()

    name = "fixed"
    changes_goal = True

    @staticmethod
    def asked_for(constraints: Constraints) -> tuple[InstanceGroup, ...]:
        """Return what is paid for."""
        return constraints.fixed

    @classmethod
    def among(cls, constraints: Constraints, options: Sequence[DeploymentOption]) -> Constraints:
        """Return constraints without what is paid for of other options: it serves nothing here."""
        fixed = tuple(group for group in constraints.fixed if _any_of(options, group))
        return replace(constraints, fixed=fixed)

    @classmethod
    def untied(cls, constraints: Constraints) -> Constraints | None:
        """Return None where anything is paid for, which makes fleets cheaper."""
        return None if constraints.fixed else constraints

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
            terms = [*terms, (program.x[k], -float(program.canonical.columns[k].nodes))]
            program.row(terms, LE, 0, f"fixed_pays_only_used_option_{k}")

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return none: what is paid for makes no fleet impossible."""
        return []

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield instances that are not billed although no group pays for them."""
        payments = _Payments(room=[group.instances for group in self.groups])
        for allocation in fleet.all_allocations():
            name, nodes = allocation.candidate.option.name, allocation.candidate.option.nodes
            if allocation.fixed_instances > allocation.instances * nodes:
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


class Minimum(_GroupRule):
    """Σ_k nodes_k × x_k ≥ instances_p over the columns that match group p."""

    __slots__ = ()

    name = "minimum"
    weight = 3
    counts_instances = True

    @staticmethod
    def asked_for(constraints: Constraints) -> tuple[InstanceGroup, ...]:
        """Return the minimums."""
        return constraints.minimum

    @classmethod
    def among(cls, constraints: Constraints, options: Sequence[DeploymentOption]) -> Constraints:
        """Return the constraints; InfeasibleError for a minimum of other options."""
        for group in constraints.minimum:
            if group.instances > 0 and not _any_of(options, group):
                raise InfeasibleError(f"the minimum of {group.label()} needs another accelerator")
        return constraints

    @classmethod
    def untied(cls, constraints: Constraints) -> Constraints:
        """Return constraints without minimum."""
        return replace(constraints, minimum=())

    def add_rows(self, program: IntegerProgram) -> None:
        """Add one row per group that any column matches."""
        for p, group in enumerate(self.groups):
            terms = [
                (program.x[k], float(program.canonical.columns[k].nodes))
                for k in _matching(program, group)
            ]
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
                allocation.instances * allocation.candidate.option.nodes
                for allocation in fleet.all_allocations()
                if matches(allocation.candidate.option, group)
            )
            if there < group.instances:
                yield f"the fleet has {there} instances of the minimum of {group.label()}"

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return True: the columns of a minimum are pinned."""
        return True

    @property
    def least_instances(self) -> int:
        """The largest minimum."""
        return max(group.instances for group in self.groups)


def matches(option: DeploymentOption, group: InstanceGroup) -> bool:
    """Return whether the instances of `option`, of which a replica may take several, are some of the group's."""
    offer = option.offer
    if not _is_of(option.accelerator, option.accelerator_count, group):
        return False
    narrowed = group.cloud, group.region, group.instance_type, group.zone
    if offer is None:
        return not any(narrowed)
    zone = None if option.reserved is None else option.reserved.zone
    return all(
        wanted in (None, there)
        for wanted, there in zip(
            narrowed, (offer.cloud, offer.region, offer.instance_type, zone), strict=True
        )
    )


def matches_offer(offer: Offer, group: InstanceGroup) -> bool:
    """Return whether instances of an offer, in whatever zone, are some of the group's."""
    return _is_of(offer.accelerator, offer.accelerator_count, group) and all(
        wanted in (None, there)
        for wanted, there in (
            (group.cloud, offer.cloud),
            (group.region, offer.region),
            (group.instance_type, offer.instance_type),
        )
    )


def _is_of(accelerator: str, count: float, group: InstanceGroup) -> bool:
    named = accelerator.casefold() in map(str.casefold, names_of(group.accelerator))
    return named and group.accelerator_count in (None, count)


def _matching(program: IntegerProgram, group: InstanceGroup) -> list[int]:
    return [
        k
        for k, column in enumerate(program.canonical.columns)
        if matches(column.capacity.option, group)
    ]


def _any_of(options: Iterable[DeploymentOption], group: InstanceGroup) -> bool:
    return any(matches(option, group) for option in options)
