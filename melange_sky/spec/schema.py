"""The keys of a spec, section by section: types and ranges only. Meaning is checked in `load`.

Each section is validated by itself, so that a mistake in one does not hide those in the others. Validation
alone makes sections: they have no methods, not even those that dataclasses get by themselves. Annotations
are no texts here, for validators read them.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from melange_sky.spec.validators import bounds, or_counted, or_one_counted, or_one_text

MOST_RPS = 1e6
"""Highest request rate that a spec may ask for; more is a slip of the unit."""

Positive = Annotated[float, bounds(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, bounds(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, bounds(gt=0, le=MOST_RPS, allow_inf_nan=False)]
Burstiness = Annotated[float, bounds(ge=0.01, le=1000, allow_inf_nan=False)]
Fraction = Annotated[float, bounds(gt=0, le=1, allow_inf_nan=False)]
Share = Annotated[float, bounds(ge=0, le=1, allow_inf_nan=False)]
Text = Annotated[str, bounds(min_length=1, max_length=500)]
Script = Annotated[str, bounds(min_length=1, max_length=20_000)]
Count = Annotated[int, bounds(ge=0, le=100_000)]
Tokens = Annotated[int, bounds(ge=0, le=10_000_000)]
"""Of one request: as many as the longest that a trace may hold."""
Edges = Annotated[list[int], bounds(min_length=2, max_length=201)]
Rows = Annotated[list[list[NotNegative]], bounds(min_length=1, max_length=200)]
SizeRows = Annotated[list[list[NotNegative | None]], bounds(min_length=1, max_length=200)]
Texts = Annotated[list[Text], or_one_text]
Accelerators = Annotated[list[Text], or_one_text, or_counted]
Accelerator = Annotated[str, bounds(min_length=1, max_length=500), or_one_counted]


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class SloSection:
    """`slo`."""

    tpot_ms: Positive | None = None
    ttft_ms: Positive | None = None
    attainment: Fraction = 0.95
    attainment_per_bucket: bool = False


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class CoverageSection:
    """How much of a trace a histogram tells."""

    requests: Annotated[int, bounds(ge=0)] | None = None
    beyond_fraction: Share = 0.0
    longest_input_tokens: Tokens | None = None
    longest_output_tokens: Tokens | None = None


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class HistogramSection:
    """A histogram written into the spec or a workload file."""

    input_edges: Edges
    output_edges: Edges
    weights: Rows
    input_sizes: SizeRows | None = None
    output_sizes: SizeRows | None = None
    coverage: CoverageSection | None = None
    source: Text | None = None


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class GridSection:
    """`workload.grid`."""

    input_edges: Edges | None = None
    output_edges: Edges | None = None


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class ImagesSection:
    """`workload.images`."""

    per_request: Annotated[float, bounds(gt=0, le=1000, allow_inf_nan=False)]
    tokens: Annotated[int, bounds(ge=1, le=1_000_000)]


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class SpreadSection:
    """A mean and its 95th percentile."""

    mean: Positive
    p95: Positive | None = None


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class ReuseSection:
    """`workload.reuse`, where it is more than a word."""

    stack_distance: (
        Annotated[
            list[Annotated[list[NotNegative], bounds(min_length=2, max_length=2)]],
            bounds(min_length=1, max_length=1000),
        ]
        | None
    ) = None
    infinite_hit: Share | None = None
    shared_prefix_tokens: Count = 0
    shared_fraction: Share | None = None
    session_turns: SpreadSection | None = None
    think_time_s: SpreadSection | None = None
    block_tokens: Annotated[int, bounds(ge=1, le=65536)] = 16
    source: Text | None = None


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class WorkloadSection:
    """`workload`."""

    rate_rps: Rate | None = None
    rate: Any = None  # a number or a word; `demand` says which words
    burstiness: Burstiness | None = None
    distribution: Text | None = None
    trace: Texts | None = None  # a file, or files
    histogram: HistogramSection | None = None
    input_tokens: Any = None  # a mean, or {mean, p95}; `averages` reads it
    output_tokens: Any = None
    grid: GridSection | None = None
    columns: Any = None  # of a trace, by role: a mapping or text; `traces.options` reads it
    timezone: Text | None = None
    keep_failed: bool = False
    images: ImagesSection | None = None
    reuse: Any = None  # a section or a word; `reuse` says which


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class FixedSection:
    """One of `resources.fixed` or `resources.minimum`."""

    accelerators: Accelerator
    infra: Text | None = None
    instances: Annotated[int, bounds(ge=1, le=10_000)]


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class CurrentSection:
    """One of `current`."""

    accelerators: Accelerator
    infra: Text | None = None
    instances: Annotated[int, bounds(ge=1, le=10_000)]
    usd_per_hour: Positive | None = None
    split: Text | None = None


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class SpotSection:
    """`resources.spot`."""

    max_fraction: Share = 1.0
    interruption_rate: NotNegative | None = None
    recovery_s: NotNegative | None = None


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class ResourcesSection:
    """`resources`."""

    accelerators: Accelerators | None = None
    infra: Texts | None = None
    use_spot: bool = False
    limits: dict[str, Count] = field(default_factory=dict)
    budget_usd_per_hour: Positive | None = None
    fixed: list[FixedSection] = field(default_factory=list)
    minimum: list[FixedSection] = field(default_factory=list)
    max_option_types: Annotated[int, bounds(ge=1, le=1000)] | None = None
    min_option_types: Annotated[int, bounds(ge=1, le=1000)] = 1
    spot: SpotSection | None = None
    pcie_tensor_parallel: bool = False
    max_nodes_per_replica: Annotated[int, bounds(ge=1, le=16)] = 1
    assumed_splits: Text = "robust"


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class RedundancySection:
    """`redundancy`."""

    spare: Annotated[int, bounds(ge=0, le=1000)] = 0
    min_replicas: Annotated[int, bounds(ge=1, le=10_000)] = 1
    max_share_per_region: Fraction | None = None
    max_share_per_cloud: Fraction | None = None


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class EngineSection:
    """`engine`."""

    name: Text | None = None
    version: Text | None = None
    quantization: Texts | None = None
    args: list[Text] = field(default_factory=list)
    env: dict[str, Annotated[str, bounds(max_length=2000)]] = field(default_factory=dict)
    setup: Script | None = None


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class ElasticSection:
    """`elastic`."""

    min: Annotated[float, bounds(gt=0, le=1, allow_inf_nan=False)] = 1.0
    max: Annotated[float, bounds(ge=1, le=100, allow_inf_nan=False)] = 1.0
    upscale_delay_s: Annotated[float, bounds(ge=0, le=86_400, allow_inf_nan=False)] = 300.0
    downscale_delay_s: Annotated[float, bounds(ge=0, le=86_400, allow_inf_nan=False)] = 1200.0


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class GuardSection:
    """`guard`."""

    launch: Any = None
    max_usd_per_hour: Positive | None = None
    max_change_instances: Annotated[int, bounds(ge=0, le=10_000)] | None = None
    min_interval_s: NotNegative | None = None
    hours: Text | None = None
    approve_above_usd: NotNegative | None = None
    freeze: bool = False


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class ModelSection:
    """The four keys that say what is served; `name` is the spec's own where there is one model."""

    name: Text
    model: Any = None
    slo: Any = None
    workload: Any = None
    model_config: Text | None = None
    sky: Any = None


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class SpecSection:
    """The top level. Sections stay raw here and are validated one by one."""

    name: Text
    model: Any = None
    model_config: Text | None = None
    slo: Any = None
    workload: Any = None
    models: list[Any] | None = None
    resources: Any = None
    redundancy: Any = None
    headroom: Annotated[float, bounds(ge=0, le=0.95, allow_inf_nan=False)] = 0.1
    unusual: Texts | None = None
    engine: Any = None
    current: Any = None
    sky: Any = None
    offers: Any = None
    guard: Any = None
    elastic: Any = None


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class WorkloadFile:
    """A file that `melange-sky workload` writes, or a shipped distribution with its origin."""

    workload: WorkloadSection
    description: Text | None = None
    citation: Text | None = None
    licence: Text | None = None
    derivation: Text | None = None


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class MelangeGpu:
    """One GPU of Mélange's config."""

    cost: Positive
    tputs: Rows


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class MelangeSection:
    """Mélange's own JSON config."""

    gpu_info: Annotated[dict[str, Any], bounds(min_length=1, max_length=100)]
    workload_distribution: Rows
    total_request_rate: Rate
    slice_factor: Annotated[int, bounds(ge=1, le=10_000)] = 1


SECTIONS: dict[str, type[Any]] = {
    "": SpecSection,
    "models[]": ModelSection,
    "slo": SloSection,
    "workload": WorkloadSection,
    "workload.reuse": ReuseSection,
    "resources": ResourcesSection,
    "redundancy": RedundancySection,
    "engine": EngineSection,
    "current[]": CurrentSection,
    "guard": GuardSection,
    "elastic": ElasticSection,
}
"""The sections of a spec by the path of their key: all that a spec may hold, for its reference."""

OTHER_FILES: dict[str, type[Any]] = {"workload-file": WorkloadFile, "melange": MelangeSection}
"""The other files that are read as specs or by them."""
