"""Simulate only the capacities on which the cheapest fleet rests.

Every size that was not simulated counts at the most that simulation could find. A fleet that is cheapest
so, and that serves nothing at such a rate, is the cheapest of all: whatever simulation says of the other
sizes, fleets that use them only become dearer. So the optimum is found at bounds, what weighs most of what
it rests on is simulated, and again, until it rests on nothing else. The first rounds look at the
target's own level alone and stop near the optimum: most sizes that matter are known after them.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Set
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from melange_sky.capacities import Origin
from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.optimizer import TimeUpError, constraints_among, optimize
from melange_sky.parallelism import AssumedSplits
from melange_sky.planner.assumed_splits import (
    Rivals,
    at_low_end,
    has_rivals,
    saves,
    settled,
    without_assumed,
)
from melange_sky.planner.known_rates import with_known_cells
from melange_sky.planner.resting import at_bounds, heaviest, late_places
from melange_sky.planner.unserved_sizes import (
    FEWEST_REFUSING,
    bounds_of_sizes,
    known_alone,
    unserved_places,
)
from melange_sky.profiles import ReplicaShape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from melange_sky.optimizer import Demand, Problem, Solution, SolveOptions
    from melange_sky.planner.prepare import PreparedProblem
    from melange_sky.planner.resting import Places
    from melange_sky.plans import PlanWarning
    from melange_sky.profiles import CapacityLookup

log = logging.getLogger(__name__)

NEAR_GAP = 0.02
"""How near to the optimum the first rounds come."""

PATIENT = 3
"""After so many of the first rounds, all that a fleet rests on is simulated."""

MOST_OF_SINGLES = 64
"""Sizes that are simulated at most to tell the cheapest single accelerator."""

Find = Callable[["PreparedProblem", "SolveOptions"], "Solution"]

View = Callable[["Problem"], "Problem"]


class NeededRates:
    """A prepared problem whose bounds give way to simulated capacities as fleets come to rest on them."""

    def __init__(self, prepared: PreparedProblem, confidence: float) -> None:
        """Begin with what is prepared."""
        self.prepared = prepared
        self._confidence = confidence
        self._rivals = Rivals()
        self._simulated_s = 0.0
        self._clock: Callable[[], float] = time.perf_counter

    @property
    def problem(self) -> Problem:
        """The optimizer's problem by what is known now."""
        return self.prepared.problem

    def timed(self, solve: SolveOptions) -> SolveOptions:
        """Return the options with a deadline whose clock stands still while this simulates.

        A time limit is for solving; what simulation takes on a busy machine shall not change what is simulated.
        """
        self._clock = solve.deadline.clock
        still = replace(solve.deadline, clock=lambda: self._clock() - self._simulated_s)
        return replace(solve, deadline=still)

    def optimum(self, solve: SolveOptions, rule: AssumedSplits, find: Find) -> Solution | None:
        """Return the proven optimum that `find` finds of the problem, resting on no bound.

        What `rule` holds against it rests on none either. None where there is nothing to simulate, or all
        was simulated at once: because more is asked for than the least cost, a calibration may back what the
        rule leaves out, or half of the time that is left did not suffice. None too where not even at bounds all
        can be served; so much is simulated that the refusal is that of all simulated.
        """
        if not self._has_bounds:
            return None
        half = replace(solve, deadline=solve.deadline.share(0.5))
        is_sorted = without_assumed(self.problem, rule) == self.problem
        if not _asks_for_more(solve) and (is_sorted or not self._has_calibrations):
            try:
                return self._decided(half, rule, find)
            except (TimeUpError, NoPlanInTimeError):
                log.info("no time was left to find which capacities matter: all are simulated")
            except InfeasibleError:
                if self._shows_unserved(half):
                    return None
                log.info("not all can be served: all are simulated, to say what cannot")
        self._simulate_all()
        return None

    def _decided(self, solve: SolveOptions, rule: AssumedSplits, find: Find) -> Solution:
        """Return the optimum once what it rests on is simulated, and what its assumed splits are judged by."""
        for k in range(len(self.problem.demands)):
            self._come_near(k, solve)
        known = self._resting_on_none(solve, find, lambda problem: problem)
        if has_rivals(self.problem, known, rule):
            with contextlib.suppress(InfeasibleError):
                self._rivals = self._decided_rivals(solve, rule, find)
        return known

    def _decided_rivals(self, solve: SolveOptions, rule: AssumedSplits, find: Find) -> Rivals:
        """Return what an optimum with assumed splits is judged by. Raises InfeasibleError where there is none."""

        def without(problem: Problem) -> Problem:
            return without_assumed(problem, rule)

        near = replace(solve, mip_gap=max(NEAR_GAP, solve.mip_gap))
        self._resting_on_none(near, find, without)
        firm = self._resting_on_none(solve, find, without)
        if rule is not AssumedSplits.ROBUST:
            return Rivals(firm=firm)

        def saves_nothing(least: Solution) -> bool:
            return not saves(least.cost_usd_per_hour, firm)

        self._resting_on_none(near, find, at_low_end)
        least = self._resting_on_none(solve, find, at_low_end, is_enough=saves_nothing)
        return Rivals(firm=firm, saves_at_low_end=not saves_nothing(least))

    def settled(
        self, solution: Solution, rule: AssumedSplits, solve: SolveOptions
    ) -> tuple[Problem, Solution, tuple[PlanWarning, ...]]:
        """Return what `assumed_splits.settled` makes of the problem and its optimum; nothing is solved twice."""
        firm = self._rivals.firm
        known = replace(self._rivals, firm=firm and self._renewed(firm))
        return settled(self.problem, solution, rule, solve, known)

    def _renewed(self, solution: Solution) -> Solution:
        """Return a solution with its options as they are known now."""
        allocations = []
        for demand, chosen in zip(self.problem.demands, solution.allocations, strict=True):
            by_name = {capacity.option.name: capacity for capacity in demand.options}
            allocations.append(
                tuple(replace(a, candidate=by_name[a.candidate.option.name]) for a in chosen)
            )
        return replace(solution, allocations=tuple(allocations))

    def _resting_on_none(
        self,
        solve: SolveOptions,
        find: Find,
        view: View,
        is_enough: Callable[[Solution], bool] = lambda _: False,
    ) -> Solution:
        """Simulate what optima of the problem, seen so, rest on until one rests on no bound, or is enough.

        Raises TimeUpError if that is late.
        """
        while True:
            solve.deadline.check()
            problem = view(self.problem)
            solution = find(replace(self.prepared, problem=problem), solve)
            asked = [late_places(*pair) for pair in _chosen(problem, solution)]
            if not solution.report.is_optimal:
                raise TimeUpError
            if not any(asked) or is_enough(solution):
                return solution
            for k, places in enumerate(asked):
                self._simulate(k, places)

    def settle_best_single(self, solve: SolveOptions, rule: AssumedSplits, known: Solution) -> None:
        """Simulate what the cheapest fleet of a single accelerator rests on, where that takes little.

        So the saving against the best single accelerator is known, and others are known to be no better.
        Not for several models, each of which would have its own.
        """
        if not self._has_bounds or len(self.problem.demands) > 1:
            return
        options = replace(solve, deadline=solve.deadline.share(0.2))
        (planned,) = self.settled(known, rule, options)[0].demands
        names = {capacity.option.name for capacity in planned.options}
        costs: dict[str, float] = {}
        left = MOST_OF_SINGLES
        try:
            while left > 0:
                places = self._of_best_single(names, costs, options)
                if not places:
                    return
                chosen = heaviest(places)[:left]
                left -= len(chosen)
                self._simulate(0, chosen)
        except (TimeUpError, NoPlanInTimeError):
            log.info("no time was left to simulate what single accelerators rest on")

    def _of_best_single(
        self, among: Set[str], costs: dict[str, float], options: SolveOptions
    ) -> Places:
        """Return what the cheapest single accelerator serves at bounds; `costs` are those known by now."""
        (demand,) = self.problem.demands
        demand = replace(demand, options=tuple(c for c in demand.options if c.option.name in among))
        fleets: dict[str, Places] = {}
        while True:
            names = {c.option.accelerator for c in demand.options} - costs.keys()
            for name in sorted(names):
                costs[name], fleets[name] = self._single(demand, name, options)
            best = min(costs, key=lambda name: (costs[name], name))
            if costs[best] == inf or best in fleets:
                return {} if costs.pop(best) == inf else fleets[best]
            del costs[best]  # known from an earlier round: look again at what it rests on now

    def _single(
        self, demand: Demand, accelerator: str, options: SolveOptions
    ) -> tuple[float, Places]:
        own = tuple(c for c in demand.options if c.option.accelerator == accelerator)
        alone = replace(demand, options=own)
        try:
            constraints = constraints_among(self.problem.constraints, [c.option for c in own])
            solution = optimize(
                replace(self.problem, demands=(alone,), constraints=constraints), options
            )
        except InfeasibleError:
            return inf, {}
        return solution.cost_usd_per_hour, at_bounds(alone, solution)

    @property
    def _has_bounds(self) -> bool:
        return any(c.has_bounds for demand in self.problem.demands for c in demand.options)

    @property
    def _has_calibrations(self) -> bool:
        return any(lookup.is_calibrated for lookup in self.prepared.lookups if lookup is not None)

    def _come_near(self, k: int, solve: SolveOptions) -> None:
        """Simulate what fleets of one model near the optimum rest on, no size served late."""
        lookup, options = self.prepared.lookups[k], replace(solve, mip_gap=NEAR_GAP)
        if lookup is not None and lookup.take_kept():
            self._update(k, lookup)
        rounds = 0
        while not options.deadline.passed:
            demand = replace(self.problem.demands[k], target=None)
            try:
                solution = optimize(replace(self.problem, demands=(demand,)), options)
            except (InfeasibleError, NoPlanInTimeError):
                return
            if rounds >= PATIENT:
                places = late_places(demand, solution)
            else:
                places = heaviest(at_bounds(demand, solution))
            if not places:
                return
            self._simulate(k, places)
            rounds += 1

    def _shows_unserved(self, solve: SolveOptions) -> bool:
        """Return whether some sizes are served by nothing; simulate so much that all such sizes are known."""
        if not any(unserved_places(self.problem, solve.deadline)):
            return False
        at_once = FEWEST_REFUSING
        while True:
            known = known_alone(self.problem)
            asked = [
                bounds_of_sizes(demand, sizes, at_once)
                for demand, sizes in zip(
                    self.problem.demands, unserved_places(known, solve.deadline), strict=True
                )
            ]
            if not any(asked):
                return True
            for k, places in enumerate(asked):
                self._simulate(k, places)
            at_once *= 2

    def _simulate_all(self) -> None:
        for k, demand in enumerate(self.problem.demands):
            self._simulate(
                k,
                [
                    (ReplicaShape.of(capacity.option), (i, j))
                    for capacity in demand.options
                    for i, row in enumerate(capacity.cells)
                    for j, cell in enumerate(row)
                    if cell.origin is Origin.BOUND
                ],
            )

    def _simulate(self, k: int, places: Iterable[tuple[ReplicaShape, tuple[int, int]]]) -> None:
        wanted, lookup = list(places), self.prepared.lookups[k]
        if not wanted or lookup is None:
            return
        begun_s = self._clock()
        lookup.simulate(wanted)
        self._simulated_s += self._clock() - begun_s
        self._update(k, lookup)
        log.debug("simulated %d sizes that the cheapest fleet could rest on", len(wanted))

    def _update(self, k: int, lookup: CapacityLookup) -> None:
        """Put what is known now into the options of one model."""
        demand = self.problem.demands[k]
        options = with_known_cells(demand.options, lookup.capacities, self._confidence)
        demands = list(self.problem.demands)
        demands[k] = replace(demand, options=options)
        self.prepared = replace(
            self.prepared, problem=replace(self.problem, demands=tuple(demands))
        )


def _chosen(problem: Problem, solution: Solution) -> Iterable[tuple[Demand, Solution]]:
    for demand, chosen in zip(problem.demands, solution.allocations, strict=True):
        yield demand, replace(solution, allocations=(chosen,))


def _asks_for_more(solve: SolveOptions) -> bool:
    """Return whether the answer is another than a fleet of the least cost."""
    return bool(solve.within_fraction or solve.alternatives or solve.stay_close or solve.robustness)
