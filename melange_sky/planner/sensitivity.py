"""What the error band of estimated capacities means for the plan's cost."""

from __future__ import annotations

from dataclasses import replace

from melange_sky.capacity import CapacityCell, OptionCapacity, Origin
from melange_sky.optimizer import Problem, Solution, SolveOptions, least_cost
from melange_sky.plan import Sensitivity


def cost_band(
    problem: Problem, solution: Solution, options: SolveOptions, command: str | None
) -> Sensitivity | None:
    """Return how the optimum's cost moves over the estimates' error band, None without estimates.

    All estimates at their good end give the low cost, all at their bad end the high one. The
    accelerator worth measuring is the one whose band alone moves the cost most; ties go to the name.
    """
    names = sorted(
        {o.option.accelerator for d in problem.demands for o in d.options if _estimated(o)}
    )
    if not names:
        return None
    plain = replace(options, within_fraction=0.0, alternatives=0, stay_close=None)
    moves = {name: _span(problem, solution, plain, name) for name in names}
    best = max(names, key=lambda name: moves[name])
    worth = moves[best] > 1e-6
    return Sensitivity(
        low_usd_per_hour=_cost(problem, plain, set(names), good=True),
        high_usd_per_hour=_cost(problem, plain, set(names), good=False),
        measure=best if worth else None,
        measure_usd_per_hour=moves[best] if worth and moves[best] < float("inf") else None,
        command=f"{command} --accelerators {best}" if worth and command else None,
    )


def _estimated(option: OptionCapacity) -> bool:
    return any(cell.origin is Origin.ESTIMATED for row in option.cells for cell in row)


def _span(problem: Problem, solution: Solution, options: SolveOptions, name: str) -> float:
    """Return how far apart the optimum's costs are with `name` at either end of its band.

    A worse figure for an accelerator that the optimum does not use leaves the optimum as it is, and
    so needs no solve.
    """
    good = _cost(problem, options, {name}, good=True)
    used = {a.option.option.accelerator for mine in solution.allocations for a in mine}
    bad: float | None = solution.optimum_usd_per_hour
    if name in used:
        bad = _cost(problem, options, {name}, good=False)
    if good is None:
        return 0.0
    return float("inf") if bad is None else bad - good


def _cost(problem: Problem, options: SolveOptions, names: set[str], *, good: bool) -> float | None:
    demands = tuple(
        replace(
            demand,
            options=tuple(
                _at_band_end(o, good) if o.option.accelerator in names else o
                for o in demand.options
            ),
        )
        for demand in problem.demands
    )
    least = least_cost(replace(problem, demands=demands), options)
    return least.cost_usd_per_hour if least else None


def _at_band_end(option: OptionCapacity, good: bool) -> OptionCapacity:
    def move(cell: CapacityCell) -> CapacityCell:
        end = cell.high_rps if good else cell.low_rps
        if cell.origin is not Origin.ESTIMATED or cell.max_rate_rps is None or end is None:
            return cell
        return replace(cell, max_rate_rps=end if end > 0 else None)

    return replace(option, cells=tuple(tuple(map(move, row)) for row in option.cells))
