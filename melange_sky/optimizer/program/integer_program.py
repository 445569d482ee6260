"""A program in the making: its variables, and the pieces that several constraints share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melange_sky.optimizer.program.linear import EQ, Linear

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.linear import Terms

Scenario = tuple[tuple[int, int], ...]
"""Instances lost at once: (column, how many of it)."""

ShareKey = tuple[int, int, int]
"""Bucket, column, and the way in which the share is served: 0 in time, from 1 on late."""


@dataclass(slots=True, kw_only=True)
class IntegerProgram:
    """The program and its variables, each an index of its columns. `y[b, k, way]` counts slices of 1/`slices` of a bucket's rate.

    Buckets are numbered over all demands; `offsets[d]` is the number of demand d's first one.
    `bounds` are the most instances that any best fleet uses. `scenarios` are the losses that the
    fleet is held to survive; with `own_spares` it survives every one, for options that are alike have
    spare instances of their own. `extra_goal` is what the objective counts besides the cost.
    """

    lp: Linear
    canonical: Canonical
    problem: Problem
    options: SolveOptions
    slices: int
    bounds: list[int]
    offsets: list[int]
    x: list[int]
    y: dict[ShareKey, int]
    scenarios: tuple[Scenario, ...] = ()
    own_spares: bool = False
    fixed: dict[tuple[int, int], int] = field(default_factory=dict)
    extra_goal: Terms = field(default_factory=list)

    @property
    def usable(self) -> float:
        """Fraction of an instance's capacity that may be used."""
        return 1.0 - self.problem.headroom

    def row(self, terms: Terms, sense: int, bound: float, name: str) -> None:
        """Add Σ coefficient × variable (sense) bound. Raises TimeUpError past the deadline."""
        self.options.deadline.check()
        self.lp.row(terms, sense, bound, name)

    def cost_terms(self) -> Terms:
        """Return Σ price × (instances − instances already paid for)."""
        columns = self.canonical.columns
        terms = [(x, column.price) for x, column in zip(self.x, columns, strict=True)]
        paid = ((f, columns[k]) for (_, k), f in self.fixed.items())
        return terms + [(f, -column.price / column.nodes) for f, column in paid]

    def goal_terms(self) -> Terms:
        """Return what is made least: the cost and, where asked for, the price of changes."""
        return self.cost_terms() + self.extra_goal


def share_variables(
    program: IntegerProgram, letter: str, demand: int | None = None
) -> dict[ShareKey, int]:
    """Return fresh variables for every bucket's share on every column that can serve it, in time or late.

    Those of one demand, or of all.
    """
    sliced, most = program.options.assignment == "sliced", float(program.slices)
    return {
        (program.offsets[column.demand] + b, k, way): program.lp.add(
            f"{letter}{f'late{way}' if way else ''}_{program.offsets[column.demand] + b}_{k}",
            0.0,
            most,
            whole=sliced,
        )
        for k, column in enumerate(program.canonical.columns)
        if demand in (None, column.demand)
        for way, b, _ in column.served()
    }


def require_service(program: IntegerProgram, y: dict[ShareKey, int], name: str) -> None:
    """Add Σ_k y_bk = 1 for every bucket b, for one set of share variables."""
    by_bucket: dict[int, Terms] = {}
    for (b, _, _), share in y.items():
        by_bucket.setdefault(b, []).append((share, 1.0))
    for b, terms in sorted(by_bucket.items()):
        program.row(terms, EQ, program.slices, f"{name}_{b}")
