"""The least cost and its mix at many request rates and prices: the data behind cost-versus-rate figures."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.capacities import weakest
from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.optimizer.answers.baseline import baselines
from melange_sky.optimizer.answers.optimum import optimize
from melange_sky.optimizer.answers.robustness import Mix, mix_of
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.registry import RuleSet

if TYPE_CHECKING:
    from melange_sky.capacities import OptionCapacity, Origin
    from melange_sky.optimizer.problem.question import Demand, Problem, SolveOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One point: the total rate, TPOT limit and prices asked, and the plan there.

    `status` is a value of `Termination`. Costs are None, with the `reason`, where there is no plan;
    `prices` None for those of the spec. `origin` is how the capacities of the mix are known, the least certain of
    them for the sizes that are asked for; None where there is no plan.
    """

    rate_rps: float
    tpot_s: float | None
    cost_usd_per_hour: float | None
    status: str
    mix: Mix
    best_single: str | None
    best_single_usd_per_hour: float | None
    reason: str | None = None
    prices: str | None = None
    origin: Origin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceStep:
    """Every price times `factor`, or those of one accelerator alone."""

    factor: float = 1.0
    accelerator: str | None = None

    @property
    def label(self) -> str:
        """The step as it is asked for: ``0.8`` or ``H100=0.8``."""
        who = f"{self.accelerator}=" if self.accelerator else ""
        return f"{who}{self.factor:g}"


def sweep_rates(
    problem: Problem,
    options: SolveOptions,
    rates_rps: tuple[float, ...],
    tpot_s: float | None,
    prices: tuple[PriceStep, ...] = (),
    fleets: Fleets | None = None,
) -> tuple[SweepPoint, ...]:
    """Plan the same workload at each price step, scaled to each total rate, in that order.

    Capacities depend on neither. A fleet for the next higher rate serves a lower one too, and the
    fleet of the last price step serves at any prices: its cost narrows the search and alters no
    result. `fleets` holds those of the same rates under tighter limits, and then these.
    """
    points: dict[tuple[int, int], SweepPoint] = {}
    fleets = {} if fleets is None else fleets
    steps: tuple[PriceStep | None, ...] = prices or (None,)
    order = sorted(range(len(rates_rps)), key=lambda n: -rates_rps[n])
    for p, step in enumerate(steps):
        priced = problem if step is None else at_prices(problem, step)
        last: tuple[float, InstanceCounts] | None = None
        for n in order:
            here = at_rate(priced, rates_rps[n])
            known = [
                _cost_at(here, options, *fleet, rates_rps[n])
                for fleet in (fleets.get(n), last)
                if fleet and _all_there(here, fleet[1])
            ]
            narrowed = replace(options, known_usd_per_hour=min(known)) if known else options
            label = None if step is None else step.label
            points[p, n], counts = _point(here, narrowed, rates_rps[n], tpot_s, label)
            if counts:
                last = fleets[n] = rates_rps[n], counts
    return tuple(points[p, n] for p in range(len(steps)) for n in range(len(rates_rps)))


InstanceCounts = dict[tuple[str, str], int]
"""Instances by (demand name, option name)."""

Fleets = dict[int, tuple[float, InstanceCounts]]
"""By the rate's place on its axis: the rate in requests per second, and a fleet that serves it."""


def _all_there(problem: Problem, counts: InstanceCounts) -> bool:
    """Return whether the problem has every option of a fleet: else its cost is not known here."""
    return counts.keys() <= {(d.name, c.option.name) for d in problem.demands for c in d.options}


def _cost_at(
    problem: Problem,
    options: SolveOptions,
    rate_rps: float,
    counts: InstanceCounts,
    wanted_rps: float,
) -> float:
    """Return the cost of a fleet at the problem's prices, cut down to the rate that is wanted.

    Not cut where rules ask for a number of instances, which the smaller fleet might not have.
    """
    whole = RuleSet.of(problem, options).counts_instances
    part = 1.0 if whole else min(1.0, wanted_rps / rate_rps)
    return sum(
        math.ceil(counts.get((d.name, c.option.name), 0) * part - 1e-9)
        * c.option.price_usd_per_hour
        for d in problem.demands
        for c in d.options
    )


def at_prices(problem: Problem, step: PriceStep) -> Problem:
    """Return the problem with the step's prices; budget and capacities stay."""
    return replace(
        problem,
        demands=tuple(
            replace(d, options=tuple(_repriced(c, step) for c in d.options))
            for d in problem.demands
        ),
    )


def _repriced(capacity: OptionCapacity, step: PriceStep) -> OptionCapacity:
    option = capacity.option
    if step.accelerator not in (None, option.accelerator):
        return capacity
    price = option.price_usd_per_hour * step.factor
    return replace(capacity, option=replace(option, price_usd_per_hour=price))


def at_rate(problem: Problem, rate_rps: float) -> Problem:
    """Return the problem with all rates scaled to sum to `rate_rps` over all demands."""
    total = sum(demand.workload.rate_rps for demand in problem.demands)
    factor = rate_rps / total if total > 0 else 0.0
    return replace(problem, demands=tuple(_scaled(d, factor) for d in problem.demands))


def _scaled(demand: Demand, factor: float) -> Demand:
    rates = tuple(tuple(rate * factor for rate in row) for row in demand.workload.rates_rps)
    return replace(demand, workload=replace(demand.workload, rates_rps=rates))


def _point(
    problem: Problem,
    options: SolveOptions,
    rate_rps: float,
    tpot_s: float | None,
    prices: str | None,
) -> tuple[SweepPoint, InstanceCounts]:
    options = options.started()
    try:
        solution = optimize(problem, options)
    except (InfeasibleError, NoPlanInTimeError) as error:
        late = isinstance(error, NoPlanInTimeError)
        return SweepPoint(
            rate_rps=rate_rps,
            tpot_s=tpot_s,
            cost_usd_per_hour=None,
            status=(Termination.LIMIT if late else Termination.INFEASIBLE).value,
            mix=(),
            best_single=None,
            best_single_usd_per_hour=None,
            reason=str(error),
            prices=prices,
        ), {}
    single, single_cost = _best_single(problem, solution.cost_usd_per_hour, options)
    point = SweepPoint(
        rate_rps=rate_rps,
        prices=prices,
        tpot_s=tpot_s,
        cost_usd_per_hour=solution.cost_usd_per_hour,
        status=solution.report.status,
        mix=mix_of(solution),
        best_single=single,
        best_single_usd_per_hour=single_cost,
        origin=weakest(
            origin
            for demand, chosen in zip(problem.demands, solution.allocations, strict=True)
            for a in chosen
            for i, j in demand.workload.buckets()
            if a.shares[i][j] > 0 and (origin := a.candidate.cells[i][j].origin) is not None
        ),
    )
    counts = {
        (demand.name, a.candidate.option.name): a.instances
        for demand, chosen in zip(problem.demands, solution.allocations, strict=True)
        for a in chosen
    }
    return point, counts


def _best_single(
    problem: Problem, cost: float, options: SolveOptions
) -> tuple[str | None, float | None]:
    """Return the cheapest accelerator alone; unknown for several models, which need not share one."""
    if len(problem.demands) != 1:
        return None, None
    priced = [
        (b.cost_usd_per_hour, b.accelerator)
        for b in baselines(problem, (cost,), options)[0]
        if b.cost_usd_per_hour is not None
    ]
    return (min(priced)[1], min(priced)[0]) if priced else (None, None)
