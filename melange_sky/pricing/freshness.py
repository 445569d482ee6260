"""How old prices and terms are, and whether that is too old to sign for: one line per source."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.pricing.sanity import age_days
from melange_sky.settings import gcp_api_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from melange_sky.commitments import Commitment
    from melange_sky.offers import Offer

_TERM_SOURCES = {"aws": "aws", "azure": "azure", "gcp": "cyclenerd", "runpod": "runpod"}
"""The source (`--source`) of each cloud's terms that needs no key."""

LONGEST_HOURS = 24.0
"""Older prices and terms are refused before a commitment, unless the user says otherwise."""


def term_source(cloud: str) -> str | None:
    """Return the source (`--source`) to ask for a cloud's terms, None where no list has them.

    GCP's own list, where there is a key for it.
    """
    return "gcp" if cloud == "gcp" and gcp_api_key() else _TERM_SOURCES.get(cloud)


@dataclass(frozen=True, slots=True, kw_only=True)
class Age:
    """How old one source's figures are: `what` they are, `hours` since it last said so (None: nobody knows).

    `is_own` says that the user states them; `is_listed` that a source can be asked for today's.
    """

    what: str
    cloud: str
    source: str
    known_at: str | None
    hours: float | None
    is_own: bool = False
    is_listed: bool = True

    @property
    def is_stale(self) -> bool:
        """Whether it is older than a day, dated ahead, or of unknown age (one's own without a date is of today)."""
        if self.hours is None:
            return self.known_at is not None or not self.is_own
        return not -LONGEST_HOURS <= self.hours <= LONGEST_HOURS

    def __str__(self) -> str:
        """Return the line for people: what, whose, how old."""
        return f"{self.what} of {self.cloud}: {age_words(self.hours)}, {self.source}"


def age_words(hours: float | None) -> str:
    """Return an age for people.

    >>> age_words(0.2), age_words(30), age_words(100), age_words(None)
    ('under an hour old', '30 hours old', '4 days old', 'of unknown age')
    """
    if hours is None:
        return "of unknown age"
    if hours < 1:
        return "under an hour old"
    return f"{hours:.0f} hours old" if hours < 48 else f"{hours / 24:.0f} days old"


def price_ages(
    offers: Iterable[Offer], checked_at: Mapping[str, str], now: datetime
) -> tuple[Age, ...]:
    """Return the age of each source of these offers' prices.

    `checked_at` (`OfferBook.checked_at`) is when a cloud's source last said that its prices hold; it counts
    where it is younger than the date of the prices.
    """
    seen = {(o.cloud, o.source, o.as_of, o.is_own) for o in offers}
    return tuple(
        _age("prices", cloud, source, (as_of, None if own else checked_at.get(cloud)), now, own=own)
        for cloud, source, as_of, own in sorted(seen, key=str)
    )


def term_ages(rows: Iterable[Commitment], now: datetime) -> tuple[Age, ...]:
    """Return the age of each source of these terms."""
    found: dict[tuple[object, ...], Age] = {}
    for row in sorted(rows, key=lambda row: (row.cloud, row.source, str(row.as_of))):
        age = _age("terms", row.cloud, row.source, (row.as_of, row.checked_at), now, own=row.is_own)
        # blocks, of any length, are in no list
        listed = term_source(row.cloud) is not None and row.longest_hours is None
        key = (row.cloud, row.source, age.known_at, row.is_own, listed)
        found.setdefault(key, replace(age, is_listed=listed))
    return tuple(found.values())


def stale_problems(ages: Iterable[Age]) -> tuple[str, ...]:
    """Return a line for each source that is too old to sign for, with what to do about it."""
    return tuple(f"{age}{_advice(age)}" for age in ages if age.is_stale)


def _advice(age: Age) -> str:
    if age.is_own:
        return f"; they say as_of {age.known_at}: see whether they still hold and date them, or say --stale-ok"
    command = f"melange-sky prices refresh --infra {age.cloud}"
    if age.what == "prices":
        return f"; `{command}` fetches today's; or say --stale-ok"
    if age.is_listed:
        return f"; `{command} --source {term_source(age.cloud)}` fetches today's; or say --stale-ok"
    return "; no list has them: ask for an offer and state it (`--commitments`), or say --stale-ok"


def _age(
    what: str,
    cloud: str,
    source: str,
    dates: tuple[str | None, ...],
    now: datetime,
    *,
    own: bool,
) -> Age:
    ages = [(days, date) for date in dates if (days := age_days(date, now)) is not None]
    days, known_at = min(ages, default=(None, next(filter(None, dates), None)))
    hours = None if days is None else days * 24
    return Age(what=what, cloud=cloud, source=source, known_at=known_at, hours=hours, is_own=own)
