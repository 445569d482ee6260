"""`melange-sky compare`: what the mix is worth once every fleet must hold in replay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import (
    NumberRange,
    echo_json,
    format_option,
    jobs_option,
    offline_option,
    replay_bar,
    seed_option,
    time_limit_option,
)
from melange_sky.cli.trace_options import trace_options
from melange_sky.cli.verification import telling_rounds
from melange_sky.cli.written import check_written, html_option, write_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.planner.comparison import Contender


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option(
    "--rates",
    metavar="1,4,16",
    help="Requests per second to compare at; default: the spec's own traffic.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Replay this trace, scaled to each rate; default: the spec's own, or a sample of its workload.",
)
@trace_options("--trace")
@click.option(
    "--burstiness",
    type=NumberRange(min=0.01, max=1000),
    help="Squared coefficient of variation of the gaps of sampled arrivals: 1 Poisson, above 1 bursty "
    "(default: the spec's workload.burstiness).",
)
@seed_option
@click.option(
    "--verify-seconds",
    type=NumberRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds for the searches by replay at each rate; what held by then is shown. Ctrl-C ends it "
    "earlier.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for compare.csv and compare.svg.",
)
@time_limit_option(
    "Seconds for solving, for each plan; reading prices and replaying are not counted."
)
@jobs_option
@offline_option
@html_option
@format_option
def compare(
    spec: Path, output: Path | None, output_format: str, html: Path | None, **flags: Any
) -> None:
    """Compare the mix, Mélange's sliced mix and each accelerator alone, all verified by replay.

    Every fleet is planned, replayed and planned again until it holds the SLO, so that costs are
    compared at equal attainment.
    """
    from melange_sky.planner.hooks import Hooks
    from melange_sky.planner.output_files import make_folder
    from melange_sky.planner.verifying import CompareOptions, compare_source
    from melange_sky.report.comparison import comparison_rows, comparison_table
    from melange_sky.report.terminal import terminal_width

    check_written(html)
    options = CompareOptions(**flags)
    if output is not None:
        make_folder(output)
    with replay_bar() as show, telling_rounds() as tell:
        hooks = Hooks(replaying=show, on_round=tell, on_contender=_show_contender)
        contenders = compare_source(spec, options, hooks)
    if output is not None:
        _write(output, contenders)
    if output_format == "json":
        echo_json(comparison_rows(contenders))
    else:
        click.echo(comparison_table(contenders, width=terminal_width()), nl=False)
    if html is not None:
        from melange_sky.report.html import comparison_page

        write_page(html, comparison_page(contenders, spec.stem))


def _show_contender(one: Contender) -> None:
    from melange_sky.report.comparison import contender_text

    click.echo(contender_text(one), err=True)


def _write(folder: Path, contenders: Sequence[Contender]) -> None:
    from melange_sky.planner.output_files import write_bytes, write_text
    from melange_sky.report.comparison import comparison_csv
    from melange_sky.report.figures import picture_of
    from melange_sky.report.figures.rates import comparison_figure

    write_text(folder / "compare.csv", comparison_csv(contenders))
    write_bytes(folder / "compare.svg", picture_of([comparison_figure(contenders)], "svg"))
