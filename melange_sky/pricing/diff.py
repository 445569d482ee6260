"""What moved between two sets of offers: prices that changed, offers that came and went."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import SourceUnavailableError
from melange_sky.pricing.own_csv import read_embedded
from melange_sky.pricing.select import Selection
from melange_sky.pricing.store import Manifest, Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.offers import Offer
    from melange_sky.pricing.tables import Table

Key = tuple[str, str, str, str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChange:
    """One price that moved, USD per hour of the instance; None where there was or is none.

    `price` is on_demand or spot; `flags` are the rules that keep the new price out of plans.
    """

    cloud: str
    region: str
    instance_type: str
    accelerator: str
    accelerator_count: float
    price: str
    before_usd_per_hour: float | None
    after_usd_per_hour: float | None
    flags: tuple[str, ...] = ()

    @property
    def change_fraction(self) -> float | None:
        """After ÷ before − 1, None where either is unknown."""
        if self.before_usd_per_hour is None or self.after_usd_per_hour is None:
            return None
        return self.after_usd_per_hour / self.before_usd_per_hour - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """From one snapshot to another. Clouds that only one of them has are named, not listed."""

    before: str
    after: str
    changes: tuple[PriceChange, ...]
    clouds_added: tuple[str, ...] = ()
    clouds_removed: tuple[str, ...] = ()

    def at_least(self, fraction: float) -> Difference:
        """Return the prices that moved by this fraction or more; those that came or went stay."""
        return replace(
            self,
            changes=tuple(
                change
                for change in self.changes
                if change.change_fraction is None or abs(change.change_fraction) >= fraction
            ),
        )


def diff_snapshots(
    before: str | None, after: str | None, selection: Selection, store: Store | None = None
) -> Difference:
    """Compare two snapshots: ids, dates or ``embedded``; by default the newest and the one before.

    Raises InputError for an unknown one and SourceUnavailableError where there are not two to compare.
    """
    store = store or Store()
    last = _named(store, after) or _newest(store)
    first = _named(store, before)
    if first is None:
        first = next(store.before(last), None) if isinstance(last, Manifest) else None
    if first is None:
        raise SourceUnavailableError(
            "only one snapshot was ever fetched: nothing to compare it with (`prices diff embedded`"
            " compares it with the prices shipped with melange-sky)"
        )
    old, new = _offers(store, first, selection), _offers(store, last, selection)
    return compare_offers(_id(first), old, _id(last), new)


def _named(store: Store, text: str | None) -> Manifest | str | None:
    if text is None:
        return None
    return "embedded" if text == "embedded" else store.find(text)


def _newest(store: Store) -> Manifest:
    newest = store.newest()
    if newest is None:
        raise SourceUnavailableError(
            "no prices have been fetched yet: run `melange-sky prices refresh` first"
        )
    return newest


def _id(snapshot: Manifest | str) -> str:
    return snapshot if isinstance(snapshot, str) else snapshot.id


@dataclass(frozen=True, slots=True, kw_only=True)
class _Priced:
    table: Table
    source: str
    as_of: str | None


def _offers(store: Store, snapshot: Manifest | str, selection: Selection) -> list[Offer]:
    if isinstance(snapshot, str):
        return selection.of({}, read_embedded()[0], ())
    tables = {}
    for cloud, entry in snapshot.clouds.items():
        table = store.table(entry)
        if table is not None:
            tables[cloud] = _Priced(table=table, source=entry.label, as_of=entry.checked_at)
    return selection.of(tables, (), ())


def compare_offers(
    before: str, old: Sequence[Offer], after: str, new: Sequence[Offer]
) -> Difference:
    """Return what moved, largest relative change first, then what came and went."""
    old_clouds, new_clouds = {o.cloud for o in old}, {o.cloud for o in new}
    both = old_clouds & new_clouds
    was = {_key(o): o for o in old if o.cloud in both}
    now = {_key(o): o for o in new if o.cloud in both}
    changes = [
        change for key in {**was, **now} for change in _changes(key, was.get(key), now.get(key))
    ]
    changes.sort(key=_order)
    return Difference(
        before=before,
        after=after,
        changes=tuple(changes),
        clouds_added=tuple(sorted(new_clouds - old_clouds)),
        clouds_removed=tuple(sorted(old_clouds - new_clouds)),
    )


def _key(offer: Offer) -> Key:
    count = offer.accelerator_count
    return (
        offer.cloud,
        offer.region,
        offer.instance_type,
        offer.accelerator,
        -1.0 if math.isnan(count) else count,
    )


def _order(change: PriceChange) -> tuple[float, str, str, str, str]:
    moved = change.change_fraction
    size = math.inf if moved is None else -abs(moved)
    return (size, change.cloud, change.region, change.instance_type, change.price)


def _changes(key: Key, was: Offer | None, now: Offer | None) -> list[PriceChange]:
    cloud, region, instance_type, accelerator, count = key
    rows = []
    for price, use_spot in (("on_demand", False), ("spot", True)):
        before = was.price(use_spot) if was else None
        after = now.price(use_spot) if now else None
        if before != after:
            rows.append(
                PriceChange(
                    cloud=cloud,
                    region=region,
                    instance_type=instance_type,
                    accelerator=accelerator,
                    accelerator_count=count,
                    price=price,
                    before_usd_per_hour=before,
                    after_usd_per_hour=after,
                    flags=tuple(f.code for f in now.blocked(use_spot)) if now else (),
                )
            )
    return rows
