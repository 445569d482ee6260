"""`melange-sky apply`, `status` and `down`: a plan's services on SkyServe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from melange_sky.cli.common import echo_event, echo_json, format_option

folder_argument = click.argument(
    "folder", metavar="PLAN-FOLDER", type=click.Path(path_type=Path, exists=False)
)
backends_option = click.option(
    "--backends",
    type=click.Path(path_type=Path),
    help="Write OPTION=URL*REPLICAS lines here, as `gateway --backends-file` reads them.",
)
routes_option = click.option(
    "--routes",
    type=click.Path(path_type=Path),
    help="Write plan and addresses as one file, which `gateway FILE` serves and follows.",
)
gateways_option = click.option(
    "--gateway",
    "gateways",
    multiple=True,
    metavar="URL",
    help="Before anything stops, wait until this gateway serves the plan and has let go of the rest.",
)
drain_option = click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(0, 86400),
    default=600.0,
    show_default=True,
    help="Longest wait in seconds for requests that still run at what stops.",
)
yes_option = click.option("-y", "--yes", is_flag=True, help="Skip the confirmation.")


@click.command()
@folder_argument
@yes_option
@click.option("--dry-run", is_flag=True, help="Show what would change, and stop.")
@routes_option
@backends_option
@gateways_option
@drain_option
@click.option(
    "--adopt",
    is_flag=True,
    help="Take over services of this plan's names that another fleet or user made.",
)
def apply(folder: Path, yes: bool, dry_run: bool, adopt: bool, **handover: Any) -> None:
    """Bring up the services of PLAN-FOLDER on SkyServe, or update the running ones to match.

    What grows goes first; then gateways take the new plan; what shrinks or stops waits for both and
    for the requests that still run there. Interrupted anywhere, run it again. Secrets (HF_TOKEN, the engine's API key) are read from the environment.
    """
    from melange_sky.planner.apply import is_settled, open_deployment
    from melange_sky.planner.handover import Handover
    from melange_sky.report.services import changes_text

    switch = Handover(**handover)
    deployment = open_deployment(folder, adopt=adopt)
    changes = deployment.changes()
    click.echo(changes_text(changes), nl=False)
    if dry_run:
        click.echo("dry run: nothing was changed", err=True)
        return
    if is_settled(changes):
        click.echo("nothing to change", err=True)
    elif not yes:
        click.confirm("Apply these changes?", abort=True, err=True)
    deployment.apply(changes, echo_event, switch)
    click.echo("all services are ready", err=True)


@click.command()
@folder_argument
@routes_option
@backends_option
@click.option(
    "--observed",
    type=click.Path(path_type=Path),
    help="What `gateway --observed` wrote: rates seen against planned, and whether to replan.",
)
@format_option
def status(
    folder: Path,
    routes: Path | None,
    backends: Path | None,
    observed: Path | None,
    output_format: str,
) -> None:
    """Show the planned services of PLAN-FOLDER against the live ones."""
    from melange_sky.planner.apply import deployment_status
    from melange_sky.planner.handover import Handover
    from melange_sky.report.services import status_document, status_text

    handover = Handover(routes=routes, backends=backends)
    standing = deployment_status(folder, observed=observed, handover=handover)
    if output_format == "json":
        echo_json(status_document(standing))
    else:
        click.echo(status_text(standing), nl=False)


@click.command()
@folder_argument
@yes_option
def down(folder: Path, yes: bool) -> None:
    """Take all running services of the plan in PLAN-FOLDER down."""
    from melange_sky.planner.apply import find_running

    running = find_running(folder)
    for name, maker in running.others.items():
        click.echo(f"left alone: {name}, made by {maker}", err=True)
    if not running.names:
        click.echo("no service of this plan is running", err=True)
        return
    if not yes:
        click.confirm(f"Take down {', '.join(running.names)}?", abort=True, err=True)
    running.stop(echo_event)
    click.echo("all down", err=True)
