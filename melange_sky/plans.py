"""The plan: data only, and all that rendering, simulating, explaining and reporting need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melange_sky.constraints import Constraints
from melange_sky.engines import EngineChoice

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.models import ModelShape
    from melange_sky.slo import SLO
    from melange_sky.workload import Matrix, Workload

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanWarning:
    """Something the reader must know before paying: a stable code and a sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """So many instances of one option, and the share of each bucket's rate that they serve.

    `shares` has shape (input buckets × output buckets); over all allocations they sum to 1 where a
    bucket has a rate, and are 0 elsewhere. `load_fraction` is load ÷ raw capacity of the instances.
    `fixed_instances` of them are already paid for (reservations) and are not billed again.
    """

    candidate: OptionCapacity
    instances: int
    load_fraction: float
    rate_rps: float
    shares: Matrix
    fixed_instances: int = 0

    @property
    def cost_usd_per_hour(self) -> float:
        """What the instances of this allocation are billed, beyond those already paid for."""
        return (self.instances - self.fixed_instances) * self.candidate.option.price_usd_per_hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The cheapest plan that uses one accelerator name only (over all its counts and offers)."""

    accelerator: str
    feasible: bool
    reason: str | None
    instances: int | None
    cost_usd_per_hour: float | None
    saving_fraction: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverReport:
    """How far the solver got: status `optimal` (gap within tolerance) or `feasible` (gap told)."""

    status: str
    mip_gap: float
    solve_seconds: float
    solver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativeMix:
    """Another good fleet, as (option name, instances); `differs` says in words from the plan's."""

    cost_usd_per_hour: float
    differs: str
    instances: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """How the plan's cost moves when estimated capacities are off by their error band.

    `low_usd_per_hour` … `high_usd_per_hour`: the optimum's cost if every estimate sat at the good or at
    the bad end (None: no plan there). `measure` names the accelerator whose measurement could change the cost most, by
    `measure_usd_per_hour`, `measure_size` the request size that matters most on it, and `command` runs that measurement.
    """

    low_usd_per_hour: float | None
    high_usd_per_hour: float | None
    measure: str | None = None
    measure_size: str | None = None
    measure_usd_per_hour: float | None = None
    command: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationRound:
    """One fleet of the closed loop and how it did in replay.

    `low` … `high` is the attainment's 95 % interval. `derated` holds, per accelerator (``name:count``),
    the factor on its capacities with which the next fleet is chosen.
    """

    cost_usd_per_hour: float
    fleet: str
    attainment: float
    low: float
    high: float
    derated: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Whether the plan holds in replay, and how it came to be.

    `attainment`, its interval `low` … `high` and `requests` are those of the worst replay of this
    plan; `premium_usd_per_hour` is what it costs over the plan before any replay. `reason` says why it
    does not hold.
    """

    holds: bool
    reason: str | None
    traffic: str
    requests: int
    attainment: float
    low: float
    high: float
    premium_usd_per_hour: float
    rounds: tuple[VerificationRound, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One model's fleet. `candidates` are the options that were weighed, chosen or not.

    `constraints` are those it was planned under; for one of several models they stand in the fleet.
    """

    name: str
    model: str
    created_at: str
    slo: SLO
    workload: Workload
    headroom: float
    allocations: tuple[Allocation, ...]
    baselines: tuple[Baseline, ...]
    solver: SolverReport
    candidates: tuple[OptionCapacity, ...] = ()
    warnings: tuple[PlanWarning, ...] = ()
    model_shape: ModelShape | None = None
    engine: EngineChoice = field(default_factory=EngineChoice)
    engine_generation: str | None = None
    price_snapshot: str | None = None
    constraints: Constraints = field(default_factory=Constraints)
    alternatives: tuple[AlternativeMix, ...] = ()
    sensitivity: Sensitivity | None = None
    verification: Verification | None = None

    @property
    def cost_usd_per_hour(self) -> float:
        """What the whole fleet is billed per hour."""
        return sum(a.cost_usd_per_hour for a in self.allocations)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """Several models planned together under shared limits; each is a plan of its own."""

    name: str
    created_at: str
    models: tuple[Plan, ...]
    solver: SolverReport
    warnings: tuple[PlanWarning, ...] = ()
    alternatives: tuple[AlternativeMix, ...] = ()
    sensitivity: Sensitivity | None = None
    constraints: Constraints = field(default_factory=Constraints)

    @property
    def cost_usd_per_hour(self) -> float:
        """What all models' fleets are billed per hour."""
        return sum(plan.cost_usd_per_hour for plan in self.models)


def models_of(planned: Plan | FleetPlan) -> tuple[Plan, ...]:
    """Return the plan of each served model."""
    return planned.models if isinstance(planned, FleetPlan) else (planned,)
