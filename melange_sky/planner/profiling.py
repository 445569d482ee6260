"""From a plan's candidates to the jobs that measure them: what, where, how long, for how much."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml

from melange_sky.capacity_search import Demand, Measured, plan_sizes
from melange_sky.capacity_search.sizes import cell_seconds
from melange_sky.engines import engine_named
from melange_sky.errors import InputError, did_you_mean
from melange_sky.plans import Allocation
from melange_sky.profiler import GridOptions, ServerPages
from melange_sky.profiler.bundle import bundle_text
from melange_sky.profiler.grid import is_answered, measured_of
from melange_sky.profiles import ReplicaShape, is_of, is_usable
from melange_sky.profiletable import ProfileTable, Provenance
from melange_sky.rendering import PORT, serve_command, service_document, service_skeleton
from melange_sky.rendering.sizing import initial_delay_s
from melange_sky.resources import profiling_dir

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.plans import ModelPlan

_BUCKET = re.compile(r"([a-z0-9]+:/)?/[A-Za-z0-9._/-]+")


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
class ProfilingJob:
    """One accelerator to measure. `minutes` and `usd` are estimates; `limit_minutes` is the hard end.

    `sizes` are those that would be measured if the estimates had the right shape; the job itself
    chooses from what it sees. `expected_error`: how far the cost may then still be off.
    """

    name: str
    model: str
    accelerator: str
    instance_type: str
    infra: str
    price_usd_per_hour: float
    dearest_usd_per_hour: float
    use_spot: bool
    sizes: tuple[tuple[int, int], ...]
    measured: int
    minutes: float
    limit_minutes: float
    expected_error: float
    document: dict[str, Any]

    @property
    def usd(self) -> float:
        """Estimated cost."""
        return self.minutes / 60 * self.price_usd_per_hour

    @property
    def limit_usd(self) -> float:
        """What the job can cost at most, by its time limit and in the dearest region it may run in."""
        return self.limit_minutes / 60 * self.dearest_usd_per_hour


def profiling_jobs(
    plan: ModelPlan, tables: Sequence[ProfileTable], options: JobOptions
) -> tuple[ProfilingJob, ...]:
    """Return one job per very GPU among the plan's candidates, or per kind in `options`.

    Of an accelerator's counts, splits and offers the one that serves the workload cheapest by the
    estimates is measured, with the sizes that no table answers yet; a job without such sizes is
    returned with none, so that the caller can say so.
    """
    if options.bucket is not None and not _BUCKET.fullmatch(options.bucket):
        raise InputError(
            "--bucket must be an address such as s3://name/folder, or a folder's full path"
        )
    best: dict[str, tuple[float, str, OptionCapacity]] = {}
    for candidate in plan.candidates:
        option = candidate.option
        worth = _cost_alone(plan, candidate)
        if option.offer is None or worth is None:
            continue
        for key in (option.gpu, f"{option.gpu}:{option.accelerator_count}"):
            if key not in best or (worth, option.name) < best[key][:2]:
                best[key] = (worth, option.name, candidate)
    return tuple(
        _job(plan, best[key][2], tables, options) for key in _kinds(best, options.accelerators)
    )


def _kinds(best: Mapping[str, object], asked: Sequence[str]) -> list[str]:
    """Return the kinds to measure: each accelerator once, or what was asked, spelled as known."""
    if not asked:
        return sorted(key for key in best if ":" not in key)
    folded = {key.casefold(): key for key in best}
    unknown = [word for word in asked if word.casefold() not in folded]
    if unknown:
        raise InputError(
            f"--accelerators: {unknown[0][:80]} is no candidate that can serve this workload"
            f"{did_you_mean(unknown[0], best)}; there are: {', '.join(sorted(best))}"
        )
    return sorted({folded[word.casefold()] for word in asked})


def _cost_alone(plan: ModelPlan, candidate: OptionCapacity) -> float | None:
    """Return dollars per hour to serve what it can of the workload, per served share; None for none."""
    workload = plan.workload
    served = load = 0.0
    for i, j in workload.buckets():
        rate = candidate.rate(i, j)
        if rate:
            served += workload.rates_rps[i][j]
            load += workload.rates_rps[i][j] / rate
    if served <= 0:
        return None
    return load * candidate.option.price_usd_per_hour / (served / workload.rate_rps) ** 4


def within_budget(
    jobs: Sequence[ProfilingJob], max_usd: float | None
) -> tuple[tuple[ProfilingJob, ...], tuple[ProfilingJob, ...]]:
    """Split jobs into those whose hard limits fit the budget together, cheapest first, and the rest."""
    if max_usd is None:
        return tuple(jobs), ()
    taken: list[ProfilingJob] = []
    left: list[ProfilingJob] = []
    spent = 0.0
    for job in sorted(jobs, key=lambda j: (j.limit_usd, j.name)):
        if spent + job.limit_usd <= max_usd:
            taken.append(job)
            spent += job.limit_usd
        else:
            left.append(job)
    return tuple(taken), tuple(left)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What one job has to do: sizes to measure of those asked for, and for how long at most."""

    name: str
    demand: Demand
    sizes: tuple[tuple[int, int], ...]
    measured: int
    minutes: float
    limit_minutes: float
    expected_error: float


