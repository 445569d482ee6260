"""Which options a fleet of a known cost can hold at all: the rest need not enter the model.

Were instances divisible, each bucket b would cost at least π_b = min_k price_k × load_bk ÷ usable,
and Σ π_b bounds every fleet's cost from below. For any π, and so for this one, relaxing "every
bucket is served" with π as the price of doing so gives the bound

    Σ_b π_b + Σ_k min over n_k of (price_k × n_k − the most π-value that n_k instances can carry)

whose terms here are all at least 0 and do not fall with n_k. An option of which one instance wastes
more than a known cost leaves above Σ π_b is in no fleet of that cost. (Lagrangian relaxation and
reduced-cost fixing: Geoffrion, Mathematical Programming Study 2, 1974.) All other constraints only
make fleets dearer, so the bound holds under them, except where capacity is already paid for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.optimizer.fleet import Fleet
    from melange_sky.optimizer.problem import Problem, SolveOptions

_SLACK = 1e-6
"""Relative room for what the solver's tolerances let pass."""


def worth_a_look(
    fleet: Fleet, problem: Problem, options: SolveOptions, most_usd_per_hour: float
) -> list[int]:
    """Return the indices of the columns that a fleet of at most this cost can hold.

    All of them where paid capacity or the price of changes make the goal another than the cost.
    """
    everything = list(range(len(fleet.columns)))
    if problem.constraints.fixed or options.stay_close is not None or problem.headroom >= 1:
        return everything
    bound, waste = 0.0, np.zeros(len(everything))
    for demand in range(len(fleet.demands)):
        mine = fleet.of_demand(demand)
        if not mine or not fleet.buckets[demand]:
            continue
        loads = fleet.loads(mine) / (1 - problem.headroom)
        prices = np.array([fleet.columns[k].price for k in mine])
        values = (prices[:, None] * loads).min(axis=0)
        bound += float(values.sum())
        waste[mine] = prices - _most_value(loads, values)
    room = most_usd_per_hour - bound + _SLACK * max(1.0, most_usd_per_hour)
    return [k for k in everything if waste[k] <= room]


def _most_value(loads: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, per option, the most value that one full instance carries: the best buckets first.

    `loads` has shape (options × buckets) in instances, inf where an option cannot serve.
    """
    able = np.isfinite(loads)
    filled = np.where(able, loads, 0.0)
    density = np.divide(values, loads, out=np.zeros_like(loads), where=able)
    order = np.argsort(-density, axis=1, kind="stable")
    filled = np.take_along_axis(filled, order, axis=1)
    before = np.cumsum(filled, axis=1) - filled
    taken = np.clip(1.0 - before, 0.0, filled)
    worth: NDArray[np.float64] = (taken * np.take_along_axis(density, order, axis=1)).sum(axis=1)
    return worth
