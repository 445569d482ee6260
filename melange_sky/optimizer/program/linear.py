"""A mixed-integer linear program as plain columns and rows: the one description all solvers get.

HiGHS takes it as arrays (`highs.py`), CBC and the reviewed LP files by way of PuLP (`pulp_cbc.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

Terms = list[tuple[int, float]]
"""Σ coefficient × column, by the column's index."""

LE, EQ, GE = -1, 0, 1
"""The sense of a row, as PuLP counts it."""


@dataclass(frozen=True, slots=True)
class Row:
    """Σ coefficient × column (sense) bound. No column stands in it twice, none with 0."""

    name: str
    sense: int
    bound: float
    columns: tuple[int, ...]
    coefficients: tuple[float, ...]


@dataclass(slots=True)
class Linear:
    """Columns by index (name, bounds, whether whole), rows, and what is made least."""

    names: list[str] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    goal: Terms = field(default_factory=list)

    def add(
        self, name: str, lower: float = 0.0, upper: float = math.inf, *, whole: bool = False
    ) -> int:
        """Add a column and return its index."""
        self.names.append(name)
        self.lower.append(lower)
        self.upper.append(upper)
        self.whole.append(whole)
        return len(self.names) - 1

    def row(self, terms: Terms, sense: int, bound: float, name: str) -> None:
        """Add Σ coefficient × column (sense) bound."""
        used = [term for term in terms if term[1]]
        columns, coefficients = zip(*used, strict=True) if used else ((), ())
        self.rows.append(Row(name, sense, bound, columns, coefficients))

    def is_whole(self) -> bool:
        """Return whether any column takes whole numbers only."""
        return any(self.whole)

    def value(self, values: list[float]) -> float:
        """Return the goal at these columns' values."""
        return sum(coefficient * values[column] for column, coefficient in self.goal)
