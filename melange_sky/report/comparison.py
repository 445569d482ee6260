"""How a comparison of fleets is shown: table, CSV and a figure that needs no library."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape as html_escape
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from melange_sky.report import PLAIN_WIDTH

COLUMNS = (
    "rate_rps", "kind", "fleet", "paper_usd_per_hour", "usd_per_hour", "attainment", "low", "reason",
)  # fmt: skip
_COLOURS = ("#1b6ca8", "#d1495b", "#3c8d53", "#8a5aab", "#c78b1f", "#4d4d4d", "#1a9a96", "#b0569b")


class Row(Protocol):
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


def comparison_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as mappings with the columns `COLUMNS`."""
    return [{name: getattr(row, name) for name in COLUMNS} for row in rows]


def comparison_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV; an empty cell is unknown."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(comparison_rows(rows))
    return buffer.getvalue()


def comparison_table(rows: Sequence[Row], *, width: int | None = None) -> str:
    """Return the rows as text: what each fleet costs on paper, and once it holds in replay."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=width or PLAIN_WIDTH, highlight=False, color_system=None)
    table = Table(box=None, pad_edge=False, header_style="")
    for name in ("req/s", "fleet", "paper $/h", "verified $/h", "the mix saves", "within SLO", "instances or reason"):  # fmt: skip
        right = name in {"req/s", "paper $/h", "verified $/h", "the mix saves", "within SLO"}
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(text) for text in _cells(row, rows)))
    console.print(table)
    return buffer.getvalue()


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    mix = next((r for r in rows if r.rate_rps == row.rate_rps and r.kind == "mix"), None)
    saves = "-"
    if mix is not None and mix.usd_per_hour is not None and row.usd_per_hour:
        saves = f"{1 - mix.usd_per_hour / row.usd_per_hour:.1%}"
    return (
        f"{row.rate_rps:g}",
        row.kind,
        "-" if row.paper_usd_per_hour is None else f"{row.paper_usd_per_hour:,.3f}",
        "-" if row.usd_per_hour is None else f"{row.usd_per_hour:,.3f}",
        "" if row is mix else saves,
        "-" if row.attainment is None else f"{row.attainment:.1%}",
        row.reason or row.fleet or "",
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


def comparison_figure(rows: Sequence[Row]) -> str:
    """Return an SVG of verified cost over rate, a line per kind of fleet."""
    known = [(r.kind, r.rate_rps, r.usd_per_hour) for r in rows if r.usd_per_hour is not None]
    kinds = list(dict.fromkeys(r.kind for r in rows))
    rates = [rate for _, rate, _ in known] or [0.0]
    top = max((cost for _, _, cost in known), default=1.0)
    x, y = _Scale(0.0, max(rates), 70, 560), _Scale(0.0, top, 360, 40)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="760" height="420" font-family="sans-serif" font-size="13">',
        '<rect width="760" height="420" fill="white"/>',
        '<text x="70" y="24" font-size="15">Cost of fleets that hold the SLO in replay</text>',
        '<path d="M70 40V360H560" fill="none" stroke="#444"/>',
        '<text x="270" y="405">requests per second</text>',
        '<text x="14" y="200" transform="rotate(-90 14 200)">USD per hour</text>',
    ]
    for k in range(5):
        cost = top * k / 4
        parts.append(f'<text x="64" y="{y(cost) + 4:.1f}" text-anchor="end">{cost:,.4g}</text>')
    parts += [
        f'<text x="{x(rate):.1f}" y="380" text-anchor="middle">{rate:g}</text>'
        for rate in sorted(set(rates))
    ]
    for number, kind in enumerate(kinds):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(x(rate), y(cost)) for name, rate, cost in known if name == kind]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points
        ]
        parts.append(
            f'<text x="580" y="{60 + 20 * number}" fill="{colour}">{html_escape(kind)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
