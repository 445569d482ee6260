"""Highest rates of fleets by a linear program, and the worths that its duals are: what all cones share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.program.highs import quiet_highs, solve_again

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline

    Floats = NDArray[np.float64]

SLACK = 1e-7
"""A fleet serves a rate that exceeds its highest by no more than this part: the solvers' tolerance."""


class RateCone(ABC):
    """Highest rates of fleets, and the worths learnt by the way, (rows × options).

    `most`, (options), are the instances that do all that they can at 1 req/s. Whoever derives from it hands `_highs`
    its program and sets `worths` to a first one.
    """

    most: Floats
    worths: Floats

    def __init__(self, deadline: Deadline) -> None:
        """Hold the solves to a deadline."""
        self.deadline = deadline
        self._along: dict[bytes, Floats] = {}
        self._highs = quiet_highs({"presolve": "off", "primal_feasibility_tolerance": 1e-9})

    @abstractmethod
    def rate(self, fleet: Floats) -> float:
        """Return the highest rate in req/s that a fleet serves; learn why it is no more. Raises TimeUpError."""

    @abstractmethod
    def _worth(self, prices: Floats) -> Floats:
        """Work out the worth along prices > 0."""

    def at_most(self, fleet: Floats) -> float:
        """Return a rate that the fleet does not exceed, by what is known."""
        return float((self.worths @ fleet).min())

    def least_worth(self, fleet: Floats) -> Floats:
        """Return the known worth by which a fleet serves least, (options)."""
        worth: Floats = self.worths[int((self.worths @ fleet).argmin())]
        return worth

    def along(self, prices: Floats) -> Floats:
        """Return the worth along prices > 0: what it costs to serve 1 req/s at these with instances in parts.

        Raises InfeasibleError where no fleet serves it by the rules, however large; TimeUpError.
        """
        key = prices.tobytes()
        if key not in self._along:
            self._along[key] = self._worth(prices)
        return self._along[key]

    def _highest(self, rows: NDArray[np.int32], room: Floats) -> tuple[float, Floats]:
        """Solve with so much room in these rows; return the goal's value and the rows' duals. Raises TimeUpError."""
        highs = self._highs
        highs.changeRowsBounds(len(rows), rows, np.full(len(rows), -np.inf), room)
        solve_again(highs, self.deadline)
        duals: Floats = -np.array(highs.getSolution().row_dual)[rows]
        return -float(highs.getInfo().objective_function_value), np.maximum(duals, 0.0)

    def _learn(self, fleet: Floats, rate: float, worth: Floats) -> None:
        """Keep a worth, unless those known say as much of the fleet."""
        if worth.any() and not (self.worths @ fleet <= rate * (1 + 1e-9)).any():
            self.worths = np.vstack((self.worths, worth))
