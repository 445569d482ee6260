"""The integer program, as a PuLP model: one function per constraint, each stating its inequality.

Indices: b bucket, k column (an option of one model). Variables:

* x_k ∈ {0, 1, …}    instances of column k
* y_b_k ∈ [0, 1]     share of bucket b's rate on column k; integer slices of it where sliced
* f_p_k ∈ {0, 1, …}  instances of k that fixed capacity p pays for

Variables are named by index (PuLP folds distinct option names into one), constraints in words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pulp

from melange_sky.optimizer.fleet import matches

if TYPE_CHECKING:
    from melange_sky.optimizer.fleet import Fleet
    from melange_sky.optimizer.problem import Pledge, Problem, SolveOptions

_ROUNDING = 1e-9


@dataclass(slots=True, kw_only=True)
class Model:
    """A PuLP model and its variables. `y[b, k]` counts slices of 1/`slices` of a bucket's rate."""

    lp: pulp.LpProblem
    fleet: Fleet
    problem: Problem
    slices: int
    bounds: list[int]
    offsets: list[int]
    x: list[pulp.LpVariable]
    y: dict[tuple[int, int], pulp.LpVariable]
    fixed: dict[tuple[int, int], pulp.LpVariable] = field(default_factory=dict)

    @property
    def usable(self) -> float:
        """Fraction of an instance's capacity that may be used."""
        return 1.0 - self.problem.headroom

    def row(
        self,
        terms: list[tuple[pulp.LpVariable, float]],
        sense: int,
        bound: float,
        name: str,
    ) -> None:
        """Add Σ coefficient × variable (sense) bound."""
        expression = pulp.LpAffineExpression([term for term in terms if term[1]])
        self.lp.addConstraint(pulp.LpConstraint(expression, sense, name, bound))

    def cost_terms(self) -> list[tuple[pulp.LpVariable, float]]:
        """Return Σ price × (instances − instances already paid for)."""
        columns = self.fleet.columns
        terms = [(x, column.price) for x, column in zip(self.x, columns, strict=True)]
        return terms + [(f, -columns[k].price) for (_, k), f in self.fixed.items()]


def build_model(
    fleet: Fleet, problem: Problem, options: SolveOptions, only: frozenset[str] | None = None
) -> Model:
    """Build the model with least cost as its objective; `only` names the constraints it holds."""
    sliced = options.assignment == "sliced"
    slices = options.slice_factor if sliced else 1
    bounds = _instance_bounds(fleet, problem)
    offsets = [0]
    for buckets in fleet.buckets:
        offsets.append(offsets[-1] + len(buckets))
    category = pulp.LpInteger if sliced else pulp.LpContinuous
    lp = pulp.LpProblem("fleet", pulp.LpMinimize)
    model = Model(
        lp=lp,
        fleet=fleet,
        problem=problem,
        slices=slices,
        bounds=bounds,
        offsets=offsets,
        x=[lp.add_variable(f"x_{k}", 0, bound, pulp.LpInteger) for k, bound in enumerate(bounds)],
        y={
            (offsets[column.demand] + b, k): lp.add_variable(
                f"y_{offsets[column.demand] + b}_{k}", 0, slices, category
            )
            for k, column in enumerate(fleet.columns)
            for b, load in enumerate(column.loads)
            if load is not None
        },
    )
    for name, add in CONSTRAINTS.items():
        if only is None or name in only:
            add(model)
    model.lp.setObjective(pulp.LpAffineExpression(model.cost_terms()))
    return model


def _instance_bounds(fleet: Fleet, problem: Problem) -> list[int]:
    """Return, per column, the most instances that any least-cost fleet could use.

    Enough to serve every bucket alone, once more for each spare, and for what is asked for anyway.
    """
    constraints = problem.constraints
    asked = max([constraints.min_replicas, *(p.instances for p in constraints.minimum)])
    return [
        max(
            math.ceil(sum(v for v in column.loads if v) / (1 - problem.headroom) - _ROUNDING)
            + constraints.spare,
            asked,
        )
        for column in fleet.columns
    ]


def serve_every_bucket(model: Model) -> None:
    """Σ_k y_bk = 1 for every bucket b (all its slices, where sliced)."""
    by_bucket: dict[int, list[tuple[pulp.LpVariable, float]]] = {}
    for (b, _), y in model.y.items():
        by_bucket.setdefault(b, []).append((y, 1.0))
    for b, terms in sorted(by_bucket.items()):
        model.row(terms, pulp.LpConstraintEQ, model.slices, f"serve_bucket_{b}")


def fit_load(model: Model) -> None:
    """Σ_b load_bk × y_bk ≤ (1 − headroom) × x_k for every column k."""
    for k, column in enumerate(model.fleet.columns):
        start = model.offsets[column.demand]
        terms = [
            (model.y[start + b, k], load / model.slices)
            for b, load in enumerate(column.loads)
            if load is not None
        ]
        terms.append((model.x[k], -model.usable))
        model.row(terms, pulp.LpConstraintLE, 0, f"load_fits_option_{k}")


