"""What a gateway serves now, for who rolls a plan out: which file, what does not answer, what still runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from melange_sky.gateway.backend import Backend
    from melange_sky.plans import ModelPlan


class Standing:
    """The `revision` of the file that is served, and the requests at replicas that it no longer names."""

    def __init__(self) -> None:
        """Start with nothing served."""
        self.revision: str | None = None
        self._left: list[Backend] = []

    def took(self, revision: str | None, before: Iterable[Backend], now: Iterable[Backend]) -> None:
        """Note that another plan or other backends have been taken over."""
        kept = set(map(id, now))
        left = (*self._left, *before)
        self._left = [b for b in left if id(b) not in kept and b.in_flight > 0]
        self.revision = revision

    @property
    def leaving(self) -> int:
        """Return how many requests run at replicas that get no new ones."""
        return sum(backend.in_flight for backend in self._left)


def unanswered(
    served: Iterable[tuple[ModelPlan, Sequence[Backend]]], now_s: float
) -> list[tuple[str, str]]:
    """Return (model, option) of each planned option of which no replica takes requests."""
    missing = []
    for plan, backends in served:
        answering = {b.option for b in backends if b.healthy(now_s)}
        options = [a.candidate.option.name for a in plan.allocations]
        missing += [(plan.name, option) for option in options if option not in answering]
    return missing


def brings_another_plan(served: Mapping[str, ModelPlan], prepared: Mapping[str, ModelPlan]) -> bool:
    """Return whether what was prepared is a plan other than the one that is served."""
    return served.keys() != prepared.keys() or any(
        served[name] is not plan and served[name] != plan for name, plan in prepared.items()
    )
