"""The fleets that serve one mix at one attainment level and keep to every rule of the plan.

Shares and attainment grow with the rate (`ruled_cone.py`). The others do not: limits, least replicas, option types
and minimums speak of whole instances, and with spare ones every loss must leave enough. The cheapest fleet is that
of an integer program with the optimizer's own rows of those rules and a row for each worth that matters, of the
whole fleet or of what a loss leaves:

    worth · (n − lost) ≥ rate

Rows are added until the fleet found serves the rate, as a linear program and the rules' own checks say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.problem.question import SolveOptions
from melange_sky.optimizer.rules.attainment import Attainment
from melange_sky.optimizer.rules.build import build_program
from melange_sky.optimizer.rules.groups import Fixed, Minimum
from melange_sky.optimizer.rules.instances import Limits, MinReplicas
from melange_sky.optimizer.rules.losses import Spare
from melange_sky.optimizer.rules.money import Budget, StayCloseToFleet
from melange_sky.optimizer.rules.registry import SHARE_RULES, RuleSet
from melange_sky.optimizer.rules.serving import Load, Serve
from melange_sky.reserve.linear_rules import LinearRules
from melange_sky.reserve.ruled_cone import RuledCone, column_places

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.rules.base import Rule
    from melange_sky.optimizer.search.levels import Levelled
    from melange_sky.reserve.ruled_cone import Place

    Floats = NDArray[np.float64]

_NOT_OF_INSTANCES = (Load, Spare, Fixed, Budget, StayCloseToFleet)
"""Rules beside those of shares that are no rules of whole instances: kept by worths, or not by a fleet alone."""

_LINEAR = (Limits, MinReplicas, Minimum)
"""Rules whose rows are of instances alone, with coefficients that are not negative."""

_AFTER_LOSS = frozenset({Serve.name, Attainment.name})
"""What must hold once instances are lost: shares per place are a rule for the whole fleet."""

Lost = tuple[tuple[int, int], ...]
"""Instances lost at once: (column, how many)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Short:
    """What a fleet is short of: the worth that says so, and after which loss."""

    worth: Floats
    lost: Lost


