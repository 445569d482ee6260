"""One profiling job as SkyPilot takes it: the planned server, and the profiler that measures it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml

from melange_sky.engines import engine_named
from melange_sky.plans import SKY_KEYS, Allocation
from melange_sky.profiler import ServerPages
from melange_sky.profiler.bundle import bundle_text
from melange_sky.profiletable import Provenance
from melange_sky.rendering import PORT, serve_command, service_document, service_skeleton
from melange_sky.rendering.sizing import initial_delay_s
from melange_sky.resources import profiling_dir

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.capacity_search import SizeDemand
    from melange_sky.plans import ModelPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """Limits of the measuring: minutes of one job and dollars of all together, None for none.

    `error_bound` is how far the plan's cost may be off because not every size is measured.
    `accelerators` (``A10G`` or ``A10G:4``) limits what is measured.
    `bucket` (s3://…, gs://…, or the path of a folder that every node shares) keeps tables between
    restarts; without one they leave by the log alone.
    `search` changes the rate search's own options by name; `late_s` None keeps the profiler's.
    """

    max_minutes: float | None = None
    max_usd: float | None = None
    error_bound: float = 0.05
    bucket: str | None = None
    accelerators: tuple[str, ...] = ()
    search: Mapping[str, float] = field(default_factory=dict)
    late_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWork:
    """What one job has to do: sizes to measure of those asked for, and for how long at most."""

    name: str
    demand: SizeDemand
    sizes: tuple[tuple[int, int], ...]
    measured: int
    minutes: float
    limit_minutes: float
    expected_error: float


def job_document(
    plan: ModelPlan, candidate: OptionCapacity, work: JobWork, options: JobOptions
) -> dict[str, Any]:
    """Fill the skeleton: the server is the very one that the plan deploys."""
    engine = engine_named(plan.engine.name)
    service = service_document(plan, _alone(plan, candidate))
    task = _task(plan, candidate, work, options)
    _, mounts = _kept_in(options.bucket, work.name)
    document: dict[str, Any] = dict(_skeleton())
    document["name"] = work.name
    document["resources"] = {k: v for k, v in service["resources"].items() if k != "ports"}
    document["envs"] = {
        **service.get("envs", {}),
        "MELANGE_TASK": json.dumps(task),
        "MELANGE_SERVE": service["run"],
    }
    document["secrets"] = service["secrets"]
    document["setup"] = service["setup"]
    script = document["run"].replace("@PROGRAM@", engine.program)
    script = script.replace("@ACTIVATE@\n", service_skeleton(engine.template)["run"])
    document["run"] = f"bundle='\n{bundle_text()}\n'\n{script}"
    for key in SKY_KEYS:  # what a user adds to the services goes with the measurement
        if key in service:
            document[key] = service[key]
    if mounts:
        document["file_mounts"] = {**service.get("file_mounts", {}), **mounts}
    return document


def _task(
    plan: ModelPlan, candidate: OptionCapacity, work: JobWork, options: JobOptions
) -> dict[str, Any]:
    """Return the task of a job, as `profiler.job` reads it."""
    engine = engine_named(plan.engine.name)
    folder, _ = _kept_in(options.bucket, work.name)
    task: dict[str, Any] = {
        "model": plan.model,
        "port": PORT,
        "slo": asdict(plan.slo),
        "demand": asdict(work.demand),
        "provenance": _provenance(plan, candidate),
        "budget_s": round(work.limit_minutes * 60),
        "ready_s": initial_delay_s(plan, candidate.option),
        "timeout_s": 600.0,
        "folder": folder,
        "search": dict(options.search),
        "key_variable": engine.key_variable,
        "pages": asdict(ServerPages.of(engine)),
    }
    if options.late_s is not None:
        task["late_s"] = options.late_s
    return task


def _provenance(plan: ModelPlan, candidate: OptionCapacity) -> dict[str, Any]:
    """Return what is known beforehand of what the job measures."""
    option, settings = candidate.option, candidate.option.engine
    assert option.offer is not None
    source, shape = plan.source_of(option), plan.shape_of(option)
    made = Provenance(
        model=plan.checkpoint_of(option),
        accelerator=option.gpu,
        accelerator_count=option.accelerator_count,
        tensor_parallel=settings.tensor_parallel if settings else None,
        data_parallel=settings.data_parallel if settings else None,
        pipeline_parallel=settings.pipeline_parallel if settings else None,
        expert_parallel=settings.expert_parallel if settings else None,
        revision=None if source is None else source.revision,
        weight_bytes=None if shape is None else round(shape.weight_bytes),
        engine=plan.engine.name,
        cloud=option.offer.cloud,
        region=option.offer.region,
        instance_type=option.offer.instance_type,
    )
    known = {k: v for k, v in asdict(made).items() if v is not None}
    return known | {"engine_flags": list(serve_command(plan, option).flag_words)}


def _alone(plan: ModelPlan, candidate: OptionCapacity) -> Allocation:
    nothing = tuple(tuple(0.0 for _ in row) for row in plan.workload.rates_rps)
    return Allocation(
        candidate=candidate, instances=1, load_fraction=0.0, rate_rps=0.0, shares=nothing
    )


def _kept_in(bucket: str | None, name: str) -> tuple[str, dict[str, Any]]:
    """Return the folder of a job's table on its machine, and the mounts that it needs."""
    if bucket is None:
        return "~/melange-profile", {}
    if bucket.startswith("/"):
        return f"{bucket.rstrip('/')}/{name}", {}
    return f"/melange-results/{name}", {"/melange-results": {"source": bucket, "mode": "MOUNT"}}


@lru_cache(maxsize=1)
def _skeleton() -> dict[str, Any]:
    skeleton: dict[str, Any] = yaml.safe_load(
        (profiling_dir() / "job.yaml").read_text(encoding="utf-8")
    )
    return skeleton
