"""Prices people can trust: fetched, checked, dated, kept. Start at `load.load_offers`."""

from melange_sky.pricing.load import load_offers
from melange_sky.pricing.query import OfferBook, OfferQuery

__all__ = ["OfferBook", "OfferQuery", "load_offers"]
