"""`melange-sky reserve` and `bound`: what to commit to and what to rent over a demand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import (
    Fraction,
    NumberRange,
    echo_json,
    estimating,
    format_option,
    jobs_option,
    offers_option,
    offline_option,
    refresh_progress,
    seed_option,
)
from melange_sky.cli.trace_options import trace_options
from melange_sky.cli.written import check_written, html_option, write_page
from melange_sky.errors import SloMissedError

if TYPE_CHECKING:
    from collections.abc import Callable

_FILE = click.Path(path_type=Path)
_SECONDS = NumberRange(min=0, max=7 * 86_400)
_DEMAND = (
    click.argument("spec", type=_FILE),
    click.option(
        "--demand",
        type=_FILE,
        metavar="CSV",
        help="Rates over time: time,rate_rps[,mix], or rate_rps:NAME for each model; equal steps, times with an offset or Z.",
    ),
    click.option(
        "--trace",
        type=_FILE,
        metavar="LOG",
        help="In place of --demand: count this log of requests by the hour.",
    ),
    trace_options("--trace"),
    click.option(
        "--mix",
        multiple=True,
        metavar="LABEL=FILE",
        help="Request sizes of a mix that the demand names: a log, or what `workload` writes. Repeat it.",
    ),
    click.option(
        "--growth",
        type=NumberRange(min=-0.99, max=100),
        metavar="PER-YEAR",
        help="Repeat whole weeks of the demand over a year (or the longest --term), growing so much a year: 0.5 is half more.",
    ),
    click.option(
        "--commitments",
        type=_FILE,
        metavar="CSV",
        help="Your negotiated terms, weighed in place of list terms.",
    ),
    click.option(
        "--owned",
        type=_FILE,
        metavar="CSV",
        help="Instances that are paid for already, used first.",
    ),
    offers_option,
    click.option(
        "--term",
        metavar="1y,3y,6m,block,all",
        help="Terms to weigh (default: your own, and list terms of up to a year).",
    ),
    click.option(
        "--startup-s",
        type=_SECONDS,
        default=0.0,
        show_default=True,
        help="Seconds from renting an instance until it serves: billed, and started so much earlier.",
    ),
    click.option(
        "--time-limit",
        "time_limit_s",
        type=NumberRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        help="Seconds for all that is solved; the best found by then is told with its gap. Reading prices, estimating and replaying do not count.",
    ),
    offline_option,
    click.option(
        "--stale-ok", is_flag=True, help="Reckon with prices and terms that are older than a day."
    ),
)
_RESERVE = (
    click.option(
        "--scenarios",
        type=_FILE,
        metavar="YAML",
        help="Other demands and prices with weights: [{name, weight, demand: ×0.6, price: {on_demand: ×0.8}}].",
    ),
    click.option(
        "--objective",
        default="expected",
        show_default=True,
        metavar="expected|regret|cvar:Q",
        help="Over scenarios: the mean cost, the greatest regret, or the mean of the dearest 1 − Q.",
    ),
    click.option(
        "--budget-upfront",
        type=NumberRange(min=0),
        metavar="USD",
        help="Most that may be paid upfront.",
    ),
    click.option(
        "--min-run-s",
        type=_SECONDS,
        default=0.0,
        show_default=True,
        help="Shortest time for which an instance is rented.",
    ),
    click.option(
        "--discount-rate",
        type=Fraction(),
        default=0.0,
        show_default=True,
        help="Interest a year on what is paid upfront.",
    ),
    click.option(
        "--api-price",
        metavar="IN,OUT",
        help="Compare with an API at these USD per million input and output tokens.",
    ),
    click.option(
        "--within",
        "within_fraction",
        type=Fraction(below_one=True),
        default=0.0,
        help="End the search once the advice is proven to cost at most so much more than the best.",
    ),
    click.option(
        "--verify/--no-verify",
        default=None,
        help="Replay every distinct fleet, the demand hour by hour and in one run (default: up to 40 fleets).",
    ),
    seed_option,
    jobs_option,
)


def _options(*groups: tuple[Any, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([one for group in groups for one in group]):
            command = option(command)
        return command

    return add


@click.command()
@_options(_DEMAND, _RESERVE)
@click.option(
    "-o",
    "--output",
    type=_FILE,
    metavar="DIR",
    help="Folder for reserve.json and a plan per distinct fleet (default: ./NAME-reserve).",
)
@click.option("--force", is_flag=True, help="Replace a folder that holds foreign or edited files.")
@html_option
@format_option
def reserve(
    spec: Path,
    output: Path | None,
    force: bool,
    html: Path | None,
    output_format: str,
    **flags: Any,
) -> None:
    """Advise how many of which instances to commit to, and which to rent on top in every hour.

    Refreshes prices first where the network is allowed. Exits 4 where a price or a term is older than a
    day, 5 where a fleet misses its SLO in replay; the folder is written all the same.
    """
    from melange_sky.cli.search_progress import telling_search
    from melange_sky.planner.hooks import Hooks
    from melange_sky.planner.reserving.document import reserve_document
    from melange_sky.planner.reserving.flow import reserve_source, write_reservation
    from melange_sky.planner.reserving.wishes import wishes
    from melange_sky.report.reserve import reserve_text

    check_written(html)
    options = wishes(**flags)
    with estimating() as advance, telling_search() as (searching, proving):
        hooks = Hooks(
            estimating=advance, refreshing=refresh_progress, searching=searching, proving=proving
        )
        found = reserve_source(spec, options, hooks)
    folder = output or Path(f"{found.asked.spec.name}-reserve")
    names = write_reservation(found, folder, force=force)
    document = reserve_document(found)
    if output_format == "json":
        echo_json(document)
    else:
        click.echo(reserve_text(document), nl=False)
        click.echo(f"\nWrote {folder}/{names[0]} and {len(names) - 1} plans")
    if html is not None:
        from melange_sky.report.html import reserve_page

        write_page(html, reserve_page(document))
    if found.missed:
        raise SloMissedError("; ".join(found.missed))


@click.command()
@_options(_DEMAND)
@format_option
def bound(spec: Path, output_format: str, **flags: Any) -> None:
    """Tell what a perfect autoscaler costs: the cheapest fleet of every hour of a demand.

    `autoscaler_usd` rents all of it on demand, with --startup-s billed; `bound_usd` has every used
    instance-hour at its cheapest rate, committed or not, instant start, idle free.
    """
    from melange_sky.cli.search_progress import telling_search
    from melange_sky.planner.hooks import Hooks
    from melange_sky.planner.reserving.flow import bound_source
    from melange_sky.planner.reserving.wishes import wishes
    from melange_sky.report.reserve import bound_text

    options = wishes(**flags)
    with estimating() as advance, telling_search() as (searching, _):
        hooks = Hooks(estimating=advance, refreshing=refresh_progress, searching=searching)
        found = bound_source(spec, options, hooks)
    if output_format == "json":
        echo_json(found.document)
    else:
        click.echo(bound_text(found.document), nl=False)
