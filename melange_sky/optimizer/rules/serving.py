"""The rules that every fleet keeps: each request is served, and no instance carries more than it can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.optimizer.program.integer_program import load_terms, require_service
from melange_sky.optimizer.program.linear import LE
from melange_sky.optimizer.rules.base import TOLERANCE, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from melange_sky.capacities import OptionCapacity
    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.problem.question import (
        Demand,
        Problem,
        Robustness,
        SolveOptions,
    )
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.rules.base import Clause, FinishedFleet
    from melange_sky.plans import Allocation
    from melange_sky.workload import Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve(Rule):
    """Σ_k y_bk = 1 for every bucket b (all its slices, where sliced)."""

    name = "serve"
    speaks_of_shares = True
    tells_options_apart = False

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> Serve:
        """Return the rule: every problem asks for it."""
        return cls()

    def add_rows(self, program: IntegerProgram) -> None:
        """Add one row per bucket."""
        require_service(program, program.y, "serve_bucket")

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return none: what is to be served is not given up."""
        return []

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield every bucket whose shares do not sum to 1."""
        for demand, allocations in zip(fleet.demands, fleet.allocations, strict=True):
            yield from unserved(demand, [allocation.shares for allocation in allocations])

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return True: the copies serve what the instance did."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(Rule):
    """Σ_b load_bk × y_bk (+ protection) ≤ (1 − headroom) × x_k for every column k.

    `usable` is 1 − headroom. With `robustness` the load counts as it would be where capacities are
    wrong: see `load_terms`.
    """

    name = "load"
    tells_options_apart = False

    usable: float
    robustness: Robustness | None

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> Load:
        """Return the rule: every problem asks for it."""
        return cls(usable=1 - problem.headroom, robustness=options.robustness)

    def add_rows(self, program: IntegerProgram) -> None:
        """Add one row per column."""
        for k in range(len(program.x)):
            terms = load_terms(program, program.y, k, "load")
            terms.append((program.x[k], -self.usable))
            program.row(terms, LE, 0, f"load_fits_option_{k}")

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return none: capacity is what it is."""
        return []

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield every option that carries more than its instances can, or what it cannot serve."""
        for demand, allocations in zip(fleet.demands, fleet.allocations, strict=True):
            for allocation in allocations:
                yield from self.overload(fleet.problem, demand, allocation)

    def overload(
        self,
        problem: Problem,
        demand: Demand,
        allocation: Allocation,
        tolerance: float = TOLERANCE,
    ) -> Iterator[str]:
        """Yield what the instances of an allocation cannot carry of its shares."""
        candidate, shares = allocation.candidate, allocation.shares
        name, loads = candidate.option.name, []
        for i, j in demand.workload.buckets():
            if shares[i][j] > 0:
                raw = candidate.rate(i, j)
                if raw is None:
                    yield f"option '{name}' cannot serve bucket ({i}, {j})"
                    return
                served_rps = shares[i][j] * demand.workload.rates_rps[i][j]
                loads.append(served_rps / (raw * derate_of(problem, candidate)))
        load, room = self.protected(loads), allocation.instances * self.usable
        if load > room * (1 + tolerance) + tolerance:
            yield f"option '{name}' carries {load:.9f} where {room:.9f} is room"

    def protected(self, loads: list[float]) -> float:
        """Return the load where the worst buckets, as many as protected, are short of capacity."""
        if self.robustness is None:
            return sum(loads)
        error, budget = self.robustness.throughput_error, self.robustness.budget
        worst = sorted(loads, reverse=True)[:budget]
        return sum(loads) + sum(worst) * error / (1 - error)

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return whether the copies bear wrong figures as well as the instance did.

        Where a number of figures may be wrong, one type in place of two puts more of the fleet
        behind a single wrong one.
        """
        return self.robustness is None or self.robustness.budget is None

    @property
    def usable_fraction(self) -> float:
        """What wrong figures may leave of an instance."""
        return 1.0 if self.robustness is None else 1 - self.robustness.throughput_error


def unserved(demand: Demand, shares: Iterable[Matrix]) -> Iterator[str]:
    """Yield every bucket that these shares, one matrix per option, do not serve exactly once."""
    matrices = list(shares)
    for i, row in enumerate(demand.workload.rates_rps):
        for j, rate_rps in enumerate(row):
            served = sum(matrix[i][j] for matrix in matrices)
            wanted = 1.0 if rate_rps > 0 else 0.0
            if abs(served - wanted) > TOLERANCE:
                yield f"bucket ({i}, {j}) is served {served:.9f} times, not {wanted}"


def derate_of(problem: Problem, candidate: OptionCapacity) -> float:
    """Return the fraction of an option's capacity that interruptions leave."""
    spot = problem.constraints.spot
    return spot.availability_fraction if spot is not None and candidate.option.use_spot else 1.0
