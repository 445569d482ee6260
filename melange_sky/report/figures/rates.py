"""Cost over the rate: of a sweep, where the mix flips; of a comparison, fleet by fleet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from melange_sky.report.comparison import MIX, ContenderView, saving_of
from melange_sky.report.figures.canvas import (
    DASHES,
    apart,
    bar,
    bar_rows,
    few_ticks,
    name_ticks,
    text_width,
)
from melange_sky.report.figures.chart import Cell, Chart, Grid, Key
from melange_sky.report.figures.figure import Figure
from melange_sky.report.figures.numbers import (
    milliseconds,
    percent,
    plain,
    rate,
    short_usd,
    shortened,
    usd,
    words,
)
from melange_sky.report.figures.series import ORIGIN_WORDS, origin_text
from melange_sky.report.figures.style import INK, MUTED, letter_of, series_colour
from melange_sky.report.sweep import mix_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from melange_sky.optimizer import SweepPoint

HEIGHT = 190.0
"""Pixels of a chart's axes."""

LINES = 8
"""Lines in one chart; the table has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    label: str
    colour: str
    points: tuple[tuple[float, float], ...]
    letter: str = ""
    dashed: bool = False
    flips: tuple[tuple[float, float], ...] = ()


def sweep_figures(points: Sequence[SweepPoint]) -> tuple[Figure, ...]:
    """Return what the mix costs over the rate, a figure for each TPOT limit and each change of prices."""
    groups = _groups(points)
    return tuple(
        _sweep_figure(f"sweep-{n + 1}", about, group)
        for n, (about, group) in enumerate(groups.items())
    )


def _sweep_figure(name: str, about: str, group: Sequence[SweepPoint]) -> Figure:
    flips = _flips(group)
    missing = sum(point.cost_usd_per_hour is None for point in group)
    none = f" {missing} of {len(group)} points have no plan; the table says why." if missing else ""
    lines = _lines(group, flips)
    keys = [
        Key(label=one.label, colour=one.colour, mark="line", dashed=one.dashed) for one in lines
    ]
    times = f"{len(flips)} times" if len(flips) != 1 else "once"
    return Figure(
        name=name,
        title=f"Cost over the rate{f', {about}' if about else ''}",
        caption=f"Diamonds are where the types of the mix change: {times} here.{none}",
        origin=f"{origin_text(p.origin for p in group)} Each point is planned on these, none was replayed.",
        table=Grid(header=_SWEEP, rows=_sweep_rows(group, flips)),
        chart=_chart(lines, (*keys, Key(label="the mix changes", mark="diamond", colour=INK))),
    )


def _groups(points: Sequence[SweepPoint]) -> dict[str, list[SweepPoint]]:
    """Return the points by TPOT limit and prices, each in the order of its rates."""
    groups: dict[str, list[SweepPoint]] = {}
    for point in points:
        tpot = "" if point.tpot_s is None else f"TPOT {point.tpot_s * 1000:g} ms"
        prices = f"prices {point.prices}" if point.prices else ""
        groups.setdefault(", ".join(filter(None, (tpot, prices))), []).append(point)
    return {name: sorted(group, key=lambda p: p.rate_rps) for name, group in groups.items()}


def _flips(group: Sequence[SweepPoint]) -> list[SweepPoint]:
    """Return the points whose mix is of other types than that of the rate before."""
    planned = [point for point in group if point.cost_usd_per_hour is not None]
    return [
        after
        for before, after in pairwise(planned)
        if {name for name, _ in before.mix} != {name for name, _ in after.mix}
    ]


def _lines(group: Sequence[SweepPoint], flips: Sequence[SweepPoint]) -> list[_Line]:
    mix = [(p.rate_rps, p.cost_usd_per_hour) for p in group if p.cost_usd_per_hour is not None]
    single = [
        (p.rate_rps, p.best_single_usd_per_hour)
        for p in group
        if p.best_single_usd_per_hour is not None
    ]
    changed = tuple((p.rate_rps, p.cost_usd_per_hour or 0.0) for p in flips)
    return [
        _Line(
            label="best single accelerator",
            colour=series_colour(1),
            points=tuple(single),
            dashed=True,
        ),
        _Line(label="the mix", colour=series_colour(0), points=tuple(mix), flips=changed),
    ]


def _chart(lines: Sequence[_Line], keys: tuple[Key, ...], unit: str = "cost an hour") -> Chart:
    known = [point for line in lines for point in line.points]
    rates = sorted({x for x, _ in known}) or [1.0]
    most = max((y for _, y in known), default=0.0) or 1.0
    is_wide = rates[0] > 0 and rates[-1] / rates[0] >= 8

    def draw(axes: Axes) -> None:
        if is_wide:
            axes.set_xscale("log")
            axes.minorticks_off()
        for line in sorted(lines, key=lambda line: line.letter, reverse=True):  # the mix on top
            if not line.points:
                continue
            style = DASHES if line.dashed else "-"
            xs, ys = zip(*line.points, strict=True)
            axes.plot(
                xs, ys, color=line.colour, linestyle=style, linewidth=1.2 if line.dashed else 2.0
            )
            axes.plot(xs, ys, color=line.colour, marker="o", markersize=3, linestyle="")
            for x, y in line.flips:
                axes.plot([x], [y], color=INK, marker="D", markersize=5, linestyle="")
        axes.set_ylim(0, most * 1.08)
        ends = [(line, line.points[-1][1]) for line in lines if line.letter and line.points]
        for line, y in apart(ends, most * 1.08 * 12.0 / HEIGHT):
            at = line.points[-1]
            up = (y - at[1]) * HEIGHT / (most * 1.08)
            lead = {
                "arrowstyle": "-",
                "color": line.colour,
                "linewidth": 0.8,
                "shrinkA": 1,
                "relpos": (0, 0.5),
            }
            axes.annotate(
                line.letter, at, (18, up), textcoords="offset points", va="center", arrowprops=lead
            )
        axes.grid(visible=True, axis="y")
        axes.locator_params(axis="y", nbins=5)
        name_ticks(axes, short_usd, axis="y")
        if is_wide:
            shown = _spread(rates)
            axes.set_xticks(shown, [plain(x) for x in shown])
        else:
            few_ticks(axes)
            name_ticks(axes, plain)

    return Chart(
        draw=draw,
        height=HEIGHT,
        row_labels=(short_usd(most * 1.08),),
        right=34.0 if any(line.letter for line in lines) else 24.0,
        x_label=f"requests per second{' (logarithmic)' if is_wide else ''}",
        y_label=unit,
        keys=keys,
    )


def _spread(rates: Sequence[float], apart: float = 0.11) -> list[float]:
    """Return rates that stand far enough from each other on a logarithmic axis, the last among them."""
    span = math.log(rates[-1] / rates[0])
    shown = [rates[-1]]
    for x in reversed(rates):
        if math.log(shown[-1] / x) >= apart * span:
            shown.append(x)
    return shown[::-1]


_SWEEP = (
    "req/s",
    "TPOT limit",
    "prices",
    "$/h",
    "status",
    "mix",
    "capacities",
    "the mix changes",
    "best single",
    "its $/h",
    "reason",
)


def _sweep_rows(
    points: Sequence[SweepPoint], flips: Sequence[SweepPoint]
) -> tuple[tuple[Cell, ...], ...]:
    return tuple(
        (
            rate(p.rate_rps),
            milliseconds(p.tpot_s),
            words(p.prices),
            usd(p.cost_usd_per_hour),
            words(p.status),
            words(mix_text(p)),
            words(None if p.origin is None else ORIGIN_WORDS[p.origin]),
            words("yes" if any(p is flip for flip in flips) else None),
            words(p.best_single),
            usd(p.best_single_usd_per_hour),
            words(p.reason),
        )
        for p in points
    )


def comparison_figure(rows: Sequence[ContenderView]) -> Figure:
    """Return what each kind of fleet costs: over the rate, or beside each other where there is but one."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    several = len({row.rate_rps for row in rows}) > 1
    return Figure(
        name="fleets",
        title="Fleets that hold the SLO in replay",
        caption=(
            "What each costs an hour; all are sized by the same replays, so that costs are compared at equal"
            " attainment."
        ),
        origin="Simulated: each request replayed through an engine model, not through GPUs.",
        table=Grid(header=_COMPARED, rows=tuple(_compared(row, rows) for row in rows)),
        chart=_over_rates(rows, kinds) if several else _side_by_side(rows),
    )


