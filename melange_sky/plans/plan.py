"""The plan of one model, and of all models of a spec."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.constraints import Constraints, SpotPolicy
from melange_sky.engines import EngineChoice, engine_named
from melange_sky.plans.allocations import Allocation, ExpectedMiss
from melange_sky.plans.guard import NO_GUARD, GuardRails
from melange_sky.plans.sky_fields import SkyFields

if TYPE_CHECKING:
    from melange_sky.capacities import DeploymentOption, OptionCapacity
    from melange_sky.models import ModelShape
    from melange_sky.plans.elastic import Elastic
    from melange_sky.plans.figures import (
        AlternativeMix,
        Baseline,
        CurrentFleet,
        FormGain,
        RateSummary,
        Sensitivity,
        SolverReport,
    )
    from melange_sky.plans.forms import ModelForm, ModelSource
    from melange_sky.plans.reuse import PlannedReuse
    from melange_sky.plans.verification import Verification
    from melange_sky.slo import SLO
    from melange_sky.workload import Workload

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanWarning:
    """Something the reader must know before paying: a stable code and a sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One model's part of a plan: its traffic, and all that replaying, routing and rendering it need.

    `candidates` are the options that were weighed, chosen or not. `model` is its name for clients, whichever
    of its `forms` serves; options without one hold it as `model_shape` and `model_source` say. `spot` is the policy of the plan's
    constraints, by which its spot replicas are interrupted in replay. `warnings` are about this model
    alone. With `attainment_per_bucket` the SLO's attainment is asked of every bucket by itself. `sky` is
    what the user adds to its services in SkyPilot's own words. `reuse` is what its capacities count on finding in
    prefix caches, None for nothing.
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
    reuse: PlannedReuse | None = None
    sky: SkyFields = field(default_factory=SkyFields)

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
class Plan:
    """The instances that serve all models of a spec, chosen together under the same constraints.

    There is at least one model. `lists_models` says that the spec lists them (`models:`), be it only
    one: `plan.json` lists them too then, and their services bear the plan's name besides their own.
    Where it does not, all warnings stand here, those of the model among them. `confidence` is the
    probability with which each estimated capacity was taken to be reached: 0.5 for its median.
    `fleet_id` tells its services from those of other plans of the same name: made once, and kept by
    every plan of the name that is written into the same folder later. Plans that differ in nothing
    else are equal. `guard` is what `watch` may do to its fleet without asking.
    `elastic` is how far SkyServe's own autoscaler may move each option's replicas, None where they stay as planned.
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
    guard: GuardRails = NO_GUARD
    elastic: Elastic | None = None
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