def _job(
    plan: ModelPlan,
    candidate: OptionCapacity,
    tables: Sequence[ProfileTable],
    options: JobOptions,
) -> ProfilingJob:
    option = candidate.option
    assert option.offer is not None
    work = _work(plan, candidate, tables, options)
    return ProfilingJob(
        name=work.name,
        model=plan.model,
        accelerator=f"{option.gpu}:{option.accelerator_count}",
        instance_type=option.offer.instance_type,
        use_spot=option.use_spot,
        infra=f"{option.offer.cloud}/{option.offer.region}".rstrip("/"),
        price_usd_per_hour=option.price_usd_per_hour,
        dearest_usd_per_hour=max(map(option.price_in, option.places)),
        sizes=work.sizes,
        measured=work.measured,
        minutes=work.minutes if work.sizes else 0.0,
        limit_minutes=work.limit_minutes if work.sizes else 0.0,
        expected_error=work.expected_error,
        document=_document(plan, candidate, work, options),
    )


def _work(
    plan: ModelPlan,
    candidate: OptionCapacity,
    tables: Sequence[ProfileTable],
    options: JobOptions,
) -> _Work:
    demand = job_demand(plan, candidate, options.error_bound)
    grid = GridOptions(slo=plan.slo, demand=demand)
    known: dict[tuple[int, int], Measured] = {}
    for table in tables:
        if _answers(table.provenance, plan, candidate):
            known |= {
                size: measured_of(table, size, grid)
                for size in demand.sizes
                if is_answered(table, size, grid)
            }
    todo, expected_error = plan_sizes(demand, plan.slo, known)
    guesses = dict(zip(demand.sizes, demand.guesses_rps, strict=True))
    setup_s = float(initial_delay_s(plan))
    minutes = (setup_s + sum(cell_seconds(guesses[size], size, plan.slo) for size in todo)) / 60
    return _Work(
        name=_job_name(plan, candidate),
        demand=demand,
        sizes=tuple(todo),
        measured=len(known),
        minutes=minutes,
        limit_minutes=min(2 * minutes + 5, options.max_minutes or float("inf")),
        expected_error=expected_error,
    )


def job_demand(plan: ModelPlan, candidate: OptionCapacity, error_bound: float) -> Demand:
    """Return the sizes that the plan asks of an option, with their rates of requests and estimates.

    Sizes that the option is thought unable to serve are left out: nothing is planned on them.
    """
    workload = plan.workload
    weights: dict[tuple[int, int], float] = {}
    guesses: dict[tuple[int, int], float] = {}
    for i, j in workload.buckets():
        rate = candidate.rate(i, j)
        size = (
            max(1, round(workload.input_sizes[i][j])),
            max(1, round(workload.output_sizes[i][j])),
        )
        if rate:
            weights[size] = weights.get(size, 0.0) + workload.rates_rps[i][j]
            guesses[size] = rate
    sizes = tuple(sorted(weights, key=lambda size: (size[0] / 10 + size[1], size)))
    return Demand(
        sizes=sizes,
        weights=tuple(weights[s] for s in sizes),
        guesses_rps=tuple(guesses[s] for s in sizes),
        error_bound=error_bound,
    )


def _answers(made: Provenance, plan: ModelPlan, candidate: OptionCapacity) -> bool:
    """Return whether plans would take a table's rates for this candidate."""
    shape = ReplicaShape.of(candidate.option)
    engine = engine_named(plan.engine.name)
    return is_of(made, plan.model, shape) and is_usable(made, engine, plan.engine.args)


def _alone(plan: ModelPlan, candidate: OptionCapacity) -> Allocation:
    nothing = tuple(tuple(0.0 for _ in row) for row in plan.workload.rates_rps)
    return Allocation(
        candidate=candidate, instances=1, load_fraction=0.0, rate_rps=0.0, shares=nothing
    )


def job_prefix(plan_name: str) -> str:
    """Return how the names of a plan's jobs start, so that any machine can ask for them.

    >>> job_prefix("Chat.v2")
    'chat-v2-profile-'
    """
    return re.sub(r"[^a-z0-9]+", "-", plan_name.lower()).strip("-") + "-profile-"


def _job_name(plan: ModelPlan, candidate: OptionCapacity) -> str:
    option = candidate.option
    kind = re.sub(r"[^a-z0-9]+", "-", f"{option.gpu}-{option.accelerator_count}".lower())
    return job_prefix(plan.name) + kind.strip("-")


def _document(
    plan: ModelPlan, candidate: OptionCapacity, work: _Work, options: JobOptions
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
    if mounts:
        document["file_mounts"] = mounts
    return document


def _task(
    plan: ModelPlan, candidate: OptionCapacity, work: _Work, options: JobOptions
) -> dict[str, Any]:
    """Return what the job is told, as `profiler.job` reads it."""
    engine = engine_named(plan.engine.name)
    folder, _ = _kept_in(options.bucket, work.name)
    task: dict[str, Any] = {
        "model": plan.model,
        "port": PORT,
        "slo": asdict(plan.slo),
        "demand": asdict(work.demand),
        "provenance": _provenance(plan, candidate),
        "budget_s": round(work.limit_minutes * 60),
        "ready_s": initial_delay_s(plan),
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
    made = Provenance(
        model=plan.model,
        accelerator=option.gpu,
        accelerator_count=option.accelerator_count,
        tensor_parallel=settings.tensor_parallel if settings else None,
        data_parallel=settings.data_parallel if settings else None,
        engine=plan.engine.name,
        cloud=option.offer.cloud,
        region=option.offer.region,
        instance_type=option.offer.instance_type,
    )
    known = {k: v for k, v in asdict(made).items() if v is not None}
    return known | {"engine_flags": list(serve_command(plan, option).flag_words)}


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
