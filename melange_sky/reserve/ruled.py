"""The fleets that serve a mix under the plan's rules, for one model or several: as `serving.py` has them without.

The search asks the same of both: a fleet's highest rate, and the cheapest fleet for a rate at a tariff. A fleet
that keeps to the rules at a rate does at every lower one, for shares stay and instances do; more instances may break
them, though, so that what is free joins a fleet only where it may.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer.deadline import NEVER, Deadline
from melange_sky.optimizer.search.levels import checked_levels
from melange_sky.reserve.covering import LongSearchError
from melange_sky.reserve.rate_cone import SLACK
from melange_sky.reserve.ruled_level import RuledLevel
from melange_sky.reserve.ruled_program import Ask, Rows, cheapest_ruled, with_free
from melange_sky.reserve.serving import Served

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer.problem.question import Problem
    from melange_sky.reserve.covering import Cheapest
    from melange_sky.reserve.ruled_cone import Place
    from melange_sky.reserve.tariff import Tariff

    Floats = NDArray[np.float64]


def ruled_by(
    problem: Problem, places: Mapping[Place, int], options: int, deadline: Deadline = NEVER
) -> RuledServed:
    """Return the fleets that serve a problem's mix under its rules, all models of it in one program.

    `places` are those of its options in the arrays, which have `options` places.

    Make the problem at the highest rate that is asked for. What is paid already is no rule of it.

    Raises InfeasibleError where a size is served by no option or no fleet keeps to the shares, TimeUpError.
    """
    levels: list[RuledLevel] = []
    refused: InfeasibleError | None = None
    for form in checked_levels(problem, deadline):
        try:
            levels.append(RuledLevel(form, places, options, deadline))
        except InfeasibleError as error:
            refused = error
    if refused is not None and not levels:
        raise refused
    return RuledServed(levels, deadline)


class RuledServed(Served):
    """The fleets that serve one mix and keep to the rules. Fleets are arrays of instances, one place per option."""

    def __init__(self, levels: Sequence[RuledLevel], deadline: Deadline = NEVER) -> None:
        """Take the attainment levels."""
        self.ruled, self._rows = levels, Rows()
        self._alone = [Served([level.cone], deadline) for level in levels]
        super().__init__([level.cone for level in levels], deadline)

    def until(self, deadline: Deadline) -> None:
        """Hold all that is asked from now on to a deadline."""
        self.deadline = deadline
        for level, alone in zip(self.ruled, self._alone, strict=True):
            level.until(deadline)
            alone.until(deadline)

    @cached_property
    def most(self) -> Floats:
        """Instances of each option that any hour has use for, at 1 req/s of the highest rate, (options)."""
        found = []
        for level in self.ruled:
            top = sum(demand.workload.rate_rps for demand in level.form.canonical.demands)
            row = np.zeros(len(level.cone.most))
            row[level.columns] = level.most_at(top) / top
            found.append(row)
        most: Floats = np.max(found, axis=0)
        return most

    def rate(self, fleet: Floats) -> float:
        """Return the highest rate in req/s that a fleet serves by the rules. Raises TimeUpError."""
        return max(level.rate(fleet) for level in self.ruled) * (1 + 2 * SLACK)

    def rate_alone(self, option: int, count: int) -> float:
        """Return the highest rate that so many instances of one option serve by the rules. Raises TimeUpError."""
        fleet = np.zeros(len(self.most))
        fleet[option] = count
        return self.rate(fleet)

    def with_idle(self, fleet: Floats, paid: Floats, rate_rps: float) -> Floats:
        """Return a fleet that serves a rate with what is paid for anyway standing by, where the rules let it.

        As many of each option as they let.
        """
        able = (level for level in self.ruled if level.rate(fleet) * (1 + 2 * SLACK) >= rate_rps)
        level = next(able, None)
        return fleet if level is None else level.with_idle(fleet, paid)

    @staticmethod
    def cheapest_for_all(
        mixes: Sequence[Served], rates_rps: Sequence[float], tariff: Tariff
    ) -> Cheapest | None:
        """Return the cheapest fleet that serves each mix at its rate by the rules, None where there is none.

        Each mix at the level that is cheapest for it alone. Raises TimeUpError.
        """
        asks = []
        for served, rate in zip(mixes, rates_rps, strict=True):
            assert isinstance(served, RuledServed)
            alone = [
                (found.cost, n)
                for n in range(len(served.ruled))
                if (found := served._at_level(n, tariff, rate, np.inf)) is not None
            ]
            if not alone:
                return None
            asks.append(Ask(level=served.ruled[min(alone)[1]], rate_rps=rate))
        return cheapest_ruled(asks, tariff, np.inf, mixes[0].deadline, Rows())

    def _patient(self, n: int, tariff: Tariff, rate: float) -> Cheapest | None:
        """Return the cheapest at one level, at prices alone. Raises LongSearchError."""
        level = self.ruled[n]
        if level.only_shares:
            found = self._alone[n].least(tariff.full, rate)
            if found is None:
                raise LongSearchError
            return found
        ask = Ask(level=level, rate_rps=rate)
        return cheapest_ruled([ask], tariff, np.inf, self.deadline, self._rows, is_patient=False)

    def _at_level(self, n: int, tariff: Tariff, rate: float, below: float) -> Cheapest | None:
        """Return the cheapest at one level, with what is free where the rules let it."""
        level = self.ruled[n]
        if level.only_shares:
            return self._alone[n].cheapest(tariff, rate, below)
        ask = Ask(level=level, rate_rps=rate)
        found = cheapest_ruled([ask], tariff, below, self.deadline, self._rows)
        if found is None:
            return None
        fleet = level.with_idle(found.fleet, tariff.base)
        return replace(found, fleet=fleet, bill=with_free(tariff, found, fleet))
