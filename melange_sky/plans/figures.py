"""What a plan's cost and traffic are held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedBaseline:
    """The cheapest fleet of one accelerator alone that was found to hold in the plan's own replay.

    `shape` is what its instances are, such as ``A10G:8 tp8``; `attainment` of its worst replay,
    `saving_fraction` 1 − the plan's cost ÷ this one's, None where this one costs nothing.
    """

    instances: int
    cost_usd_per_hour: float
    attainment: float
    saving_fraction: float | None
    shape: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The cheapest plan that uses one accelerator name only (over all its counts and offers).

    `feasible` is None where time ran out before that was known; the `reason` says so. All but
    `verified` is by the estimated capacities; `verified` is None where nothing was replayed, or no
    fleet was found that holds. `shape` is what its instances are, None where there is none. With `at_least`
    it may cost more, and the plan save more: not all that it rests on was simulated (`Origin.BOUND`).
    """

    accelerator: str
    feasible: bool | None
    reason: str | None
    instances: int | None
    cost_usd_per_hour: float | None
    saving_fraction: float | None
    shape: str | None = None
    verified: VerifiedBaseline | None = None
    at_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverReport:
    """How far the solver got: status `optimal` (gap within tolerance) or `feasible` (not proven; see the gap).

    Of models planned apart, no fleet is cheaper than `bound_usd_per_hour`: the sum of their optima with
    `limit_prices` (limit, USD per hour of each GPU or instance under it) on top, less prices × limits.
    None, and no prices, where the models were planned in one program.
    """

    status: str
    mip_gap: float
    solve_seconds: float
    solver: str
    bound_usd_per_hour: float | None = None
    limit_prices: tuple[tuple[str, float], ...] = ()

    @property
    def is_optimal(self) -> bool:
        """Whether no plan is cheaper."""
        return self.status == "optimal"


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
class RateSummary:
    """The rate that a model is planned at against what its traffic brings.

    `quantile` is the fraction of the time in which the rate stays at or under the planned one, `peak_rps`
    that of the busiest five minutes; None without a trace. `dispersion` is by seconds ("1", "10", "60",
    "300"): variance ÷ mean of the counts, None where the trace is too short. `rule` says who chose.
    """

    rule: str
    mean_rps: float
    planned_rps: float
    peak_rps: float | None = None
    quantile: float | None = None
    dispersion: Mapping[str, float | None] = field(default_factory=dict)
    burstiness: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FormGain:
    """What the choice among forms of the models gained: the plan's cost, and that with the first forms alone.

    `without_usd_per_hour` None: no fleet serves it with those.
    """

    cost_usd_per_hour: float
    without_usd_per_hour: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentFleet:
    """What serves today, as the spec says (`current`), and what the plan saves against it.

    `price` says whose prices these are: "given", "list" or "given and list". `judged_by` "replay" where
    the plan was verified, by the same replay: `attainment` is its own then; else "estimate". `holds` None
    where nothing judged it: several models.
    """

    fleet: str
    instances: int
    cost_usd_per_hour: float
    price: str
    saving_usd_per_hour: float
    saving_fraction: float
    judged_by: str
    holds: bool | None
    attainment: float | None = None