class RuledLevel:
    """Which fleets serve what at one level, under the rules. Fleets are arrays, one place per option."""

    def __init__(
        self, form: Levelled, places: Mapping[Place, int], options: int, deadline: Deadline
    ) -> None:
        """Take a problem at one level, made at the highest rate asked for."""
        self.form = form
        rules = RuleSet.of(form.problem, SolveOptions()).rules
        self.spare = max(rule.spare_instances for rule in rules)
        self.least = max(rule.least_instances for rule in rules)
        self.rules: tuple[Rule, ...] = tuple(
            rule
            for rule in rules
            if not rule.speaks_of_shares and not isinstance(rule, _NOT_OF_INSTANCES)
        )
        self.columns = column_places(form.canonical, places)
        self.cone = RuledCone(form, SHARE_RULES, self.columns, options, deadline)
        self.after = self.cone
        if self.spare and any(r.speaks_of_shares and r.name not in _AFTER_LOSS for r in rules):
            self.after = RuledCone(form, _AFTER_LOSS, self.columns, options, deadline)
        self._rates: dict[bytes, float] = {}

    def until(self, deadline: Deadline) -> None:
        """Hold all that is asked from now on to a deadline."""
        self.cone.deadline = self.after.deadline = deadline

    @property
    def only_shares(self) -> bool:
        """Whether of one model no rule speaks of whole instances, so that the cone says all."""
        return not self.rules and not self.spare and len(self.cone.of_models) == 1

    def rate(self, fleet: Floats) -> float:
        """Return the highest rate at which a fleet keeps to all rules, 0 where it does at none. Raises TimeUpError."""
        key = fleet.tobytes()
        if key not in self._rates:
            self._rates[key] = self._rate(fleet)
        return self._rates[key]

    def _rate(self, fleet: Floats) -> float:
        if not self.keeps_rules(fleet):
            return 0.0
        rates = [self.cone.rate(fleet)]
        rates += [self.after.rate(self.left(fleet, lost)) for lost in self.losses(fleet)]
        return min(rates)

    def short(self, fleet: Floats, rate_rps: float) -> Iterator[list[Short]]:
        """Yield what a fleet is short of at a rate, the whole fleet first: by known worths, then by linear programs.

        Raises TimeUpError.
        """
        cases: list[tuple[Lost, Floats, RuledCone]] = [((), fleet, self.cone)]
        cases += [(lost, self.left(fleet, lost), self.after) for lost in self.losses(fleet)]
        for highest in (RuledCone.at_most, RuledCone.rate):
            yield [
                Short(worth=cone.least_worth(left), lost=lost)
                for lost, left, cone in cases
                if highest(cone, left) < rate_rps
            ]

    def keeps_rules(self, fleet: Floats) -> bool:
        """Return whether a fleet keeps to the rules about whole instances."""
        return not self.rules or self.linear.keeps(np.round(fleet[self.columns]))

    def with_idle(self, fleet: Floats, paid: Floats) -> Floats:
        """Return a fleet with as many of what is paid for anyway as the rules let stand by.

        More instances serve no less, whatever is lost; only rules that count instances may have no room for them.
        """
        more: Floats = fleet.copy()
        for k, option in enumerate(self.columns.tolist()):
            if paid[option] > more[option]:
                room = self.linear.room(more[self.columns], k)
                more[option] += min(paid[option] - more[option], room)
        return more

    def losses(self, fleet: Floats) -> Iterator[Lost]:
        """Yield every way to lose the spare instances of one model, or all of it where it has fewer."""
        if not self.spare:
            return
        canonical = self.form.canonical
        for demand, buckets in enumerate(canonical.buckets):
            counts = {
                k: round(float(fleet[self.columns[k]]))
                for k in canonical.of_demand(demand)
                if fleet[self.columns[k]] > 0
            }
            size = min(self.spare, sum(counts.values()))
            if not buckets or not size:
                continue
            for drawn in combinations_with_replacement(sorted(counts), size):
                lost = tuple((k, drawn.count(k)) for k in sorted(set(drawn)))
                if all(n <= counts[k] for k, n in lost):
                    yield lost

    def left(self, fleet: Floats, lost: Lost) -> Floats:
        """Return what a loss leaves of a fleet."""
        left: Floats = fleet.copy()
        for k, n in lost:
            left[self.columns[k]] -= min(n, left[self.columns[k]])
        return left

    def all_losses(self) -> Iterator[Lost]:
        """Yield every way to lose the spare instances of one model, whichever there are."""
        canonical = self.form.canonical
        for demand in range(len(canonical.demands)):
            columns = canonical.of_demand(demand)
            for drawn in combinations_with_replacement(columns, self.spare):
                yield tuple((k, drawn.count(k)) for k in sorted(set(drawn)))

    def most_at(self, rate_rps: float) -> Floats:
        """Return how many instances of each column a rate has use for, (columns)."""
        own = self.cone.most[self.columns] * rate_rps
        most = np.where(own > 0, np.ceil(own - 1e-9) + self.spare, 0.0)
        floor = np.where(own > 0, float(self.least), 0.0)
        kept: Floats = np.max((most, floor, self._pinned), axis=0)
        return kept

    @cached_property
    def _pinned(self) -> Floats:
        """The least instances of columns that a rule names, (columns)."""
        canonical = self.form.canonical
        names = [canonical.demands[column.demand].name for column in canonical.columns]
        named = [
            any(rule.pins(column, name) for rule in self.rules)
            for column, name in zip(canonical.columns, names, strict=True)
        ]
        pinned: Floats = np.array(named) * float(self.least)
        return pinned

    @cached_property
    def linear(self) -> LinearRules:
        """The rules about whole instances as numbers, by column."""
        return LinearRules.of_form(self.form, self.rules, _LINEAR)

    def program(self) -> IntegerProgram:
        """Return a fresh integer program of the rules about whole instances, without a goal."""
        program = build_program(
            self.form.canonical,
            self.form.problem,
            SolveOptions(),
            only=frozenset(rule.name for rule in self.rules),
        )
        for x in program.x:
            program.lp.whole[x] = True
        return program
