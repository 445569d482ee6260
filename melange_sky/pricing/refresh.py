"""Pull prices now: all clouds at once, each file with its own deadline, then one new snapshot.

What fails is named and keeps its last good rows; one cloud's rows come from one source.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from melange_sky.errors import MelangeError
from melange_sky.names.clouds import CLOUDS
from melange_sky.pricing.anchor import (
    Witnesses,
    check_against,
    doubts_of,
    known_prices,
    market_of,
)
from melange_sky.pricing.commitments.store import PulledTerms, TermSource, TermStore
from melange_sky.pricing.coroutines import run_coroutine
from melange_sky.pricing.fetch import Body, Fetched, Http, Request
from melange_sky.pricing.hosted_csv import PARSER_VERSION, parse_catalog
from melange_sky.pricing.http_errors import FetchError, Validators, error_text, host, iso_date
from melange_sky.pricing.own_csv import read_embedded
from melange_sky.pricing.pulls import earlier_pulls
from melange_sky.pricing.store import Entry, Manifest, Store, Update, renewed, table_name, utc_text
from melange_sky.pricing.tables import Table, encode_table
from melange_sky.settings import CatalogAddresses, catalog_addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from melange_sky.offers import Offer
    from melange_sky.pricing.apis import PriceApi

_BAD_DATA = (ValueError, TypeError, ArithmeticError, LookupError, csv.Error)
"""What reading an answer of an unforeseen form may raise: it costs its own cloud, not the others."""

ASKED_DEADLINE_S = 40.0
"""Longest that one file may take when a refresh was asked for; the whole stays under 60 s."""
VANISHED_FRACTION = 0.2
"""Reported where more than this fraction of a cloud's offers is gone since the pull before."""

UNASKED_DEADLINE_S = 15.0
"""The same when a plan refreshes by itself: it has cached prices to fall back on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Progress of one cloud: `state` is waiting, reading, fetched, unchanged or failed."""

    cloud: str
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshOptions:
    """What to pull. Empty `clouds` asks for every hosted one; `apis` replace their clouds' catalog.

    `named`: the user named the clouds, so that one without a hosted catalog (404) has failed.
    """

    clouds: tuple[str, ...] = ()
    named: bool = True
    apis: tuple[PriceApi, ...] = ()
    addresses: CatalogAddresses = field(default_factory=catalog_addresses)
    deadline_s: float = ASKED_DEADLINE_S
    on_event: Callable[[Event], None] | None = None
    clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """One cloud as fetched: its entry and, where new, the bytes of its table."""

    entry: Entry
    table: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshResult:
    """What came of a refresh. `failed` maps a cloud to the reason; `absent` are not hosted (404).

    `manifest` is the new snapshot, None where nothing came or it could not be written; then
    `store_problem` says why, and `pulled` still holds the prices. `vanished` names clouds of whose
    offers many are gone: perhaps a file that was cut where it was made; `doubtful` those of whose prices
    some are too far from what was known, or from what any such GPU costs. `terms` says what came of the terms that
    provider APIs list.
    """

    fetched: tuple[str, ...]
    unchanged: tuple[str, ...]
    failed: Mapping[str, str]
    absent: tuple[str, ...]
    manifest: Manifest | None
    pulled: Mapping[str, Pulled]
    store_problem: str | None = None
    vanished: Mapping[str, str] = field(default_factory=dict)
    doubtful: Mapping[str, str] = field(default_factory=dict)
    terms: PulledTerms = field(default_factory=PulledTerms)

    @property
    def any_good(self) -> bool:
        """Whether at least one cloud was fetched or found unchanged."""
        return bool(self.fetched or self.unchanged)


def refresh(store: Store, options: RefreshOptions) -> RefreshResult:
    """Pull the clouds asked for and add a snapshot to the store.

    Never raises for what a server does; the whole ends a few seconds after `deadline_s`.
    """
    return run_coroutine(lambda: _Refresh(store, options).run())


