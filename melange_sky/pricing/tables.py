"""One cloud's offers as columns in one JSON file: small, quick to read, filtered before it is built.

Repeating columns (region, instance type, accelerator, flags) are dictionary-encoded: a list of
values and one index per row. `source` and `as_of` are not in the table: they belong to the fetch,
so that an unchanged file needs no new table.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melange_sky.offers import Flag, FlagScope, Offer, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TABLE_VERSION = 1
_CODED = ("region", "instance_type", "accelerator", "catalog_accelerator", "flags")
_PLAIN = ("accelerator_count", "price_usd_per_hour", "spot_usd_per_hour", "vcpus", "memory_gib")


def encode_table(cloud: str, offers: Sequence[Offer]) -> bytes:
    """Return the table of one cloud's offers as bytes; equal offers give equal bytes."""
    rows = sorted(offers, key=_order)
    document: dict[str, Any] = {"version": TABLE_VERSION, "cloud": cloud, "rows": len(rows)}
    for column in _CODED:
        values: dict[str, int] = {}
        index = [values.setdefault(_code(column, offer), len(values)) for offer in rows]
        document[column] = {"values": [json.loads(v) for v in values], "index": index}
    for column in _PLAIN:
        document[column] = [_finite(getattr(offer, column)) for offer in rows]
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def _order(offer: Offer) -> tuple[str, str, str, float]:
    count = offer.accelerator_count
    return (
        offer.region,
        offer.instance_type,
        offer.accelerator,
        -1.0 if math.isnan(count) else count,
    )


def _code(column: str, offer: Offer) -> str:
    if column == "flags":
        return json.dumps([[f.code, f.severity, f.touches, f.message] for f in offer.flags])
    return json.dumps(getattr(offer, column))


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A decoded table; offers are built only for the rows that are asked for."""

    cloud: str
    columns: dict[str, Any]

    @classmethod
    def decode(cls, data: bytes) -> Table:
        """Return the table of `encode_table`'s bytes; ValueError where it is of another version."""
        document = json.loads(data)
        if not isinstance(document, dict) or document.get("version") != TABLE_VERSION:
            raise ValueError("the table is of another version")
        return cls(cloud=str(document["cloud"]), columns=document)

    @property
    def regions(self) -> frozenset[str]:
        """Every region of the table."""
        return frozenset(self.columns["region"]["values"])

    @property
    def accelerators(self) -> frozenset[str]:
        """Every accelerator name of the table."""
        return frozenset(self.columns["accelerator"]["values"])

    @property
    def keys(self) -> frozenset[tuple[str, str, str, float | None]]:
        """What is sold: region, instance type, accelerator, count (None: unreadable)."""
        names = [
            [self.columns[name]["values"][i] for i in self.columns[name]["index"]]
            for name in ("region", "instance_type", "accelerator")
        ]
        return frozenset(zip(*names, self.columns["accelerator_count"], strict=True))

    def offers(self, source: str, as_of: str | None, only: Rows | None = None) -> list[Offer]:
        """Return the offers of the rows asked for, each with the source and date of its fetch."""
        columns = self.columns
        coded = {name: columns[name]["index"] for name in _CODED}
        values = {name: columns[name]["values"] for name in _CODED}
        flags = [_flags(value) for value in values["flags"]]
        counts = columns["accelerator_count"]
        rows = range(columns["rows"]) if only is None else only.of(columns)
        return [
            Offer(
                cloud=self.cloud,
                region=values["region"][coded["region"][i]],
                instance_type=values["instance_type"][coded["instance_type"][i]],
                accelerator=values["accelerator"][coded["accelerator"][i]],
                accelerator_count=math.nan if counts[i] is None else counts[i],
                price_usd_per_hour=columns["price_usd_per_hour"][i],
                spot_usd_per_hour=columns["spot_usd_per_hour"][i],
                source=source,
                as_of=as_of,
                vcpus=columns["vcpus"][i],
                memory_gib=columns["memory_gib"][i],
                flags=flags[coded["flags"][i]],
                catalog_accelerator=values["catalog_accelerator"][coded["catalog_accelerator"][i]],
            )
            for i in rows
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Which rows: regions (None: all) and (accelerator, count or None) pairs (None: all)."""

    regions: frozenset[str] | None = None
    accelerators: frozenset[tuple[str, float | None]] | None = None

    def of(self, columns: dict[str, Any]) -> Iterable[int]:
        """Return the indices of the rows that match."""
        rows: Iterable[int] = range(columns["rows"])
        if self.regions is not None:
            wanted = _indices(columns["region"]["values"], self.regions)
            index = columns["region"]["index"]
            rows = [i for i in rows if index[i] in wanted]
        if self.accelerators is not None:
            names = columns["accelerator"]["values"]
            index = columns["accelerator"]["index"]
            whole = _indices(names, frozenset(n for n, count in self.accelerators if count is None))
            counts = columns["accelerator_count"]
            rows = [
                i
                for i in rows
                if index[i] in whole or (names[index[i]], counts[i]) in self.accelerators
            ]
        return rows


def _indices(values: list[str], wanted: frozenset[str]) -> frozenset[int]:
    return frozenset(i for i, value in enumerate(values) if value in wanted)


def _flags(rows: list[list[str]]) -> tuple[Flag, ...]:
    return tuple(
        Flag(code=code, severity=Severity(severity), touches=FlagScope(touches), message=message)
        for code, severity, touches, message in rows
    )
