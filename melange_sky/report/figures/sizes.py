"""Who serves which size: a map of input over output tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.capacities import INFERRED, Origin, weakest
from melange_sky.report.figures.canvas import bar
from melange_sky.report.figures.chart import Cell, Chart, Grid, Key
from melange_sky.report.figures.figure import Figure
from melange_sky.report.figures.numbers import percent, rate, words
from melange_sky.report.figures.series import ORIGIN_WORDS, origin_keys, origin_text, series_of
from melange_sky.report.figures.style import ON, hatch_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from melange_sky.plans import ModelPlan
    from melange_sky.report.figures.series import Series

WHOLE = 0.995
"""A share from which on a size counts as served by one shape."""

LEAST_HEIGHT = 112.0
"""Pixels that the name of the vertical axis needs."""

MANY = 12
"""Up to so many columns a cell has room for its letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """One bucket: the shape that serves most of it, with its share, and how its capacity is known."""

    i: int
    j: int
    most: Series
    share: float
    shares: dict[str, float]
    origin: Origin | None
    late: float


def sizes_figure(model: ModelPlan) -> Figure:
    """Return the map of request sizes with who serves each."""
    sizes = _sizes(model)
    origins = [size.origin for size in sizes]
    keys = [Key(label=s.label, colour=s.colour) for s in series_of(model).values()]
    if any(size.late > 0 for size in sizes):
        keys.append(Key(label="served late, all or in part", mark="late"))
    shared = (
        " A percentage: the rest goes elsewhere." if any(s.share < WHOLE for s in sizes) else ""
    )
    return Figure(
        name="sizes",
        title="Who serves which size",
        caption=f"Each field is a size of requests, its letter and colour who serves most of it.{shared} Empty: no requests.",
        origin=origin_text(origins),
        table=_table(model, sizes),
        chart=_chart(model, sizes, (*keys, *origin_keys(origins))),
    )


def _sizes(model: ModelPlan) -> list[_Size]:
    series = series_of(model)
    found = []
    for i, j in model.workload.buckets():
        serving = [a for a in model.allocations if a.shares[i][j] > 0]
        if not serving:
            continue
        shares = dict.fromkeys(series, 0.0)
        for allocation in serving:
            shares[allocation.candidate.option.shape] += allocation.shares[i][j]
        most = max(shares, key=lambda shape: shares[shape])
        late = sum(a.late_share(i, j) for a in serving)
        found.append(
            _Size(
                i=i,
                j=j,
                most=series[most],
                share=shares[most],
                shares=shares,
                origin=weakest(_origins(model, i, j)),
                late=late,
            )
        )
    return found


def _origins(model: ModelPlan, i: int, j: int) -> list[Origin]:
    """Return how the capacities behind a size are known; of one served late, at best by estimate."""
    found = []
    for allocation in model.allocations:
        cell = allocation.candidate.cells[i][j]
        if allocation.shares[i][j] > 0 and cell.origin is not None:
            late = allocation.late_share(i, j) > 0 and cell.origin not in INFERRED
            found.append(Origin.ESTIMATED if late else cell.origin)
    return found


def _chart(model: ModelPlan, sizes: list[_Size], keys: tuple[Key, ...]) -> Chart:
    rows = sorted({size.i for size in sizes})
    columns = range(len(model.workload.output_edges) - 1)
    place = {i: y for y, i in enumerate(rows)}
    height = min(24.0, max(15.0, 260.0 / max(len(rows), 1)))
    labels = tuple(f"{model.workload.input_edges[i + 1]:,}" for i in rows)

    def draw(axes: Axes) -> None:
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), labels)
        axes.set_xticks(*_ticks([f"{edge:,}" for edge in model.workload.output_edges[1:]]))
        axes.spines[["left", "bottom"]].set_visible(False)
        for size in sizes:
            y = place[size.i]
            bar(
                axes, (size.j - 0.48, y - 0.47, 0.96, 0.94), size.most.colour, hatch_of(size.origin)
            )
            if len(columns) <= MANY:
                _letter(axes, (size.j, y), size)
            if size.late > 0:
                corner = [
                    (size.j + 0.3, y - 0.47),
                    (size.j + 0.48, y - 0.47),
                    (size.j + 0.48, y - 0.1),
                ]
                axes.fill(*zip(*corner, strict=True), facecolor=ON, linewidth=0)

    return Chart(
        draw=draw,
        height=max(height * len(rows), LEAST_HEIGHT),
        row_labels=labels,
        y_label="input tokens, up to",
        x_label="output tokens, up to",
        keys=keys,
    )


def _letter(axes: Axes, at: tuple[float, float], size: _Size) -> None:
    text = size.most.letter
    if size.share < WHOLE:
        text += f" {size.share:.0%}"
    box = {"boxstyle": "square,pad=0.15", "facecolor": size.most.colour, "edgecolor": "none"}
    axes.text(*at, text, color=ON, ha="center", va="center", bbox=box)


def _ticks(labels: Sequence[str], most: int = 9) -> tuple[list[int], list[str]]:
    """Return at most so many evenly chosen places with their labels, the last one among them."""
    step = -(-len(labels) // most)
    places = list(range(len(labels) - 1, -1, -step))[::-1]
    return places, [labels[place] for place in places]


def _table(model: ModelPlan, sizes: list[_Size]) -> Grid:
    workload, series = model.workload, series_of(model)
    rows = []
    for size in sizes:
        inputs = f"{workload.input_edges[size.i]:,} to {workload.input_edges[size.i + 1]:,}"
        outputs = f"{workload.output_edges[size.j]:,} to {workload.output_edges[size.j + 1]:,}"
        rows.append(
            (
                Cell(inputs),
                Cell(outputs),
                rate(workload.rates_rps[size.i][size.j]),
                *(percent(size.shares[shape], 1) for shape in series),
                percent(size.late),
                words(ORIGIN_WORDS[size.origin] if size.origin else None),
            )
        )
    header = ("input tokens", "output tokens", "req/s", *(s.label for s in series.values()))
    return Grid(header=(*header, "served late", "capacities"), rows=tuple(rows))
