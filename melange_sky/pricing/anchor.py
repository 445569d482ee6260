"""Prices against those known before: an error of all rows alike is seen from outside only.

Two witnesses: the shipped snapshot, and the last pulls of the same instance. The further of the two
from a price decides, so that neither a slow drift nor one bad pull can move both. What neither has seen is
held against what an hour of its GPU costs anywhere.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING

from melange_sky.names.clouds import UNHOSTED_CLOUDS
from melange_sky.offers import FlagScope, Offer, Severity, gpu_of
from melange_sky.pricing.sanity import FAR_CODES, IMPLAUSIBLE_CODES, make_flag

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from melange_sky.offers import Flag

FAR, OFF = 3.0, 1.5
"""An on-demand price by such a factor dearer or cheaper than it was: kept out of plans, and told."""

SPOT_FAR, SPOT_OFF = 10.0, 5.0
"""The same of spot prices, which differ three- to fivefold between the zones of one region (AWS, 2026)."""

FAR_FROM_MARKET, OFF_MARKET = 5.0, 1.5
"""The same of an instance that was never seen, beyond the cheapest and the dearest hour of its GPU anywhere;
marketplaces ask down to a fifth of what clouds do."""

Key = tuple[str, str, float, bool, str]
"""Instance type, accelerator, how many of it, whether spot, and the region (empty: the middle of all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What instances cost before, by `Key`, and who said so."""

    usd_per_hour: Mapping[Key, float]
    source: str

    def price(self, offer: Offer, use_spot: bool) -> float | None:
        """Return what the very instance cost in its region, else in the middle of all regions."""
        for region in (offer.region, ""):
            found = self.usd_per_hour.get(_key(offer, use_spot, region))
            if found is not None:
                return found
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnesses:
    """Who is asked of a price: the shipped snapshot, earlier pulls (newest first), and the market of a GPU.

    `market` holds the least and the most that an hour of one GPU costs on demand, by its name. Pulls are
    read only as far as needed.
    """

    shipped: Known
    pulls: Iterable[Known] = ()
    market: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def market_of(offers: Iterable[Offer]) -> dict[str, tuple[float, float]]:
    """Return the least and the most that an hour of each GPU costs on demand among usable offers."""
    hours: dict[str, list[float]] = defaultdict(list)
    for offer in offers:
        price = offer.price_usd_per_hour
        if price is not None and offer.accelerator_count >= 1 and not offer.blocked(use_spot=False):
            hours[gpu_of(offer)].append(price / offer.accelerator_count)
    return {gpu: (min(each), max(each)) for gpu, each in hours.items()}


def known_prices(offers: Iterable[Offer], source: str) -> Known:
    """Return the prices of offers that no rule keeps out of plans and that were not off themselves."""
    prices: dict[Key, list[float]] = defaultdict(list)
    for offer in offers:
        if any(flag.code in FAR_CODES for flag in offer.flags):
            continue
        for use_spot in (False, True):
            price = offer.price(use_spot)
            if price is not None and price > 0 and not offer.blocked(use_spot):
                prices[_key(offer, use_spot, "")].append(price)
                if offer.region:
                    prices[_key(offer, use_spot, offer.region)].append(price)
    return Known(usd_per_hour={key: median(rows) for key, rows in prices.items()}, source=source)


def check_against(offers: Sequence[Offer], witnesses: Witnesses) -> tuple[Offer, ...]:
    """Return the offers, flagged where a price is off what was known of the instance, or of its GPU."""
    last = _Pulls(iter(witnesses.pulls))
    return tuple(_checked(offer, witnesses, last) for offer in offers)


def doubts_of(offers: Sequence[Offer]) -> str | None:
    """Return how many offers are kept out for what they cost, with an example; None for none."""
    doubted = [
        (offer, flag)
        for offer in offers
        for flag in offer.flags
        if flag.code in IMPLAUSIBLE_CODES and flag.severity is Severity.BLOCK
    ]
    if not doubted:
        return None
    offer, flag = min(doubted, key=lambda pair: pair[1].code != "price-far-from-known")
    count = len(
        {(o.region, o.instance_type, o.accelerator, o.accelerator_count) for o, _ in doubted}
    )
    return (
        f"{count} of {len(offers)} offers are kept out for their prices, such as {offer.region}"
        f" {offer.instance_type}: {flag.message}"
    )


class _Pulls:
    """Earlier pulls, opened one by one while an instance is not found in those that are open."""

    def __init__(self, pulls: Iterator[Known]) -> None:
        self._closed = pulls
        self._open: list[Known] = []

    def find(self, offer: Offer, use_spot: bool) -> tuple[float, str] | None:
        for known in self._all():
            price = known.price(offer, use_spot)
            if price is not None:
                return price, known.source
        return None

    def _all(self) -> Iterator[Known]:
        yield from self._open
        for known in self._closed:
            self._open.append(known)
            yield known


def _checked(offer: Offer, witnesses: Witnesses, pulls: _Pulls) -> Offer:
    flags = list(offer.flags)
    for use_spot in (False, True):
        price = offer.price(use_spot)
        if price is None or price <= 0:
            continue
        usual = witnesses.shipped.price(offer, use_spot)
        known = [] if usual is None else [(usual, witnesses.shipped.source)]
        pulled = pulls.find(offer, use_spot)
        known += [] if pulled is None else [pulled]
        flag = _flag(price, known, use_spot)
        if not known and not use_spot:
            flag = _off_market(offer, price, witnesses.market)
        flags += [] if flag is None else [flag]
    return offer if len(flags) == len(offer.flags) else replace(offer, flags=tuple(flags))


def _flag(price: float, known: Sequence[tuple[float, str]], use_spot: bool) -> Flag | None:
    """Return the flag of a price against the witness that it is furthest from."""
    if not known:
        return None
    usual, source = max(known, key=lambda witness: abs(math.log(price / witness[0])))
    apart = max(price / usual, usual / price)
    far, off = (SPOT_FAR, SPOT_OFF) if use_spot else (FAR, OFF)
    if apart <= off:
        return None
    kind, touches = ("spot ", FlagScope.SPOT) if use_spot else ("", FlagScope.ROW)
    said = f"{kind}{price:g} $/h is {price / usual:.3g} × the {usual:g} of {source}"
    if apart <= far:
        return make_flag("price-off-known", touches, said)
    return make_flag("price-far-from-known", touches, f"{said}: another unit or column?")


def _off_market(
    offer: Offer, price: float, market: Mapping[str, tuple[float, float]]
) -> Flag | None:
    """Return the flag of an instance that nobody knew, None where its GPU costs so much somewhere."""
    known = market.get(gpu_of(offer))
    counted = all(flag.code != "impossible-count" for flag in offer.flags)
    if known is None or not counted or offer.cloud in UNHOSTED_CLOUDS:
        return None
    least, most = known
    each = price / offer.accelerator_count
    apart = max(least / each, each / most)
    if apart <= OFF_MARKET:
        return None
    said = (
        f"{each:.4g} $/h per GPU, {least:.3g} to {most:.3g} wherever {offer.accelerator} is known"
    )
    code = "price-off-known" if apart <= FAR_FROM_MARKET else "price-far-from-known"
    return make_flag(code, FlagScope.ROW, said)


def _key(offer: Offer, use_spot: bool, region: str) -> Key:
    return offer.instance_type, offer.accelerator, offer.accelerator_count, use_spot, region
