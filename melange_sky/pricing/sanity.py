"""The sanity rules: what cannot be true of a price, by name. `catalogs/README.md` lists them.

A rule is *block* (the price stays visible and out of plans) or *warn*, and touches the on-demand
price, the spot price or the whole row. Flags of single cells come from `cells`; the rules here look
at one cloud's offers together, since the median over regions is what shows a wrong price.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from statistics import median
from typing import TYPE_CHECKING

from melange_sky.names.clouds import HOSTED_CLOUDS, MARKETPLACES
from melange_sky.offers import Flag, FlagScope, Offer, Severity
from melange_sky.pricing.gpu_hours import implausible

if TYPE_CHECKING:
    from collections.abc import Iterable

MEDIAN_FRACTION = 0.6
"""Block an on-demand price below this fraction of the median of its shape over the cloud's regions."""

SAME_PRICE = 1e-4
"""Prices that differ by less than this fraction are equal: sources round spot to four decimals."""

FALLING_TOLERANCE = 0.02
"""Warn where a GPU gets cheaper by more than this fraction in a larger instance of a region."""

OLD_AFTER_DAYS = 30.0
"""Warn where a source is older than this many days."""

AHEAD_DAYS = 1.0
"""A date this far ahead is none: clocks and zones differ by less."""

POWERS = frozenset({1.0, 2.0, 4.0, 8.0, 16.0})
FRACTIONS = (0.125, 1 / 6, 0.167, 0.25, 0.333, 1 / 3, 0.5)
LARGEST_COUNT = 16

NOT_ON_DEMAND: dict[tuple[str, str], str] = {
    ("gcp", "a3-highgpu-1g"): "sold as spot, DWS or reservation only",
    ("gcp", "a3-highgpu-2g"): "sold as spot, DWS or reservation only",
    ("gcp", "a3-highgpu-4g"): "sold as spot, DWS or reservation only",
    ("gcp", "a3-ultragpu-8g"): "sold as spot, DWS or reservation only",
    ("gcp", "a4-highgpu-8g"): "sold as spot, DWS or reservation only",
}
"""Instance types that a catalog prices on demand and the cloud does not sell so (gpuhunt's GCP filter)."""

