"""Which fleets there are, what they cost and how much they serve, as decisions need it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

    Floats = NDArray[np.float64]

Counts = tuple[int, ...]
"""Replicas of each option, in the order of `Fleets.options`."""

NOTHING: frozenset[str] = frozenset()


class Fleets(Protocol):
    """The fleets of one plan, at its traffic's sizes and its rules.

    `options` are names, `prices` USD per hour of a replica of each. Rates are in requests per second; costs in USD per hour, what is paid for anyway (owned, reserved) left out. `without` are options that
    cannot be had now.
    """

    options: tuple[str, ...]
    prices: tuple[float, ...]

    @property
    def shares(self) -> Floats:
        """The sizes that they are reckoned for, as shares of the requests, (inputs × outputs of the plan's grid)."""

    def loads(self) -> Mapping[str, Floats]:
        """Return replica-seconds of a request by option, (inputs × outputs), NaN where that is not known."""

    def of_mix(self, shares: Floats) -> Self:
        """Return the fleets of the same options for other sizes. Raises MelangeError where none serves them."""

    def rate(self, fleet: Counts) -> float:
        """Return the highest rate that a fleet serves within the SLO."""

    def origin(self, fleet: Counts) -> str:
        """Return where its rate is known from: replayed, or planned (the capacities of the plan)."""

    def cost(self, fleet: Counts) -> float:
        """Return what a fleet is billed per hour."""

    def kept(self, fleet: Counts) -> Counts:
        """Return what of a fleet is paid for anyway: to stop it saves nothing, so it never stops."""

    def cheapest(self, rate_rps: float, without: frozenset[str] = NOTHING) -> Counts | None:
        """Return the cheapest fleet for a rate, None where none serves it within the rules."""

    def grown(
        self, fleet: Counts, rate_rps: float, without: frozenset[str] = NOTHING
    ) -> Counts | None:
        """Return what serves a rate with the least added to a fleet."""

    def shrunk(self, fleet: Counts, rate_rps: float) -> Counts | None:
        """Return what still serves a rate of a fleet when the dearest that it can spare are left out, none that is kept."""


def union(one: Counts, other: Counts) -> Counts:
    """Return what runs while one fleet is exchanged for another: the larger number of each option."""
    return tuple(map(max, one, other))


def started(before: Counts, after: Counts) -> Counts:
    """Return how many of each option start from one fleet to another."""
    return tuple(max(b - a, 0) for a, b in zip(before, after, strict=True))


def changes(before: Counts, after: Counts) -> int:
    """Return how many instances start or stop."""
    return sum(abs(b - a) for a, b in zip(before, after, strict=True))
