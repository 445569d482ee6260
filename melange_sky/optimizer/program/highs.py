"""HiGHS in this process: the program handed over as arrays, its banner kept from standard output."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, Any

import highspy
import numpy as np

from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.program.linear import GE, LE
from melange_sky.optimizer.program.termination import Termination

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.optimizer.program.linear import Linear

_SMALL = 1500
"""Columns up to which branching finds good fleets sooner than HiGHS's costlier heuristics do."""

_COSTLY = (
    "mip_heuristic_run_feasibility_jump",
    "mip_heuristic_run_rins",
    "mip_heuristic_run_rens",
    "mip_heuristic_run_root_reduced_cost",
    "mip_allow_restart",
)

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


def quiet_highs(settings: Mapping[str, object]) -> Any:
    """Return a new HiGHS that prints nothing and uses one thread, with these of its options set.

    One thread: runs are byte-equal whatever else the machine does. Options that a release does not know it
    does without.
    """
    _greet_unseen()
    highs = highspy.Highs()
    for name, value in (("output_flag", False), ("threads", 1), *settings.items()):
        highs.setOptionValue(name, value)
    return highs


_STRATEGIES = (1, 1, 4)
"""HiGHS's dual simplex, from its last basis and then afresh, and its primal one."""

_ENDS = (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kTimeLimit)


def solve_again(highs: Any, deadline: Deadline) -> None:
    """Solve a linear program that has an optimum, from the basis of its last solve. Raises TimeUpError.

    Where HiGHS loses its way from there it begins afresh, in the end by another simplex.
    """
    deadline.check()
    highs.setOptionValue("time_limit", highs.getRunTime() + deadline.left_s)
    for strategy in _STRATEGIES:
        highs.setOptionValue("simplex_strategy", strategy)
        highs.run()
        if highs.getModelStatus() in _ENDS:
            break
        highs.clearSolver()
    highs.setOptionValue("simplex_strategy", _STRATEGIES[0])
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise TimeUpError


def solve_by_highs(
    linear: Linear, mip_gap: float, deadline: Deadline
) -> tuple[Termination, list[float], float | None]:
    """Return how HiGHS ended, the columns' values, and its bound of the goal.

    HiGHS looks at its clock between its steps, so that it may end late by one of them.
    """
    settings = {
        "time_limit": deadline.left_s,
        # HiGHS's own default gap is 1e-4, so 0 must be said.
        "mip_rel_gap": mip_gap,
        "mip_abs_gap": 0.0,
        "mip_feasibility_tolerance": 1e-7,
        "primal_feasibility_tolerance": 1e-7,
    }
    costly = _COSTLY if len(linear.names) <= _SMALL else ()
    highs = quiet_highs(settings | dict.fromkeys(costly, False))
    highs.passModel(as_highs(linear))
    highs.run()
    info = highs.getInfo()
    termination = _termination(highs.getModelStatus(), info)
    bound = float(info.mip_dual_bound) if linear.is_whole() else None
    if not termination.has_solution:
        # What was proven until the time was up holds, although no solution was found.
        is_known = bound is not None and isfinite(bound)
        return termination, [], bound if is_known and termination is Termination.LIMIT else None
    return termination, list(highs.getSolution().col_value), bound


def solve_with_duals(linear: Linear, deadline: Deadline) -> tuple[float, list[float]]:
    """Return the goal's least value with no column whole, and each row's dual value.

    Raises TimeUpError where HiGHS found none before the deadline.
    """
    highs = quiet_highs({"time_limit": deadline.left_s})
    highs.passModel(as_highs(linear))
    highs.run()
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise TimeUpError
    value = float(highs.getInfo().objective_function_value)
    return value, [float(dual) for dual in highs.getSolution().row_dual]


@dataclass(frozen=True, slots=True)
class RelaxedOptimum:
    """The least goal with no column whole, every column's value, and the reduced costs of those that are bound."""

    goal: float
    values: NDArray[np.float64]
    reduced_costs: NDArray[np.float64]


class Relaxed:
    """A program with no column whole, solved again and again with other lower bounds of some columns.

    Each solve begins at the basis in which the one before ended.
    """

    def __init__(self, linear: Linear, columns: Sequence[int], deadline: Deadline) -> None:
        self._columns = np.array(columns, dtype=np.int32)
        self._upper = np.array([linear.upper[column] for column in columns])
        self._deadline = deadline
        # Presolve off: the basis of the solve before is worth more.
        settings = {"presolve": "off", "primal_feasibility_tolerance": 1e-9}
        self._highs = quiet_highs(settings)
        handed = as_highs(linear)
        handed.integrality_ = []
        self._highs.passModel(handed)

    def least_from(self, lower: NDArray[np.float64]) -> RelaxedOptimum | None:
        """Return the optimum with at least so much of each column, None where there is none.

        Raises TimeUpError.
        """
        self._deadline.check()
        highs = self._highs
        highs.setOptionValue("time_limit", highs.getRunTime() + self._deadline.left_s)
        highs.changeColsBounds(len(self._columns), self._columns, lower, self._upper)
        highs.run()
        status = highs.getModelStatus()
        if status == highspy.HighsModelStatus.kTimeLimit:
            raise TimeUpError
        if status != highspy.HighsModelStatus.kOptimal:
            return None
        solution = highs.getSolution()
        return RelaxedOptimum(
            goal=float(highs.getInfo().objective_function_value),
            values=np.array(solution.col_value),
            reduced_costs=np.array(solution.col_dual)[self._columns],
        )


def as_highs(linear: Linear) -> Any:
    """Return the program as HiGHS's own model, its matrix by rows."""
    lp = highspy.HighsLp()
    goal = np.zeros(len(linear.names))
    for column, coefficient in linear.goal:
        goal[column] += coefficient
    lp.num_col_, lp.num_row_ = len(linear.names), len(linear.rows)
    lp.col_cost_ = goal
    lp.col_lower_, lp.col_upper_ = np.array(linear.lower), np.array(linear.upper)
    lp.row_lower_ = np.array([-np.inf if row.sense == LE else row.bound for row in linear.rows])
    lp.row_upper_ = np.array([np.inf if row.sense == GE else row.bound for row in linear.rows])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.num_col_, lp.a_matrix_.num_row_ = lp.num_col_, lp.num_row_
    lengths = [len(row.columns) for row in linear.rows]
    starts, rows = np.concatenate(([0], np.cumsum(lengths))), linear.rows
    lp.a_matrix_.start_ = starts.astype(np.int32)
    columns = chain.from_iterable(row.columns for row in rows)
    lp.a_matrix_.index_ = np.fromiter(columns, np.int32, count=int(starts[-1]))
    coefficients = chain.from_iterable(row.coefficients for row in rows)
    lp.a_matrix_.value_ = np.fromiter(coefficients, np.float64, count=int(starts[-1]))
    if linear.is_whole():
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[whole] for whole in linear.whole]
    return lp


def _termination(model_status: Any, info: Any) -> Termination:
    """Return how far it got. At a limit a solution counts only where it is feasible."""
    kinds = highspy.HighsModelStatus
    if model_status == kinds.kOptimal:
        return Termination.OPTIMAL
    if model_status in (kinds.kInfeasible, kinds.kUnboundedOrInfeasible, kinds.kUnbounded):
        return Termination.INFEASIBLE
    if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
        return Termination.FEASIBLE
    late = model_status == kinds.kTimeLimit
    return Termination.LIMIT if late else Termination.GAVE_UP
