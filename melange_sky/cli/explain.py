"""`melange-sky explain` and `melange-sky sweep`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import echo_json, format_option, offline_option
from melange_sky.cli.objectives import (
    alternatives_option,
    error_budget_option,
    price_error_option,
    throughput_error_option,
    within_option,
)
from melange_sky.errors import InputError
from melange_sky.settings import is_offline

if TYPE_CHECKING:
    from melange_sky.optimizer import Explanation, PriceStep, Robustness, RobustReport, SweepPoint

time_limit_option = click.option(
    "--time-limit",
    "time_limit_s",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds for each solve.",
)


@click.command()
@click.argument("plan_file", metavar="PLAN.json", type=click.Path(path_type=Path))
@alternatives_option
@within_option
@throughput_error_option
@price_error_option
@error_budget_option
@time_limit_option
@format_option
def explain(plan_file: Path, output_format: str, **asked: Any) -> None:
    """Say why PLAN.json is what it is: per size, what binds, what each rule costs.

    Everything is computed from the plan alone; no prices are read.
    """
    from melange_sky.optimizer import SolveOptions, explain, other_fleets, problem_of, robust_report
    from melange_sky.planfile import load_plan

    planned = load_plan(plan_file)
    options = SolveOptions(time_limit_s=asked["time_limit_s"])
    reasons = explain(planned, options)
    others = other_fleets(
        problem_of(planned), options, asked["alternatives"], asked["within_fraction"]
    )
    robust = None
    if asked["throughput_error"] or asked["price_error"]:
        robust = robust_report(
            problem_of(planned), options, _robustness(asked), asked["price_error"]
        )
    if output_format == "json":
        echo_json(
            asdict(reasons)
            | {
                "others": [asdict(o) for o in others],
                "robustness": asdict(robust) if robust else None,
            }
        )
        return
    for line in _lines(reasons, robust):
        click.echo(line)
    for other in others:
        click.echo(f"  {other.kind}: {other.differs}")


def _robustness(asked: dict[str, Any]) -> Robustness:
    from melange_sky.optimizer import Robustness

    return Robustness(throughput_error=asked["throughput_error"], budget=asked["error_budget"])


def _lines(reasons: Explanation, robust: RobustReport | None) -> list[str]:
    several = len({b.model for b in reasons.buckets}) > 1
    lines = ["Who serves what, and why ($ per million tokens on each option, when full):"]
    for bucket in reasons.buckets:
        who = f"{bucket.model}: " if several else ""
        lines.append(f"  {who}{bucket.bucket} tokens, {bucket.rate_rps:.3g} req/s: {bucket.why}")
        able = [c for c in bucket.choices if c.usd_per_million_tokens is not None]
        shown = [c for n, c in enumerate(able) if n < 3 or c.share > 0]
        lines += [
            f"    {f'{c.share:6.1%}' if c.share else '      '}  ${c.usd_per_million_tokens:.3f}  {c.option}"
            for c in shown
        ]
        if len(able) > len(shown):
            lines.append(f"            and {len(able) - len(shown)} dearer options")
    lines.append("How full (load ÷ the room that headroom leaves):")
    lines += [
        f"  {o.instances} x {o.option}: {o.fill_fraction:.1%}{' (full)' if o.binds else ''}"
        for o in reasons.options
    ]
    lines.append(
        f"Cost ${reasons.cost_usd_per_hour:.3f}/h; were instances divisible and nothing forbidden, "
        f"${reasons.bound_usd_per_hour:.3f}/h"
    )
    if reasons.rules:
        lines.append("What each rule costs (by solving again with whole instances):")
    lines += [
        f"  {r.rule}: {_money(r.saved_without_usd_per_hour)} without it; {_money(r.saved_by_step_usd_per_hour)} were one to {r.step}"
        for r in reasons.rules
    ]
    lines += reasons.savings
    return lines + _robust_lines(robust)


def _money(saved: float | None) -> str:
    if saved is None:
        return "not known in the time limit"
    return f"saves ${saved:.3f}/h" if saved > 1e-6 else "saves nothing"


def _robust_lines(robust: RobustReport | None) -> list[str]:
    if robust is None:
        return []
    lines = [
        f"This fleet costs ${robust.price_low_usd_per_hour:.3f} to ${robust.price_high_usd_per_hour:.3f}/h over the price error."
    ]
    if robust.protected_usd_per_hour is None:
        return [*lines, f"No fleet bears the throughput error: {robust.reason}"]
    mix = ", ".join(f"{n} x {name}" for name, n in robust.protected)
    return [
        *lines,
        (
            f"Bearing the throughput error costs ${robust.protected_usd_per_hour:.3f}/h, a premium of "
            f"${robust.premium_usd_per_hour:.3f}/h: {mix}"
        ),
    ]


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option(
    "--rate", "rates", required=True, help="Request rates: 1,4,16 or 1:128:x2 or 10:100:+10."
)
@click.option("--tpot-ms", "tpots", default=None, help="TPOT limits in ms, in the same form.")
@click.option(
    "--prices",
    "prices",
    multiple=True,
    metavar="[ACCELERATOR=]FACTORS",
    help="Price factors, in the same form: of every price (0.8,1,1.2), or of one accelerator's alone"
    " (H100=0.5:2:x2). May be given again; each value is a step of its own.",
)
@click.option(
    "--as-of", metavar="DATE|ID", help="Prices of that date or snapshot (see `prices snapshots`)."
)
@offline_option
@click.option(
    "--offers", "offers_csv", type=click.Path(path_type=Path), help="CSV of your own offers."
)
@time_limit_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="CSV file to write (default: stdout)."
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["csv", "json"]),
    default="csv",
    show_default=True,
)
def sweep(
    spec: Path, rates: str, tpots: str | None, output: Path | None, output_format: str, **asked: Any
) -> None:
    """Plan SPEC at every rate, TPOT limit and price given: cost and mix at each point."""
    from melange_sky.optimizer import SolveOptions
    from melange_sky.planner.request import PlanRequest
    from melange_sky.planner.sweep import SweepAxes, sweep_spec
    from melange_sky.pricing import OfferQuery

    request = PlanRequest(
        prices=OfferQuery(
            offline=is_offline(asked["offline"]),
            offers_csv=asked["offers_csv"],
            as_of=asked["as_of"],
        ),
        solve=SolveOptions(time_limit_s=asked["time_limit_s"]),
        sensitivity=False,
    )
    axes = SweepAxes(
        rates_rps=parse_axis(rates, "--rate"),
        tpots_s=tuple(v / 1000 for v in parse_axis(tpots, "--tpot-ms")) if tpots else (),
        prices=tuple(step for text in asked["prices"] for step in parse_prices(text)),
    )
    points = sweep_spec(spec, request, axes)
    text = _json_text(points) if output_format == "json" else _csv_text(points)
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(output, text)


def parse_axis(text: str, name: str) -> tuple[float, ...]:
    """Return the values of ``1,4,16``, ``1:128:x2`` (times 2) or ``10:100:+10`` (plus 10).

    >>> parse_axis("1:8:x2", "--rate"), parse_axis("1:2:+0.5", "--rate"), parse_axis("3,5", "--rate")
    ((1.0, 2.0, 4.0, 8.0), (1.0, 1.5, 2.0), (3.0, 5.0))
    """
    wrong = InputError(f"{name}: '{text[:40]}' is not like 1,4,16 or 1:128:x2 or 10:100:+10")
    try:
        if ":" not in text:
            values = tuple(float(part) for part in text.split(","))
        else:
            values = _stepped(text)
    except ValueError as error:
        raise wrong from error
    if not values or any(not 0 < value < 1e9 for value in values):
        raise wrong
    return values


def parse_prices(text: str) -> tuple[PriceStep, ...]:
    """Return the price steps of ``0.8,1,1.2`` (all prices) or ``H100=0.5:2:x2`` (one accelerator's).

    >>> [step.label for step in parse_prices("H100=0.5:2:x2")]
    ['H100=0.5', 'H100=1', 'H100=2']
    """
    from melange_sky.optimizer import PriceStep

    name, equals, factors = text.rpartition("=")
    if equals and not name:
        raise InputError(f"--prices: '{text[:40]}' names no accelerator before '='")
    values = parse_axis(factors, "--prices")
    return tuple(PriceStep(factor=value, accelerator=name or None) for value in values)


def _stepped(text: str) -> tuple[float, ...]:
    first, last, step = text.split(":")
    value, end, by = float(first), float(last), float(step[1:])
    if step[0] not in "x+" or value <= 0 or (by <= 1 if step[0] == "x" else by <= 0):
        raise ValueError
    values: list[float] = []
    while value <= end * (1 + 1e-9) and len(values) < 1000:
        values.append(value)
        value = value * by if step[0] == "x" else value + by
    return tuple(values)


def _csv_text(points: tuple[SweepPoint, ...]) -> str:
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [
            "rate_rps",
            "tpot_ms",
            "prices",
            "cost_usd_per_hour",
            "status",
            "mix",
            "best_single",
            "best_single_usd_per_hour",
            "reason",
        ]
    )
    for p in points:
        mix = " + ".join(f"{n} x {name}" for name, n in p.mix)
        tpot_ms = None if p.tpot_s is None else round(p.tpot_s * 1000, 6)
        writer.writerow(
            [
                p.rate_rps,
                tpot_ms,
                p.prices,
                p.cost_usd_per_hour,
                p.status,
                mix,
                p.best_single,
                p.best_single_usd_per_hour,
                p.reason,
            ]
        )
    return buffer.getvalue()


def _json_text(points: tuple[SweepPoint, ...]) -> str:
    import json

    return json.dumps([asdict(point) for point in points], indent=2, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    import os

    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)  # noqa: PTH105
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
