"""How the prices of what a plan runs moved over the pulls that are kept here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.pricing.store import Store
from melange_sky.pricing.tables import Rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from melange_sky.offers import Offer
    from melange_sky.plans import Plan
    from melange_sky.pricing.store import Entry, Manifest
    from melange_sky.pricing.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class PricePoint:
    """One pull: when the price was last known true (ISO 8601), USD per hour of the instance, and its source.

    The price is None where the instance was not offered so; `flags` are the rules that kept it out of plans.
    """

    time: str
    usd_per_hour: float | None
    source: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceHistory:
    """The prices of one instance type in one region, oldest first, the last of each day.

    `planned_usd_per_hour` is what the plan counts with for an instance, true as of `planned_as_of`.
    """

    cloud: str
    region: str
    instance_type: str
    use_spot: bool
    planned_usd_per_hour: float | None
    planned_as_of: str | None
    points: tuple[PricePoint, ...]


def price_histories(plan: Plan, store: Store | None = None) -> tuple[PriceHistory, ...]:
    """Return the history of every instance type in a plan; without points where no pull has it."""
    wanted = _offers_of(plan)
    if not wanted:
        return ()
    store = store or Store()
    points: dict[tuple[Offer, bool], list[PricePoint]] = {key: [] for key in wanted}
    tables: dict[str, Table | None] = {}
    for manifest in _last_of_each_day(store):
        for (offer, use_spot), found in points.items():
            entry = manifest.clouds.get(offer.cloud)
            if entry is None or (found and found[-1].time == entry.checked_at):
                continue
            if entry.table not in tables:
                tables[entry.table] = store.table(entry)
            table = tables[entry.table]
            if table is not None:
                found.append(_point(table, entry, offer, use_spot=use_spot))
    return tuple(_history(offer, use_spot, found) for (offer, use_spot), found in points.items())


def _offers_of(plan: Plan) -> Mapping[tuple[Offer, bool], None]:
    options = [a.candidate.option for model in plan.models for a in model.allocations]
    return dict.fromkeys((o.offer, o.use_spot) for o in options if o.offer is not None)


def _last_of_each_day(store: Store) -> Iterable[Manifest]:
    """Return the last snapshot of every day, oldest first, as far as they can be read."""
    newest = store.newest()
    if newest is None:
        return ()
    last = {manifest.id[7:15]: manifest for manifest in (newest, *store.before(newest))[::-1]}
    return last.values()


def _point(table: Table, entry: Entry, offer: Offer, *, use_spot: bool) -> PricePoint:
    only = Rows(
        regions=frozenset({offer.region}), accelerators=frozenset({(offer.accelerator, None)})
    )
    rows = table.offers(entry.label, entry.checked_at, only)
    sold = next((row for row in rows if row.instance_type == offer.instance_type), None)
    return PricePoint(
        time=entry.checked_at,
        usd_per_hour=sold.price(use_spot) if sold else None,
        source=entry.label,
        flags=tuple(flag.code for flag in sold.blocked(use_spot)) if sold else (),
    )


def _history(offer: Offer, use_spot: bool, points: list[PricePoint]) -> PriceHistory:
    return PriceHistory(
        cloud=offer.cloud,
        region=offer.region,
        instance_type=offer.instance_type,
        use_spot=use_spot,
        planned_usd_per_hour=offer.price(use_spot),
        planned_as_of=offer.as_of,
        points=tuple(points),
    )
