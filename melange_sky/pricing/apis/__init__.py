"""Providers' own price APIs that need no credentials, one file each behind one small interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from melange_sky.offers import Offer
    from melange_sky.pricing.commitments.sheet import TermPart
    from melange_sky.pricing.fetch import Http


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a provider's API gave: checked offers, and its terms part by part, both without source.

    `as_of` (ISO 8601) is when the list was true where it says so; else what came is of the moment.
    """

    offers: tuple[Offer, ...]
    terms: tuple[TermPart, ...] = ()
    as_of: str | None = None


class PriceApi(Protocol):
    """One provider's price list.

    `fetch` raises FetchError (or another SourceUnavailableError) where no usable prices came by `until`, on
    the monotonic clock; a part of the terms that failed says so in the listing.
    """

    @property
    def name(self) -> str:
        """What `--source` calls it."""

    @property
    def cloud(self) -> str:
        """The cloud whose prices it lists."""

    @property
    def regions(self) -> tuple[str, ...] | None:
        """The only regions that it lists, None where it lists them all."""

    @property
    def label(self) -> str:
        """How offers name the source."""

    @property
    def url(self) -> str:
        """Where it is asked."""

    async def fetch(self, http: Http, until: float) -> Listing:
        """Return the cloud's offers and terms."""
