"""`init` writes a starter spec; `workload` turns a request trace into a histogram for one."""

from __future__ import annotations

from pathlib import Path

import click

from melange_sky.errors import InputError
from melange_sky.spec.files import write_text
from melange_sky.spec.histogram import Histogram, histogram_yaml
from melange_sky.spec.starter import starter_text
from melange_sky.spec.traces import histogram_of_trace, parse_edges
from melange_sky.workload import DEFAULT_INPUT_EDGES, DEFAULT_OUTPUT_EDGES


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("spec.yaml"))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def init(file: Path, force: bool) -> None:
    """Write a commented starter spec to FILE (default: spec.yaml)."""
    if file.exists() and not force:
        raise InputError(f"{file}: already exists; choose another name or pass --force")
    write_text(file, starter_text())
    click.echo(f"wrote {file}; now: melange-sky plan {file}", err=True)


@click.command()
@click.argument("trace", metavar="CSV", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write here instead of to stdout.",
)
@click.option("--input-edges", metavar="0,25,…", help="Bucket edges of input tokens.")
@click.option("--output-edges", metavar="0,25,…", help="Bucket edges of output tokens.")
def workload(
    trace: Path, output: Path | None, input_edges: str | None, output_edges: str | None
) -> None:
    """Turn a request trace into a `workload:` section that a spec can use.

    Reads Azure 2023 CSV, Mooncake JSONL, BurstGPT CSV or arrival_s,input_tokens,output_tokens as a
    stream. The sizes written are the means of each bucket's requests.
    """
    histogram = histogram_of_trace(
        trace,
        parse_edges(input_edges, "--input-edges") or DEFAULT_INPUT_EDGES,
        parse_edges(output_edges, "--output-edges") or DEFAULT_OUTPUT_EDGES,
    )
    text = histogram_yaml(histogram, f"Derived by: melange-sky workload {trace.name}")
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text(output, text)
    click.echo(_summary(histogram), err=True)


def _summary(histogram: Histogram) -> str:
    coverage = histogram.coverage
    assert coverage is not None
    rate = "no rate known" if histogram.rate_rps is None else f"{histogram.rate_rps:.3g} req/s"
    within = 1 - coverage.beyond_fraction
    return (
        f"{coverage.requests} requests, {rate}; {within:.2%} on the grid; longest "
        f"{coverage.longest_input_tokens} input, {coverage.longest_output_tokens} output tokens"
        + ("; the rest is counted in the outermost buckets" if coverage.beyond_fraction else "")
    )