class _Refresh:
    def __init__(self, store: Store, options: RefreshOptions) -> None:
        self.store = store
        self.options = options
        self.base = store.newest()
        self.pulled: dict[str, Pulled] = {}
        self.unchanged: list[str] = []
        self.failed: dict[str, str] = {}
        self.absent: list[str] = []
        self.vanished: dict[str, str] = {}
        self.doubtful: dict[str, str] = {}
        self.terms: dict[str, TermSource] = {}
        self._shipped: tuple[tuple[Offer, ...], str] | None = None

    async def run(self) -> RefreshResult:
        by_cloud = {api.cloud: api for api in self.options.apis}
        clouds = self.options.clouds or (CLOUDS if not by_cloud else tuple(by_cloud))
        clouds = tuple(dict.fromkeys((*clouds, *by_cloud)))
        until = time.monotonic() + self.options.deadline_s
        async with Http(on_bytes=self._on_bytes) as http:
            await asyncio.gather(
                *(self._one(http, cloud, by_cloud.get(cloud), until) for cloud in clouds)
            )
        manifest, problem = self._commit()
        terms = TermStore(self.store).keep(self.terms, self.options.clock())
        return RefreshResult(
            fetched=tuple(c for c in clouds if c in self.pulled and c not in self.unchanged),
            unchanged=tuple(self.unchanged),
            failed={c: self.failed[c] for c in clouds if c in self.failed},
            absent=tuple(self.absent),
            manifest=manifest,
            pulled=self.pulled,
            store_problem=problem,
            vanished=self.vanished,
            doubtful=self.doubtful,
            terms=terms,
        )

    async def _one(self, http: Http, cloud: str, api: PriceApi | None, until: float) -> None:
        self._tell(cloud, "waiting")
        try:
            if api is not None:
                pulled = await self._from_api(http, api, until)
            else:
                pulled = await self._from_catalog(http, cloud)
        except FetchError as error:
            if error.status in {404, 410} and self._may_be_absent(cloud):
                self.absent.append(cloud)
                self._tell(cloud, "absent", "no hosted catalog")
                return
            self._fail(cloud, str(error))
        except MelangeError as error:
            self._fail(cloud, str(error))
        except _BAD_DATA as error:
            self._fail(cloud, f"its answer cannot be read: {error_text(error)}")
        else:
            self.pulled[cloud] = pulled
            state = "unchanged" if cloud in self.unchanged else "fetched"
            self._tell(cloud, state, f"{pulled.entry.offers} offers")

    def _may_be_absent(self, cloud: str) -> bool:
        """A cloud that was neither named nor ever fetched need not have a hosted catalog."""
        named = self.options.named and bool(self.options.clouds)
        return not named and (self.base is None or cloud not in self.base.clouds)

    def _fail(self, cloud: str, reason: str) -> None:
        self.failed[cloud] = reason
        self._tell(cloud, "failed", reason)

    async def _from_catalog(self, http: Http, cloud: str) -> Pulled:
        addresses = self.options.addresses
        known = self._known(cloud)
        validators = None
        if known is not None:
            validators = Validators(
                url=known.url, etag=known.etag, last_modified=known.last_modified
            )
        request = Request(
            name=cloud,
            urls=addresses.of(cloud),
            deadline_s=self.options.deadline_s,
            validators=validators,
        )

        def accept(body: Body) -> bytes | None:
            if known is not None and body.sha256 == known.sha256:
                return None
            text = io.TextIOWrapper(body.file, encoding="utf-8-sig", newline="")
            try:
                offers = parse_catalog(cloud, text, ends_whole=body.ends_whole)
            finally:
                text.detach()
            return self._checked(cloud, offers)

        fetched = await http.fetch(request, accept)
        now = utc_text(self.options.clock())
        if fetched.content is None and known is not None:
            self.unchanged.append(cloud)
            label = self._label(cloud, fetched.url)
            return Pulled(entry=_confirmed(known, fetched, label, self.options.clock()), table=None)
        assert fetched.content is not None  # 304 is only taken where a body is known
        pulled = self._pulled_catalog(cloud, fetched, fetched.content, now)
        self._note_vanished(cloud, pulled.entry, fetched.content)
        return pulled

    def _pulled_catalog(
        self, cloud: str, fetched: Fetched[bytes | None], table: bytes, now: str
    ) -> Pulled:
        entry = Entry(
            source="catalog",
            label=self._label(cloud, fetched.url),
            url=fetched.url,
            fetched_at=now,
            checked_at=now,
            sha256=fetched.sha256 or "",
            table=table_name(cloud, table),
            offers=_count(table),
            parser=PARSER_VERSION,
            etag=fetched.etag,
            last_modified=fetched.last_modified,
            as_of=iso_date(fetched.last_modified, self.options.clock()),
        )
        return Pulled(entry=entry, table=table)

    def _label(self, cloud: str, url: str) -> str:
        return f"SkyPilot catalog {self.options.addresses.schema}/{cloud} ({host(url)})"

    async def _from_api(self, http: Http, api: PriceApi, until: float) -> Pulled:
        listing = await api.fetch(http, until)
        offers = listing.offers
        if not offers:
            raise FetchError(f"{api.name} answered with no GPU prices")
        table = self._checked(api.cloud, offers)
        now = utc_text(self.options.clock())
        entry = Entry(
            source=api.name,
            label=_api_label(api),
            url=api.url,
            fetched_at=now,
            checked_at=now,
            sha256="",
            table=table_name(api.cloud, table),
            offers=len(offers),
            parser=PARSER_VERSION,
            as_of=listing.as_of,
            regions=api.regions,
        )
        self._note_vanished(api.cloud, entry, table)
        if listing.terms:
            self.terms[api.cloud] = TermSource(
                name=api.name, label=api.label, url=api.url, parts=listing.terms
            )
        return Pulled(entry=entry, table=table)

    def _checked(self, cloud: str, offers: Sequence[Offer]) -> bytes:
        """Return the table of the offers, each held against what was known of its price."""
        if self._shipped is None:
            self._shipped = read_embedded()
        shipped, name = self._shipped
        known = known_prices((o for o in shipped if o.cloud == cloud), f"the {name} snapshot")
        witnesses = Witnesses(
            shipped=known, pulls=earlier_pulls(self.store, cloud), market=market_of(shipped)
        )
        checked = check_against(offers, witnesses)
        doubts = doubts_of(checked)
        if doubts is not None:
            self.doubtful[cloud] = doubts
        return encode_table(cloud, checked)

    def _note_vanished(self, cloud: str, entry: Entry, data: bytes) -> None:
        """Note where many offers of the last pull from the same source are gone."""
        last = self.base.clouds.get(cloud) if self.base else None
        if last is None or (last.source, last.regions) != (entry.source, entry.regions):
            return
        table = self.store.table(last)
        before = frozenset() if table is None else table.keys
        gone = len(before - Table.decode(data).keys)
        if gone > VANISHED_FRACTION * len(before):
            self.vanished[cloud] = (
                f"{gone} of {len(before)} offers are gone since {last.checked_at[:10]}"
            )

    def _known(self, cloud: str) -> Entry | None:
        """The last good entry of a cloud's catalog, if this version can still read its table."""
        entry = self.base.clouds.get(cloud) if self.base else None
        if entry is None or entry.source != "catalog" or entry.parser != PARSER_VERSION:
            return None
        return entry if self.store.table(entry) is not None else None

    def _commit(self) -> tuple[Manifest | None, str | None]:
        if not self.pulled:
            return None, None
        entries = {cloud: pulled.entry for cloud, pulled in self.pulled.items()}
        tables = {p.entry.table: p.table for p in self.pulled.values() if p.table is not None}
        try:
            update = Update(entries=entries, tables=tables, absent=tuple(self.absent))
            return self.store.commit(update, self.options.clock()), None
        except OSError as error:
            return None, f"cannot write to {self.store.folder}: {error.strerror or error}"

    def _on_bytes(self, cloud: str, size: int) -> None:
        self._tell(cloud, "reading", f"{size / 1e6:.1f} MB")

    def _tell(self, cloud: str, state: str, detail: str = "") -> None:
        if self.options.on_event is not None:
            self.options.on_event(Event(cloud=cloud, state=state, detail=detail))


def _api_label(api: PriceApi) -> str:
    return api.label if api.regions is None else f"{api.label}, only {', '.join(api.regions)}"


def _confirmed(known: Entry, fetched: Fetched[bytes | None], label: str, clock: datetime) -> Entry:
    """The entry of an unchanged file; a body that came again may bring new validators and host."""
    now = utc_text(clock)
    if fetched.sha256 is None:
        return renewed(known, now)
    return replace(
        known,
        label=label,
        checked_at=now,
        url=fetched.url,
        etag=fetched.etag,
        last_modified=fetched.last_modified,
        as_of=iso_date(fetched.last_modified, clock),
    )


def _count(table: bytes) -> int:
    rows = json.loads(table)["rows"]
    assert isinstance(rows, int)
    return rows
