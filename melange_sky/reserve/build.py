"""The fleets that serve a problem's mix, made from the optimizer's own programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.deadline import NEVER, Deadline
from melange_sky.optimizer.problem.question import SolveOptions
from melange_sky.optimizer.program.highs import Relaxed
from melange_sky.optimizer.rules.build import build_program
from melange_sky.optimizer.search.levels import checked_levels
from melange_sky.reserve.serving import Level, Served

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer.problem.question import Problem
    from melange_sky.optimizer.search.levels import Levelled


def served_by(problem: Problem, names: Sequence[str], deadline: Deadline = NEVER) -> Served:
    """Return the fleets that serve one model's mix; `names` are the options in the order of the arrays.

    Make the problem at the highest rate that is asked for: tiny loads are rounded up.

    Raises InfeasibleError where a size is served by no option, TimeUpError.
    """
    forms = checked_levels(problem, deadline)
    place = {name: k for k, name in enumerate(names)}
    return Served(levels=[_level(form, place, deadline) for form in forms], deadline=deadline)


def _level(form: Levelled, place: dict[str, int], deadline: Deadline) -> Level:
    program = build_program(form.canonical, form.problem, SolveOptions(deadline=deadline))
    columns = form.canonical.columns
    rate_rps = form.problem.demands[0].workload.rate_rps
    most = np.zeros(len(place))
    for column in columns:
        most[place[column.name]] = column.most_load / program.usable / rate_rps
    for x in program.x:
        program.lp.upper[x] = np.inf
    return Level(
        relaxed=Relaxed(program.lp, program.x, deadline),
        asked_rps=rate_rps,
        places=np.array([place[column.name] for column in columns], dtype=np.intp),
        prices=np.array([column.price for column in columns]),
        most=most,
    )
