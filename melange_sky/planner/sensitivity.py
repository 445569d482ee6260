"""What the error band of estimated capacities means for the plan's cost."""

from __future__ import annotations

import time
from concurrent.futures import Executor, Future
from dataclasses import replace

from melange_sky.capacity import CapacityCell, OptionCapacity, Origin
from melange_sky.optimizer import Problem, Solution, SolveOptions, least_cost
from melange_sky.plan import Sensitivity


class TimeUpError(Exception):
    """The time went before every end of the band was proven, so that no band can be told."""


def cost_band(
    problem: Problem,
    solution: Solution,
    options: SolveOptions,
    *,
    command: str | None,
    pool: Executor,
) -> Sensitivity | None:
    """Return how the optimum's cost moves over the estimates' error band, None without estimates.

    All estimates at their good end give the low cost, all at their bad end the high one. The
    accelerator worth measuring is the one whose band alone moves the cost most; ties go to the name.
    The solves are independent and run in `pool`; HiGHS leaves Python alone while it works.
    Raises TimeUpError where one of them is not proven in the time that `options` leave.
    """
    names = sorted(
        {o.option.accelerator for d in problem.demands for o in d.options if _estimated(o)}
    )
    if not names:
        return None
    plain = replace(options, within_fraction=0.0, alternatives=0, stay_close=None)
    used = {a.option.option.accelerator for mine in solution.allocations for a in mine}

    def cost(moved: frozenset[str], good: bool) -> Future[float | None]:
        return pool.submit(_cost, problem, plain, moved, good)

    ends = [cost(frozenset(names), good) for good in (True, False)]
    # A worse figure for an accelerator that the optimum does not use leaves the optimum as it is.
    spans = {
        name: (
            cost(frozenset({name}), True),
            cost(frozenset({name}), False) if name in used else None,
        )
        for name in names
    }
    optimum = solution.optimum_usd_per_hour
    moves = {
        name: _span(good.result(), bad.result() if bad else optimum)
        for name, (good, bad) in spans.items()
    }
    best = max(names, key=lambda name: moves[name])
    worth = moves[best] > 1e-6
    return Sensitivity(
        low_usd_per_hour=ends[0].result(),
        high_usd_per_hour=ends[1].result(),
        measure=best if worth else None,
        measure_usd_per_hour=moves[best] if worth and moves[best] < float("inf") else None,
        command=f"{command} --accelerators {best}" if worth and command else None,
    )


def _estimated(option: OptionCapacity) -> bool:
    return any(cell.origin is Origin.ESTIMATED for row in option.cells for cell in row)


def _span(good: float | None, bad: float | None) -> float:
    if good is None:
        return 0.0
    return float("inf") if bad is None else bad - good


def _cost(
    problem: Problem, options: SolveOptions, names: frozenset[str], good: bool
) -> float | None:
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
    late = options.stop_at_s is not None and time.perf_counter() >= options.stop_at_s
    if (least is None and late) or (least is not None and least.gap > max(options.mip_gap, 1e-9)):
        raise TimeUpError
    return least.cost_usd_per_hour if least else None


def _at_band_end(option: OptionCapacity, good: bool) -> OptionCapacity:
    def move(cell: CapacityCell) -> CapacityCell:
        end = cell.high_rps if good else cell.low_rps
        if cell.origin is not Origin.ESTIMATED or cell.max_rate_rps is None or end is None:
            return cell
        return replace(cell, max_rate_rps=end if end > 0 else None)

    return replace(option, cells=tuple(tuple(map(move, row)) for row in option.cells))
