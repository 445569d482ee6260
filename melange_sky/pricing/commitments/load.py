"""The terms that an advice sees: pulled ones, those that ship, the user's own on top, flagged and in order."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.commitments import Commitment
from melange_sky.names.clouds import check_clouds, regions_of
from melange_sky.plans import PlanWarning
from melange_sky.pricing.commitments.on_demand import OnDemand, Quote
from melange_sky.pricing.commitments.own_csv import read_embedded_terms, read_own_terms
from melange_sky.pricing.commitments.rules import SECOND_HAND, check_quotes
from melange_sky.pricing.commitments.sheet import term_key
from melange_sky.pricing.commitments.store import TermStore
from melange_sky.pricing.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from melange_sky.offers import Offer
    from melange_sky.pricing.commitments.table import KeptTerm

    _Prices = dict[tuple[object, ...], float]
    """What an hour of each term cost, by what tells it from others."""

log = logging.getLogger(__name__)

LOOKED_BACK = 10
"""At most so many earlier pulls of a cloud are read for what a term cost."""
SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentQuery:
    """What is asked: infra as (cloud, region or None) pairs, empty for all.

    `only_offered` leaves out the terms of instances that are not among the offers. `own` is a CSV of
    negotiated terms, which replace listed ones of the same instance and term. Nothing is fetched. `store_dir` and
    `now` are for tests and repeats.
    """

    infra: tuple[tuple[str, str | None], ...] = ()
    only_offered: bool = False
    own: Path | None = None
    now: datetime | None = None
    store_dir: Path | None = None

    @property
    def clouds(self) -> frozenset[str]:
        """The clouds asked for; empty for all."""
        return frozenset(cloud for cloud, _ in self.infra)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentBook:
    """The terms that match, flagged ones included, each beside its on-demand price; `ids` say what was read."""

    quotes: tuple[Quote, ...]
    warnings: tuple[PlanWarning, ...] = ()
    ids: tuple[str, ...] = ()

    @property
    def usable(self) -> tuple[Quote, ...]:
        """The terms that no rule keeps out of advice."""
        return tuple(quote for quote in self.quotes if not quote.commitment.blocked)


def load_commitments(query: CommitmentQuery, offers: Sequence[Offer]) -> CommitmentBook:
    """Return the terms that match the query, each held against `offers` by the rules.

    `offers` are those of the clouds in question (`load_offers`). Raises InputError for an unknown cloud and
    for a file of one's own that cannot be used, a line per fault.
    """
    now = query.now or datetime.now(timezone.utc)
    check_clouds(query.clouds, also={offer.cloud for offer in offers})
    warnings: list[PlanWarning] = []
    ids: list[str] = []
    own: tuple[Commitment, ...] = ()
    if query.own is not None:
        own, digest = read_own_terms(query.own, now, {offer.cloud for offer in offers})
        ids.append(f"csv-{digest}")
    store = TermStore(Store(query.store_dir))
    pulled = [term.row for terms in store.newest().values() for term in terms]
    shipped, name = read_embedded_terms(now)
    asked = _asked(query, offers)
    shipped_used = [row for row in _not_replaced(shipped, pulled) if asked(row)]
    if shipped_used:
        ids.append(name)
        warnings.append(_embedded_warning(shipped_used))
    listed = [*(row for row in pulled if asked(row)), *shipped_used]
    mine = [row for row in own if asked(row)]
    if len(mine) < len(own):
        warnings.append(_unused_warning([row for row in own if row not in mine]))
    rows = [*mine, *(row for row in listed if not any(_overrides(stated, row) for stated in mine))]
    on_demand = OnDemand(offers)
    quotes = check_quotes(
        [on_demand.quote(row) for row in rows], _Witnesses(store, shipped, name), now
    )
    warnings += _own_doubts(quotes)
    log.info("%d terms match; %s", len(quotes), "+".join(ids) or "none of one's own")
    return CommitmentBook(
        quotes=tuple(sorted(quotes, key=_order)), warnings=tuple(warnings), ids=tuple(ids)
    )


def _asked(query: CommitmentQuery, offers: Iterable[Offer]) -> Callable[[Commitment], bool]:
    """Return whether a term is of the clouds, regions and instances that are asked for."""
    kinds = {(o.cloud, o.instance_type) for o in offers} if query.only_offered else None
    regions = {cloud: regions_of(query.infra, cloud) for cloud in query.clouds}

    def asked(row: Commitment) -> bool:
        if query.clouds and row.cloud not in query.clouds:
            return False
        wanted = regions.get(row.cloud)
        if wanted is not None and row.region and row.region not in wanted:
            return False
        return kinds is None or (row.cloud, row.instance_type) in kinds

    return asked


def _not_replaced(shipped: Iterable[Commitment], pulled: Iterable[Commitment]) -> list[Commitment]:
    """Return the shipped terms that no pull has in its place.

    What was pulled of a region stands for it whole, but for blocks, which no price list has.
    """
    known = {(row.cloud, row.region) for row in pulled} | {
        (row.cloud, "") for row in pulled if not row.region
    }
    return [
        row
        for row in shipped
        if row.longest_hours is not None or not {(row.cloud, row.region), (row.cloud, "")} & known
    ]


def _overrides(mine: Commitment, listed: Commitment) -> bool:
    """Return whether a term of one's own stands for a listed one: the same instance for the same time."""
    same = (mine.cloud, mine.instance_type) == (listed.cloud, listed.instance_type)
    longest = listed.longest_hours or listed.term_hours
    lasts = listed.term_hours - 1 <= mine.term_hours <= longest + 1
    return same and lasts and (not mine.region or listed.region in ("", mine.region))


