"""What a caller may ask of the planner beyond the spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melange_sky.optimizer import SolveOptions
from melange_sky.pricing import OfferQuery

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """How to plan a spec. `price_error` is the fraction by which prices may move.

    `progress` is called during long work (done, total).
    """

    prices: OfferQuery = field(default_factory=OfferQuery)
    allow_flagged: bool = False
    solve: SolveOptions = field(default_factory=SolveOptions)
    sensitivity: bool = True
    price_error: float = 0.0
    progress: Callable[[int, int], None] | None = None
