"""The keys of a spec, section by section: types and ranges only. Meaning is checked in `load`.

Each section is validated by itself, so that a mistake in one does not hide those in the others.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MOST_RPS = 1e6
"""Highest request rate that a spec may ask for; more is a slip of the unit."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=MOST_RPS, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=500)]
Script = Annotated[str, Field(min_length=1, max_length=20_000)]
Count = Annotated[int, Field(ge=0, le=100_000)]
Edges = Annotated[list[int], Field(min_length=2, max_length=201)]
Rows = Annotated[list[list[NotNegative]], Field(min_length=1, max_length=200)]
SizeRows = Annotated[list[list[NotNegative | None]], Field(min_length=1, max_length=200)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[Text], BeforeValidator(_as_list)]


class Section(BaseModel):
    """Unknown keys and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SloSection(Section):
    tpot_ms: Positive | None = None
    ttft_ms: Positive | None = None
    attainment: Fraction = 0.95


class CoverageSection(Section):
    requests: Annotated[int, Field(ge=0)] | None = None
    beyond_fraction: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    longest_input_tokens: Count | None = None
    longest_output_tokens: Count | None = None


class HistogramSection(Section):
    input_edges: Edges
    output_edges: Edges
    weights: Rows
    input_sizes: SizeRows | None = None
    output_sizes: SizeRows | None = None
    coverage: CoverageSection | None = None
    source: Text | None = None


class GridSection(Section):
    input_edges: Edges | None = None
    output_edges: Edges | None = None


class WorkloadSection(Section):
    rate_rps: Rate | None = None
    distribution: Text | None = None
    trace: Text | None = None
    histogram: HistogramSection | None = None
    grid: GridSection | None = None


class FixedSection(Section):
    accelerators: Text
    infra: Text | None = None
    instances: Annotated[int, Field(ge=1, le=10_000)]


class SpotSection(Section):
    max_fraction: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    interruption_rate: NotNegative | None = None
    recovery_s: NotNegative | None = None


class ResourcesSection(Section):
    accelerators: Texts | None = None
    infra: Texts | None = None
    use_spot: bool = False
    limits: dict[str, Count] = Field(default_factory=dict)
    budget_usd_per_hour: Positive | None = None
    fixed: list[FixedSection] = Field(default_factory=list)
    minimum: list[FixedSection] = Field(default_factory=list)
    spot: SpotSection | None = None


class RedundancySection(Section):
    spare: Annotated[int, Field(ge=0, le=1000)] = 0
    min_replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    max_share_per_region: Fraction | None = None
    max_share_per_cloud: Fraction | None = None


class EngineSection(Section):
    version: Text | None = None
    args: list[Text] = Field(default_factory=list)
    env: dict[str, Annotated[str, Field(max_length=2000)]] = Field(default_factory=dict)
    setup: Script | None = None


class ModelSection(Section):
    """The four keys that say what is served; `name` is the spec's own where there is one model."""

    name: Text
    model: Text | None = None
    slo: Any = None
    workload: Any = None
    config_path: Text | None = Field(default=None, alias="model_config")


class SpecSection(Section):
    """The top level. Sections stay raw here and are validated one by one."""

    name: Text
    model: Text | None = None
    config_path: Text | None = Field(default=None, alias="model_config")
    slo: Any = None
    workload: Any = None
    models: list[Any] | None = None
    resources: Any = None
    redundancy: Any = None
    headroom: Annotated[float, Field(ge=0, le=0.95, allow_inf_nan=False)] = 0.1
    engine: Any = None


class WorkloadFile(Section):
    """A file that `melange-sky workload` writes, or a shipped distribution with its origin."""

    workload: WorkloadSection
    description: Text | None = None
    citation: Text | None = None
    licence: Text | None = None
    derivation: Text | None = None


class MelangeGpu(Section):
    cost: Positive
    tputs: Rows


class MelangeSection(Section):
    """Mélange's own JSON config."""

    gpu_info: Annotated[dict[str, Any], Field(min_length=1, max_length=100)]
    workload_distribution: Rows
    total_request_rate: Rate
    slice_factor: Annotated[int, Field(ge=1, le=10_000)] = 1