def _embedded_warning(rows: Sequence[Commitment]) -> PlanWarning:
    clouds = ", ".join(sorted({row.cloud for row in rows}))
    dates = sorted(row.as_of for row in rows if row.as_of)
    span = "an unknown date" if not dates else f"{dates[0]} to {dates[-1]}"
    return PlanWarning(
        code="embedded-terms",
        message=f"terms of {clouds} come from the table shipped with melange-sky (as of {span});"
        " `melange-sky prices refresh --source CLOUD` pulls today's where the cloud lists them",
    )


def _unused_warning(rows: Sequence[Commitment]) -> PlanWarning:
    named = ", ".join(f"{row.cloud} {row.instance_type}" for row in rows[:SHOWN])
    return PlanWarning(
        code="own-terms-unused",
        message=f"{len(rows)} of your own terms are of instances or places that are not asked for: {named}"
        + (", …" if len(rows) > SHOWN else ""),
    )


def _own_doubts(quotes: Iterable[Quote]) -> list[PlanWarning]:
    """Warn once per rule of what is doubted of the user's own terms, with the first of them."""
    doubts: dict[str, list[str]] = defaultdict(list)
    for quote in quotes:
        row = quote.commitment
        for flag in row.flags if row.is_own else ():
            place = f"{row.cloud}/{row.region}" if row.region else row.cloud
            doubts[flag.code].append(f"{place} {row.instance_type}: {flag.message}")
    return [
        PlanWarning(
            code=code,
            message=f"your own terms: {'; '.join(lines[:SHOWN])}"
            + (f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""),
        )
        for code, lines in doubts.items()
    ]


class _Witnesses:
    """What an hour of a term cost before: in the table that ships, and in the last pull that knows it."""

    def __init__(self, store: TermStore, shipped: Sequence[Commitment], name: str) -> None:
        self._store = store
        self._shipped = {_known_key(r): r for r in shipped if r.confidence != SECOND_HAND}
        self._name = name
        self._open: dict[str, list[tuple[str, _Prices]]] = {}
        self._closed: dict[str, Iterator[tuple[str, tuple[KeptTerm, ...]]]] = {}

    def __call__(self, row: Commitment) -> list[tuple[float, str]]:
        found = []
        shipped = self._shipped.get(_known_key(row))
        if shipped is not None and shipped is not row:
            said = f"the {self._name} table"
            found.append((shipped.all_in_usd_per_hour, said))
        if row.checked_at is not None:
            for day, prices in self._earlier(row.cloud):
                price = prices.get(term_key(row))
                if price is not None:
                    found.append((price, f"the pull of {day}"))
                    break
        return found

    def _earlier(self, cloud: str) -> Iterator[tuple[str, _Prices]]:
        """Yield earlier pulls, newest first; each is read when the ones after it did not know a term."""
        if cloud not in self._closed:
            self._open[cloud] = []
            self._closed[cloud] = self._store.earlier(cloud, LOOKED_BACK)
        yield from self._open[cloud]
        for day, terms in self._closed[cloud]:
            prices = {term_key(term.row): term.row.all_in_usd_per_hour for term in terms}
            self._open[cloud].append((day, prices))
            yield day, prices


def _known_key(row: Commitment) -> tuple[object, ...]:
    return row.cloud, row.region, row.instance_type, row.kind, row.term_hours


def _order(quote: Quote) -> tuple[object, ...]:
    row = quote.commitment
    count = quote.accelerator_count
    return (
        quote.accelerator or "~",
        -1.0 if count is None or math.isnan(count) else count,
        row.cloud,
        row.region,
        row.instance_type,
        row.term_hours,
        row.product,
        row.all_in_usd_per_hour,
    )
