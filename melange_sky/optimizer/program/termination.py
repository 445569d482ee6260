"""How a solve ended."""

from __future__ import annotations

from enum import Enum


class Termination(Enum):
    """How a solve ended; the values are the words of plan.json and of `sweep`.

    Only `INFEASIBLE` proves that there is no fleet. `LIMIT` proves nothing, and `GAVE_UP` neither:
    the solver ended by itself, by its arithmetic rather than for want of time.
    """

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    LIMIT = "time-limit"
    GAVE_UP = "gave-up"

    @property
    def has_solution(self) -> bool:
        """Whether a solution came of it."""
        return self in (Termination.OPTIMAL, Termination.FEASIBLE)
