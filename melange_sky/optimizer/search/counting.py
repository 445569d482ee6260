"""The least cost found by counting fleets, the cheapest first: for one model there are few that could be it.

Which fleets could is known before any is tried: one of cost c wastes at most c less the bound of
`column_bounds`. They are counted up to a cost that rises until one of them serves. A linear program says
whether the cheapest left does: what is the least cost with at least its instances? If that is more than its own cost,
the reduced costs of the instances give an inequality that every fleet which serves keeps, and most of the
others break it too (the cuts of Benders, Numerische Mathematik 4, 1962). A handful of such programs, each
begun where the one before ended, takes a third of the time of branching.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from melange_sky.optimizer.program.run import Outcome, has_highs
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.column_bounds import MOST_COUNTED, Waste

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from melange_sky.optimizer.problem.question import SolveOptions
    from melange_sky.optimizer.program.highs import Relaxed
    from melange_sky.optimizer.program.integer_program import IntegerProgram

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

MOST_FLEETS, MOST_TRIED = 20_000, 24
"""Beyond so many fleets counted at once, or so many tried, branching is left to the solver."""

FINEST_STEP, MOST_STEPS = 1e-7, 64
"""How small a part of the cost it rises by at once, and how often, where many fleets cost nearly the same."""

MOST_AT_ONCE = 1_000_000
"""Fleets with one more column that are looked at together, for the memory that they take."""

_SLACK = 1e-5
"""Relative room in a cut for what the solver's tolerances let pass."""

_SAME = 1e-7
"""Instances no further apart are the same: the tolerance of the program's rows."""


def least_by_counting(program: IntegerProgram, options: SolveOptions) -> Outcome | None:
    """Return the program's optimum, None where it is not of the kind that is counted or too many fleets are.

    Counted are programs whose only whole columns are the instances and whose goal is their price.
    Raises TimeUpError.
    """
    if options.solver == "cbc" or not has_highs() or not _is_counted(program):
        return None
    from melange_sky.optimizer.program.highs import Relaxed

    waste = Waste.of(program.canonical, program.problem)
    count = _Count(program=program, waste=waste, prices=_prices(program))
    relaxed = Relaxed(program.lp, program.x, options.deadline)
    for fleet in count.rising(relaxed):
        found = relaxed.least_from(fleet)
        if found is None:
            continue
        if (found.values[program.x] - fleet).max() <= _SAME:
            return _outcome(program, fleet, found.values)
        count.cut(fleet, found.goal, found.reduced_costs)
    return None


def _is_counted(program: IntegerProgram) -> bool:
    lp, rules = program.lp, RuleSet.of(program.problem, program.options)
    whole = [column for column, is_whole in enumerate(lp.whole) if is_whole]
    if whole != program.x or not program.x or rules.spare_instances or not rules.goal_is_cost:
        return False
    return len(program.canonical.demands) == 1 and not program.fixed and not program.extra_goal


def _prices(program: IntegerProgram) -> Floats:
    return np.array([column.price for column in program.canonical.columns])


def _outcome(program: IntegerProgram, fleet: Floats, values: Floats) -> Outcome:
    values[program.x] = fleet
    found = values.tolist()
    cost = program.lp.value(found)
    return Outcome(
        termination=Termination.OPTIMAL,
        objective=cost,
        bound=cost,
        solver="highs",
        values=tuple(found),
    )


class _Cut(NamedTuple):
    """Σ worth × instances ≥ least, in every fleet that serves."""

    worth: Floats
    least: float


