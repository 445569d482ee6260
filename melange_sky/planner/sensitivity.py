"""What the error band of estimated capacities means for the plan's cost."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.capacities import (
    INFERRED,
    CapacityCell,
    OptionCapacity,
    Origin,
    levels_above,
    levels_below,
)
from melange_sky.optimizer import (
    NEVER,
    Deadline,
    Demand,
    Problem,
    Solution,
    SolveOptions,
    Termination,
    TimeUpError,
    least_cost,
    rules_of,
)
from melange_sky.plans import Sensitivity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


BAND_GAP = 1e-3
"""The band's ends are solved to a thousandth: far finer than the error that they show."""


@dataclass(frozen=True, slots=True)
class MeasuringAdvice:
    """The command that measures an accelerator, and those to measure `first` where they are planned."""

    command: str | None
    first: frozenset[str] = frozenset()


def cost_band(
    problem: Problem,
    solution: Solution,
    options: SolveOptions,
    *,
    advice: MeasuringAdvice,
    pool: Executor,
) -> Sensitivity | None:
    """Return how the optimum's cost moves over the estimates' error band, None without estimates.

    All estimates at their good end give the low cost, all at their bad end the high one. The
    accelerator worth measuring is the one whose band alone moves the cost most when instances may
    be fractions (ties go to the name), those first that are planned without a run behind their
    estimates; how much it moves the plan is then solved with whole ones.
    The solves run in `pool`, for HiGHS leaves Python alone while it works, and keep to the attainment
    level of the plan wherever a fleet serves at it.
    Raises TimeUpError where one of them is not proven in the time that `options` leave.
    """
    names = sorted({o.option.gpu for d in problem.demands for o in d.options if _estimated(o)})
    if not names:
        return None
    options.deadline.check()
    problem = _contenders(problem, options.deadline)
    ways, known = (_at_level_of(problem, solution), problem), _Moved()
    plain = _plain(options)
    used = {a.candidate.option.gpu for chosen in solution.allocations for a in chosen}

    def cost(moved: frozenset[str], good: bool) -> Future[float | None]:
        return pool.submit(_cost, ways, plain, _End(moved, good, known))

    ends = [cost(frozenset(names), good) for good in (True, False)]
    spans = _relaxed_spans(problem, names)
    name = max(names, key=lambda n: (n in advice.first & used, spans[n].usd_per_hour))
    good = cost(frozenset({name}), True)
    # A worse figure for an accelerator that the optimum does not use leaves the optimum as it is.
    bad = cost(frozenset({name}), False) if name in used else None
    moves = _difference(good.result(), bad.result() if bad else solution.optimum_usd_per_hour)
    low, high = (end.result() for end in ends)
    band = Sensitivity(low_usd_per_hour=low, high_usd_per_hour=high)
    return _with_advice(band, name, spans[name].size, moves, advice.command)


def _plain(options: SolveOptions) -> SolveOptions:
    gap = max(options.mip_gap, BAND_GAP)
    return replace(options, mip_gap=gap, within_fraction=0.0, alternatives=0, stay_close=None)


def _at_level_of(problem: Problem, solution: Solution) -> Problem:
    """Return the problem with each model at the attainment level at which it is planned."""
    demands = []
    for demand, chosen in zip(problem.demands, solution.allocations, strict=True):
        level = next((a.level for a in chosen), None)
        target = demand.target if level is not None else None
        demands.append(replace(demand, level=level, target=target))
    return replace(problem, demands=tuple(demands))


def _with_advice(
    band: Sensitivity, name: str, size: str, moves_usd_per_hour: float, command: str | None
) -> Sensitivity:
    """Return the band with what to measure, if that moves the cost at all.

    An infinite move (a plan may fail) has no number.
    """
    if moves_usd_per_hour <= 1e-6:
        return band
    return replace(
        band,
        measure=name,
        measure_size=size,
        measure_usd_per_hour=moves_usd_per_hour if moves_usd_per_hour < inf else None,
        command=f"{command} --accelerators {name}" if command else None,
    )


def _estimated(option: OptionCapacity) -> bool:
    return any(cell.origin in INFERRED for row in option.cells for cell in row)