def keep_limits(model: Model) -> None:
    """Σ_k units_k × x_k ≤ limit, per accelerator (GPUs), cloud, region, instance type (instances)."""
    for n, (key, limit) in enumerate(model.problem.constraints.limits):
        terms = [
            (x, float(column.units(key)))
            for x, column in zip(model.x, model.fleet.columns, strict=True)
            if column.units(key)
        ]
        if terms:
            model.row(terms, pulp.LpConstraintLE, limit, f"limit_{n}")


def keep_budget(model: Model) -> None:
    """Σ_k price_k × x_k − what is already paid ≤ budget."""
    budget = model.problem.constraints.budget_usd_per_hour
    if budget is not None:
        model.row(model.cost_terms(), pulp.LpConstraintLE, budget + _ROUNDING, "budget")


def use_fixed(model: Model) -> None:
    """f_pk ≤ x_k over all pledges p, Σ_k f_pk ≤ instances_p: paid instances cost nothing."""
    paid: dict[int, list[tuple[pulp.LpVariable, float]]] = {}
    for p, pledge in enumerate(model.problem.constraints.fixed):
        ks = _matching(model, pledge)
        for k in ks:
            f = model.lp.add_variable(f"f_{p}_{k}", 0, pledge.instances, pulp.LpInteger)
            model.fixed[p, k] = f
            paid.setdefault(k, []).append((f, 1.0))
        terms = [(model.fixed[p, k], 1.0) for k in ks]
        if terms:
            model.row(terms, pulp.LpConstraintLE, pledge.instances, f"fixed_{p}_has")
    for k, terms in sorted(paid.items()):
        model.row(
            [*terms, (model.x[k], -1.0)], pulp.LpConstraintLE, 0, f"fixed_pays_only_used_option_{k}"
        )


def keep_minimum(model: Model) -> None:
    """Σ_k x_k ≥ instances_p over the columns that match pledge p."""
    for p, pledge in enumerate(model.problem.constraints.minimum):
        terms = [(model.x[k], 1.0) for k in _matching(model, pledge)]
        if terms:
            model.row(terms, pulp.LpConstraintGE, pledge.instances, f"minimum_{p}")


def keep_min_replicas(model: Model) -> None:
    """Σ_k x_k ≥ min_replicas for every model."""
    least = model.problem.constraints.min_replicas
    if least > 0:
        for d in range(len(model.fleet.demands)):
            terms = [(model.x[k], 1.0) for k in model.fleet.of_demand(d)]
            model.row(terms, pulp.LpConstraintGE, least, f"min_replicas_of_model_{d}")


def spread_regions(model: Model) -> None:
    """Σ rate_b × y_bk over a region's columns ≤ max_share_per_region × the model's rate."""
    most = model.problem.constraints.max_share_per_region
    if most is not None:
        _cap_share(model, most, [c.region for c in model.fleet.columns], "region_share")


def spread_clouds(model: Model) -> None:
    """Σ rate_b × y_bk over a cloud's columns ≤ max_share_per_cloud × the model's rate."""
    most = model.problem.constraints.max_share_per_cloud
    if most is not None:
        _cap_share(model, most, [c.cloud for c in model.fleet.columns], "cloud_share")


def keep_on_demand_floor(model: Model) -> None:
    """Σ rate_b × y_bk over a model's spot columns ≤ max_fraction × the model's rate."""
    spot = model.problem.constraints.spot
    if spot is not None and spot.max_fraction < 1:
        groups = ["spot" if c.use_spot else None for c in model.fleet.columns]
        _cap_share(model, spot.max_fraction, groups, "spot_share")


def _cap_share(model: Model, most: float, groups: list[str | None], name: str) -> None:
    for d, buckets in enumerate(model.fleet.buckets):
        rate_rps = sum(bucket.rate_rps for bucket in buckets)
        labels = sorted({g for k in model.fleet.of_demand(d) if (g := groups[k]) is not None})
        for n, label in enumerate(labels):
            terms = [
                (y, buckets[b - model.offsets[d]].rate_rps / rate_rps)
                for (b, k), y in model.y.items()
                if model.fleet.columns[k].demand == d and groups[k] == label
            ]
            if terms:
                bound = most * model.slices
                model.row(terms, pulp.LpConstraintLE, bound, f"{name}_of_model_{d}_{n}")


def _matching(model: Model, pledge: Pledge) -> list[int]:
    return [k for k, column in enumerate(model.fleet.columns) if matches(column, pledge)]


CONSTRAINTS = {
    "serve": serve_every_bucket,
    "load": fit_load,
    "limits": keep_limits,
    "fixed": use_fixed,
    "budget": keep_budget,
    "minimum": keep_minimum,
    "min_replicas": keep_min_replicas,
    "region_share": spread_regions,
    "cloud_share": spread_clouds,
    "spot_share": keep_on_demand_floor,
}
"""Every constraint by name, in the order in which its rows enter the model."""

SHARE_CONSTRAINTS = frozenset({"serve", "region_share", "cloud_share", "spot_share"})
"""Those that speak of shares alone, and so still bind once the instances are settled."""
