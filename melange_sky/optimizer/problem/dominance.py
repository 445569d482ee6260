"""Options that no best plan needs are left out before the program is built.

Option A makes option B needless when k instances of A carry at least what one of B does in every
bucket, cost less (or the same at k = 1, by name), and use no limited resource that B does not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.problem.canonical import matches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.constraints import Constraints
    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.problem.question import SolveOptions

_SLACK = 1e-12


def drop_dominated(
    canonical: Canonical, constraints: Constraints, options: SolveOptions
) -> Canonical:
    """Return the problem without needless columns. Ties are settled by the order of the names."""
    if options.robustness is not None and options.robustness.budget is not None:
        # Merging two types into one would put more of the fleet behind a single wrong figure.
        return canonical.placed()
    kept: list[int] = []
    for demand in range(len(canonical.demands)):
        kept += _survivors(canonical, canonical.of_demand(demand), constraints, options)
    return canonical.keep(kept).placed()


def _survivors(
    canonical: Canonical, indices: list[int], constraints: Constraints, options: SolveOptions
) -> list[int]:
    columns = [canonical.columns[k] for k in indices]
    pinned = [_pinned(canonical, column, constraints, options) for column in columns]
    loads = canonical.loads(indices)
    prices = np.array([column.price for column in columns])
    if not columns or not loads.size:
        return indices
    # One large instance may be many small ones: dearer by count, which matters to a simplest plan.
    single = options.within_fraction > 0 or options.stay_close is not None
    kept = []
    for b, index in enumerate(indices):
        if pinned[b]:
            kept.append(index)
            continue
        if not np.isfinite(loads[b]).any():
            continue
        copies = _copies(loads, b)
        better = [
            columns[a]
            for a in np.flatnonzero(_cheaper(prices, b, copies, single)).tolist()
            if _no_greedier(columns[a], columns[b], float(copies[a]), constraints)
        ]
        if not _needless(columns[b], better, constraints):
            kept.append(index)
    return kept


def _needless(column: Column, better: list[Column], constraints: Constraints) -> bool:
    """Return whether better columns can always take this one's place.

    Under a share per region f, moving an instance to another region needs room in that region's
    share. An instance that carries at most f / 2 of the rate finds it: were 2 / f other regions all
    fuller than f / 2, they would carry more than everything. Only where one instance carries more
    than half of a region's share could a dearer region be needed beyond those.
    """
    most = constraints.max_share_per_region
    if most is None:
        return bool(better)
    regions = {other.region for other in better}
    return column.region in regions or (most > 0 and len(regions) >= math.ceil(2 / most))


def _copies(loads: NDArray[np.float64], b: int) -> NDArray[np.float64]:
    """Return, per option, how many of it do at least what one of `b` does; inf where none suffice.

    `loads` has shape (options × buckets), inf where an option cannot serve.
    """
    served = np.isfinite(loads[b])
    ratio = (loads[:, served] / loads[b, served]).max(axis=1)
    copies: NDArray[np.float64] = np.maximum(1.0, np.ceil(ratio - _SLACK))
    return copies


def _cheaper(
    prices: NDArray[np.float64], b: int, copies: NDArray[np.float64], single: bool
) -> NDArray[np.bool_]:
    """Return which options beat `b` by price: several only strictly, one also by its name."""
    earlier = np.arange(len(prices)) < b
    one: NDArray[np.bool_] = (copies == 1) & (
        (prices < prices[b]) | ((prices == prices[b]) & earlier)
    )
    if single:
        return one
    with np.errstate(invalid="ignore"):
        several: NDArray[np.bool_] = (copies > 1) & (copies * prices < prices[b] * (1 - _SLACK))
    several |= one
    return several


def _no_greedier(a: Column, b: Column, copies: float, constraints: Constraints) -> bool:
    """Return whether replacing `b` by copies of `a` keeps every other constraint."""
    if any(copies * a.units(key) > b.units(key) for key, _ in constraints.limits):
        return False
    if constraints.max_share_per_cloud is not None and a.cloud != b.cloud:
        return False
    return not (constraints.spot is not None and a.use_spot and not b.use_spot)


def _pinned(
    canonical: Canonical, column: Column, constraints: Constraints, options: SolveOptions
) -> bool:
    """Return whether something names this column, so that it stays whatever it costs."""
    if any(matches(column, group) for group in (*constraints.fixed, *constraints.minimum)):
        return True
    close = options.stay_close
    name = canonical.demands[column.demand].name
    return close is not None and any(
        (d, o) == (name, column.name) and n > 0 for d, o, n in close.instances
    )
