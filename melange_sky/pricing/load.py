"""The offers that a plan sees: the chain's choice, the user's own on top, flagged and in order."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.names.clouds import UNHOSTED_CLOUDS, check_clouds
from melange_sky.offers import Offer
from melange_sky.pricing.chain import (
    Chain,
    Chosen,
    choose,
    embedded,
    find_snapshot,
    other_regions,
)
from melange_sky.pricing.own_checks import checked_own
from melange_sky.pricing.own_csv import read_own_csv
from melange_sky.pricing.query import OfferBook, OfferQuery
from melange_sky.pricing.refresh_notes import by_reason
from melange_sky.pricing.sanity import age_flag
from melange_sky.pricing.select import Selection
from melange_sky.pricing.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)


def load_offers(query: OfferQuery) -> OfferBook:
    """Return the offers that match the query, each flagged by the sanity rules.

    Raises InputError for unknown clouds, regions or accelerators and for an unreadable CSV, and
    SourceUnavailableError where no source has any offer of what was asked.
    """
    own, own_digest = read_own_csv(query.offers_csv) if query.offers_csv else ((), "")
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
    own = checked_own(own, chain, tables)
    selection = Selection(infra=query.infra, accelerators=query.accelerators)
    listed = [*embedded(chain, tables), *other_regions(chain, tables)]
    offers = selection.of(tables, listed, own)
    _log_sources(chain, tables, len(offers))
    for sentence in selection.missing:
        chain.warn("no-region", sentence)
    if own:
        chain.ids.append(f"csv-{own_digest}")
    if not offers and not selection.knows_any:
        raise SourceUnavailableError(_nothing_known(chain))
    return OfferBook(
        offers=tuple(sorted((_aged(o, chain.now) for o in offers), key=_order)),
        snapshot="+".join(chain.ids) or None,
        warnings=tuple(chain.warnings),
        own_clouds=tuple(sorted({offer.cloud for offer in own})),
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
        return (
            f"no prices of {clouds} are known: no catalog lists them; give what an instance costs you "
            "per hour with --offers my.csv (columns as in catalogs/README.md)"
        )
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
