"""Other good fleets: each the cheapest that does without some type of every earlier one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.optimizer.answers.allocations import allocate
from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.problem.question import Alternative
from melange_sky.optimizer.program.linear import LE
from melange_sky.optimizer.program.run import run
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.build import build_program
from melange_sky.optimizer.search.loss_scenarios import worst_loss
from melange_sky.optimizer.search.solution_point import read_point

if TYPE_CHECKING:
    from collections.abc import Iterator

    from melange_sky.optimizer.problem.question import SolveOptions
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.search.solution_point import Point


def find_alternatives(
    program: IntegerProgram, chosen: Point, options: SolveOptions
) -> Iterator[Alternative]:
    """Yield up to `alternatives` fleets by cost, each doing without some type of every other's.

    So none is an earlier one with something idle added. Raises TimeUpError where there was no time
    for the next.
    """
    scenarios, points = program.scenarios, [chosen]
    while len(points) <= options.alternatives:
        other = build_program(program.canonical, program.problem, options, scenarios=scenarios)
        _shut_out(other, points)
        outcome = run(other.lp, options)
        if outcome.termination is Termination.LIMIT:
            raise TimeUpError
        if outcome.objective is None:
            return
        point = read_point(other, outcome)
        loss = worst_loss(program.canonical, program.problem, options, point.instances)
        if loss is not None:
            scenarios = (*scenarios, loss)
            continue
        points.append(point)
        yield Alternative(
            allocations=allocate(other, point).by_demand,
            cost_usd_per_hour=point.cost,
            differs=_difference(other, chosen, point),
        )


def _shut_out(program: IntegerProgram, points: list[Point]) -> None:
    """Add Σ_{k in S} used_k ≤ |S| − 1 for the options S of each point, with x_k ≤ bound_k × used_k."""
    used = []
    for k, x in enumerate(program.x):
        u = program.lp.add(f"u_{k}", 0.0, 1.0, whole=True)
        program.row([(x, 1.0), (u, -float(program.bounds[k]))], LE, 0, f"used_{k}")
        used.append(u)
    for n, point in enumerate(points):
        inside = [k for k, count in enumerate(point.instances) if count]
        terms = [(used[k], 1.0) for k in inside]
        program.row(terms, LE, len(inside) - 1, f"unlike_fleet_{n}")


def _difference(program: IntegerProgram, chosen: Point, other: Point) -> str:
    several = len(program.canonical.demands) > 1
    parts = []
    for column, old, new in zip(
        program.canonical.columns, chosen.instances, other.instances, strict=True
    ):
        if old != new:
            who = f"{program.canonical.demands[column.demand].name}: " if several else ""
            parts.append(f"{who}{new} instead of {old} x {column.name}")
    dearer = other.cost - chosen.cost
    fraction = dearer / chosen.cost if chosen.cost else 0.0
    return f"{'; '.join(parts)} (${dearer:+.2f}/h, {fraction:+.1%})"
