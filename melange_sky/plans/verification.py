"""How a plan did in replay."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationRound:
    """One fleet of the closed loop and how it did in replay.

    `low` … `high` is the attainment's 95 % interval. `derated` holds, per accelerator (``name:count``),
    the factor on its capacities with which the next fleet is chosen.
    """

    cost_usd_per_hour: float
    fleet: str
    attainment: float
    low: float
    high: float
    derated: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LateSize:
    """How long requests of bucket (`i`, `j`) waited for their first token in replay, at the median and at
    the 95th percentile; None where none was completed. `missed` of `requests` were outside the limits.
    """

    i: int
    j: int
    requests: int
    missed: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Whether the plan holds in replay, and how it came to be.

    `attainment`, its interval `low` … `high` and `requests` are those of the worst replay of this
    plan; `premium_usd_per_hour` is what it costs over the plan before any replay. `reason` says why it
    does not hold. Where the search was `cut_short` by its time limit, another fleet may hold, or a
    cheaper one. `seeds` are those of the replays by which it is judged. `late` are the sizes that are
    expected to miss, and those of which most did, as far as the worst replay held any.
    """

    holds: bool
    reason: str | None
    traffic: str
    requests: int
    attainment: float
    low: float
    high: float
    premium_usd_per_hour: float
    rounds: tuple[VerificationRound, ...] = ()
    cut_short: bool = False
    seeds: tuple[int, ...] = ()
    late: tuple[LateSize, ...] = ()

    def late_size(self, i: int, j: int) -> LateSize | None:
        """Return how a size did in replay, None where that is not kept."""
        return next((one for one in self.late if (one.i, one.j) == (i, j)), None)
