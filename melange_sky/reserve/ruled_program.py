"""The cheapest fleet under the rules at a tariff: rows for worths as they prove to matter, of the fleet or what a loss leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.reserve.covering import Cheapest
from melange_sky.reserve.rate_cone import SLACK
from melange_sky.reserve.ruled_whole import Need, RuledWhole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.reserve.ruled_level import RuledLevel
    from melange_sky.reserve.tariff import Bill, Tariff

    Floats = NDArray[np.float64]

_ROUNDING = 1e-9

_SAME = 1e-9
"""Costs that differ by no more of the whole are the same."""

_LEAST = 1e-5
"""A row is sought along prices of which none is a smaller part of the highest: nearly nothing is hard to reckon with."""

_MOST_CUTS = 30
"""So many shadow prices of pools are tried at most; beyond, the bound is what it is."""

_KEPT = 8
"""So many of the rows that were needed last are held from the start, of whole fleets and of what losses leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A rate that a fleet must serve at a level, by its rules."""

    level: RuledLevel
    rate_rps: float

    @property
    def served_rps(self) -> float:
        """The rate that counts as serving it."""
        return self.rate_rps * (1 - SLACK) * (1 - _ROUNDING)

    def need(self, worth: Floats, is_lossy: bool) -> Need:
        """Return a row of the level at this rate."""
        return Need(worth=worth / (self.rate_rps * (1 - SLACK)), is_lossy=is_lossy)

    def along(self, prices: Floats) -> list[Need]:
        """Return rows along prices > 0, of each model alone."""
        level, ways = self.level, self.level.cone.of_models * prices
        cones = [(level.cone, False), *([(level.after, True)] if level.spare else [])]
        return [self.need(cone.along(way), lossy) for cone, lossy in cones for way in ways]


class Rows:
    """Worths that were needed before, by level and by whether they hold after losses: the latest first."""

    def __init__(self) -> None:
        """Begin with none."""
        self._kept: dict[tuple[int, bool], list[Floats]] = {}

    def of(self, ask: Ask) -> list[Need]:
        """Return what is kept of an ask's level as rows at its rate."""
        return [
            ask.need(worth, is_lossy)
            for (level, is_lossy), worths in self._kept.items()
            if level == id(ask.level)
            for worth in worths
        ]

    def put(self, level: RuledLevel, worth: Floats, is_lossy: bool) -> None:
        """Keep a worth."""
        kept = self._kept.setdefault((id(level), is_lossy), [])
        kept[:] = [one for one in kept if not np.array_equal(one, worth)]
        kept.insert(0, worth)
        del kept[_KEPT:]


def cheapest_ruled(
    asks: Sequence[Ask],
    tariff: Tariff,
    below: float,
    deadline: Deadline,
    rows: Rows,
    *,
    is_patient: bool = True,
) -> Cheapest | None:
    """Return the cheapest fleet that serves every ask, None where none costs less than `below`.

    Raises TimeUpError; LongSearchError where nobody is patient and the search depth first takes long.
    """
    prices = np.maximum(tariff.full, _LEAST * (float(tariff.full.max()) or 1.0))
    needs = [need for ask in asks for need in rows.of(ask)]
    needs += [need for ask in asks for need in ask.along(prices)]
    whole = RuledWhole(
        asks[0].level, [a.rate_rps for a in asks], [a.level for a in asks], is_patient=is_patient
    )
    lines = [_line(tariff, np.array([float(pool.prices[0]) for pool in tariff.pools]))]
    best: Cheapest | None = None
    while True:
        deadline.check()
        found = whole.solve(lines, needs, below, deadline)
        if found is None:  # nothing costs less than the best, by lines that lie below all costs
            if best is None or best.cost > below:
                return None
            return replace(best, bound=best.cost)
        bound, fleet = found
        fresh = _short(asks, fleet, needs, rows)
        if fresh:
            needs += fresh
            continue
        paid = paid_least(tariff, fleet, [line for _, line in lines])
        cost = float(tariff.total(paid)[0])
        if cost < below and (best is None or cost < best.cost):
            best, below = Cheapest(fleet=fleet, bill=paid, cost=cost, bound=bound), cost
        is_done = not tariff.pools or bound >= cost - _SAME * max(1.0, abs(cost))
        if is_done or len(lines) > _MOST_CUTS:
            return best and replace(best, bound=min(bound, best.cost))
        lines.append(_line(tariff, paid.margins[0]))


def paid_least(tariff: Tariff, fleet: Floats, lines: Sequence[Tariff]) -> Bill:
    """Return the cheapest way to pay a fleet, (options), of those in which each step that beats a line is used."""
    ways = [tariff.bill(fleet[None], _steps(tariff, line.full, fleet)[None]) for line in lines]
    return min(ways, key=lambda bill: float(tariff.total(bill)[0]))


def with_free(tariff: Tariff, found: Cheapest, fleet: Floats) -> Bill:
    """Return how a fleet is paid that is the one found and more instances that cost nothing."""
    assert found.bill is not None  # `cheapest_ruled` always says how
    steps = found.bill.steps[0].copy()
    more = np.maximum(fleet - tariff.free, 0.0) - np.maximum(found.fleet - tariff.free, 0.0)
    for n, step in enumerate(tariff.steps):
        if step.price <= 0:
            taken = min(more[step.option], step.width - steps[n])
            steps[n] += taken
            more[step.option] -= taken
    return tariff.bill(fleet[None], steps[None])


def _steps(tariff: Tariff, full: Floats, fleet: Floats) -> Floats:
    """Return what each step covers of a fleet, (steps), where those are used that cost less than `full`."""
    rest = np.maximum(fleet - tariff.free, 0.0)
    taken = np.zeros(len(tariff.steps))
    for n, step in enumerate(tariff.steps):
        if step.price <= 0 or step.price < full[step.option]:
            taken[n] = min(rest[step.option], step.width)
            rest[step.option] -= taken[n]
    return taken


def _line(tariff: Tariff, margins: Floats) -> tuple[float, Tariff]:
    """Return a line below the cost at shadow prices of the pools: a constant, and a tariff without pools."""
    constant, price = tariff.cut(margins)
    return constant, replace(tariff, pools=(), full=price)


def _short(asks: Sequence[Ask], fleet: Floats, needs: Sequence[Need], rows: Rows) -> list[Need]:
    """Return rows that a fleet breaks, none where it serves every ask or is within the solvers' tolerance of it."""
    fresh: list[Need] = []
    for ask in asks:
        before = len(fresh)
        for found in ask.level.short(fleet, ask.served_rps):
            for short in found:
                need = ask.need(short.worth, bool(short.lost))
                if not any(need.is_as(old) for old in (*needs, *fresh)):
                    fresh.append(need)
                    rows.put(ask.level, short.worth, bool(short.lost))
            if len(fresh) > before:
                break
    return fresh
