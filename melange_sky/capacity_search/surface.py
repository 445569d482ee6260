"""What measured request sizes say of the others: the ratio measured ÷ estimated as a smooth surface.

An estimate of the rates, however wrong its scale, has about the right shape. So what is carried from
size to size is not the rate but its ratio to the estimate: Gaussian-process regression ("kriging":
Krige 1951; Rasmussen and Williams, Gaussian Processes for Machine Learning, chapters 2 and 5) of
log(measured ÷ estimated) over the logarithms of input and output tokens,

    log ratio = b₀ + b₁ ln input + b₂ ln output + rest,     rest ~ GP(0, amplitude² × Matérn 5/2)

with wide normal priors on b. How rough the rest is, is learnt from the measurements themselves: the
amplitude is the one under which each measured size is best predicted by the others (leave-one-out).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Size = tuple[float, float]
"""Input and output tokens of a request."""

FARTHEST_SD = 0.2
"""Of a size whose log rate the measured ones leave more uncertain than that nothing is inferred."""

_SCALE_SD = 1.5
_SLOPE_SD = 0.12
_LENGTH = 2.0
_AMPLITUDES = (0.04, 0.06, 0.09, 0.13, 0.2, 0.3, 0.45, 0.7)
_PRIOR_AMPLITUDE = 0.12
_PRIOR_WIDTH = 0.7
_NOISE = (0.04, 0.12)
_NOISE_TURNOVERS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioPoint:
    """One measured size: `log_ratio` of measured to estimated rate, known up to `sd`."""

    size: Size
    log_ratio: float
    sd: float = _NOISE[0]


def noise_sd(turnovers: float) -> float:
    """Return how much searches of one size with other arrivals differ (standard deviation of the log).

    Seen with the search for real targets on simulated replicas of four GPUs: 0.12 where the probes that
    decided lasted four answers' length, less as they saw more answers come and go.
    """
    return float(np.clip(_NOISE[1] * np.sqrt(_NOISE_TURNOVERS / max(turnovers, 1e-9)), *_NOISE))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surface:
    """Predicted log ratios of some sizes.

    `mean`, shape (sizes,), and `covariance`, shape (sizes, sizes); `amplitude` is how rough the ratios
    were found to be, `surprise` the root mean square of the leave-one-out errors (None below 3 points).
    """

    mean: Floats
    covariance: Floats
    amplitude: float
    surprise: float | None

    @property
    def sd(self) -> Floats:
        """Standard deviations, shape (sizes,)."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))


def ratio_surface(points: Sequence[RatioPoint], sizes: Sequence[Size]) -> Surface:
    """Return what `points` say of `sizes`; with no points, what is believed beforehand."""
    at = _features(sizes)
    if not points:
        prior = _covariance(at, at, _PRIOR_AMPLITUDE)
        return Surface(
            mean=np.zeros(len(sizes)), covariance=prior, amplitude=_PRIOR_AMPLITUDE, surprise=None
        )
    known = _features([p.size for p in points])
    y = np.array([p.log_ratio for p in points])
    noise = np.diag([max(p.sd, _NOISE[0]) ** 2 for p in points])
    amplitude = max(_AMPLITUDES, key=lambda a: _score(known, y, noise, a))
    inverse = np.linalg.inv(_covariance(known, known, amplitude) + noise)
    across = _covariance(at, known, amplitude)
    left_out = (inverse @ y) / np.diag(inverse)
    return Surface(
        mean=across @ inverse @ y,
        covariance=_covariance(at, at, amplitude) - across @ inverse @ across.T,
        amplitude=amplitude,
        surprise=float(np.sqrt(np.mean(left_out**2))) if len(points) > 2 else None,
    )


def reaches_any(size: Size, others: Sequence[Size]) -> bool:
    """Return whether a size is at least one of the others in input and output tokens alike.

    What serves no small request serves no larger one.
    """
    return any(size[0] >= other[0] and size[1] >= other[1] for other in others)


def _features(sizes: Sequence[Size]) -> Floats:
    """Return logarithms about a middling request, shape (sizes, 2)."""
    rows = np.log(np.maximum(np.asarray(sizes, dtype=np.float64).reshape(-1, 2), 1.0))
    centred: Floats = rows - np.log([300.0, 150.0])
    return centred


def _covariance(a: Floats, b: Floats, amplitude: float) -> Floats:
    trend = _SCALE_SD**2 + _SLOPE_SD**2 * (a @ b.T)
    apart = np.sqrt(((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)) * np.sqrt(5.0) / _LENGTH
    rest = amplitude**2 * (1 + apart + apart**2 / 3) * np.exp(-apart)
    both: Floats = trend + rest
    return both


def _score(known: Floats, y: Floats, noise: Floats, amplitude: float) -> float:
    """Return the leave-one-out log density of the points plus the amplitude's own prior."""
    inverse = np.linalg.inv(_covariance(known, known, amplitude) + noise)
    variance = 1 / np.diag(inverse)
    error = (inverse @ y) * variance
    off = np.log(amplitude / _PRIOR_AMPLITUDE) / _PRIOR_WIDTH
    return float(-0.5 * (np.log(variance) + error**2 / variance).sum() - 0.5 * off**2)
