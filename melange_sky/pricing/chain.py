"""The chain of choice, cloud by cloud: whose rows are read, and what the reader must know of them.

A locally modified SkyPilot catalog, else what was fetched (pulled anew when it is older than seven
hours and the network is allowed), else the embedded snapshot, with a warning. What was fetched for
some regions only stands for those, never for the whole cloud.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from melange_sky.errors import SourceUnavailableError
from melange_sky.names.clouds import CLOUDS, HOSTED_CLOUDS, regions_of
from melange_sky.plans import PlanWarning
from melange_sky.pricing.own_csv import read_embedded
from melange_sky.pricing.refresh_notes import by_reason, log_refresh
from melange_sky.pricing.sky_local import modified_clouds, read_modified
from melange_sky.pricing.tables import Rows, Table
from melange_sky.settings import catalog_addresses

if TYPE_CHECKING:
    from melange_sky.offers import Offer
    from melange_sky.pricing.query import OfferQuery
    from melange_sky.pricing.refresh import RefreshResult
    from melange_sky.pricing.store import Entry, Manifest, Store

log = logging.getLogger(__name__)

STALE_AFTER = timedelta(hours=7)
"""Older than this, prices are fetched anew where the network is allowed (SkyPilot's own period)."""
CLOCK_SLACK = timedelta(minutes=5)
"""A fetch that lies further than this in the future was dated by another clock: stale."""


@dataclass(slots=True, kw_only=True)
class Chain:
    """The state of one choice: what is at hand, what was chosen, what must be said."""

    query: OfferQuery
    now: datetime
    store: Store
    manifest: Manifest | None = None
    in_memory: Mapping[str, tuple[Entry, Table]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    warnings: list[PlanWarning] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def warn(self, code: str, message: str) -> None:
        self.warnings.append(PlanWarning(code=code, message=message))


def find_snapshot(chain: Chain) -> None:
    """Set the snapshot to read: the one asked for, or the newest after a refresh where one is due."""
    query = chain.query
    if query.as_of is not None:
        if not query.as_of.startswith("embedded"):
            chain.manifest = chain.store.find(query.as_of)
        return
    chain.manifest = chain.store.newest()
    if query.forbids_network:
        log.info("offline: no price source is asked, what is kept is used")
        return
    is_forced = query.refresh or bool(query.sources)
    wanted = [c for c in (query.clouds or HOSTED_CLOUDS) if c in HOSTED_CLOUDS]
    due = [c for c in wanted if is_forced or _is_stale(chain, c)]
    if due and not is_forced:
        # the user's own file wins over whatever could be fetched
        own = modified_clouds(catalog_addresses().schema, tuple(due))
        due = [c for c in due if c not in own]
    if due or query.sources:
        _refresh(chain, tuple(due), is_forced)
    else:
        log.info("cached prices are young enough: no price source is asked")


def _is_stale(chain: Chain, cloud: str) -> bool:
    entry = chain.manifest.clouds.get(cloud) if chain.manifest else None
    if entry is None:
        absent = chain.manifest.absent.get(cloud) if chain.manifest else None
        return absent is None or not _is_young(absent, chain.now)
    if entry.source == "catalog" and entry.url not in catalog_addresses().of(cloud):
        return True
    if not entry.covers(regions_of(chain.query.infra, cloud)):
        return True
    return not _is_young(entry.checked_at, chain.now)


def _is_young(moment: str, now: datetime) -> bool:
    return -CLOCK_SLACK <= now - moment_of(moment) <= STALE_AFTER


def moment_of(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _age(entry: Entry, now: datetime) -> timedelta:
    return now - moment_of(entry.checked_at)


def _refresh(chain: Chain, clouds: tuple[str, ...], is_forced: bool) -> None:
    # asyncio and aiohttp are not wanted where nothing is fetched
    from melange_sky.pricing.apis.sources import find_apis
    from melange_sky.pricing.refresh import (
        ASKED_DEADLINE_S,
        UNASKED_DEADLINE_S,
        RefreshOptions,
        refresh,
    )

    query = chain.query
    log.info("asking for prices of %s", ", ".join((*clouds, *query.sources)))
    options = RefreshOptions(
        clouds=clouds,
        named=bool(query.clouds),
        apis=find_apis(query.sources, query.infra),
        deadline_s=ASKED_DEADLINE_S if is_forced else UNASKED_DEADLINE_S,
    )
    with query.progress() if query.progress else nullcontext() as on_event:
        result = refresh(chain.store, replace(options, on_event=on_event))
    log_refresh(result)
    chain.failed = result.failed
    for cloud, counts in result.vanished.items():
        chain.warn("offers-vanished", f"{cloud}: {counts}")
    for cloud, doubts in result.doubtful.items():
        chain.warn("prices-doubtful", f"{cloud}: {doubts}")
    if result.manifest is not None:
        chain.manifest = result.manifest
    if result.store_problem is not None:
        chain.warn(
            "prices-not-stored", f"today's prices could not be saved: {result.store_problem}"
        )
        chain.in_memory = _in_memory(chain, result)
        chain.ids.append("unstored")


def _in_memory(chain: Chain, result: RefreshResult) -> dict[str, tuple[Entry, Table]]:
    held = {}
    for cloud, pulled in result.pulled.items():
        table = (
            chain.store.table(pulled.entry) if pulled.table is None else Table.decode(pulled.table)
        )
        if table is not None:
            held[cloud] = (pulled.entry, table)
    return held


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """`only` are the regions that it holds where more are asked for, else None.

    `checked_at` is when its source last said that it holds, None for a file on this machine.
    """

    table: Table
    source: str
    as_of: str | None
    checked_at: str | None = None
    only: frozenset[str] | None = None


def choose(chain: Chain) -> dict[str, Chosen]:
    """Return, per cloud, the table that the chain prefers; clouds without one are left out."""
    chosen: dict[str, Chosen] = {}
    _choose_local(chain, chosen)
    known = chain.manifest.clouds if chain.manifest else {}
    old: dict[str, timedelta] = {}
    used = False
    for cloud in chain.query.clouds or tuple(dict.fromkeys((*known, *chain.in_memory))):
        if cloud in chosen:
            continue
        found = chain.in_memory.get(cloud) or _stored(chain, cloud)
        if found is None:
            continue
        entry, table = found
        used = True
        covers = entry.covers(regions_of(chain.query.infra, cloud))
        chosen[cloud] = Chosen(
            table=table,
            source=entry.label,
            as_of=entry.as_of or entry.checked_at,
            checked_at=entry.checked_at,
            only=None if covers else frozenset(entry.regions or ()),
        )
        if chain.query.as_of is None and _age(entry, chain.now) > STALE_AFTER:
            old[cloud] = _age(entry, chain.now)
    if used and chain.manifest is not None:
        chain.ids.append(chain.manifest.id)
    _warn_failed(chain, chosen)
    _warn_old(chain, {c: age for c, age in old.items() if c not in chain.failed})
    return chosen


def _choose_local(chain: Chain, chosen: dict[str, Chosen]) -> None:
    if chain.query.as_of is not None:
        return
    schema = catalog_addresses().schema
    for cloud in modified_clouds(schema, chain.query.clouds or CLOUDS):
        try:
            local = read_modified(schema, cloud)
        except SourceUnavailableError as error:
            chain.warn(
                "local-catalog-refused",
                f"the modified SkyPilot catalog of {cloud} is ignored: {error}",
            )
            continue
        if local is not None:
            chosen[cloud] = Chosen(table=local.table, source=local.source, as_of=local.changed_at)
            chain.ids.append(f"local-{cloud}-{local.md5[:12]}")
            chain.warn(
                "local-catalog", f"prices of {cloud} come from your {local.source}, as sky's will"
            )


def _stored(chain: Chain, cloud: str) -> tuple[Entry, Table] | None:
    """The cloud's rows in the snapshot; where its table is damaged, the last good one before."""
    manifest = chain.manifest
    if manifest is None or cloud not in manifest.clouds:
        return None
    table = chain.store.table(manifest.clouds[cloud])
    if table is not None:
        return manifest.clouds[cloud], table
    for older in chain.store.before(manifest):
        entry = older.clouds.get(cloud)
        table = chain.store.table(entry) if entry is not None else None
        if entry is not None and table is not None:
            chain.warn(
                "table-damaged",
                f"the newest stored prices of {cloud} are unreadable; those of {entry.checked_at} are used",
            )
            return entry, table
    chain.warn(
        "table-damaged",
        f"the stored prices of {cloud} are unreadable; run `melange-sky prices refresh`",
    )
    return None


def embedded(chain: Chain, chosen: Mapping[str, Chosen]) -> list[Offer]:
    """The embedded offers of the clouds that no better source covers, with a warning."""
    offers, snapshot = read_embedded()
    wanted_clouds = set(chain.query.clouds)
    used = [
        o
        for o in offers
        if o.cloud not in chosen and (not wanted_clouds or o.cloud in wanted_clouds)
    ]
    if used:
        clouds = ", ".join(sorted({o.cloud for o in used}))
        dates = [o.as_of for o in used if o.as_of]
        span = _span(dates)
        chain.warn(
            "embedded-prices",
            f"prices of {clouds} come from the snapshot shipped with melange-sky (as of {span});"
            " nothing newer is available",
        )
        chain.ids.append(snapshot)
    return used


def other_regions(chain: Chain, chosen: Mapping[str, Chosen]) -> list[Offer]:
    """The offers of the regions that a narrowed fetch left out, from the next source, with a warning."""
    offers: list[Offer] = []
    for cloud, narrowed in chosen.items():
        held = narrowed.only
        if held is None:
            continue
        source, others = _last_whole(chain, cloud, held) or _shipped(chain, cloud, held)
        chain.warn(
            "narrowed-prices",
            f"prices of {cloud} were last fetched for {', '.join(sorted(held))} only; those of"
            f" its other regions come from {source}; `melange-sky prices refresh` pulls them all",
        )
        offers.extend(others)
    return offers


def _last_whole(
    chain: Chain, cloud: str, without: frozenset[str]
) -> tuple[str, list[Offer]] | None:
    """The last fetch of the whole cloud: what it is and its offers but for some regions."""
    newest = chain.manifest
    if newest is None:
        return None
    for manifest in itertools.chain([newest], chain.store.before(newest)):
        entry = manifest.clouds.get(cloud)
        table = chain.store.table(entry) if entry is not None and entry.regions is None else None
        if entry is not None and table is not None:
            rows = Rows(regions=table.regions - without)
            offers = table.offers(entry.label, entry.as_of or entry.checked_at, rows)
            return f"{entry.label}, checked {entry.checked_at}", offers
    return None


def _shipped(chain: Chain, cloud: str, without: frozenset[str]) -> tuple[str, list[Offer]]:
    offers, snapshot = read_embedded()
    used = [o for o in offers if o.cloud == cloud and o.region not in without]
    if used and snapshot not in chain.ids:
        chain.ids.append(snapshot)
    span = _span([o.as_of for o in used if o.as_of])
    return f"the snapshot shipped with melange-sky (as of {span})", used


def _span(dates: list[str]) -> str:
    if not dates:
        return "an unknown date"
    first, last = min(dates), max(dates)
    return first if first == last else f"{first} to {last}"


def _warn_failed(chain: Chain, chosen: Mapping[str, Chosen]) -> None:
    for clouds, reason in by_reason(chain.failed):
        kept = [f"{cloud} of {chosen[cloud].as_of}" for cloud in clouds if cloud in chosen]
        rest = f"; last good prices are used: {', '.join(kept)}" if kept else ""
        chain.warn("fetch-failed", f"no new prices of {', '.join(clouds)}: {reason}{rest}")


def _warn_old(chain: Chain, old: Mapping[str, timedelta]) -> None:
    if old:
        oldest = max(old.values())
        chain.warn(
            "cached-prices",
            f"prices of {', '.join(sorted(old))} were last checked up to {age_text(oldest)} ago",
        )


def age_text(age: timedelta) -> str:
    """Return an age for people.

    >>> age_text(timedelta(hours=9)), age_text(timedelta(days=3, hours=2))
    ('9 hours', '3 days')
    """
    hours = age.total_seconds() / 3600
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
