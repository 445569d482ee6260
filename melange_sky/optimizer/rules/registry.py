"""Every kind of rule, and the rules of one problem: what the prunings ask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.optimizer.deadline import NEVER
from melange_sky.optimizer.problem.canonical import canonical_form, figure_problems
from melange_sky.optimizer.problem.question import Problem, SolveOptions
from melange_sky.optimizer.rules.attainment import Attainment
from melange_sky.optimizer.rules.groups import Fixed, Minimum
from melange_sky.optimizer.rules.instances import Limits, MinReplicas
from melange_sky.optimizer.rules.losses import Spare
from melange_sky.optimizer.rules.money import Budget, StayCloseToFleet
from melange_sky.optimizer.rules.option_types import MaxOptionTypes, MinOptionTypes
from melange_sky.optimizer.rules.places import CloudShare, RegionShare, SpotShare
from melange_sky.optimizer.rules.serving import Load, Serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from melange_sky.capacities import DeploymentOption
    from melange_sky.constraints import Constraints
    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.rules.base import Clause, FinishedFleet, Rule

RULES: tuple[type[Rule], ...] = (
    Serve,
    Load,
    Attainment,
    Limits,
    Fixed,
    Budget,
    Minimum,
    MinReplicas,
    RegionShare,
    CloudShare,
    SpotShare,
    Spare,
    StayCloseToFleet,
    MaxOptionTypes,
    MinOptionTypes,
)
"""Every kind of rule, in the order in which their rows enter the program."""

SHARE_RULES = frozenset(rule.name for rule in RULES if rule.speaks_of_shares)
"""Those that still bind once the instances are settled, by name."""

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """The rules that one problem asks for, and together what they break."""

    problem: Problem
    options: SolveOptions
    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> RuleSet:
        """Return the rules of a problem, in the registry's order."""
        by_kind = [rule.of(problem, options) for rule in RULES]
        rules = tuple(rule for rule in by_kind if rule is not None)
        return cls(problem=problem, options=options, rules=rules)

    def clauses(self, canonical: Canonical) -> list[Clause]:
        """Return all that could be given up: first what most likely does not matter."""
        bounds = self.instance_bounds(canonical)
        by_weight = sorted(self.rules, key=lambda rule: rule.weight)
        return [clause for rule in by_weight for clause in rule.clauses(canonical, bounds)]

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield, in words, every rule that a finished fleet breaks."""
        for rule in self.rules:
            yield from rule.violations(fleet)

    def instance_bounds(self, canonical: Canonical) -> list[int]:
        """Return, per column, the most instances that any best fleet could use.

        Enough to serve every bucket alone, once more for each spare, and what is asked for anyway.
        """
        usable = self.usable_fraction
        spare = max(rule.spare_instances for rule in self.rules)
        least = max(rule.least_instances for rule in self.rules)
        return [
            max(math.ceil(column.most_load / usable - _ROUNDING) + spare, least)
            for column in canonical.columns
        ]

    @property
    def usable_fraction(self) -> float:
        """The part of an instance's capacity that may be used, whatever goes wrong."""
        return (1 - self.problem.headroom) * math.prod(rule.usable_fraction for rule in self.rules)

    @property
    def only_serves(self) -> bool:
        """Whether every fleet that carries all requests in time keeps to the rules."""
        return all(isinstance(rule, Serve | Load | Attainment) for rule in self.rules)

    @property
    def goal_is_cost(self) -> bool:
        """Whether Σ price × instances is what is made least, so that bounds of it hold."""
        return not any(rule.changes_goal for rule in self.rules)

    @property
    def names_options(self) -> bool:
        """Whether any rule names options, so that a first look must leave none out."""
        return any(rule.names_options for rule in self.rules)

    @property
    def counts_instances(self) -> bool:
        """Whether any rule asks for a number of instances, whatever the rate."""
        return any(rule.counts_instances for rule in self.rules)

    @property
    def tells_options_apart(self) -> bool:
        """Whether an option may be wanted that another of its accelerator beats in all figures."""
        return any(rule.tells_options_apart for rule in self.rules)

    @property
    def tells_places_apart(self) -> bool:
        """Whether any rule speaks of clouds, regions or instances."""
        return any(rule.tells_places_apart for rule in self.rules)

    @property
    def spare_instances(self) -> int:
        """How many instances of a model may be lost at once."""
        return max(rule.spare_instances for rule in self.rules)

    def pins(self, canonical: Canonical, column: Column) -> bool:
        """Return whether any rule names this column, so that it stays whatever it costs."""
        name = canonical.demands[column.demand].name
        return any(rule.pins(column, name) for rule in self.rules)

    def is_needless(
        self, canonical: Canonical, column: Column, rivals: Sequence[tuple[Column, float]]
    ) -> bool:
        """Return whether no best fleet needs a column.

        `rivals` are other columns of its model, each with the number of its instances that carry
        what one of the column's does and cost less. Either enough of them may each take the place of
        all its instances under every rule, or each instance finds room on some rival: then one rule
        alone may stand against a fixed rival, and none may count types, of which there may be more.
        """
        needed = max(rule.rivals_needed for rule in self.rules)
        able = (True for rival, copies in rivals if self._may_replace(column, rival, copies))
        if len(list(islice(able, needed))) >= needed:
            return True
        if any(rule.counts_types for rule in self.rules):
            return False
        against = [(rival, self._against(column, rival, copies)) for rival, copies in rivals]
        return any(
            rule.finds_room(
                canonical, column, [rival for rival, those in against if those in ([], [rule])]
            )
            for rule in self.rules
        )

    def _may_replace(self, column: Column, rival: Column, copies: float) -> bool:
        """Return whether the rival may replace the column under every rule."""
        return all(rule.may_replace(column, rival, copies) for rule in self.rules)

    def _against(self, column: Column, rival: Column, copies: float) -> list[Rule]:
        """Return the rules under which the rival may not replace the column."""
        return [rule for rule in self.rules if not rule.may_replace(column, rival, copies)]

    def goal_beyond_cost(self, canonical: Canonical, instances: Sequence[int]) -> float:
        """Return what the goal counts besides the cost of these instances."""
        return sum(rule.goal_beyond_cost(canonical, instances) for rule in self.rules)


def checked_form(problem: Problem, deadline: Deadline = NEVER) -> Canonical:
    """Return a problem in canonical form, its figures looked at by the rules too.

    Raises InputError with everything that makes no sense, else as `canonical_form` does.
    """
    problems = [*figure_problems(problem)]
    for rule in RULES:
        problems += rule.input_problems(problem)
    if problems:
        raise InputError(*problems)
    return canonical_form(problem, deadline)


def constraints_among(constraints: Constraints, options: Sequence[DeploymentOption]) -> Constraints:
    """Return constraints as they are to be kept by a fleet of only these options.

    Raises InfeasibleError where no such fleet can keep some rule.
    """
    for rule in RULES:
        constraints = rule.among(constraints, options)
    return constraints


def rules_of(constraints: Constraints) -> RuleSet:
    """Return the rules that constraints alone ask for, whatever is served."""
    problem = Problem(demands=(), constraints=constraints)
    return RuleSet.of(problem, SolveOptions())
