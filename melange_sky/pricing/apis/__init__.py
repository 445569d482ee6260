"""Providers' own price APIs that need no credentials, one file each behind one small interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from melange_sky.offers import Offer
    from melange_sky.pricing.fetch import Http


class PriceApi(Protocol):
    """One provider's price list. `fetch` returns checked offers without source and date.

    It raises FetchError (or another SourceUnavailableError) where nothing usable came by `until`, on
    the monotonic clock.
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

    async def fetch(self, http: Http, until: float) -> tuple[Offer, ...]:
        """Return the cloud's offers."""
