"""The plan: data only, and all that rendering, simulating, explaining and reporting need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.constraints import Constraints, SpotPolicy
from melange_sky.engines import EngineChoice, engine_named
from melange_sky.models import ModelShape  # known while it runs, so that plan.json can be checked

if TYPE_CHECKING:
    from melange_sky.capacities import DeploymentOption, OptionCapacity
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
    `fixed_instances` are already paid for (reservations) and are not billed again: instances of the
    cloud, of which a replica over several nodes takes as many.

    `level` is the attainment at which its capacities are counted, None for the SLO's own. `late` are the
    parts of `shares` that are served late, by the attainment that is expected of them: often 0.
    """

    candidate: OptionCapacity
    instances: int
    load_fraction: float
    rate_rps: float
    shares: Matrix
    fixed_instances: int = 0
    level: float | None = None
    late: tuple[tuple[float, Matrix], ...] = ()

    def late_share(self, i: int, j: int) -> float:
        """Return the share of bucket (i, j) that is served late."""
        return sum(shares[i][j] for _, shares in self.late)

    def missed_share(self, i: int, j: int) -> float:
        """Return the share of bucket (i, j) that is served late and expected to miss its limits."""
        return sum((1 - attained) * shares[i][j] for attained, shares in self.late)

    @property
    def cost_usd_per_hour(self) -> float:
        """What the instances of this allocation are billed, beyond those already paid for."""
        return self.billed_replicas * self.candidate.option.price_usd_per_hour

    @property
    def billed_replicas(self) -> float:
        """How many replicas are billed: a part of one where only some of its nodes are paid for."""
        return self.instances - self.fixed_instances / self.candidate.option.nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedMiss:
    """A size of which requests are served late: outside the SLO's limits, all of them or in part.

    Bucket (`i`, `j`): so is `share` of its requests, and those expected to miss are `fraction` of all
    requests. `alone_ttft_s` is the time to the first token of one of them on an idle replica, the
    slowest where several options serve them.
    """

    i: int
    j: int
    share: float
    fraction: float
    alone_ttft_s: float | None


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
class LateSize:
    """How long requests of bucket (`i`, `j`) waited for their first token in replay, at the median and at
    the 95th percentile; None where none was completed. `missed` of `requests` were outside the limits.
    """

    i: int
    j: int
    requests: int
    missed: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Whether the plan holds in replay, and how it came to be.

    `attainment`, its interval `low` … `high` and `requests` are those of the worst replay of this
    plan; `premium_usd_per_hour` is what it costs over the plan before any replay. `reason` says why it
    does not hold. Where the search was `cut_short` by its time limit, another fleet may hold, or a
    cheaper one. `seeds` are those of the replays by which it is judged. `late` are the sizes that are
    expected to miss, and those of which most did, as far as the worst replay held any.
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
    cut_short: bool = False
    seeds: tuple[int, ...] = ()
    late: tuple[LateSize, ...] = ()

    def late_size(self, i: int, j: int) -> LateSize | None:
        """Return how a size did in replay, None where that is not kept."""
        return next((one for one in self.late if (one.i, one.j) == (i, j)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteCheck:
    """Bytes that a config was read as, held against what the checkpoint's own files hold."""

    name: str
    read_bytes: int
    held_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where the sizes of a model were read.

    `kind`: "shipped" with the project, "hub", or a "file" of the user's at `path`. `revision` is the
    commit of the Hub that replicas run too, None where none is known. `files` holds the SHA-256 of
    each file that was read; `checks` what these were held against.
    """

    id: str
    kind: str
    revision: str | None = None
    path: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[ByteCheck, ...] = ()


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
class ModelForm:
    """One form in which a model may be held: a checkpoint of it, and what the engine makes of that.

    `name` is the end of its options' names. `quantization` is the value of the engine's flag that it
    adds, None for the weights as the checkpoint keeps them; `shape` are the sizes that follow.
    """

    name: str
    checkpoint: str
    quantization: str | None
    shape: ModelShape
    source: ModelSource


@dataclass(frozen=True, slots=True, kw_only=True)
class FormGain:
    """What the choice among forms of the models gained: the plan's cost, and that with the first forms alone.

    `without_usd_per_hour` None: no fleet serves it with those.
    """

    cost_usd_per_hour: float
    without_usd_per_hour: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One model's part of a plan: its traffic, and all that replaying, routing and rendering it need.

    `candidates` are the options that were weighed, chosen or not. `model` is its name for clients, whichever
    of its `forms` serves; options without one hold it as `model_shape` and `model_source` say. `spot` is the policy of the plan's
    constraints, by which its spot replicas are interrupted in replay. `warnings` are about this model
    alone. With `attainment_per_bucket` the SLO's attainment is asked of every bucket by itself.
    """

    name: str
    model: str
    slo: SLO
    workload: Workload
    allocations: tuple[Allocation, ...]
    baselines: tuple[Baseline, ...] = ()
    candidates: tuple[OptionCapacity, ...] = ()
    warnings: tuple[PlanWarning, ...] = ()
    model_shape: ModelShape | None = None
    model_source: ModelSource | None = None
    forms: tuple[ModelForm, ...] = ()
    engine: EngineChoice = field(default_factory=EngineChoice)
    engine_generation: str | None = None
    spot: SpotPolicy | None = None
    verification: Verification | None = None
    rate_profile: RateSummary | None = None
    attainment_per_bucket: bool = False

    @property
    def cost_usd_per_hour(self) -> float:
        """What the instances of this model are billed per hour."""
        return sum(a.cost_usd_per_hour for a in self.allocations)

    @property
    def expected_misses(self) -> tuple[ExpectedMiss, ...]:
        """The sizes that are served late, largest fraction of the requests first."""
        rates, total = self.workload.rates_rps, self.workload.rate_rps
        found = []
        for i, j in self.workload.buckets():
            late = [a for a in self.allocations if a.late_share(i, j) > 0]
            if not late:
                continue
            alone = [a.candidate.cells[i][j].alone_ttft_s or 0.0 for a in late]
            missed = sum(a.missed_share(i, j) for a in late)
            miss = ExpectedMiss(
                i=i,
                j=j,
                share=sum(a.late_share(i, j) for a in late),
                fraction=missed * rates[i][j] / total,
                alone_ttft_s=max(alone) or None,
            )
            found.append(miss)
        return tuple(sorted(found, key=lambda miss: (-miss.fraction, miss.i, miss.j)))

    @property
    def planned_attainment(self) -> float:
        """The fraction of all requests that meet the SLO at the capacities planned with, headroom aside."""
        rates, total, misses = self.workload.rates_rps, self.workload.rate_rps, self.expected_misses
        late = sum(miss.share * rates[miss.i][miss.j] / total for miss in misses)
        level = min((a.level or self.slo.attainment for a in self.allocations), default=0.0)
        return level * (1 - late) + late - sum(miss.fraction for miss in misses)

    def form_of(self, option: DeploymentOption) -> ModelForm | None:
        """Return the form in which an option holds the model, None for the first."""
        return next((form for form in self.forms if form.name == option.form), None)

    def shape_of(self, option: DeploymentOption) -> ModelShape | None:
        """Return the model's sizes as an option holds it, None where they are not known."""
        form = self.form_of(option)
        return self.model_shape if form is None else form.shape

    def source_of(self, option: DeploymentOption) -> ModelSource | None:
        """Return where the sizes of the checkpoint were read that an option runs, None where not known."""
        form = self.form_of(option)
        return self.model_source if form is None else form.source

    def checkpoint_of(self, option: DeploymentOption) -> str:
        """Return the name of the checkpoint that an option runs."""
        form = self.form_of(option)
        return self.model if form is None else form.checkpoint

    def engine_for(self, option: DeploymentOption) -> EngineChoice:
        """Return the engine with what an option's form adds to its arguments."""
        form = self.form_of(option)
        if form is None or form.quantization is None:
            return self.engine
        flag = engine_named(self.engine.name).flags.quantization
        return replace(self.engine, args=(*self.engine.args, flag, form.quantization))

    def shape_text(self) -> str:
        """Return what the instances are, such as ``A10G:8 tp8``, joined where there are several shapes."""
        return " + ".join(dict.fromkeys(a.candidate.option.shape for a in self.allocations))

    def fleet_text(self) -> str:
        """Return what runs, such as ``3 × A10G:1 + 1 × H100:1``."""
        options = [(a.instances, a.candidate.option) for a in self.allocations]
        return " + ".join(
            f"{n} × {o.accelerators}" + (f" {o.form}" if o.form else "") for n, o in options
        )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The instances that serve all models of a spec, chosen together under the same constraints.

    There is at least one model. `lists_models` says that the spec lists them (`models:`), be it only
    one: `plan.json` lists them too then, and their services bear the plan's name besides their own.
    Where it does not, all warnings stand here, those of the model among them. `confidence` is the
    probability with which each estimated capacity was taken to be reached: 0.5 for its median.
    `fleet_id` tells its services from those of other plans of the same name: made once, and kept by
    every plan of the name that is written into the same folder later. Plans that differ in nothing
    else are equal.
    """

    name: str
    created_at: str
    models: tuple[ModelPlan, ...]
    solver: SolverReport
    lists_models: bool = False
    headroom: float = 0.0
    constraints: Constraints = field(default_factory=Constraints)
    price_snapshot: str | None = None
    warnings: tuple[PlanWarning, ...] = ()
    alternatives: tuple[AlternativeMix, ...] = ()
    sensitivity: Sensitivity | None = None
    confidence: float = 0.5
    form_gain: FormGain | None = None
    current: CurrentFleet | None = None
    fleet_id: str | None = field(default=None, compare=False)

    @property
    def cost_usd_per_hour(self) -> float:
        """What all instances are billed per hour."""
        return sum(model.cost_usd_per_hour for model in self.models)

    @property
    def is_deployable(self) -> bool:
        """Whether there is any service to run: the options of a Mélange config are names without offers."""
        return any(a.candidate.option.offer for m in self.models for a in m.allocations)

    @property
    def group_name(self) -> str | None:
        """The name that the services of all listed models share; None where the spec lists none."""
        return self.name if self.lists_models else None
