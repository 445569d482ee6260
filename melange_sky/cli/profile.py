"""`melange-sky profile`: measure a running endpoint, or launch jobs that do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import echo_json, format_option, slo_options
from melange_sky.cli.profile_jobs import collect, launch, status
from melange_sky.cli.profile_learn import learn
from melange_sky.engines import BENCH_TOOLS, DEFAULT_ENGINE, ENGINES
from melange_sky.errors import SloMissedError

if TYPE_CHECKING:
    from melange_sky.planner.measuring import MeasureOptions, Progress
    from melange_sky.planner.quick import Point


@click.group()
def profile() -> None:
    """Measure how many requests a deployment sustains within its SLO."""


@profile.command()
@click.option("--url", required=True, help="Base address of an OpenAI-compatible server.")
@click.option("--model", required=True, help="Name under which the server serves the model.")
@click.option("--accelerator", required=True, help="What the server runs on, such as A10G:1.")
@click.option(
    "--quick",
    is_flag=True,
    help="Five minutes of probes that correct the estimates of this model on this GPU.",
)
@click.option("--input", "inputs", help="Prompt sizes in tokens: 64,256,1024.")
@click.option("--output", "outputs", help="Output sizes in tokens: 16,64.")
@slo_options
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder of the profile tables.")
@click.option(
    "--api-key-env",
    default="OPENAI_API_KEY",
    show_default=True,
    help="Environment variable that holds the server's key.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=120.0,
    show_default=True,
    help="Seconds that one request may take.",
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop after this many minutes; results so far are kept.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0.01, max=0.5),
    default=0.12,
    show_default=True,
    help="How closely the highest rate is bracketed.",
)
@click.option(
    "--error-bound",
    type=click.FloatRange(min=0.001, max=1),
    help="Measure only some sizes, until the rest are known within this fraction.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(min=20),
    default=4000,
    show_default=True,
    help="Most requests of one probe; fewer are quicker and less certain.",
)
@click.option(
    "--prompts",
    type=click.Choice(["ids", "words"]),
    default="ids",
    show_default=True,
    help="Token ids give exact sizes; words suit servers that take none.",
)
@click.option(
    "--prefix-share",
    type=float,
    default=0.0,
    show_default=True,
    help="Fraction of each prompt that all requests have in common.",
)
@click.option(
    "--reuse",
    type=click.Path(path_type=Path),
    help="A file of `workload -o` or `gateway --observed`: prompts share as much as those did, as soon.",
)
@click.option(
    "--arrivals",
    type=click.Path(path_type=Path),
    help="A trace whose gaps between requests are used, scaled to each rate; default: Poisson.",
)
@click.option(
    "--max-lateness-ms",
    type=click.FloatRange(min=1),
    default=25.0,
    show_default=True,
    help="Discard a probe if this client sent a request later than this.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--revision", help="Revision of the weights, kept with the table.")
@click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    default=DEFAULT_ENGINE.name,
    show_default=True,
    help="What serves, kept with the table.",
)
@click.option("--engine-flags", default="", help="The server's flags, kept with the table.")
@click.option("--instance-type", help="Where the server runs, kept with the table.")
@click.option(
    "--check-with",
    type=click.Choice(sorted(BENCH_TOOLS)),
    help="Measure one cell again with an engine's own load generator and report the difference.",
)
@click.option(
    *(f"--{tool.program}" for tool in BENCH_TOOLS.values()),
    "bench_command",
    help="The command of that check, if it is not on the PATH.",
)
@click.option("--tokenizer", help="Folder or model id of the tokenizer of that check.")
@format_option
def run(output_format: str, quick: bool, **flags: Any) -> None:
    """Measure an endpoint that already runs: the highest rate within the SLO per request size.

    Sizes that were measured before are kept; a run that was interrupted goes on where it stopped.
    """
    from melange_sky.planner.measuring import MeasureOptions, measure_endpoint
    from melange_sky.report.measuring import measured_document, measured_text

    if quick:
        _run_quick(MeasureOptions(**flags), output_format)
        return
    if flags["inputs"] is None or flags["outputs"] is None:
        raise click.UsageError("--input and --output are needed (--quick chooses sizes by itself)")
    measured = measure_endpoint(MeasureOptions(**flags), _progress())
    if output_format == "json":
        echo_json(measured_document(measured))
    else:
        click.echo(measured_text(measured), nl=False)
        click.echo(f"table: {measured.report.path}", err=True)
    if not measured.meets_slo:
        raise SloMissedError("no measured size meets the SLO at any rate; see the reasons above")


def _run_quick(options: MeasureOptions, output_format: str) -> None:
    from melange_sky.planner.quick import measure_quick
    from melange_sky.report.quick import point_text, quick_document, quick_text

    def on_point(point: Point) -> None:
        text = point_text(point.input_tokens, point.output_tokens, point.share)
        click.echo(text, err=True)

    found = measure_quick(options, on_point)
    if output_format == "json":
        echo_json(quick_document(found.calibration, found.path))
    else:
        click.echo(quick_text(found.calibration), nl=False)
        click.echo(f"kept: {found.path}", err=True)


def _progress() -> Progress:
    """Return callbacks that show each size on stderr."""
    from melange_sky.planner.measuring import Progress
    from melange_sky.report.measuring import size_done_text, size_text

    return Progress(
        on_cell=lambda size, done, total: click.echo(size_text(size, done, total), err=True),
        on_done=lambda cell: click.echo(size_done_text(cell), err=True),
    )


for command in (learn, launch, status, collect):
    profile.add_command(command)
