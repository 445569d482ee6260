"""The search for the least goal, loss scenarios added as they prove to matter."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.optimizer.losses import worst_loss
from melange_sky.optimizer.model import build_model
from melange_sky.optimizer.point import Point, read_point
from melange_sky.optimizer.solver import run

if TYPE_CHECKING:
    from melange_sky.optimizer.fleet import Fleet
    from melange_sky.optimizer.problem import Problem, SolveOptions
    from melange_sky.optimizer.program import Model, Scenario
    from melange_sky.optimizer.solver import Outcome


def find_cheapest(
    fleet: Fleet, problem: Problem, options: SolveOptions
) -> tuple[Model, Outcome, Point | None]:
    """Return the model solved for its goal alone; the point is None where none was found.

    With spare instances asked for: solve, seek the loss that the fleet does not survive, add it,
    solve again. Each round adds one of finitely many losses, and few of them ever matter.
    """
    start = time.perf_counter()
    scenarios: tuple[Scenario, ...] = ()
    while True:
        model = build_model(fleet, problem, options, scenarios=scenarios)
        seconds_left = options.time_limit_s - (time.perf_counter() - start)
        outcome = run(model.lp, options, seconds_left)
        if outcome.objective is None:
            return model, outcome, None
        point = read_point(model)
        loss = worst_loss(fleet, problem, options, point.instances)
        if loss is None:
            return model, outcome, point
        scenarios = (*scenarios, loss)


def is_feasible(fleet: Fleet, problem: Problem, options: SolveOptions) -> bool | None:
    """Return whether any fleet keeps to all constraints, None where time ran out."""
    any_fleet = replace(options, mip_gap=1e6, within_fraction=0.0, alternatives=0)
    _, outcome, point = find_cheapest(fleet, problem, any_fleet)
    if point is not None:
        return True
    return False if outcome.status == "infeasible" else None
