"""Which commitments are weighed, and in which regions their instances run."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.commitments import Owned, term_text
from melange_sky.errors import InputError
from melange_sky.planner.options import PlannedOffer
from melange_sky.planner.reserving.wishes import ALL_TERMS, BLOCK, LONGEST_LISTED_HOURS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from melange_sky.commitments import Commitment
    from melange_sky.offers import Offer
    from melange_sky.planner.reserving.wishes import ReserveOptions

HOURS_PER_YEAR = 8760.0

Sold = tuple[str, str]
"""Cloud and instance type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceWishes:
    """How places are chosen: what a year's wait costs as a fraction, and whether a rule tells regions apart."""

    discount_rate: float = 0.0
    every_region: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where instances run: offers to plan with, those of committed or owned units pinned to their region."""

    offers: tuple[PlannedOffer, ...]
    terms: tuple[Commitment, ...]


def equal_usd_per_hour(term: Commitment, discount_rate: float) -> float:
    """Return the even hourly payment over the term that is worth what the term costs.

    At a yearly rate r, payments spread evenly over T years are worth (1 − e^(−rT)) ÷ rT of their sum today, so
    that what is paid upfront weighs so much more than what is paid by the hour.
    """
    return term.usd_per_hour + term.upfront_usd / term.term_hours / worth(
        term.term_hours, discount_rate
    )


def worth(hours: float, discount_rate: float) -> float:
    """Return what a dollar spread evenly over so many hours is worth today, by continuous discounting."""
    exponent = discount_rate * hours / HOURS_PER_YEAR
    return 1.0 if exponent < 1e-12 else -math.expm1(-exponent) / exponent


def net_present_usd(term: Commitment, discount_rate: float) -> float:
    """Return what the payments of one unit over its term are worth today."""
    recurring = term.usd_per_hour * term.term_hours
    return term.upfront_usd + recurring * worth(term.term_hours, discount_rate)


def is_block(term: Commitment) -> bool:
    """Return whether a term is a block of days rather than one that begins when it is bought."""
    return term.longest_hours is not None or term.starts is not None


def asked_terms(rows: Iterable[Commitment], options: ReserveOptions) -> list[Commitment]:
    """Return the terms that are asked for; one's own are, whatever their length, unless --term says otherwise."""
    return [row for row in rows if not row.blocked and _is_asked(row, options)]


def _is_asked(row: Commitment, options: ReserveOptions) -> bool:
    words = options.terms
    if ALL_TERMS in words:
        return True
    if is_block(row):
        return BLOCK in words or (not words and row.is_own)
    if not words:
        return row.is_own or row.term_hours <= LONGEST_LISTED_HOURS + 1
    return any(abs(row.term_hours - hours) < 1 for hours in options.term_hours)


def placed(
    offers: Sequence[PlannedOffer],
    rows: Sequence[Commitment],
    owned: Sequence[Owned],
    wishes: PlaceWishes,
) -> Places:
    """Choose the regions: the cheapest on demand for all, and those of the best terms and of what is owned.

    Of one instance type, equal terms of several regions do not compete: what an instance serves does not depend
    on where it runs, so the cheapest row of each kind, length and payment is weighed; in each region, where a rule
    tells regions apart. Spot is rented only, as a plan would have it. Raises InputError for owned instances that
    are not among the offers.
    """
    by_type: dict[Sold, list[PlannedOffer]] = defaultdict(list)
    spot = [planned for planned in offers if planned.use_spot]
    for planned in offers:
        if planned.use_spot:
            continue
        by_type[planned.offer.cloud, planned.offer.instance_type].append(planned)
    kept: list[Commitment] = []
    found: list[PlannedOffer] = []
    for sold, planned_offers in sorted(by_type.items()):
        own = [unit for unit in owned if (unit.cloud, unit.instance_type) == sold]
        own_rows = [row for row in rows if (row.cloud, row.instance_type) == sold]
        chosen, terms = _of_type(planned_offers, own_rows, own, wishes)
        found += chosen
        kept += terms
    unknown = [unit for unit in owned if (unit.cloud, unit.instance_type) not in by_type]
    if unknown:
        raise InputError(*(_not_usable(unit) for unit in unknown))
    return Places(offers=(*found, *spot), terms=tuple(kept))


