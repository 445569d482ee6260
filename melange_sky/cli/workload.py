"""`melange-sky init` and `melange-sky workload`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from melange_sky.cli.common import echo_json
from melange_sky.cli.trace_options import trace_options


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("spec.yaml"))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def init(file: Path, force: bool) -> None:
    """Write a commented starter spec to FILE (default: spec.yaml)."""
    from melange_sky.planner.workloads import write_starter

    write_starter(file, force=force)
    click.echo(f"wrote {file}; now: melange-sky plan {file}", err=True)


@click.command()
@click.argument("trace", metavar="LOG…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write here instead of to stdout.",
)
@trace_options()
@click.option("--input-edges", metavar="0,25,…", help="Bucket edges of input tokens.")
@click.option("--output-edges", metavar="0,25,…", help="Bucket edges of output tokens.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="On stdout: the section itself, or what the trace holds (rate over time, sizes).",
)
def workload(trace: tuple[Path, ...], output: Path | None, output_format: str, **how: Any) -> None:
    """Turn a log of requests into a `workload:` section that a spec can use.

    Reads what gateways, engines and observability tools write (CSV, JSON lines, JSON, Parquet; packed or
    not) as a stream, and says what it was read as; several files are one trace. The sizes written are the means of each bucket's requests; its rate over time is shown too,
    and lost in the section: a spec that names the trace itself is planned by it.
    """
    from melange_sky.planner.output_files import write_text
    from melange_sky.planner.workloads import count_trace
    from melange_sky.report.workload import histogram_note, workload_document

    counted = count_trace(trace, **how)
    if output is not None:
        write_text(output, counted.yaml)
    if output_format == "json":
        echo_json(workload_document(counted.histogram))
    elif output is None:
        click.echo(counted.yaml, nl=False)
    click.echo(histogram_note(counted.histogram), err=True)
