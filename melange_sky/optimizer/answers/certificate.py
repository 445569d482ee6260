"""The result re-checked in plain Python, from the nouns alone: the solver is not believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.question import Demand, Problem
    from melange_sky.plans import Allocation

TOLERANCE = 2e-6


def check_allocations(
    demands: tuple[Demand, ...], allocations: tuple[tuple[Allocation, ...], ...], problem: Problem
) -> None:
    """Raise RuntimeError where a bucket is not fully served or an option is overloaded.

    Such an error is a bug of the optimizer, never of its input.
    """
    for demand, mine in zip(demands, allocations, strict=True):
        _check_coverage(demand, mine)
        for allocation in mine:
            _check_load(demand, allocation, problem)
    _check_limits(allocations, problem)


def _check_coverage(demand: Demand, allocations: tuple[Allocation, ...]) -> None:
    for i, row in enumerate(demand.workload.rates_rps):
        for j, rate_rps in enumerate(row):
            served = sum(allocation.shares[i][j] for allocation in allocations)
            wanted = 1.0 if rate_rps > 0 else 0.0
            if abs(served - wanted) > TOLERANCE:
                raise RuntimeError(f"bucket ({i}, {j}) is served {served:.9f} times, not {wanted}")


def _check_load(demand: Demand, allocation: Allocation, problem: Problem) -> None:
    option, spot = allocation.candidate.option, problem.constraints.spot
    derate = spot.availability_fraction if spot is not None and option.use_spot else 1.0
    load = 0.0
    for i, row in enumerate(demand.workload.rates_rps):
        for j, rate_rps in enumerate(row):
            if allocation.shares[i][j] > 0:
                raw = allocation.candidate.rate(i, j)
                if raw is None:
                    raise RuntimeError(f"option '{option.name}' cannot serve bucket ({i}, {j})")
                load += allocation.shares[i][j] * rate_rps / (raw * derate)
    room = allocation.instances * (1 - problem.headroom)
    if load > room * (1 + TOLERANCE) + TOLERANCE:
        raise RuntimeError(f"option '{option.name}' carries {load:.9f} where {room:.9f} is room")


def _check_limits(allocations: tuple[tuple[Allocation, ...], ...], problem: Problem) -> None:
    for key, limit in problem.constraints.limits:
        used = sum(
            allocation.instances * allocation.candidate.option.units(key)
            for mine in allocations
            for allocation in mine
        )
        if used > limit:
            raise RuntimeError(f"{used} of '{key}' are used where the limit is {limit}")
