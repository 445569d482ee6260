"""What the optimizer is asked: served models, candidate options, constraints, and how to solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from melange_sky.capacity import OptionCapacity
    from melange_sky.plan import Allocation, SolverReport
    from melange_sky.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One served model: its request rates and the options that may serve them."""

    name: str
    workload: Workload
    options: tuple[OptionCapacity, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pledge:
    """So many instances of every option that matches: already paid, or asked for as a minimum.

    `accelerator` is SkyPilot's name; `accelerator_count` per instance, `cloud`, `region` and
    `instance_type` narrow the match and are None where any will do.
    """

    accelerator: str
    instances: int
    accelerator_count: int | None = None
    cloud: str | None = None
    region: str | None = None
    instance_type: str | None = None

    def label(self) -> str:
        """Return the pledge in words, such as ``2 x A100-80GB:1 on gcp/us-central1``."""
        count = "" if self.accelerator_count is None else f":{self.accelerator_count}"
        place = "/".join(part for part in (self.cloud, self.region) if part)
        return f"{self.instances} x {self.accelerator}{count}" + (f" on {place}" if place else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotPolicy:
    """How far spot instances are trusted.

    At most `max_fraction` of each model's rate runs on spot. An instance is interrupted
    `interruption_rate` times per hour and needs `recovery_s` seconds to come back, so that on
    average 1 / (1 + interruption_rate × recovery_s / 3600) of it is there to serve.
    """

    max_fraction: float = 1.0
    interruption_rate: float = 0.0
    recovery_s: float = 300.0

    @property
    def availability_fraction(self) -> float:
        """Fraction of a spot instance's capacity that can be counted on."""
        return 1.0 / (1.0 + self.interruption_rate * self.recovery_s / 3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What a fleet must keep to beside serving its rate. The defaults ask for nothing.

    `limits` maps an accelerator name to GPUs over all its counts, and a cloud, ``cloud/region`` or
    instance type to instances. `fixed` is capacity already paid for: it costs nothing and so is
    used first. `minimum` must be in the fleet. With `spare` N, any N instances of a model may be
    lost and the rest is still a plan for its whole rate, headroom included. `min_replicas` counts
    the instances of each model. The shares bound the part of each model's rate on one region or
    cloud. Limits, budget, fixed and minimum span all models together.
    """

    limits: tuple[tuple[str, int], ...] = ()
    budget_usd_per_hour: float | None = None
    fixed: tuple[Pledge, ...] = ()
    minimum: tuple[Pledge, ...] = ()
    spare: int = 0
    min_replicas: int = 0
    max_share_per_region: float | None = None
    max_share_per_cloud: float | None = None
    spot: SpotPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Demands that are planned together. `headroom` is the fraction of each replica kept free."""

    demands: tuple[Demand, ...]
    headroom: float = 0.0
    constraints: Constraints = Constraints()


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
    """How to solve.

    `assignment` "fractional" splits a bucket's rate freely; "sliced" hands out 1/`slice_factor` of
    it at a time, as Mélange does (arXiv 2404.14527, §5.3). `mip_gap` 0 asks for a proven optimum
    within `time_limit_s`. `within_fraction` takes the simplest plan (fewest option types, then
    instances) that costs at most so much more than the optimum. `alternatives` asks for so many
    more plans, each with other instances. `solver` None takes HiGHS, or CBC where it is missing.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another plan: what it allocates, what it costs, and in words what differs from the chosen."""

    allocations: tuple[tuple[Allocation, ...], ...]
    cost_usd_per_hour: float
    differs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The fleet: allocations per demand in the problem's order, by option name within each.

    `cost_usd_per_hour` bills instances beyond fixed capacity. `optimum_usd_per_hour` is the least
    cost where another objective was asked for, else the same.
    """

    allocations: tuple[tuple[Allocation, ...], ...]
    report: SolverReport
    cost_usd_per_hour: float
    optimum_usd_per_hour: float
    alternatives: tuple[Alternative, ...] = ()
