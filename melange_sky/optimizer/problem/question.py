"""What the optimizer is asked: served models, candidate options, constraints, and how to solve."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Literal

from melange_sky.capacities import levels_below
from melange_sky.constraints import Constraints
from melange_sky.optimizer.deadline import NEVER, Deadline

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.plans import Allocation, SolverReport
    from melange_sky.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One served model: its request rates and the options that may serve them.

    `target` is the fraction of all its requests that must meet their limits; None asks for it in every
    bucket by itself, as the options' capacities hold it. `level`, above the target, is the attainment at
    which requests are served here that are to be in time: what is left of the misses that the target
    allows may be spent on others, served at best effort. None: at the target, where none is left.
    """

    name: str
    workload: Workload
    options: tuple[OptionCapacity, ...]
    target: float | None = None
    level: float | None = None

    @property
    def may_miss_fraction(self) -> float:
        """The most of its requests that may be late, where all of these miss their limits.

        With f of them, and 1 − level of the others missed: f + (1 − f) × (1 − level) = 1 − target.
        """
        if self.target is None or self.level is None:
            return 0.0
        return max(0.0, (self.level - self.target) / self.level)

    def rate(self, capacity: OptionCapacity, i: int, j: int) -> float | None:
        """Return the rate at which an instance serves bucket (i, j) in time, None where it cannot."""
        cell = capacity.cells[i][j]
        return cell.max_rate_rps if self.level is None else cell.at(self.level)

    @property
    def late_levels(self) -> tuple[float, ...]:
        """The attainments at which requests may be served late here: its late ways 1, 2, …"""
        if self.target is None or self.may_miss_fraction <= 0:
            return ()
        return levels_below(self.target)

    def way_rate(self, capacity: OptionCapacity, i: int, j: int, way: int) -> float | None:
        """Return the rate of an instance that serves bucket (i, j) in time (way 0) or late (from 1 on)."""
        if way == 0:
            return self.rate(capacity, i, j)
        return capacity.cells[i][j].at(self.late_levels[way - 1])

    def way_weight(self, way: int) -> float:
        """Return how much of `may_miss_fraction` a request takes up that is served in this way.

        1 where all miss their limits, 0 in time; where a part is in time, the rest against what would
        miss anyway: (1 − attained) − (1 − level), as a fraction of the level.
        """
        if way == 0 or self.level is None:
            return 0.0
        return 1.0 - self.late_levels[way - 1] / self.level


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Demands that are planned together. `headroom` is the fraction of each replica kept free."""

    demands: tuple[Demand, ...]
    headroom: float = 0.0
    constraints: Constraints = field(default_factory=Constraints)


@dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """Protection against wrong capacities (Bertsimas & Sim, Operations Research 52(1), 2004).

    Any `budget` of an option's buckets may each carry `throughput_error` less than planned (a
    fraction in [0, 1)), on every option at once, and the same shares still fit. None protects
    against all buckets being off.
    """

    throughput_error: float
    budget: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StayClose:
    """A running fleet, as (demand name, option name, instances), and the price of each change.

    Every instance started or stopped against it counts `switch_usd_per_hour` in the choice (never
    in the plan's cost), so that a small price move does not turn the fleet over.
    """

    instances: tuple[tuple[str, str, int], ...]
    switch_usd_per_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveOptions:
    """How to solve, and how long.

    `time_limit_s` holds for one whole answer, whatever it takes beyond the search: simplest fleet,
    shares, alternatives, the reasons for having none. It counts from `started`; `deadline` is when
    it ends, and may be set to end several answers at the same moment. Where fleets were found, the
    search for a cheaper one stops after `search_fraction` of the time, so that the rest has some.

    `assignment` "fractional" splits a bucket's rate freely; "sliced" hands out 1/`slice_factor` of
    it at a time, as Mélange does (arXiv 2404.14527, §5.3). `mip_gap` 0 asks for a proven optimum
    within `time_limit_s`. `within_fraction` takes the simplest plan (fewest option types, then
    instances) that costs at most so much more than the optimum. `alternatives` asks for so many
    more plans, each with other instances. `solver` None takes HiGHS, or CBC where it is missing.
    `known_usd_per_hour` is the cost of a fleet believed to serve: options that no fleet as cheap can
    hold are left out; where none as cheap is found, all are looked at, so that it alters no result.
    """

    assignment: Literal["fractional", "sliced"] = "fractional"
    slice_factor: int = 1
    time_limit_s: float = 30.0
    mip_gap: float = 0.0
    within_fraction: float = 0.0
    alternatives: int = 0
    stay_close: StayClose | None = None
    robustness: Robustness | None = None
    solver: Literal["highs", "cbc"] | None = None
    known_usd_per_hour: float | None = None
    deadline: Deadline = NEVER
    search_fraction: float = 0.9

    def started(self) -> SolveOptions:
        """Return the options with the time running: a deadline already set stays if it is sooner."""
        return replace(self, deadline=self.deadline.within(self.time_limit_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another plan: what it allocates, what it costs, and in words what differs from the chosen."""

    allocations: tuple[tuple[Allocation, ...], ...]
    cost_usd_per_hour: float
    differs: str


class Step(Enum):
    """What follows the search for the least cost, and is left where time runs out."""

    SIMPLEST = "look for the simplest mix of that cost"
    SHARES = "spread the load evenly"
    ALTERNATIVES = "look for all the other mixes"
    CHECK = "check again that it survives every loss of instances"


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The fleet: allocations per demand in the problem's order, by option name within each.

    `cost_usd_per_hour` bills instances beyond fixed capacity. `optimum_usd_per_hour` is the least
    cost where another objective was asked for, else the same. `unfinished` are the steps that the
    time did not suffice for.
    """

    allocations: tuple[tuple[Allocation, ...], ...]
    report: SolverReport
    cost_usd_per_hour: float
    optimum_usd_per_hour: float
    alternatives: tuple[Alternative, ...] = ()
    unfinished: tuple[Step, ...] = ()
