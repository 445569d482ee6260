"""The least cost found by counting fleets, the cheapest first: for one model there are few that could be it.

Which fleets could is known before any is tried: one of cost c wastes at most c less the bound of
`column_bounds`. They are counted up to a cost that rises until one of them serves. A linear program says
whether the cheapest left does: what is the least cost with at least its instances? If that is more than its own cost,
the reduced costs of the instances give an inequality that every fleet which serves keeps, and most of the
others break it too (the cuts of Benders, Numerische Mathematik 4, 1962). A handful of such programs, each
begun where the one before ended, takes a third of the time of branching.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from melange_sky.optimizer.program.run import Outcome, has_highs
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.search.column_bounds import MOST_COUNTED, Waste
from melange_sky.optimizer.search.fleets_between import CountedColumn, Window, fleets_between

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer.problem.question import SolveOptions
    from melange_sky.optimizer.program.highs import Relaxed
    from melange_sky.optimizer.program.integer_program import IntegerProgram

    Floats = NDArray[np.float64]

MOST_TRIED = 24
"""Beyond so many fleets tried, branching is left to the solver."""

FINEST_STEP, MOST_STEPS = 1e-7, 64
"""How small a part of the cost it rises by at once, and how often, where many fleets cost nearly the same."""

_SLACK = 1e-5
"""Relative room in a cut for what the solver's tolerances let pass."""

_SAME = 1e-7
"""Instances no further apart are the same: the tolerance of the program's rows."""


def least_by_counting(program: IntegerProgram, options: SolveOptions) -> Outcome | None:
    """Return the program's optimum, None where it is not of the kind that is counted or too many fleets are.

    Counted are programs whose only whole columns are the instances and whose goal is their price.
    Raises TimeUpError.
    """
    if not _is_counted(program, options):
        return None
    with contextlib.suppress(_TooManyError):
        count = _Count.of(program, options)
        return count.first_that_serves(count.rising())
    return None


def simpler_by_counting(
    program: IntegerProgram, options: SolveOptions, instances: Sequence[int], most: float
) -> Outcome | None:
    """Return the simplest fleet of a least cost, at `most`, that ranks before the one that holds these instances.

    Its outcome is infeasible where none does. None where that is not counted. Raises TimeUpError.
    """
    if not _is_counted(program, options):
        return None
    with contextlib.suppress(_TooManyError):
        count = _Count.of(program, options)
        found = count.first_that_serves(count.simpler(np.array(instances, dtype=float), most))
        return found or Outcome(
            termination=Termination.INFEASIBLE, objective=None, bound=None, solver="highs"
        )
    return None


def _is_counted(program: IntegerProgram, options: SolveOptions) -> bool:
    if options.solver == "cbc" or not has_highs():
        return False
    lp, rules = program.lp, RuleSet.of(program.problem, program.options)
    whole = [column for column, is_whole in enumerate(lp.whole) if is_whole]
    if whole != program.x or not program.x or rules.spare_instances or not rules.goal_is_cost:
        return False
    return len(program.canonical.demands) == 1 and not program.fixed and not program.extra_goal


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


class _TooManyError(Exception):
    """Too many fleets are left, or were tried."""


