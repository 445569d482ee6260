"""Measuring jobs on SkyPilot: planned, launched, followed, collected; what `profile launch` does."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky import settings
from melange_sky.capacity_search import REAL_SEARCH
from melange_sky.engines import ENGINES
from melange_sky.errors import InputError, MelangeError
from melange_sky.planner.job_document import JobOptions
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.profiling import (
    ProfilingJob,
    job_prefix,
    profiling_jobs,
    within_budget,
)
from melange_sky.planner.request import PlanRequest, launching
from melange_sky.pricing import OfferQuery
from melange_sky.profiler.sky_collect import merge, read_log
from melange_sky.profiler.skyjobs import JobState, SkyJobs
from melange_sky.profiletable import load_tables
from melange_sky.rendering import GATED_SECRET
from melange_sky.spec import SpecSource, load_own_spec, source_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

POLL_S = 15.0
SECRETS = (GATED_SECRET, *(engine.key_variable for engine in ENGINES.values()))
"""Variables whose values jobs may need: the token of gated models, and the engines' keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """What to measure and for how much: the flags of `profile launch`, by their names.

    `out` None is the profile store. `accelerators` is A10G,A100-80GB:2, empty for each once.
    """

    clusters: bool = False
    max_minutes: float | None = None
    max_usd: float | None = None
    error_bound: float = 0.05
    bucket: str | None = None
    tolerance: float | None = None
    max_requests: int | None = None
    max_lateness_ms: float | None = None
    offers: Path | None = None
    accelerators: str | None = None
    out: Path | None = None
    offline: bool = False

    @property
    def search(self) -> dict[str, float]:
        """The rate search's own options that differ from their defaults, by name."""
        changed: dict[str, float] = {}
        if self.tolerance is not None:
            changed["tolerance"] = self.tolerance
        most = self.max_requests
        if most is not None:
            changed["max_requests"] = most
            changed["confirm_requests"] = min(most, REAL_SEARCH.confirm_requests)
            changed["min_requests"] = min(most, REAL_SEARCH.min_requests)
        return changed

    @property
    def job(self) -> JobOptions:
        """What each job is bound by."""
        late_ms = self.max_lateness_ms
        return JobOptions(
            max_minutes=self.max_minutes,
            error_bound=self.error_bound,
            bucket=self.bucket,
            search=self.search,
            late_s=None if late_ms is None else late_ms / 1e3,
            accelerators=tuple(
                word.strip() for word in (self.accelerators or "").split(",") if word.strip()
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsPreview:
    """The jobs of a spec: all of them, those that the budget takes, and those that it leaves."""

    jobs: tuple[ProfilingJob, ...]
    taken: tuple[ProfilingJob, ...]
    left: tuple[ProfilingJob, ...]
    max_usd: float | None = None

    def require_any(self) -> None:
        """Raise InputError where there is work and no job of it fits the budget."""
        if not self.taken and self.left and self.max_usd is not None:
            raise InputError(
                f"no job fits --max-usd {self.max_usd:g}: the cheapest may cost "
                f"${self.left[0].limit_usd:.2f}"
            )


def preview_jobs(source: SpecSource, options: LaunchOptions) -> JobsPreview:
    """Plan the spec and return the jobs that would measure its candidates; launches nothing.

    Raises InputError where the spec has no priced candidate, and what planning raises.
    """
    prices = OfferQuery(offline=options.offline, offers_csv=options.offers)
    planned = plan_spec(source, PlanRequest(prices=prices, sensitivity=False))
    tables = load_tables(options.out or settings.profiles_dir())
    log.info("%d measured tables in %s", len(tables), options.out or settings.profiles_dir())
    jobs = tuple(
        job for plan in planned.models for job in profiling_jobs(plan, tables, options.job)
    )
    if not jobs:
        raise InputError(f"{source_name(source)}: no priced candidate to measure")
    todo = [job for job in jobs if job.sizes]
    taken, left = within_budget(todo, options.max_usd)
    log.info("%d jobs, %d with sizes to measure, %d taken", len(jobs), len(todo), len(taken))
    return JobsPreview(jobs=jobs, taken=taken, left=left, max_usd=options.max_usd)


def jobs_api(*, clusters: bool) -> SkyJobs:
    """Return SkyPilot's jobs, or with `clusters` one cluster per job; secrets from the environment."""
    secrets = settings.secrets(SECRETS)
    return SkyJobs(managed=not clusters, secrets=secrets)


def run_jobs(
    api: SkyJobs,
    jobs: Sequence[ProfilingJob],
    *,
    detach: bool = False,
    out: Path | None = None,
    on_event: Callable[[str], None] = log.info,
) -> None:
    """Launch the jobs; unless detached, collect results until every one has ended.

    Raises MelangeError naming those that did not succeed.
    """
    launch_jobs(api, jobs, on_event)
    if not detach:
        follow_jobs(api, [job.name for job in jobs], out=out, on_event=on_event)


def launch_jobs(
    api: SkyJobs, jobs: Sequence[ProfilingJob], on_event: Callable[[str], None] = log.info
) -> None:
    """Submit the jobs; returns when SkyPilot has taken all of them over."""
    for job in jobs:
        api.launch(job.name, job.document)
        on_event(f"{job.name}: launched")


def follow_jobs(
    api: SkyJobs,
    names: Sequence[str],
    *,
    out: Path | None = None,
    on_event: Callable[[str], None] = log.info,
) -> None:
    """Collect results until every job has ended; `on_event` gets each new line.

    Raises MelangeError naming those that did not succeed.
    """
    open_names, shown, failed = list(names), dict[str, str](), []
    while open_names:
        time.sleep(POLL_S)
        states = api.states(open_names)
        for name in list(open_names):
            state = states.get(name)
            if state is None:
                continue
            line = collect_job(api, name, state, out or settings.profiles_dir())
            if shown.get(name) != line:
                on_event(line)
                shown[name] = line
            if state.ended:
                open_names.remove(name)
                if state.status != "SUCCEEDED":
                    failed.append(name)
    if failed:
        raise MelangeError(
            f"{', '.join(failed)} did not succeed; what they measured is kept, and launching again "
            "measures only what is missing"
        )


def stop_jobs(
    api: SkyJobs, names: Sequence[str], on_event: Callable[[str], None] = log.info
) -> None:
    """Tear the jobs down; `on_event` gets a line for each that SkyPilot does not stop."""
    for name in names:
        refusal = _refusal(api, name)
        if refusal is not None:
            on_event(refusal)


def _refusal(api: SkyJobs, name: str) -> str | None:
    try:
        api.stop(name)
    except MelangeError as error:
        return str(error)
    return None


def job_states(source: SpecSource, *, clusters: bool = False) -> dict[str, JobState]:
    """Return the newest state of each of the spec's jobs, by job name; asks SkyPilot alone."""
    prefixes = job_prefixes(source)
    states = jobs_api(clusters=clusters).states(prefixes)
    log.info("SkyPilot knows %d profiling jobs of %s", len(states), source_name(source))
    return states


def collect_jobs(
    source: SpecSource, *, clusters: bool = False, out: Path | None = None
) -> tuple[str, ...]:
    """Merge what the spec's jobs have measured into the profile store; return a line per job.

    Raises MelangeError where SkyPilot knows no job of the spec.
    """
    prefixes = job_prefixes(source)
    api = jobs_api(clusters=clusters)
    states = api.states(prefixes)
    if not states:
        raise MelangeError(
            f"SkyPilot has no profiling jobs for {source_name(source)}; launch them with: "
            f"{launching(source)}"
        )
    folder = out or settings.profiles_dir()
    return tuple(collect_job(api, name, state, folder) for name, state in states.items())


def job_prefixes(source: SpecSource) -> tuple[str, ...]:
    """Return how the names of the spec's jobs start; the plan may have changed since they began."""
    loaded = load_own_spec(source, "a Mélange config names no accelerators that could be measured")
    prefixes = tuple(job_prefix(served.name) for served in loaded.models)
    log.info("the spec's jobs have names that start with %s", ", ".join(prefixes))
    return prefixes


def collect_job(api: SkyJobs, name: str, state: JobState, folder: Path) -> str:
    """Merge one job's results into the tables of `folder`; return the line that says how it stands."""
    said = read_log(api.log(name, state), name)
    added = merge(said.tables, folder)
    for path, cells in added.items():
        log.info("%s: %d sizes added to %s", name, cells, path)
    cells = sum(len(table.cells) for table in said.tables)
    word = f"{name}: {state.status}, {cells} sizes measured"
    if said.error:
        return f"{word}; {said.error}"
    if said.left:
        return f"{word}; {said.left}"
    return word + (f"; {said.progress}" if said.progress and not said.done else "")
