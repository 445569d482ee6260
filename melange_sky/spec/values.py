"""What a checked spec holds. Plain data: the planner reads it and never sees the YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melange_sky.engines import EngineChoice
from melange_sky.parallelism import AssumedSplits
from melange_sky.plans import NO_GUARD, GuardRails, SkyFields

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.constraints import InstanceGroup, SpotPolicy
    from melange_sky.names.clouds import Infra
    from melange_sky.names.limits import LimitKey
    from melange_sky.offers import OwnOffers
    from melange_sky.plans import Elastic
    from melange_sky.slo import SLO
    from melange_sky.workload import Matrix, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorChoice:
    """One entry of `resources.accelerators`; `count` None stands for any count sold.

    A name includes what clouds list apart of it (`names.accelerators.names_of`), in limits, fixed and minimum too.
    """

    name: str
    count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What may be rented. Empty `accelerators` or `infra` mean: all that are known.

    `fixed` instances are paid already or must stay as they are; of `minimum` the plan has at least as
    many. `limits` keys are a canonical accelerator name (most GPUs of it over all counts), `cloud`,
    `cloud/region` or an instance type (most instances of it). Each model runs on at least
    `min_option_types` and at most `max_option_types` options (None: no limit).
    `pcie_tensor_parallel` lets in tensor parallelism over PCIe on more than two GPUs,
    `max_nodes_per_replica` replicas over several instances; `assumed_splits` says which splits without
    a measured run behind them.
    """

    accelerators: tuple[AcceleratorChoice, ...] = ()
    infra: tuple[Infra, ...] = ()
    use_spot: bool = False
    limits: tuple[tuple[LimitKey, int], ...] = ()
    budget_usd_per_hour: float | None = None
    fixed: tuple[InstanceGroup, ...] = ()
    minimum: tuple[InstanceGroup, ...] = ()
    max_option_types: int | None = None
    min_option_types: int = 1
    spot: SpotPolicy | None = None
    pcie_tensor_parallel: bool = False
    max_nodes_per_replica: int = 1
    assumed_splits: AssumedSplits = AssumedSplits.ROBUST


@dataclass(frozen=True, slots=True, kw_only=True)
class Redundancy:
    """What the plan must survive.

    `spare` replicas that may be lost with the SLO still held, `min_replicas` in total, and the
    largest share of the rate that one region or cloud may serve (fractions; None: no limit).
    """

    spare: int = 0
    min_replicas: int = 1
    max_share_per_region: float | None = None
    max_share_per_cloud: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentInstances:
    """Instances that serve today: what the plan is compared with. They bind nothing.

    `usd_per_hour` is what one of them costs, None for today's list price; `split` how its GPUs share the
    model, such as ``tp4``, None for what the planner would choose. `where` is file, line and key.
    """

    choice: AcceleratorChoice
    place: Infra | None
    instances: int
    usd_per_hour: float | None
    split: str | None
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointChoice:
    """One checkpoint that `model` names; `where` is its place in the spec: file, line and key.

    `revision` is a branch, a tag or a commit of it, None where the spec leaves it open.
    """

    name: str
    revision: str | None = None
    where: str = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model with its SLO and workload; `model_config` is a `config.json` for an unknown model.

    `checkpoints` are of one model; `model`, the name of the first, is the one that clients use.
    `images_at` is file, line and key of its workload's images. With `attainment_per_bucket` the SLO's
    attainment holds for every bucket by itself, not for all requests together. `sky` are SkyPilot's own
    fields for its services, those of the spec below those of the model; `sky_at` is file, line and key of
    their block.
    """

    name: str
    model: str
    model_config: Path | None
    slo: SLO
    workload: Workload
    checkpoints: tuple[CheckpointChoice, ...]
    images_at: str = "workload.images"
    attainment_per_bucket: bool = False
    sky: SkyFields = field(default_factory=SkyFields)
    sky_at: str = "sky"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A checked spec. `lists_models` tells whether it was written with `models:`; `path` is its file.

    `engine_args_at` gives file, line and key of each of the engine's arguments.
    `quantizations` are to be chosen among, None for weights as they are stored; `quantization_where` is
    the place of the key that says so, None where the spec has none. `offers` are the user's own prices.
    """

    name: str
    models: tuple[ServedModel, ...]
    lists_models: bool
    path: Path
    resources: Resources = field(default_factory=Resources)
    redundancy: Redundancy = field(default_factory=Redundancy)
    headroom: float = 0.1
    engine: EngineChoice = field(default_factory=EngineChoice)
    engine_args_at: tuple[str, ...] = ()
    quantizations: tuple[str | None, ...] = (None,)
    quantization_where: str | None = None
    current: tuple[CurrentInstances, ...] = ()
    offers: tuple[OwnOffers, ...] = ()
    guard: GuardRails = NO_GUARD
    elastic: Elastic | None = None

    @property
    def skies(self) -> dict[str, SkyFields]:
        """SkyPilot's own fields of the models that have any, by the place of their block."""
        return {m.sky_at: m.sky for m in self.models if m.sky.block()}

    @property
    def leaves_rate_open(self) -> bool:
        """Whether the rate of any model has yet to be found."""
        return any(s.workload.arrivals and s.workload.arrivals.is_open for s in self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class MelangeConfig:
    """Mélange's own JSON config, taken as it is.

    `gpus` holds (free label, USD per hour, throughput in req/s per bucket; 0 where it cannot serve).
    Headroom is 0 and the weights stand as written, whatever their sum.
    """

    gpus: tuple[tuple[str, float, Matrix], ...]
    workload: Workload
    slice_factor: int
    path: Path
