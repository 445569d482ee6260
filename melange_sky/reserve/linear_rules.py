"""Rules about whole instances as numbers: rows over instances, and how many option types each model runs on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.problem.question import SolveOptions
from melange_sky.optimizer.program.linear import GE, LE
from melange_sky.optimizer.rules.build import build_program
from melange_sky.optimizer.rules.option_types import MaxOptionTypes, MinOptionTypes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer.rules.base import Rule
    from melange_sky.optimizer.search.levels import Levelled

    Floats = NDArray[np.float64]

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearRules:
    """Rules as numbers: Σ counted × n between `lower` and `upper`, (columns × rows), and option types of each model.

    `model` says whose each column is, `serve` whether it can serve any of it, `types` how many options each of the
    `models` runs on: at least, at most.
    """

    counted: Floats
    lower: Floats
    upper: Floats
    model: NDArray[np.int64]
    serve: NDArray[np.int64]
    models: int
    types: tuple[int, int]

    @classmethod
    def none(cls, columns: int) -> LinearRules:
        """Return that so many columns of one model keep to no rule."""
        return cls(
            counted=np.zeros((columns, 0)),
            lower=np.zeros(0),
            upper=np.zeros(0),
            model=np.zeros(columns, dtype=np.int64),
            serve=np.ones(columns, dtype=np.int64),
            models=1,
            types=(0, columns),
        )

    @classmethod
    def of_form(
        cls, form: Levelled, rules: Sequence[Rule], kinds: tuple[type[Rule], ...]
    ) -> LinearRules:
        """Return rules of a form by its columns: the rows of those of some kinds, and all numbers of option types."""
        canonical = form.canonical
        program = build_program(
            canonical,
            form.problem,
            SolveOptions(),
            only=frozenset(rule.name for rule in rules if isinstance(rule, kinds)),
        )
        place = {x: k for k, x in enumerate(program.x)}
        rows = program.lp.rows
        counted = np.zeros((len(place), len(rows)))
        for n, row in enumerate(rows):
            for x, coefficient in zip(row.columns, row.coefficients, strict=True):
                counted[place[x], n] = coefficient
        most = [rule.most for rule in rules if isinstance(rule, MaxOptionTypes)]
        least = [rule.least for rule in rules if isinstance(rule, MinOptionTypes)]
        columns = canonical.columns
        return cls(
            counted=counted,
            lower=np.array([row.bound if row.sense == GE else 0.0 for row in rows], dtype=float),
            upper=np.array([row.bound if row.sense == LE else np.inf for row in rows], dtype=float),
            model=np.array([column.demand for column in columns], dtype=np.int64),
            serve=np.array([column.serves() for column in columns], dtype=np.int64),
            models=len(canonical.demands),
            types=(max(least, default=0), min(most, default=len(columns))),
        )

    def at(self, places: NDArray[np.intp], options: int) -> LinearRules:
        """Return the same by options of all arrays, of which columns stand at `places`; the rest are nobody's."""
        counted = np.zeros((options, self.counted.shape[1]))
        counted[places] = self.counted
        model, serve = np.full(options, self.models), np.zeros(options, dtype=np.int64)
        model[places], serve[places] = self.model, self.serve
        return replace(self, counted=counted, model=model, serve=serve)

    def of(self, order: NDArray[np.intp]) -> LinearRules:
        """Return the same with the columns in another order."""
        return replace(
            self,
            counted=self.counted[order],
            model=self.model[order],
            serve=self.serve[order],
        )

    def keeps(self, counts: Floats) -> bool:
        """Return whether so many instances, (columns), keep to them."""
        used = counts @ self.counted
        if (used > self.upper + _ROUNDING).any() or (used < self.lower - _ROUNDING).any():
            return False
        there = counts > 0
        kinds = np.bincount(self.model[there], minlength=self.models)
        serving = np.bincount(self.model[there & (self.serve > 0)], minlength=self.models)
        return bool(kinds.max() <= self.types[1] and serving.min() >= self.types[0])

    def room(self, counts: Floats, column: int) -> float:
        """Return how many more of a column they let join so many instances, (columns), that keep to them."""
        if counts[column] == 0:
            own = (self.model == self.model[column]) & (counts > 0)
            if own.sum() >= self.types[1]:
                return 0.0
        counted = self.counted[column]
        left = (self.upper - counts @ self.counted)[counted > 0] / counted[counted > 0]
        return max(0.0, float(np.floor(left + _ROUNDING).min(initial=np.inf)))
