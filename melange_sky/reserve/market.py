"""What is bought and asked for as arrays: purchases without needless ones, periods in groups that cost alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.reserve.levels import Box, Levels
from melange_sky.reserve.tariff import SURE, Pool, Step, Tariff
from melange_sky.reserve.together import Together

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from melange_sky.reserve.question import Purchase, Question, Scenario

    Floats = NDArray[np.float64]

_SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Periods of one scenario that differ in their rates alone, lowest rate first; none without traffic.

    `rents` and `owned` are (options), `active` (purchases), `rates_rps` and `periods` (periods here).
    """

    scenario: int
    mix: int
    rents: Floats
    owned: Floats
    active: NDArray[np.bool_]
    rates_rps: Floats
    periods: NDArray[np.intp]


@dataclass(frozen=True)
class Market:
    """A question's purchases that may pay, and its periods in groups.

    `kept` are the purchases' places in the question, what is owned and shared among models after them; arrays over
    purchases hold these alone.
    """

    question: Question

    @cached_property
    def kept(self) -> list[int]:
        """The purchases that could save more than they cost, and that none betters in everything."""
        purchases = self.question.purchases
        able = [k for k, p in enumerate(purchases) if p.most > 0 and self._may_pay(p)]
        kept = [k for k in able if not any(self._betters(o, k) for o in able if o != k)]
        return [*kept, *range(len(purchases), len(purchases) + len(self.question.shared))]

    def _may_pay(self, purchase: Purchase) -> bool:
        active = self.question.active(purchase)
        options = np.array(list(purchase.draws), dtype=np.intp)
        draws = np.array(list(purchase.draws.values()))
        saved = 0.0
        for scenario in self.question.scenarios:
            here = active & (scenario.rate_rps > 0)
            best = (scenario.rents[:, options] / draws).max(axis=1)
            saved = max(saved, float(best[scenario.price[here]].sum()))
        return purchase.usd < saved * self.question.hours_each * (1 - _SAME)

    def _betters(self, one: int, other: int) -> bool:
        """Return whether a purchase is as good as another in everything; of two alike, the first."""
        a, b = self.question.purchases[one], self.question.purchases[other]
        if dict(a.draws) != dict(b.draws) or a.most < b.most:
            return False
        if (self.question.active(b) & ~self.question.active(a)).any():
            return False
        pairs = ((a.usd, b.usd), (a.upfront_usd, b.upfront_usd))
        if any(mine > theirs for mine, theirs in pairs):
            return False
        alike = all(mine == theirs for mine, theirs in pairs) and a.most == b.most
        alike &= bool((self.question.active(a) == self.question.active(b)).all())
        return not alike or one < other

    @cached_property
    def purchases(self) -> list[Purchase]:
        """The purchases that may pay, then what is shared."""
        every = (*self.question.purchases, *self.question.shared)
        return [every[k] for k in self.kept]

    @cached_property
    def shared(self) -> NDArray[np.bool_]:
        """Which of them are there anyway, (purchases)."""
        found: NDArray[np.bool_] = np.array(self.kept, dtype=np.intp) >= len(
            self.question.purchases
        )
        return found

    @cached_property
    def buyable(self) -> list[int]:
        """The purchases of which more or fewer may be bought."""
        found: list[int] = np.flatnonzero(self.root.high > self.root.low).tolist()
        return found

    @property
    def is_together(self) -> bool:
        """Whether fleets serve several models."""
        return any(isinstance(mix, Together) for mix in self.question.mixes)

    @cached_property
    def usd(self) -> Floats:
        """What a unit costs, (purchases)."""
        return np.array([p.usd for p in self.purchases])

    @cached_property
    def upfront(self) -> Floats:
        """What of that is paid at once, (purchases)."""
        return np.array([p.upfront_usd for p in self.purchases])

    @cached_property
    def draws(self) -> Floats:
        """Units that a running instance draws, (purchases × options)."""
        draws = np.zeros((len(self.purchases), len(self.question.options)))
        for k, purchase in enumerate(self.purchases):
            draws[k, list(purchase.draws)] = list(purchase.draws.values())
        return draws

    @cached_property
    def alone(self) -> list[int | None]:
        """The option of a purchase of whole instances of one option, None for others."""
        return [
            next(iter(p.draws)) if list(p.draws.values()) == [1.0] else None for p in self.purchases
        ]

    @cached_property
    def active(self) -> NDArray[np.bool_]:
        """When each counts, (purchases × periods)."""
        rows = [self.question.active(p) for p in self.purchases]
        return np.array(rows, dtype=bool).reshape(len(rows), self.question.periods)

    @cached_property
    def weights(self) -> Floats:
        """The scenarios' weights, adding up to 1."""
        weights = np.array([s.weight for s in self.question.scenarios])
        parts: Floats = weights / weights.sum()
        return parts

    @cached_property
    def groups(self) -> list[Group]:
        """The periods of all scenarios in groups."""
        return [
            group
            for s, scenario in enumerate(self.question.scenarios)
            for group in self._groups(s, scenario)
        ]

    def _groups(self, s: int, scenario: Scenario) -> list[Group]:
        question, owned = self.question, self.question.owned_units()
        alike: dict[tuple[object, ...], list[int]] = {}
        for t in np.flatnonzero(scenario.rate_rps > 0).tolist():
            key = (
                int(question.mix[t]),
                int(scenario.price[t]),
                self.active[:, t].tobytes(),
                owned[t].tobytes(),
            )
            alike.setdefault(key, []).append(t)
        groups = []
        for members in sorted(alike.values()):
            periods = np.array(members, dtype=np.intp)
            periods = periods[np.argsort(scenario.rate_rps[periods], kind="stable")]
            groups.append(
                Group(
                    scenario=s,
                    mix=int(question.mix[periods[0]]),
                    rents=scenario.rents[scenario.price[periods[0]]],
                    owned=owned[periods[0]],
                    active=self.active[:, periods[0]],
                    rates_rps=scenario.rate_rps[periods],
                    periods=periods,
                )
            )
        return groups

    @cached_property
    def root(self) -> Box:
        """All purchases: no more of whole instances than serve the highest rate alone; all that is shared."""
        most = np.array([float(p.most) for p in self.purchases])
        peaks = np.zeros(len(self.question.options))
        for g in self.groups:
            peaks = np.maximum(peaks, g.rates_rps[-1] * self.question.mixes[g.mix].most)
        for k, option in enumerate(self.alone):
            if option is not None:
                most[k] = min(most[k], np.ceil(peaks[option] - _SAME))
        upfront = self.upfront
        with np.errstate(divide="ignore", invalid="ignore"):
            paid = np.where(upfront > 0, self.question.budget_upfront_usd / upfront, np.inf)
        high = np.minimum(most, np.floor(paid + _SAME))
        return Box(low=np.where(self.shared, high, 0.0), high=high)

    def tariff(self, group: Group, levels: Levels, prices: Floats | None = None) -> Tariff:
        """Return what fleets cost in a group beside a box, at shadow prices, (levels), of what lies between."""
        prices = np.zeros(len(levels.purchase)) if prices is None else prices
        steps: list[Step] = []
        tiers: dict[int, list[tuple[float, float, int]]] = {}
        parts = [(k, SURE, units, 0.0) for k, units in enumerate(levels.box.low.tolist()) if units]
        between = zip(levels.purchase.tolist(), levels.width.tolist(), prices.tolist(), strict=True)
        parts += [(k, n, width, price) for n, (k, width, price) in enumerate(between)]
        for k, level, width, price in parts:
            if not group.active[k]:
                continue
            option = self.alone[k]
            if option is None:
                tiers.setdefault(k, []).append((price, width, level))
            elif level == SURE or price < group.rents[option]:
                steps.append(Step(purchase=k, option=option, width=width, price=price, level=level))
        steps.sort(key=lambda step: step.price)
        pools = [Pool.of(k, self.draws[k], group.rents, tiers[k]) for k in self._drawn(tiers)]
        return Tariff(free=group.owned, full=group.rents, steps=tuple(steps), pools=tuple(pools))

    def _drawn(self, pools: Iterable[int]) -> list[int]:
        """Return pools in the order in which they are drawn on: what is owned before what discounts any use."""
        return sorted(pools, key=lambda k: (not self.shared[k], k))

    def beside(self, group: Group, units: Floats) -> Tariff:
        """Return what fleets cost in a group beside a purchase."""
        return self.tariff(group, Levels.of(Box(low=units, high=units)))

    def tariffs_by_period(self, units: Floats, scenario: int) -> list[Tariff]:
        """Return the tariff of every period of a scenario; groups share one. Periods without traffic have their own."""
        question, asked = self.question, self.question.scenarios[scenario]
        found: list[Tariff | None] = [None] * question.periods
        for group in self.groups:
            if group.scenario == scenario:
                tariff = self.beside(group, units)
                for t in group.periods.tolist():
                    found[t] = tariff
        owned = question.owned_units()
        idle: dict[tuple[int, bytes, bytes], Tariff] = {}
        for t in range(question.periods):
            if found[t] is None:
                key = (int(asked.price[t]), self.active[:, t].tobytes(), owned[t].tobytes())
                if key not in idle:
                    alone = Group(
                        scenario=scenario,
                        mix=int(question.mix[t]),
                        rents=asked.rents[asked.price[t]],
                        owned=owned[t],
                        active=self.active[:, t],
                        rates_rps=np.zeros(1),
                        periods=np.array([t], dtype=np.intp),
                    )
                    idle[key] = self.beside(alone, units)
                found[t] = idle[key]
        return [tariff for tariff in found if tariff is not None]
