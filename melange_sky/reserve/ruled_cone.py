"""The rates that fleets serve under rules about shares, for one model or several: a cone by the optimizer's own rows.

The rows of serving, load, attainment and shares that the optimizer writes for a problem grow in proportion to its
rate, so that the highest rate of a fleet n is one linear program with the constants of all rows times λ:

    R(n) = max λ   rows(y) (sense) λ × bound,   Σ_b load_bk y_bk ≤ usable × n_k

Several models grow together, each by its part of the total rate. As in `cone.py`, duals are worths: λ is served
only where worth · n ≥ λ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import highspy
import numpy as np

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.problem.question import SolveOptions
from melange_sky.optimizer.program.highs import as_highs, quiet_highs
from melange_sky.optimizer.program.linear import Linear
from melange_sky.optimizer.rules.build import build_program
from melange_sky.optimizer.rules.serving import Load
from melange_sky.reserve.rate_cone import RateCone

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.search.levels import Levelled

    Floats = NDArray[np.float64]

Place = tuple[str, str]
"""A model's name and an option's."""


def column_places(canonical: Canonical, places: Mapping[Place, int]) -> NDArray[np.intp]:
    """Return where the columns stand among the options of all arrays, (columns)."""
    names = [demand.name for demand in canonical.demands]
    found = [places[names[column.demand], column.name] for column in canonical.columns]
    return np.array(found, dtype=np.intp)


class RuledCone(RateCone):
    """The highest total rates of fleets under some rules; `of_models`, (models × options), are 1 where options are theirs."""

    def __init__(
        self,
        form: Levelled,
        only: frozenset[str],
        columns: NDArray[np.intp],
        options: int,
        deadline: Deadline,
    ) -> None:
        """Build the program of a problem at the highest rate asked for; `only` names the rules of shares that it holds.

        `columns` say which of so many `options` each column of the problem is.
        """
        super().__init__(deadline)
        self._form, self._only = form, only
        self._columns, self._options = columns, options
        self._rate_rps = sum(d.workload.rate_rps for d in form.canonical.demands)
        self.most = np.zeros(self._options)
        self.most[self._columns] = [c.most_load for c in form.canonical.columns]
        self._rates: dict[bytes, float] = {}
        self._rows, self._usable = self._pass_model()
        self.most /= self._usable * self._rate_rps
        self.of_models = self._of_models()
        self.worths = np.array([self.along(own) for own in self.of_models])

    def _of_models(self) -> Floats:
        """Return 1 at the options of each model that is asked for anything, else 0, (models × options)."""
        canonical = self._form.canonical
        rows = [
            np.bincount(self._columns[canonical.of_demand(m)], minlength=self._options)
            for m, buckets in enumerate(canonical.buckets)
            if buckets
        ]
        return np.array(rows, dtype=np.float64)

    def rate(self, fleet: Floats) -> float:
        """Return the highest rate in req/s that a fleet serves; learn why it is no more. Raises TimeUpError."""
        key = fleet.tobytes()
        if key in self._rates:
            return self._rates[key]
        value, duals = self._highest(self._rows, fleet[self._columns] * self._usable)
        rate = max(0.0, value * self._rate_rps)
        worth = np.zeros(self._options)
        worth[self._columns] = duals * self._usable * self._rate_rps
        self._learn(fleet, rate, worth)
        self._rates[key] = rate
        return rate

    def _worth(self, prices: Floats) -> Floats:
        program = self._program()
        lp = program.lp
        lp.whole = [False] * len(lp.whole)
        lp.upper = [np.inf] * len(lp.upper)
        lp.goal = list(zip(program.x, prices[self._columns].tolist(), strict=True))
        self.deadline.check()
        highs = quiet_highs({"time_limit": self.deadline.left_s})
        highs.passModel(as_highs(lp))
        highs.run()
        if highs.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
            raise InfeasibleError("no fleet keeps to the shares per region, cloud or spot")
        if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise TimeUpError
        least = float(highs.getInfo().objective_function_value)
        worth = np.zeros(self._options)
        worth[self._columns] = prices[self._columns] * (self._rate_rps / least)
        return worth

    def _program(self) -> Any:
        return build_program(
            self._form.canonical,
            self._form.problem,
            SolveOptions(),
            only=self._only | {Load.name},
        )

    def _pass_model(self) -> tuple[NDArray[np.int32], float]:
        """Hand HiGHS the rows with λ for their constants; return the load's rows, by column, and what is usable."""
        program = self._program()
        kept = {column: n for n, column in enumerate(program.y.values())}
        scaled = Linear()
        for _ in kept:
            scaled.add("y")
        scale = scaled.add("rate")
        column_of = {x: k for k, x in enumerate(program.x)}
        loads = np.zeros(len(program.x), dtype=np.int32)
        usable = 1.0
        for n, row in enumerate(program.lp.rows):
            terms = [(scale, -row.bound)]
            for column, coefficient in zip(row.columns, row.coefficients, strict=True):
                if column in kept:
                    terms.append((kept[column], coefficient))
                else:
                    loads[column_of[column]], usable = n, -coefficient
            scaled.row(terms, row.sense, 0.0, row.name)
        scaled.goal = [(scale, -1.0)]
        self._highs.passModel(as_highs(scaled))
        return loads, usable
