"""What may be committed to for a term, and what is owned already. USD per hour of a whole instance.

An *instance* commitment pays for one instance of a type, used or not (a reservation, a resource commitment of
GCP, a capacity block). A *spend* commitment pays an amount per hour (savings plans): each running instance that
it covers draws its own rate from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from melange_sky.offers import Flag, Severity

HOURS_PER_MONTH = 730.0
"""A month of every price list here: a year is 8,760 hours."""

Kind = Literal["instance", "spend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """An offer to commit to one instance of a type for a term.

    `region` is empty where the term holds in every region of the cloud. `usd_per_hour` is billed in every hour of
    the term, `upfront_usd` once. `kind` spend: `all_in_usd_per_hour` is what one running instance draws from a
    commitment in USD per hour, and the rows of one `pool` share such a commitment. `product` is the cloud's name
    of it. `longest_hours`: it is sold for any whole number of days from `term_hours` on, up to this
    (beyond 14 days: of weeks, as AWS sells its capacity blocks).
    `starts` and `ends` are the window of a block (aware), None for a term that begins when it is bought.
    `list_usd_per_hour` is the on-demand price that the source names beside it. `as_of` (ISO 8601) is when the
    price was true as far as known, `checked_at` when its source last said so; None: unknown. `is_own` says that
    the user stated it.
    """

    cloud: str
    region: str
    instance_type: str
    term_hours: float
    usd_per_hour: float
    upfront_usd: float = 0.0
    kind: Kind = "instance"
    product: str = ""
    pool: str | None = None
    longest_hours: float | None = None
    starts: datetime | None = None
    ends: datetime | None = None
    list_usd_per_hour: float | None = None
    source: str = ""
    as_of: str | None = None
    checked_at: str | None = None
    confidence: str | None = None
    flags: tuple[Flag, ...] = ()
    is_own: bool = False

    @property
    def all_in_usd_per_hour(self) -> float:
        """What an hour of the term costs, the payment upfront spread over it (no interest)."""
        return self.usd_per_hour + self.upfront_usd / self.term_hours

    @property
    def total_usd(self) -> float:
        """What the whole term costs."""
        return self.usd_per_hour * self.term_hours + self.upfront_usd

    @property
    def term_months(self) -> float:
        """The term in months of 730 hours."""
        return self.term_hours / HOURS_PER_MONTH

    @property
    def blocked(self) -> tuple[Flag, ...]:
        """The flags that keep the term out of any advice."""
        return tuple(flag for flag in self.flags if flag.severity is Severity.BLOCK)

    def discount(self, on_demand_usd_per_hour: float) -> float:
        """Return the fraction that it is cheaper than on demand in every hour; below 0 where it is dearer.

        One minus it is the break-even utilisation: the fraction of hours from which on it pays.
        """
        return 1 - self.all_in_usd_per_hour / on_demand_usd_per_hour

    def covers(self, cloud: str, region: str, instance_type: str) -> bool:
        """Return whether it can pay for such an instance: same type, same cloud, its region or any."""
        same = self.cloud == cloud and self.instance_type == instance_type
        return same and self.region in ("", region)

    def lasting(self, hours: float) -> Commitment:
        """Return the block of that many hours at the same hourly price.

        Raises ValueError where it is not sold so long, or so short.
        """
        longest = self.longest_hours or self.term_hours
        step = 24 if hours <= 14 * 24 else 7 * 24
        if hours % step or not self.term_hours <= hours <= longest:
            raise ValueError(
                f"{self.product or self.instance_type} is sold for whole days from {self.term_hours / 24:g} to"
                f" {longest / 24:g}, beyond 14 for whole weeks"
            )
        upfront = self.upfront_usd * hours / self.term_hours
        return replace(self, term_hours=hours, upfront_usd=upfront, longest_hours=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Instances that are paid for already, used first.

    `region` is empty where they can run in any. `until` (aware) is when they end, None: they do not.
    `idle_usd_per_hour` is what each costs in an hour in which it serves nothing. `where` names their place (a
    line of a file) for messages.
    """

    cloud: str
    region: str
    instance_type: str
    count: int
    until: datetime | None = None
    idle_usd_per_hour: float = 0.0
    where: str = ""

    def holds(self, moment: datetime) -> bool:
        """Return whether they are there at a moment (aware)."""
        return self.until is None or moment < self.until


def term_text(hours: float) -> str:
    """Return a term for people.

    >>> term_text(8760), term_text(26280), term_text(730), term_text(2190), term_text(336)
    ('1 year', '3 years', '1 month', '3 months', '14 days')
    """
    months = hours / HOURS_PER_MONTH
    for unit, length in (("year", 12.0), ("month", 1.0)):
        count = months / length
        if count >= 1 and abs(count - round(count)) < 1e-9:
            return f"{round(count)} {unit}{'' if round(count) == 1 else 's'}"
    days = hours / 24
    return f"{days:g} day{'' if days == 1 else 's'}"