@dataclass(slots=True, kw_only=True)
class _Count:
    """The fleets counted so far and what is known of those that serve."""

    program: IntegerProgram
    waste: Waste
    prices: Floats
    cuts: list[_Cut] = field(default_factory=list)

    @property
    def is_one_size(self) -> bool:
        """Whether any fleet that carries enough of the one size there is will do."""
        rules = RuleSet.of(self.program.problem, self.program.options)
        (part,) = self.waste.parts
        return rules.only_serves and part.loads.shape[1] == 1

    def rising(self, relaxed: Relaxed) -> Iterator[Floats]:
        """Yield the fleets that may serve, the cheapest first; end where too many are left or tried."""
        nothing = np.zeros(len(self.prices))
        root = relaxed.least_from(nothing)
        if root is None:
            return
        self.cut(nothing, root.goal, root.reduced_costs)
        bounds = np.array(self.program.bounds, dtype=np.float64)
        below, tried = -1.0, 0
        cap, step = max(root.goal, self.waste.bound), float(self.prices.min()) / 2
        least_step, growth = FINEST_STEP * cap, 2.0
        for _ in range(MOST_STEPS):
            if below >= float(self.prices @ bounds):
                return
            fleets = self._between(below, cap + step, bounds)
            if fleets is None:
                if step <= least_step:
                    return
                step, growth = max(least_step, step / 4), 1.0
                continue
            below = cap = cap + step
            step *= growth
            while len(fleets):
                tried += 1
                if tried > MOST_TRIED:
                    return
                yield fleets[0]
                fleets = self._uncut(fleets[1:], self.cuts[-1:])

    def cut(self, fleet: Floats, goal: float, reduced_costs: Floats) -> None:
        """Learn from what the least cost is of all that have at least this fleet's instances."""
        self.cuts.append(_Cut(self.prices - reduced_costs, goal - float(reduced_costs @ fleet)))

    def _between(self, below: float, cap: float, bounds: Floats) -> Floats | None:
        """Return the fleets of more than one cost and at most another, sorted by cost; None: too many."""
        room, wasted = self.waste.of_counts(cap)
        most = [
            min(len(own) - 1, int(bound))
            for own, bound in zip(wasted, bounds.tolist(), strict=True)
        ]
        if max(most) >= MOST_COUNTED:
            return None
        found: _Part | None = _Part.empty(len(most))
        # What few are affordable of comes first; how many there are of the last its cost tells.
        *first, last = sorted(range(len(most)), key=most.__getitem__)
        window = self._window(below, cap, room)
        for k in first:
            found = found and found.times(
                k, np.arange(most[k] + 1), self._column(k, wasted), window
            )
        found = found and found.filled(last, most[last], self._column(last, wasted), window)
        if found is None:
            return None
        serves = (found.cost > below) & (found.waste <= room - (cap - found.cost))
        rows = found.rows[serves]
        order = np.lexsort((*rows.T[::-1], found.cost[serves]))
        return self._uncut(rows[order], self.cuts)

    def _window(self, below: float, cap: float, room: float) -> _Window:
        root = self.cuts[0]
        spare = cap - root.least + _SLACK * max(1.0, root.least)
        # A fleet may waste what it costs above the bound, and no more.
        return _Window(max(below, cap - room), cap, room, spare, self.is_one_size)

    def _column(self, k: int, wasted: list[list[float]]) -> _Column:
        price = float(self.prices[k])
        return _Column(price, np.array(wasted[k]), price - float(self.cuts[0].worth[k]))

    def _uncut(self, fleets: Floats, cuts: list[_Cut]) -> Floats:
        """Return the fleets that keep to these cuts."""
        for cut in cuts:
            slack = _SLACK * max(1.0, abs(cut.least))
            fleets = fleets[fleets @ cut.worth >= cut.least - slack]
        return fleets


class _Window(NamedTuple):
    """What a fleet may cost, waste, and cost more than the root's cut says; all that it carries may be of one size."""

    below: float
    cap: float
    room: float
    spare: float
    is_one_size: bool


class _Column(NamedTuple):
    """One column: its price, what 0, 1, … instances waste, and how much dearer than its worth one is."""

    price: float
    wasted: Floats
    dearer: float


class _Part(NamedTuple):
    """Fleets with some columns counted, (fleets × columns), and what each costs, wastes and is dearer by."""

    rows: Floats
    cost: Floats
    waste: Floats
    over: Floats

    @classmethod
    def empty(cls, columns: int) -> _Part:
        """Return the one fleet of nothing."""
        return cls(np.zeros((1, columns)), np.zeros(1), np.zeros(1), np.zeros(1))

    def times(self, k: int, counts: Whole, column: _Column, window: _Window) -> _Part | None:
        """Return every fleet with each of these counts of one more column; None: too many."""
        each = len(counts)
        if len(self.rows) * each > MOST_AT_ONCE:
            return None
        return self._with(
            k,
            np.repeat(np.arange(len(self.rows)), each),
            np.tile(counts, len(self.rows)),
            column,
            window,
        )

    def filled(self, k: int, most: int, column: _Column, window: _Window) -> _Part | None:
        """Return every fleet with the counts of the last column by which its cost comes into the window."""
        least = np.maximum(np.floor((window.below - self.cost) / column.price), 0.0)
        largest = np.minimum(np.ceil((window.cap - self.cost) / column.price), most)
        ways = np.maximum(largest - least + 1, 0).astype(np.int64)
        if int(ways.sum()) > MOST_AT_ONCE:
            return None
        of = np.repeat(np.arange(len(self.rows)), ways)
        counts = (
            np.arange(len(of))
            - np.repeat(np.cumsum(ways) - ways, ways)
            + least[of].astype(np.int64)
        )
        return self._with(k, of, counts, column, window)

    def _with(
        self, k: int, of: Whole, counts: Whole, column: _Column, window: _Window
    ) -> _Part | None:
        cost = self.cost[of] + column.price * counts
        waste = self.waste[of] + column.wasted[counts]
        over = self.over[of] + column.dearer * counts
        kept = np.flatnonzero(
            (cost <= window.cap) & (waste <= window.room) & (over <= window.spare)
        )
        if window.is_one_size:
            kept = kept[_not_outdone(cost[kept], cost[kept] - over[kept])]
        if len(kept) > MOST_FLEETS:
            return None
        rows = self.rows[of[kept]]
        rows[:, k] = counts[kept]
        return _Part(rows, cost[kept], waste[kept], over[kept])


def _not_outdone(cost: Floats, worth: Floats) -> Whole:
    """Return the fleets, by number, that carry more than each of those that cost no more."""
    order = np.lexsort((-worth, cost))
    best = np.maximum.accumulate(worth[order])
    more = np.concatenate(([True], worth[order][1:] > best[:-1]))
    return np.sort(order[more[: len(order)]])
