"""How long a replica takes from its start until it serves, by option, and where that is known from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DEFAULT_STARTUP_S = 600.0
"""To provision a machine, install the engine and load weights takes 5 to 15 minutes as a rule."""

_ENOUGH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StartUp:
    """Seconds until a replica serves; `origin`: given, learnt (from how many starts) or assumed."""

    seconds: float
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartUps:
    """The start-up times of all options: what was told, else what was seen, else `assumed_s`."""

    given_s: float | None = None
    seen: Mapping[str, Sequence[float]] = field(default_factory=dict)
    assumed_s: float = DEFAULT_STARTUP_S

    def of(self, option: str) -> StartUp:
        """Return an option's: of starts that were seen the slowest but one in ten, so that few come later."""
        if self.given_s is not None:
            return StartUp(seconds=self.given_s, origin="given")
        seen = sorted(self.seen.get(option, ()))
        if len(seen) >= _ENOUGH:
            place = min(len(seen) - 1, int(0.9 * len(seen)))
            return StartUp(seconds=seen[place], origin=f"learnt from {len(seen)} starts")
        return StartUp(seconds=max([self.assumed_s, *seen]), origin="assumed")

    def longest_s(self, options: Sequence[str]) -> float:
        """Return the longest of several options'."""
        return max((self.of(option).seconds for option in options), default=self.assumed_s)
