"""Running the solver: in-process HiGHS, CBC where it is missing; honest about how far it got."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.question import SolveOptions
    from melange_sky.optimizer.program.linear import Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one solve came to. `status`: optimal, feasible, infeasible or unknown (time ran out).

    `bound` is a proven lower bound of the objective, None where the solver gives none. `values` are
    those of the program's columns, none where no solution was found.
    """

    status: str
    objective: float | None
    bound: float | None
    seconds: float
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


def run(linear: Linear, options: SolveOptions, seconds_left: float) -> Outcome:
    """Solve the program within the time left."""
    name = options.solver or ("highs" if has_highs() else "cbc")
    start = time.perf_counter()
    if options.stop_at_s is not None:
        seconds_left = min(seconds_left, options.stop_at_s - start)
    limit_s = max(seconds_left, 0.01)
    bound: float | None = None
    # Each solver's module is loaded where it is used: PuLP takes long to load, and CBC is rare.
    if name == "highs":
        from melange_sky.optimizer.program.highs import solve_by_highs

        status, values, bound = solve_by_highs(linear, options.mip_gap, limit_s)
    else:
        from melange_sky.optimizer.program.pulp_cbc import solve_by_cbc

        status, values = solve_by_cbc(linear, options.mip_gap, limit_s)
    found = status in ("optimal", "feasible")
    objective = linear.value(values) if found else None
    if bound is None and status == "optimal":
        bound = objective
    return Outcome(
        status=status,
        objective=objective,
        bound=bound,
        seconds=time.perf_counter() - start,
        solver=name,
        values=tuple(values) if found else (),
    )
