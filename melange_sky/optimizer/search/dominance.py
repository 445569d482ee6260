"""Options that no best plan needs are left out before the program is built.

Option A makes option B needless when k instances of A carry at least what one of B does in every
bucket, late only what B does late, cost less (or the same at k = 1, by name), and every rule lets them take its place. Each such
exchange lowers the cost or, at the same cost, the names, so that a best plan exists without B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.rules.registry import RuleSet

_SLACK = 1e-12

MOST_AT_ONCE = 200_000
"""Figures of pairs of options that are looked at together, for the memory that they take."""


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
    serves = np.isfinite(own)
    # One large instance may be many small ones: dearer by count, which matters to a simplest plan.
    single = rules.options.within_fraction > 0
    at_once = max(1, MOST_AT_ONCE // others.size)
    kept = []
    for first in range(0, len(indices), at_once):
        rules.options.deadline.check()
        some = slice(first, first + at_once)
        copies = _copies(others, own[some], serves[some])
        beaten = _cheaper(prices, some, copies, single)
        is_beaten, is_used = np.asarray(beaten.any(axis=1)), np.asarray(serves[some].any(axis=1))
        for b, column in enumerate(columns[some]):
            if rules.pins(canonical, column):
                kept.append(indices[first + b])
                continue
            if not is_used[b]:
                continue
            rivals = [(columns[a], float(copies[b, a])) for a in np.flatnonzero(beaten[b]).tolist()]
            if not (is_beaten[b] and rules.is_needless(canonical, column, rivals)):
                kept.append(indices[first + b])
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


def _copies(
    loads: NDArray[np.float64], own: NDArray[np.float64], serves: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return, per row of `own` and option, how many of it do at least what the row does; inf where none suffice.

    `loads` has shape (options × ways of buckets), inf where an option cannot serve; `own` some of its rows, or of
    others alike, and `serves` says where those are finite.
    """
    ratio = np.full((len(own), *loads.shape), -np.inf)
    np.divide(loads, own[:, None], out=ratio, where=serves[:, None])
    copies: NDArray[np.float64] = np.maximum(1.0, np.ceil(ratio.max(axis=2) - _SLACK))
    return copies


def _cheaper(
    prices: NDArray[np.float64], some: slice, copies: NDArray[np.float64], single: bool
) -> NDArray[np.bool_]:
    """Return which options beat some of them by price: several only strictly, one also by its name.

    Of shape (some × options), as `copies`.
    """
    places, own = np.arange(len(prices)), prices[some, None]
    earlier = places < places[some, None]
    one: NDArray[np.bool_] = (copies == 1) & ((prices < own) | ((prices == own) & earlier))
    if single:
        return one
    with np.errstate(invalid="ignore"):
        several: NDArray[np.bool_] = (copies > 1) & (copies * prices < own * (1 - _SLACK))
    several |= one
    return several