def _contenders(problem: Problem, deadline: Deadline = NEVER) -> Problem:
    """Drop options that another of the same accelerator beats at every figure and end of the band.

    Only where no rule tells options apart by more than price and rates, for then each may be wanted.
    """
    if rules_of(problem.constraints).tells_options_apart:
        return problem
    alike: dict[object, tuple[OptionCapacity, ...]] = {}
    demands = []
    for demand in problem.demands:
        key = _asked_alike(demand)
        if key not in alike:
            alike[key] = _contending(demand, deadline)
        demands.append(replace(demand, options=alike[key]))
    return replace(problem, demands=tuple(demands))


def _asked_alike(demand: Demand) -> object:
    """Return what two models share whose options are the very same, of the same sizes and target."""
    return tuple(map(id, demand.options)), tuple(demand.workload.buckets()), demand.target


def _contending(demand: Demand, deadline: Deadline) -> tuple[OptionCapacity, ...]:
    contenders: dict[str, list[tuple[OptionCapacity, NDArray[np.float64]]]] = defaultdict(list)
    for option in sorted(
        demand.options, key=lambda o: (o.option.price_usd_per_hour, o.option.name)
    ):
        deadline.check()
        rivals = contenders[option.option.gpu]
        if any(rival.cells is option.cells for rival, _ in rivals):
            continue  # the same replica in another place
        figures = _figures(demand, option)
        if not any((theirs >= figures).all() for _, theirs in rivals):
            rivals.append((option, figures))
    return tuple(option for rivals in contenders.values() for option, _ in rivals)


def _figures(demand: Demand, option: OptionCapacity) -> NDArray[np.float64]:
    """Return all rates that a plan may count on, as estimated and at both ends of the band.

    At the target, and at each level or a better one. Shape (levels × ends × buckets).
    """
    buckets, target = demand.workload.buckets(), demand.target
    levels = () if target is None else (*levels_below(target), *levels_above(target))[::-1]
    rows, columns = map(list, zip(*buckets, strict=True))
    rates = np.array([option.rates(level)[rows, columns] for level in (None, *levels)])
    rates = np.nan_to_num(rates)
    rates[1:] = np.maximum.accumulate(rates[1:], axis=0)
    cells = [option.cells[i][j] for i, j in buckets]
    ends = [[_times_at_end(cell, good=good) for cell in cells] for good in (True, False)]
    figures: NDArray[np.float64] = rates[:, None] * np.array([[1.0] * len(cells), *ends])
    return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """How far the cost moves over one accelerator's band, and the request size that moves it most."""

    usd_per_hour: float
    size: str


def _relaxed_spans(problem: Problem, names: Sequence[str]) -> dict[str, _Span]:
    """Return, per accelerator, how far apart the costs are at its two ends, instances in fractions.

    Without whole instances each bucket goes to the option that serves it cheapest, so that the cost
    is a sum of minima: sum over b of rate_b × min over k of price_k / capacity_kb.
    """
    spans = dict.fromkeys(names, 0.0)
    most: dict[str, tuple[float, str]] = dict.fromkeys(names, (-1.0, ""))
    alike: dict[object, dict[tuple[int, int], dict[str, tuple[float, float, float]]]] = {}
    for demand in problem.demands:
        workload, key = demand.workload, _asked_alike(demand)
        if key not in alike:
            alike[key] = {(i, j): _unit_costs(demand, i, j) for i, j in workload.buckets()}
        for (i, j), costs in alike[key].items():
            size = f"{workload.input_sizes[i][j]:.0f} input, {workload.output_sizes[i][j]:.0f} output tokens"
            for name in names:
                other = min(
                    (mid for rival, (mid, _, _) in costs.items() if rival != name), default=inf
                )
                _, good, bad = costs.get(name, (inf, inf, inf))
                good, bad = min(good, other), min(bad, other)
                moves = 0.0 if good == inf else workload.rates_rps[i][j] * (bad - good)
                spans[name] += moves
                most[name] = max(most[name], (moves, size), key=itemgetter(0))
    return {name: _Span(usd_per_hour=spans[name], size=most[name][1]) for name in names}


