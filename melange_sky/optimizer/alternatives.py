"""Other good fleets: each the cheapest whose set of option types has not been seen yet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pulp

from melange_sky.optimizer.losses import worst_loss
from melange_sky.optimizer.model import build_model
from melange_sky.optimizer.point import Point, read_point
from melange_sky.optimizer.problem import Alternative
from melange_sky.optimizer.solver import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from melange_sky.optimizer.program import Model
    from melange_sky.plan import Allocation


def find_alternatives(
    model: Model,
    chosen: Point,
    allocate: Callable[[Model, Point], tuple[tuple[Allocation, ...], ...]],
) -> tuple[Alternative, ...]:
    """Return up to `alternatives` fleets by cost, no two with the same set of option types.

    A set S is shut out by: some type of S unused, or some type outside S used.
    """
    start, options = time.perf_counter(), model.options
    scenarios, seen = model.scenarios, [chosen]
    found: list[Alternative] = []
    while len(found) < options.alternatives:
        seconds = options.time_limit_s - (time.perf_counter() - start)
        other = build_model(model.fleet, model.problem, options, scenarios=scenarios)
        _shut_out(other, seen)
        outcome = run(other.lp, options, seconds)
        if seconds <= 0 or outcome.objective is None:
            break
        point = read_point(other)
        loss = worst_loss(model.fleet, model.problem, options, point.instances)
        if loss is not None:
            scenarios = (*scenarios, loss)
            continue
        seen.append(point)
        found.append(
            Alternative(
                allocations=allocate(other, point),
                cost_usd_per_hour=point.cost,
                differs=_difference(other, chosen, point),
            )
        )
    return tuple(found)


def _shut_out(model: Model, seen: list[Point]) -> None:
    used = []
    for k, x in enumerate(model.x):
        u = model.lp.add_variable(f"u_{k}", 0, 1, pulp.LpInteger)
        model.row([(x, 1.0), (u, -float(model.bounds[k]))], pulp.LpConstraintLE, 0, f"used_{k}")
        model.row([(x, 1.0), (u, -1.0)], pulp.LpConstraintGE, 0, f"unused_{k}")
        used.append(u)
    for n, point in enumerate(seen):
        inside = [k for k, count in enumerate(point.instances) if count]
        outside = [k for k, count in enumerate(point.instances) if not count]
        terms = [(used[k], 1.0) for k in outside] + [(used[k], -1.0) for k in inside]
        model.row(terms, pulp.LpConstraintGE, 1 - len(inside), f"unlike_fleet_{n}")


def _difference(model: Model, chosen: Point, other: Point) -> str:
    several = len(model.fleet.demands) > 1
    parts = []
    for column, old, new in zip(
        model.fleet.columns, chosen.instances, other.instances, strict=True
    ):
        if old != new:
            who = f"{model.fleet.demands[column.demand].name}: " if several else ""
            parts.append(f"{who}{new} instead of {old} x {column.name}")
    dearer = other.cost - chosen.cost
    fraction = dearer / chosen.cost if chosen.cost else 0.0
    return f"{'; '.join(parts)} (${dearer:+.2f}/h, {fraction:+.1%})"
