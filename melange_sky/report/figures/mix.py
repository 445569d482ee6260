"""What the plan costs, beside each accelerator alone and what serves today."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.planfile import allocation_origin
from melange_sky.report.figures.canvas import TEXT, bar, bar_rows, name_ticks, text_width
from melange_sky.report.figures.chart import UNKNOWN, Cell, Chart, Grid, Key
from melange_sky.report.figures.figure import Figure
from melange_sky.report.figures.numbers import count, percent, short_usd, shortened, usd, words
from melange_sky.report.figures.series import (
    alone_origin,
    origin_keys,
    origin_text,
    series_of,
)
from melange_sky.report.figures.style import MUTED, ON, hatch_of
from melange_sky.report.savings import saving_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from melange_sky.capacities import Origin
    from melange_sky.plans import Baseline, ModelPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    usd_per_hour: float
    colour: str
    letter: str
    origin: Origin | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    label: str
    parts: tuple[_Part, ...]
    text: str

    @property
    def total(self) -> float:
        return sum(part.usd_per_hour for part in self.parts)


def mix_figure(model: ModelPlan) -> Figure:
    """Return the plan's cost by shape, against each accelerator alone."""
    rows = [_plan_row(model), *(_alone_row(model, one) for one in model.baselines)]
    known = [part.origin for row in rows for part in row.parts]
    keys = [Key(label=s.label, colour=s.colour) for s in series_of(model).values()]
    keys += [Key(label="one accelerator alone", colour=MUTED)] if model.baselines else []
    return Figure(
        name="mix",
        title="What it costs an hour",
        caption=saving_text(model),
        origin=f"{origin_text(known)} Prices: as in the table of what runs.",
        table=Grid(header=_HEADER, rows=(_plan_cells(model), *map(_alone_cells, model.baselines))),
        chart=_chart(rows, (*keys, *origin_keys(known))),
    )


def _chart(rows: list[_Row], keys: tuple[Key, ...]) -> Chart:
    most = max(row.total for row in rows)

    def draw(axes: Axes) -> None:
        bar_rows(axes, [row.label for row in rows], most)
        name_ticks(axes, lambda usd_per_hour: f"${usd_per_hour:,.4g}")
        for y, row in enumerate(rows):
            left = 0.0
            for part in row.parts:
                bar(
                    axes,
                    (left, y - 0.36, part.usd_per_hour, 0.72),
                    part.colour,
                    hatch_of(part.origin),
                )
                if part.letter and part.usd_per_hour > 0.055 * most:
                    _letter(axes, (left + part.usd_per_hour / 2, y), part)
                left += part.usd_per_hour
            axes.annotate(row.text, (left, y), (5, 0), textcoords="offset points", va="center")

    return Chart(
        draw=draw,
        height=23.0 * len(rows) + 6,
        row_labels=tuple(row.label for row in rows),
        right=12.0 + max(text_width(row.text, TEXT) for row in rows),
        keys=keys,
    )


def _letter(axes: Axes, at: tuple[float, float], part: _Part) -> None:
    box = {"boxstyle": "square,pad=0.15", "facecolor": part.colour, "edgecolor": "none"}
    axes.text(*at, part.letter, color=ON, ha="center", va="center", bbox=box)


def _plan_row(model: ModelPlan) -> _Row:
    series = series_of(model)
    parts = [
        _Part(
            usd_per_hour=allocation.cost_usd_per_hour,
            colour=(one := series[allocation.candidate.option.shape]).colour,
            letter=one.letter,
            origin=allocation_origin(allocation),
        )
        for allocation in sorted(model.allocations, key=lambda a: a.candidate.option.shape)
    ]
    return _Row(label="This plan", parts=tuple(parts), text=short_usd(model.cost_usd_per_hour))


def _alone_row(model: ModelPlan, baseline: Baseline) -> _Row:
    cost, least = _shown_cost(baseline)
    origin = alone_origin(model, baseline.accelerator)
    label = shortened(baseline.accelerator, 20)
    if cost is None:
        none = "not known" if baseline.feasible is None else "cannot serve it alone"
        return _Row(label=label, parts=(), text=none)
    part = _Part(usd_per_hour=cost, colour=MUTED, letter="", origin=origin)
    by = ", by replay" if baseline.verified else ""
    return _Row(label=label, parts=(part,), text=f"{'≥ ' if least else ''}{short_usd(cost)}{by}")


def _shown_cost(baseline: Baseline) -> tuple[float | None, bool]:
    """Return what an accelerator alone costs, as replayed where it was, and whether it may cost more."""
    if baseline.verified is not None:
        return baseline.verified.cost_usd_per_hour, False
    return baseline.cost_usd_per_hour, baseline.at_least


_HEADER = (
    "fleet",
    "instances by estimate",
    "$/h by estimate",
    "the plan saves by estimate",
    "instances by replay",
    "$/h by replay",
    "the plan saves by replay",
    "within SLO in replay",
    "remark",
)


def _plan_cells(model: ModelPlan) -> tuple[Cell, ...]:
    """Return the plan's row: under "by replay" where it was replayed and holds."""
    instances = count(sum(a.instances for a in model.allocations))
    cost = usd(model.cost_usd_per_hour)
    replayed = model.verification
    by_estimate = (instances, cost) if replayed is None else (UNKNOWN, UNKNOWN)
    by_replay = (UNKNOWN, UNKNOWN) if replayed is None else (instances, cost)
    attained = UNKNOWN if replayed is None else percent(replayed.attainment, 2)
    remark = "" if replayed is None or replayed.holds else "does not hold in replay"
    return (
        Cell("This plan"), *by_estimate, UNKNOWN, *by_replay, UNKNOWN, attained, words(remark)
    )  # fmt: skip


def _alone_cells(baseline: Baseline) -> tuple[Cell, ...]:
    held = baseline.verified
    cost = usd(baseline.cost_usd_per_hour)
    if baseline.at_least:
        cost = Cell(f"≥ {cost.text}", cost.value)
    shapes = {held.shape if held else None, baseline.shape} - {None}
    remark = [
        baseline.reason or "",
        f"as {' or '.join(sorted(map(str, shapes)))}" if shapes else "",
    ]
    return (
        Cell(f"{baseline.accelerator} alone"),
        count(baseline.instances),
        cost,
        percent(baseline.saving_fraction),
        count(held.instances if held else None),
        usd(held.cost_usd_per_hour if held else None),
        percent(held.saving_fraction if held else None),
        percent(held.attainment if held else None, 2),
        words("; ".join(part for part in remark if part)),
    )
