"""`plan --verify`: the options that it adds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from melange_sky.cli.common import NumberRange, jobs_option, seed_option

_OPTIONS = (
    click.option(
        "--verify",
        is_flag=True,
        help="Replay the plan and replan until the SLO holds, or explain why it cannot.",
    ),
    click.option(
        "--verify-trace",
        type=click.Path(path_type=Path),
        metavar="CSV",
        help="Replay this trace, scaled to the spec's rate; default: the spec's own trace, "
        "or a sample of its workload.",
    ),
    click.option(
        "--burstiness",
        type=NumberRange(min=0.01, max=1000),
        help="Squared coefficient of variation of the gaps of sampled arrivals: 1 Poisson, above 1 bursty "
        "(default: the spec's workload.burstiness).",
    ),
    seed_option,
    jobs_option,
)


def verify_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `plan --verify` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
