"""What the instance of a term costs on demand: the price that it is weighed against."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.commitments import Commitment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from melange_sky.offers import Offer


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A term beside the on-demand price of its instance today, and what the instance is (None: unknown)."""

    commitment: Commitment
    on_demand_usd_per_hour: float | None = None
    on_demand_source: str | None = None
    accelerator: str | None = None
    accelerator_count: float | None = None

    @property
    def is_known_instance(self) -> bool:
        """Whether any offer of the instance is known, priced or not."""
        return self.accelerator is not None

    @property
    def discount(self) -> float | None:
        """The fraction that an hour of it is cheaper than on demand, None where that is unknown."""
        if self.on_demand_usd_per_hour is None:
            return None
        return self.commitment.discount(self.on_demand_usd_per_hour)

    @property
    def break_even_utilization(self) -> float | None:
        """The fraction of hours that an instance must run for the term to pay; above 1: never."""
        return None if self.discount is None else 1 - self.discount


class OnDemand:
    """On-demand prices by cloud, region and instance type, those that no rule keeps out of plans."""

    def __init__(self, offers: Iterable[Offer]) -> None:
        self._offers: dict[tuple[str, str], list[Offer]] = defaultdict(list)
        for offer in offers:
            self._offers[offer.cloud, offer.instance_type].append(offer)

    def quote(self, row: Commitment) -> Quote:
        """Return the term beside today's price on demand, else beside the one that its own source lists.

        A term for any region stands beside the cheapest.
        """
        offers = self._offers.get((row.cloud, row.instance_type), [])
        known = offers[0] if offers else None
        price, source = self._price(offers, row)
        return Quote(
            commitment=row,
            on_demand_usd_per_hour=price,
            on_demand_source=source,
            accelerator=None if known is None else known.accelerator,
            accelerator_count=None if known is None else known.accelerator_count,
        )

    def _price(self, offers: Sequence[Offer], row: Commitment) -> tuple[float | None, str | None]:
        priced = [
            (offer.price_usd_per_hour, offer.source)
            for offer in offers
            if row.region in ("", offer.region)
            and offer.price_usd_per_hour is not None
            and offer.price_usd_per_hour > 0
            and not offer.blocked(use_spot=False)
        ]
        if priced:
            return min(priced)
        if row.list_usd_per_hour is not None and row.list_usd_per_hour > 0:
            return row.list_usd_per_hour, "beside the term"
        return None, None


def matching_terms(quotes: Iterable[Quote], offer: Offer) -> tuple[Quote, ...]:
    """Return the usable terms that can pay for an offer's instances, the lowest price of an hour first."""
    found = [
        quote
        for quote in quotes
        if not quote.commitment.blocked
        and quote.commitment.covers(offer.cloud, offer.region, offer.instance_type)
    ]
    return tuple(sorted(found, key=lambda quote: quote.commitment.all_in_usd_per_hour))
