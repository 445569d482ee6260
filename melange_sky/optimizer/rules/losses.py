"""The rule that a fleet stands when instances go: whichever, so many at once."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.program.integer_program import require_service, share_variables
from melange_sky.optimizer.program.linear import GE, LE
from melange_sky.optimizer.rules.attainment import Attainment
from melange_sky.optimizer.rules.base import Clause, Rule
from melange_sky.optimizer.rules.serving import Load, unserved

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from melange_sky.optimizer.problem.canonical import Canonical, Column
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.rules.base import FinishedFleet

MAX_SPARE = 6
"""Every way to lose so many instances is tried, which grows fast."""

_AFTER_LOSS = 2e-5
"""What the check lets pass after a loss, as a fraction: the search takes 1e-5 for rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spare(Rule):
    """After each loss scenario l, other shares s still serve everything.

    Σ_k s_bk = 1 and Σ_b load_bk × s_bk ≤ (1 − headroom) × (x_k − Σ_{n ≤ l_k} e_kn), where
    x_k ≤ n − 1 + bound_k × e_kn makes e_kn = 1 once k has n instances: what is not there cannot be
    lost. Which scenarios matter is found while solving: see `loss_scenarios.py`.

    No serving fleet has Σ_k price_k × x_k below D, the cost of every bucket on its cheapest option
    without rounding; so what is left after losing n ≤ spare instances of k obeys
    Σ_j price_j × x_j − price_k × Σ_{m ≤ n} e_km ≥ D. That cuts off what no scenario has to.

    A program with `own_spares` asks for more than the rule, and needs no scenario: options g of one model
    with the same loads hold `spare` instances beyond what they carry,
    Σ_{k ∈ g} Σ_b load_bk × y_bk ≤ (1 − headroom) × (Σ_{k ∈ g} x_k − spare × g_g), x_k ≤ bound_k × g_g.
    Whatever is lost, the others of its kind carry its load.
    """

    name = "spare"
    weight = 2
    counts_instances = True

    spare: int

    @classmethod
    def of(cls, problem: Problem, options: SolveOptions) -> Spare | None:
        """Return the rule where any instance must be spare."""
        spare = problem.constraints.spare
        return cls(spare=spare) if spare > 0 else None

    @classmethod
    def input_problems(cls, problem: Problem) -> Iterable[str]:
        """Return that the losses are too many to try."""
        if problem.constraints.spare > MAX_SPARE:
            yield f"spare must be at most {MAX_SPARE}, not {problem.constraints.spare}"

    def add_rows(self, program: IntegerProgram) -> None:
        """Add e_kn, the cuts by cost, and s and its rows for every scenario of the program, or own spares."""
        if program.own_spares:
            self._own_spares(program)
            return
        there = {
            (k, n): _there(program, k, n)
            for k in range(len(program.x))
            for n in range(1, 1 + self._most_lost(program, k))
        }
        for demand in range(len(program.canonical.demands)):
            self._cost_after_loss(program, demand, there)
        load = Load.of(program.problem, program.options)
        for s, scenario in enumerate(program.scenarios):
            lost = dict(scenario)
            demand = program.canonical.columns[scenario[0][0]].demand
            shares = share_variables(program, f"s{s}", demand)
            require_service(program, shares, f"after_loss_{s}_serve_bucket")
            if (attainment := Attainment.of(program.problem, program.options)) is not None:
                attainment.bound_late(program, shares, demand, f"after_loss_{s}_late")
            for k in program.canonical.of_demand(demand):
                terms = load.terms(program, shares, k, f"after_loss_{s}_load")
                terms.append((program.x[k], -program.usable))
                terms += [(there[k, n], program.usable) for n in range(1, lost.get(k, 0) + 1)]
                program.row(terms, LE, 0, f"after_loss_{s}_load_fits_option_{k}")

    def _own_spares(self, program: IntegerProgram) -> None:
        alike: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        for k, column in enumerate(program.canonical.columns):
            alike[column.demand, column.loads.tobytes()].append(k)
        load = Load.of(program.problem, program.options)
        for first, *others in alike.values():
            there = program.lp.add(f"g_{first}", 0.0, 1.0, whole=True)
            terms = [(there, self.spare * program.usable)]
            for k in (first, *others):
                terms += load.terms(program, program.y, k, "own_spares_load")
                terms.append((program.x[k], -program.usable))
                used = [(program.x[k], 1.0), (there, -float(program.bounds[k]))]
                program.row(used, LE, 0, f"option_{k}_has_own_spares")
            program.row(terms, LE, 0, f"own_spares_of_option_{first}")

    def _most_lost(self, program: IntegerProgram, k: int) -> int:
        return max([min(self.spare, 2), *(dict(s).get(k, 0) for s in program.scenarios)])

    def _cost_after_loss(
        self, program: IntegerProgram, demand: int, there: dict[tuple[int, int], int]
    ) -> None:
        of_demand = program.canonical.of_demand(demand)
        columns = program.canonical.columns
        prices = np.array([columns[k].price for k in of_demand])
        loads = program.canonical.least_loads(of_demand)
        least = float((prices[:, None] * loads).min(axis=0).sum())
        whole = [(program.x[k], columns[k].price) for k in of_demand]
        for k in of_demand:
            lost = [(there[k, n], -columns[k].price) for n in range(1, 3) if (k, n) in there]
            lost = lost[: self.spare]
            program.row(whole + lost, GE, least / program.usable, f"worth_after_loss_option_{k}")

    def clauses(self, canonical: Canonical, bounds: Sequence[int]) -> list[Clause]:
        """Return the spare instances, fewer by one at a time."""
        spare = self.spare
        return [
            Clause(
                text=f"{spare} spare instance{'' if spare == 1 else 's'}",
                steps=spare,
                loosen=lambda constraints, step: replace(constraints, spare=spare - step),
                remedy=lambda step: f"lower spare to {spare - step}",
            )
        ]

    def violations(self, fleet: FinishedFleet) -> Iterator[str]:
        """Yield every loss that leaves too little: what is proposed for it is checked, not believed."""
        load = Load.of(fleet.problem, fleet.options)
        for d, (demand, allocations) in enumerate(
            zip(fleet.demands, fleet.allocations, strict=True)
        ):
            counts = {a.candidate.option.name: a.instances for a in allocations}
            for lost in losses(counts, self.spare):
                words = " and ".join(f"{n} x {name}" for name, n in lost.items())
                shares = fleet.shares_after_loss(d, lost)
                if shares is None:
                    yield f"model '{demand.name}' is not served once {words} are lost"
                    continue
                left = [
                    replace(
                        a,
                        instances=a.instances - lost.get(name, 0),
                        shares=shares[name][0],
                        late=shares[name][1],
                    )
                    for a in allocations
                    for name in [a.candidate.option.name]
                    if name in shares
                ]
                broken = list(unserved(demand, [a.shares for a in left]))
                broken += Attainment().too_late(demand, left, _AFTER_LOSS)
                for a in left:
                    broken += load.overload(fleet.problem, demand, a, _AFTER_LOSS)
                yield from (f"once {words} are lost, {text}" for text in broken)

    def may_replace(self, column: Column, other: Column, copies: float) -> bool:
        """Return True: losing a copy loses no more than losing the instance did."""
        return True

    @property
    def spare_instances(self) -> int:
        """The spare ones."""
        return self.spare


def losses(counts: dict[str, int], spare: int) -> Iterator[dict[str, int]]:
    """Yield every way to lose `spare` of these instances, or all where there are fewer."""
    names = sorted(name for name, count in counts.items() if count > 0)
    size = min(spare, sum(counts.values()))
    if size:
        for lost in combinations_with_replacement(names, size):
            taken = {name: lost.count(name) for name in dict.fromkeys(lost)}
            if all(n <= counts[name] for name, n in taken.items()):
                yield taken


def _there(program: IntegerProgram, k: int, n: int) -> int:
    variable = program.lp.add(f"e_{k}_{n}", 0.0, 1.0, whole=True)
    program.row(
        [(program.x[k], 1.0), (variable, -float(program.bounds[k]))],
        LE,
        n - 1,
        f"option_{k}_has_{n}",
    )
    return variable