def _over_rates(rows: Sequence[ContenderView], kinds: Sequence[str]) -> Chart:
    lines = [
        _Line(
            label=f"{letter_of(n)}  {shortened(kind, 24)}",
            colour=series_colour(n) if n < LINES else MUTED,
            letter=letter_of(n),
            points=tuple(
                (r.rate_rps, r.usd_per_hour)
                for r in rows
                if r.kind == kind and r.usd_per_hour is not None
            ),
        )
        for n, kind in enumerate(kinds)
    ]
    keys = [
        Key(
            label=line.label if line.points else f"{line.label}: {_without_fleet(rows, kind)}",
            colour=line.colour,
            mark="line",
        )
        for line, kind in zip(lines, kinds, strict=True)
    ]
    return _chart(lines, tuple(keys))


def _without_fleet(rows: Sequence[ContenderView], kind: str) -> str:
    is_late = any(row.late for row in rows if row.kind == kind)
    return "no fleet found in time" if is_late else "no fleet holds"


def _side_by_side(rows: Sequence[ContenderView]) -> Chart:
    labels = tuple(shortened(row.kind, 22) for row in rows)
    texts = [
        _without_fleet([row], row.kind) if row.usd_per_hour is None else short_usd(row.usd_per_hour)
        for row in rows
    ]

    def draw(axes: Axes) -> None:
        bar_rows(axes, labels, max(row.usd_per_hour or 0.0 for row in rows))
        name_ticks(axes, lambda cost: f"${cost:,.4g}")
        for y, (row, text) in enumerate(zip(rows, texts, strict=True)):
            cost = row.usd_per_hour or 0.0
            bar(axes, (0, y - 0.36, cost, 0.72), series_colour(0) if row.kind == MIX else MUTED)
            axes.annotate(text, (cost, y), (5, 0), textcoords="offset points", va="center")

    return Chart(
        draw=draw,
        height=23.0 * len(rows) + 6,
        row_labels=labels,
        right=12.0 + max(map(text_width, texts)),
        x_label="cost an hour",
    )


_COMPARED = (
    "req/s",
    "fleet",
    "$/h as planned",
    "$/h verified",
    "the mix saves",
    "within SLO",
    "interval from",
    "instances",
    "remark",
)


def _compared(row: ContenderView, rows: Sequence[ContenderView]) -> tuple[Cell, ...]:
    remark = "; ".join(filter(None, (row.reason, "search ended by its time" if row.late else None)))
    return (
        rate(row.rate_rps),
        Cell(row.kind),
        usd(row.paper_usd_per_hour),
        usd(row.usd_per_hour),
        percent(saving_of(row, rows)),
        percent(row.attainment, 2),
        percent(row.low, 2),
        words(row.fleet),
        words(remark),
    )
