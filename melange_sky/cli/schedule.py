"""`melange-sky schedule`: the fleets of a reserve folder by the hour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from melange_sky.cli.common import NumberRange, echo_event, echo_json, format_option
from melange_sky.cli.services import (
    backends_option,
    drain_option,
    gateways_option,
    routes_option,
)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, exists=False))
@click.option(
    "--apply",
    "apply_now",
    is_flag=True,
    help="Make SkyServe run what is wanted now, without asking. Run it every few minutes (--cron).",
)
@click.option(
    "--cron",
    is_flag=True,
    help="Write a crontab and a SkyPilot job beside the plans that carry the schedule out, and print the crontab.",
)
@click.option(
    "--startup-s",
    type=NumberRange(min=0, max=7 * 86_400),
    help="Seconds from starting a replica until it serves (default: what reserve was told, else 900).",
)
@routes_option
@backends_option
@gateways_option
@drain_option
@format_option
def schedule(
    folder: Path,
    apply_now: bool,
    cron: bool,
    startup_s: float | None,
    output_format: str,
    **handover: Any,
) -> None:
    """Show when the fleets of DIR, which `reserve` wrote, grow and shrink; with --apply bring now's about.

    Replicas are started before the hour that needs them and stopped after it; those that two fleets share
    keep running. Weeks repeat, in UTC. Run again after any interruption.
    """
    from melange_sky.planner.handover import Handover
    from melange_sky.planner.scheduling.asking import ScheduleOptions, schedule_folder
    from melange_sky.planner.scheduling.document import schedule_document
    from melange_sky.report.schedule import schedule_text

    options = ScheduleOptions(
        apply=apply_now, cron=cron, startup_s=startup_s, handover=Handover(**handover)
    )
    found = schedule_folder(folder, options, echo_event)
    document = schedule_document(found.schedule, found.moment)
    if output_format == "json":
        echo_json(document)
    elif found.crontab is not None:
        click.echo(found.crontab, nl=False)
    elif found.carried_out is None:
        click.echo(schedule_text(document), nl=False)
    for line in found.told:
        click.echo(line, err=True)
