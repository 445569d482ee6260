"""Options and helpers that several commands share."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from melange_sky.planner.hooks import Event, ReplayProgress
    from melange_sky.plans import PlanWarning

    Command = TypeVar("Command", bound=Callable[..., Any])

format_option = click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
)
offline_option = click.option(
    "--offline", is_flag=True, help="Open no socket at all (also MELANGE_SKY_OFFLINE=1)."
)


def slo_options(command: Command) -> Command:
    """Add the limits that a measured or observed rate is held to."""
    options = (
        click.option(
            "--tpot-ms",
            type=float,
            help="Limit of the time per output token after the first, in milliseconds.",
        ),
        click.option(
            "--ttft-ms", type=float, help="Limit of the time to the first token, in milliseconds."
        ),
        click.option(
            "--attainment",
            type=float,
            default=0.95,
            show_default=True,
            help="Fraction of requests that must meet every limit.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


class NumberRange(click.FloatRange):
    """click's range of numbers without NaN and infinities, which it would let pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def time_limit_option(text: str) -> Callable[[Command], Command]:
    """Return the option `--time-limit`; `text` says what it limits here."""
    return click.option(
        "--time-limit",
        "time_limit_s",
        type=NumberRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        help=text,
    )


class Fraction(click.ParamType):
    """A share written as ``0.03`` or ``3%``; a bare number above 1 is refused, not guessed at."""

    name = "fraction"

    def __init__(self, *, below_one: bool = False) -> None:
        self.below_one = below_one

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            self.fail(f"'{text[:40]}' is not a fraction such as 0.03 or 3%.", param, ctx)
        if not text.endswith("%") and number > 1:
            self.fail(f"{text[:40]} is above 1; write {text[:40]}% or a fraction.", param, ctx)
        if not 0 <= number < (1 if self.below_one else 100):
            self.fail(f"{text[:40]} is out of range.", param, ctx)
        return number


@contextlib.contextmanager
def estimating() -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr where it is a terminal; give the function that moves it.

    It appears with the first call that leaves work to do: what is known at once needs no bar.
    """
    bar: Any = None

    def advance(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            if done >= total or not sys.stderr or not sys.stderr.isatty():
                return
            label = "simulating capacities (cached for next time)"
            bar = click.progressbar(length=total, label=label, file=sys.stderr, show_pos=True)
            bar.render_progress()
        if total != bar.length or done < bar.pos:  # the next model's
            bar.length, bar.pos, bar.finished = total, 0, False
        bar.update(done - bar.pos)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.render_finish()


def refresh_progress() -> AbstractContextManager[Callable[[Event], None]]:
    """Open the display of a price refresh on stderr; rich is imported only then."""
    from melange_sky.cli.progress import RefreshProgress

    return RefreshProgress()


offers_option = click.option(
    "--offers",
    type=click.Path(path_type=Path),
    help="A CSV of your own offers; they replace equal instances of the catalogs.",
)
burstiness_option = click.option(
    "--burstiness",
    type=NumberRange(min=0.01, max=1000),
    default=1.0,
    show_default=True,
    help="Squared coefficient of variation of the gaps of sampled arrivals: 1 Poisson, above 1 bursty.",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the replay.",
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1, max=64),
    default=None,
    metavar="N",
    help="Replays to run in parallel; default: all cores, at most 8. Does not change the result.",
)


def replay_bar() -> AbstractContextManager[Callable[[ReplayProgress], None]]:
    """Open the display of a replay on stderr; rich is imported only then."""
    from melange_sky.cli.replay_bar import ReplayBar

    return ReplayBar()


def echo_warnings(warnings: Iterable[PlanWarning]) -> None:
    """Show warnings on stderr, a line each."""
    for warning in warnings:
        click.echo(f"warning: {warning.message}", err=True)


def echo_event(text: str) -> None:
    """Show a step of long work on stderr."""
    click.echo(text, err=True)


def echo_json(document: Any) -> None:
    """Print one JSON document to stdout and nothing else. NaN is refused: unknown is null."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))
