"""`melange-sky profile launch | status | collect`: measuring jobs on SkyPilot."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import echo_json, format_option, is_offline, offline_option
from melange_sky.errors import InputError, MelangeError

if TYPE_CHECKING:
    from melange_sky.planner.profiling import ProfilingJob
    from melange_sky.profiler.skyjobs import JobState, SkyJobs

POLL_S = 15.0

_spec = click.argument("spec", type=click.Path(path_type=Path))
_managed = click.option(
    "--clusters", is_flag=True, help="One cluster per job in place of managed jobs."
)
_accelerators = click.option(
    "--accelerators", help="Only these, such as A10G,A100-80GB:2; default: each accelerator once."
)
_out = click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Folder of the profile tables."
)


@click.command()
@_spec
@click.option("--dry-run", is_flag=True, help="Show jobs, cost and YAMLs; launch nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_managed
@click.option("--max-minutes", type=click.FloatRange(min=1), help="Hard end of each job.")
@click.option(
    "--max-usd", type=click.FloatRange(min=0), help="Most that all jobs may cost together."
)
@click.option(
    "--error-bound",
    type=click.FloatRange(min=0.001, max=1),
    default=0.05,
    show_default=True,
    help="Plan-cost error left to interpolation.",
)
@click.option(
    "--bucket",
    help="What keeps tables between restarts: s3://name/folder, or the full "
    "path of a folder that every node shares.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0.01, max=0.5),
    help="How closely the highest rate is bracketed, as in `profile run`.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(min=20),
    help="Most requests of one probe, as in `profile run`.",
)
@click.option(
    "--max-lateness-ms",
    type=click.FloatRange(min=1),
    help="A probe whose client was later than that is void, as in `profile run`.",
)
@click.option("--offers", type=click.Path(path_type=Path), help="CSV of your own offers.")
@_accelerators
@click.option("--detach", is_flag=True, help="Do not wait; `profile collect` brings the results.")
@_out
@offline_option
@format_option
def launch(spec: Path, out: Path | None, output_format: str, **given: Any) -> None:
    """Measure each accelerator that SPEC may use and that lacks measurements, one job per kind.

    Shows what is measured, where, how long and for how much, and asks before it launches.
    """
    from melange_sky.planner.profiling import within_budget

    jobs = jobs_of(spec, out, given)
    todo = [job for job in jobs if job.sizes]
    taken, left = within_budget(todo, given["max_usd"])
    if output_format == "json":
        echo_json(preview_document(jobs, taken))
    else:
        show_preview(jobs, taken, left, given["max_usd"])
    if given["dry_run"]:
        if output_format != "json":
            show_yamls(taken)
        return
    if not taken:
        if left:
            raise InputError(
                f"no job fits --max-usd {given['max_usd']:g}: the cheapest may cost ${left[0].limit_usd:.2f}"
            )
        return
    if not given["yes"]:
        click.confirm("Launch?", abort=True, err=True)
    _run(taken, _jobs_api(given["clusters"]), out, detach=given["detach"])


@click.command()
@_spec
@_managed
@format_option
def status(spec: Path, output_format: str, clusters: bool) -> None:
    """Show what became of SPEC's profiling jobs; works from any machine with the same SkyPilot."""
    states = _jobs_api(clusters).states(job_prefixes(spec))
    if output_format == "json":
        echo_json(
            {
                name: {"job_id": state.job_id, "status": state.status}
                for name, state in states.items()
            }
        )
        return
    for name, state in states.items():
        detail = f": {state.detail}" if state.detail else ""
        click.echo(f"{name:<48} {state.status} (job {state.job_id}){detail}")
    if not states:
        click.echo(f"SkyPilot knows no profiling jobs of {spec}", err=True)


