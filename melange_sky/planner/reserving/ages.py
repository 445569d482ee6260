"""How old the prices and terms are that an answer rests on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from melange_sky.errors import SourceUnavailableError
from melange_sky.planner.clock import created_at
from melange_sky.planner.reserving.terms import term_name
from melange_sky.pricing.freshness import Age, price_ages, stale_problems, term_ages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from melange_sky.commitments import Commitment
    from melange_sky.offers import Offer
    from melange_sky.planner.reserving.asking import Asked
    from melange_sky.reserve.answer import Advice


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceLine:
    """One price that was weighed: what it is of, USD per hour all in, where it was read and how old it is."""

    what: str
    usd_per_hour: float
    source: str
    as_of: str | None
    age: Age

    @property
    def age_days(self) -> float | None:
        """Days since its source last said so, None where nobody knows."""
        return None if self.age.hours is None else self.age.hours / 24


def now() -> datetime:
    """Return the time of planning; SOURCE_DATE_EPOCH fixes it."""
    return datetime.fromisoformat(created_at().replace("Z", "+00:00")).astimezone(timezone.utc)


def price_lines(asked: Asked, checked_at: Mapping[str, str]) -> tuple[PriceLine, ...]:
    """Return every price and term that was weighed, on demand first.

    `checked_at` is when each cloud's source last said that its prices hold.
    """
    moment = now()
    options = [asked.candidate(k).option for k in range(len(asked.question.options))]
    lines = [
        _of_offer(o.offer, o.use_spot, checked_at, moment) for o in options if o.offer is not None
    ]
    lines += [_of_term(term, moment) for one in asked.purchasable for term in one.terms]
    return tuple({line.what: line for line in lines}.values())


def _of_offer(
    offer: Offer, use_spot: bool, checked_at: Mapping[str, str], moment: datetime
) -> PriceLine:
    (age,) = price_ages([offer], checked_at, moment)
    return PriceLine(
        what=offer_name(offer, use_spot),
        usd_per_hour=offer.price(use_spot) or 0.0,
        source=offer.source,
        as_of=offer.as_of,
        age=age,
    )


def _of_term(term: Commitment, moment: datetime) -> PriceLine:
    (age,) = term_ages([term], moment)
    return PriceLine(
        what=term_name(term),
        usd_per_hour=term.all_in_usd_per_hour,
        source=term.source,
        as_of=term.as_of,
        age=age,
    )


def used_lines(asked: Asked, advice: Advice, lines: Sequence[PriceLine]) -> tuple[PriceLine, ...]:
    """Return the lines of what is advised: the instances that run in any hour, and the terms that are bought."""
    runs = {k for k in range(len(asked.question.options)) if (advice.fleets[:, k] > 0).any()}
    options = [asked.candidate(k).option for k in runs]
    names = {offer_name(o.offer, o.use_spot) for o in options if o.offer is not None}
    for one, bought in zip(asked.purchasable, advice.bought, strict=True):
        if bought.units:
            names |= {term_name(term) for term in one.terms}
    return tuple(line for line in lines if line.what in names)


def offer_name(offer: Offer, use_spot: bool) -> str:
    """Return an offer at one of its prices for people, and to tell its line by."""
    kind = "spot" if use_spot else "on demand"
    return f"{offer.cloud}/{offer.region} {offer.instance_type}, {kind}"


def require_fresh(lines: Iterable[PriceLine], *, offline: bool) -> None:
    """Raise SourceUnavailableError, with a line for each source that is older than a day."""
    problems = stale_problems(dict.fromkeys(line.age for line in lines))
    if problems:
        why = "; --offline and the snapshot that ships know none newer" if offline else ""
        raise SourceUnavailableError("\n".join(f"{problem}{why}" for problem in problems))


def oldest(lines: Sequence[PriceLine]) -> str | None:
    """Return the earliest date of any line, None where one that is not the user's own has none."""
    dates = [line.as_of for line in lines if not (line.age.is_own and line.as_of is None)]
    known = [date for date in dates if date is not None]
    return min(known) if known and len(known) == len(dates) else None