def _not_usable(unit: Owned) -> str:
    place = unit.cloud + (f"/{unit.region}" if unit.region else "")
    return (
        f"{unit.where}: {unit.instance_type} on {place} is not among the on-demand offers that the spec may use; "
        "check the spec's accelerators and infra (`melange-sky prices list` shows offers)"
    )


def _of_type(
    planned_offers: Sequence[PlannedOffer],
    rows: Sequence[Commitment],
    owned: Sequence[Owned],
    wishes: PlaceWishes,
) -> tuple[list[PlannedOffer], list[Commitment]]:
    """Return the offers of one instance type to plan with, and its terms."""
    places = {o.region: o for o in _regions(planned_offers)}
    cheapest = min(places, key=lambda r: (places[r].price_usd_per_hour or math.inf, r))
    if not rows and not owned:
        return list(planned_offers), []
    wanted = {planned.offer.region for planned in planned_offers}
    terms: list[Commitment] = []
    for row in _best_rows(rows, set(places), cheapest, wishes):
        terms.append(row)
        if row.region and row.kind == "instance":
            wanted.add(row.region)
    for unit in owned:
        if unit.region and unit.region not in places:
            raise InputError(_not_usable(unit))
        wanted.add(unit.region or cheapest)
    if not terms and not owned:
        return list(planned_offers), []
    return [PlannedOffer(offer=places[region], pinned=True) for region in sorted(wanted)], terms


def _regions(planned_offers: Sequence[PlannedOffer]) -> Iterator[Offer]:
    for planned in planned_offers:
        yield planned.offer
        yield from planned.fallbacks


def _best_rows(
    rows: Sequence[Commitment], regions: set[str], cheapest: str, wishes: PlaceWishes
) -> list[Commitment]:
    """Return the cheapest row of each kind, length and way to pay, among regions where the type is sold."""
    discount_rate = wishes.discount_rate
    best: dict[tuple[object, ...], Commitment] = {}
    for row in rows:
        if row.region and row.region not in regions:
            continue
        if row.kind == "spend" and row.region not in ("", cheapest) and not wishes.every_region:
            continue
        key = (
            row.kind,
            row.pool,
            row.term_hours,
            row.upfront_usd > 0,
            row.starts,
            row.longest_hours,
            row.region if wishes.every_region else "",
        )
        known = best.get(key)
        cost = (equal_usd_per_hour(row, discount_rate), row.region != cheapest, row.region)
        if known is None or cost < (
            equal_usd_per_hour(known, discount_rate),
            known.region != cheapest,
            known.region,
        ):
            best[key] = row
    return list(best.values())


def held_units(planned: PlannedOffer) -> Owned:
    """Return free nodes of a reservation that SkyPilot is configured to use as owned instances."""
    assert planned.reserved is not None
    nodes = planned.reserved
    return Owned(
        cloud=nodes.cloud,
        region=nodes.region,
        instance_type=nodes.instance_type,
        count=nodes.nodes,
        where=f"SkyPilot's reservations, {nodes.label()}",
    )


def term_name(term: Commitment) -> str:
    """Return a commitment for people, such as ``1 year, aws/us-east-1 g6.xlarge``."""
    where = term.cloud + (f"/{term.region}" if term.region else "")
    return f"{where} {term.instance_type}, {term_text(term.term_hours)}{_paid(term)}"


def _paid(term: Commitment) -> str:
    if not term.upfront_usd:
        return ""
    return " all upfront" if not term.usd_per_hour else " part upfront"
