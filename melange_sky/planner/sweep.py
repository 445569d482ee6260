"""A spec planned over a grid of request rates, TPOT limits and prices: capacities once per SLO."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.optimizer.answers.rate_sweep import Fleets, PriceStep, SweepPoint, sweep_rates
from melange_sky.planner.prepare import problem_for
from melange_sky.planner.request import PlanRequest
from melange_sky.spec import MelangeConfig, Spec, load_spec

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.optimizer import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepAxes:
    """Total rates in requests per second; TPOT limits in seconds, none for the spec's own.

    Price steps none for the prices as they are.
    """

    rates_rps: tuple[float, ...]
    tpots_s: tuple[float, ...] = ()
    prices: tuple[PriceStep, ...] = ()


def sweep_spec(path: Path, request: PlanRequest, axes: SweepAxes) -> tuple[SweepPoint, ...]:
    """Return a point per TPOT limit, price step and rate, in that order. An infeasible point says why.

    The tightest limit is planned first: its fleets serve under the looser ones too.
    """
    spec = load_spec(path)
    if isinstance(spec, MelangeConfig):
        raise InputError(f"{path}: sweep takes a melange_sky spec, not a Mélange JSON config")
    limits: tuple[float | None, ...] = axes.tpots_s or (None,)
    points: dict[float | None, tuple[SweepPoint, ...]] = {}
    fleets: Fleets = {}
    for tpot_s in sorted(set(limits), key=lambda limit: limit or 0.0):
        problem = problem_for(_with_tpot(spec, tpot_s), request)
        _check_prices(problem, axes.prices)
        shown = tpot_s if tpot_s is not None else _own_tpot(spec)
        points[tpot_s] = sweep_rates(
            problem, request.solve, axes.rates_rps, shown, axes.prices, fleets
        )
    return tuple(point for limit in limits for point in points[limit])


def _with_tpot(spec: Spec, tpot_s: float | None) -> Spec:
    if tpot_s is None:
        return spec
    models = tuple(replace(m, slo=replace(m.slo, tpot_s=tpot_s)) for m in spec.models)
    return replace(spec, models=models)


def _own_tpot(spec: Spec) -> float | None:
    limits = {model.slo.tpot_s for model in spec.models}
    return limits.pop() if len(limits) == 1 else None


def _check_prices(problem: Problem, steps: tuple[PriceStep, ...]) -> None:
    """Raise InputError for a price step of an accelerator that no option has: it would do nothing."""
    had = {c.option.accelerator for demand in problem.demands for c in demand.options}
    for step in steps:
        if step.accelerator not in (None, *had):
            raise InputError(
                f"--prices: no candidate option has the accelerator '{str(step.accelerator)[:40]}'; "
                f"there are {', '.join(sorted(had))}"
            )
