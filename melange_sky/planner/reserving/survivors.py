"""Options that no best purchase and no best fleet needs are left out before the search.

k instances of option A make one of B needless where they carry at least as much in every bucket of every mix, at
every level of attainment, and rented for the hour cost no more than an hour of B at the lowest price it can have then,
committed or rented, whichever prices hold. Under rules, as many A as the rules ask for must each be able to stand
for B by every rule; what a rule names stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer import NEVER, SolveOptions
from melange_sky.optimizer.rules.attainment import Attainment
from melange_sky.optimizer.rules.groups import matches
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.rules.serving import Load, Serve
from melange_sky.optimizer.search.levels import checked_levels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from melange_sky.capacities import OptionCapacity
    from melange_sky.commitments import Owned
    from melange_sky.constraints import InstanceGroup
    from melange_sky.optimizer import Demand
    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.planner.reserving.material import Mix

    Floats = NDArray[np.float64]

_SLACK = 1e-12
MOST_COPIES = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HourPrices:
    """What an hour of an option costs: `rented`, (price rows), and `committed` at its cheapest term, inf without."""

    rented: Floats
    committed: float = math.inf


def survivors(
    mixes: Sequence[Mix], prices: Mapping[str, HourPrices], owned: Sequence[Owned]
) -> tuple[Mix, ...]:
    """Return mixes without needless options; `prices` are by name.

    Of an owned instance type the option that carries most of the demand's requests is kept, and it alone.
    """
    names = list(prices)
    rates = {name: _carried(mixes, name) for name in names}
    rules = _Rules(mixes)
    kept: list[str] = []
    own = {name for name in names if _is_owned(mixes, name, owned)}
    for b, name in enumerate(names):
        rivals = [r for r in names if r != name and rules.model[r] == rules.model[name]]
        if name in own:
            same = [
                r
                for r in own
                if _type(mixes, r) == _type(mixes, name) and rules.model[r] == rules.model[name]
            ]
            best = max(same, key=lambda r: (rates[r][0].sum(), -names.index(r)))
            if name == best:
                kept.append(name)
            continue
        able = [
            (r, copies)
            for r in rivals
            if (copies := _copies(r, name, rates, prices, names.index(r) < b)) is not None
        ]
        if not rules.need_none(name, able):
            kept.append(name)
    chosen = set(kept)
    return tuple(_only(mix, chosen) for mix in mixes)


class _Rules:
    """What the rules of the mixes say of options, by their names; most say nothing."""

    def __init__(self, mixes: Sequence[Mix]) -> None:
        self._sets = [RuleSet.of(mix.problem, SolveOptions()) for mix in mixes]
        self.model = {name: model for mix in mixes for name, (model, _) in mix.keys.items()}
        self.needed = max(rule.rivals_needed for rules in self._sets for rule in rules.rules)
        self._columns: list[dict[str, Column]] = []
        self._canonical: list[Canonical | None] = []
        self._apart = [
            any(not isinstance(rule, Serve | Load | Attainment) for rule in rules.rules)
            for rules in self._sets
        ]
        for mix, apart in zip(mixes, self._apart, strict=True):
            forms = checked_levels(mix.problem, NEVER)[:1] if apart else []
            names = {key: name for name, key in mix.keys.items()}
            self._canonical.append(forms[0].canonical if forms else None)
            self._columns.append(
                {
                    names[form.canonical.demands[c.demand].name, c.name]: c
                    for form in forms
                    for c in form.canonical.columns
                }
            )

    def need_none(self, name: str, rivals: Sequence[tuple[str, float]]) -> bool:
        """Return whether no rule wants an option for which so many copies of each rival can stand."""
        named = self._named(name)
        able = [
            (rival, copies)
            for rival, copies in rivals
            if not named or (copies == 1 and named <= self._named(rival))
        ]
        if not any(name in columns for columns in self._columns):
            return len(able) >= self.needed
        return all(
            rules.is_needless(
                canonical,
                columns[name],
                [(columns[rival], copies) for rival, copies in able if rival in columns],
            )
            for rules, canonical, columns in zip(
                self._sets, self._canonical, self._columns, strict=True
            )
            if canonical is not None and name in columns
        )

    def _named(self, name: str) -> frozenset[InstanceGroup]:
        """Return the groups of a minimum that an option is one of."""
        option = next((c[name].capacity.option for c in self._columns if name in c), None)
        groups = {g for rules in self._sets for g in rules.problem.constraints.minimum}
        return frozenset(g for g in groups if option is not None and matches(option, g))


def _copies(
    a: str,
    b: str,
    rates: Mapping[str, tuple[Floats, Floats]],
    prices: Mapping[str, HourPrices],
    is_earlier: bool,
) -> float | None:
    """Return how many instances of `a`, rented, make one of `b` needless, None where none do."""
    ours, theirs = rates[a][1], rates[b][1]
    served = theirs > 0
    if not served.any():
        return 1.0
    with np.errstate(divide="ignore"):
        ratio = float((theirs[served] / ours[served]).max())
    if not ratio <= MOST_COPIES:
        return None
    copies = max(1.0, float(np.ceil(ratio - _SLACK)))
    cost = copies * prices[a].rented
    least = np.minimum(prices[b].rented, prices[b].committed)
    if copies > 1:  # at equal cost the smaller ones, of which fewer may run
        return copies if (cost <= least * (1 + _SLACK)).all() else None
    is_cheaper = (cost < least * (1 - _SLACK)).any()
    return copies if (cost <= least).all() and (is_cheaper or is_earlier) else None


def _carried(mixes: Sequence[Mix], name: str) -> tuple[Floats, Floats]:
    """Return what an instance carries: in time, by bucket of all mixes, and so at every level besides."""
    plain: list[float] = []
    levels: list[float] = []
    for mix in mixes:
        model = next(m.keys[name][0] for m in mixes if name in m.keys)
        option = mix.named.get(name)
        demand = next(d for d in mix.problem.demands if d.name == model)
        attained = _levels(demand)
        for i, j in demand.workload.buckets():
            cell = None if option is None else option.cells[i][j]
            rate = 0.0 if cell is None else (cell.max_rate_rps or 0.0)
            plain.append(rate)
            levels.append(rate)
            levels += [0.0 if cell is None else (cell.at(level) or 0.0) for level in attained]
    return np.array(plain), np.array(levels)


def _levels(demand: Demand) -> list[float]:
    return sorted(
        {
            level
            for candidate in demand.options
            for i, j in demand.workload.buckets()
            for level, _ in candidate.cells[i][j].levels
        }
    )


def _find(mixes: Sequence[Mix], name: str) -> OptionCapacity:
    return next(mix.named[name] for mix in mixes if name in mix.named)


def _type(mixes: Sequence[Mix], name: str) -> tuple[str, str, str]:
    offer = _find(mixes, name).option.offer
    return ("", "", name) if offer is None else (offer.cloud, offer.region, offer.instance_type)


def _is_owned(mixes: Sequence[Mix], name: str, owned: Sequence[Owned]) -> bool:
    if _find(mixes, name).option.use_spot:
        return False
    cloud, region, instance_type = _type(mixes, name)
    return any(
        (own.cloud, own.instance_type) == (cloud, instance_type) and own.region in ("", region)
        for own in owned
    )


def _only(mix: Mix, names: set[str]) -> Mix:
    """Return a mix with these options alone."""
    kept = {key for name, key in mix.keys.items() if name in names}
    demands = tuple(
        replace(
            demand,
            options=tuple(c for c in demand.options if (demand.name, c.option.name) in kept),
        )
        for demand in mix.problem.demands
    )
    return replace(mix, problem=replace(mix.problem, demands=demands))
