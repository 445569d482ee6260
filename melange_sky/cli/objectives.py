"""Objectives other than least cost: options of `plan`, some shared with `explain`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from melange_sky.cli.common import Fraction, NumberRange

within_option = click.option(
    "--within",
    "within_fraction",
    type=Fraction(),
    default=0.0,
    metavar="PERCENT",
    help="Take the simplest mix (fewest types, then instances) that costs at most this much more, such as 3%.",
)
alternatives_option = click.option(
    "--alternatives",
    type=click.IntRange(min=0, max=50),
    default=0,
    help="Show this many alternative mixes and how they differ.",
)
throughput_error_option = click.option(
    "--throughput-error",
    type=Fraction(below_one=True),
    default=0.0,
    metavar="FRACTION",
    help="Plan for capacities lower by this fraction, such as 0.2.",
)
error_budget_option = click.option(
    "--error-budget",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="How many sizes per option may be wrong at once (default: all).",
)
price_error_option = click.option(
    "--price-error",
    type=Fraction(below_one=True),
    default=0.0,
    metavar="FRACTION",
    help="Show the cost range if prices move by this fraction.",
)

_OPTIONS = (
    within_option,
    alternatives_option,
    click.option(
        "--stay-close",
        type=click.Path(path_type=Path),
        metavar="PLAN.json",
        help="Prefer few changes to this running plan.",
    ),
    click.option(
        "--switch-cost",
        type=NumberRange(min=0, max=1e6),
        default=None,
        metavar="USD",
        help="With --stay-close: $/h charged for each instance started or stopped.",
    ),
    throughput_error_option,
    error_budget_option,
    price_error_option,
)


def objective_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of this module to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
