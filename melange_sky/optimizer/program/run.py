"""Running the solver: in-process HiGHS, CBC where it is missing; honest about how far it got."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from melange_sky.optimizer.program.termination import Termination

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer.problem.question import SolveOptions
    from melange_sky.optimizer.program.linear import Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one solve came to.

    `bound` is a proven lower bound of the objective, None where the solver gives none. `values` are
    those of the program's columns, none where no solution was found.
    """

    termination: Termination
    objective: float | None
    bound: float | None
    solver: str
    values: tuple[float, ...] = ()


@cache
def has_highs() -> bool:
    """Return whether HiGHS can be used in this process."""
    try:
        import highspy  # noqa: F401
    except ImportError:
        return False
    return True


def run(linear: Linear, options: SolveOptions) -> Outcome:
    """Solve the program before the deadline; past it, nothing is begun."""
    name = options.solver or ("highs" if has_highs() else "cbc")
    if options.deadline.passed:
        return Outcome(termination=Termination.LIMIT, objective=None, bound=None, solver=name)
    bound: float | None = None
    # Each solver's module is loaded where it is used: PuLP takes long to load, and CBC is rare.
    if name == "highs":
        from melange_sky.optimizer.program.highs import solve_by_highs

        termination, values, bound = solve_by_highs(linear, options.mip_gap, options.deadline)
    else:
        from melange_sky.optimizer.program.pulp_cbc import solve_by_cbc

        termination, values = solve_by_cbc(linear, options.mip_gap, options.deadline)
    objective = linear.value(values) if termination.has_solution else None
    if bound is None and termination is Termination.OPTIMAL:
        bound = objective
    return Outcome(
        termination=termination,
        objective=objective,
        bound=bound,
        solver=name,
        values=tuple(values) if termination.has_solution else (),
    )


def divisible(linear: Linear, columns: Sequence[int], options: SolveOptions) -> list[float] | None:
    """Return so much of each of these columns as the optimum holds with no column whole.

    None where that has none, or HiGHS is not there. Raises TimeUpError.
    """
    if options.solver == "cbc" or not has_highs():
        return None
    import numpy as np

    from melange_sky.optimizer.program.highs import Relaxed

    found = Relaxed(linear, columns, options.deadline).least_from(np.zeros(len(columns)))
    return None if found is None else [float(found.values[column]) for column in columns]
