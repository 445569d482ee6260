"""What cannot be true of a term, by name. `catalogs/README.md` lists the rules.

A *block* keeps the term out of advice and leaves it visible in `prices terms`; a *warn* is only shown.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from melange_sky.commitments import HOURS_PER_MONTH, Commitment, term_text
from melange_sky.offers import Flag, FlagScope, Severity
from melange_sky.pricing.sanity import AHEAD_DAYS, OLD_AFTER_DAYS, age_days

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from melange_sky.pricing.commitments.on_demand import Quote

LARGEST_DISCOUNT = 0.75
"""No cloud lists more off for any term of an instance (AWS: up to 72 %, GCP: 70 %, Azure: 72 %, 2026)."""
SHORTEST_HOURS, LONGEST_HOURS = 24.0, 5 * 12 * HOURS_PER_MONTH
"""Terms that clouds sell: a day of a capacity block to five years of an Azure reservation."""
LIST_MOVED = 0.05
"""Told where the on-demand price moved by more than this fraction from what the source lists beside its term."""
LONGER_TOLERANCE = 0.02
SAME_PRICE = 1e-6
FAR, OFF = 3.0, 1.5
"""An hour of a term by such a factor dearer or cheaper than it was: kept out, and told."""
SECOND_HAND = "second-hand"


@dataclass(frozen=True, slots=True, kw_only=True)
class TermRule:
    """One rule as documented; `own` is what it does to a term that the user states."""

    code: str
    severity: Severity
    own: Severity
    meaning: str


def _rule(code: str, severity: str, meaning: str, own: str | None = None) -> TermRule:
    return TermRule(
        code=code, severity=Severity(severity), own=Severity(own or severity), meaning=meaning
    )


RULES = (
    _rule("term-price", "block", "the price is no number above zero"),
    _rule("term-length", "block", "the term is shorter than a day or longer than five years"),
    _rule("term-over", "block", "its window has ended"),
    _rule(
        "term-total-as-hourly",
        "block",
        "the price per hour is the on-demand price times the hours of a day, month, year or term: a total",
    ),
    _rule(
        "term-discount",
        "block",
        "over 75 % off: no cloud gives as much; per GPU, or of another instance?",
        own="warn",
    ),
    _rule("term-above-on-demand", "warn", "an hour of it costs as much as on demand, or more"),
    _rule(
        "term-longer-dearer",
        "block",
        "an hour of it costs over 2 % more than of a shorter term of the same kind: are the terms mixed up?"
        " Both are kept out",
        own="warn",
    ),
    _rule(
        "term-one-price-for-counts",
        "block",
        "one price for instances with several counts of a GPU: per GPU, or one number for all",
        own="warn",
    ),
    _rule(
        "term-far-from-known",
        "block",
        "over 3 × dearer or cheaper than the same term in an earlier pull, or in the table that ships",
        own="warn",
    ),
    _rule("term-off-known", "warn", "over 1.5 × dearer or cheaper than the same"),
    _rule(
        "term-list-moved",
        "warn",
        "the on-demand price that the source lists beside it is over 5 % from today's: the term's may have"
        " moved as well",
    ),
    _rule("term-unpriced", "warn", "no on-demand price is known to hold it against"),
    _rule(
        "term-unknown-instance", "warn", "no offer of such an instance is known: nothing can use it"
    ),
    _rule("term-second-hand", "warn", "its source quotes another that was not read"),
    _rule("term-date", "warn", "its date is unknown, no date, or still to come"),
    _rule("term-old", "warn", "it was last known true more than 30 days ago"),
)
"""Every rule; a term of the user's own is told where it only may be negotiated."""

_BY_CODE = {rule.code: rule for rule in RULES}

Told = tuple[str, str]
"""A rule's code and a sentence for people."""


