"""`melange-sky simulate`: replay requests through a planned fleet and judge it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import (
    NumberRange,
    echo_json,
    format_option,
    jobs_of,
    jobs_option,
    replay_bar,
)
from melange_sky.errors import InputError, SloMissedError, did_you_mean

if TYPE_CHECKING:
    from melange_sky.planner.verification import SimulationRequest
    from melange_sky.plans import ModelPlan, Plan
    from melange_sky.replay import Simulation

POLICIES = ("gateway", "round_robin", "least_load", "instance_aware_least_load")
_POSITIVE = NumberRange(min=0, min_open=True, max=1e9)


@click.command()
@click.argument("plan_file", metavar="PLAN.json", type=click.Path(path_type=Path))
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Replay this trace; default: sample the plan's workload.",
)
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
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--ci",
    type=NumberRange(min=1e-4, max=0.5),
    default=0.01,
    show_default=True,
    help="Half width of the attainment's interval to reach by running longer.",
)
@click.option(
    "--burstiness",
    type=NumberRange(min=0.01, max=1000),
    default=1.0,
    show_default=True,
    help="Squared coefficient of variation of the gaps: 1 Poisson, above 1 bursty.",
)
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
    help="Failures per replica and hour; spot replicas are interrupted besides as the plan's spot policy says.",
)
@click.option(
    "--outage-s",
    type=_POSITIVE,
    default=300.0,
    show_default=True,
    help="Seconds until a replacement serves: failure noticed, machine and engine started.",
)
@click.option(
    "--model", "model_name", metavar="NAME", help="Replay only this model of a plan of several."
)
@jobs_option
@format_option
def simulate(plan_file: Path, model_name: str | None, output_format: str, **asked: Any) -> None:
    """Replay traffic through the planned fleet and say whether the SLO holds.

    Every request goes through the gateway's routing policy to replicas of the engine model. Exits 5
    where the SLO is missed. The fleet starts and ends empty: requests within one slow request (the 99th
    percentile of end-to-end time) of either end are not judged. Same seed, same bytes. The first run
    compiles the simulator, which takes some 20 seconds once.
    """
    from melange_sky.planfile import load_plan
    from melange_sky.planner.verification import simulate_plan

    planned = load_plan(plan_file)
    chosen = _chosen(planned, model_name, asked["trace"])
    request = _request(asked)
    with replay_bar() as told:
        simulations = [simulate_plan(plan, replace(request, told=told)) for plan in chosen]
    _show(simulations, planned, output_format)
    missed = [s for s in simulations if not s.verdict.met]
    if missed:
        raise SloMissedError("; ".join(_missed_text(s) for s in missed))


def _request(asked: dict[str, Any]) -> SimulationRequest:
    from melange_sky.planner.verification import SimulationRequest
    from melange_sky.replay import Replay

    how = {key: asked.pop(key) for key in ("policy", "seed", "outages_per_hour", "outage_s")}
    jobs = jobs_of(asked.pop("jobs"))
    return SimulationRequest(**asked, jobs=jobs, how=Replay(**how))


def _chosen(plan: Plan, model_name: str | None, trace: Path | None) -> tuple[ModelPlan, ...]:
    plans = plan.models
    if model_name is not None:
        found = tuple(p for p in plans if model_name in (p.name, p.model))
        if not found:
            names = [p.name for p in plans]
            hint = did_you_mean(model_name, names) or f"; the plan has {', '.join(names)}"
            raise InputError(f"no model '{model_name[:80]}' in the plan{hint}")
        return found
    if trace is not None and len(plans) > 1:
        raise InputError(
            "the plan has several models: say with --model whose requests the trace holds"
        )
    return plans


def _show(simulations: list[Simulation], planned: Plan, output_format: str) -> None:
    from melange_sky.report import terminal_width
    from melange_sky.report.simulation import simulation_document, simulation_table

    if output_format == "table":
        for simulation in simulations:
            click.echo(simulation_table(simulation, width=terminal_width()))
        return
    documents = [simulation_document(s) for s in simulations]
    if not planned.lists_models:
        echo_json(documents[0])
        return
    met = all(s.verdict.met for s in simulations)
    echo_json({"name": planned.name, "met": met, "models": documents})


def _missed_text(simulation: Simulation) -> str:
    verdict = simulation.verdict
    return (
        f"{simulation.plan.name}: SLO missed: {verdict.attainment:.2%} of the requests within limits, "
        f"target {verdict.target:.2%}"
    )
