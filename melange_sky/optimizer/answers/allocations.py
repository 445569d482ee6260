"""From a point of the program to allocations: shares settled, then re-checked in plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.optimizer.answers.certificate import check_allocations
from melange_sky.optimizer.deadline import TimeUpError
from melange_sky.optimizer.search.shares import spread, to_allocations

if TYPE_CHECKING:
    from melange_sky.optimizer.program.integer_program import IntegerProgram
    from melange_sky.optimizer.search.shares import Shares
    from melange_sky.optimizer.search.solution_point import Point
    from melange_sky.plans import Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocated:
    """Allocations per demand, in the order in which the problem names them.

    Not `is_even` where no time was left to spread the load: the shares are then as the solver left
    them, within every rule but with some replicas full while others idle. `is_checked` unless time
    ran out before every rule was looked at once more.
    """

    by_demand: tuple[tuple[Allocation, ...], ...]
    is_even: bool = True
    is_checked: bool = True


def allocate(program: IntegerProgram, point: Point) -> Allocated:
    """Settle the shares of a point and re-check it in plain Python."""
    canonical = program.canonical
    shares, is_even = _shares(program, point)
    allocations = to_allocations(canonical, program.offsets, point.instances, point.fixed, shares)
    is_checked = check_allocations(program, point, allocations)
    order = {demand.name: d for d, demand in enumerate(canonical.demands)}
    in_order = tuple(allocations[order[demand.name]] for demand in program.problem.demands)
    return Allocated(by_demand=in_order, is_even=is_even, is_checked=is_checked)


def _shares(program: IntegerProgram, point: Point) -> tuple[Shares, bool]:
    """Return the shares, and whether there was time to spread them evenly."""
    canonical = program.canonical
    if program.options.assignment != "fractional":
        return point.shares, True
    used = [k for k, count in enumerate(point.instances) if count]
    alone = {canonical.columns[k].demand: k for k in used}
    if len(alone) == len(used) and not any(canonical.columns[k].may_be_late for k in used):
        # One option serves all of a demand: nothing to spread, as in most small fleets.
        return {
            (program.offsets[d] + b, k, 0): 1.0
            for d, k in alone.items()
            for b in range(len(canonical.buckets[d]))
        }, True
    try:
        even = spread(canonical, program.problem, program.options, point.instances)
    except TimeUpError:
        return point.shares, False
    return (point.shares if even is None else even), True
