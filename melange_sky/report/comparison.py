"""How a comparison of fleets is shown: table, CSV and a figure that needs no library."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape as html_escape
from typing import Any, Protocol

from rich.markup import escape
from rich.table import Table

from melange_sky.report.page import Printer, text_of

COLUMNS = (
    "rate_rps",
    "kind",
    "fleet",
    "paper_usd_per_hour",
    "usd_per_hour",
    "attainment",
    "low",
    "reason",
    "late",
)
_COLOURS = ("#1b6ca8", "#d1495b", "#3c8d53", "#8a5aab", "#c78b1f", "#4d4d4d", "#1a9a96", "#b0569b")


MIX = "mix"
"""The kind of the fleet that all others are held against."""


class ContenderView(Protocol):
    """One fleet at one rate, see `planner.comparison.Contender`."""

    @property
    def rate_rps(self) -> float: ...
    @property
    def kind(self) -> str: ...
    @property
    def fleet(self) -> str | None: ...
    @property
    def paper_usd_per_hour(self) -> float | None: ...
    @property
    def usd_per_hour(self) -> float | None: ...
    @property
    def attainment(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def late(self) -> bool: ...


def contender_text(row: ContenderView) -> str:
    """Return one fleet at one rate in a line."""
    none = "no fleet found in time" if row.late else "no fleet holds"
    cost = none if row.usd_per_hour is None else f"${row.usd_per_hour:,.3f}/h"
    return f"{row.rate_rps:g} req/s, {row.kind}: {cost}"


def comparison_rows(rows: Sequence[ContenderView]) -> list[dict[str, Any]]:
    """Return the rows as mappings with the columns `COLUMNS`."""
    return [{name: getattr(row, name) for name in COLUMNS} for row in rows]


def comparison_csv(rows: Sequence[ContenderView]) -> str:
    """Return the rows as CSV; an empty cell is unknown."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(comparison_rows(rows))
    return buffer.getvalue()


def comparison_table(rows: Sequence[ContenderView], *, width: int | None = None) -> str:
    """Return the rows as text: what each fleet costs as planned, and once it holds in replay."""
    return text_of(print_comparison, rows, width=width)


def print_comparison(console: Printer, rows: Sequence[ContenderView]) -> None:
    """Print a table of the rows."""
    table = Table(box=None, pad_edge=False, header_style="")
    for name in (
        "req/s",
        "fleet",
        "planned $/h",
        "verified $/h",
        "the mix saves",
        "within SLO",
        "instances or reason",
    ):
        right = name in {"req/s", "planned $/h", "verified $/h", "the mix saves", "within SLO"}
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(text) for text in _cells(row, rows)))
    console.print(table)


def saving_of(row: ContenderView, rows: Sequence[ContenderView]) -> float | None:
    """Return what the mix of the same rate saves against a fleet; None for the mix, and where either has no cost."""
    mix = next((r for r in rows if r.rate_rps == row.rate_rps and r.kind == MIX), None)
    if row.kind == MIX or mix is None or mix.usd_per_hour is None or not row.usd_per_hour:
        return None
    return 1 - mix.usd_per_hour / row.usd_per_hour


def _cells(row: ContenderView, rows: Sequence[ContenderView]) -> tuple[str, ...]:
    saved = saving_of(row, rows)
    saves = "-" if saved is None else f"{saved:.1%}"
    return (
        f"{row.rate_rps:g}",
        row.kind,
        "-" if row.paper_usd_per_hour is None else f"{row.paper_usd_per_hour:,.3f}",
        "-" if row.usd_per_hour is None else f"{row.usd_per_hour:,.3f}",
        "" if row.kind == MIX else saves,
        "-" if row.attainment is None else f"{row.attainment:.1%}",
        row.reason or row.fleet or "",
    )


_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 560, 50, 360
_LABEL_PX = 34
"""Labels of the rate axis that stand nearer to each other are left out."""


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span > 0 else 0.5
        return self.start + share * (self.end - self.start)


