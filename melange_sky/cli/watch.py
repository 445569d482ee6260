"""`melange-sky watch`: the fleet follows its traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import echo_event, echo_json, format_option, seed_option
from melange_sky.cli.services import backends_option, drain_option, routes_option
from melange_sky.cli.trace_options import trace_options
from melange_sky.errors import SloMissedError

if TYPE_CHECKING:
    from melange_sky.planner.watching.asking import WatchOptions


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, exists=False))
@click.option(
    "--mode",
    type=click.Choice(["observe", "propose", "apply"]),
    default="observe",
    show_default=True,
    help="Only tell; write a proposal down; or make SkyServe run what is decided.",
)
@click.option(
    "--observed",
    type=click.Path(path_type=Path),
    help="The file that `gateway --observed` writes.",
)
@click.option("--gateway", metavar="URL", help="A gateway's address: its metrics are read.")
@click.option(
    "--metrics",
    multiple=True,
    metavar="OPTION=URL",
    help="Address of a replica that serves, and its option; once per replica.",
)
@click.option("--prometheus", metavar="URL", help="Address of a Prometheus that scrapes them.")
@click.option(
    "--every",
    "every_s",
    type=float,
    default=60.0,
    show_default=True,
    help="Seconds between two looks; of the trace with --replay.",
)
@click.option("--once", is_flag=True, help="Look twice, half a minute apart, tell once and end.")
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    help="A YAML file of guard rails, in place of the plan's `guard`.",
)
@click.option(
    "--startup-s",
    type=float,
    help="Seconds from starting a replica until it serves (default: what was seen, else 600).",
)
@routes_option
@backends_option
@drain_option
@click.option(
    "--replay",
    type=click.Path(path_type=Path),
    help="Play a trace, or a CSV of time,rate_rps, through the simulator: what watching would have cost.",
)
@trace_options("--replay")
@seed_option
@click.option(
    "--cron",
    is_flag=True,
    help="Write a crontab and a SkyPilot job beside the plan that keep such a watcher running, and print the crontab.",
)
@click.option(
    "--explain",
    is_flag=False,
    flag_value="LAST",
    metavar="[LAST|N]",
    help="Explain the last decision that was not to keep the fleet, or the last N lines, and end.",
)
@format_option
def watch(folder: Path, output_format: str, explain: str | None, cron: bool, **flags: Any) -> None:
    """Follow the traffic of DIR's plan: say when another fleet is cheaper or the SLO at risk, and change it if told to.

    Every look is a line in DIR/watch.jsonl. Exit code 5 where a guard forbids the cure while the SLO is missed.
    """
    from melange_sky.planner.watching.asking import WatchOptions
    from melange_sky.planner.watching.following import follow

    if explain is not None:
        _explain(folder, explain, output_format)
        return
    if cron:
        _cron(folder, WatchOptions(**flags))
        return
    options = WatchOptions(**flags)
    if options.replay is not None:
        _replay(folder, options, output_format)
        return
    found = follow(folder, options, echo_event)
    if output_format == "json":
        echo_json(found.last)
    if found.forbidden:
        raise SloMissedError("the SLO is being missed, and the guard forbids the cure")


def _cron(folder: Path, options: WatchOptions) -> None:
    from melange_sky.planner.watching.cron import CRON_FILE, JOB_FILE, write_cron

    click.echo(write_cron(folder, options), nl=False)
    click.echo(f"wrote {folder / CRON_FILE} and {folder / JOB_FILE}", err=True)


def _replay(folder: Path, options: WatchOptions, output_format: str) -> None:
    from melange_sky.planner.watching.document import backtest_document
    from melange_sky.planner.watching.replay import backtest, write_replay
    from melange_sky.report.backtest import backtest_text

    found = backtest(folder, options, echo_event)
    path = write_replay(found, folder)
    if output_format == "json":
        echo_json(backtest_document(found))
    else:
        click.echo(backtest_text(backtest_document(found)), nl=False)
    click.echo(f"every look: {path}", err=True)
    if not found.held:
        raise SloMissedError(f"the SLO is missed; every look: {path}")


def _explain(folder: Path, which: str, output_format: str) -> None:
    from melange_sky.planner.watching.explaining import explained
    from melange_sky.report.watching import lines_text

    lines = explained(folder, which)
    if output_format == "json":
        echo_json(list(lines))
    else:
        click.echo(lines_text(lines), nl=False)
