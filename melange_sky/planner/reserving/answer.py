"""The answer of `reserve`: what was asked, what is advised, its fleets, and what it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.planner.reserving.ages import PriceLine
    from melange_sky.planner.reserving.api_price import ApiComparison
    from melange_sky.planner.reserving.asking import Asked
    from melange_sky.planner.reserving.fleets import Fleet
    from melange_sky.planner.reserving.proving import Proof
    from melange_sky.reserve.answer import Advice


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reservation:
    """What `reserve` found; `proof` is None where nothing was replayed, `api` where no API was compared."""

    asked: Asked
    advice: Advice
    fleets: tuple[Fleet, ...]
    lines: tuple[PriceLine, ...]
    proof: Proof | None = None
    api: ApiComparison | None = None

    @property
    def missed(self) -> tuple[str, ...]:
        """What does not hold in replay, a sentence each; none where nothing was replayed."""
        return () if self.proof is None else self.proof.missed
