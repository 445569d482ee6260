"""`melange-sky profile learn`: what production traffic tells, without a load test."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from melange_sky.cli.common import echo_json, format_option, slo_options
from melange_sky.engines import DEFAULT_ENGINE, ENGINES

_SAY_S = 60.0


@click.command()
@click.option(
    "--metrics",
    multiple=True,
    help="Address of a replica that serves, such as http://HOST:8000; once per replica of one kind.",
)
@click.option(
    "--prometheus",
    metavar="URL",
    help="Address of a Prometheus that scrapes such replicas: learn at once from the window that it kept.",
)
@click.option(
    "--select",
    metavar="LABELS",
    help="With --prometheus, labels that only replicas of one kind have, such as 'job=\"chat-l40s\"'.",
)
@click.option(
    "--prometheus-token-env",
    default="PROMETHEUS_TOKEN",
    show_default=True,
    help="Environment variable that holds the token of --prometheus, or its whole Authorization header.",
)
@click.option("--model", required=True, help="The model that they serve.")
@click.option("--accelerator", required=True, help="What each runs on, such as A10G:1.")
@click.option(
    "--window",
    default="1h",
    show_default=True,
    help="How long to look, such as 90m or 24h; Ctrl-C learns from what was seen. With --prometheus, back.",
)
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=1, max=60),
    default=15.0,
    show_default=True,
    help="Seconds between two looks.",
)
@slo_options
@click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    default=DEFAULT_ENGINE.name,
    show_default=True,
    help="What serves.",
)
@click.option(
    "--api-key-env",
    default="OPENAI_API_KEY",
    show_default=True,
    help="Environment variable that holds the servers' key.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder of the profile tables.")
@format_option
def learn(output_format: str, **flags: Any) -> None:
    """Learn from replicas that serve: correct the estimates by what their traffic shows.

    No request is sent but for their metrics. What low traffic cannot tell stays as estimated.
    """
    from melange_sky.planner.traffic_learning import LearnOptions, learn_from_traffic
    from melange_sky.report.learning import observation_document, observation_text

    said = [time.monotonic()]

    def on_look(gone_s: float, all_s: float) -> None:
        if time.monotonic() - said[0] >= _SAY_S:
            said[0] = time.monotonic()
            click.echo(f"looked for {gone_s / 60:.0f} of {all_s / 60:.0f} min", err=True)

    found = learn_from_traffic(LearnOptions(**flags), on_look)
    if output_format == "json":
        echo_json(observation_document(found.learnt, found.cuts, found.calibration, found.path))
        return
    click.echo(observation_text(found.learnt, found.cuts, found.calibration), nl=False)
    if found.path is not None:
        click.echo(f"kept: {found.path}", err=True)
