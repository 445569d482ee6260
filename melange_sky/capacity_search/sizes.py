"""Which request size to measure next, from what the measured ones showed.

The plan's cost is Σ weight ÷ rate over the sizes. A size is worth measuring by how much it lowers the
variance of that sum for each second that it takes; the measuring ends once the sum is known within the
wanted error. Nothing is remembered but the measured rates: the same rates lead to the same choice, so
that an interrupted profile goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.capacity_search.surface import (
    FARTHEST_SD,
    RatioPoint,
    Surface,
    noise_sd,
    ratio_surface,
    reaches_any,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.capacity_search.probe_verdict import SearchOptions
    from melange_sky.slo import SLO

    Floats = NDArray[np.float64]

_SURE = 1.645
_LEAST_SIZES = 4
_UNKNOWN_TPOT_S = 0.05
_PROBES = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeDemand:
    """The sizes that a plan asks for, with the share of requests and the estimated rate of each.

    `guesses_rps` need only have the right shape; `scaled` is False where they have no scale at all, so
    that no search may start at them. `error_bound` is the fraction of the cost that may stay unknown
    (nine times in ten).
    """

    sizes: tuple[tuple[int, int], ...]
    weights: tuple[float, ...]
    guesses_rps: tuple[float, ...]
    error_bound: float = 0.05
    scaled: bool = True

    def __post_init__(self) -> None:
        if not len(self.sizes) == len(self.weights) == len(self.guesses_rps):
            raise ValueError("every size needs a weight and a guess")
        if not all(rate > 0 for rate in self.guesses_rps) or min(self.weights, default=0) < 0:
            raise ValueError("guesses are positive and weights not negative")
        if not self.error_bound > 0:
            raise ValueError("the error bound must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRate:
    """A measured rate, None where no rate meets the SLO, with the bounds that surely hold.

    `turnovers`: how many answers' length the longest probe lasted.
    """

    rate_rps: float | None
    low_rps: float | None = None
    high_rps: float | None = None
    turnovers: float = 4.0

    @property
    def sd(self) -> float:
        """Standard deviation of the log rate: chance, and anywhere between the bounds.

        Attainment crosses its limit between them, so half their distance is known better than that.
        """
        chance = noise_sd(self.turnovers)
        if not (self.low_rps and self.high_rps and self.high_rps > self.low_rps):
            return 1.5 * chance
        return float(np.hypot(np.log(self.high_rps / self.low_rps) / np.sqrt(48.0), chance))


@dataclass(frozen=True, slots=True, kw_only=True)
class NextSize:
    """`size` to measure next, None where none is worth it; `guess_rps` and its `sd` (of the log).

    `expected_error`: the fraction by which the cost may be off, nine times in ten.
    """

    size: tuple[int, int] | None
    guess_rps: float | None
    sd: float
    expected_error: float


def choose_size(
    demand: SizeDemand,
    measured: Mapping[tuple[int, int], MeasuredRate],
    slo: SLO,
    skipped: Collection[tuple[int, int]] = (),
) -> NextSize:
    """Return the size to measure next given what is measured, or none once the bound is met.

    Sizes that are `skipped` cannot be measured, but count in the error.
    """
    shut = {*measured, *skipped}
    open_sizes = [k for k, size in enumerate(demand.sizes) if size not in shut]
    surface = demand_surface(demand, measured)
    rates = np.asarray(demand.guesses_rps) * np.exp(surface.mean)
    share = _shares(demand, measured, rates)
    cost_with = surface.covariance @ share
    variance = max(0.0, float(share @ cost_with))
    error = _SURE * float(np.sqrt(variance))
    enough = error <= demand.error_bound and len(measured) >= min(_LEAST_SIZES, len(demand.sizes))
    if not open_sizes or enough:
        return NextSize(size=None, guess_rps=None, sd=0.0, expected_error=error)
    spread = np.diag(surface.covariance)
    noise = np.array(
        [
            noise_sd(_probe_s(float(rate), size, slo) / _answer_s(size, slo))
            for rate, size in zip(rates, demand.sizes, strict=True)
        ]
    )
    gain = cost_with**2 / (spread + noise**2)
    worth = [gain[k] / cell_seconds(float(rates[k]), demand.sizes[k], slo) for k in open_sizes]
    best = open_sizes[int(np.argmax(worth))]
    has_scale = demand.scaled or any(rate.rate_rps for rate in measured.values())
    return NextSize(
        size=demand.sizes[best],
        guess_rps=float(rates[best]) if has_scale else None,
        sd=float(surface.sd[best]),
        expected_error=error,
    )


def search_near(options: SearchOptions, choice: NextSize) -> SearchOptions:
    """Return the search's options for a chosen size: start at its guess, step as it is unsure."""
    if choice.guess_rps is None:
        return options
    growth = float(np.clip(np.exp(1.5 * choice.sd), 1 + options.tolerance, 2.0))
    start = min(choice.guess_rps, options.ceiling_rps)
    return replace(options, start_rps=start, growth=growth)


