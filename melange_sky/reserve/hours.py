"""The demand as the search sees it: spans of rates that the same fleets serve, with the time each takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """What is asked for over time; arrays of one place per period.

    `mix` is the index of the sizes' mix, `rate_rps` the rate, `weight` how long the period counts (hours, times
    its scenario's weight), `price` which row of the price table holds.
    """

    mix: NDArray[np.intp]
    rate_rps: Floats
    weight: Floats
    price: NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Periods of one mix and price whose rates no known fleet tells apart: from `least_rps` to `most_rps`."""

    mix: int
    price: int
    least_rps: float
    most_rps: float
    weight: float
    periods: NDArray[np.intp]


def spans(hours: Hours, rates_rps: Floats) -> list[Span]:
    """Return the periods in spans: `rates_rps`, (fleets × mixes), are the highest that known fleets serve.

    Two rates of a span are served by the same fleets. Periods without traffic ask for nothing and are left out.
    """
    found = []
    for mix, price in sorted(set(zip(hours.mix.tolist(), hours.price.tolist(), strict=True))):
        here = np.flatnonzero((hours.mix == mix) & (hours.price == price) & (hours.rate_rps > 0))
        if not len(here):
            continue
        steps = np.unique(rates_rps[:, mix])
        above = np.searchsorted(steps, hours.rate_rps[here], side="left")
        for step in np.unique(above):
            periods = here[above == step]
            rates = hours.rate_rps[periods]
            found.append(
                Span(
                    mix=mix,
                    price=price,
                    least_rps=float(rates.min()),
                    most_rps=float(rates.max()),
                    weight=float(hours.weight[periods].sum()),
                    periods=periods,
                )
            )
    return found
