"""Rates of several models by the hour: what a demand names, and a mix for every proportion that they come in."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.reserve.together import Together
from melange_sky.spec.hourly import OF_A_MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.planner.reserving.material import Mix
    from melange_sky.reserve.serving import Served
    from melange_sky.spec import Spec
    from melange_sky.spec.hourly import HourlyDemand

    Floats = NDArray[np.float64]

_DIGITS = 12
"""Proportions that differ by no more digits are the same."""


def check_models(spec: Spec, demand: HourlyDemand) -> None:
    """Raise InputError where a demand names other models than the spec has, or stops one of them while others go on."""
    if not demand.of_models:
        return
    names = [served.name for served in spec.models]
    given = dict(demand.of_models)
    problems = [
        f"{demand.source}: column '{OF_A_MODEL}{clip(name)}': the spec has no such model{did_you_mean(name, names)}; it "
        f"has {', '.join(names)}"
        for name in given
        if name not in names
    ]
    problems += [
        f"{demand.source}: lacks the column '{OF_A_MODEL}{name}'; give the rates of every model of the spec, or their "
        "total as rate_rps"
        for name in names
        if name not in given
    ]
    total = np.array(demand.rate_rps)
    for name in names:
        idle = (np.array(given.get(name, demand.rate_rps)) <= 0) & (total > 0)
        if idle.any():
            first = demand.starts[int(idle.argmax())].isoformat()
            problems.append(
                f"{demand.source}: {OF_A_MODEL}{name} is 0 at {first} where other models have traffic; a fleet serves all "
                "models of the spec, so give it at least a small rate, or make a spec for each"
            )
    if problems:
        raise InputError(*problems)


def stated_rates(spec: Spec, demand: HourlyDemand) -> Floats | None:
    """Return the rates that a demand states of each model, in the spec's order, (models × periods); None of their sum."""
    if not demand.of_models:
        return None
    given = dict(demand.of_models)
    return np.array([given[served.name] for served in spec.models])


def at_rates(mix: Mix, rates_rps: Sequence[float]) -> Mix:
    """Return a mix with each model at a rate > 0, in the spec's order."""
    demands = tuple(
        replace(demand, workload=demand.workload.at_rate(rate))
        for demand, rate in zip(mix.problem.demands, rates_rps, strict=True)
    )
    return replace(
        mix,
        workload=mix.workload.at_rate(rates_rps[0]),
        problem=replace(mix.problem, demands=demands),
    )


def in_proportions(
    mix: Mix, served: Served, rates_rps: Floats
) -> tuple[tuple[Mix, ...], list[Served], NDArray[np.intp]]:
    """Return a mix for every proportion in which rates come, its fleets, and which each period is of, (periods).

    `rates_rps` is (models × periods), `mix` and its fleets are of the models at their highest rates.
    """
    if not isinstance(served, Together):
        return (mix,), [served], np.zeros(rates_rps.shape[1], dtype=np.intp)
    total = rates_rps.sum(axis=0)
    even = np.array(mix.parts)[:, None]
    shares = np.divide(rates_rps, total, out=np.tile(even, len(total)), where=total > 0)
    rows, place = np.unique(np.round(shares.T, _DIGITS), axis=0, return_inverse=True)
    top = float(total.max())
    mixes = tuple(at_rates(mix, (row * top).tolist()) for row in rows)
    fleets: list[Served] = [served.in_shares((row / row.sum()).tolist()) for row in rows]
    return mixes, fleets, place.reshape(-1).astype(np.intp)