def demand_surface(demand: SizeDemand, measured: Mapping[tuple[int, int], MeasuredRate]) -> Surface:
    """Return the ratios of all sizes of the demand; measured sizes outside of it are left out."""
    guesses = dict(zip(demand.sizes, demand.guesses_rps, strict=True))
    points = [
        RatioPoint(size=size, log_ratio=float(np.log(rate.rate_rps / guesses[size])), sd=rate.sd)
        for size, rate in measured.items()
        if size in guesses and rate.rate_rps
    ]
    return ratio_surface(points, demand.sizes)


def predicted_rates(
    demand: SizeDemand, measured: Mapping[tuple[int, int], MeasuredRate]
) -> tuple[float | None, ...]:
    """Return each size's rate: as measured, else the estimate corrected by the surface."""
    surface = demand_surface(demand, measured)
    corrected = np.asarray(demand.guesses_rps) * np.exp(surface.mean)
    return tuple(
        measured[size].rate_rps if size in measured else float(rate)
        for size, rate in zip(demand.sizes, corrected, strict=True)
    )


def inferred_rates(
    demand: SizeDemand, measured: Mapping[tuple[int, int], MeasuredRate]
) -> dict[tuple[int, int], float]:
    """Return the rates of the sizes that are not measured but known well enough by those that are.

    None of a size that is as large as a measured one that serves nothing.
    """
    spread = demand_surface(demand, measured).sd
    unservable = [size for size, rate in measured.items() if rate.rate_rps is None]
    rates = predicted_rates(demand, measured)
    return {
        size: rate
        for size, rate, sd in zip(demand.sizes, rates, spread, strict=True)
        if size not in measured
        and rate is not None
        and sd <= FARTHEST_SD
        and not reaches_any(size, unservable)
    }


def plan_sizes(
    demand: SizeDemand, slo: SLO, known: Mapping[tuple[int, int], MeasuredRate]
) -> tuple[list[tuple[int, int]], float]:
    """Return what would still be measured if the guesses had the right shape, and the error left.

    What a preview can tell before anything is measured.
    """
    measured = dict(known)
    order: list[tuple[int, int]] = []
    while True:
        choice = choose_size(demand, measured, slo)
        if choice.size is None:
            return order, choice.expected_error
        order.append(choice.size)
        rate = choice.guess_rps or demand.guesses_rps[demand.sizes.index(choice.size)]
        measured[choice.size] = MeasuredRate(
            rate_rps=rate, low_rps=0.92 * rate, high_rps=1.08 * rate
        )


def cell_seconds(rate_rps: float, size: tuple[int, int], slo: SLO) -> float:
    """Return about how long a search of one size takes: a few probes of a few answers' length."""
    return _PROBES * _probe_s(rate_rps, size, slo)


def _probe_s(rate_rps: float, size: tuple[int, int], slo: SLO) -> float:
    return max(15.0, 100.0 / max(rate_rps, 1e-9), 4.0 * _answer_s(size, slo))


def _answer_s(size: tuple[int, int], slo: SLO) -> float:
    """Return about how long an answer takes where the limits are just met."""
    return size[1] * (slo.tpot_s or _UNKNOWN_TPOT_S) + (slo.ttft_s or 0.0) / 4


def _shares(
    demand: SizeDemand, measured: Mapping[tuple[int, int], MeasuredRate], rates: Floats
) -> Floats:
    """Return each size's share of the cost, 0 where it was measured to be unservable."""
    out = [size in measured and measured[size].rate_rps is None for size in demand.sizes]
    cost = np.where(out, 0.0, np.asarray(demand.weights) / rates)
    total = float(cost.sum())
    share: Floats = cost / total if total > 0 else cost
    return share


def even_demand(sizes: Sequence[tuple[int, int]], error_bound: float) -> SizeDemand:
    """Return a demand of sizes of which nothing is known: all alike, rates by a request's work.

    A prompt token counts a tenth of an output token: prefill is that much cheaper on GPUs.
    """
    work = [i / 10 + o for i, o in sizes]
    return SizeDemand(
        sizes=tuple(sizes),
        weights=tuple(1.0 / w for w in work),
        guesses_rps=tuple(1.0 / w for w in work),
        error_bound=error_bound,
        scaled=False,
    )