def _unit_costs(demand: Demand, i: int, j: int) -> dict[str, tuple[float, float, float]]:
    """Return the least USD/h per req/s by accelerator: as estimated, at the good end, at the bad."""
    costs: dict[str, tuple[float, float, float]] = {}
    for candidate in demand.options:
        cell, option = candidate.cells[i][j], candidate.option
        if not cell.max_rate_rps:
            continue
        price, least = option.price_usd_per_hour, costs.get(option.gpu, (inf, inf, inf))
        mid, good, bad = (
            price / rate if rate else inf
            for rate in (cell.max_rate_rps, _end(cell, good=True), _end(cell, good=False))
        )
        costs[option.gpu] = min(mid, least[0]), min(good, least[1]), min(bad, least[2])
    return costs


def _difference(good: float | None, bad: float | None) -> float:
    if good is None:
        return 0.0
    return inf if bad is None else bad - good


_Moved = dict[tuple[int, bool, bool], OptionCapacity]
"""Options at an end of the band by their cells, whether these move, and whether it is the good end."""


@dataclass(frozen=True, slots=True)
class _End:
    """The accelerators whose estimates are at one end of their band, and options that are known there."""

    names: frozenset[str]
    good: bool
    known: _Moved

    def of(self, problem: Problem) -> Problem:
        """Return the problem with these accelerators' estimates at that end.

        What is only bounded counts at the good end, where a bound makes the cost no higher than it is, and
        not at the bad one.
        """
        return replace(problem, demands=tuple(map(self._demand, problem.demands)))

    def _demand(self, demand: Demand) -> Demand:
        buckets, options = demand.workload.buckets(), []
        for option in demand.options:
            moves = option.option.gpu in self.names
            key = id(option.cells), moves, self.good  # the same replica in several places
            if key not in self.known:
                whole = option if self.good else option.without_bounds()
                self.known[key] = _at_band_end(whole, buckets, self.good) if moves else whole
            same = self.known[key]
            options.append(
                same if same.option is option.option else replace(same, option=option.option)
            )
        return replace(demand, options=tuple(options))


def _cost(ways: Sequence[Problem], options: SolveOptions, end: _End) -> float | None:
    """Return the least cost of the first of these problems that has a fleet, estimates at one end."""
    for problem in ways:
        least = least_cost(end.of(problem), options)
        is_known = least.termination.has_solution or least.termination is Termination.INFEASIBLE
        if not is_known or least.gap > max(options.mip_gap, 1e-9):
            raise TimeUpError
        if least.cost_usd_per_hour is not None:
            return least.cost_usd_per_hour
    return None


def _at_band_end(
    option: OptionCapacity, buckets: Sequence[tuple[int, int]], good: bool
) -> OptionCapacity:
    """Return the option with its estimates of these buckets at one end of their band."""
    cells = [list(row) for row in option.cells]
    factors = np.ones((len(cells), len(cells[0])))
    for i, j in buckets:
        factors[i, j] = factor = _times_at_end(cells[i][j], good)
        cells[i][j] = _times(cells[i][j], factor)
    return option.with_cells(tuple(map(tuple, cells)), factors)


def _times_at_end(cell: CapacityCell, good: bool) -> float:
    """Return the rates at one end of the band ÷ the cell's own, 1 where it is no estimate.

    Nothing is known of the bad end of a mere bound.
    """
    if cell.origin is Origin.BOUND and not good:
        return 0.0
    rate, end = cell.banded_rps, cell.high_rps if good else cell.low_rps
    if cell.origin not in INFERRED or not rate or end is None:
        return 1.0
    return max(end, 0.0) / rate


def _times(cell: CapacityCell, factor: float) -> CapacityCell:
    """Return the cell with its rates times a factor, and no band; serving nothing where that is 0."""
    if factor == 1.0:
        return cell
    if factor == 0.0:
        return CapacityCell(max_rate_rps=None, origin=cell.origin)
    return CapacityCell(
        max_rate_rps=None if cell.max_rate_rps is None else cell.max_rate_rps * factor,
        origin=cell.origin,
        reason=cell.reason,
        levels=tuple([(level, rate * factor) for level, rate in cell.levels]),
        alone_ttft_s=cell.alone_ttft_s,
    )


def _end(cell: CapacityCell, good: bool) -> float | None:
    """Return the rate at one end of the band: the cell's own where it is no estimate."""
    end = cell.high_rps if good else cell.low_rps
    if cell.origin not in INFERRED or cell.max_rate_rps is None or end is None:
        return cell.max_rate_rps
    return end if end > 0 else None
