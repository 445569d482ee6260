"""What is decided at one look, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verb = Literal["keep", "propose", "apply", "blocked"]

REASONS: Mapping[str, str] = {
    "mix": "requests have other sizes than fleets were reckoned for",
    "steady": "the fleet serves what is to come, and none is cheaper by more than a change costs",
    "signal": "what was seen cannot be believed: nothing is changed by it",
    "taken": "another watcher changed the fleet since: this one ends",
    "unknown": "too little was seen to decide: nothing is changed",
    "starting": "replicas start that will serve what is to come",
    "grow": "the fleet is too small for what is to come",
    "risk": "the SLO is being missed",
    "shrink": "a smaller fleet serves what is to come",
    "replace": "another fleet serves what is to come for less",
    "agree": "a smaller fleet would do; the next look must say so too",
    "calm": "a smaller fleet would do; but too little is known yet, or one that shrank had to grow again soon",
    "min-run": "a smaller fleet would do; what started must run for a while first",
    "standing": "a proposal stands that nobody has followed yet",
    "no-fleet": "no fleet that is allowed serves what is to come",
    "freeze": "the guard has frozen the fleet",
    "hours": "the guard allows no change at this hour",
    "min-interval": "the guard asks for more time since the last change",
    "max-usd": "the guard's limit of USD per hour is below what is needed",
    "max-change": "the guard allows fewer instances in one change",
    "approval": "the guard asks for an approval of so dear a change",
    "acting-failed": "the change could not be carried out",
}
"""Reason codes of a decision, and what each says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A fleet that was weighed: replicas by option, what it costs, and the highest rate it serves.

    `kind` says how it was come by: live, cheapest, grown, shrunk; `rate_origin` how its rate: replayed, planned. `switch_usd` is what the change to it costs once;
    `usd` what it and the change cost over the time that is looked ahead.
    """

    kind: str
    counts: Mapping[str, int]
    usd_per_hour: float
    rate_rps: float
    switch_usd: float
    usd: float
    rate_origin: str = "planned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do now. `target` is the fleet wanted, replicas by option, None where none is.

    `reason` is a code of `REASONS`, `message` the whole sentence. `slo_missed` says that the SLO is being missed
    as far as is known; together with `blocked` that is exit 5.
    """

    verb: Verb
    reason: str
    message: str
    target: Mapping[str, int] | None = None
    candidates: tuple[Candidate, ...] = ()
    slo_missed: bool = False