AUCTION_CLOUDS = {"mithril": "an auction's floor, not an on-demand price"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SanityRule:
    """One rule as documented: code, severity, what it touches and what it means."""

    code: str
    severity: Severity
    touches: str
    meaning: str


RULES: tuple[SanityRule, ...] = (
    SanityRule(
        code="price-missing",
        severity=Severity.BLOCK,
        touches="on_demand",
        meaning="the on-demand price is empty: not sold on demand, or unknown",
    ),
    SanityRule(
        code="price-unreadable",
        severity=Severity.BLOCK,
        touches="on_demand or spot",
        meaning="the cell is not a finite number",
    ),
    SanityRule(
        code="price-zero",
        severity=Severity.BLOCK,
        touches="on_demand or spot",
        meaning="the price is zero",
    ),
    SanityRule(
        code="price-negative",
        severity=Severity.BLOCK,
        touches="on_demand or spot",
        meaning="the price is below zero",
    ),
    SanityRule(
        code="impossible-count",
        severity=Severity.BLOCK,
        touches="row",
        meaning="no instance has that many GPUs: not a power of two up to 16 nor a known fraction"
        " (marketplaces and own infrastructure: any whole number up to 16)",
    ),
    SanityRule(
        code="below-region-median",
        severity=Severity.BLOCK,
        touches="on_demand",
        meaning="less than 0.6 × the median of the same instance type over the cloud's regions",
    ),
    SanityRule(
        code="spot-above-on-demand",
        severity=Severity.BLOCK,
        touches="on_demand",
        meaning="spot is dearer than on demand, so the on-demand price is in doubt",
    ),
    SanityRule(
        code="not-on-demand",
        severity=Severity.BLOCK,
        touches="on_demand",
        meaning="known not to be purchasable on demand at the listed price",
    ),
    SanityRule(
        code="no-region",
        severity=Severity.BLOCK,
        touches="row",
        meaning="the catalog names no region: currently not offered",
    ),
    SanityRule(
        code="spot-equals-on-demand",
        severity=Severity.WARN,
        touches="spot",
        meaning="spot equals on demand: no real spot price, which is dropped",
    ),
    SanityRule(
        code="price-per-gpu-falls",
        severity=Severity.WARN,
        touches="on_demand",
        meaning="a GPU costs over 2 % less here than in a smaller instance of the region",
    ),
    SanityRule(
        code="price-far-from-known",
        severity=Severity.BLOCK,
        touches="row or spot",
        meaning="over 3 × (spot: 10 ×) dearer or cheaper than the shipped snapshot, or the last pull that"
        " knows it, says of the instance type; of a new one over 5 × beyond what its GPU costs anywhere",
    ),
    SanityRule(
        code="price-off-known",
        severity=Severity.WARN,
        touches="row or spot",
        meaning="over 1.5 × (spot: 5 ×) dearer or cheaper than the shipped snapshot, or the last pull that"
        " knows it, says of the instance type; of a new one over 1.5 × beyond what its GPU costs anywhere",
    ),
    SanityRule(
        code="below-gpu-floor",
        severity=Severity.BLOCK,
        touches="row or spot",
        meaning="less per GPU-hour than any GPU of its class is sold for: 0.0005 USD per dense 16-bit TFLOPS"
        " (spot: a quarter of that)",
    ),
    SanityRule(
        code="above-gpu-ceiling",
        severity=Severity.BLOCK,
        touches="row or spot",
        meaning="more per GPU-hour than any GPU of its class costs: 0.1 USD per dense 16-bit TFLOPS",
    ),
    SanityRule(
        code="one-price-for-counts",
        severity=Severity.BLOCK,
        touches="on_demand or spot",
        meaning="one price for several counts of the GPU in a region: per GPU, or one number for all",
    ),
    SanityRule(
        code="one-price-for-gpus",
        severity=Severity.WARN,
        touches="on_demand",
        meaning="three or more GPUs, the fastest over 3 × as fast as the slowest, at one price per GPU in a region",
    ),
    SanityRule(
        code="date-in-future",
        severity=Severity.WARN,
        touches="row",
        meaning="the date of the price is still to come, or is no date: its age is unknown",
    ),
    SanityRule(
        code="source-old",
        severity=Severity.WARN,
        touches="row",
        meaning="the price was last known true more than 30 days ago",
    ),
)

FAR_CODES = frozenset({"price-far-from-known", "price-off-known"})
"""What says that a price is off those known before: such a price is no witness later."""

IMPLAUSIBLE_CODES = frozenset(
    {"price-far-from-known", "below-gpu-floor", "above-gpu-ceiling", "one-price-for-counts"}
)
"""What says that a price is in another unit, or of another column."""

_BY_CODE = {rule.code: rule for rule in RULES}


def make_flag(code: str, touches: FlagScope, message: str) -> Flag:
    """Return a flag of a documented rule."""
    return Flag(code=code, severity=_BY_CODE[code].severity, touches=touches, message=message)


def check_offers(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    """Return one cloud's offers with the flags of every rule that needs no clock."""
    checked = [_check_alone(offer) for offer in offers]
    flags: dict[int, list[Flag]] = defaultdict(list)
    _find_below_median(checked, flags)
    _find_falling(checked, flags)
    for found in implausible(checked):
        flags[found.at].append(make_flag(found.code, found.touches, found.message))
    return tuple(
        replace(offer, flags=(*offer.flags, *flags[i])) if i in flags else offer
        for i, offer in enumerate(checked)
    )


def possible_count(cloud: str, count: float) -> bool:
    """Return whether an instance of the cloud can have that many GPUs.

    >>> possible_count("azure", 12), possible_count("runpod", 7), possible_count("aws", 0.25)
    (False, True, True)
    """
    if not math.isfinite(count) or count <= 0:
        return False
    if count < 1:
        return any(abs(count - fraction) < 0.002 for fraction in FRACTIONS)
    if cloud in MARKETPLACES or cloud not in HOSTED_CLOUDS:
        return count == int(count) and count <= LARGEST_COUNT
    return count in POWERS


def _check_alone(offer: Offer) -> Offer:
    flags: list[Flag] = []
    price, spot = offer.price_usd_per_hour, offer.spot_usd_per_hour
    if not possible_count(offer.cloud, offer.accelerator_count):
        message = f"no {offer.cloud} instance has {offer.accelerator_count:g} GPUs"
        flags.append(make_flag("impossible-count", FlagScope.ROW, message))
    if not offer.region and offer.cloud in HOSTED_CLOUDS:
        flags.append(make_flag("no-region", FlagScope.ROW, "no region: currently not offered"))
    reason = NOT_ON_DEMAND.get((offer.cloud, offer.instance_type)) or AUCTION_CLOUDS.get(
        offer.cloud
    )
    if reason and price is not None:
        flags.append(
            make_flag("not-on-demand", FlagScope.ON_DEMAND, f"{offer.instance_type}: {reason}")
        )
    if price is not None and spot is not None:
        if math.isclose(spot, price, rel_tol=SAME_PRICE):
            message = f"spot equals on demand ({price:g} $/h): no real spot price"
            flags.append(make_flag("spot-equals-on-demand", FlagScope.SPOT, message))
            spot = None
        elif spot > price:
            message = f"spot {spot:g} is above on demand {price:g} $/h"
            if all(flag.code != "spot-above-on-demand" for flag in offer.flags):
                flags.append(make_flag("spot-above-on-demand", FlagScope.ON_DEMAND, message))
    if not flags:
        return offer
    return replace(offer, spot_usd_per_hour=spot, flags=(*offer.flags, *flags))


def _find_below_median(offers: list[Offer], flags: dict[int, list[Flag]]) -> None:
    """Flag price < MEDIAN_FRACTION × median over regions of (instance type, accelerator, count)."""
    shapes: dict[tuple[str, str, float], list[int]] = defaultdict(list)
    for i, offer in enumerate(offers):
        if offer.price_usd_per_hour is not None:
            shapes[offer.instance_type, offer.accelerator, offer.accelerator_count].append(i)
    for rows in shapes.values():
        if len(rows) < 2:
            continue
        middle = median(offers[i].price_usd_per_hour or 0.0 for i in rows)
        for i in rows:
            price = offers[i].price_usd_per_hour
            if price is not None and price < MEDIAN_FRACTION * middle:
                message = (
                    f"{price:g} $/h is {price / middle:.2f} × the median {middle:g} of"
                    f" {offers[i].instance_type} over {len(rows)} regions"
                )
                flags[i].append(make_flag("below-region-median", FlagScope.ON_DEMAND, message))


def _find_falling(offers: list[Offer], flags: dict[int, list[Flag]]) -> None:
    """Flag price/count below that of a smaller count of the same GPU and region (cheapest of each)."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, offer in enumerate(offers):
        sold = possible_count(offer.cloud, offer.accelerator_count) and offer.accelerator_count >= 1
        if sold and offer.price_usd_per_hour is not None:
            groups[offer.region, offer.accelerator].append(i)
    for rows in groups.values():
        cheapest: dict[float, float] = {}
        for i in rows:
            count = offers[i].accelerator_count
            each = (offers[i].price_usd_per_hour or 0.0) / count
            cheapest[count] = min(each, cheapest.get(count, math.inf))
        if len(cheapest) < 2:
            continue
        for i in rows:
            count = offers[i].accelerator_count
            each = (offers[i].price_usd_per_hour or 0.0) / count
            smaller = min((p for c, p in cheapest.items() if c < count), default=0.0)
            if each < smaller * (1 - FALLING_TOLERANCE):
                message = f"{each:g} $/h per GPU, {smaller:g} in a smaller instance of the region"
                flags[i].append(make_flag("price-per-gpu-falls", FlagScope.ON_DEMAND, message))


def age_days(as_of: str | None, now: datetime) -> float | None:
    """Return how many days ago `as_of` (ISO 8601) was, None where it is unknown or unreadable."""
    if as_of is None:
        return None
    try:
        then = datetime.fromisoformat(as_of.replace("Z", "+00:00"))
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=timezone.utc)
    return (now - then).total_seconds() / 86400


def age_flag(as_of: str | None, now: datetime) -> Flag | None:
    """Return the warning for a source that is too old or dated ahead, None for a young or undated one."""
    if as_of is None:
        return None
    days = age_days(as_of, now)
    if days is None:
        return make_flag(
            "date-in-future", FlagScope.ROW, f"'{as_of[:40]}' is not a date (ISO 8601)"
        )
    if days < -AHEAD_DAYS:
        return make_flag("date-in-future", FlagScope.ROW, f"{as_of} is still to come")
    if days <= OLD_AFTER_DAYS:
        return None
    return make_flag("source-old", FlagScope.ROW, f"last known true {days:.0f} days ago ({as_of})")
