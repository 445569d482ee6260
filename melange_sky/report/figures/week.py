"""A reservation over time: which fleet runs when, what of it is base and what peak, and what all that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.report.figures.canvas import (
    DASHES,
    bar,
    bar_rows,
    few_ticks,
    name_ticks,
    text_width,
)
from melange_sky.report.figures.chart import UNKNOWN, Cell, Chart, Grid, Key
from melange_sky.report.figures.figure import Figure
from melange_sky.report.figures.numbers import (
    count,
    percent,
    plain,
    rate,
    short_usd,
    shortened,
    usd,
    words,
)
from melange_sky.report.figures.style import INK, MUTED, ON, SERIES, letter_of, series_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

Document = Mapping[str, Any]
"""What reserve.json holds."""

WEEK = 168
RENTED = "---"
"""The hatch of what is rented on top; what is committed or owned is plain."""


def reserve_figures(document: Document) -> tuple[Figure, ...]:
    """Return what a reservation costs beside its rivals, the week of fleets, and how far commitments are used."""
    used = _use(document)
    return (
        _totals(document),
        _demand(document),
        _fleets(document),
        *([] if used is None else [used]),
    )


_TOTALS = (
    ("chosen_usd", "this advice"),
    ("all_on_demand_usd", "all on demand"),
    ("commit_peak_usd", "peak committed"),
    ("best_single_usd", "best single type"),
    ("bound_usd", "perfect autoscaler"),
)


def _totals(document: Document) -> Figure:
    totals = document["totals"]
    rows = [(text, totals[key]) for key, text in _TOTALS]
    chosen, hours = totals["chosen_usd"], totals["span_hours"]
    known = [(text, cost) for text, cost in rows if cost is not None]
    labels = tuple(text for text, _ in known)
    texts = [short_usd(cost) for _, cost in known]

    def draw(axes: Axes) -> None:
        bar_rows(axes, labels, max(cost for _, cost in known))
        name_ticks(axes, lambda cost: f"${cost:,.0f}")
        for y, ((text, cost), shown) in enumerate(zip(known, texts, strict=True)):
            colour = SERIES[0] if text == "this advice" else MUTED
            bar(axes, (0, y - 0.36, cost, 0.72), colour)
            axes.annotate(shown, (cost, y), (5, 0), textcoords="offset points", va="center")

    return Figure(
        name="totals",
        title="What it costs over the demand",
        caption=(
            f"Over {hours:,.0f} hours. The perfect autoscaler is a bound: every used hour at its cheapest rate, instant"
            " start, idle free."
        ),
        origin="List prices and terms as in the table of prices; capacities as in the plans.",
        table=Grid(
            header=("what", "USD", "USD an hour", "the advice saves"),
            rows=tuple(
                (
                    Cell(text),
                    usd(cost),
                    usd(None if cost is None else cost / hours),
                    UNKNOWN if not cost else percent(1 - chosen / cost),
                )
                for text, cost in rows
            ),
        ),
        chart=Chart(
            draw=draw,
            height=23.0 * len(known) + 6,
            row_labels=labels,
            right=12.0 + max(map(text_width, texts)),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """The steps that are drawn: all of a week or less, else the seven days around the peak."""

    first: int
    steps: int
    step_h: float
    start: datetime | None

    @property
    def hours(self) -> NDArray[np.float64]:
        """When each step begins, and when the last one ends, in hours from step 0."""
        return np.arange(self.first, self.first + self.steps + 1, dtype=np.float64) * self.step_h

    def day(self, hour: float) -> str:
        """Return what a day is called on the axis."""
        if self.start is None:
            return f"{hour:g} h"
        return (self.start + timedelta(hours=hour)).strftime("%a %d")

    def moment(self, step: int) -> str:
        """Return when a step begins, for the table."""
        hour = step * self.step_h
        if self.start is None:
            return f"hour {hour:g}"
        return (self.start + timedelta(hours=hour)).isoformat(timespec="minutes")


def _span(demand: Document) -> _Span:
    rates, step_h = demand["rates_rps"], demand["step_s"] / 3600
    week = max(1, round(WEEK / step_h))
    day = max(1, round(24 / step_h))
    first = 0
    if len(rates) > week:
        peak = max(range(len(rates)), key=lambda step: rates[step])
        first = min(max(0, (peak // day - 3) * day), len(rates) - week)
    start = None if demand["start"] is None else datetime.fromisoformat(demand["start"])
    return _Span(first=first, steps=min(week, len(rates)), step_h=step_h, start=start)


def _demand(document: Document) -> Figure:
    demand, span = document["demand"], _span(document["demand"])
    shown = range(span.first, span.first + span.steps)
    rates = [demand["rates_rps"][step] for step in shown]
    label = plain(max(demand["rates_rps"]))

    def draw(axes: Axes) -> None:
        axes.plot(
            span.hours, [*rates, rates[-1]], color=SERIES[0], linewidth=1.8, drawstyle="steps-post"
        )
        axes.set_ylim(0, max(rates) * 1.08 or 1.0)
        axes.locator_params(axis="y", nbins=4)
        name_ticks(axes, plain, axis="y")
        _days(axes, span)

    return Figure(
        name="demand",
        title="What is asked for",
        caption=(
            f"{plain(demand['mean_rps'])} requests a second on average, {plain(demand['peak_rps'])} at the most."
            + _shown_text(demand, span)
        ),
        origin=f"From {demand['source']}.",
        table=Grid(
            header=("from", "req/s"),
            rows=tuple(
                (Cell(span.moment(step)), rate(demand["rates_rps"][step])) for step in shown
            ),
        ),
        chart=Chart(draw=draw, height=110.0, row_labels=(label,), y_label="req/s"),
    )


def _shown_text(demand: Document, span: _Span) -> str:
    return "" if span.steps == len(demand["rates_rps"]) else " The week around the peak is drawn."


def _days(axes: Axes, span: _Span) -> None:
    hours = span.hours
    axes.set_xlim(float(hours[0]), float(hours[-1]))
    step = 24 if hours[-1] - hours[0] > 30 else 6
    places = [float(h) for h in np.arange(hours[0], hours[-1], step)]
    axes.set_xticks(places, [span.day(h) if step == 24 else f"{h:g} h" for h in places], ha="left")
    axes.grid(visible=True)


def _fleets(document: Document) -> Figure:
    span = _span(document["demand"])
    options = sorted({one["option"] for period in document["periods"] for one in period["fleet"]})
    base, rented = _stacks(document, options, span)
    most = float((base.sum(axis=0) + rented.sum(axis=0)).max(initial=1.0))

    def draw(axes: Axes) -> None:
        floor = np.zeros(span.steps)
        for rows, hatch in ((base, ""), (rented, RENTED)):
            for n, row in enumerate(rows):
                if row.any():
                    top = floor + row
                    style: dict[str, Any] = {
                        "facecolor": series_colour(n),
                        "edgecolor": ON,
                        "hatch": hatch,
                    }
                    low, high = np.append(floor, floor[-1]), np.append(top, top[-1])
                    axes.fill_between(span.hours, low, high, step="post", linewidth=0, **style)
                    floor = top
        line = base.sum(axis=0)
        axes.plot(
            span.hours, np.append(line, line[-1]), color=INK, linewidth=1.6, drawstyle="steps-post"
        )
        axes.set_ylim(0, most * 1.08)
        axes.locator_params(axis="y", integer=True, nbins=5)
        name_ticks(axes, plain, axis="y")
        _days(axes, span)

    keys = [
        Key(label=f"{letter_of(n)}  {shortened(name, 40)}", colour=series_colour(n))
        for n, name in enumerate(options)
    ]
    return Figure(
        name="fleets",
        title="The week of fleets: base and peak",
        caption=(
            "Instances that run. Plain, under the line: committed or owned, paid used or not; with lines: rented on top,"
            f" hour by hour.{_shown_text(document['demand'], span)}"
        ),
        origin="Counts: as advised; how each fleet's capacities are known is in its plan.",
        table=Grid(
            header=_FLEETS,
            rows=tuple(row for period in document["periods"] for row in _period_rows(period)),
        ),
        chart=Chart(
            draw=draw,
            height=170.0,
            row_labels=(plain(most),),
            y_label="instances",
            keys=(
                *keys,
                Key(label="base: committed or owned", colour=MUTED),
                Key(label="peak: rented", colour=MUTED, hatch=RENTED),
                Key(label="the base", mark="line", colour=INK),
            ),
        ),
    )


def _stacks(
    document: Document, options: Sequence[str], span: _Span
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what is committed or owned, and what is rented: (options × steps) each."""
    base, rented = np.zeros((2, len(options), span.steps))
    for period in document["periods"]:
        steps = [
            hour - span.first for hour in period["hours"] if 0 <= hour - span.first < span.steps
        ]
        for one in period["fleet"]:
            row = options.index(one["option"])
            base[row, steps] = one["owned"] + one["committed"]
            rented[row, steps] = one["rented"]
    return base, rented


