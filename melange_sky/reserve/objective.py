"""What is made least over scenarios: a number of their costs, and the same as rows of a linear program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.reserve.question import Objective

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """An objective with the scenarios' weights, which add up to 1, and, for regret, the best cost of each.

    As a linear program it is min goal · a over auxiliary columns a ≥ lower with, for every scenario,
    Σ shares_s · a ≥ cost_s − best_s. `goal`, `lower` are (columns), `shares` (scenarios × columns).
    """

    objective: Objective
    weights: Floats
    best: Floats

    def of(self, costs: Floats) -> float:
        """Return the measure of the scenarios' costs in USD."""
        if self.objective.kind == "expected":
            return float(self.weights @ costs)
        if self.objective.kind == "regret":
            return float((costs - self.best).max())
        order = np.argsort(-costs, kind="stable")
        tail = 1.0 - self.objective.quantile
        before = np.concatenate(([0.0], np.cumsum(self.weights[order])[:-1]))
        taken = np.clip(tail - before, 0.0, self.weights[order])
        return float(taken @ costs[order] / tail)

    @property
    def goal(self) -> Floats:
        """What each auxiliary column counts."""
        if self.objective.kind == "expected":
            return self.weights
        if self.objective.kind == "regret":
            return np.ones(1)
        return np.concatenate(([1.0], self.weights / (1.0 - self.objective.quantile)))

    @property
    def lower(self) -> Floats:
        """The least that each auxiliary column may be."""
        lower = np.full(len(self.goal), -np.inf)
        if self.objective.kind == "cvar":
            lower[1:] = 0.0
        return lower

    @property
    def shares(self) -> Floats:
        """Which auxiliary columns carry which scenario's cost."""
        count = len(self.weights)
        if self.objective.kind == "expected":
            return np.eye(count)
        whole = np.ones((count, 1))
        return whole if self.objective.kind == "regret" else np.hstack((whole, np.eye(count)))

    @property
    def offsets(self) -> Floats:
        """What is taken off each scenario's cost."""
        regret = self.objective.kind == "regret"
        return self.best if regret else np.zeros(len(self.weights))
