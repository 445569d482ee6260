"""How prices of promised terms are shown: JSON rows, CSV that `--commitments` reads, and columns for people."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from melange_sky.commitments import term_text
from melange_sky.pricing.commitments.own_csv import COLUMNS, OPTIONAL, SHOWN
from melange_sky.report.columns import aligned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.commitments import Commitment
    from melange_sky.pricing.commitments.on_demand import Quote

_HEADER = (
    "ACCELERATOR",
    "CLOUD",
    "REGION",
    "INSTANCE TYPE",
    "TERM",
    "PRODUCT",
    "$/h ALL IN",
    "UPFRONT $",
    "ON DEMAND $/h",
    "OFF",
    "PAYS FROM",
    "AS OF",
    "FLAGS",
)
RIGHT = (6, 7, 8, 9, 10)
"""Columns of `terms_rows` that hold numbers."""

MOST_SOURCES = 20


def term_row(quote: Quote) -> dict[str, Any]:
    """Return the JSON form of a term (interface: `prices terms --format json`)."""
    row = quote.commitment
    return {
        "cloud": row.cloud,
        "region": row.region,
        "instance_type": row.instance_type,
        "accelerator": quote.accelerator,
        "accelerator_count": quote.accelerator_count,
        "term_months": _months(row),
        "term_days": row.term_hours / 24,
        "longest_days": None if row.longest_hours is None else row.longest_hours / 24,
        "kind": row.kind,
        "product": row.product,
        "pool": row.pool,
        "usd_per_hour": row.usd_per_hour,
        "upfront_usd": row.upfront_usd,
        "all_in_usd_per_hour": row.all_in_usd_per_hour,
        "on_demand_usd_per_hour": quote.on_demand_usd_per_hour,
        "on_demand_source": quote.on_demand_source,
        "discount_fraction": quote.discount,
        "break_even_utilization": quote.break_even_utilization,
        "list_usd_per_hour": row.list_usd_per_hour,
        "starts": row.starts.isoformat() if row.starts else None,
        "ends": row.ends.isoformat() if row.ends else None,
        "source": row.source,
        "as_of": row.as_of,
        "checked_at": row.checked_at,
        "confidence": row.confidence,
        "flags": [
            {"code": f.code, "severity": f.severity.value, "message": f.message} for f in row.flags
        ],
    }


def _months(row: Commitment) -> float | None:
    """Return the term in months, None where it is no whole number of them."""
    months = round(row.term_months, 9)
    return months if months == int(months) and months >= 1 else None


def terms_csv(quotes: Sequence[Quote]) -> str:
    """Return the terms as CSV: the columns of a file of one's own terms, then what is known besides.

    Edited, it is a file for `--commitments`.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = (*COLUMNS, *OPTIONAL, *SHOWN)
    writer.writerow(columns)
    for quote in quotes:
        row = term_row(quote)
        if row["term_months"] is not None:
            row["term_days"] = None
        row["flags"] = " ".join(flag.code for flag in quote.commitment.flags)
        writer.writerow(["" if row[c] is None else row[c] for c in columns])
    return buffer.getvalue()


def terms_table(quotes: Sequence[Quote]) -> str:
    """Return the terms in aligned columns."""
    return aligned(terms_rows(quotes), right=RIGHT)


def terms_rows(quotes: Sequence[Quote]) -> list[tuple[str, ...]]:
    """Return a header and a row of cells per term, for people."""
    return [_HEADER, *map(_cells, quotes)]


def _cells(quote: Quote) -> tuple[str, ...]:
    row = quote.commitment
    name = "?" if quote.accelerator is None else f"{quote.accelerator}:{quote.accelerator_count:g}"
    term = term_text(row.term_hours)
    if row.longest_hours is not None:
        term = f"{row.term_hours / 24:g} to {row.longest_hours / 24:g} days"
    return (
        name,
        row.cloud,
        row.region or "any",
        row.instance_type,
        term,
        f"{row.product or 'your own'}{' (per hour of use)' if row.kind == 'spend' else ''}",
        f"{row.all_in_usd_per_hour:.4f}",
        f"{row.upfront_usd:.0f}",
        "-" if quote.on_demand_usd_per_hour is None else f"{quote.on_demand_usd_per_hour:.4f}",
        _percent(quote.discount),
        _percent(quote.break_even_utilization),
        (row.as_of or "unknown")[:16],
        " ".join(f"{f.code}" if f.severity.value == "warn" else f"{f.code}!" for f in row.flags),
    )


def terms_note(quotes: Sequence[Quote]) -> str:
    """Return what stands below the table: how many there are, how to read them, and where they come from."""
    sources = sorted({quote.commitment.source for quote in quotes})[:MOST_SOURCES]
    lines = [
        "",
        (
            f"{len(quotes)} terms, billed whether used or not; PAYS FROM is the share of hours an instance must run."
            " '!' marks what keeps a term out of advice."
        ),
        "List prices: your contract may differ (`--commitments`).",
    ]
    if any(quote.commitment.cloud == "gcp" for quote in quotes):
        lines.append(
            "gcp: flexible commitments cover no GPU; GPUs of a resource commitment need a reservation."
        )
    return "\n".join([*lines, *(f"source: {source}" for source in sources)]) + "\n"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"
