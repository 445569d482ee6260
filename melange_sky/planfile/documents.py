"""What stands in a `plan.json`, key by key: its parts as they are read, before anything is made of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from melange_sky.capacities import EngineSettings, Origin
from melange_sky.constraints import Constraints
from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.models import ModelShape
from melange_sky.names.limits import LimitKey
from melange_sky.offers import Offer, ReservedNodes
from melange_sky.planfile import FLEET_ID
from melange_sky.planfile.earlier import with_groups
from melange_sky.plans import (
    DOWNSCALE_DELAY_S,
    UPSCALE_DELAY_S,
    AllowedHours,
    AlternativeMix,
    Baseline,
    CurrentFleet,
    Elastic,
    FormGain,
    GuardRails,
    ModelForm,
    ModelSource,
    PlannedReuse,
    PlanWarning,
    RateSummary,
    Sensitivity,
    SolverReport,
    Verification,
)
from melange_sky.workload import Workload

MOST_INSTANCES = 1_000_000

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MaybeRows = list[list[NonNegative | None]]
FleetId = Annotated[str, Field(pattern=FLEET_ID)]


def _with_limit_keys(document: Any) -> Any:
    """Return the document of constraints with the names that its limits are keyed by as keys."""
    if not isinstance(document, dict) or not isinstance(document.get("limits"), list):
        return document
    limits = [
        [LimitKey.of(row[0]), *row[1:]]
        if isinstance(row, list) and row and isinstance(row[0], str)
        else row
        for row in document["limits"]
    ]
    return {**document, "limits": limits}


_Constraints = Annotated[Constraints, BeforeValidator(_with_limit_keys)]
_ModelShape = Annotated[ModelShape, BeforeValidator(with_groups)]


class Document(BaseModel):
    """Fields of later versions are ignored, so that an older program reads what it knows."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), allow_inf_nan=False)


class SloDocument(Document):
    """What every request is to meet."""

    tpot_ms: Positive | None = None
    ttft_ms: Positive | None = None
    attainment: Annotated[float, Field(gt=0, le=1)] = 0.95


class LevelDocument(Document):
    """Rates at another attainment than the target, shape (I × O)."""

    attainment: Annotated[float, Field(ge=0, le=1)]
    max_rate_rps: MaybeRows


class CandidateDocument(Document):
    """An option that was weighed, with its rates, shape (I × O); of several engines, those of one."""

    option: str
    accelerator_name: str
    accelerator_count: Annotated[int, Field(ge=1)]
    price_usd_per_hour: NonNegative
    use_spot: bool
    offer: Offer | None
    fallbacks: tuple[Offer, ...] = ()
    figures: str | None = None
    form: str | None = None
    reserved: ReservedNodes | None = None
    engine: EngineSettings | None
    engines: Annotated[int, Field(ge=1)] = 1
    max_rate_rps: MaybeRows
    origin: list[list[Origin | None]]
    reasons: list[list[str | None]]
    low_rps: MaybeRows | None = None
    high_rps: MaybeRows | None = None
    levels: list[LevelDocument] = []
    ttft_alone_s: MaybeRows | None = None


class LateSharesDocument(Document):
    """What of an allocation's shares is served late, shape (I × O)."""

    attainment: Annotated[float, Field(ge=0, le=1)]
    shares: list[list[NonNegative]]


class AllocationDocument(Document):
    """Instances of a candidate, and the shares that they serve, shape (I × O)."""

    option: str
    instances: Annotated[int, Field(ge=1, le=MOST_INSTANCES)]
    fixed_instances: Annotated[int, Field(ge=0, le=MOST_INSTANCES)] = 0
    load_fraction: NonNegative
    rate_rps: NonNegative
    shares: list[list[NonNegative]]
    level: Annotated[float, Field(gt=0, le=1)] | None = None
    late_shares: list[LateSharesDocument] = []


class EngineChoiceDocument(Document):
    """What the user chose of the engine."""

    name: str = DEFAULT_ENGINE.name
    version: str | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    setup: str | None = None


class GuardDocument(Document):
    """What `watch` may do to the fleet without asking."""

    launch: str | None = None
    max_usd_per_hour: NonNegative | None = None
    max_change_instances: Annotated[int, Field(ge=0)] | None = None
    min_interval_s: NonNegative | None = None
    hours: str | None = None
    approve_above_usd: NonNegative | None = None
    freeze: bool = False

    def rails(self) -> GuardRails:
        """Return them as the plan holds them; raises ValueError for hours that are none."""
        fields = self.model_dump()
        hours = None if self.hours is None else AllowedHours.read(self.hours)
        return GuardRails(**{**fields, "hours": hours})


class ElasticDocument(Document):
    """How far SkyServe's own autoscaler may move replicas; what follows from it is not read."""

    min: Annotated[float, Field(gt=0, le=1)] = 1.0
    max: Annotated[float, Field(ge=1, le=100)] = 1.0
    upscale_delay_s: NonNegative = UPSCALE_DELAY_S
    downscale_delay_s: NonNegative = DOWNSCALE_DELAY_S

    def elastic(self) -> Elastic:
        """Return it as the plan holds it."""
        return Elastic(**self.model_dump())


class SolvedDocument(Document):
    """How far the fleet is proven."""

    status: str
    mip_gap: float
    solve_seconds: float
    solver: str = "unknown"
    bound_usd_per_hour: NonNegative | None = None
    limit_prices: dict[str, NonNegative] = {}

    def report(self) -> SolverReport:
        """Return it as the plan tells it."""
        return SolverReport(
            status=self.status,
            mip_gap=self.mip_gap,
            solve_seconds=self.solve_seconds,
            solver=self.solver,
            bound_usd_per_hour=self.bound_usd_per_hour,
            limit_prices=tuple(self.limit_prices.items()),
        )


class PlanDocument(SolvedDocument):
    """A plan of one model, or one model of several."""

    name: str
    model: str
    created_at: str
    fleet_id: FleetId | None = None
    guard: GuardDocument | None = None
    elastic: ElasticDocument | None = None
    slo: SloDocument
    attainment_per_bucket: bool = True
    headroom: NonNegative = 0.0
    constraints: _Constraints = Constraints()
    workload: Workload
    allocations: list[AllocationDocument]
    baselines: tuple[Baseline, ...] = ()
    sensitivity: Sensitivity | None = None
    confidence: float = 0.5
    form_gain: FormGain | None = None
    current: CurrentFleet | None = None
    alternatives: tuple[AlternativeMix, ...] = ()
    verification: Verification | None = None
    reuse: PlannedReuse | None = None
    rate_profile: RateSummary | None = None
    warnings: tuple[PlanWarning, ...] = ()
    engine: EngineChoiceDocument = EngineChoiceDocument()
    engine_generation: str | None = None
    sky: dict[str, Any] = {}
    price_snapshot: str | None = None
    model_shape: _ModelShape | None = None
    model_source: ModelSource | None = None
    forms: tuple[ModelForm, ...] = ()
    candidates: list[CandidateDocument]


class ListedPlanDocument(SolvedDocument):
    """A plan of several models."""

    name: str
    created_at: str
    fleet_id: FleetId | None = None
    guard: GuardDocument | None = None
    elastic: ElasticDocument | None = None
    models: Annotated[list[PlanDocument], Field(min_length=1)]
    warnings: tuple[PlanWarning, ...] = ()
    sensitivity: Sensitivity | None = None
    confidence: float = 0.5
    form_gain: FormGain | None = None
    current: CurrentFleet | None = None
    alternatives: tuple[AlternativeMix, ...] = ()
    constraints: _Constraints = Constraints()
