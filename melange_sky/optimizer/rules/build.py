"""The integer program: one function per constraint, each stating its inequality.

Indices: b bucket, k column (an option of one model). Variables:

* x_k ∈ {0, 1, …}    instances of column k
* y_b_k ∈ [0, 1]     share of bucket b's rate on column k; integer slices of it where sliced
* f_p_k ∈ {0, 1, …}  instances of k that fixed capacity p pays for
* s<n>_b_k ∈ [0, 1]  as y, once the instances of loss scenario n are gone
* e_k_n ∈ {0, 1}     1 if there are at least n instances of k
* c_k ≥ 0            instances of k started or stopped against a running fleet

Variables are named by index (LP files fold distinct option names into one), constraints in words.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from melange_sky.optimizer.problem.canonical import matches
from melange_sky.optimizer.program.linear import GE, LE, Linear
from melange_sky.optimizer.program.model import Model, load_terms, serve, share_variables
from melange_sky.optimizer.rules import redundancy

if TYPE_CHECKING:
    from melange_sky.constraints import Pledge
    from melange_sky.optimizer.problem.canonical import Fleet
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.linear import Terms
    from melange_sky.optimizer.program.model import Scenario

_ROUNDING = 1e-9


def build_model(
    fleet: Fleet,
    problem: Problem,
    options: SolveOptions,
    only: frozenset[str] | None = None,
    scenarios: tuple[Scenario, ...] = (),
) -> Model:
    """Build the model with its goal; `only` names the constraints that it holds (default all)."""
    sliced = options.assignment == "sliced"
    slices = options.slice_factor if sliced else 1
    bounds = _instance_bounds(fleet, problem, options)
    offsets = [0]
    for buckets in fleet.buckets:
        offsets.append(offsets[-1] + len(buckets))
    lp = Linear()
    model = Model(
        lp=lp,
        fleet=fleet,
        problem=problem,
        options=options,
        slices=slices,
        bounds=bounds,
        offsets=offsets,
        scenarios=scenarios,
        # With shares alone nothing holds the instances, and whole ones would make an LP a MIP.
        x=[lp.add(f"x_{k}", 0.0, bound, whole=only is None) for k, bound in enumerate(bounds)],
        y={},
    )
    if only is None or "serve" in only:
        model.y.update(share_variables(model, "y"))
    for name, add in CONSTRAINTS.items():
        if only is None or name in only:
            add(model)
    lp.goal = model.goal_terms()
    return model


def _instance_bounds(fleet: Fleet, problem: Problem, options: SolveOptions) -> list[int]:
    """Return, per column, the most instances that any best fleet could use.

    Enough to serve every bucket alone, once more for each spare, and what is asked for anyway.
    """
    constraints = problem.constraints
    asked = max([constraints.min_replicas, *(p.instances for p in constraints.minimum)])
    if options.stay_close is not None:
        asked = max([asked, *(count for _, _, count in options.stay_close.instances)])
    usable = 1 - problem.headroom
    if options.robustness is not None:
        usable *= 1 - options.robustness.throughput_error
    return [
        max(
            math.ceil(sum(v for v in column.loads if v) / usable - _ROUNDING) + constraints.spare,
            asked,
        )
        for column in fleet.columns
    ]


def serve_every_bucket(model: Model) -> None:
    """Σ_k y_bk = 1 for every bucket b (all its slices, where sliced)."""
    serve(model, model.y, "serve_bucket")


def fit_load(model: Model) -> None:
    """Σ_b load_bk × y_bk (+ protection) ≤ (1 − headroom) × x_k for every column k."""
    for k in range(len(model.x)):
        terms = load_terms(model, model.y, k, "load")
        terms.append((model.x[k], -model.usable))
        model.row(terms, LE, 0, f"load_fits_option_{k}")


def keep_limits(model: Model) -> None:
    """Σ_k units_k × x_k ≤ limit, per accelerator (GPUs), cloud, region, instance type (instances)."""
    for n, (key, limit) in enumerate(model.problem.constraints.limits):
        terms = [
            (x, float(column.units(key)))
            for x, column in zip(model.x, model.fleet.columns, strict=True)
            if column.units(key)
        ]
        if terms:
            model.row(terms, LE, limit, f"limit_{n}")


def keep_budget(model: Model) -> None:
    """Σ_k price_k × x_k − what is already paid ≤ budget."""
    budget = model.problem.constraints.budget_usd_per_hour
    if budget is not None:
        model.row(model.cost_terms(), LE, budget + _ROUNDING, "budget")


def use_fixed(model: Model) -> None:
    """f_pk ≤ x_k over all pledges p, Σ_k f_pk ≤ instances_p: paid instances cost nothing."""
    paid: dict[int, Terms] = {}
    for p, pledge in enumerate(model.problem.constraints.fixed):
        ks = _matching(model, pledge)
        for k in ks:
            f = model.lp.add(f"f_{p}_{k}", 0.0, pledge.instances, whole=True)
            model.fixed[p, k] = f
            paid.setdefault(k, []).append((f, 1.0))
        terms = [(model.fixed[p, k], 1.0) for k in ks]
        if terms:
            model.row(terms, LE, pledge.instances, f"fixed_{p}_has")
    for k, terms in sorted(paid.items()):
        model.row([*terms, (model.x[k], -1.0)], LE, 0, f"fixed_pays_only_used_option_{k}")


def keep_minimum(model: Model) -> None:
    """Σ_k x_k ≥ instances_p over the columns that match pledge p."""
    for p, pledge in enumerate(model.problem.constraints.minimum):
        terms = [(model.x[k], 1.0) for k in _matching(model, pledge)]
        if terms:
            model.row(terms, GE, pledge.instances, f"minimum_{p}")


def _matching(model: Model, pledge: Pledge) -> list[int]:
    return [k for k, column in enumerate(model.fleet.columns) if matches(column, pledge)]


def price_changes(model: Model) -> None:
    """c_k ≥ x_k − running_k and c_k ≥ running_k − x_k; the goal counts switch × c_k."""
    close = model.options.stay_close
    if close is None:
        return
    running = {(demand, option): count for demand, option, count in close.instances}
    for k, column in enumerate(model.fleet.columns):
        count = running.get((model.fleet.demands[column.demand].name, column.name), 0)
        changes = model.lp.add(f"c_{k}")
        model.extra_goal.append((changes, close.switch_usd_per_hour))
        for sign, word in ((1.0, "started"), (-1.0, "stopped")):
            model.row(
                [(changes, 1.0), (model.x[k], -sign)],
                GE,
                -sign * count,
                f"{word}_option_{k}",
            )


CONSTRAINTS = {
    "serve": serve_every_bucket,
    "load": fit_load,
    "limits": keep_limits,
    "fixed": use_fixed,
    "budget": keep_budget,
    "minimum": keep_minimum,
    "min_replicas": redundancy.keep_min_replicas,
    "region_share": redundancy.spread_regions,
    "cloud_share": redundancy.spread_clouds,
    "spot_share": redundancy.keep_on_demand_floor,
    "spare": redundancy.survive_losses,
    "stay_close": price_changes,
}
"""Every constraint by name, in the order in which its rows enter the model."""

SHARE_CONSTRAINTS = frozenset({"serve", "region_share", "cloud_share", "spot_share"})
"""Those that speak of shares alone, and so still bind once the instances are settled."""
