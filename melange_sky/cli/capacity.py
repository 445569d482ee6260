"""`melange-sky capacity`: how many requests per second each option sustains, and at what cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from melange_sky.cli.common import echo_json, estimating, offline_option
from melange_sky.engines import DEFAULT_ENGINE

_SHADES = (17, 18, 24, 30, 36, 71, 107, 143, 179, 208)


@click.command()
@click.option(
    "--model",
    required=True,
    help="Hugging Face id, with @REVISION or not, or path of a config.json.",
)
@click.option(
    "--accelerators", required=True, help="Such as L4,A10G:2,H100 (a bare name: one GPU)."
)
@click.option("--input", "inputs", required=True, help="Input tokens, such as 25,100,1000.")
@click.option("--output", "outputs", required=True, help="Output tokens, such as 25,100.")
@click.option("--tpot-ms", type=float, help="Limit of the time per output token after the first.")
@click.option("--ttft-ms", type=float, help="Limit of the time to the first token.")
@click.option(
    "--attainment",
    type=float,
    default=0.95,
    show_default=True,
    help="Fraction that meets the limits.",
)
@click.option(
    "--engine",
    default=DEFAULT_ENGINE.name,
    show_default=True,
    help="Engine, or a generation of one.",
)
@click.option("--quantization", help="As the engine's flag: fp8, awq, gptq, …")
@click.option("--dtype", help="As the engine's flag.")
@click.option("--kv-cache-dtype", help="As the engine's flag.")
@click.option(
    "--max-nodes", type=int, default=1, show_default=True, help="Most instances of one replica."
)
@offline_option
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json", "heatmap"]),
    default="table",
    show_default=True,
)
@click.option(
    "--write-table",
    type=click.Path(path_type=Path),
    help="Add estimates to a file that plans read.",
)
def capacity(output_format: str, write_table: Path | None, **flags: Any) -> None:
    """Show the highest request rate of each option at exactly the given request sizes."""
    from melange_sky.planner import capacity as work
    from melange_sky.report.capacity import capacity_document, capacity_text

    question = work.ask_capacity(work.CapacityOptions(**flags))
    for warning in question.warnings:
        click.echo(f"warning: {warning}", err=True)
    if write_table is not None:
        with estimating() as advance:
            count = work.write_estimates(question, write_table, _own_command(), advance)
        click.echo(f"{count} tables written to {write_table}", err=True)
        return
    with estimating() as advance:
        answer = work.answer_capacity(question, advance)
    if output_format == "json":
        echo_json(capacity_document(answer))
    else:
        shade = _shade if output_format == "heatmap" else None
        click.echo(capacity_text(answer, shade), nl=False)


def _shade(text: str, place: float) -> str:
    """Colour a cell's text by where its rate lies between the lowest (0) and the highest (1)."""
    return click.style(text, fg=255, bg=_SHADES[min(len(_SHADES) - 1, int(place * len(_SHADES)))])


def _own_command() -> str:
    """Return this very call as one would type it."""
    words = [
        word if word and word.isascii() and not set(word) & set(" '\"$") else repr(word)
        for word in sys.argv[1:]
    ]
    return " ".join(["melange-sky", *words])
