"""`plan --verify`: the options that it adds."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import NumberRange, jobs_option, seed_option
from melange_sky.cli.trace_options import trace_options

if TYPE_CHECKING:
    from melange_sky.plans import VerificationRound

EVERY_S = 10.0
"""How often progress is told where stderr is no terminal."""

_OPTIONS = (
    click.option(
        "--verify",
        is_flag=True,
        help="Replay the plan and replan until the SLO holds, or explain why it cannot.",
    ),
    click.option(
        "--verify-trace",
        type=click.Path(path_type=Path),
        metavar="LOG",
        help="Replay this trace, scaled to the spec's rate; default: the spec's own trace, "
        "or a sample of its workload.",
    ),
    trace_options("--verify-trace"),
    click.option(
        "--burstiness",
        type=NumberRange(min=0.01, max=1000),
        help="Squared coefficient of variation of the gaps of sampled arrivals: 1 Poisson, above 1 bursty "
        "(default: the spec's workload.burstiness).",
    ),
    seed_option,
    click.option(
        "--verify-seconds",
        type=NumberRange(min=0, min_open=True),
        default=120.0,
        show_default=True,
        help="Seconds for the search by replay; the best fleet that held by then is the plan. Ctrl-C "
        "ends it earlier.",
    ),
    click.option(
        "--incumbent",
        type=click.Path(path_type=Path),
        metavar="PLAN.json",
        help="A plan of before, or its folder: the result is never dearer than it is today where it "
        "holds in replay.",
    ),
    jobs_option,
)


def verify_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `plan --verify` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextlib.contextmanager
def telling_rounds() -> Iterator[Callable[[VerificationRound], None]]:
    """Tell of replayed fleets on stderr: each on a terminal, elsewhere the last one every 10 seconds."""
    from melange_sky.report.verification import round_text

    if sys.stderr.isatty():
        yield lambda one: click.echo(round_text(one), err=True)
        return
    rounds: list[VerificationRound] = []
    done = threading.Event()
    begin = time.monotonic()

    def tell() -> None:
        while not done.wait(EVERY_S):
            last = f"; last {round_text(rounds[-1])}" if rounds else ""
            seconds = time.monotonic() - begin
            text = f"verifying for {seconds:.0f} s, {len(rounds)} fleets replayed{last}"
            click.echo(text, err=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield rounds.append
    finally:
        done.set()
        teller.join()
