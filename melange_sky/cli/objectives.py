"""What else than least cost a plan may be asked for: options of `plan`, shared with `explain`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import Fraction, NumberRange
from melange_sky.errors import InputError

if TYPE_CHECKING:
    from melange_sky.optimizer import Robustness, StayClose
    from melange_sky.plans import Plan

within_option = click.option(
    "--within",
    "within_fraction",
    type=Fraction(),
    default=0.0,
    metavar="PERCENT",
    help="The simplest mix (fewest types, then instances) at most so much dearer, such as 3%.",
)
alternatives_option = click.option(
    "--alternatives",
    type=click.IntRange(min=0, max=50),
    default=0,
    help="So many other good mixes, and what differs.",
)
throughput_error_option = click.option(
    "--throughput-error",
    type=Fraction(below_one=True),
    default=0.0,
    metavar="FRACTION",
    help="Capacities may be so much lower, such as 0.2.",
)
error_budget_option = click.option(
    "--error-budget",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="Only so many sizes per option are off at once (default: all).",
)
price_error_option = click.option(
    "--price-error",
    type=Fraction(below_one=True),
    default=0.0,
    metavar="FRACTION",
    help="Prices may move by so much: the cost range is told.",
)

_OPTIONS = (
    within_option,
    alternatives_option,
    click.option(
        "--stay-close",
        type=click.Path(path_type=Path),
        metavar="PLAN.json",
        help="Change little against this running plan.",
    ),
    click.option(
        "--switch-cost",
        type=NumberRange(min=0, max=1e6),
        default=None,
        metavar="USD",
        help="$/h that each started or stopped instance counts with --stay-close.",
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


def solve_fields(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of SolveOptions that the options ask for; InputError where they clash."""
    if (asked["stay_close"] is None) != (asked["switch_cost"] is None):
        raise InputError("--stay-close PLAN.json and --switch-cost USD go together")
    return {
        "within_fraction": asked["within_fraction"],
        "alternatives": asked["alternatives"],
        "stay_close": _stay_close(asked["stay_close"], asked["switch_cost"]),
        "robustness": robustness(asked["throughput_error"], asked["error_budget"]),
    }


def robustness(throughput_error: float, error_budget: int | None) -> Robustness | None:
    """Return the protection asked for, None for none."""
    from melange_sky.optimizer import Robustness

    if not throughput_error:
        if error_budget is not None:
            raise InputError("--error-budget needs --throughput-error")
        return None
    return Robustness(throughput_error=throughput_error, budget=error_budget)


def _stay_close(running: Path | None, switch_cost: float | None) -> StayClose | None:
    if running is None or switch_cost is None:
        return None
    from melange_sky.optimizer import StayClose
    from melange_sky.planfile import load_plan

    return StayClose(instances=_instances(load_plan(running)), switch_usd_per_hour=switch_cost)


def _instances(planned: Plan) -> tuple[tuple[str, str, int], ...]:
    return tuple(
        (model.name, allocation.candidate.option.name, allocation.instances)
        for model in planned.models
        for allocation in model.allocations
    )
