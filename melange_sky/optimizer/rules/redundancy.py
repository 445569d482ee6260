"""Constraints that keep a fleet standing when something goes: instances, a region, a cloud, spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.optimizer.program.integer_program import load_terms, serve, share_variables
from melange_sky.optimizer.program.linear import GE, LE

if TYPE_CHECKING:
    from melange_sky.optimizer.program.integer_program import IntegerProgram


def keep_min_replicas(program: IntegerProgram) -> None:
    """Σ_k x_k ≥ min_replicas for every model, over the columns that can serve it at all."""
    least = program.problem.constraints.min_replicas
    if least > 0:
        for d in range(len(program.canonical.demands)):
            terms = [
                (program.x[k], 1.0)
                for k in program.canonical.of_demand(d)
                if any(load is not None for load in program.canonical.columns[k].loads)
            ]
            program.row(terms, GE, least, f"min_replicas_of_model_{d}")


def spread_regions(program: IntegerProgram) -> None:
    """Σ rate_b × y_bk over a region's columns ≤ max_share_per_region × the model's rate."""
    most = program.problem.constraints.max_share_per_region
    if most is not None:
        _cap_share(program, most, [c.region for c in program.canonical.columns], "region_share")


def spread_clouds(program: IntegerProgram) -> None:
    """Σ rate_b × y_bk over a cloud's columns ≤ max_share_per_cloud × the model's rate."""
    most = program.problem.constraints.max_share_per_cloud
    if most is not None:
        _cap_share(program, most, [c.cloud for c in program.canonical.columns], "cloud_share")


def keep_on_demand_floor(program: IntegerProgram) -> None:
    """Σ rate_b × y_bk over a model's spot columns ≤ max_fraction × the model's rate."""
    spot = program.problem.constraints.spot
    if spot is not None and spot.max_fraction < 1:
        groups = ["spot" if c.use_spot else None for c in program.canonical.columns]
        _cap_share(program, spot.max_fraction, groups, "spot_share")


def _cap_share(program: IntegerProgram, most: float, groups: list[str | None], name: str) -> None:
    for d, buckets in enumerate(program.canonical.buckets):
        rate_rps = sum(bucket.rate_rps for bucket in buckets)
        labels = sorted({g for k in program.canonical.of_demand(d) if (g := groups[k]) is not None})
        for n, label in enumerate(labels):
            terms = [
                (y, buckets[b - program.offsets[d]].rate_rps / rate_rps)
                for (b, k), y in program.y.items()
                if program.canonical.columns[k].demand == d and groups[k] == label
            ]
            if terms:
                bound = most * program.slices
                program.row(terms, LE, bound, f"{name}_of_model_{d}_{n}")


def survive_losses(program: IntegerProgram) -> None:
    """After each loss scenario l, other shares s still serve everything.

    Σ_k s_bk = 1 and Σ_b load_bk × s_bk ≤ (1 − headroom) × (x_k − Σ_{n ≤ l_k} e_kn), where
    x_k ≤ n − 1 + bound_k × e_kn makes e_kn = 1 once k has n instances: what is not there cannot be
    lost. Which scenarios matter is found while solving: see `loss_scenarios.py`.

    No serving fleet has Σ_k price_k × x_k below D, the cost of every bucket on its cheapest option
    without rounding; so what is left after losing n ≤ spare instances of k obeys
    Σ_j price_j × x_j − price_k × Σ_{m ≤ n} e_km ≥ D. That cuts off what no scenario has to.
    """
    spare = program.problem.constraints.spare
    if spare == 0:
        return
    there = {
        (k, n): _there(program, k, n)
        for k in range(len(program.x))
        for n in range(1, 1 + max([min(spare, 2), *(dict(s).get(k, 0) for s in program.scenarios)]))
    }
    for demand in range(len(program.canonical.demands)):
        _cost_after_loss(program, demand, there)
    for s, scenario in enumerate(program.scenarios):
        lost = dict(scenario)
        demand = program.canonical.columns[scenario[0][0]].demand
        shares = share_variables(program, f"s{s}", demand)
        serve(program, shares, f"after_loss_{s}_serve_bucket")
        for k in program.canonical.of_demand(demand):
            terms = load_terms(program, shares, k, f"after_loss_{s}_load")
            terms.append((program.x[k], -program.usable))
            terms += [(there[k, n], program.usable) for n in range(1, lost.get(k, 0) + 1)]
            program.row(terms, LE, 0, f"after_loss_{s}_load_fits_option_{k}")


def _cost_after_loss(
    program: IntegerProgram, demand: int, there: dict[tuple[int, int], int]
) -> None:
    mine = program.canonical.of_demand(demand)
    columns = program.canonical.columns
    least = sum(
        min(columns[k].price * load for k in mine if (load := columns[k].loads[b]) is not None)
        for b in range(len(program.canonical.buckets[demand]))
    )
    whole = [(program.x[k], columns[k].price) for k in mine]
    for k in mine:
        lost = [(there[k, n], -columns[k].price) for n in range(1, 3) if (k, n) in there]
        lost = lost[: program.problem.constraints.spare]
        program.row(whole + lost, GE, least / program.usable, f"worth_after_loss_option_{k}")


def _there(program: IntegerProgram, k: int, n: int) -> int:
    variable = program.lp.add(f"e_{k}_{n}", 0.0, 1.0, whole=True)
    program.row(
        [(program.x[k], 1.0), (variable, -float(program.bounds[k]))],
        LE,
        n - 1,
        f"option_{k}_has_{n}",
    )
    return variable
