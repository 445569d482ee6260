"""How a comparison of fleets is shown: table and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
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