@click.command()
@_spec
@_managed
@_out
def collect(spec: Path, out: Path | None, clusters: bool) -> None:
    """Bring what SPEC's profiling jobs have measured so far into the profile store."""
    api = _jobs_api(clusters)
    states = api.states(job_prefixes(spec))
    if not states:
        raise MelangeError(
            f"SkyPilot knows no profiling jobs of {spec}; launch them with: "
            f"melange-sky profile launch {spec}"
        )
    for name, state in states.items():
        click.echo(collect_job(api, name, state, _folder(out)))


def job_prefixes(spec: Path) -> tuple[str, ...]:
    """Return how the names of the spec's jobs start; the plan may have changed since they began."""
    from melange_sky.planner.profiling import job_prefix
    from melange_sky.spec import MelangeConfig, load_spec

    loaded = load_spec(spec)
    if isinstance(loaded, MelangeConfig):
        raise InputError(f"{spec}: a Mélange config names no accelerators that could be measured")
    return tuple(job_prefix(served.name) for served in loaded.models)


def jobs_of(spec: Path, out: Path | None, given: dict[str, Any]) -> tuple[ProfilingJob, ...]:
    """Plan the spec and return the jobs that would measure its candidates."""
    from melange_sky.planner import PlanRequest, plan_spec
    from melange_sky.planner.profiling import JobOptions, profiling_jobs
    from melange_sky.plans import models_of
    from melange_sky.pricing import OfferQuery
    from melange_sky.profiletable import load_tables

    query = OfferQuery(offline=is_offline(given["offline"]), offers_csv=given.get("offers"))
    planned = plan_spec(spec, PlanRequest(prices=query, sensitivity=False))
    late_ms = given.get("max_lateness_ms")
    options = JobOptions(
        max_minutes=given.get("max_minutes"),
        error_bound=given.get("error_bound") or 0.05,
        bucket=given.get("bucket"),
        search=_search(given),
        late_s=None if late_ms is None else late_ms / 1e3,
        accelerators=tuple(
            w.strip() for w in (given.get("accelerators") or "").split(",") if w.strip()
        ),
    )
    tables = load_tables(_folder(out))
    jobs = tuple(j for plan in models_of(planned) for j in profiling_jobs(plan, tables, options))
    if not jobs:
        raise InputError(f"{spec}: no priced candidate to measure")
    return jobs


def _search(given: dict[str, Any]) -> dict[str, float]:
    """Return the search's options that the flags change, by name."""
    from melange_sky.capacity_search import REAL_SEARCH

    changed: dict[str, float] = {}
    if given.get("tolerance") is not None:
        changed["tolerance"] = given["tolerance"]
    most = given.get("max_requests")
    if most is not None:
        changed["max_requests"] = most
        changed["confirm_requests"] = min(most, REAL_SEARCH.confirm_requests)
        changed["min_requests"] = min(most, REAL_SEARCH.min_requests)
    return changed


def _folder(out: Path | None) -> Path:
    from melange_sky.cli.profile import profiles_home

    return out or profiles_home()


def _jobs_api(clusters: bool) -> SkyJobs:
    from melange_sky.engines import ENGINES
    from melange_sky.profiler.skyjobs import SkyJobs
    from melange_sky.rendering import GATED_SECRET

    names = (GATED_SECRET, *(engine.key_variable for engine in ENGINES.values()))
    secrets = {name: os.environ[name] for name in names if os.environ.get(name)}
    return SkyJobs(managed=not clusters, secrets=secrets)


def show_preview(
    jobs: Sequence[ProfilingJob],
    taken: Sequence[ProfilingJob],
    left: Sequence[ProfilingJob],
    max_usd: float | None,
) -> None:
    """Print what would be measured, where, how long and for how much."""
    click.echo(
        f"{'accelerator':<16} {'instance':<34} {'$/h':>8} {'sizes':>6} {'known':>6} {'minutes':>8} {'$':>8} {'at most $':>10}"
    )
    for job in jobs:
        where = f"{job.infra} {job.instance_type}{' spot' if job.use_spot else ''}"
        note = "" if job.sizes else "  nothing to measure"
        note = "  over --max-usd" if job in left else note
        click.echo(
            f"{job.accelerator:<16} {where:<34} {job.price_usd_per_hour:>8.4g} {len(job.sizes):>6} "
            f"{job.measured:>6} {job.minutes:>8.0f} {job.usd:>8.2f} {job.limit_usd:>10.2f}{note}"
        )
    click.echo(
        f"{len(taken)} jobs: about ${sum(j.usd for j in taken):.2f}, at most ${sum(j.limit_usd for j in taken):.2f}"
        + (f" of ${max_usd:g}" if max_usd is not None else "")
        + " (minutes are estimates, prices as planned; a jobs controller comes on top)"
    )


