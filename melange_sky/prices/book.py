"""The chain of choice: which offers a plan sees, from which source, and what the reader must know.

Per cloud: a locally modified SkyPilot catalog, else what was fetched (pulled anew when it is older
than seven hours and the network is allowed), else the embedded snapshot, with a warning. A user's
own CSV of offers comes on top and replaces equal instances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.accelerators import accelerator_table
from melange_sky.errors import InputError, SourceUnavailableError, did_you_mean
from melange_sky.offers import Offer, parse_accelerator
from melange_sky.plan import PlanWarning
from melange_sky.prices.names import canonical_accelerator, check_clouds
from melange_sky.prices.own_csv import read_embedded, read_own_csv
from melange_sky.prices.sanity import age_flag

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferQuery:
    """What is asked: infra as (cloud, region or None) pairs, accelerators as NAME or NAME:COUNT.

    Empty tuples ask for everything. `as_of` is a snapshot id or a date: nothing is fetched then.
    """

    infra: tuple[tuple[str, str | None], ...] = ()
    accelerators: tuple[str, ...] = ()
    offline: bool = False
    refresh: bool = False
    offers_csv: Path | None = None
    sources: tuple[str, ...] = ()
    as_of: str | None = None
    now: datetime | None = None

    @property
    def clouds(self) -> tuple[str, ...]:
        """The clouds asked for, each once; empty for all."""
        return tuple(dict.fromkeys(cloud for cloud, _ in self.infra))


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferBook:
    """The offers that match, flagged ones included; `snapshot` is the id to repeat the plan with."""

    offers: tuple[Offer, ...]
    snapshot: str | None
    warnings: tuple[PlanWarning, ...] = ()


def load_offers(query: OfferQuery) -> OfferBook:
    """Return the offers that match the query, each flagged by the sanity rules.

    Raises InputError for unknown clouds, regions or accelerators and for an unreadable CSV, and
    SourceUnavailableError where no source has any offer of what was asked.
    """
    now = query.now or datetime.now(timezone.utc)
    own, _ = read_own_csv(query.offers_csv) if query.offers_csv else ((), "")
    own_clouds = tuple(dict.fromkeys(offer.cloud for offer in own))
    check_clouds(query.clouds, also=own_clouds)
    warnings: list[PlanWarning] = []
    embedded, snapshot = read_embedded()
    offers: list[Offer] = list(embedded)
    warnings.append(_embedded_warning(offers))
    if own:
        replaced = {(o.cloud, o.region, o.instance_type) for o in own}
        offers = [o for o in offers if (o.cloud, o.region, o.instance_type) not in replaced]
        offers.extend(own)
    offers = select_offers(offers, query)
    return OfferBook(
        offers=tuple(sorted((_aged(o, now) for o in offers), key=_order)),
        snapshot=snapshot,
        warnings=tuple(warnings),
    )


def _embedded_warning(offers: list[Offer]) -> PlanWarning:
    dates = [offer.as_of for offer in offers if offer.as_of]
    span = f"{min(dates)} to {max(dates)}" if dates else "an unknown date"
    return PlanWarning(
        code="embedded-prices",
        message=f"prices come from the snapshot shipped with melange-sky (as of {span}), not from today",
    )


def _aged(offer: Offer, now: datetime) -> Offer:
    flag = age_flag(offer.as_of, now)
    return offer if flag is None else replace(offer, flags=(*offer.flags, flag))


def _order(offer: Offer) -> tuple[str, float, str, str, str]:
    count = offer.accelerator_count
    return (
        offer.accelerator, 0.0 if math.isnan(count) else count,
        offer.cloud, offer.region, offer.instance_type,
    )  # fmt: skip


def select_offers(offers: Iterable[Offer], query: OfferQuery) -> list[Offer]:
    """Return the offers of the infra and accelerators asked; unknown names raise InputError."""
    kept = _of_infra(list(offers), query)
    return _of_accelerators(kept, query.accelerators)


def _of_infra(offers: list[Offer], query: OfferQuery) -> list[Offer]:
    if not query.infra:
        return offers
    regions: dict[str, set[str]] = {}
    for offer in offers:
        regions.setdefault(offer.cloud, set()).add(offer.region)
    problems = []
    for cloud, region in query.infra:
        if region is not None and cloud in regions and region not in regions[cloud]:
            hint = did_you_mean(region, regions[cloud])
            problems.append(f"no prices for region '{region[:80]}' of {cloud}{hint}")
    if problems:
        raise InputError(*problems)
    without = [cloud for cloud in query.clouds if cloud not in regions]
    if len(without) == len(query.clouds):
        raise SourceUnavailableError(
            f"no prices of {', '.join(without)} are known: nothing was ever fetched, and the embedded"
            " snapshot has none; run `melange-sky prices refresh` with the network allowed"
        )
    asked = set(query.infra)
    return [o for o in offers if (o.cloud, None) in asked or (o.cloud, o.region) in asked]


def _of_accelerators(offers: list[Offer], accelerators: tuple[str, ...]) -> list[Offer]:
    if not accelerators:
        return offers
    wanted: list[tuple[str, float | None]] = []
    problems = []
    known = {offer.accelerator for offer in offers}
    for text in accelerators:
        try:
            name, count = parse_accelerator(text)
        except ValueError:
            problems.append(f"'{text[:80]}' is not an accelerator as NAME or NAME:COUNT")
            continue
        name = canonical_accelerator(name)
        folded = {k.casefold(): k for k in known}
        name = folded.get(name.casefold(), name)
        if name not in known and not _is_listed(name):
            problems.append(f"unknown accelerator '{name[:80]}'{did_you_mean(name, known)}")
        wanted.append((name, count))
    if problems:
        raise InputError(*problems)
    asked = set(wanted)
    return [
        o
        for o in offers
        if (o.accelerator, None) in asked or (o.accelerator, o.accelerator_count) in asked
    ]


def _is_listed(name: str) -> bool:
    return name in accelerator_table()
