"""`melange-sky init` and `melange-sky workload`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("spec.yaml"))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def init(file: Path, force: bool) -> None:
    """Write a commented starter spec to FILE (default: spec.yaml)."""
    from melange_sky.planner.workloads import write_starter

    write_starter(file, force=force)
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
def workload(trace: Path, output: Path | None, **edges: Any) -> None:
    """Turn a request trace into a `workload:` section that a spec can use.

    Reads Azure 2023 CSV, Mooncake JSONL, BurstGPT CSV or arrival_s,input_tokens,output_tokens as a
    stream. The sizes written are the means of each bucket's requests.
    """
    from melange_sky.planner.output_files import write_text
    from melange_sky.planner.workloads import count_trace
    from melange_sky.report.workload import histogram_note

    counted = count_trace(trace, **edges)
    if output is None:
        click.echo(counted.yaml, nl=False)
    else:
        write_text(output, counted.yaml)
    click.echo(histogram_note(counted.histogram), err=True)
