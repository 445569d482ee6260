"""How full each option is, at the rate planned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.planfile import allocation_origin
from melange_sky.report.figures.canvas import DASHES, bar, bar_rows, name_ticks, text_width
from melange_sky.report.figures.chart import Cell, Chart, Grid, Key
from melange_sky.report.figures.figure import Figure
from melange_sky.report.figures.numbers import count, percent, plain, rate, shortened, words
from melange_sky.report.figures.series import ORIGIN_WORDS, origin_keys, origin_text, series_of
from melange_sky.report.figures.style import INK, MUTED, hatch_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from melange_sky.plans import Allocation, ModelPlan


def load_figure(model: ModelPlan, headroom: float) -> Figure:
    """Return the load of each option against its capacity, and against what headroom leaves of it."""
    origins = [allocation_origin(a) for a in model.allocations]
    kept = f" {headroom:.0%} of each replica's capacity was to be kept free." if headroom else ""
    if any(a.load_fraction > 1 for a in model.allocations):
        kept += " Above 100% replay holds more than the capacities say."
    return Figure(
        name="load",
        title="How full each option is",
        caption=f"Load as a part of capacity, at {plain(model.workload.rate_rps)} requests a second.{kept}",
        origin=origin_text(origins),
        table=Grid(header=_HEADER, rows=tuple(map(_cells, model.allocations))),
        chart=_chart(model, headroom),
    )


def _chart(model: ModelPlan, headroom: float) -> Chart:
    series = series_of(model)
    rows = model.allocations
    labels = tuple(
        f"{series[a.candidate.option.shape].letter}  {a.instances} × {shortened(a.candidate.option.shape, 18)}"
        for a in rows
    )
    texts = [f"{a.load_fraction:.0%}, {plain(a.rate_rps)} req/s" for a in rows]
    most = max([1.0, *(a.load_fraction for a in rows)])
    keys = [Key(label="capacity", mark="line", colour=INK)]
    if headroom:
        keys.append(Key(label="less headroom", mark="line", colour=MUTED, dashed=True))

    def draw(axes: Axes) -> None:
        bar_rows(axes, labels, most * 1.02)
        name_ticks(axes, lambda part: f"{part:.0%}")
        for y, (allocation, text) in enumerate(zip(rows, texts, strict=True)):
            colour = series[allocation.candidate.option.shape].colour
            hatch = hatch_of(allocation_origin(allocation))
            bar(axes, (0, y - 0.36, allocation.load_fraction, 0.72), colour, hatch)
            end = max(allocation.load_fraction, 1.0)
            axes.annotate(text, (end, y), (6, 0), textcoords="offset points", va="center")
        axes.axvline(1.0, color=INK, linewidth=1.4)
        if headroom:
            axes.axvline(1 - headroom, color=MUTED, linewidth=1.2, linestyle=DASHES)

    return Chart(
        draw=draw,
        height=23.0 * len(rows) + 6,
        row_labels=labels,
        right=14.0 + max(text_width(text) for text in texts),
        keys=(*keys, *origin_keys(map(allocation_origin, rows))),
    )


_HEADER = ("option", "accelerator", "instances", "load", "req/s", "capacities")


def _cells(allocation: Allocation) -> tuple[Cell, ...]:
    option = allocation.candidate.option
    origin = allocation_origin(allocation)
    return (
        Cell(option.name),
        Cell(option.shape),
        count(allocation.instances),
        percent(allocation.load_fraction),
        rate(allocation.rate_rps),
        words(ORIGIN_WORDS[origin] if origin else None),
    )
