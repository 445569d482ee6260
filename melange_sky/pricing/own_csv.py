"""Offers in the project's own columns: the embedded snapshot and a user's ``--offers my.csv``."""

from __future__ import annotations

import csv
import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, did_you_mean
from melange_sky.names.accelerators import canonical_accelerator
from melange_sky.names.clouds import SAME_CLOUD
from melange_sky.offers import (
    MORE_OFFER_COLUMNS,
    OFFER_COLUMNS,
    Flag,
    FlagScope,
    Offer,
    OwnOffers,
)
from melange_sky.pricing.fields import read_number, read_price
from melange_sky.pricing.own_text import own_text
from melange_sky.pricing.sanity import check_offers
from melange_sky.pricing.units import unit_columns, unit_problem
from melange_sky.resources import catalogs_dir

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FREE = (
    "the price is zero: say what an instance costs, and what is paid anyway under resources.fixed"
)
LARGEST_BYTES = 32 * 1024 * 1024


def read_embedded() -> tuple[tuple[Offer, ...], str]:
    """Return the offers shipped in `catalogs/snapshot.csv` and their id ``embedded-<hash>``."""
    path = catalogs_dir() / "snapshot.csv"
    offers, digest = read_own_csv(path, default_source="embedded snapshot")
    return offers, f"embedded-{digest}"


def read_own_csv(path: Path, default_source: str | None = None) -> tuple[tuple[Offer, ...], str]:
    """Return the checked offers of a CSV file in the project's columns, and its content hash.

    Lines that start with ``#`` are comments. `source` and `as_of` may be absent; the source is then
    the file's name. Raises InputError where the file cannot be trusted as a file; a bad cell flags
    its own row.
    """
    text, digest = own_text(path, LARGEST_BYTES, " of offers")
    lines = text.split("\n")
    start = next((i for i, line in enumerate(lines) if line.strip() and line[0] != "#"), 0)
    reader = csv.reader(lines[start:], strict=True)
    offers: list[Offer] = []
    try:
        columns = _columns(path, next(reader, []))
        units = unit_columns(columns)
        for row in reader:
            if row and not row[0].startswith("#"):
                cells = dict(zip(columns, row, strict=False))
                where = f"{path}, line {start + reader.line_num}"
                problem = unit_problem(units, row)
                if problem is not None:
                    raise InputError(f"{where}: {problem}")
                offers.append(_offer(cells, where, default_source or str(path.name)))
    except csv.Error as error:
        raise InputError(f"{path} is not CSV (line {start + reader.line_num}): {error}") from error
    if not offers:
        raise InputError(f"{path} holds no offers: it needs at least one row under its header")
    return check_all(offers), digest


def read_own(sources: Sequence[OwnOffers]) -> tuple[tuple[Offer, ...], tuple[str, ...]]:
    """Return the checked offers that the user states, and the content hash of each source.

    Of one instance type in one region the last source that names it counts.
    """
    found: dict[tuple[str, str, str], list[Offer]] = {}
    digests = []
    rows = [source for source in sources if source.file is None]
    for source in sources:
        if source.file is not None:
            offers, digest = read_own_csv(source.file)
            digests.append(digest)
            _put(found, offers)
    if rows:
        _put(found, check_all(tuple(_offer(dict(r.row), r.where, "the spec") for r in rows)))
        digests.append(hashlib.sha256(repr([r.row for r in rows]).encode()).hexdigest()[:12])
    offers = tuple(replace(offer, is_own=True) for group in found.values() for offer in group)
    return offers, tuple(digests)


def check_all(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    """Return offers of any clouds with the flags of every rule, cloud by cloud."""
    by_cloud: dict[str, list[Offer]] = {}
    for offer in offers:
        by_cloud.setdefault(offer.cloud, []).append(offer)
    return tuple(o for rows in by_cloud.values() for o in check_offers(rows))


def _put(found: dict[tuple[str, str, str], list[Offer]], offers: Iterable[Offer]) -> None:
    fresh: dict[tuple[str, str, str], list[Offer]] = {}
    for offer in offers:
        fresh.setdefault((offer.cloud, offer.region, offer.instance_type), []).append(offer)
    found |= fresh


def _columns(path: Path, header: list[str]) -> list[str]:
    columns = [name.strip() for name in header]
    missing = [
        f"{path} lacks the column '{name}'{did_you_mean(name, columns)};"
        f" needed: {', '.join(OFFER_COLUMNS)}; optional: {', '.join(MORE_OFFER_COLUMNS)}"
        for name in OFFER_COLUMNS
        if name not in columns
    ]
    if missing:
        raise InputError(*missing)
    return columns


def _offer(cells: dict[str, str], where: str, default_source: str) -> Offer:
    for key in ("cloud", "instance_type", "accelerator"):
        if not (cells.get(key) or "").strip():
            raise InputError(f"{where}: '{key}' is empty")
    cloud = cells["cloud"].strip().casefold()
    cloud = SAME_CLOUD.get(cloud, cloud)
    price, price_flag = read_price(cells.get("price_usd_per_hour"), FlagScope.ON_DEMAND)
    spot, spot_flag = read_price(cells.get("spot_usd_per_hour"), FlagScope.SPOT)
    if price_flag is not None and price_flag.code == "price-zero":
        price_flag = replace(price_flag, message=_FREE)
    flags: tuple[Flag, ...] = tuple(flag for flag in (price_flag, spot_flag) if flag is not None)
    count = read_number(cells.get("accelerator_count"))
    return Offer(
        cloud=cloud,
        region=(cells.get("region") or "").strip(),
        instance_type=cells["instance_type"].strip(),
        accelerator=canonical_accelerator(cells["accelerator"], cloud),
        accelerator_count=math.nan if count is None else count,
        price_usd_per_hour=price,
        spot_usd_per_hour=spot,
        source=(cells.get("source") or "").strip() or default_source,
        as_of=(cells.get("as_of") or "").strip() or None,
        vcpus=read_number(cells.get("vcpus")),
        memory_gib=read_number(cells.get("memory_gib")),
        flags=flags,
    )
