"""How a sweep is shown: CSV and JSON for figures, aligned columns for people."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from melange_sky.report.columns import aligned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer import SweepPoint

COLUMNS = (
    "rate_rps",
    "tpot_ms",
    "prices",
    "cost_usd_per_hour",
    "status",
    "mix",
    "best_single",
    "best_single_usd_per_hour",
    "reason",
)


RIGHT = (0, 1, 3, 6)
"""Columns of `sweep_rows` that hold numbers."""


def sweep_csv(points: Sequence[SweepPoint]) -> str:
    """Return a row per point with the columns `COLUMNS`; an empty cell is unknown."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for p in points:
        writer.writerow(
            [
                p.rate_rps,
                _tpot_ms(p),
                p.prices,
                p.cost_usd_per_hour,
                p.status,
                mix_text(p),
                p.best_single,
                p.best_single_usd_per_hour,
                p.reason,
            ]
        )
    return buffer.getvalue()


def sweep_json(points: Sequence[SweepPoint]) -> str:
    """Return the points as one JSON list."""
    return json.dumps([asdict(point) for point in points], indent=2, allow_nan=False) + "\n"


def sweep_rows(points: Sequence[SweepPoint]) -> list[tuple[str, ...]]:
    """Return a header and a row of cells per point, for people."""
    header = ("req/s", "TPOT ms", "prices", "$/h", "mix", "best single", "its $/h")
    return [header, *map(_cells, points)]


def sweep_table(points: Sequence[SweepPoint]) -> str:
    """Return the points in aligned columns; where there is no plan, the reason in place of the mix."""
    return aligned(sweep_rows(points), right=RIGHT)


def _cells(p: SweepPoint) -> tuple[str, ...]:
    tpot_ms = _tpot_ms(p)
    return (
        f"{p.rate_rps:g}",
        "-" if tpot_ms is None else f"{tpot_ms:g}",
        p.prices or "-",
        _usd(p.cost_usd_per_hour),
        mix_text(p) or p.reason or p.status,
        p.best_single or "-",
        _usd(p.best_single_usd_per_hour),
    )


def _tpot_ms(p: SweepPoint) -> float | None:
    return None if p.tpot_s is None else round(p.tpot_s * 1000, 6)


def mix_text(p: SweepPoint) -> str:
    """Return what runs at a point, empty where there is no plan."""
    return " + ".join(f"{n} x {name}" for name, n in p.mix)


def _usd(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:,.3f}"
