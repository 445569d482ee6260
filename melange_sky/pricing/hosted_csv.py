"""SkyPilot's catalog files: one cloud's CSV text to checked offers, by header name.

Prices are USD per hour of the whole instance. Rows may be per instance, region or zone: an offer is
per region, at the cheapest zone. A file that cannot be trusted as a file is refused whole; a bad
cell flags its own row.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melange_sky.errors import SourceUnavailableError
from melange_sky.names.accelerators import canonical_accelerator
from melange_sky.offers import Flag, FlagScope, Offer
from melange_sky.pricing.fields import read_number, read_price
from melange_sky.pricing.gcp_hosts import Host, hosts_for, is_gpu_host
from melange_sky.pricing.sanity import check_offers, make_flag
from melange_sky.pricing.units import unit_columns, unit_problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REQUIRED = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Region", "Price")
LARGEST_OFFERS = 50_000
"""More than this is no price catalog; the largest today has about 16,000 (RunPod's, by zone)."""
PARSER_VERSION = 3
"""Raise it when the same file would parse to other offers: cached tables are then fetched anew."""


class CatalogRefusedError(SourceUnavailableError):
    """A file that cannot be trusted as a file: truncated, not CSV, a column or all rows missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogRow:
    """One row with an accelerator: text cells as read, the accelerator by its canonical name."""

    instance_type: str
    name: str
    accelerator: str
    count: float
    region: str
    zone: str
    price: float | None
    spot: float | None
    vcpus: float | None
    memory_gib: float | None
    flags: tuple[Flag, ...] = ()


@dataclass(slots=True)
class _Group:
    """Rows of one instance type, accelerator, count and region: its zones."""

    first: CatalogRow
    price: float | None = None
    spot: float | None = None
    price_flags: list[Flag] = field(default_factory=list)
    spot_flags: list[Flag] = field(default_factory=list)
    other_flags: list[Flag] = field(default_factory=list)

    def add(self, row: CatalogRow) -> None:
        self.price = _least(self.price, row.price)
        self.spot = _least(self.spot, row.spot)
        for flag in row.flags:
            if flag.code.startswith("price-"):
                kept = self.spot_flags if flag.touches is FlagScope.SPOT else self.price_flags
            else:
                kept = self.other_flags
            if flag not in kept:
                kept.append(flag)

    def flags(self) -> tuple[Flag, ...]:
        """Flags of a cell count only where no zone of the region has a good one."""
        price_flags = self.price_flags if self.price is None else []
        spot_flags = self.spot_flags if self.spot is None else []
        # an unreadable zone says more than an empty one
        price_flags = sorted(price_flags, key=lambda flag: flag.code == "price-missing")[:1]
        return (*price_flags, *spot_flags[:1], *self.other_flags)


def _least(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else min(a, b)


def parse_catalog(
    cloud: str, lines: Iterable[str], *, ends_whole: bool = True
) -> tuple[Offer, ...]:
    """Return the checked offers of one catalog file, without source and date.

    `ends_whole` says that the sender declared where the body ends, so that a last line without a
    line feed is not a cut one. Raises CatalogRefusedError, or UnicodeDecodeError from `lines`.
    """
    table = _Cells(lines, ends_whole)
    groups: dict[tuple[str, str, float, str], _Group] = {}
    rows = _gcp_rows(table) if cloud == "gcp" else _plain_rows(cloud, table)
    for row in rows:
        count = -1.0 if math.isnan(row.count) else row.count
        key = (row.instance_type, row.name, count, row.region)
        group = groups.get(key)
        if group is None:
            if len(groups) >= LARGEST_OFFERS:
                raise CatalogRefusedError(f"more than {LARGEST_OFFERS} offers: not a price catalog")
            group = groups[key] = _Group(row)
        group.add(row)
    if table.rows == 0:
        raise CatalogRefusedError("the file has a header and no rows")
    return check_offers(_offer(cloud, group) for group in groups.values())


def _offer(cloud: str, group: _Group) -> Offer:
    first = group.first
    return Offer(
        cloud=cloud,
        region=first.region,
        instance_type=first.instance_type,
        accelerator=first.accelerator,
        accelerator_count=first.count,
        price_usd_per_hour=group.price,
        spot_usd_per_hour=group.spot,
        source="",
        as_of=None,
        vcpus=first.vcpus,
        memory_gib=first.memory_gib,
        flags=group.flags(),
        catalog_accelerator=None if first.name == first.accelerator else first.name,
    )


class _Cells:
    """The rows of a CSV text as cells by column name, with the checks of a whole file."""

    def __init__(self, lines: Iterable[str], ends_whole: bool) -> None:
        self._last = ""
        self._ends_whole = ends_whole
        self._reader = csv.reader(self._remember(lines), strict=True)
        self.rows = 0
        header = self._header()
        self._width = len(header)
        self._at = {name: i for i, name in enumerate(header)}
        self._units = unit_columns(header)

    def _remember(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            self._last = line
            if "\0" in line:
                raise CatalogRefusedError("the file holds NUL bytes: not CSV text")
            yield line

    def _header(self) -> list[str]:
        try:
            header = [name.strip() for name in next(self._reader, [])]
        except csv.Error as error:
            raise CatalogRefusedError(f"the file is not CSV: {error}") from error
        if not header:
            raise CatalogRefusedError("the file is empty")
        missing = [name for name in REQUIRED if name not in header]
        if missing:
            start = "".join(c if c.isprintable() else " " for c in self._last[:40])
            raise CatalogRefusedError(
                f"not a price catalog: no column {', '.join(missing)} (it begins '{start}')"
            )
        if len(set(header)) != len(header):
            raise CatalogRefusedError("a column name appears twice")
        return header

    def column(self, name: str) -> int | None:
        """Return where the column is, None where the file has none."""
        return self._at.get(name)

    def __iter__(self) -> Iterator[list[str]]:
        row: list[str] = []
        try:
            for row in self._reader:
                if not row:
                    continue
                self.rows += 1
                self._check_units(row)
                if len(row) != self._width:
                    yield self._fit(row)
                else:
                    yield row
        except csv.Error as error:
            cut = "truncated" if "end of data" in str(error) else "not CSV"
            line = self._reader.line_num
            raise CatalogRefusedError(f"the file is {cut}, line {line}: {error}") from error
        self._check_end(row)

    def _check_units(self, row: list[str]) -> None:
        problem = unit_problem(self._units, row) if self._units else None
        if problem is not None:
            raise CatalogRefusedError(f"line {self._reader.line_num}: {problem}")

    def _fit(self, row: list[str]) -> list[str]:
        """A row of another width: too short is missing cells, too long cannot be read at all."""
        if len(row) < self._width:
            return row + [""] * (self._width - len(row))
        prices = {self._at["Price"], self._at.get("SpotPrice")}
        return [
            "malformed row" if i in prices else cell for i, cell in enumerate(row[: self._width])
        ]

    def _check_end(self, row: list[str]) -> None:
        if self._last.endswith(("\n", "\r")):
            return
        if (row and len(row) < self._width) or not self._ends_whole:
            raise CatalogRefusedError("the file is truncated: its last line is cut")


class Reader:
    """Turns the cells of a row into a CatalogRow."""

    def __init__(self, cloud: str, table: _Cells) -> None:
        self.cloud = cloud
        self._at = [
            table.column(name)
            for name in (
                "InstanceType",
                "AcceleratorName",
                "AcceleratorCount",
                "Region",
                "AvailabilityZone",
                "Price",
                "SpotPrice",
                "vCPUs",
                "MemoryGiB",
            )
        ]

    def cells(self, row: list[str]) -> list[str]:
        """Return the nine cells in the order of `_at`, empty where a column is absent."""
        return ["" if i is None else row[i] for i in self._at]

    def read(self, row: list[str]) -> CatalogRow | None:
        """Return the row, None where it has no accelerator (or a TPU, priced without its host)."""
        kind, name, count_text, region, zone, price_text, spot_text, vcpus, memory = self.cells(row)
        name = name.strip()
        if not name or name.startswith("tpu-"):
            return None
        price, price_flag = read_price(price_text, FlagScope.ON_DEMAND)
        spot, spot_flag = read_price(spot_text, FlagScope.SPOT)
        count = read_number(count_text)
        flags = () if price_flag is None else (price_flag,)
        return CatalogRow(
            instance_type=kind.strip(),
            name=name,
            accelerator=canonical_accelerator(name, self.cloud),
            count=math.nan if count is None else count,
            region=region.strip(),
            zone=zone.strip(),
            price=price,
            spot=spot,
            vcpus=read_number(vcpus),
            memory_gib=read_number(memory),
            flags=flags if spot_flag is None else (*flags, spot_flag),
        )


def _plain_rows(cloud: str, table: _Cells) -> Iterator[CatalogRow]:
    reader = Reader(cloud, table)
    at = table.column("AcceleratorName")
    assert at is not None  # the header was checked
    for cells in table:
        if cells[at]:
            row = reader.read(cells)
            if row is not None:
                yield row


def _gcp_rows(table: _Cells) -> Iterator[CatalogRow]:
    """Join GCP's accelerator rows (no instance type) with its host rows (no accelerator) by zone."""
    reader = Reader("gcp", table)
    parts: list[CatalogRow] = []
    hosts: dict[tuple[str, str], list[Host]] = {}
    for cells in table:
        kind, name, _, region, zone, price, spot, vcpus, memory = reader.cells(cells)
        if name:
            row = reader.read(cells)
            if row is not None and row.instance_type:
                yield row
            elif row is not None:
                parts.append(row)
        elif is_gpu_host(kind):
            host = Host.read(kind, (price, spot, vcpus, memory))
            if host is not None:
                hosts.setdefault((region.strip(), zone.strip()), []).append(host)
    for part in parts:
        for host in hosts_for(part.name, part.count, hosts.get((part.region, part.zone), [])):
            yield _joined(part, host)


def _joined(part: CatalogRow, host: Host) -> CatalogRow:
    flags = part.flags
    if part.price is not None and part.spot is not None and part.spot > part.price:
        message = f"the GPU part's spot {part.spot:g} is above its on demand {part.price:g} $/h"
        flags = (*flags, make_flag("spot-above-on-demand", FlagScope.ON_DEMAND, message))
    return CatalogRow(
        instance_type=host.instance_type,
        name=part.name,
        accelerator=part.accelerator,
        count=part.count,
        region=part.region,
        zone=part.zone,
        price=None if part.price is None else round(part.price + host.price, 6),
        spot=None if part.spot is None or host.spot is None else round(part.spot + host.spot, 6),
        vcpus=host.vcpus,
        memory_gib=host.memory_gib,
        flags=flags,
    )
