"""What is computed of the requests of one probe: a median, and means of neighbours in batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def median(values: NDArray[np.float64]) -> float:
    """Return what `np.median` does of some finite values, in a third of its time."""
    below, above = (len(values) - 1) // 2, len(values) // 2
    middle = np.partition(values, (below, above))
    return float((middle[below] + middle[above]) / 2)


def fraction(good: NDArray[np.bool_]) -> float:
    """Return the part that is true; `mean` takes five times as long for a few hundred."""
    return int(np.count_nonzero(good)) / len(good) if len(good) else float("nan")


def effective_size(good: NDArray[np.bool_]) -> float:
    """Return how many independent requests these are worth: n ÷ design effect, by batch means."""
    count = good.shape[0]
    p = fraction(good)
    batches = min(16, count // 8)
    if batches < 4 or p in (0.0, 1.0):
        return float(count)
    means = _batch_means(good, batches)
    off = means - np.add.reduce(means) / batches
    variance = float(np.add.reduce(off * off)) / (batches - 1)
    effect: float = count // batches * variance / (p * (1 - p))
    return float(count / max(1.0, effect))


def latency_slope(
    arrival_s: NDArray[np.float64], e2e_s: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the growth of end-to-end latency per second of arrivals and its standard error.

    Least squares over up to 8 batch means, so that neighbours' shared queue does not feign certainty.
    Infinite error below 16 requests.
    """
    batches = min(8, arrival_s.shape[0] // 4)
    if batches < 4:
        return 0.0, math.inf
    x, y = _batch_means(arrival_s, batches), _batch_means(e2e_s, batches)
    x = x - np.add.reduce(x) / batches
    spread = float(np.add.reduce(x * x))
    if spread <= 0:
        return 0.0, math.inf
    slope = float(np.add.reduce(x * y)) / spread
    residual = y - np.add.reduce(y) / batches - slope * x
    error = math.sqrt(float(np.add.reduce(residual * residual)) / (batches - 2) / spread)
    return slope, error


def _batch_means(values: NDArray[Any], batches: int) -> NDArray[np.float64]:
    """Return the means of so many runs of neighbours, the last few values left out."""
    size = values.shape[0] // batches
    means: NDArray[np.float64] = (
        np.add.reduce(values[: batches * size].reshape(batches, size), axis=1) / size
    )
    return means
