"""`melange-sky compare`: what the mix is worth once every fleet must hold in replay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import (
    NumberRange,
    echo_json,
    format_option,
    jobs_of,
    jobs_option,
    offline_option,
    replay_bar,
)
from melange_sky.errors import InputError
from melange_sky.settings import is_offline

if TYPE_CHECKING:
    from melange_sky.planner.comparison import ComparisonRequest, Contender
    from melange_sky.spec import Spec


@click.command()
@click.argument("spec_file", metavar="SPEC", type=click.Path(path_type=Path))
@click.option(
    "--rates", metavar="1,4,16", help="Requests per second to compare at; default: the spec's rate."
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Replay this trace, scaled to each rate; default: sample the workload.",
)
@click.option(
    "--burstiness",
    type=NumberRange(min=0.01, max=1000),
    default=1.0,
    show_default=True,
    help="Of sampled arrivals: squared variation of the gaps, 1 Poisson.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for compare.csv and compare.svg.",
)
@jobs_option
@offline_option
@format_option
def compare(
    spec_file: Path, output: Path | None, offline: bool, output_format: str, **asked: Any
) -> None:
    """Compare the mix, Mélange's sliced mix and each accelerator alone, all verified by replay.

    Every fleet is planned, replayed and planned again until it holds the SLO, so that costs are
    compared at equal attainment.
    """
    from melange_sky.planner.comparison import compare_fleets
    from melange_sky.report.comparison import comparison_rows, comparison_table
    from melange_sky.report.terminal import terminal_width
    from melange_sky.spec import MelangeConfig, load_spec

    spec = load_spec(spec_file)
    if isinstance(spec, MelangeConfig):
        raise InputError(
            f"{spec_file}: Mélange's config says nothing of the engine: nothing to replay"
        )
    if output is not None:
        _make_folder(output)
    with replay_bar() as told:
        asked["told"] = told
        found = compare_fleets(spec, _request(spec, is_offline(offline), asked))
    if output is not None:
        _write(output, found)
    if output_format == "json":
        echo_json(comparison_rows(found))
    else:
        click.echo(comparison_table(found, width=terminal_width()), nl=False)


def _request(spec: Spec, offline: bool, asked: dict[str, Any]) -> ComparisonRequest:
    from melange_sky.planner.comparison import ComparisonRequest
    from melange_sky.planner.replay_loop.loop import LoopRequest
    from melange_sky.planner.replay_loop.replay import SimulationRequest
    from melange_sky.planner.request import PlanRequest
    from melange_sky.pricing import OfferQuery
    from melange_sky.replay import Replay

    simulation = SimulationRequest(
        trace=asked["trace"],
        burstiness=asked["burstiness"],
        how=Replay(seed=asked["seed"]),
        jobs=jobs_of(asked["jobs"]),
        on_progress=asked["told"],
    )
    rates = _rates(asked["rates"]) or (spec.models[0].workload.rate_rps,)
    return ComparisonRequest(
        rates_rps=rates,
        plan=PlanRequest(prices=OfferQuery(offline=offline), sensitivity=False),
        loop=LoopRequest(simulation=simulation),
        on_contender=_tell,
    )


def _rates(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < math.inf for rate in rates) or len(rates) > 50:
        raise InputError("--rates must be at most 50 numbers above 0, such as 1,4,16")
    return tuple(sorted(set(rates)))


def _tell(one: Contender) -> None:
    cost = "no fleet holds" if one.usd_per_hour is None else f"${one.usd_per_hour:,.3f}/h"
    click.echo(f"{one.rate_rps:g} req/s, {one.kind}: {cost}", err=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder ({error.strerror})") from None


def _write(folder: Path, found: tuple[Contender, ...]) -> None:
    from melange_sky.report.comparison import comparison_csv, comparison_figure
    from melange_sky.spec.files import write_text

    write_text(folder / "compare.csv", comparison_csv(found))
    write_text(folder / "compare.svg", comparison_figure(found))