_FLEETS = (
    *(
        "hours",
        "for req/s",
        "option",
        "instances",
        "owned",
        "committed",
        "rented",
        "$/h each on demand",
    ),
    *("within SLO in replay", "plan"),
)


def _period_rows(period: Document) -> list[tuple[Cell, ...]]:
    hours, plan = count(len(period["hours"])), words(period["plan"])
    if not period["fleet"]:
        return [(hours, rate(period["rate_rps"]), Cell("nothing runs"), *(UNKNOWN,) * 7)]
    return [
        (
            hours,
            rate(period["rate_rps"]),
            Cell(one["option"]),
            count(one["instances"]),
            count(one["owned"]),
            count(one["committed"]),
            count(one["rented"]),
            usd(one["price_usd_per_hour"]),
            percent(period["attainment"], 2),
            plan,
        )
        for one in period["fleet"]
    ]


def _use(document: Document) -> Figure | None:
    """Return how far each commitment is used, against what it must be to pay; None where there is none."""
    rows = document["commitments"]
    if not rows:
        return None
    labels = tuple(shortened(f"{one['count']} × {one['instance_type']}", 24) for one in rows)
    texts = [
        "not known" if one["expected_utilization"] is None else f"{one['expected_utilization']:.0%}"
        for one in rows
    ]

    def draw(axes: Axes) -> None:
        bar_rows(axes, labels, 1.0)
        few_ticks(axes)
        name_ticks(axes, lambda part: f"{part:.0%}")
        for y, (one, text) in enumerate(zip(rows, texts, strict=True)):
            bar(axes, (0, y - 0.36, one["expected_utilization"] or 0.0, 0.72), SERIES[0])
            least = one["break_even_utilization"]
            if least is not None:
                axes.plot(
                    [least, least], [y - 0.45, y + 0.45], color=INK, linewidth=1.6, linestyle=DASHES
                )
            axes.annotate(text, (1.0, y), (5, 0), textcoords="offset points", va="center")

    return Figure(
        name="use",
        title="How far commitments are used",
        caption="Part of the hours in which what is committed is expected to run. Above the mark it costs less than on demand.",
        origin="Expected over the scenarios; terms as of the date in the table.",
        table=Grid(header=_COMMITTED, rows=tuple(map(_committed, rows))),
        chart=Chart(
            draw=draw,
            height=23.0 * len(rows) + 6,
            row_labels=labels,
            right=12.0 + max(map(text_width, texts)),
            keys=(
                Key(label="expected use", colour=SERIES[0]),
                Key(label="breaks even", mark="line", dashed=True),
            ),
        ),
    )


_COMMITTED = (
    *(
        "commit",
        "what",
        "where",
        "term",
        "$/h each, all in",
        "upfront each",
        "on demand $/h",
        "breaks even at",
    ),
    *("expected use", "over the demand", "source", "as of"),
)


def _committed(one: Document) -> tuple[Cell, ...]:
    return (
        count(one["count"]),
        Cell(one["instance_type"]),
        Cell("/".join(filter(None, (one["cloud"], one["region"])))),
        Cell(one["term"]),
        usd(one["all_in_usd_per_hour"]),
        usd(one["upfront_usd"]),
        usd(one["on_demand_usd_per_hour"]),
        percent(one["break_even_utilization"]),
        percent(one["expected_utilization"]),
        usd(one["span_usd"]),
        Cell(one["source"]),
        words(one["as_of"]),
    )
