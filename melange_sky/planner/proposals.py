"""A quantization that nobody asked for and that would pay: its options built, the best solved for.

Where shipped tables answer for the plan, they answer for the proposal too, and nothing is simulated;
else the few groups of GPUs that a guess finds best are simulated as a plan would. So the cost that is
told is one that a plan can have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.accelerators import accelerator_table
from melange_sky.constraints import Constraints
from melange_sky.errors import InfeasibleError, InputError, NoPlanInTimeError
from melange_sky.optimizer import least_cost, optimize
from melange_sky.planner.confidence import at_confidence
from melange_sky.planner.form_notes import cost_alone, listed
from melange_sky.planner.notes import assumed_of
from melange_sky.planner.options import build_options
from melange_sky.plans import PlanWarning
from melange_sky.profiles import ReplicaShape, engine_replica, replica_capacities
from melange_sky.profiles.estimate import NOT_SIMULATED, group_key
from melange_sky.profiles.shipped import shipped_table
from melange_sky.steps import Misfit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.capacities import OptionCapacity
    from melange_sky.optimizer import Demand, Problem, Solution, SolveOptions
    from melange_sky.planner.prepare import PreparedProblem
    from melange_sky.profiles import CapacityQuery

CODE = "proposal"

PROPOSED = "fp8"
"""The quantization that is proposed: of those that engines make while loading, the one that loses least."""

WORTH_FRACTION = 0.05
"""A smaller gain is not worth a word."""

MOST_MODELS, MOST_OPTIONS, LEAST_SECONDS = 3, 600, 10.0
"""With more than these, or with less time for solving, nothing is looked for."""

PER_SIZE, ALONE = 3, 6
"""So many options that are cheapest at each size, and that are alone for all of them, are tried together."""

MOST_GROUPS, LOOK_SECONDS = 4, 2.0
"""How many groups of GPUs are simulated, and the time of the solve."""


def proposal(
    prepared: PreparedProblem, solution: Solution, solve: SolveOptions, confidence: float
) -> tuple[PlanWarning, ...]:
    """Say that 8-bit weights would pay, where the spec leaves quantization open and they would."""
    problem = prepared.problem
    options = sum(len(demand.options) for demand in problem.demands)
    if len(problem.demands) > MOST_MODELS or options > MOST_OPTIONS:
        return ()
    if solve.time_limit_s < LEAST_SECONDS:
        return ()
    offered = [_offered(prepared, k, confidence) for k in range(len(problem.demands))]
    if not any(offered):
        return ()
    most = (1 - WORTH_FRACTION) * solution.cost_usd_per_hour
    fleet = _fleet(problem, solution, offered, most, solve)
    if fleet is None or fleet.cost_usd_per_hour > most:
        return ()
    return (_note(prepared, fleet, solution),)


def _note(prepared: PreparedProblem, fleet: Solution, solution: Solution) -> PlanWarning:
    """Return what would be planned, what it takes and on which GPUs."""
    gpus = dict.fromkeys(
        a.candidate.option.gpu
        for chosen in fleet.allocations
        for a in chosen
        if a.candidate.option.form == PROPOSED
    )
    native = [name for name in gpus if accelerator_table()[name].fp8_tflops is not None]
    others = [name for name in gpus if name not in native]
    where = []
    if native:
        where.append(f"{listed(native)}, computed in {PROPOSED}")
    if others:
        where.append(f"{listed(others)}, kept in {PROPOSED} and computed in 16 bits")
    title = prepared.queries[0].engine.title
    return PlanWarning(
        code=CODE,
        message=f"engine.quantization: [none, {PROPOSED}] would plan ${fleet.cost_usd_per_hour:,.2f}/h or less by "
        f"estimate instead of ${solution.cost_usd_per_hour:,.2f}/h, with {PROPOSED} on {'; '.join(where)}: {title} "
        f"makes the weights smaller while it loads them, or name a checkpoint that is stored so in model: "
        "[this one, that one]; check first that the answers stay good enough",
    )


def _offered(prepared: PreparedProblem, k: int, confidence: float) -> tuple[OptionCapacity, ...]:
    """Return the options of a model in the proposed form; none where it cannot be."""
    query = prepared.queries[k]
    changed = _in_form(query) if len(prepared.forms[k]) == 1 else None
    if changed is None:
        return ()
    demand, lookup = prepared.problem.demands[k], prepared.lookups[k]
    is_bounded = lookup is not None and lookup.query.bounded
    built = build_options(prepared.offers, changed, prepared.splits, form=PROPOSED)
    found = built.options
    if all(assumed_of(c.option) is None for c in demand.options):
        found = tuple(c for c in found if assumed_of(c.option) is None)
    if any(map(_is_rough, found)):
        rough = [c for c in _promising(demand, [*demand.options, *found]) if _is_rough(c)]
        exact = [] if is_bounded or _all_shipped(query, demand) else _computed(rough, changed)
        found = (*(c for c in found if not _is_rough(c)), *exact)
    return at_confidence(found, confidence)


def _in_form(query: CapacityQuery) -> CapacityQuery | None:
    """Return the query of a model in the proposed form, None where the engine makes none of it."""
    engine, flag = query.engine, query.engine.flags.quantization
    if PROPOSED not in engine.weights.online or not query.model.is_plain:
        return None
    try:
        smaller = engine.held(query.model, (flag, PROPOSED))
    except InputError:
        return None
    args = (*query.engine_args, flag, PROPOSED)
    return replace(
        query, model=smaller, engine_args=args, simulate=False, levels=False, progress=None
    )


def _is_rough(capacity: OptionCapacity) -> bool:
    """Return whether some rate is a mere guess, because it would have to be simulated."""
    return any(cell.reason == NOT_SIMULATED for row in capacity.cells for cell in row)


def _all_shipped(query: CapacityQuery, demand: Demand) -> bool:
    """Return whether shipped tables answer for the plan's own options."""
    shapes = {group_key(s): s for s in (ReplicaShape.of(c.option) for c in demand.options)}
    replicas = (engine_replica(query.model, s, query.generation) for s in shapes.values())
    return all(isinstance(r, Misfit) or shipped_table(r, query.slo) is not None for r in replicas)


