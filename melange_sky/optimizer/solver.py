"""Running the solver: in-process HiGHS, CBC where it is missing; honest about how far it got."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pulp

if TYPE_CHECKING:
    from melange_sky.optimizer.problem import SolveOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one solve came to. `status`: optimal, feasible, infeasible or unknown (time ran out).

    `bound` is a proven lower bound of the objective, None where the solver gives none.
    """

    status: str
    objective: float | None
    bound: float | None
    seconds: float
    solver: str


def has_highs() -> bool:
    """Return whether HiGHS can be used in this process."""
    return bool(pulp.HiGHS(msg=False).available())


_greeting = threading.Lock()
_greeted = threading.Event()


def _greet_unseen() -> None:
    """Let HiGHS print its banner once where nobody reads it.

    From 1.16 on the first instance in a process writes two lines to file descriptor 1 before any
    option can be set, in the midst of what `--format json` promises to be one document.
    """
    with _greeting:
        if _greeted.is_set():
            return
        _greeted.set()
        import highspy

        with contextlib.suppress(ValueError, OSError, AttributeError):
            sys.stdout.flush()
        try:
            kept = os.dup(1)
        except OSError:  # no standard output: nothing can reach it
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.close(nowhere)
            highspy.Highs()
            with contextlib.suppress(
                OSError, TypeError
            ):  # what C's own buffer holds must not come out later
                ctypes.CDLL(None).fflush(None)
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def run(lp: pulp.LpProblem, options: SolveOptions, seconds_left: float) -> Outcome:
    """Solve `lp` within the time left; values are in its variables afterwards."""
    name = options.solver or ("highs" if has_highs() else "cbc")
    start = time.perf_counter()
    if options.stop_at_s is not None:
        seconds_left = min(seconds_left, options.stop_at_s - start)
    limit = max(seconds_left, 0.01)
    solver: Any
    if name == "highs":
        _greet_unseen()
        # One thread: runs are byte-equal whatever else the machine does. HiGHS's own default gap
        # is 1e-4, so 0 must be said.
        solver = pulp.HiGHS(
            msg=False, timeLimit=limit, gapRel=options.mip_gap, gapAbs=0.0, threads=1,
            mip_feasibility_tolerance=1e-7, primal_feasibility_tolerance=1e-7,
        )  # fmt: skip
    else:
        # The CBC that PuLP ships, by the class that PuLP 4 keeps.
        path = pulp.PULP_CBC_CMD.pulp_cbc_path
        solver = pulp.COIN_CMD(
            path=path, msg=False, timeLimit=limit, gapRel=options.mip_gap, threads=1
        )
    lp.solve(solver)
    seconds = time.perf_counter() - start
    # LpStatus says Optimal at a time limit whatever the gap; only sol_status tells.
    match lp.sol_status:
        case pulp.LpSolutionOptimal:
            status = "optimal"
        case pulp.LpSolutionIntegerFeasible:
            status = "feasible"
        case pulp.LpSolutionInfeasible | pulp.LpSolutionUnbounded:
            status = "infeasible"
        case _:
            status = "unknown"
    found = status in ("optimal", "feasible")
    objective = float(pulp.value(lp.objective)) if found else None
    bound = objective if status == "optimal" else None
    if name == "highs" and found and lp.isMIP():
        bound = float(lp.solverModel.getInfo().mip_dual_bound)
    return Outcome(status=status, objective=objective, bound=bound, seconds=seconds, solver=name)
