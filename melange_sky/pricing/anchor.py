"""A pull's prices against those known before: an error of all rows alike is seen from outside only."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from melange_sky.offers import FlagScope, Offer
from melange_sky.pricing.sanity import FAR_CODES, make_flag

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from melange_sky.offers import Flag

FAR, BEYOND_BELIEF = 2.5, 1000.0
"""Prices differ by such a factor from those known before: told, and taken for another unit."""

Shape = tuple[str, str, float]
"""Instance type, accelerator, and how many of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What one instance of each shape cost before, over the regions in the middle, and who said so."""

    usd_per_hour: Mapping[Shape, float]
    source: str


def known_prices(offers: Iterable[Offer], source: str) -> Known:
    """Return the prices of offers that no rule keeps out of plans and that were not far off themselves."""
    prices: dict[Shape, list[float]] = defaultdict(list)
    for offer in offers:
        price = offer.price_usd_per_hour
        far = any(flag.code in FAR_CODES for flag in offer.flags)
        if price is not None and price > 0 and not far and not offer.blocked(use_spot=False):
            prices[_shape(offer)].append(price)
    return Known(usd_per_hour={s: median(rows) for s, rows in prices.items()}, source=source)


def check_against(offers: Sequence[Offer], known: Sequence[Known]) -> tuple[Offer, ...]:
    """Return the offers, flagged where a price is far from that of the first source that knows it."""
    return tuple(_checked(offer, known) for offer in offers)


def _checked(offer: Offer, known: Sequence[Known]) -> Offer:
    shape, price = _shape(offer), offer.price_usd_per_hour
    before = next((k for k in known if shape in k.usd_per_hour), None)
    if before is None or price is None or price <= 0:
        return offer
    flag = _flag(price, before.usd_per_hour[shape], before.source)
    return offer if flag is None else replace(offer, flags=(*offer.flags, flag))


def _flag(price: float, usual: float, source: str) -> Flag | None:
    factor = price / usual
    if 1 / FAR <= factor <= FAR:
        return None
    said = f"{price:g} $/h is {factor:.3g} × the {usual:g} of {source}"
    if 1 / BEYOND_BELIEF <= factor <= BEYOND_BELIEF:
        return make_flag("price-far-from-known", FlagScope.ROW, said)
    return make_flag("price-in-another-unit", FlagScope.ROW, f"{said}: another unit?")


def _shape(offer: Offer) -> Shape:
    return offer.instance_type, offer.accelerator, offer.accelerator_count
