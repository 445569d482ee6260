"""Constraints that keep a fleet standing when something goes: instances, a region, a cloud, spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.optimizer.program.linear import GE, LE
from melange_sky.optimizer.program.model import load_terms, serve, share_variables

if TYPE_CHECKING:
    from melange_sky.optimizer.program.model import Model


def keep_min_replicas(model: Model) -> None:
    """Σ_k x_k ≥ min_replicas for every model, over the columns that can serve it at all."""
    least = model.problem.constraints.min_replicas
    if least > 0:
        for d in range(len(model.fleet.demands)):
            terms = [
                (model.x[k], 1.0)
                for k in model.fleet.of_demand(d)
                if any(load is not None for load in model.fleet.columns[k].loads)
            ]
            model.row(terms, GE, least, f"min_replicas_of_model_{d}")


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
                model.row(terms, LE, bound, f"{name}_of_model_{d}_{n}")


def survive_losses(model: Model) -> None:
    """After each loss scenario l, other shares s still serve everything.

    Σ_k s_bk = 1 and Σ_b load_bk × s_bk ≤ (1 − headroom) × (x_k − Σ_{n ≤ l_k} e_kn), where
    x_k ≤ n − 1 + bound_k × e_kn makes e_kn = 1 once k has n instances: what is not there cannot be
    lost. Which scenarios matter is found while solving: see `losses.py`.

    No serving fleet has Σ_k price_k × x_k below D, the cost of every bucket on its cheapest option
    without rounding; so what is left after losing n ≤ spare instances of k obeys
    Σ_j price_j × x_j − price_k × Σ_{m ≤ n} e_km ≥ D. That cuts off what no scenario has to.
    """
    spare = model.problem.constraints.spare
    if spare == 0:
        return
    there = {
        (k, n): _there(model, k, n)
        for k in range(len(model.x))
        for n in range(1, 1 + max([min(spare, 2), *(dict(s).get(k, 0) for s in model.scenarios)]))
    }
    for demand in range(len(model.fleet.demands)):
        _cost_after_loss(model, demand, there)
    for s, scenario in enumerate(model.scenarios):
        lost = dict(scenario)
        demand = model.fleet.columns[scenario[0][0]].demand
        shares = share_variables(model, f"s{s}", demand)
        serve(model, shares, f"after_loss_{s}_serve_bucket")
        for k in model.fleet.of_demand(demand):
            terms = load_terms(model, shares, k, f"after_loss_{s}_load")
            terms.append((model.x[k], -model.usable))
            terms += [(there[k, n], model.usable) for n in range(1, lost.get(k, 0) + 1)]
            model.row(terms, LE, 0, f"after_loss_{s}_load_fits_option_{k}")


def _cost_after_loss(model: Model, demand: int, there: dict[tuple[int, int], int]) -> None:
    mine = model.fleet.of_demand(demand)
    columns = model.fleet.columns
    least = sum(
        min(columns[k].price * load for k in mine if (load := columns[k].loads[b]) is not None)
        for b in range(len(model.fleet.buckets[demand]))
    )
    whole = [(model.x[k], columns[k].price) for k in mine]
    for k in mine:
        lost = [(there[k, n], -columns[k].price) for n in range(1, 3) if (k, n) in there]
        lost = lost[: model.problem.constraints.spare]
        model.row(whole + lost, GE, least / model.usable, f"worth_after_loss_option_{k}")


def _there(model: Model, k: int, n: int) -> int:
    variable = model.lp.add(f"e_{k}_{n}", 0.0, 1.0, whole=True)
    model.row(
        [(model.x[k], 1.0), (variable, -float(model.bounds[k]))],
        LE,
        n - 1,
        f"option_{k}_has_{n}",
    )
    return variable
