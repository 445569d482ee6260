"""The rules that every fleet keeps: each request is served, and no instance carries more than it can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.optimizer.program.integer_program import require_service
from melange_sky.optimizer.program.linear import GE, LE
from melange_sky.optimizer.rules.base import TOLERANCE, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.problem.question import (
        Demand,
        Problem,
        Robustness,
        SolveOptions,
    )
    from melange_sky.optimizer.program.integer_program import IntegerProgram, ShareKey
    from melange_sky.optimizer.program.linear import Terms
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
    wrong: see `terms`.
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
            terms = self.terms(program, program.y, k, "load")
            terms.append((program.x[k], -self.usable))
            program.row(terms, LE, 0, f"load_fits_option_{k}")

    def terms(self, program: IntegerProgram, y: dict[ShareKey, int], k: int, name: str) -> Terms:
        """Return the load on column k in instances, protected against wrong capacities where asked.

        A capacity short by the fraction e makes a load 1 / (1 − e) times as large. Against any Γ such
        errors the row gains Γ × z_k + Σ_b q_bk with z_k + q_bk ≥ e / (1 − e) × load_bk × y_bk
        (Bertsimas & Sim 2004, eq. 8: the dual of the worst choice of Γ buckets).
        """
        column = program.canonical.columns[k]
        start = program.offsets[column.demand]
        loads: dict[int, Terms] = {}
        for way, b, load in column.served():
            share = y[start + b, k, way]
            loads.setdefault(start + b, []).append((share, load / program.slices))
        terms: Terms = [term for of_bucket in loads.values() for term in of_bucket]
        if self.robustness is None:
            return terms
        error, budget = self.robustness.throughput_error, self.robustness.budget
        if budget is None or budget >= len(loads):
            return [(share, load / (1 - error)) for share, load in terms]
        worst = program.lp.add(f"z_{name}_{k}")
        terms.append((worst, float(budget)))
        for b, of_bucket in loads.items():
            own = program.lp.add(f"q_{name}_{b}_{k}")
            terms.append((own, 1.0))
            wrong = [(share, -load * error / (1 - error)) for share, load in of_bucket]
            program.row(
                [(worst, 1.0), (own, 1.0), *wrong],
                GE,
                0,
                f"{name}_protects_bucket_{b}_option_{k}",
            )
        return terms

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
        candidate = allocation.candidate
        name, loads = candidate.option.name, []
        derate = problem.constraints.available_fraction(
            use_spot=candidate.option.use_spot, nodes=candidate.option.nodes
        )
        for i, j in demand.workload.buckets():
            load = 0.0
            for way, share in enumerate(_by_way(demand, allocation, i, j)):
                if share <= 0:
                    continue
                raw = demand.way_rate(candidate, i, j, way)
                if raw is None:
                    yield f"option '{name}' cannot serve bucket ({i}, {j})"
                    return
                load += share * demand.workload.rates_rps[i][j] / (raw * derate)
            loads.append(load)
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


def _by_way(demand: Demand, allocation: Allocation, i: int, j: int) -> list[float]:
    """Return the shares of a bucket that an allocation serves in time and in each late way."""
    late = [sum(m[i][j] for a, m in allocation.late if a == level) for level in demand.late_levels]
    in_time = allocation.shares[i][j] - allocation.late_share(i, j)
    return [in_time if in_time > TOLERANCE / 10 else 0.0, *late]


def unserved(demand: Demand, shares: Iterable[Matrix]) -> Iterator[str]:
    """Yield every bucket that these shares, one matrix per option, do not serve exactly once."""
    matrices = list(shares)
    for i, row in enumerate(demand.workload.rates_rps):
        for j, rate_rps in enumerate(row):
            served = sum(matrix[i][j] for matrix in matrices)
            wanted = 1.0 if rate_rps > 0 else 0.0
            if abs(served - wanted) > TOLERANCE:
                yield f"bucket ({i}, {j}) is served {served:.9f} times, not {wanted}"
