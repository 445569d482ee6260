"""How offers are shown: JSON rows, CSV, and aligned columns for people."""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING, Any

from melange_sky.accelerators import accelerator_table
from melange_sky.offers import gpu_of
from melange_sky.report.columns import aligned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.offers import Offer

COLUMNS = (
    "cloud",
    "region",
    "instance_type",
    "accelerator",
    "accelerator_count",
    "price_usd_per_hour",
    "spot_usd_per_hour",
    "source",
    "as_of",
    "flags",
)
_HEADER = ("ACCELERATOR", "CLOUD", "REGION", "INSTANCE TYPE", "$/h", "SPOT $/h", "AS OF", "FLAGS")
RIGHT = (4, 5)
"""Columns of `offers_rows` that hold prices."""

MOST_SOURCES = 20


def offer_row(offer: Offer) -> dict[str, Any]:
    """Return the JSON form of an offer (interface: `prices list --format json`)."""
    spec = accelerator_table().get(gpu_of(offer))
    return {
        "cloud": offer.cloud,
        "region": offer.region,
        "instance_type": offer.instance_type,
        "accelerator": offer.accelerator,
        "accelerator_count": _count(offer.accelerator_count),
        "price_usd_per_hour": offer.price_usd_per_hour,
        "spot_usd_per_hour": offer.spot_usd_per_hour,
        "source": offer.source,
        "as_of": offer.as_of,
        "flags": [
            {
                "code": f.code,
                "severity": f.severity.value,
                "touches": f.touches.value,
                "message": f.message,
            }
            for f in offer.flags
        ],
        "vcpus": offer.vcpus,
        "memory_gib": offer.memory_gib,
        "device_memory_gib": spec.memory_gib if spec else None,
    }


def _count(count: float) -> float | int | None:
    if math.isnan(count):
        return None
    return int(count) if count == int(count) else count


def offers_csv(offers: Sequence[Offer]) -> str:
    """Return the offers as CSV with the columns `COLUMNS`; an empty cell is unknown."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for offer in offers:
        row = offer_row(offer)
        row["flags"] = " ".join(flag.code for flag in offer.flags)
        writer.writerow(["" if row[c] is None else row[c] for c in COLUMNS])
    return buffer.getvalue()


def offers_table(offers: Sequence[Offer]) -> str:
    """Return the offers in aligned columns; plain text is faster than rich for thousands of rows."""
    return aligned(offers_rows(offers), right=RIGHT)


def offers_rows(offers: Sequence[Offer]) -> list[tuple[str, ...]]:
    """Return a header and a row of cells per offer, for people."""
    return [_HEADER, *map(_cells, offers)]


def _cells(offer: Offer) -> tuple[str, ...]:
    return (
        f"{offer.accelerator}:{offer.accelerator_count:g}",
        offer.cloud,
        offer.region,
        offer.instance_type,
        _money(offer.price_usd_per_hour),
        _money(offer.spot_usd_per_hour),
        (offer.as_of or "unknown")[:16],
        " ".join(f"{f.code}" if f.severity.value == "warn" else f"{f.code}!" for f in offer.flags),
    )


def offers_note(offers: Sequence[Offer]) -> str:
    """Return what stands below the table: how many there are, and where they come from."""
    sources = sorted({o.source for o in offers})[:MOST_SOURCES]
    lines = ["", f"{len(offers)} offers; '!' marks what keeps a price out of plans."]
    return "\n".join([*lines, *(f"source: {source}" for source in sources)]) + "\n"


def _money(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