@dataclass(slots=True, kw_only=True)
class _Count:
    """The fleets counted so far and what is known of those that serve."""

    program: IntegerProgram
    relaxed: Relaxed
    waste: Waste
    prices: Floats
    bounds: Floats
    root_goal: float
    cuts: list[_Cut] = field(default_factory=list)
    tried: int = 0

    @classmethod
    def of(cls, program: IntegerProgram, options: SolveOptions) -> _Count:
        """Begin with what the program without whole columns tells."""
        from melange_sky.optimizer.program.highs import Relaxed

        relaxed = Relaxed(program.lp, program.x, options.deadline)
        nothing = np.zeros(len(program.x))
        root = relaxed.least_from(nothing)
        if root is None:
            raise _TooManyError
        count = cls(
            program=program,
            relaxed=relaxed,
            waste=Waste.of(program.canonical, program.problem),
            prices=np.array([column.price for column in program.canonical.columns]),
            bounds=np.array(program.bounds, dtype=np.float64),
            root_goal=root.goal,
        )
        count._cut(nothing, root.goal, root.reduced_costs)
        return count

    @property
    def is_one_size(self) -> bool:
        """Whether any fleet that carries enough of the one size there is will do."""
        rules = RuleSet.of(self.program.problem, self.program.options)
        return rules.only_serves and [part.loads.shape[1] for part in self.waste.parts] == [1]

    def first_that_serves(self, fleets: Iterator[Floats]) -> Outcome | None:
        """Return the first of the fleets that serves, None where none does; each that does not is learnt from."""
        for fleet in fleets:
            found = self.relaxed.least_from(fleet)
            if found is None:
                continue
            if (found.values[self.program.x] - fleet).max() <= _SAME:
                return _outcome(self.program, fleet, found.values)
            self._cut(fleet, found.goal, found.reduced_costs)
        return None

    def rising(self) -> Iterator[Floats]:
        """Yield the fleets that may serve, the cheapest first. Raises `_TooManyError`."""
        below, growth = -1.0, 2.0
        cap, step = max(self.root_goal, self.waste.bound), float(self.prices.min()) / 2
        least_step, is_one_size = FINEST_STEP * cap, self.is_one_size
        for _ in range(MOST_STEPS):
            fleets = self._between(below, cap + step, is_one_size=is_one_size)
            if fleets is None:
                if step <= least_step:
                    break
                step, growth = max(least_step, step / 4), 1.0
                continue
            below = cap = cap + step
            step *= growth
            yield from self._tried(fleets)
        raise _TooManyError

    def simpler(self, known: Floats, most: float) -> Iterator[Floats]:
        """Yield the fleets that cost no more than this one, of the least cost, and rank before it, in their order."""
        tie = most - float(self.prices @ known)
        fleets = self._between(most - 3 * max(tie, 0.0), most, is_one_size=False)
        if fleets is None:
            raise _TooManyError
        places = [column.place for column in self.program.canonical.columns]
        fleets = fleets[
            np.lexsort(
                (
                    *-fleets.T[::-1],
                    fleets @ places,
                    fleets.sum(axis=1),
                    np.count_nonzero(fleets, axis=1),
                )
            )
        ]
        at = np.flatnonzero((fleets == known).all(axis=1))
        if not len(at):
            raise _TooManyError
        yield from self._tried(fleets[: at[0]])

    def _tried(self, fleets: Floats) -> Iterator[Floats]:
        """Yield fleets as long as what is learnt from those before leaves any."""
        while len(fleets):
            self.tried += 1
            if self.tried > MOST_TRIED:
                raise _TooManyError
            learnt = len(self.cuts)
            yield fleets[0]
            fleets = self._uncut(fleets[1:], self.cuts[learnt:])

    def _cut(self, fleet: Floats, goal: float, reduced_costs: Floats) -> None:
        """Learn from what the least cost is of all that have at least this fleet's instances."""
        self.cuts.append(_Cut(self.prices - reduced_costs, goal - float(reduced_costs @ fleet)))

    def _between(self, below: float, cap: float, *, is_one_size: bool) -> Floats | None:
        """Return the fleets of more than one cost and at most another that may serve, by cost; None: too many.

        Of one size, those alone that carry more than each that costs no more.
        """
        room, wasted = self.waste.of_counts(cap)
        root = self.cuts[0]
        columns = [
            CountedColumn(price, np.array(own), price - worth, min(len(own) - 1, int(bound)))
            for price, own, worth, bound in zip(
                self.prices.tolist(), wasted, root.worth.tolist(), self.bounds.tolist(), strict=True
            )
        ]
        if max(column.most for column in columns) >= MOST_COUNTED:
            return None
        # A fleet may waste what it costs above the bound, and no more.
        below, spare = max(below, cap - room), cap - root.least + _SLACK * max(1.0, root.least)
        fleets = fleets_between(columns, Window(below, cap, room, spare, is_one_size))
        return None if fleets is None else self._uncut(fleets, self.cuts)

    def _uncut(self, fleets: Floats, cuts: list[_Cut]) -> Floats:
        """Return the fleets that keep to these cuts."""
        for cut in cuts:
            slack = _SLACK * max(1.0, abs(cut.least))
            fleets = fleets[fleets @ cut.worth >= cut.least - slack]
        return fleets