def _computed(rough: Sequence[OptionCapacity], query: CapacityQuery) -> list[OptionCapacity]:
    """Return the options of a few groups of GPUs with their capacities as a plan would have them."""
    shapes = {c.option.name: ReplicaShape.of(c.option) for c in rough}
    groups = list(dict.fromkeys(map(group_key, shapes.values())))[:MOST_GROUPS]
    wanted = [s for s in dict.fromkeys(shapes.values()) if group_key(s) in groups]
    found = {r.shape: r for r in replica_capacities(replace(query, simulate=True), wanted)}
    return [
        replace(c, cells=found[shape].cells)
        for c in rough
        if (shape := shapes[c.option.name]) in found
    ]


def _promising(demand: Demand, options: Sequence[OptionCapacity]) -> list[OptionCapacity]:
    """Return the options that cost least at some size, and those that serve all of them for least."""
    rates, wanted = _rates(demand, options), _wanted(demand)
    prices = np.array([capacity.option.price_usd_per_hour for capacity in options])
    with np.errstate(divide="ignore"):
        costs, loads = prices[:, None] / rates, (wanted / rates).sum(axis=1)
    chosen = {at for of_size in costs.T for at in _least(of_size, PER_SIZE)}
    chosen.update(_least(np.ceil(loads) * prices, ALONE))
    return [options[at] for at in sorted(chosen)]


def _least(costs: NDArray[np.float64], count: int) -> list[int]:
    """Return the places of so many of the least costs, none of them infinite."""
    places = np.argsort(costs, kind="stable")[:count]
    found: list[int] = places[np.isfinite(costs[places])].tolist()
    return found


def _rates(
    demand: Demand, options: Sequence[OptionCapacity], *, late: bool = False
) -> NDArray[np.float64]:
    """Return the rate of each option at each size, (options × buckets), 0 where it serves none of it.

    In time where it can, else late; with `late` the highest of all.
    """
    rows, columns = map(list, zip(*demand.workload.buckets(), strict=True))
    largest = np.array([option.largest_rates() for option in options])[:, rows, columns]
    in_time = np.array([option.rates() for option in options])[:, rows, columns]
    rates = largest if late else np.where(in_time > 0, in_time, largest)
    return np.where(np.isfinite(rates), rates, 0.0)


def _wanted(demand: Demand) -> NDArray[np.float64]:
    """Return the rates of the buckets that have one."""
    return np.array([demand.workload.rates_rps[i][j] for i, j in demand.workload.buckets()])


def _least_possible(demand: Demand, options: Sequence[OptionCapacity]) -> float:
    """Return what no fleet of these options is cheaper than: every size on its cheapest, without rounding."""
    prices = np.array([capacity.option.price_usd_per_hour for capacity in options])
    with np.errstate(divide="ignore"):
        costs = (prices[:, None] / _rates(demand, options, late=True)).min(axis=0)
    return float(np.where(np.isfinite(costs), costs, 0.0) @ _wanted(demand))


def _fleet(
    problem: Problem,
    solution: Solution,
    offered: Sequence[tuple[OptionCapacity, ...]],
    most: float,
    solve: SolveOptions,
) -> Solution | None:
    """Return a cheap fleet of the plan's options and the offered ones, None where it cannot pay.

    Every size is served within its limits here: what may be late could only make it cheaper.
    """
    whole = [(*d.options, *more) for d, more in zip(problem.demands, offered, strict=True)]
    plain = problem.constraints == Constraints()
    if plain:
        least = sum(map(_least_possible, problem.demands, whole))
        if least > most * (1 - problem.headroom):
            return None
        used = [[a.candidate for a in chosen] for chosen in solution.allocations]
        whole = [
            tuple({c.option.name: c for c in (*mine, *_promising(demand, all_of))}.values())
            for demand, mine, all_of in zip(problem.demands, used, whole, strict=True)
        ]
    demands = tuple(
        replace(d, options=options, target=None)
        for d, options in zip(problem.demands, whole, strict=True)
    )
    look = replace(cost_alone(solve), mip_gap=1e-3, time_limit_s=LOOK_SECONDS)
    wider = replace(problem, demands=demands)
    found = least_cost(wider, look).cost_usd_per_hour
    if found is None or found > most:
        return None
    try:
        return optimize(wider, look)
    except (InfeasibleError, NoPlanInTimeError):
        return None
