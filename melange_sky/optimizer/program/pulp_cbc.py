"""The program as a PuLP model: for CBC, and to be written as an LP file that people review."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pulp

from melange_sky.optimizer.program.termination import Termination

if TYPE_CHECKING:
    from melange_sky.optimizer.deadline import Deadline
    from melange_sky.optimizer.program.linear import Linear, Terms


def as_pulp(linear: Linear) -> tuple[pulp.LpProblem, list[pulp.LpVariable]]:
    """Return the PuLP model and its variables, in the order of the columns."""
    lp = pulp.LpProblem("fleet", pulp.LpMinimize)
    variables = [
        lp.add_variable(
            name,
            lower,
            None if math.isinf(upper) else upper,
            pulp.LpInteger if whole else pulp.LpContinuous,
        )
        for name, lower, upper, whole in zip(
            linear.names, linear.lower, linear.upper, linear.whole, strict=True
        )
    ]

    def expression(terms: Terms) -> pulp.LpAffineExpression:
        return pulp.LpAffineExpression([(variables[c], value) for c, value in terms])

    for row in linear.rows:
        terms = list(zip(row.columns, row.coefficients, strict=True))
        lp.addConstraint(pulp.LpConstraint(expression(terms), row.sense, row.name, row.bound))
    lp.setObjective(expression(linear.goal))
    return lp, variables


def solve_by_cbc(
    linear: Linear, mip_gap: float, deadline: Deadline
) -> tuple[Termination, list[float]]:
    """Return how CBC ended and the columns' values."""
    lp, variables = as_pulp(linear)
    # The CBC that PuLP ships, by the class that PuLP 4 keeps.
    path = pulp.PULP_CBC_CMD.pulp_cbc_path
    # CBC takes 0 for no limit at all.
    limit_s = None if math.isinf(deadline.left_s) else max(deadline.left_s, 0.01)
    lp.solve(pulp.COIN_CMD(path=path, msg=False, timeLimit=limit_s, gapRel=mip_gap, threads=1))
    # LpStatus says Optimal at a time limit whatever the gap; only sol_status tells.
    match lp.sol_status:
        case pulp.LpSolutionOptimal:
            termination = Termination.OPTIMAL
        case pulp.LpSolutionIntegerFeasible:
            termination = Termination.FEASIBLE
        case pulp.LpSolutionInfeasible | pulp.LpSolutionUnbounded:
            termination = Termination.INFEASIBLE
        case _:
            termination = Termination.LIMIT if deadline.passed else Termination.GAVE_UP
    return termination, [variable.varValue or 0.0 for variable in variables]