def preview_document(
    jobs: Sequence[ProfilingJob], taken: Sequence[ProfilingJob]
) -> list[dict[str, Any]]:
    """Return the preview for `--format json`."""
    return [
        {
            "name": job.name,
            "model": job.model,
            "accelerator": job.accelerator,
            "infra": job.infra,
            "instance_type": job.instance_type,
            "use_spot": job.use_spot,
            "price_usd_per_hour": job.price_usd_per_hour,
            "sizes": [list(s) for s in job.sizes],
            "measured": job.measured,
            "estimated_minutes": round(job.minutes, 1),
            "estimated_usd": round(job.usd, 2),
            "limit_usd": round(job.limit_usd, 2),
            "expected_interpolation_error": round(job.expected_error, 4),
            "launch": job in taken,
        }
        for job in jobs
    ]


def show_yamls(jobs: Sequence[ProfilingJob]) -> None:
    """Print each job's YAML, the packed profiler in it cut short."""
    from melange_sky.rendering.services import dump

    for job in jobs:
        head, mark, rest = job.document["run"].partition("bundle='")
        packed, end, script = rest.partition("'")
        shown = f"{head}{mark}… {len(packed)} characters: the profiler's modules …{end}{script}"
        click.echo(f"\n# --- {job.name}\n{dump({**job.document, 'run': shown})}", nl=False)


def _run(jobs: Sequence[ProfilingJob], api: SkyJobs, out: Path | None, *, detach: bool) -> None:
    """Launch, then follow until every job has ended, collecting as results come."""
    open_names = [job.name for job in jobs]
    try:
        for job in jobs:
            api.launch(job.name, job.document)
            click.echo(f"{job.name}: launched", err=True)
        if not detach:
            _follow(api, open_names, out)
    except KeyboardInterrupt:
        if click.confirm("\nTear the jobs down? (no: they go on by themselves)", err=True):
            for name in open_names:
                _stop(api, name)
        raise


def _stop(api: SkyJobs, name: str) -> None:
    try:
        api.stop(name)
    except MelangeError as error:
        click.echo(str(error), err=True)


def _follow(api: SkyJobs, names: list[str], out: Path | None) -> None:
    told: dict[str, str] = {}
    failed: list[str] = []
    while names:
        time.sleep(POLL_S)
        states = api.states(names)
        for name in list(names):
            state = states.get(name)
            if state is None:
                continue
            line = collect_job(api, name, state, _folder(out))
            if told.get(name) != line:
                click.echo(line, err=True)
                told[name] = line
            if state.ended:
                names.remove(name)
                if state.status != "SUCCEEDED":
                    failed.append(name)
    if failed:
        raise MelangeError(
            f"{', '.join(failed)} did not succeed; what they measured is kept, and launching again "
            "measures only what is missing"
        )


def collect_job(api: SkyJobs, name: str, state: JobState, folder: Path) -> str:
    """Merge one job's results and return the line that tells of it."""
    from melange_sky.profiler.sky_collect import merge, read_log

    said = read_log(api.log(name, state), name)
    merge(said.tables, folder)
    cells = sum(len(table.cells) for table in said.tables)
    word = f"{name}: {state.status}, {cells} sizes measured"
    if said.error:
        return f"{word}; {said.error}"
    if said.left:
        return f"{word}; {said.left}"
    return word + (f"; {said.progress}" if said.progress and not said.done else "")
