"""How the prices of what runs moved, pull by pull."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol

from melange_sky.report.figures.canvas import apart, name_ticks
from melange_sky.report.figures.chart import UNKNOWN, Cell, Chart, Grid, Key
from melange_sky.report.figures.figure import Figure
from melange_sky.report.figures.numbers import short_usd, shortened, usd, words
from melange_sky.report.figures.series import Series, series_of
from melange_sky.report.figures.style import INK, series_colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from melange_sky.plans import Plan

SHOWN = 8
"""Lines in one chart; the table has all."""

_HEIGHT = 150.0


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


@dataclass(frozen=True, slots=True)
class _Line:
    """One instance type: its letter and colour, (time, price) of sound pulls, and of those that were flagged."""

    letter: str
    colour: str
    place: str
    sound: tuple[tuple[float, float], ...]
    flagged: tuple[tuple[float, float], ...]


def history_figure(histories: Sequence[HistoryView], plan: Plan | None = None) -> Figure | None:
    """Return the prices over the pulls kept here; None where no pull has any of them.

    Of a `plan` of one model each line has the letter and colour that its option has in the other figures.
    """
    pulled = [one for one in histories if one.points]
    if not pulled:
        return None
    pulls = len({point.time for one in pulled for point in one.points})
    more = f" The first {SHOWN} of {len(pulled)} are drawn." if len(pulled) > SHOWN else ""
    lines = _lines(pulled[:SHOWN], plan)
    most = _most(lines)
    if any(price > most for line in lines for _, price in line.flagged):
        more += " Crosses on the upper edge are dearer than drawn."
    return Figure(
        name="history",
        title="How these prices moved",
        caption=f"List prices of one instance over {pulls} pulls kept here, the last of each day.{more}",
        origin="Prices: as listed by the sources in the table.",
        table=Grid(header=_HEADER, rows=tuple(row for one in histories for row in _rows(one))),
        chart=_chart(lines, most),
    )


def _place(one: HistoryView) -> str:
    return f"{one.cloud}/{one.region} {one.instance_type}{' spot' if one.use_spot else ''}"


def _lines(histories: Sequence[HistoryView], plan: Plan | None) -> list[_Line]:
    series = _series(plan)
    lines = []
    for n, one in enumerate(histories):
        known = series.get((one.cloud, one.region, one.instance_type))
        points = [(_moment(p.time), p.usd_per_hour, p.flags) for p in one.points]
        lines.append(
            _Line(
                letter=str(n + 1) if known is None else known.letter,
                colour=series_colour(n) if known is None else known.colour,
                place=_place(one),
                sound=tuple(
                    (at, usd) for at, usd, flags in points if usd is not None and not flags
                ),
                flagged=tuple((at, usd) for at, usd, flags in points if usd is not None and flags),
            )
        )
    return lines


def _series(plan: Plan | None) -> dict[tuple[str, str, str], Series]:
    if plan is None or len(plan.models) != 1:
        return {}
    (model,) = plan.models
    series = series_of(model)
    found: dict[tuple[str, str, str], Series] = {}
    for allocation in model.allocations:
        offer = allocation.candidate.option.offer
        if offer is not None:
            place = (offer.cloud, offer.region, offer.instance_type)
            found.setdefault(place, series[allocation.candidate.option.shape])
    return found


def _most(lines: Sequence[_Line]) -> float:
    """Return the highest price that is drawn to scale: of sound pulls, where there are any, a wrong one may be far off."""
    sound = [price for line in lines for _, price in line.sound]
    return max(sound or [price for line in lines for _, price in line.flagged], default=1.0) or 1.0


def _chart(lines: Sequence[_Line], most: float) -> Chart:
    times = [at for line in lines for at, _ in (*line.sound, *line.flagged)]
    first, last = min(times, default=0.0), max(times, default=1.0)
    top = most * 1.1

    def draw(axes: Axes) -> None:
        for line in lines:
            if line.sound:
                axes.plot(
                    *zip(*line.sound, strict=True),
                    color=line.colour,
                    linewidth=1.6,
                    drawstyle="steps-post",
                    marker=".",
                )
            if line.flagged:
                at, prices = zip(*line.flagged, strict=True)
                axes.plot(
                    at,
                    [min(price, top) for price in prices],
                    color=INK,
                    marker="x",
                    markersize=8,
                    linestyle="",
                    clip_on=False,
                )
        ended = [line for line in lines if line.sound]
        gap = top * 12.0 / _HEIGHT
        for line, y in apart([(line, line.sound[-1][1]) for line in ended], gap):
            axes.annotate(
                line.letter,
                (line.sound[-1][0], y),
                (5, 0),
                color=line.colour,
                textcoords="offset points",
                va="center",
            )
        room = (last - first or 1.0) * 0.04
        axes.set_xlim(first - room, last + 2 * room)
        axes.set_ylim(0, top)
        axes.grid(visible=True, axis="y")
        axes.locator_params(nbins=4)
        name_ticks(axes, short_usd, axis="y")
        days = [first, last] if last > first else [first]
        axes.set_xticks(days, [_day(day) for day in days], ha="center")

    keys = [
        Key(label=f"{line.letter}  {shortened(line.place, 46)}", colour=line.colour, mark="line")
        for line in lines
    ]
    if any(line.flagged for line in lines):
        keys.append(Key(label="flagged: kept out of plans", mark="cross"))
    return Chart(
        draw=draw,
        height=_HEIGHT,
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
