"""From a plan's candidates to the jobs that measure them: what, where, how long, for how much."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melange_sky.capacity_search import MeasuredRate, SizeDemand, plan_sizes
from melange_sky.capacity_search.sizes import cell_seconds
from melange_sky.engines import engine_named
from melange_sky.errors import InputError, did_you_mean
from melange_sky.planner.job_document import JobOptions, JobWork, job_document
from melange_sky.profiler import GridOptions
from melange_sky.profiler.grid import is_answered, measured_of
from melange_sky.profiles import ReplicaShape, has_weights, is_of, is_usable
from melange_sky.profiletable import ProfileTable, Provenance
from melange_sky.rendering.sizing import initial_delay_s

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity
    from melange_sky.plans import ModelPlan

_BUCKET = re.compile(r"([a-z0-9]+:/)?/[A-Za-z0-9._/-]+")


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
    returned with none, so that the caller can say so. Replicas over several nodes are not measured.
    """
    if options.bucket is not None and not _BUCKET.fullmatch(options.bucket):
        raise InputError(
            "--bucket must be an address such as s3://name/folder, or a folder's full path"
        )
    best: dict[str, tuple[float, str, OptionCapacity]] = {}
    for candidate in plan.candidates:
        option = candidate.option
        worth = _cost_alone(plan, candidate)
        if option.offer is None or option.nodes > 1 or worth is None:
            continue
        for key in (option.gpu, f"{option.gpu}:{option.accelerator_count}"):
            if key not in best or (worth, option.name) < best[key][:2]:
                best[key] = (worth, option.name, candidate)
    return tuple(
        _job(plan, best[key][2], tables, options) for key in _kinds(best, options.accelerators)
    )


def _kinds(best: Mapping[str, object], names: Sequence[str]) -> list[str]:
    """Return the kinds to measure: each accelerator once, or what was asked, spelled as known."""
    if not names:
        return sorted(key for key in best if ":" not in key)
    folded = {key.casefold(): key for key in best}
    unknown = [word for word in names if word.casefold() not in folded]
    if unknown:
        raise InputError(
            f"--accelerators: {unknown[0][:80]} is no candidate that can serve this workload"
            f"{did_you_mean(unknown[0], best)}; there are: {', '.join(sorted(best))}"
        )
    return sorted({folded[word.casefold()] for word in names})


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
        document=job_document(plan, candidate, work, options),
    )


def _work(
    plan: ModelPlan,
    candidate: OptionCapacity,
    tables: Sequence[ProfileTable],
    options: JobOptions,
) -> JobWork:
    demand = job_demand(plan, candidate, options.error_bound)
    grid = GridOptions(slo=plan.slo, demand=demand)
    known: dict[tuple[int, int], MeasuredRate] = {}
    for table in tables:
        if _answers(table.provenance, plan, candidate):
            known |= {
                size: measured_of(table, size, grid)
                for size in demand.sizes
                if is_answered(table, size, grid)
            }
    todo, expected_error = plan_sizes(demand, plan.slo, known)
    guesses = dict(zip(demand.sizes, demand.guesses_rps, strict=True))
    setup_s = float(initial_delay_s(plan, candidate.option))
    minutes = (setup_s + sum(cell_seconds(guesses[size], size, plan.slo) for size in todo)) / 60
    return JobWork(
        name=_job_name(plan, candidate),
        demand=demand,
        sizes=tuple(todo),
        measured=len(known),
        minutes=minutes,
        limit_minutes=min(2 * minutes + 5, options.max_minutes or float("inf")),
        expected_error=expected_error,
    )


def job_demand(plan: ModelPlan, candidate: OptionCapacity, error_bound: float) -> SizeDemand:
    """Return the sizes that the plan asks of an option, with their rates of requests and estimates.

    Sizes that the option is thought unable to serve are left out: nothing is planned on them.
    """
    workload = plan.workload.as_prompts()
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
    return SizeDemand(
        sizes=sizes,
        weights=tuple(weights[s] for s in sizes),
        guesses_rps=tuple(guesses[s] for s in sizes),
        error_bound=error_bound,
    )


def _answers(made: Provenance, plan: ModelPlan, candidate: OptionCapacity) -> bool:
    """Return whether plans would take a table's rates for this candidate."""
    shape = ReplicaShape.of(candidate.option)
    choice, model = plan.engine_for(candidate.option), plan.shape_of(candidate.option)
    engine = engine_named(choice.name)
    return (
        is_of(made, plan.checkpoint_of(candidate.option), shape)
        and is_usable(made, engine, choice.args)
        and has_weights(made, model)
    )


def job_prefix(plan_name: str) -> str:
    """Return how the names of a plan's jobs start, so that any machine can ask for them.

    >>> job_prefix("Chat.v2")
    'chat-v2-profile-'
    """
    return re.sub(r"[^a-z0-9]+", "-", plan_name.lower()).strip("-") + "-profile-"


def _job_name(plan: ModelPlan, candidate: OptionCapacity) -> str:
    option = candidate.option
    parts = [option.gpu, str(option.accelerator_count), option.form or ""]
    kind = re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower())
    return job_prefix(plan.name) + kind.strip("-")