def check_quotes(
    quotes: Sequence[Quote],
    known: Callable[[Commitment], Sequence[tuple[float, str]]],
    now: datetime,
) -> tuple[Quote, ...]:
    """Return the terms with the flags of every rule.

    `known` gives what an hour of the same term cost before, each with who said so.
    """
    told: dict[int, list[Told]] = defaultdict(list)
    for i, quote in enumerate(quotes):
        told[i] += _alone(quote, now)
        told[i] += _against_known(quote.commitment, known(quote.commitment))
    sound = [i for i in range(len(quotes)) if not _blocks(told[i], quotes[i].commitment)]
    for i, said in (*_longer_dearer(quotes, sound), *_one_price(quotes, sound)):
        told[i].append(said)
    return tuple(
        replace(quote, commitment=_flagged(quote.commitment, told[i]))
        for i, quote in enumerate(quotes)
    )


def _flagged(row: Commitment, told: Sequence[Told]) -> Commitment:
    flags = tuple(
        Flag(
            code=code,
            severity=_BY_CODE[code].own if row.is_own else _BY_CODE[code].severity,
            touches=FlagScope.ROW,
            message=message,
        )
        for code, message in dict.fromkeys(told)
    )
    return replace(row, flags=(*row.flags, *flags))


def _blocks(told: Sequence[Told], row: Commitment) -> bool:
    return bool(_flagged(row, told).blocked)


def _alone(quote: Quote, now: datetime) -> list[Told]:
    row = quote.commitment
    told: list[Told] = []
    prices = (row.usd_per_hour, row.upfront_usd)
    if not all(math.isfinite(p) and p >= 0 for p in prices) or not any(prices):
        return [("term-price", f"{row.usd_per_hour:g} $/h and {row.upfront_usd:g} $ upfront")]
    if not SHORTEST_HOURS <= row.term_hours <= LONGEST_HOURS:
        told.append(("term-length", f"a term of {term_text(row.term_hours)}"))
    if row.ends is not None and row.ends <= now:
        told.append(("term-over", f"it ended on {row.ends.date()}"))
    told += _against_on_demand(quote)
    if row.confidence == SECOND_HAND:
        told.append(("term-second-hand", f"from {row.source}"))
    return [*told, *_dated(row, now)]


def _dated(row: Commitment, now: datetime) -> list[Told]:
    days = age_days(row.checked_at or row.as_of, now)
    if days is None:
        # the user who states a term without a date states it today
        return [] if row.is_own else [("term-date", "nobody says when it was true")]
    if days < -AHEAD_DAYS:
        return [("term-date", f"its date {row.as_of} is still to come")]
    if days > OLD_AFTER_DAYS:
        return [("term-old", f"last known true {days:.0f} days ago ({row.as_of})")]
    return []


def _against_on_demand(quote: Quote) -> list[Told]:
    row, price = quote.commitment, quote.on_demand_usd_per_hour
    if price is None:
        if not quote.is_known_instance:
            return [
                ("term-unknown-instance", f"no offer of {row.cloud} {row.instance_type} is known")
            ]
        return [("term-unpriced", "no on-demand price of the instance is known")]
    told: list[Told] = []
    each, discount = row.all_in_usd_per_hour, row.discount(price)
    if not quote.is_known_instance:
        told.append(
            ("term-unknown-instance", f"no offer of {row.cloud} {row.instance_type} is known")
        )
    total = _total_hours(row, price)
    said = f"{each:.6g} $/h, on demand {price:g} $/h ({quote.on_demand_source})"
    if total is not None:
        told.append(
            (
                "term-total-as-hourly",
                f"{said}: if it is the total of {term_text(total)}, an hour costs {each / total:.4g} $",
            )
        )
    elif discount > LARGEST_DISCOUNT:
        told.append(("term-discount", f"{said}: {100 * discount:.1f} % off{_hint(quote)}"))
    elif discount <= SAME_PRICE:
        more = f"{100 * -discount:.1f} % more" if discount < -SAME_PRICE else "nothing off"
        told.append(("term-above-on-demand", f"{said}: {more}"))
    listed = row.list_usd_per_hour
    if listed is not None and abs(listed / price - 1) > LIST_MOVED:
        moved = f"listed beside an on-demand price of {listed:g} $/h, which is {price:g} now"
        told.append(("term-list-moved", moved))
    return told


