"""A user's own offers under the sanity rules: what one states oneself is told loudly and used."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.offers import Severity
from melange_sky.pricing.anchor import (
    Known,
    Witnesses,
    check_against,
    known_prices,
    market_of,
)
from melange_sky.pricing.own_csv import read_embedded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from melange_sky.offers import Flag, Offer
    from melange_sky.pricing.chain import Chain, Chosen

TOLD_ONLY = frozenset(
    {
        "price-far-from-known",
        "below-region-median",
        "below-gpu-floor",
        "above-gpu-ceiling",
        "one-price-for-counts",
        "not-on-demand",
    }
)
"""Rules that keep a source's price out of plans and only warn of one's own: it may be negotiated."""

ALSO_TOLD = frozenset(
    {
        "price-off-known",
        "price-missing",
        "price-unreadable",
        "price-zero",
        "price-negative",
        "one-price-for-gpus",
    }
)
"""Rules whose finding is told of one's own offers, as of no source's: each such row was meant to count."""

SHOWN = 3


def checked_own(
    own: Sequence[Offer], chain: Chain, tables: Mapping[str, Chosen]
) -> tuple[Offer, ...]:
    """Return one's own offers, held against what is known of the same instances, and warn of each doubt.

    `tables` are those that the chain has chosen.
    """
    clouds = {offer.cloud for offer in own}
    shipped, name = read_embedded()
    known = known_prices((o for o in shipped if o.cloud in clouds), f"the {name} snapshot")
    witnesses = Witnesses(shipped=known, pulls=_chosen(tables, clouds), market=market_of(shipped))
    checked = check_against(own, witnesses)
    told = tuple(replace(offer, flags=tuple(map(_lowered, offer.flags))) for offer in checked)
    _warn(told, chain)
    return told


def _chosen(tables: Mapping[str, Chosen], clouds: set[str]) -> Iterator[Known]:
    for cloud in sorted(clouds & tables.keys()):
        chosen = tables[cloud]
        as_of = "" if chosen.as_of is None else f" of {chosen.as_of[:10]}"
        offers = chosen.table.offers(chosen.source, chosen.as_of)
        yield known_prices(offers, f"{chosen.source}{as_of}")


def _lowered(flag: Flag) -> Flag:
    return replace(flag, severity=Severity.WARN) if flag.code in TOLD_ONLY else flag


def _warn(own: Sequence[Offer], chain: Chain) -> None:
    """Warn once per rule, with the first offers that break it."""
    doubts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for offer in own:
        for flag in offer.flags:
            if flag.code in TOLD_ONLY or flag.code in ALSO_TOLD:
                place = f"{offer.cloud}/{offer.region} " if offer.region else f"{offer.cloud} "
                said = f"{place}{offer.instance_type}: {flag.message}"
                doubts[flag.code, offer.source].append(said)
    for (code, source), lines in doubts.items():
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        chain.warn(code, f"your own prices ({source}): {'; '.join(lines[:SHOWN])}{more}")
