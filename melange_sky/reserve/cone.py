"""The fleets that serve one mix at one attainment level: a cone, known by a linear program over shares.

With the mix fixed, what a fleet needs grows in proportion to the rate. The highest rate that a fleet n serves is

    R(n) = max λ   Σ_jw z_jwb = λ,   Σ_wb load_jwb z_jwb ≤ n_j,   Σ_jwb rate_b weight_jw z_jwb ≤ may_miss λ

(option j, way w, bucket b). Its duals μ ≥ 0 say why it is no more, R(n) = μ·n, and R(n') ≤ μ·n' for every other
fleet, so that λ is served only where worth·n ≥ λ for each worth ever seen (Benders, Numerische Mathematik 4,
1962). Instances may stand idle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import highspy
import numpy as np

from melange_sky.reserve.rate_cone import RateCone

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline

    Floats = NDArray[np.float64]

_MULTIPLIERS = np.concatenate(([0.0], np.geomspace(1e-3, 1e3, 25)))
"""What a miss may be taken to cost, against the mean cost of a request, where a worth is made of prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What options do with one mix at one attainment level.

    `loads`, (options × ways × buckets), are the usable instances that a bucket fills at 1 req/s in all, inf where
    not served so; `weights`, (options × ways), how much of a miss each request of a way is; `shares`, (buckets),
    of the requests; `may_miss` the fraction of them that may miss.
    """

    loads: Floats
    weights: Floats
    shares: Floats
    may_miss: float

    @property
    def most(self) -> Floats:
        """Instances of each option that do all that it can at 1 req/s, (options)."""
        finite = np.where(np.isfinite(self.loads), self.loads, 0.0)
        most: Floats = finite.max(axis=1).sum(axis=1)
        return most

    def worth(self, prices: Floats) -> Floats:
        """Return a worth along prices > 0: what it costs to serve 1 req/s at these with instances in parts."""
        row: Floats = self.worths(prices[None])[0]
        return row

    def worths(self, prices: Floats) -> Floats:
        """Return the worth along each row of prices > 0, (rows × options).

        An option that is too dear counts for what would let it serve some size at the least cost.
        """
        if self.may_miss <= 0:
            return self._worths_in_time(prices)
        costs = prices[:, :, None, None] * np.where(np.isfinite(self.loads), self.loads, 1e300)
        scale = costs.min(axis=(1, 2)).sum(axis=1)
        missed = self.weights[:, :, None] * self.shares
        bound = np.full(len(prices), -np.inf)
        worths = np.zeros(prices.shape)
        for multiplier in _MULTIPLIERS:
            of_missed = (multiplier * scale)[:, None, None, None] * missed
            least = (costs + of_missed).min(axis=(1, 2))
            total = least.sum(axis=1) - multiplier * scale * self.may_miss
            better = total > bound
            bound[better] = total[better]
            worths[better] = self._per_load(least[better], of_missed[better])
        rows: Floats = worths / bound[:, None]
        return rows

    def _per_load(self, least: Floats, of_missed: Floats) -> Floats:
        """Return what an instance saves at most where sizes cost no more than `least`, (rows × options)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.where(self.loads > 0, (least[:, None, None] - of_missed) / self.loads, 0.0)
        saved: Floats = np.maximum(each.max(axis=(2, 3)), 0.0)
        return saved

    def _worths_in_time(self, prices: Floats) -> Floats:
        """Return worths where none may miss."""
        loads = self.loads[:, 0]
        finite = np.where(np.isfinite(loads), loads, 1e300)
        least = (prices[:, :, None] * finite).min(axis=1)
        with np.errstate(divide="ignore"):
            per_load = np.where(loads > 0, 1.0 / finite, 0.0)
        worths = (least[:, None, :] * per_load).max(axis=2)
        rows: Floats = worths / least.sum(axis=1)[:, None]
        return rows


class Cone(RateCone):
    """The highest rates of fleets that serve one mix at one attainment level."""

    def __init__(self, shape: Shape, deadline: Deadline) -> None:
        """Build the program; the first worth is along equal prices."""
        super().__init__(deadline)
        self.shape, self.most = shape, shape.most
        self.worths = shape.worth(np.ones(len(self.most)))[None]
        self._rows = np.arange(len(self.most), dtype=np.int32)
        self._highs.passModel(self._model())

    def rate(self, fleet: Floats) -> float:
        """Return the highest rate in req/s that a fleet serves; learn why it is no more. Raises TimeUpError."""
        rate, worth = self._highest(self._rows, fleet)
        self._learn(fleet, rate, worth)
        return max(rate, 0.0)

    def _worth(self, prices: Floats) -> Floats:
        return self.shape.worth(prices)

    def _model(self) -> Any:
        """Rows: load of each option, each bucket, misses where there may be some. The last column is λ."""
        shape = self.shape
        j, w, b = np.nonzero(np.isfinite(shape.loads))
        options, buckets, shares = len(self.most), len(shape.shares), len(j)
        late = shape.may_miss > 0
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = shares + 1, options + buckets + late
        model.col_cost_ = np.append(np.zeros(shares), -1.0)
        model.col_lower_ = np.zeros(shares + 1)
        model.col_upper_ = np.full(shares + 1, np.inf)
        model.row_lower_ = np.concatenate(
            (np.full(options, -np.inf), np.zeros(buckets), np.full(int(late), -np.inf))
        )
        model.row_upper_ = np.zeros(options + buckets + late)
        each = 3 if late else 2
        index = np.empty((shares, each), dtype=np.int32)
        value = np.empty((shares, each))
        index[:, 0], value[:, 0] = j, shape.loads[j, w, b]
        index[:, 1], value[:, 1] = options + b, 1.0
        if late:
            index[:, 2], value[:, 2] = options + buckets, shape.shares[b] * shape.weights[j, w]
        of_rate = np.append(np.full(buckets, -1.0), [-shape.may_miss] * late)
        rows = np.arange(options, options + buckets + late)
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        starts = np.append(np.arange(shares + 1) * each, shares * each + len(rows))
        model.a_matrix_.start_ = starts.astype(np.int32)
        model.a_matrix_.index_ = np.concatenate((index.ravel(), rows)).astype(np.int32)
        model.a_matrix_.value_ = np.concatenate((value.ravel(), of_rate))
        return model
