"""What a plan counts on finding in the prefix caches of its replicas, and what that is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Routing = Literal["session", "off"]
"""What a gateway keeps together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionHits:
    """Fractions of the prompt tokens of one option: `planned` with, and found in replay with `affinity` and without."""

    option: str
    planned: float
    affinity: float
    blind: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedReuse:
    """Under which routing prefix caches are counted on: `affinity` is what the gateway must be run with.

    `hits` are of the plan's options. Costs per hour of what would be planned otherwise: `cold_usd_per_hour` where
    nothing is found, `blind_usd_per_hour` where requests go anywhere; None where there is no such plan.
    """

    affinity: Routing
    hits: tuple[OptionHits, ...]
    cold_usd_per_hour: float | None = None
    blind_usd_per_hour: float | None = None
