"""`melange-sky simulate`: replay requests through a planned fleet and judge it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from melange_sky.cli.common import (
    NumberRange,
    burstiness_option,
    echo_json,
    format_option,
    jobs_option,
    replay_bar,
    seed_option,
)
from melange_sky.cli.interruption import ends_at_once, interruptible
from melange_sky.cli.trace_options import trace_options
from melange_sky.cli.written import check_written, html_option, write_page
from melange_sky.errors import SloMissedError
from melange_sky.planner.figures import POLICIES

_POSITIVE = NumberRange(min=0, min_open=True, max=1e9)


@click.command()
@click.argument("plan_file", metavar="PLAN.json", type=click.Path(path_type=Path))
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="LOG",
    help="Replay this trace; default: sample the plan's workload.",
)
@trace_options("--trace")
@click.option(
    "--rate-scale",
    type=_POSITIVE,
    default=1.0,
    show_default=True,
    help="Multiply the rate; a trace's gaps are divided by it.",
)
@click.option(
    "--duration",
    "duration_s",
    type=_POSITIVE,
    metavar="S",
    help="Seconds of traffic; a trace is cut there.",
)
@seed_option
@click.option(
    "--ci",
    type=NumberRange(min=1e-4, max=0.5),
    default=0.01,
    show_default=True,
    help="Half width of the attainment's interval to reach by running longer.",
)
@burstiness_option
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default="gateway",
    show_default=True,
    help="Routing: the gateway's own, or one of SkyServe's.",
)
@click.option(
    "--outages",
    "outages_per_hour",
    type=NumberRange(min=0, max=3600),
    default=0.0,
    help="Failures per replica and hour; spot replicas are also interrupted as the plan's spot policy says.",
)
@click.option(
    "--outage-s",
    type=_POSITIVE,
    default=300.0,
    show_default=True,
    help="Seconds until a replacement serves: detection, machine and engine start.",
)
@click.option(
    "--model", "model_name", metavar="NAME", help="Replay only this model of a plan of several."
)
@jobs_option
@html_option
@format_option
def simulate(plan_file: Path, output_format: str, html: Path | None, **flags: Any) -> None:
    """Replay traffic through the planned fleet and report whether the SLO holds.

    Every request goes through the gateway's routing policy to replicas of the engine model. Exits 5
    where the SLO is missed. The fleet starts and ends empty: requests within one slow request (the 99th
    percentile of end-to-end time) of either end are not judged. Same seed, same bytes.
    """
    from melange_sky.planner import simulating as work
    from melange_sky.planner.hooks import Hooks
    from melange_sky.planner.plan_files import load_plan
    from melange_sky.report.simulation import simulation_table, simulations_document
    from melange_sky.report.terminal import terminal_width

    check_written(html)
    planned = load_plan(plan_file)
    options = work.SimulateOptions(**flags)
    with ends_at_once(), replay_bar() as show:
        hooks = Hooks(replaying=show)
        simulations = interruptible(lambda: work.simulate_models(planned, options, hooks))
    if output_format == "json":
        echo_json(simulations_document(simulations, planned))
    else:
        for simulation in simulations:
            click.echo(simulation_table(simulation, width=terminal_width()))
    if html is not None:
        from melange_sky.report.html import simulation_page

        write_page(html, simulation_page(simulations, planned.name))
    missed = [work.missed_text(s) for s in simulations if not s.verdict.met]
    if missed:
        raise SloMissedError("; ".join(missed))
