"""Options that no best purchase and no best fleet needs are left out before the search.

k instances of option A make one of B needless where they carry at least as much in every bucket of every mix, at
every level of attainment, and rented for the hour cost no more than an hour of B at the lowest price it can have then,
committed or rented, whichever prices hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from melange_sky.capacities import OptionCapacity
    from melange_sky.commitments import Owned
    from melange_sky.planner.reserving.material import Mix

    Floats = NDArray[np.float64]

_SLACK = 1e-12
MOST_COPIES = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HourPrices:
    """What an hour of an option costs: `rented`, (price rows), and `committed` at its cheapest term, inf without."""

    rented: Floats
    committed: float = math.inf


def survivors(
    mixes: Sequence[Mix], prices: Mapping[str, HourPrices], owned: Sequence[Owned]
) -> tuple[Mix, ...]:
    """Return mixes without needless options; `prices` are by name.

    Of an owned instance type the option that carries most of the demand's requests is kept, and it alone.
    """
    names = list(prices)
    rates = {name: _carried(mixes, name) for name in names}
    kept: list[str] = []
    own = {name for name in names if _is_owned(mixes, name, owned)}
    for b, name in enumerate(names):
        rivals = [r for r in names if r != name]
        if name in own:
            same = [r for r in own if _type(mixes, r) == _type(mixes, name)]
            best = max(same, key=lambda r: (rates[r][0].sum(), -names.index(r)))
            if name == best:
                kept.append(name)
            continue
        if not any(_replaces(r, name, rates, prices, names.index(r) < b) for r in rivals):
            kept.append(name)
    chosen = set(kept)
    return tuple(_only(mix, chosen) for mix in mixes)


def _replaces(
    a: str,
    b: str,
    rates: Mapping[str, tuple[Floats, Floats]],
    prices: Mapping[str, HourPrices],
    is_earlier: bool,
) -> bool:
    """Return whether instances of `a`, rented, make one of `b` needless."""
    ours, theirs = rates[a][1], rates[b][1]
    served = theirs > 0
    if not served.any():
        return True
    with np.errstate(divide="ignore"):
        ratio = float((theirs[served] / ours[served]).max())
    if not ratio <= MOST_COPIES:
        return False
    copies = max(1.0, float(np.ceil(ratio - _SLACK)))
    cost = copies * prices[a].rented
    least = np.minimum(prices[b].rented, prices[b].committed)
    if copies > 1:  # at equal cost the smaller ones, of which fewer may run
        return bool((cost <= least * (1 + _SLACK)).all())
    is_cheaper = (cost < least * (1 - _SLACK)).any()
    return bool((cost <= least).all()) and bool(is_cheaper or is_earlier)


def _carried(mixes: Sequence[Mix], name: str) -> tuple[Floats, Floats]:
    """Return what an instance carries: in time, by bucket of all mixes, and so at every level besides."""
    plain: list[float] = []
    levels: list[float] = []
    for mix in mixes:
        option = next((c for c in mix.options if c.option.name == name), None)
        attained = _levels(mix)
        for i, j in mix.workload.buckets():
            cell = None if option is None else option.cells[i][j]
            rate = 0.0 if cell is None else (cell.max_rate_rps or 0.0)
            plain.append(rate)
            levels.append(rate)
            levels += [0.0 if cell is None else (cell.at(level) or 0.0) for level in attained]
    return np.array(plain), np.array(levels)


def _levels(mix: Mix) -> list[float]:
    return sorted(
        {
            level
            for candidate in mix.options
            for i, j in mix.workload.buckets()
            for level, _ in candidate.cells[i][j].levels
        }
    )


def _find(mixes: Sequence[Mix], name: str) -> OptionCapacity:
    return next(c for mix in mixes for c in mix.options if c.option.name == name)


def _type(mixes: Sequence[Mix], name: str) -> tuple[str, str, str]:
    offer = _find(mixes, name).option.offer
    return ("", "", name) if offer is None else (offer.cloud, offer.region, offer.instance_type)


def _is_owned(mixes: Sequence[Mix], name: str, owned: Sequence[Owned]) -> bool:
    cloud, region, instance_type = _type(mixes, name)
    return any(
        (own.cloud, own.instance_type) == (cloud, instance_type) and own.region in ("", region)
        for own in owned
    )


def _only(mix: Mix, names: set[str]) -> Mix:
    """Return a mix with these options alone."""
    (demand,) = mix.problem.demands
    options = tuple(c for c in demand.options if c.option.name in names)
    return replace(mix, problem=replace(mix.problem, demands=(replace(demand, options=options),)))