def _total_hours(row: Commitment, price: float) -> float | None:
    """Return the hours whose total the price per hour seems to be, None where it looks like an hour's.

    The one that leaves a discount nearest to a usual one (a third) is named.
    """
    lengths = {row.term_hours, 24.0, HOURS_PER_MONTH, 12 * HOURS_PER_MONTH}
    parts = {hours: row.all_in_usd_per_hour / hours / price for hours in lengths}
    fitting = {hours: part for hours, part in parts.items() if 1 - LARGEST_DISCOUNT <= part <= 1.05}
    return min(fitting, key=lambda h: (abs(fitting[h] - 0.65), h)) if fitting else None


def _hint(quote: Quote) -> str:
    """Say what the price would be as that of one GPU, or as divided by the term once too often."""
    row, price = quote.commitment, quote.on_demand_usd_per_hour or 0.0
    count = quote.accelerator_count
    as_gpu = 1 - row.all_in_usd_per_hour * (count or 1) / price
    if count is not None and count > 1 and 0 < as_gpu <= LARGEST_DISCOUNT:
        return f"; per GPU? {count:g} of them would be {100 * as_gpu:.1f} % off"
    as_hour = 1 - row.all_in_usd_per_hour * row.term_hours / price
    if 0 < as_hour <= LARGEST_DISCOUNT:
        return f"; divided by the hours of the term twice? Once less is {100 * as_hour:.1f} % off"
    return ""


def _against_known(row: Commitment, known: Sequence[tuple[float, str]]) -> list[Told]:
    each = row.all_in_usd_per_hour
    usual = [(price, source) for price, source in known if price > 0 and each > 0]
    if not usual:
        return []
    price, source = max(usual, key=lambda pair: abs(math.log(each / pair[0])))
    apart = max(each / price, price / each)
    if apart <= OFF:
        return []
    said = f"{each:.6g} $/h is {each / price:.3g} × the {price:.6g} of {source}"
    return [("term-far-from-known" if apart > FAR else "term-off-known", said)]


def _longer_dearer(quotes: Sequence[Quote], sound: Sequence[int]) -> list[tuple[int, Told]]:
    """Find terms of one product of an instance that cost more by the hour than a shorter one."""
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i in sound:
        row = quotes[i].commitment
        if row.starts is None:
            product = row.product or (row.usd_per_hour > 0, row.upfront_usd > 0)
            key = (row.cloud, row.region, row.instance_type, row.kind, row.is_own, product)
            groups[key].append(i)
    found: list[tuple[int, Told]] = []
    for rows in groups.values():
        rows.sort(key=lambda i: quotes[i].commitment.term_hours)
        for shorter, longer in pairwise(rows):
            a, b = quotes[shorter].commitment, quotes[longer].commitment
            if b.all_in_usd_per_hour > a.all_in_usd_per_hour * (1 + LONGER_TOLERANCE):
                said = (
                    f"{term_text(b.term_hours)} cost {b.all_in_usd_per_hour:.6g} $/h,"
                    f" {term_text(a.term_hours)} {a.all_in_usd_per_hour:.6g}"
                )
                found += [(i, ("term-longer-dearer", said)) for i in (shorter, longer)]
    return found


def _one_price(quotes: Sequence[Quote], sound: Sequence[int]) -> list[tuple[int, Told]]:
    """Find one price for instances that differ in how many of a GPU they have."""
    groups: dict[tuple[object, str], list[int]] = defaultdict(list)
    for i in sound:
        quote = quotes[i]
        row = quote.commitment
        if quote.accelerator and quote.accelerator_count:
            product = (row.cloud, row.region, row.product, row.term_hours, row.is_own)
            price = f"{row.all_in_usd_per_hour:.6g} $/h for {{}} × {quote.accelerator}"
            groups[product, price].append(i)
    found: list[tuple[int, Told]] = []
    for (_, price), rows in groups.items():
        counts = sorted({quotes[i].accelerator_count or 0.0 for i in rows})
        if len(counts) > 1:
            listed = " and ".join(f"{count:g}" for count in counts)
            said = price.format(listed)
            found += [(i, ("term-one-price-for-counts", said)) for i in rows]
    return found
