"""How far off the plan may be: what estimates may be off by, and what that does to the cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.planfile import allocation_origin
from melange_sky.report.figures.canvas import bar, few_ticks, name_ticks, text_width
from melange_sky.report.figures.chart import UNKNOWN, Cell, Chart, Grid, Key
from melange_sky.report.figures.figure import Figure
from melange_sky.report.figures.numbers import percent, short_usd, shortened, usd
from melange_sky.report.figures.series import origin_keys, origin_text, series_of
from melange_sky.report.figures.style import INK, LINE, hatch_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from melange_sky.capacities import Origin
    from melange_sky.plans import Allocation, ModelPlan, Plan, Sensitivity


@dataclass(frozen=True, slots=True, kw_only=True)
class _Range:
    """From `low` to `high`, as parts of what the plan counts with; None: no plan at that end."""

    what: str
    label: str
    low: float | None
    high: float | None
    ends: tuple[str, str]
    colour: str
    origin: Origin | None = None


def band_figure(plan: Plan) -> Figure | None:
    """Return the error bands of the capacities, and of the cost where it is known; None where nothing is estimated."""
    ranges = [] if plan.sensitivity is None else [_cost_range(plan, plan.sensitivity)]
    for model in plan.models:
        found = [_capacity_range(plan, model, allocation) for allocation in model.allocations]
        ranges += [one for one in found if one is not None]
    if not ranges:
        return None
    origins = [one.origin for one in ranges]
    return Figure(
        name="band",
        title="If the estimates are off",
        caption=_caption(plan),
        origin=origin_text(origins),
        table=Grid(header=_HEADER, rows=tuple(_cells(plan, one) for one in ranges)),
        chart=_chart(ranges),
    )


def _caption(plan: Plan) -> str:
    how = (
        "the median of the estimates"
        if plan.confidence == 0.5
        else f"what estimates reach in {plan.confidence:.0%} of cases"
    )
    band = plan.sensitivity
    if band is None:
        return f"Planned on {how}; the bars are what true capacities may be against these."
    ends = [
        "no plan at all" if cost is None else f"{short_usd(cost)} an hour"
        for cost in (band.low_usd_per_hour, band.high_usd_per_hour)
    ]
    return (
        f"Planned on {how}. At the good end of their error bands the cheapest fleet would cost {ends[0]}, at the bad end"
        f" {ends[1]}."
    )


def _cost_range(plan: Plan, band: Sensitivity) -> _Range:
    cost = plan.cost_usd_per_hour
    ends = (band.low_usd_per_hour, band.high_usd_per_hour)
    low, high = (None if end is None or not cost else end / cost for end in ends)
    texts = ["no plan" if end is None else short_usd(end) for end in ends]
    return _Range(
        what="cost an hour",
        label="cost an hour",
        low=low,
        high=high,
        ends=(texts[0], texts[1]),
        colour=INK,
    )


def _capacity_range(plan: Plan, model: ModelPlan, allocation: Allocation) -> _Range | None:
    """Return the band of an option's capacities, weighed by the load that each size puts on it."""
    cells, rates = allocation.candidate.cells, model.workload.rates_rps
    load, low, high = 0.0, 0.0, 0.0
    for i, j in model.workload.buckets():
        cell, share = cells[i][j], allocation.shares[i][j]
        counted = cell.banded_rps
        if not share or not counted or cell.low_rps is None or cell.high_rps is None:
            continue
        part = share * rates[i][j] / counted
        load += part
        low += part * cell.low_rps / counted
        high += part * cell.high_rps / counted
    if not load:
        return None
    series = series_of(model)[allocation.candidate.option.shape]
    name = f"{model.name}: " if plan.lists_models else ""
    low, high = low / load, high / load
    return _Range(
        what=f"capacity of {name}{series.label}",
        label=f"{shortened(model.name, 16)}: {series.letter}" if name else series.label,
        low=low,
        high=high,
        ends=(f"{low - 1:+.0%}", f"{high - 1:+.0%}"),
        colour=series.colour,
        origin=allocation_origin(allocation),
    )


def _chart(ranges: list[_Range]) -> Chart:
    known = [end for one in ranges for end in (one.low, one.high) if end is not None]
    least, most = min([1.0, *known]), max([1.0, *known])
    labels = tuple(shortened(one.label, 24) for one in ranges)
    left = max(text_width(one.ends[0]) for one in ranges)
    right = max(text_width(one.ends[1]) for one in ranges)

    def draw(axes: Axes) -> None:
        axes.set_xlim(least, most if most > least else least + 1)
        axes.set_ylim(len(ranges) - 0.5, -0.5)
        axes.set_yticks(range(len(ranges)), labels)
        axes.tick_params(axis="y", pad=left + 12)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(visible=True, axis="x", color=LINE)
        few_ticks(axes)
        name_ticks(axes, lambda part: f"{part - 1:+.0%}")
        for y, one in enumerate(ranges):
            begin, end = one.low or 1.0, one.high or 1.0
            bar(axes, (begin, y - 0.3, end - begin, 0.6), one.colour, hatch_of(one.origin))
            for x, text, offset, side in (
                (begin, one.ends[0], -5, "right"),
                (end, one.ends[1], 5, "left"),
            ):
                axes.annotate(
                    text, (x, y), (offset, 0), textcoords="offset points", va="center", ha=side
                )
        axes.axvline(1.0, color=INK, linewidth=1.4)

    return Chart(
        draw=draw,
        height=23.0 * len(ranges) + 6,
        row_labels=labels,
        left=left + 12,
        right=14.0 + right,
        x_label="against what the plan counts with",
        keys=(
            Key(label="the plan", mark="line", colour=INK),
            *origin_keys(one.origin for one in ranges),
        ),
    )


_HEADER = (
    "what",
    "$/h at the good end",
    "$/h of the plan",
    "$/h at the bad end",
    "low against the plan",
    "high against the plan",
)


def _cells(plan: Plan, one: _Range) -> tuple[Cell, ...]:
    band = plan.sensitivity if one.origin is None else None
    money = (UNKNOWN,) * 3
    if band is not None:
        cost = usd(plan.cost_usd_per_hour)
        money = (usd(band.low_usd_per_hour), cost, usd(band.high_usd_per_hour))
    return (Cell(one.what), *money, _against(one.low), _against(one.high))


def _against(part: float | None) -> Cell:
    return percent(None if part is None else part - 1)
