"""Prices against those known before: an error of all rows alike is seen from outside only.

Two witnesses: the shipped snapshot, and the last pulls of the same instance. The further of the two
from a price decides, so that neither a slow drift nor one bad pull can move both.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from melange_sky.offers import FlagScope, Offer, Severity
from melange_sky.pricing.sanity import FAR_CODES, IMPLAUSIBLE_CODES, make_flag

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from melange_sky.offers import Flag

FAR, OFF = 3.0, 1.5
"""An on-demand price by such a factor dearer or cheaper than it was: kept out of plans, and told."""

SPOT_FAR, SPOT_OFF = 10.0, 5.0
"""The same of spot prices, which differ three- to fivefold between the zones of one region (AWS, 2026)."""

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


def check_against(
    offers: Sequence[Offer], shipped: Known, pulls: Iterable[Known]
) -> tuple[Offer, ...]:
    """Return the offers, flagged where a price is off what was known of the instance.

    `pulls` are earlier ones, newest first; of each instance the newest that knows it counts. They are
    read only as far as needed.
    """
    last = _Pulls(iter(pulls))
    return tuple(_checked(offer, shipped, last) for offer in offers)


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


def _checked(offer: Offer, shipped: Known, pulls: _Pulls) -> Offer:
    flags = list(offer.flags)
    for use_spot in (False, True):
        price = offer.price(use_spot)
        if price is None or price <= 0:
            continue
        usual = shipped.price(offer, use_spot)
        known = [] if usual is None else [(usual, shipped.source)]
        pulled = pulls.find(offer, use_spot)
        known += [] if pulled is None else [pulled]
        flag = _flag(price, known, use_spot)
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


def _key(offer: Offer, use_spot: bool, region: str) -> Key:
    return offer.instance_type, offer.accelerator, offer.accelerator_count, use_spot, region
