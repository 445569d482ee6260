"""The rule that so many of all requests meet their limits, whichever sizes the others have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.optimizer.program.linear import LE
from melange_sky.optimizer.rules.base import TOLERANCE, Clause, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.problem.question import Demand, Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram, ShareKey
    from melange_sky.optimizer.program.linear import Terms
    from melange_sky.optimizer.rules.base import FinishedFleet
    from melange_sky.plans import Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Attainment(Rule):
    """Σ_bk rate_b × ((1 − level) × in time_bk + (1 − attained_bk) × late_bk) ≤ (1 − target) × Σ_b rate_b.

    For every model. What is served in time misses its limits in 1 − level of its requests, for every
    capacity is that of the level; of what is served late `attained_bk` meet them, often none. As each
    bucket is served once, in time_b = 1 − late_b, and the row, over the level, says
    Σ_bk rate_b × (1 − attained_bk ÷ level) × late_bk ≤ (level − target) ÷ level × Σ_b rate_b.
    """

    name = "attainment"
    speaks_of_shares = True
    tells_options_apart = False

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> Attainment | None:
        """Return the rule where some requests may be late."""
        return cls() if any(d.may_miss_fraction > 0 for d in problem.demands) else None

    def add_rows(self, program: IntegerProgram) -> None:
        """Add one row per model that has a late way."""
        for d in range(len(program.canonical.demands)):
            self.bound_late(program, program.y, d, f"late_of_model_{d}")

    def bound_late(
        self, program: IntegerProgram, y: Mapping[ShareKey, int], d: int, name: str
    ) -> None:
        """Add the row of model `d` for one set of share variables."""
        terms = late_terms(program, y, d)
        if terms:
            demand = program.canonical.demands[d]
            most = demand.may_miss_fraction * demand.workload.rate_rps
            program.row(terms, LE, most * program.slices, name)

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return none: the SLO is the question itself."""
        return []

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield every model of which too many requests are late."""
        for demand, allocations in zip(fleet.demands, fleet.allocations, strict=True):
            yield from self.too_late(demand, allocations)

    def too_late(
        self, demand: Demand, allocations: Iterable[Allocation], tolerance: float = TOLERANCE
    ) -> Iterator[str]:
        """Yield what these allocations serve late beyond what may be."""
        late = late_fraction(demand, allocations)
        if late > demand.may_miss_fraction + tolerance:
            yield (
                f"model '{demand.name}' serves {late:.9f} of its requests late where "
                f"{demand.may_miss_fraction:.9f} may be"
            )

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return True: the copies carry what it does in every way, and so no request later."""
        return True


def late_terms(program: IntegerProgram, y: Mapping[ShareKey, int], d: int) -> Terms:
    """Return Σ rate × weight of what model `d` serves late, in requests per second and slices."""
    columns, buckets = program.canonical.columns, program.canonical.buckets[d]
    start = program.offsets[d]
    return [
        (share, buckets[b - start].rate_rps * columns[k].weights[way])
        for (b, k, way), share in y.items()
        if way and columns[k].demand == d
    ]


def late_fraction(demand: Demand, allocations: Iterable[Allocation]) -> float:
    """Return what these allocations serve late, each request by its weight, as a fraction of all."""
    rates, total = demand.workload.rates_rps, demand.workload.rate_rps
    weights = {a: demand.way_weight(w) for w, a in enumerate(demand.late_levels, start=1)}
    late = sum(
        shares[i][j] * rates[i][j] * weights.get(attained, 1.0)
        for allocation in allocations
        for attained, shares in allocation.late
        for i, j in demand.workload.buckets()
    )
    return late / total if total > 0 else 0.0
