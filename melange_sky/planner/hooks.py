"""What a caller may hear while long work runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from melange_sky.planner.comparison import Contender
    from melange_sky.planner.replay_loop.replay import ReplayProgress
    from melange_sky.plans import VerificationRound
    from melange_sky.pricing.query import RefreshDisplay
    from melange_sky.pricing.refresh import Event

__all__ = ["NO_HOOKS", "Event", "Hooks", "ReplayProgress"]


def _nobody_hears(_first: float, _second: float) -> None:
    """Hear nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Functions to call, each optional.

    `estimating` hears of simulated capacities (done, total), `refreshing` opens a display of fetched
    prices, `replaying` hears of each replay, `on_round` of each fleet that was verified and
    `on_contender` of each that was compared. `searching` hears of a purchase's cost and of what is proven
    below it, `proving` of replays that are done and of how many.
    """

    estimating: Callable[[int, int], None] | None = None
    refreshing: RefreshDisplay | None = None
    replaying: Callable[[ReplayProgress], None] | None = None
    on_round: Callable[[VerificationRound], None] | None = None
    on_contender: Callable[[Contender], None] | None = None
    searching: Callable[[float, float], None] = _nobody_hears
    proving: Callable[[int, int], None] = _nobody_hears


NO_HOOKS = Hooks()
