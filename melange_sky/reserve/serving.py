"""Which fleets serve one mix of request sizes, and the cheapest that do at any prices and rate.

With the mix fixed, what a fleet needs grows in proportion to the rate: fleets that serve, instances in
fractions, form a cone. It is learnt as inequalities Σ worth × instances ≥ least × rate, each from a linear
program that says why one fleet does not serve (Benders, Numerische Mathematik 4, 1962). Instances may stand
idle, so worths are never negative. A model may be planned at several attainment levels: each is a cone of its
own, and a fleet serves where any of them holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.deadline import NEVER, Deadline
from melange_sky.reserve.covering import Covering

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer.program.highs import Relaxed
    from melange_sky.reserve.covering import Tariff

    Floats = NDArray[np.float64]

_SLACK = 1e-6
"""Relative room in an inequality for what the solver's tolerances let pass."""


@dataclass(slots=True, kw_only=True)
class Level:
    """The fleets that serve at one attainment level.

    `places` are the options that its program holds, among all, and `prices` theirs in its goal; the program asks
    for `asked_rps`. `most` are, per option, the instances that alone serve all that it can at 1 req/s.
    """

    relaxed: Relaxed
    asked_rps: float
    places: NDArray[np.intp]
    prices: Floats
    most: Floats
    worths: Floats = field(init=False)
    leasts: Floats = field(init=False)

    def __post_init__(self) -> None:
        """Begin with what is known of the empty fleet."""
        self.worths, self.leasts = np.zeros((0, len(self.most))), np.zeros(0)
        self.lacks(np.zeros(len(self.most)), self.asked_rps)

    def lacks(self, fleet: Floats, rate: float) -> bool:
        """Return whether a fleet does not serve the rate; learn why. Raises TimeUpError."""
        if (self.worths @ fleet < self.leasts * (rate * (1 - _SLACK))).any():
            return True
        asked = fleet[self.places] * (self.asked_rps / rate)
        found = self.relaxed.least_from(asked)
        if found is None:
            return True
        worth = np.zeros(len(fleet))
        worth[self.places] = np.maximum(self.prices - found.reduced_costs, 0.0)
        least = (found.goal - float(found.reduced_costs @ asked)) / self.asked_rps
        short = least * rate - float(worth @ fleet)
        if short <= _SLACK * found.goal * rate / self.asked_rps:
            return False
        self.worths = np.vstack((self.worths, worth))
        self.leasts = np.append(self.leasts, least)
        return True

    def highest_rate(self, fleet: Floats) -> float:
        """Return the highest rate that a fleet serves, 0 where it serves none. Raises TimeUpError."""
        while True:
            rate = float((self.worths @ fleet / self.leasts).min()) * (1 - _SLACK)
            if rate <= 0 or not self.lacks(fleet, rate):
                return max(rate, 0.0)


@dataclass(slots=True, kw_only=True)
class Served:
    """The fleets that serve one mix. Fleets are arrays of instances, one place per option."""

    levels: Sequence[Level]
    deadline: Deadline = NEVER

    def highest_rate(self, fleet: Floats) -> float:
        """Return the highest rate in req/s that a fleet serves. Raises TimeUpError."""
        return max(level.highest_rate(fleet) for level in self.levels)

    def cheapest(self, tariff: Tariff, rate: float, below: float = np.inf) -> Floats | None:
        """Return the fleet that serves the rate at least cost, all that is free with it.

        None where none does for less than `below`.

        Raises TimeUpError.
        """
        best: Floats | None = None
        for level in self.levels:
            fleet = self._at_level(level, tariff, rate, below)
            if fleet is not None:
                best, below = fleet, float(tariff.cost(fleet))
        return best

    def _at_level(self, level: Level, tariff: Tariff, rate: float, below: float) -> Floats | None:
        most = np.ceil(level.most * rate)
        while True:
            covering = Covering(
                worths=level.worths,
                leasts=level.leasts * (rate * (1 - _SLACK)),
                most=most,
            )
            fleet = covering.cheapest(tariff, below, self.deadline)
            if fleet is None:
                return None
            if not level.lacks(fleet, rate):
                return fleet
