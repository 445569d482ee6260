"""How the prices of what runs moved, pull by pull."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol

from melange_sky.report.figures.canvas import name_ticks
from melange_sky.report.figures.chart import UNKNOWN, Cell, Chart, Grid, Key
from melange_sky.report.figures.figure import Figure
from melange_sky.report.figures.numbers import short_usd, shortened, usd, words
from melange_sky.report.figures.style import INK, letter_of, series_colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

SHOWN = 8
"""Lines in one chart; the table has all."""


class PointView(Protocol):
    """See `planner.price_history.PricePoint`."""

    @property
    def time(self) -> str: ...
    @property
    def usd_per_hour(self) -> float | None: ...
    @property
    def source(self) -> str: ...
    @property
    def flags(self) -> tuple[str, ...]: ...


class HistoryView(Protocol):
    """See `planner.price_history.PriceHistory`."""

    @property
    def cloud(self) -> str: ...
    @property
    def region(self) -> str: ...
    @property
    def instance_type(self) -> str: ...
    @property
    def use_spot(self) -> bool: ...
    @property
    def planned_usd_per_hour(self) -> float | None: ...
    @property
    def planned_as_of(self) -> str | None: ...
    @property
    def points(self) -> Sequence[PointView]: ...


def history_figure(histories: Sequence[HistoryView]) -> Figure | None:
    """Return the prices over the pulls kept here; None where no pull has any of them."""
    pulled = [one for one in histories if one.points]
    if not pulled:
        return None
    pulls = len({point.time for one in pulled for point in one.points})
    more = f" The first {SHOWN} of {len(pulled)} are drawn." if len(pulled) > SHOWN else ""
    return Figure(
        name="history",
        title="How these prices moved",
        caption=f"List prices of one instance over {pulls} pulls kept here, the last of each day.{more}",
        origin="Prices: as listed by the sources in the table.",
        table=Grid(header=_HEADER, rows=tuple(row for one in histories for row in _rows(one))),
        chart=_chart(pulled[:SHOWN]),
    )


def _place(one: HistoryView) -> str:
    return f"{one.cloud}/{one.region} {one.instance_type}{' spot' if one.use_spot else ''}"


def _chart(histories: Sequence[HistoryView]) -> Chart:
    known = [
        [(_moment(p.time), p) for p in one.points if p.usd_per_hour is not None]
        for one in histories
    ]
    first = min((at for line in known for at, _ in line), default=0.0)
    most = max((p.usd_per_hour or 0.0 for line in known for _, p in line), default=1.0)
    last = max((at for line in known for at, _ in line), default=1.0)
    flagged = any(p.flags for line in known for _, p in line)

    def draw(axes: Axes) -> None:
        for n, line in enumerate(known):
            at, prices = [at for at, _ in line], [p.usd_per_hour or 0.0 for _, p in line]
            axes.plot(
                at,
                prices,
                color=series_colour(n),
                linewidth=1.6,
                drawstyle="steps-post",
                marker=".",
            )
            bad = [(x, p.usd_per_hour or 0.0) for x, p in line if p.flags]
            if bad:
                axes.plot(
                    *zip(*bad, strict=True), color=INK, marker="x", markersize=8, linestyle=""
                )
            if line:
                note: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
                axes.annotate(
                    letter_of(n), (at[-1], prices[-1]), (5, 0), color=series_colour(n), **note
                )
        room = (last - first or 1.0) * 0.04
        axes.set_xlim(first - room, last + 2 * room)
        axes.set_ylim(0, most * 1.1 or 1.0)
        axes.grid(visible=True, axis="y")
        axes.locator_params(nbins=4)
        name_ticks(axes, short_usd, axis="y")
        days = [first, last] if last > first else [first]
        axes.set_xticks(days, [_day(day) for day in days], ha="center")

    keys = [
        Key(
            label=f"{letter_of(n)}  {shortened(_place(one), 46)}",
            colour=series_colour(n),
            mark="line",
        )
        for n, one in enumerate(histories)
    ]
    if flagged:
        keys.append(Key(label="flagged: kept out of plans", mark="cross"))
    return Chart(
        draw=draw,
        height=150.0,
        row_labels=(short_usd(most),),
        right=30.0,
        y_label="$/h of one instance",
        keys=tuple(keys),
    )


def _moment(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, tz=timezone.utc).strftime("%Y-%m-%d")


_HEADER = ("instance type", "as of", "$/h of one", "flags", "source")


def _rows(one: HistoryView) -> list[tuple[Cell, ...]]:
    rows = [
        (
            Cell(_place(one)),
            Cell(point.time),
            usd(point.usd_per_hour),
            words(", ".join(point.flags)),
            Cell(point.source),
        )
        for point in one.points
    ]
    planned = Cell(one.planned_as_of) if one.planned_as_of else UNKNOWN
    return [
        *rows,
        (Cell(_place(one)), planned, usd(one.planned_usd_per_hour), UNKNOWN, Cell("the plan")),
    ]
