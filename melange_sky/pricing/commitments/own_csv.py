"""Terms in the project's own columns: those that ship, and a user's ``--commitments my.csv``."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from melange_sky.commitments import HOURS_PER_MONTH, Commitment, term_text
from melange_sky.pricing.commitments.cells import (
    CellError,
    choice_cell,
    cloud_cell,
    moment_cell,
    needed_text,
    number_cell,
    past_cell,
    text_cell,
)
from melange_sky.pricing.commitments.own_table import read_table
from melange_sky.pricing.commitments.sheet import term_key
from melange_sky.resources import catalogs_dir

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

COLUMNS = (
    "cloud",
    "region",
    "instance_type",
    "term_months",
    "usd_per_hour",
    "upfront_usd",
    "kind",
    "source",
    "as_of",
)
"""Columns that a file of negotiated terms needs."""

OPTIONAL = (
    "pool",
    "starts",
    "ends",
    "term_days",
    "longest_days",
    "product",
    "list_usd_per_hour",
    "confidence",
)
"""Columns that it may have besides."""

SHOWN = ("all_in_usd_per_hour", "on_demand_usd_per_hour", "discount_fraction", "flags")
"""Columns that `prices terms --format csv` writes besides; nothing reads them."""

MOST_MONTHS = 120
WINDOW_TOLERANCE = 0.01
"""A window may differ from the term by this fraction: months are not all 730 hours."""


def read_embedded_terms(now: datetime) -> tuple[tuple[Commitment, ...], str]:
    """Return the terms shipped in `catalogs/commitments.csv` and their id ``embedded-<hash>``."""
    rows, digest = read_terms(catalogs_dir() / "commitments.csv", now)
    return rows, f"embedded-{digest}"


def read_own_terms(
    path: Path, now: datetime, also: Iterable[str] = ()
) -> tuple[tuple[Commitment, ...], str]:
    """Return the terms that a user states, and the file's hash. Raises InputError, a line per fault.

    `also` are clouds beside SkyPilot's: those of the user's own offers.
    """
    rows, digest = read_terms(path, now, also)
    return tuple(replace(row, is_own=True) for row in rows), digest


def read_terms(
    path: Path, now: datetime, also: Iterable[str] = ()
) -> tuple[tuple[Commitment, ...], str]:
    """Return the terms of a file and its hash. Raises InputError with a line per fault."""
    clouds = tuple(also)
    lines: dict[tuple[object, ...], str] = {}

    def read(cells: Mapping[str, str], where: str) -> Commitment:
        row = _term(cells, now, path.name, clouds)
        paid = (row.usd_per_hour > 0, row.upfront_usd > 0)
        first = lines.setdefault((*term_key(row), row.pool, *paid), where)
        if first != where:
            said = f"{row.instance_type} for {term_text(row.term_hours)}"
            raise CellError(
                "instance_type", f"says {said} again, as {first} does: keep one of them"
            )
        return row

    return read_table(path, COLUMNS, OPTIONAL, read, passed_over=SHOWN)


def _term(cells: Mapping[str, str], now: datetime, file: str, clouds: Sequence[str]) -> Commitment:
    cloud = cloud_cell(cells, clouds)
    kind: Literal["instance", "spend"] = (
        "instance" if choice_cell(cells, "kind", ("instance", "spend")) == "instance" else "spend"
    )
    starts, ends = _window(cells)
    hours = _term_hours(cells, starts, ends)
    per_hour = number_cell(cells, "usd_per_hour")
    upfront = number_cell(cells, "upfront_usd", default=0.0)
    if per_hour == 0 and upfront == 0:
        raise CellError(
            "usd_per_hour", "and 'upfront_usd' are 0: what is paid already goes to --owned"
        )
    longest = number_cell(cells, "longest_days", default=0.0) * 24
    if longest and longest < hours:
        raise CellError("longest_days", f"is shorter than the term of {term_text(hours)}")
    source = text_cell(cells, "source") or file
    pool = text_cell(cells, "pool") or None
    if kind == "spend" and pool is None:
        pool = f"{cloud} spend of {source}, {term_text(hours)}"
    if kind == "instance" and pool is not None:
        raise CellError("pool", "is for rows whose 'kind' is spend: leave it empty")
    listed = number_cell(cells, "list_usd_per_hour", default=0.0)
    return Commitment(
        cloud=cloud,
        region=text_cell(cells, "region"),
        instance_type=needed_text(cells, "instance_type"),
        term_hours=hours,
        usd_per_hour=per_hour,
        upfront_usd=upfront,
        kind=kind,
        product=text_cell(cells, "product"),
        pool=pool,
        longest_hours=longest or None,
        starts=starts,
        ends=ends,
        list_usd_per_hour=listed or None,
        source=source,
        as_of=past_cell(cells, "as_of", now),
        confidence=text_cell(cells, "confidence") or None,
    )


def _window(cells: Mapping[str, str]) -> tuple[datetime | None, datetime | None]:
    starts, ends = moment_cell(cells, "starts"), moment_cell(cells, "ends", whole_day=True)
    if starts is not None and ends is None:
        raise CellError("ends", "is empty beside 'starts': write both, or none")
    if ends is not None and starts is None:
        raise CellError("starts", "is empty beside 'ends': write both, or none")
    if starts is not None and ends is not None and ends <= starts:
        raise CellError("ends", "does not lie after 'starts'")
    return starts, ends


def _term_hours(cells: Mapping[str, str], starts: datetime | None, ends: datetime | None) -> float:
    window = None if starts is None or ends is None else (ends - starts).total_seconds() / 3600
    months, days = text_cell(cells, "term_months"), text_cell(cells, "term_days")
    if months and days:
        raise CellError("term_days", "stands beside 'term_months': write one of them")
    if days:
        hours = number_cell(cells, "term_days", least=1 / 24) * 24
    elif months:
        count = number_cell(cells, "term_months", least=1 / HOURS_PER_MONTH)
        if count > MOST_MONTHS:
            raise CellError("term_months", f"is {count:g}, over {MOST_MONTHS}: write months")
        hours = count * HOURS_PER_MONTH
    elif window is not None:
        return window
    else:
        raise CellError("term_months", "is empty: write the term in months, 12 for a year")
    if window is not None and not math.isclose(window, hours, rel_tol=WINDOW_TOLERANCE):
        said = f"{term_text(hours)}, but 'starts' to 'ends' are {window / 24:g} days"
        raise CellError("term_days" if days else "term_months", f"says {said}")
    return hours if window is None else window
