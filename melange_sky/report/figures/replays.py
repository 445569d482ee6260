"""A replay: attainment with its interval, and how long first and later tokens took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.report.figures.attained import SIMULATED
from melange_sky.report.figures.canvas import DASHES, bar_rows, few_ticks, name_ticks, text_width
from melange_sky.report.figures.chart import Cell, Chart, Grid, Key
from melange_sky.report.figures.figure import Figure
from melange_sky.report.figures.numbers import count, milliseconds, percent, plain, shortened
from melange_sky.report.figures.style import INK, MUTED, SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from melange_sky.replay import Simulation

QUANTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
STEPS = 200
"""Points of a drawn distribution."""


def simulation_figures(simulation: Simulation) -> tuple[Figure, ...]:
    """Return attainment by option and the distributions of TTFT and TPOT."""
    log, slo = simulation.run.log, simulation.plan.slo
    found = [_attainment(simulation)]
    for name, title, times_s, limit_s in (
        ("ttft", "Time to the first token", log.ttft_s[log.ok], slo.ttft_s),
        ("tpot", "Time per output token after it", log.tpot_s[log.ok], slo.tpot_s),
    ):
        known_s = np.sort(times_s[np.isfinite(times_s)])
        if len(known_s):
            found.append(_distribution(name, title, known_s, limit_s))
    return tuple(found)


def _attainment(simulation: Simulation) -> Figure:
    verdict = simulation.verdict
    rows = [("all requests", verdict.judged, verdict.attainment, verdict.interval)]
    rows += [
        (one.option, one.requests, one.attainment, one.interval)
        for one in verdict.options
        if one.attainment is not None
    ]
    low, high = verdict.interval
    return Figure(
        name="attainment",
        title="Requests within the SLO",
        caption=(
            f"{verdict.attainment:.2%} of {verdict.judged:,} judged requests, 95 % interval {low:.2%} to {high:.2%};"
            f" target {verdict.target * 100:.4g}%."
        ),
        origin=SIMULATED,
        table=Grid(
            header=("what", "requests", "within SLO", "interval from", "to"),
            rows=tuple(
                (
                    Cell(name),
                    count(n),
                    percent(attained, 2),
                    percent(ends[0], 2),
                    percent(ends[1], 2),
                )
                for name, n, attained, ends in rows
            ),
        ),
        chart=_intervals(
            [(name, attained, ends) for name, _, attained, ends in rows], verdict.target
        ),
    )


def _intervals(rows: Sequence[tuple[str, float, tuple[float, float]]], target: float) -> Chart:
    labels = tuple(shortened(name, 22) for name, *_ in rows)
    texts = [f"{attained:.2%}" for _, attained, _ in rows]
    least = min([target, *(ends[0] for *_, ends in rows)])
    least = max(0.0, least - (1 - least) * 0.1 - 0.002)

    def draw(axes: Axes) -> None:
        bar_rows(axes, labels, 1.0)
        axes.set_xlim(least, 1.0)
        few_ticks(axes)
        name_ticks(axes, lambda part: f"{part * 100:.4g}%")
        for y, ((_, attained, (low, high)), text) in enumerate(zip(rows, texts, strict=True)):
            colour = SERIES[0] if y == 0 else MUTED
            axes.plot([low, high], [y, y], color=colour, linewidth=2.0)
            axes.plot(
                [low, low, high, high],
                [y - 0.15, y + 0.15, y - 0.15, y + 0.15],
                color=colour,
                marker="|",
                linestyle="",
            )
            axes.plot(
                [attained],
                [y],
                color=colour,
                marker="D" if y == 0 else "o",
                markersize=6,
                linestyle="",
            )
            axes.annotate(text, (1.0, y), (8, 0), textcoords="offset points", va="center")
        axes.axvline(target, color=INK, linewidth=1.4, linestyle=DASHES)

    return Chart(
        draw=draw,
        height=23.0 * len(rows) + 6,
        row_labels=labels,
        right=16.0 + max(map(text_width, texts)),
        keys=(
            Key(label="all requests", mark="diamond", colour=SERIES[0]),
            Key(label="one option", mark="point", colour=MUTED),
            Key(label="95 % interval", mark="line", colour=MUTED),
            Key(label="target", mark="line", dashed=True),
        ),
    )


def _distribution(
    name: str, title: str, times_s: NDArray[np.float64], limit_s: float | None
) -> Figure:
    """Return how many requests took at most how long; `times_s` are sorted."""
    within = (
        None
        if limit_s is None
        else float(np.searchsorted(times_s, limit_s, "right")) / len(times_s)
    )
    caption = f"{len(times_s):,} completed requests; half of them took at most {_ms(float(np.median(times_s)))}"
    caption += (
        "."
        if within is None or limit_s is None
        else f", {within:.2%} at most the limit of {_ms(limit_s)}."
    )
    rows = [
        (Cell(f"{q:g}%", q / 100), milliseconds(float(np.percentile(times_s, q))))
        for q in QUANTILES
    ]
    return Figure(
        name=name,
        title=title,
        caption=caption,
        origin=SIMULATED,
        table=Grid(header=("of the requests took at most", title), rows=tuple(rows)),
        chart=_curve(times_s, limit_s),
    )


def _ms(seconds: float) -> str:
    return f"{plain(seconds * 1000)} ms"


def _curve(times_s: NDArray[np.float64], limit_s: float | None) -> Chart:
    places = np.unique(np.linspace(0, len(times_s) - 1, STEPS).round().astype(int))
    at_ms, part = times_s[places] * 1000, (places + 1) / len(times_s)
    most = float(np.percentile(times_s, 99.5)) * 1000
    most = max(most, 1.15 * (limit_s or 0.0) * 1000) or 1.0

    def draw(axes: Axes) -> None:
        axes.plot(at_ms, part, color=SERIES[0], linewidth=2.0)
        axes.set_xlim(0, most)
        axes.set_ylim(0, 1.02)
        axes.grid(visible=True)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 0.95], ["0%", "25%", "50%", "75%", "95%"])
        few_ticks(axes)
        name_ticks(axes, plain)
        if limit_s is not None:
            axes.axvline(limit_s * 1000, color=INK, linewidth=1.4, linestyle=DASHES)

    limit = (
        (Key(label="limit of the SLO", mark="line", dashed=True),) if limit_s is not None else ()
    )
    return Chart(
        draw=draw,
        height=160.0,
        row_labels=("95%",),
        right=22.0,
        x_label="milliseconds, at most",
        y_label="part of the requests",
        keys=(Key(label="requests", mark="line", colour=SERIES[0]), *limit),
    )
