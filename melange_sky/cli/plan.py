"""`melange-sky plan` and `melange-sky render`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import (
    estimating,
    format_option,
    offers_option,
    offline_option,
    refresh_progress,
    replay_bar,
    time_limit_option,
)
from melange_sky.cli.objectives import objective_options
from melange_sky.cli.one_line import one_line_options, spec_or_flags
from melange_sky.cli.verification import telling_rounds, verify_options
from melange_sky.cli.written import (
    check_written,
    figure_option,
    html_option,
    write_figures,
    write_page,
)
from melange_sky.errors import SloMissedError

if TYPE_CHECKING:
    from melange_sky.planner.planning import PlanOptions
    from melange_sky.plans import Plan


@click.command()
@click.argument("spec", required=False, type=click.Path(path_type=Path))
@one_line_options
@click.option(
    "-o",
    "output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder to write (default: ./NAME-plan).",
)
@offline_option
@click.option("--refresh", is_flag=True, help="Pull today's prices first.")
@click.option("--force", is_flag=True, help="Replace a folder that holds foreign or edited files.")
@format_option
@time_limit_option(
    "Seconds for all solving: the mix, each accelerator alone, the cost band. Reading prices and "
    "computing capacities are not counted, nor is replaying; --verify takes it for each plan."
)
@click.option(
    "--assignment",
    type=click.Choice(["fractional", "sliced"]),
    default="fractional",
    show_default=True,
)
@offers_option
@click.option("--allow-flagged", is_flag=True, help="Use prices that a sanity rule keeps out.")
@click.option(
    "--confidence",
    type=float,
    default=0.5,
    show_default=True,
    help="Plan with capacities that estimates reach with this probability, such as 0.9.",
)
@click.option(
    "--engine-generation",
    metavar="NAME",
    help="Constants of the estimates (default: those of the engine's version; a wrong name lists all).",
)
@click.option(
    "--affinity",
    type=click.Choice(["session", "off"]),
    default="session",
    show_default=True,
    help="How the gateway will route where workload.reuse is given: what prefix caches find depends on it.",
)
@objective_options
@verify_options
@html_option
@figure_option
def plan(
    spec: Path | None,
    output: Path | None,
    output_format: str,
    force: bool,
    html: Path | None,
    figure: Path | None,
    **flags: Any,
) -> None:
    """Plan the cheapest mix for SPEC and write its SkyPilot services.

    SPEC is a melange_sky YAML spec, or a Mélange JSON config. Without one, --model, --rate, --input, --output
    and an SLO say what is served; the spec that they stand for goes to stderr.
    """
    from melange_sky.planner.plan_files import restarts, write_plan
    from melange_sky.planner.planning import PlanOptions, missed_reasons

    check_written(html, figure)
    source, named_folder = spec_or_flags(spec, flags)
    planned = _planned(source, PlanOptions(**flags))
    output, folder = output or named_folder, None
    if planned.is_deployable or output is not None:
        folder = output or Path(f"{planned.name}-plan")
        changed = restarts(planned, folder)
        planned = write_plan(planned, folder, force=force)
        for line in changed:
            click.echo(f"note: {line}", err=True)
    _show(planned, folder, output_format)
    _write(planned, html, figure)
    reasons = missed_reasons(planned)
    if reasons:
        raise SloMissedError("; ".join(reasons))


def _planned(spec: Path | dict[str, Any], options: PlanOptions) -> Plan:
    """Plan with a bar for simulated capacities, and for replays where they are asked for."""
    from melange_sky.planner.hooks import Hooks
    from melange_sky.planner.planning import plan_source

    with estimating() as advance:
        hooks = Hooks(estimating=advance, refreshing=refresh_progress)
        if not options.verify:
            return plan_source(spec, options, hooks)
        with replay_bar() as show, telling_rounds() as tell:
            return plan_source(spec, options, replace(hooks, replaying=show, on_round=tell))


@click.command()
@click.argument("plan_file", metavar="PLAN.json", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write."
)
@click.option("--force", is_flag=True, help="Replace a folder that holds foreign or edited files.")
def render(plan_file: Path, output: Path, force: bool) -> None:
    """Write the files of a saved plan; nothing else is read."""
    from melange_sky.planner.plan_files import load_plan, write_plan

    write_plan(load_plan(plan_file), output, force=force)
    click.echo(f"wrote {output}", err=True)


def _write(planned: Plan, html: Path | None, figure: Path | None) -> None:
    """Write the plan as a report and as a picture, where that is asked for."""
    if html is not None:
        from melange_sky.planner.price_history import price_histories
        from melange_sky.report.html import plan_page

        write_page(html, plan_page(planned, price_histories(planned)))
    if figure is not None:
        from melange_sky.report.figures import plan_figures

        write_figures(figure, plan_figures(planned))


def _show(planned: Plan, folder: Path | None, output_format: str) -> None:
    if output_format == "json":
        from melange_sky.planner.plan_files import dump_plan

        click.echo(dump_plan(planned), nl=False)
        return
    from melange_sky.report.next_steps import next_steps_text
    from melange_sky.report.plan_table import plan_table
    from melange_sky.report.terminal import terminal_width
    from melange_sky.report.verification import verification_text

    click.echo(plan_table(planned, width=terminal_width()), nl=False)
    for model in planned.models:
        click.echo(verification_text(model), nl=False)
    if folder is not None:
        click.echo(f"\n{next_steps_text(planned, folder)}", nl=False)
