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
from melange_sky.cli.written import (
    check_written,
    figure_option,
    html_option,
    write_figures,
    write_page,
)


@click.command()
@click.argument("plan_file", metavar="PLAN.json", type=click.Path(path_type=Path))
@alternatives_option
@within_option
@throughput_error_option
@price_error_option
@error_budget_option
@click.option(
    "--replay/--no-replay",
    default=True,
    show_default=True,
    help="Find the highest rate that the fleet, and the next cheaper one, hold.",
)
@click.option("--all", "everything", is_flag=True, help="Also show every size with its options.")
@time_limit_option("Seconds for each solve, and for the replays.")
@format_option
def explain(plan_file: Path, output_format: str, everything: bool, **flags: Any) -> None:
    """Explain PLAN.json: who takes what, what binds, the fleets next to it, its highest rate, the saving.

    Everything is computed from the plan alone; no prices are read.
    """
    from melange_sky.planner.explaining import ExplainOptions, explain_plan
    from melange_sky.planner.plan_files import load_plan
    from melange_sky.report.explanation import explanation_document, explanation_text

    reasons = explain_plan(load_plan(plan_file), ExplainOptions(**flags))
    if output_format == "json":
        echo_json(explanation_document(reasons))
    else:
        click.echo(explanation_text(reasons, everything=everything, coloured=True), nl=False)


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
    "-o", "--output", type=click.Path(path_type=Path), help="File to write (default: stdout)."
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "csv", "json"]),
    help="Default: a table on stdout; in a file, what its name ends in, else CSV.",
)
@html_option
@figure_option
def sweep(
    spec: Path,
    output: Path | None,
    output_format: str | None,
    html: Path | None,
    figure: Path | None,
    **flags: Any,
) -> None:
    """Plan SPEC at every rate, TPOT limit and price given: cost and mix at each point."""
    from melange_sky.planner.output_files import write_text
    from melange_sky.planner.sweep import SweepOptions, sweep_source
    from melange_sky.report.sweep import sweep_csv, sweep_json, sweep_table

    check_written(html, figure)
    points = sweep_source(spec, SweepOptions(**flags))
    if output_format is None:
        named_json = output is not None and output.suffix == ".json"
        output_format = "table" if output is None else "json" if named_json else "csv"
    text = {"table": sweep_table, "csv": sweep_csv, "json": sweep_json}[output_format](points)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text(output, text)
    if html is not None:
        from melange_sky.report.html import sweep_page

        write_page(html, sweep_page(points, spec.stem))
    if figure is not None:
        from melange_sky.report.figures.rates import sweep_figures

        write_figures(figure, sweep_figures(points))
