"""`melange-sky explain` and `melange-sky sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from melange_sky.cli.common import (
    echo_json,
    format_option,
    offers_option,
    offline_option,
    time_limit_option,
)
from melange_sky.cli.objectives import (
    alternatives_option,
    error_budget_option,
    price_error_option,
    throughput_error_option,
    within_option,
)


@click.command()
@click.argument("plan_file", metavar="PLAN.json", type=click.Path(path_type=Path))
@alternatives_option
@within_option
@throughput_error_option
@price_error_option
@error_budget_option
@time_limit_option("Seconds for each solve.")
@format_option
def explain(plan_file: Path, output_format: str, **flags: Any) -> None:
    """Explain PLAN.json: who serves each size and why, what binds, what each rule costs.

    Everything is computed from the plan alone; no prices are read.
    """
    from melange_sky.planner.explaining import ExplainOptions, explain_plan
    from melange_sky.planner.plan_files import load_plan
    from melange_sky.report.explanation import explanation_document, explanation_text

    reasons = explain_plan(load_plan(plan_file), ExplainOptions(**flags))
    if output_format == "json":
        echo_json(explanation_document(reasons))
    else:
        click.echo(explanation_text(reasons), nl=False)


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option(
    "--rate", "rates", required=True, help="Request rates: 1,4,16 or 1:128:x2 or 10:100:+10."
)
@click.option("--tpot-ms", default=None, help="TPOT limits in ms, in the same form.")
@click.option(
    "--prices",
    "prices",
    multiple=True,
    metavar="[ACCELERATOR=]FACTORS",
    help="Price factors in the same form, for every price (0.8,1,1.2) or for one accelerator"
    " (H100=0.5:2:x2). Repeatable; each value is planned separately.",
)
@click.option(
    "--as-of", metavar="DATE|ID", help="Prices of that date or snapshot (see `prices snapshots`)."
)
@offline_option
@offers_option
@time_limit_option("Seconds for solving, for each point.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="CSV file to write (default: stdout)."
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["csv", "json"]),
    default="csv",
    show_default=True,
)
def sweep(spec: Path, output: Path | None, output_format: str, **flags: Any) -> None:
    """Plan SPEC at every rate, TPOT limit and price given: cost and mix at each point."""
    from melange_sky.planner.output_files import write_text
    from melange_sky.planner.sweep import SweepOptions, sweep_source
    from melange_sky.report.sweep import sweep_csv, sweep_json

    points = sweep_source(spec, SweepOptions(**flags))
    text = sweep_json(points) if output_format == "json" else sweep_csv(points)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text(output, text)
