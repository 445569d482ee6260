"""What fleets cost beside what is bought, within a box of purchases and at shadow prices of what lies between.

Bought for sure are a purchase's first units, which cost no more here; those that may be bought (`levels.py`) cost
shadow prices per unit used, each level its own; all beyond is rented. A purchase of one option covers its instances
one by one (`steps`); one of several (`pools`) is drawn by each at its own rate, the highest discount first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SURE = -1
"""The level of units that are bought for sure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Up to `width` instances of one option at `price` each: units of a purchase, `level` says which."""

    purchase: int
    option: int
    width: float
    price: float
    level: int = SURE


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A purchase that several options draw on; `draws`, (options), 0 where it covers none.

    `order` are the options it covers, highest discount first, `worths` what a unit saves there. Its units come in
    tiers, cheapest first: `widths`, `prices`, `levels`.
    """

    purchase: int
    draws: Floats
    order: NDArray[np.intp]
    worths: Floats
    widths: Floats
    prices: Floats
    levels: NDArray[np.intp]

    @classmethod
    def of(
        cls, purchase: int, draws: Floats, full: Floats, tiers: list[tuple[float, float, int]]
    ) -> Pool:
        """Return the pool with its options in order; a tier is its price, width and level."""
        able = np.flatnonzero(draws > 0)
        worths = full[able] / draws[able]
        order = np.argsort(-worths, kind="stable")
        tiers = sorted(tiers, key=lambda tier: tier[0])
        return cls(
            purchase=purchase,
            draws=draws,
            order=able[order],
            worths=worths[order],
            widths=np.array([width for _, width, _ in tiers]),
            prices=np.array([price for price, _, _ in tiers]),
            levels=np.array([level for _, _, level in tiers], dtype=np.intp),
        )

    def cover(self, rest: Floats) -> tuple[Floats, Floats]:
        """Return the units drawn, (fleets × tiers), and the shadow price at each fleet's margin.

        `rest`, (fleets × options), becomes what is not covered.
        """
        used = np.zeros(len(rest))
        short_of = np.full(len(rest), -1.0)
        for option, worth in zip(self.order.tolist(), self.worths.tolist(), strict=True):
            room = float(self.widths[self.prices < worth].sum()) - used
            asked = rest[:, option] * self.draws[option]
            drawn = np.minimum(asked, np.maximum(room, 0.0))
            short = (drawn < asked - 1e-12) & (short_of < 0)
            short_of[short] = worth
            used += drawn
            rest[:, option] -= drawn / self.draws[option]
        ends = np.cumsum(self.widths)
        last = np.minimum(np.searchsorted(ends, used - 1e-12), len(ends) - 1)
        begun = used[:, None] - (ends - self.widths)
        return np.clip(begun, 0.0, self.widths), np.maximum(short_of, self.prices[last])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """How fleets are paid: `rest`, (fleets × options), is rented, `steps` and `pools` tell what each covers.

    `steps` is (fleets × steps), of `pools` each (fleets × tiers); at `margins`, (fleets × pools), the shadow prices,
    each pool would cost the fleet the same.
    """

    rest: Floats
    steps: Floats
    pools: tuple[Floats, ...]
    margins: Floats

    def of(self, n: int) -> Bill:
        """Return how one of them is paid."""
        here = slice(n, n + 1)
        return Bill(
            rest=self.rest[here],
            steps=self.steps[here],
            pools=tuple(drawn[here] for drawn in self.pools),
            margins=self.margins[here],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """The whole of it: `free` instances (owned), then steps by price, then pools, then `full` per instance.

    Arrays have one place per option; steps stand in order of their prices.
    """

    free: Floats
    full: Floats
    steps: tuple[Step, ...] = ()
    pools: tuple[Pool, ...] = ()

    @property
    def base(self) -> Floats:
        """The instances that cost nothing whatever else runs."""
        base: Floats = self.free.copy()
        for step in self.steps:
            if step.price <= 0:
                base[step.option] += step.width
        return base

    def bill(self, fleets: Floats, steps: Floats | None = None) -> Bill:
        """Return how fleets, (fleets × options), are paid; `steps` says what these cover, None for all they can."""
        rest = np.maximum(fleets - self.free, 0.0)
        if steps is None:
            steps = np.zeros((len(fleets), len(self.steps)))
            for n, step in enumerate(self.steps):
                if step.price <= 0 or step.price < self.full[step.option]:
                    steps[:, n] = np.minimum(rest[:, step.option], step.width)
                    rest[:, step.option] -= steps[:, n]
        else:
            for n, step in enumerate(self.steps):
                rest[:, step.option] -= steps[:, n]
        margins = np.zeros((len(fleets), len(self.pools)))
        drawn = []
        for n, pool in enumerate(self.pools):
            tiers, margins[:, n] = pool.cover(rest)
            drawn.append(tiers)
        return Bill(rest=rest, steps=steps, pools=tuple(drawn), margins=margins)

    def used(self, fleet: Floats) -> dict[int, float]:
        """Return the units that a fleet, (options), uses of each purchase."""
        bill = self.bill(fleet[None])
        used: dict[int, float] = {}
        for step, taken in zip(self.steps, bill.steps[0].tolist(), strict=True):
            used[step.purchase] = used.get(step.purchase, 0.0) + taken
        for pool, drawn in zip(self.pools, bill.pools, strict=True):
            used[pool.purchase] = float(drawn.sum())
        return used

    def total(self, bill: Bill) -> Floats:
        """Return what fleets cost, (fleets): the rent and the shadow prices of what is used between."""
        prices = np.array([step.price for step in self.steps])
        total: Floats = bill.rest @ self.full + bill.steps @ np.maximum(prices, 0.0)
        for pool, drawn in zip(self.pools, bill.pools, strict=True):
            total += drawn @ pool.prices
        return total

    def cost(self, fleets: Floats) -> Floats:
        """Return what fleets cost, (fleets), each step covering all that it can."""
        return self.total(self.bill(fleets))

    def cut(self, margins: Floats) -> tuple[float, Floats]:
        """Return a line below the cost at shadow prices of the pools: a constant, and a price per instance rented."""
        constant, price = 0.0, self.full
        for pool, margin in zip(self.pools, margins.tolist(), strict=True):
            constant -= float(np.maximum(margin - pool.prices, 0.0) @ pool.widths)
            price = np.where(pool.draws > 0, np.minimum(price, pool.draws * margin), price)
        return constant, price
