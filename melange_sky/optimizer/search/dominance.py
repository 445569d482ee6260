"""Options that no best plan needs are left out before the program is built.

Option A makes option B needless when k instances of A carry at least what one of B does in every
bucket, late only what B does late, cost less (or the same at k = 1, by name), and every rule lets them take its place. Each such
exchange lowers the cost or, at the same cost, the names, so that a best plan exists without B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.rules.registry import RuleSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.optimizer.problem.canonical import Canonical

_SLACK = 1e-12


def drop_dominated(canonical: Canonical, rules: RuleSet) -> Canonical:
    """Return the problem without needless columns. Ties are settled by the order of the names.

    Raises TimeUpError.
    """
    kept: list[int] = []
    for demand in range(len(canonical.demands)):
        kept += _survivors(canonical, canonical.of_demand(demand), rules)
    return canonical.keep(kept).placed()


def _survivors(canonical: Canonical, indices: list[int], rules: RuleSet) -> list[int]:
    columns = [canonical.columns[k] for k in indices]
    prices = np.array([column.price for column in columns])
    if not columns or not columns[0].loads.size:
        return indices
    own, others = _loads(canonical, indices)
    # One large instance may be many small ones: dearer by count, which matters to a simplest plan.
    single = rules.options.within_fraction > 0
    kept = []
    for b, index in enumerate(indices):
        rules.options.deadline.check()
        if rules.pins(canonical, columns[b]):
            kept.append(index)
            continue
        if not columns[b].serves():
            continue
        copies = _copies(others, own[b])
        rivals = [
            (columns[a], float(copies[a]))
            for a in np.flatnonzero(_cheaper(prices, b, copies, single)).tolist()
        ]
        if not rules.is_needless(canonical, columns[b], rivals):
            kept.append(index)
    return kept


def _loads(
    canonical: Canonical, indices: list[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what each option fills in each way, and the least that one fills in ways no later than each.

    Both of shape (options × ways of buckets), inf where an option cannot serve so.
    """
    by_way = canonical.loads_by_way(indices)
    weights = np.array(canonical.columns[indices[0]].weights)
    no_later = [by_way[:, weights <= weight].min(axis=1) for weight in weights]
    return by_way.reshape(len(indices), -1), np.hstack(no_later)


def _copies(loads: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, per option, how many of it do at least what fills `own`; inf where none suffice.

    `loads` has shape (options × ways of buckets), inf where an option cannot serve.
    """
    served = np.isfinite(own)
    ratio = (loads[:, served] / own[served]).max(axis=1)
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
