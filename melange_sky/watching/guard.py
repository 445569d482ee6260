"""What the guard rails have against a change, and what of it they let pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.watching.fleets import changes

if TYPE_CHECKING:
    from melange_sky.plans.guard import GuardRails
    from melange_sky.watching.fleets import Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of the fleet as the guard sees it; `since_s` the seconds since the last one, None where there is none."""

    before: Counts
    after: Counts
    before_usd_per_hour: float
    after_usd_per_hour: float
    since_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """Why a change is not made: a reason code, and what to say of it."""

    reason: str
    message: str


def objection(rails: GuardRails, change: Change, time: float) -> Objection | None:
    """Return what forbids a change, None where it may be made (perhaps after an approval)."""
    if rails.freeze:
        return Objection(reason="freeze", message="guard.freeze: the fleet is frozen")
    if rails.hours is not None and not rails.hours.hold(time):
        return Objection(
            reason="hours", message=f"guard.hours: changes are allowed {rails.hours.text}"
        )
    too_soon = rails.min_interval_s is not None and change.since_s is not None
    if too_soon and (change.since_s or 0.0) < (rails.min_interval_s or 0.0):
        return Objection(
            reason="min-interval",
            message=f"guard.min_interval_s: the last change was {change.since_s:.0f} s ago, {rails.min_interval_s:g} s are asked",
        )
    most_usd = rails.max_usd_per_hour
    dearer = change.after_usd_per_hour > change.before_usd_per_hour + 1e-9
    if most_usd is not None and dearer and change.after_usd_per_hour > most_usd + 1e-9:
        return Objection(
            reason="max-usd",
            message=f"guard.max_usd_per_hour: ${change.after_usd_per_hour:,.2f}/h is needed, ${most_usd:,.2f}/h allowed",
        )
    most = rails.max_change_instances
    if most is not None and changes(change.before, change.after) > most:
        return Objection(
            reason="max-change",
            message=f"guard.max_change_instances: {changes(change.before, change.after)} instances would change, {most} may",
        )
    return None


def needs_approval(rails: GuardRails, change: Change) -> bool:
    """Return whether somebody must agree to what a change adds per hour."""
    added = change.after_usd_per_hour - change.before_usd_per_hour
    return rails.approve_above_usd is not None and added > rails.approve_above_usd + 1e-9


def in_reach(rails: GuardRails, before: Counts, after: Counts, prices: tuple[float, ...]) -> Counts:
    """Return the first part of a change that `max_change_instances` lets pass: starts first, the dearest first."""
    most = rails.max_change_instances
    if most is None or changes(before, after) <= most:
        return after
    fleet = list(before)
    dearest = sorted(range(len(prices)), key=lambda k: -prices[k])
    for sign in (1, -1):
        for k in dearest:
            step = min(max(sign * (after[k] - before[k]), 0), most)
            fleet[k] += sign * step
            most -= step
    return tuple(fleet)
