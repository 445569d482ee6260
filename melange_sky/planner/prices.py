"""List, refresh, check and compare prices of instances and terms: what `prices` does (of a plan: `reprice`)."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.names.clouds import HOSTED_CLOUDS, check_clouds, split_infra
from melange_sky.planner.own_offers import own_offers
from melange_sky.pricing.load import load_offers
from melange_sky.pricing.query import OfferBook, OfferQuery
from melange_sky.pricing.refresh_notes import by_reason, log_refresh
from melange_sky.pricing.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.pricing.commitments.load import CommitmentBook
    from melange_sky.pricing.cross_check import PriceCheck
    from melange_sky.pricing.diff import Difference
    from melange_sky.pricing.query import RefreshDisplay
    from melange_sky.pricing.refresh import RefreshResult
    from melange_sky.pricing.store import Manifest
    from melange_sky.spec import SpecSource

log = logging.getLogger(__name__)

REFRESH_DEADLINE_S = 40.0
CHECK_DEADLINE_S = 45.0


def list_prices(
    *,
    accelerators: str = "",
    infra: str = "",
    offers: Path | None = None,
    spec: SpecSource | None = None,
    as_of: str | None = None,
) -> OfferBook:
    """Return the offers that a plan would see, blocked ones included. Opens no socket.

    `accelerators` is A,B:N and `infra` CLOUD[/REGION],…, both empty for all; `offers` a CSV of one's
    own, `spec` a spec whose own offers count too; `as_of` a snapshot's id or date.
    """
    query = OfferQuery(
        infra=split_infra(infra),
        accelerators=_names(accelerators),
        offline=True,
        offers_csv=offers,
        own=own_offers(spec),
        as_of=as_of,
    )
    return load_offers(query)


def list_terms(
    *,
    accelerators: str = "",
    infra: str = "",
    offers: Path | None = None,
    commitments: Path | None = None,
) -> CommitmentBook:
    """Return the terms at hand, each beside what its instance costs on demand. Opens no socket.

    `accelerators` is A,B:N and `infra` CLOUD[/REGION],…, both empty for all; `offers` a CSV of one's own offers,
    `commitments` one of negotiated terms, which replace listed ones.
    """
    from melange_sky.pricing.commitments.load import CommitmentQuery, load_commitments

    pairs = split_infra(infra)
    asked = OfferQuery(
        infra=pairs, accelerators=_names(accelerators), offline=True, offers_csv=offers
    )
    book = load_offers(asked)
    query = CommitmentQuery(infra=pairs, only_offered=bool(accelerators), own=commitments)
    terms = load_commitments(query, book.offers)
    return replace(terms, warnings=(*book.warnings, *terms.warnings))


def cluster_offers(context: str | None = None) -> str:
    """Return a CSV of offers for what SkyPilot sees in a Kubernetes cluster, prices to be filled in.

    `context` is kubeconfig's, None for the current one. What SkyPilot's own configuration says of prices
    (`kubernetes.pricing`) is filled in. Raises SourceUnavailableError where it sees none.
    """
    from melange_sky.skyserve.cluster import ask_cluster, cluster_csv

    return cluster_csv(ask_cluster(context))


def write_cluster_offers(path: Path, context: str | None = None) -> None:
    """Write what `cluster_offers` returns to a new file; InputError where there is one, or none can be."""
    if path.exists():
        raise InputError(
            f"{path} is there already, perhaps with prices of yours: name another file"
        )
    text = cluster_offers(context)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def refresh_prices(
    *,
    infra: str = "",
    sources: tuple[str, ...] = (),
    deadline_s: float = REFRESH_DEADLINE_S,
    offline: bool = False,
    display: RefreshDisplay | None = None,
) -> RefreshResult:
    """Pull prices now, from hosted catalogs or the provider APIs named; ends within a minute.

    What failed is in the result: see `refresh_warnings` and `require_prices`.
    Raises InputError where the network is forbidden, and for unknown clouds and sources.
    """
    query = OfferQuery(infra=split_infra(infra), offline=offline)
    if query.forbids_network:
        raise InputError(
            "a refresh needs the network, which --offline (MELANGE_SKY_OFFLINE) forbids"
        )
    check_clouds(query.clouds)
    # aiohttp is not wanted by the other commands
    from melange_sky.pricing.apis.sources import find_apis
    from melange_sky.pricing.refresh import RefreshOptions, refresh

    apis = find_apis(sources, query.infra)
    with display() if display else nullcontext() as on_event:
        options = RefreshOptions(
            clouds=query.clouds if query.clouds or not apis else tuple(api.cloud for api in apis),
            apis=apis,
            deadline_s=deadline_s,
            on_event=on_event,
        )
        log.info("asking for prices of %s", ", ".join((*options.clouds, *sources)) or "all clouds")
        result = refresh(Store(), options)
    log_refresh(result)
    return result


def refresh_warnings(result: RefreshResult) -> tuple[str, ...]:
    """Return what a refresh must say besides its prices, a sentence each."""
    lines = [
        f"warning: no new prices of {', '.join(clouds)}: {reason}"
        for clouds, reason in by_reason(result.failed)
    ]
    lines += [
        f"warning: {cloud}: {said}"
        for about in (result.vanished, result.doubtful, result.terms.vanished)
        for cloud, said in about.items()
    ]
    lines += [
        f"warning: no new terms of {', '.join(parts)}: {reason}"
        for parts, reason in by_reason(result.terms.failed)
    ]
    if result.terms.store_problem is not None:
        lines.append(
            f"warning: the terms that came could not be saved: {result.terms.store_problem}"
        )
    absent = [cloud for cloud in result.absent if cloud in HOSTED_CLOUDS]
    if absent and result.any_good:
        lines.append(f"note: no hosted catalog of {', '.join(absent)} (HTTP 404)")
    return tuple(lines)


def require_prices(result: RefreshResult) -> None:
    """Raise SourceUnavailableError where nothing came, or what came could not be kept."""
    if result.store_problem is not None:
        raise SourceUnavailableError(
            f"prices were fetched but could not be saved: {result.store_problem}"
        )
    if not result.any_good:
        raise SourceUnavailableError(
            "no prices could be fetched; earlier prices are kept (`prices list` shows them)"
        )


def check_prices(
    *, infra: str = "", deadline_s: float = CHECK_DEADLINE_S, offline: bool = False
) -> PriceCheck:
    """Compare these prices with gpuhunt's catalog, which is collected independently of SkyPilot's.

    Raises InputError where the network is forbidden or gpuhunt is not installed.
    """
    query = OfferQuery(infra=split_infra(infra), offline=True)
    if OfferQuery(offline=offline).forbids_network:
        raise InputError("the second catalog needs the network, which --offline forbids")
    from melange_sky.pricing.cross_check import PriceCheck, compare_prices, fetch_gpuhunt

    book = load_offers(query)
    second = fetch_gpuhunt({offer.cloud for offer in book.offers}, deadline_s)
    log.info("gpuhunt knows %d prices", len(second))
    compared, disagreements = compare_prices(book.offers, second)
    return PriceCheck(compared=compared, disagreements=disagreements, book=book)


def price_snapshots() -> tuple[Manifest, ...]:
    """Return what was fetched, oldest first."""
    store = Store()
    log.info("snapshots are kept in %s", store.folder)
    return tuple(store.find(snapshot_id) for snapshot_id in store.ids())


def diff_prices(
    before: str | None = None,
    after: str | None = None,
    *,
    accelerators: str = "",
    infra: str = "",
    min_change: float = 0.0,
) -> Difference:
    """Return what moved between two snapshots: ids, dates or ``embedded``; by default the last two.

    Left out are prices that moved by a smaller fraction than `min_change`; those that came or went
    stay.
    """
    from melange_sky.pricing.diff import diff_snapshots
    from melange_sky.pricing.select import Selection

    pairs = split_infra(infra)
    check_clouds(tuple(cloud for cloud, _ in pairs))
    selection = Selection(infra=pairs, accelerators=_names(accelerators))
    return diff_snapshots(before, after, selection).at_least(min_change)


def _names(accelerators: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in accelerators.split(",") if part.strip())
