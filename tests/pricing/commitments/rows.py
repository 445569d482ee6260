"""Terms and offers for the tests of terms: one true p5 of 2026 and what is changed about it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from melange_sky.commitments import Commitment
from melange_sky.offers import Offer
from melange_sky.pricing.commitments.on_demand import OnDemand, Quote
from melange_sky.pricing.commitments.rules import check_quotes
from tests.factories import make_offer

NOW = datetime(2026, 11, 30, 12, tzinfo=timezone.utc)
P5, P5_SMALL = "p5.48xlarge", "p5.4xlarge"
ON_DEMAND = 55.04
YEAR = Commitment(
    cloud="aws",
    region="us-east-1",
    instance_type=P5,
    term_hours=8760,
    usd_per_hour=36.0,
    product="standard reserved instance, no upfront",
    source="a list",
    as_of="2026-11-30T08:00:00Z",
    checked_at="2026-11-30T08:00:00Z",
)


def offer(kind: str = P5, price: float | None = ON_DEMAND, **over: Any) -> Offer:
    """An offer of a p5, or of another instance."""
    named = {
        "cloud": "aws",
        "region": "us-east-1",
        "instance_type": kind,
        "accelerator": "H100",
        "accelerator_count": 8.0 if kind == P5 else 1.0,
        "price_usd_per_hour": price,
        "spot_usd_per_hour": None,
        "source": "today's list",
    }
    return make_offer(**(named | over))


OFFERS = (offer(), offer(P5_SMALL, 6.88))


def term(**over: Any) -> Commitment:
    return replace(YEAR, **over)


def checked(
    *rows: Commitment,
    known: tuple[tuple[float, str], ...] = (),
    offers: tuple[Offer, ...] = OFFERS,
) -> list[Quote]:
    """The terms with their flags, beside the offers; `known` is what any of them cost before."""
    on_demand = OnDemand(offers)
    return list(check_quotes([on_demand.quote(row) for row in rows], lambda _: known, NOW))


def told(quote: Quote) -> dict[str, str]:
    """Code → severity of a term's flags."""
    return {flag.code: flag.severity.value for flag in quote.commitment.flags}
