"""One model put into canonical form once, to be planned at many prices on limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.optimizer.search.levels import Levelled, checked_levels

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.names.limits import LimitKey
    from melange_sky.optimizer.problem.question import Problem, SolveOptions

Limits = tuple[tuple["LimitKey", int], ...]
Prices = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repriced:
    """One model at each level of attainment, in canonical form, to be planned at many prices."""

    forms: tuple[Levelled, ...]

    @classmethod
    def of(cls, part: Problem, options: SolveOptions) -> Repriced:
        """Return the levels at which every bucket can be served; raise as `checked_levels` does."""
        return cls(forms=tuple(checked_levels(part, options.deadline)))

    def at(self, limits: Limits, prices: Prices) -> list[Levelled]:
        """Return the levels with these prices on top of the options' own."""
        return [_surcharged(form, limits, prices) for form in self.forms]


def _surcharged(form: Levelled, limits: Limits, prices: Prices) -> Levelled:
    (demand,) = form.problem.demands
    dearer: dict[str, OptionCapacity] = {}
    for capacity in demand.options:
        option = capacity.option
        more = sum(p * option.units(key) for p, (key, _) in zip(prices, limits, strict=True))
        price = replace(option, price_usd_per_hour=option.price_usd_per_hour + more)
        dearer[option.name] = replace(capacity, option=price) if more else capacity
    priced = replace(demand, options=tuple(dearer.values()))
    return Levelled(
        problem=replace(form.problem, demands=(priced,)),
        canonical=replace(
            form.canonical,
            demands=(priced,),
            columns=tuple(replace(c, capacity=dearer[c.name]) for c in form.canonical.columns),
        ),
    )
