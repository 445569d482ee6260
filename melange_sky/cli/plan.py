"""`melange-sky plan` and `melange-sky render`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import (
    NumberRange,
    estimating,
    format_option,
    is_offline,
    offline_option,
    refresh_progress,
)
from melange_sky.cli.objectives import objective_options, solve_fields
from melange_sky.cli.verification import (
    plan_and_verify,
    raise_if_missed,
    take_options,
    verification_text,
    verify_options,
)
from melange_sky.errors import InputError

if TYPE_CHECKING:
    from melange_sky.plans import Plan


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write (default: ./NAME-plan).",
)
@offline_option
@click.option("--refresh", is_flag=True, help="Pull today's prices first.")
@click.option("--force", is_flag=True, help="Replace a folder that holds foreign or edited files.")
@format_option
@click.option(
    "--time-limit",
    "time_limit_s",
    type=NumberRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds for the solver.",
)
@click.option(
    "--assignment",
    type=click.Choice(["fractional", "sliced"]),
    default="fractional",
    show_default=True,
)
@click.option(
    "--offers", "offers_csv", type=click.Path(path_type=Path), help="CSV of your own offers."
)
@click.option(
    "--allow-flagged", is_flag=True, help="Plan with prices that a sanity rule keeps out."
)
@objective_options
@verify_options
def plan(
    spec: Path,
    output: Path | None,
    output_format: str,
    force: bool,
    **asked: Any,
) -> None:
    """Plan the cheapest mix for SPEC and write its SkyPilot services.

    SPEC is a melange_sky YAML spec, or a Mélange JSON config.
    """
    from melange_sky.planner import plan_spec

    replayed = take_options(asked)
    with estimating() as advance:
        request = replace(_request(asked), progress=advance)
        planned = (
            plan_and_verify(spec, request, replayed)
            if replayed["verify"]
            else plan_spec(spec, request)
        )
    folder = None
    if _is_deployable(planned) or output is not None:
        folder = output or Path(f"{planned.name}-plan")
        write_plan(planned, folder, force=force)
    _show(planned, folder, output_format)
    raise_if_missed(planned)


def _request(asked: dict[str, Any]) -> Any:
    from melange_sky.optimizer import SolveOptions
    from melange_sky.planner import PlanRequest
    from melange_sky.pricing import OfferQuery

    offline = is_offline(asked["offline"])
    if offline and asked["refresh"]:
        raise InputError("--refresh needs the network, but offline was asked for; drop one of them")
    return PlanRequest(
        prices=OfferQuery(
            offline=offline,
            refresh=asked["refresh"],
            offers_csv=asked["offers_csv"],
            progress=refresh_progress,
        ),
        allow_flagged=asked["allow_flagged"],
        price_error=asked["price_error"],
        solve=SolveOptions(
            assignment=asked["assignment"],
            time_limit_s=asked["time_limit_s"],
            **solve_fields(asked),
        ),
    )


@click.command()
@click.argument("plan_file", metavar="PLAN.json", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write."
)
@click.option("--force", is_flag=True, help="Replace a folder that holds foreign or edited files.")
def render(plan_file: Path, output: Path, force: bool) -> None:
    """Write the files of a saved plan; nothing else is read."""
    from melange_sky.planfile import load_plan

    write_plan(load_plan(plan_file), output, force=force)
    click.echo(f"wrote {output}", err=True)


def write_plan(planned: Plan, folder: Path, *, force: bool) -> None:
    """Write plan.json and the service files as one folder, all or nothing."""
    from melange_sky.planfile import dump_plan
    from melange_sky.rendering import GATEWAY_FILE, render_gateway, render_services, write_folder

    files = {"plan.json": dump_plan(planned), **render_services(planned)}
    if len(files) > 1:
        files[GATEWAY_FILE] = render_gateway(planned)
    write_folder(folder, files, force=force)


def _is_deployable(planned: Plan) -> bool:
    return any(a.candidate.option.offer for model in planned.models for a in model.allocations)


def _show(planned: Plan, folder: Path | None, output_format: str) -> None:
    if output_format == "json":
        from melange_sky.planfile import dump_plan

        click.echo(dump_plan(planned), nl=False)
        return
    from melange_sky.rendering import controller_note, launch_command
    from melange_sky.report import plan_table, terminal_width

    click.echo(plan_table(planned, width=terminal_width()), nl=False)
    for model in planned.models:
        click.echo(verification_text(model), nl=False)
    if folder is not None and not _is_deployable(planned):
        click.echo(
            f"\nWrote {folder}/plan.json; its options are names without offers, so no service"
        )
    elif folder is not None:
        click.echo(
            f"\nWrote {folder}/plan.json and one service per line here; bring them up with "
            f"`melange-sky apply {folder}`, or:"
        )
        for model in planned.models:
            for allocation in model.allocations:
                if allocation.candidate.option.offer is not None:
                    click.echo(f"  {launch_command(model, allocation, f'{folder}/')}")
        click.echo(controller_note())
