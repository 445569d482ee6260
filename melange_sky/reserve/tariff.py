"""What fleets cost beside what is bought, within a box of purchases and at shadow prices of what lies between.

Bought for sure are a purchase's first `low` units, which cost no more here; the next, up to `high`, cost a
shadow price per unit used; all beyond is rented. A purchase of one option covers its instances one by one
(`steps`); one of several (`pools`) is drawn by each at its own rate, the highest discount first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A purchase of one option: the first `low` units free, the next `width` at `price` each."""

    purchase: int
    option: int
    low: float
    width: float
    price: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A purchase that several options draw on; `draws`, (options), 0 where it covers none.

    `order` are the options it covers, highest discount first, `worths` what a unit saves there.
    """

    purchase: int
    draws: Floats
    order: NDArray[np.intp]
    worths: Floats
    low: float
    high: float
    price: float

    @classmethod
    def of(
        cls, purchase: int, draws: Floats, full: Floats, box: tuple[float, float], price: float
    ) -> Pool:
        """Return the pool with its options in order."""
        able = np.flatnonzero(draws > 0)
        worths = full[able] / draws[able]
        order = np.argsort(-worths, kind="stable")
        return cls(
            purchase=purchase,
            draws=draws,
            order=able[order],
            worths=worths[order],
            low=box[0],
            high=box[1],
            price=price,
        )

    def cover(self, rest: Floats) -> tuple[Floats, Floats]:
        """Return the units drawn by what runs, (fleets), and the shadow price at each fleet's margin.

        `rest`, (fleets × options), becomes what is not covered.
        """
        used = np.zeros(len(rest))
        margin = np.full(len(rest), -1.0)
        for option, worth in zip(self.order.tolist(), self.worths.tolist(), strict=True):
            room = (self.high if worth > self.price else self.low) - used
            asked = rest[:, option] * self.draws[option]
            drawn = np.minimum(asked, np.maximum(room, 0.0))
            short = (drawn < asked - 1e-12) & (margin < 0)
            margin[short] = worth
            used += drawn
            rest[:, option] -= drawn / self.draws[option]
        idle = np.where(used < self.low, 0.0, self.price)
        return used, np.where(margin < 0, idle, margin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """The whole of it: `free` instances (owned), then steps by price, then pools, then `full` per instance.

    Arrays have one place per option; steps of an option stand in order of their prices.
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
            base[step.option] += step.low + (step.width if step.price <= 0 else 0.0)
        return base

    def bill(self, fleets: Floats) -> tuple[Floats, dict[int, Floats], Floats]:
        """Return for fleets, (fleets × options), what is rented, (fleets × options), each purchase's used units, margins.

        Margins, (fleets × pools), are the shadow prices at which each pool would cost the fleet the same.
        """
        rest = np.maximum(fleets - self.free, 0.0)
        used: dict[int, Floats] = {}
        for step in self.steps:
            room = step.low + (step.width if step.price < self.full[step.option] else 0.0)
            taken = np.minimum(rest[:, step.option], room)
            used[step.purchase] = taken
            rest[:, step.option] -= taken
        margins = np.zeros((len(fleets), len(self.pools)))
        for n, pool in enumerate(self.pools):
            used[pool.purchase], margins[:, n] = pool.cover(rest)
        return rest, used, margins

    def cost(self, fleets: Floats) -> Floats:
        """Return what fleets cost, (fleets): the rent and the shadow prices of what is used between."""
        rest, used, _ = self.bill(fleets)
        total: Floats = rest @ self.full
        for step in self.steps:
            total += step.price * np.maximum(used[step.purchase] - step.low, 0.0)
        for pool in self.pools:
            total += pool.price * np.maximum(used[pool.purchase] - pool.low, 0.0)
        return total

    def cut(self, margins: Floats) -> tuple[float, Floats]:
        """Return a line below the cost at shadow prices of the pools: a constant, and a price per instance rented."""
        constant, price = 0.0, self.full
        for pool, margin in zip(self.pools, margins.tolist(), strict=True):
            if margin > pool.price:
                constant -= (margin - pool.price) * pool.high + pool.price * pool.low
            else:
                constant -= margin * pool.low
            price = np.where(pool.draws > 0, np.minimum(price, pool.draws * margin), price)
        return constant, price
