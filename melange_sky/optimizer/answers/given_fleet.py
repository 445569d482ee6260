"""Who serves what among instances that are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.optimizer.problem.question import SolveOptions
from melange_sky.optimizer.search.levels import checked_levels
from melange_sky.optimizer.search.shares import TOLERANCE, spread, to_allocations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.optimizer.problem.question import Problem
    from melange_sky.plans import Allocation


def shared_out(
    problem: Problem,
    instances: Mapping[str, int],
    paid: Mapping[str, int],
    options: SolveOptions | None = None,
) -> tuple[Allocation, ...] | None:
    """Return how a model's traffic is spread over instances, by option name; `paid` of each are not billed.

    Of the attainment levels at which they serve it all, that of the fewest late requests. None where they
    serve it at none. Instances of options that can serve nothing are left out. The problem has one demand.
    Raises InputError, InfeasibleError as `optimize` does, TimeUpError.
    """
    options = options or SolveOptions()
    (demand,) = problem.demands
    rate_rps = demand.workload.rate_rps
    for form in checked_levels(problem, options.deadline):
        columns = form.canonical.columns
        counts = [instances.get(column.name, 0) for column in columns]
        shares = spread(form.canonical, form.problem, options, counts)
        if not shares or rate_rps <= 0:
            continue
        free = [
            min(paid.get(c.name, 0) * c.nodes, n * c.nodes)
            for c, n in zip(columns, counts, strict=True)
        ]
        (found,) = to_allocations(form.canonical, [0], counts, free, shares)
        most = (1 - problem.headroom) * (1 + 100 * TOLERANCE)
        if all(allocation.load_fraction <= most for allocation in found):
            return found
    return None
