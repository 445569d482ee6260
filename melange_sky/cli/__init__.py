"""The command line: parse, call, print; nothing else.

`common`, `objectives` and `verification` hold options that several commands share, `progress` and
`replay_bar` what moves on a terminal. A command's module is imported only when the command is called,
so that `plan` pays for nothing that it does not use.
"""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import importlib.util
import io
import logging
import os
import sys

import click

from melange_sky.cli.harmless import harmless_output
from melange_sky.errors import MelangeError, NoPlanInTimeError
from melange_sky.settings import keep_one_thread_for_products
from melange_sky.version import __version__

MANY = 200_000
"""New objects until the next garbage collection: a plan makes half as many, which stay, and a collection finds nothing."""

COMMANDS: dict[str, tuple[str, str]] = {
    "plan": (
        "melange_sky.cli.plan:plan",
        "Plan the cheapest mix for a spec and write its services.",
    ),
    "render": ("melange_sky.cli.plan:render", "Write the service files of a saved plan."),
    "init": ("melange_sky.cli.workload:init", "Write a commented starter spec."),
    "workload": ("melange_sky.cli.workload:workload", "Turn a request trace into a histogram."),
    "prices": ("melange_sky.cli.prices:prices", "List, refresh and compare instance prices."),
    "capacity": (
        "melange_sky.cli.capacity:capacity",
        "Show how many requests each option sustains.",
    ),
    "models": ("melange_sky.cli.models:models", "Show, list and fetch models."),
    "explain": ("melange_sky.cli.explain:explain", "Explain a plan."),
    "sweep": ("melange_sky.cli.explain:sweep", "Plan over a range of rates and SLOs."),
    "simulate": ("melange_sky.cli.simulate:simulate", "Replay requests through a planned fleet."),
    "compare": ("melange_sky.cli.compare:compare", "Compare verified fleets at equal attainment."),
    "report": ("melange_sky.cli.report:report", "Write a result as one HTML file."),
    "reserve": (
        "melange_sky.cli.reserve:reserve",
        "Advise what to commit to, and what to rent on top.",
    ),
    "bound": ("melange_sky.cli.reserve:bound", "Tell what a perfect autoscaler would cost."),
    "schedule": (
        "melange_sky.cli.schedule:schedule",
        "Bring the fleets of a reserve folder up by the hour.",
    ),
    "profile": ("melange_sky.cli.profile:profile", "Measure endpoints, or launch measuring jobs."),
    "gateway": ("melange_sky.cli.gateway:gateway", "Serve one endpoint over the planned mix."),
    "apply": ("melange_sky.cli.services:apply", "Bring the planned services up, or change them."),
    "status": ("melange_sky.cli.services:status", "Show planned against live replicas."),
    "down": ("melange_sky.cli.services:down", "Take the planned services down."),
    "watch": ("melange_sky.cli.watch:watch", "Follow a fleet's traffic; propose or make changes."),
    "plugin": (
        "melange_sky.cli.plugin:plugin",
        "Show fleets in SkyPilot's dashboard; guard launches.",
    ),
    "help": ("melange_sky.cli.help:help_", "Read the documentation, topic by topic."),
}
"""Command name → where it is, and its one-line help (so that `--help` imports nothing)."""


class LazyGroup(click.Group):
    """A click group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if _exists(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS or not _exists(cmd_name):
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; a reader that has left early ends it as a shell would (128 + SIGPIPE)."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would exit with 1, which here means a bug
            _drop_output()
            sys.exit(141)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, COMMANDS[name][1]) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _exists(name: str) -> bool:
    return importlib.util.find_spec(COMMANDS[name][0].partition(":")[0]) is not None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="melange-sky")
@click.option("-v", "--verbose", count=True, help="Log progress to stderr; repeat for more detail.")
def cli(verbose: int) -> None:
    """Plan the cheapest mix of cloud GPUs that serves an LLM within its SLO.

    \b
    Exit codes: 0 done, 2 wrong use or bad input, 3 no feasible plan,
    4 prices or a network source unavailable, 5 ran but missed its SLO,
    6 no plan within the time limit, 130 interrupted before there was a
    result, 1 anything unexpected.
    """
    _log_to_stderr(verbose)


def _log_to_stderr(verbose: int) -> None:
    """Log the package's own steps; of libraries, whose lines may hold addresses with keys, errors alone."""
    level = {0: logging.ERROR, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(
        stream=sys.stderr, level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("melange_sky").setLevel(level)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the documented code."""
    gc.set_threshold(MANY)
    atexit.register(
        gc.freeze
    )  # the process takes all that is left with it: nobody need look through it
    keep_one_thread_for_products()
    _never_fail_on_encoding()
    with harmless_output():
        _run(arguments)


def _run(arguments: list[str] | None) -> None:
    try:
        cli.main(args=arguments, prog_name="melange-sky", standalone_mode=False)
    except MelangeError as error:
        way_out = "; raise it with --time-limit" if isinstance(error, NoPlanInTimeError) else ""
        click.echo(f"error: {error}{way_out}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _drop_output()
        click.echo(f"error: the output cannot be written: {error.strerror}", err=True)
        sys.exit(2)


def _never_fail_on_encoding() -> None:
    """Let a terminal that cannot show a character, such as ×, show ? in its place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _drop_output() -> None:
    """Send what is still buffered nowhere, so that no second error follows at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