def comparison_figure(rows: Sequence[ContenderView]) -> str:
    """Return an SVG of what a request per second costs over the rate, a line per kind of fleet.

    The rate's axis is logarithmic: what matters is how the fleets compare from few requests to many.
    """
    known = [
        (r.kind, math.log(r.rate_rps), r.usd_per_hour / r.rate_rps)
        for r in rows
        if r.usd_per_hour is not None
    ]
    rates = sorted({r.rate_rps for r in rows}) or [1.0]
    most = max((cost for _, _, cost in known), default=0.0) or 1.0  # paid-for fleets cost nothing
    step = _round_step(most / 4)
    top = step * math.ceil(most / step - 1e-9)
    x = _Scale(math.log(rates[0]), math.log(rates[-1]), _LEFT + 20, _RIGHT - 20)
    y = _Scale(0.0, top, _BOTTOM, _TOP)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="760" height="420" font-family="sans-serif" font-size="13">',
        '<rect width="760" height="420" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">Fleets that hold the SLO in replay: cost per request per second</text>',
        *_axes(rates, [step * k for k in range(round(top / step) + 1)], x, y),
    ]
    # The first kind, the mix, is drawn last, above the others.
    for number, kind in reversed(list(enumerate(dict.fromkeys(r.kind for r in rows)))):
        points = [(x(rate), y(cost)) for name, rate, cost in known if name == kind]
        late = any(r.late for r in rows if r.kind == kind)
        parts += _line(number, kind if points else _without_fleet(kind, late=late), points)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _round_step(least: float) -> float:
    """Return the least of 1, 2, 2.5, 5 and 10 times a power of ten that is not below `least`.

    >>> _round_step(0.013), _round_step(2.2), _round_step(30)
    (0.02, 2.5, 50.0)
    """
    power = 10.0 ** math.floor(math.log10(least))
    steps = (1.0, 2.0, 2.5, 5.0, 10.0)
    return next(power * s for s in steps if power * s >= least * (1 - 1e-9))


def _axes(rates: Sequence[float], costs: Sequence[float], x: _Scale, y: _Scale) -> list[str]:
    parts = [
        f'<path d="M{_LEFT} {y(cost):.1f}H{_RIGHT}" stroke="{"#444" if cost == 0 else "#ddd"}"/>'
        f'<text x="{_LEFT - 6}" y="{y(cost) + 4:.1f}" text-anchor="end">{cost:,.4g}</text>'
        for cost in costs
    ]
    before = -math.inf
    for rate in rates:
        at = x(math.log(rate))
        parts.append(f'<path d="M{at:.1f} {_BOTTOM}v5" stroke="#444"/>')
        if at - before >= _LABEL_PX:
            before = at
            parts.append(f'<text x="{at:.1f}" y="380" text-anchor="middle">{rate:g}</text>')
    middle = (_TOP + _BOTTOM) / 2
    return [
        *parts,
        f'<text x="{(_LEFT + _RIGHT) / 2}" y="405" text-anchor="middle">requests per second (logarithmic)</text>',
        f'<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">USD per hour ÷ requests per second</text>',
    ]


def _without_fleet(kind: str, *, late: bool) -> str:
    return f"{kind} (no fleet found in time)" if late else f"{kind} (no fleet holds)"


def _line(number: int, name: str, points: Sequence[tuple[float, float]]) -> list[str]:
    """Return a kind's line, its points and its entry in the legend."""
    colour = _COLOURS[number % len(_COLOURS)] if points else "#888"
    dash = ' stroke-dasharray="6 3"' if number >= len(_COLOURS) else ""
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    at = _TOP + 20 * number
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{3 if number == 0 else 2}"{dash}/>',
        *(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points),
        f'<text x="{_RIGHT + 20}" y="{at}" fill="{colour}">{html_escape(name)}</text>',
    ]
