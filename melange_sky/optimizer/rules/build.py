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
from melange_sky.optimizer.program.integer_program import (
    IntegerProgram,
    load_terms,
    serve,
    share_variables,
)
from melange_sky.optimizer.program.linear import GE, LE, Linear
from melange_sky.optimizer.rules import redundancy

if TYPE_CHECKING:
    from melange_sky.constraints import InstanceGroup
    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import Scenario
    from melange_sky.optimizer.program.linear import Terms

_ROUNDING = 1e-9


def build_program(
    canonical: Canonical,
    problem: Problem,
    options: SolveOptions,
    only: frozenset[str] | None = None,
    scenarios: tuple[Scenario, ...] = (),
) -> IntegerProgram:
    """Build the program with its goal; `only` names the constraints that it holds (default all)."""
    sliced = options.assignment == "sliced"
    slices = options.slice_factor if sliced else 1
    bounds = _instance_bounds(canonical, problem, options)
    offsets = [0]
    for buckets in canonical.buckets:
        offsets.append(offsets[-1] + len(buckets))
    lp = Linear()
    program = IntegerProgram(
        lp=lp,
        canonical=canonical,
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
        program.y.update(share_variables(program, "y"))
    for name, add in CONSTRAINTS.items():
        if only is None or name in only:
            add(program)
    lp.goal = program.goal_terms()
    return program


def _instance_bounds(canonical: Canonical, problem: Problem, options: SolveOptions) -> list[int]:
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
        for column in canonical.columns
    ]


def serve_every_bucket(program: IntegerProgram) -> None:
    """Σ_k y_bk = 1 for every bucket b (all its slices, where sliced)."""
    serve(program, program.y, "serve_bucket")


def fit_load(program: IntegerProgram) -> None:
    """Σ_b load_bk × y_bk (+ protection) ≤ (1 − headroom) × x_k for every column k."""
    for k in range(len(program.x)):
        terms = load_terms(program, program.y, k, "load")
        terms.append((program.x[k], -program.usable))
        program.row(terms, LE, 0, f"load_fits_option_{k}")


def keep_limits(program: IntegerProgram) -> None:
    """Σ_k units_k × x_k ≤ limit, per accelerator (GPUs), cloud, region, instance type (instances)."""
    for n, (key, limit) in enumerate(program.problem.constraints.limits):
        terms = [
            (x, float(column.units(key)))
            for x, column in zip(program.x, program.canonical.columns, strict=True)
            if column.units(key)
        ]
        if terms:
            program.row(terms, LE, limit, f"limit_{n}")


def keep_budget(program: IntegerProgram) -> None:
    """Σ_k price_k × x_k − what is already paid ≤ budget."""
    budget = program.problem.constraints.budget_usd_per_hour
    if budget is not None:
        program.row(program.cost_terms(), LE, budget + _ROUNDING, "budget")


def use_fixed(program: IntegerProgram) -> None:
    """f_pk ≤ x_k over all paid groups p, Σ_k f_pk ≤ instances_p: paid instances cost nothing."""
    paid: dict[int, Terms] = {}
    for p, group in enumerate(program.problem.constraints.fixed):
        ks = _matching(program, group)
        for k in ks:
            f = program.lp.add(f"f_{p}_{k}", 0.0, group.instances, whole=True)
            program.fixed[p, k] = f
            paid.setdefault(k, []).append((f, 1.0))
        terms = [(program.fixed[p, k], 1.0) for k in ks]
        if terms:
            program.row(terms, LE, group.instances, f"fixed_{p}_has")
    for k, terms in sorted(paid.items()):
        program.row([*terms, (program.x[k], -1.0)], LE, 0, f"fixed_pays_only_used_option_{k}")


def keep_minimum(program: IntegerProgram) -> None:
    """Σ_k x_k ≥ instances_p over the columns that match group p."""
    for p, group in enumerate(program.problem.constraints.minimum):
        terms = [(program.x[k], 1.0) for k in _matching(program, group)]
        if terms:
            program.row(terms, GE, group.instances, f"minimum_{p}")


def _matching(program: IntegerProgram, group: InstanceGroup) -> list[int]:
    return [k for k, column in enumerate(program.canonical.columns) if matches(column, group)]


def price_changes(program: IntegerProgram) -> None:
    """c_k ≥ x_k − running_k and c_k ≥ running_k − x_k; the goal counts switch × c_k."""
    close = program.options.stay_close
    if close is None:
        return
    running = {(demand, option): count for demand, option, count in close.instances}
    for k, column in enumerate(program.canonical.columns):
        count = running.get((program.canonical.demands[column.demand].name, column.name), 0)
        changes = program.lp.add(f"c_{k}")
        program.extra_goal.append((changes, close.switch_usd_per_hour))
        for sign, word in ((1.0, "started"), (-1.0, "stopped")):
            program.row(
                [(changes, 1.0), (program.x[k], -sign)],
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
"""Every constraint by name, in the order in which its rows enter the program."""

SHARE_CONSTRAINTS = frozenset({"serve", "region_share", "cloud_share", "spot_share"})
"""Those that speak of shares alone, and so still bind once the instances are settled."""
