"""The offers that a plan sees: the chain's choice, the user's own on top, flagged and in order."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.names.clouds import UNHOSTED_CLOUDS, check_clouds
from melange_sky.pricing.chain import (
    Chain,
    Chosen,
    choose,
    embedded,
    find_snapshot,
    other_regions,
)
from melange_sky.pricing.own_csv import read_own
from melange_sky.pricing.query import OfferBook, OfferQuery
from melange_sky.pricing.refresh_notes import by_reason
from melange_sky.pricing.sanity import age_flag
from melange_sky.pricing.select import Selection
from melange_sky.pricing.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.offers import Offer

log = logging.getLogger(__name__)

LISTABLE_CLOUDS = frozenset({"kubernetes", "ssh"})
"""One's own infrastructure whose accelerators SkyPilot lists."""


def load_offers(query: OfferQuery) -> OfferBook:
    """Return the offers that match the query, each flagged by the sanity rules.

    Raises InputError for unknown clouds, regions or accelerators and for an unreadable CSV, and
    SourceUnavailableError where no source has any offer of what was asked.
    """
    own, digests = read_own(query.own_sources)
    own = _with_planned(own, query.planned)
    check_clouds(query.clouds, also=tuple(offer.cloud for offer in own))
    if query.forbids_network and (query.refresh or query.sources):
        raise InputError(
            "a refresh needs the network, which --offline (MELANGE_SKY_OFFLINE) forbids"
        )
    chain = Chain(
        query=query, now=query.now or datetime.now(timezone.utc), store=Store(query.store_dir)
    )
    find_snapshot(chain)
    tables = choose(chain)
    if own:
        from melange_sky.pricing.own_checks import checked_own  # few users have offers of their own

        own = checked_own(own, chain, tables)
    selection = Selection(infra=query.infra, accelerators=query.accelerators)
    listed = [*embedded(chain, tables), *other_regions(chain, tables)]
    offers = selection.of(tables, listed, own)
    _log_sources(chain, tables, len(offers))
    for sentence in selection.missing:
        chain.warn("no-region", sentence)
    chain.ids.extend(f"csv-{digest}" for digest in digests)
    _warn_unpriced(chain, {*tables, *(offer.cloud for offer in own)})
    if not offers and not selection.knows_any:
        raise SourceUnavailableError(_nothing_known(chain))
    return OfferBook(
        offers=tuple(sorted((_aged(o, chain.now) for o in offers), key=_order)),
        snapshot="+".join(chain.ids) or None,
        warnings=tuple(chain.warnings),
        own_clouds=tuple(sorted({offer.cloud for offer in own})),
        checked_at={c: t.checked_at for c, t in tables.items() if t.checked_at is not None},
    )


def _with_planned(own: tuple[Offer, ...], planned: tuple[Offer, ...]) -> tuple[Offer, ...]:
    """Return one's own offers, and those of a saved plan that none of them replaces."""
    known = {(o.cloud, o.region, o.instance_type) for o in own}
    return (*own, *(o for o in planned if (o.cloud, o.region, o.instance_type) not in known))


def _warn_unpriced(chain: Chain, priced: set[str]) -> None:
    """Warn of each cloud that was asked for and has no offer at all, beside others that have."""
    for cloud in chain.query.clouds:
        if cloud in UNHOSTED_CLOUDS and cloud not in priced:
            chain.warn("no-own-offers", f"nothing is planned on {cloud}: {unpriced_text(cloud)}")


def unpriced_text(cloud: str) -> str:
    """Say how offers of one's own infrastructure come to a plan."""
    listed = (
        "`melange-sky prices cluster -o my.csv` lists what SkyPilot sees there; fill in what an instance costs"
        " you and say "
        if cloud in LISTABLE_CLOUDS
        else "no catalog lists what an instance costs you there; say "
    )
    return (
        f"it has no offers. {listed}`offers: my.csv` in the spec (columns as in catalogs/README.md)"
    )


def _log_sources(chain: Chain, tables: Mapping[str, Chosen], count: int) -> None:
    for cloud, chosen in sorted(tables.items()):
        log.info("prices of %s: %s, as of %s", cloud, chosen.source, chosen.as_of)
    log.info("%d offers match; snapshot %s", count, "+".join(chain.ids) or "none")
    for warning in chain.warnings:
        log.debug("[%s] %s", warning.code, warning.message)


def _nothing_known(chain: Chain) -> str:
    clouds = ", ".join(chain.query.clouds) or "any cloud"
    reasons = "; ".join(reason for _, reason in by_reason(chain.failed))
    if reasons:
        return f"no prices of {clouds} are usable: {reasons}"
    if chain.query.clouds and set(chain.query.clouds) <= set(UNHOSTED_CLOUDS):
        return f"no prices of {clouds} are known: {unpriced_text(chain.query.clouds[0])}"
    return (
        f"no prices of {clouds} are known: none were fetched and the embedded snapshot has none;"
        " run `melange-sky prices refresh` with the network allowed"
    )


def _aged(offer: Offer, now: datetime) -> Offer:
    flag = age_flag(offer.as_of, now)
    return offer if flag is None else replace(offer, flags=(*offer.flags, flag))


def _order(offer: Offer) -> tuple[str, float, str, str, str]:
    count = offer.accelerator_count
    return (
        offer.accelerator,
        0.0 if math.isnan(count) else count,
        offer.cloud,
        offer.region,
        offer.instance_type,
    )
