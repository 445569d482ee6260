"""`melange-sky profile launch | status | collect`: measuring jobs on SkyPilot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import (
    echo_event,
    echo_json,
    format_option,
    offers_option,
    offline_option,
)

if TYPE_CHECKING:
    from melange_sky.planner.measuring_jobs import JobsPreview, LaunchOptions

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
@click.option("-y", "--yes", is_flag=True, help="Launch without confirmation.")
@_managed
@click.option(
    "--max-minutes", type=click.FloatRange(min=1), help="Hard time limit of each job, in minutes."
)
@click.option(
    "--max-usd", type=click.FloatRange(min=0), help="Most that all jobs together may cost, in USD."
)
@click.option(
    "--error-bound",
    type=click.FloatRange(min=0.001, max=1),
    default=0.05,
    show_default=True,
    help="Plan-cost error that interpolation may leave.",
)
@click.option(
    "--bucket",
    help="Where tables survive restarts: s3://name/folder, or the full path of a folder that every node shares.",
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
    help="Discard a probe if its client sent a request later than this, as in `profile run`.",
)
@offers_option
@_accelerators
@click.option("--detach", is_flag=True, help="Do not wait; `profile collect` brings the results.")
@_out
@offline_option
@format_option
def launch(
    spec: Path, output_format: str, dry_run: bool, yes: bool, detach: bool, **flags: Any
) -> None:
    """Measure each accelerator that SPEC may use and that lacks measurements, one job per kind.

    Shows what is measured, where, how long and for how much, and launches after you confirm.
    """
    from melange_sky.planner.measuring_jobs import LaunchOptions, preview_jobs
    from melange_sky.report import jobs as report

    options = LaunchOptions(**flags)
    preview = preview_jobs(spec, options)
    if output_format == "json":
        echo_json(report.preview_document(preview))
    else:
        click.echo(report.preview_text(preview), nl=False)
    if dry_run:
        if output_format != "json":
            for job in preview.taken:
                click.echo(report.job_yaml(job), nl=False)
        return
    preview.require_any()
    if not preview.taken:
        return
    if not yes:
        click.confirm("Launch?", abort=True, err=True)
    _launch(preview, options, detach=detach)


def _launch(preview: JobsPreview, options: LaunchOptions, *, detach: bool) -> None:
    """Launch, then follow until every job has ended, collecting as results come."""
    from melange_sky.planner.measuring_jobs import jobs_api, run_jobs, stop_jobs

    api = jobs_api(clusters=options.clusters)
    try:
        run_jobs(api, preview.taken, detach=detach, out=options.out, on_event=echo_event)
    except KeyboardInterrupt:
        if click.confirm("\nCancel the jobs? (no: they continue on their own)", err=True):
            stop_jobs(api, [job.name for job in preview.taken], echo_event)
        raise


@click.command()
@_spec
@_managed
@format_option
def status(spec: Path, output_format: str, clusters: bool) -> None:
    """Show what became of SPEC's profiling jobs; works from any machine with the same SkyPilot."""
    from melange_sky.planner.measuring_jobs import job_states
    from melange_sky.report import jobs as report

    states = job_states(spec, clusters=clusters)
    if output_format == "json":
        echo_json(report.job_states_document(states))
        return
    click.echo(report.job_states_text(states), nl=False)
    if not states:
        click.echo(f"SkyPilot has no profiling jobs for {spec}", err=True)


@click.command()
@_spec
@_managed
@_out
def collect(spec: Path, out: Path | None, clusters: bool) -> None:
    """Bring what SPEC's profiling jobs have measured so far into the profile store."""
    from melange_sky.planner.measuring_jobs import collect_jobs

    for line in collect_jobs(spec, clusters=clusters, out=out):
        click.echo(line)
