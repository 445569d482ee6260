"""A spec planned over a grid of request rates, TPOT limits and prices: capacities once per SLO."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.optimizer import SolveOptions
from melange_sky.optimizer.answers.rate_sweep import Fleets, PriceStep, SweepPoint, sweep_rates
from melange_sky.planner.axes import parse_axis, parse_prices
from melange_sky.planner.prepare import problem_for
from melange_sky.planner.request import PlanRequest
from melange_sky.pricing import OfferQuery
from melange_sky.spec import Spec, SpecSource, load_own_spec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from melange_sky.optimizer import Problem


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepAxes:
    """Total rates in requests per second; TPOT limits in seconds, none for the spec's own.

    Price steps none for the prices as they are.
    """

    rates_rps: tuple[float, ...]
    tpots_s: tuple[float, ...] = ()
    prices: tuple[PriceStep, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """Which points to plan: the flags of `sweep`, by their names.

    `rates` and `tpot_ms` are 1,4,16 or 1:128:x2 or 10:100:+10, `prices` price factors in the same form.
    """

    rates: str | float | Sequence[float]
    tpot_ms: str | float | Sequence[float] | None = None
    prices: str | Sequence[str] = ()
    as_of: str | None = None
    offline: bool = False
    offers: Path | None = None
    time_limit_s: float = 30.0

    @property
    def axes(self) -> SweepAxes:
        """The points' axes; InputError for what is no axis."""
        tpots = () if self.tpot_ms is None else parse_axis(self.tpot_ms, "--tpot-ms")
        texts = (self.prices,) if isinstance(self.prices, str) else self.prices
        return SweepAxes(
            rates_rps=parse_axis(self.rates, "--rate"),
            tpots_s=tuple(value / 1000 for value in tpots),
            prices=tuple(step for text in texts for step in parse_prices(text)),
        )

    @property
    def request(self) -> PlanRequest:
        """How each point is planned."""
        return PlanRequest(
            prices=OfferQuery(offline=self.offline, offers_csv=self.offers, as_of=self.as_of),
            solve=SolveOptions(time_limit_s=self.time_limit_s),
            sensitivity=False,
        )


def sweep_source(source: SpecSource, options: SweepOptions) -> tuple[SweepPoint, ...]:
    """Plan a spec at every rate, TPOT limit and price given; see `sweep_spec`."""
    return sweep_spec(source, options.request, options.axes)


def sweep_spec(source: SpecSource, request: PlanRequest, axes: SweepAxes) -> tuple[SweepPoint, ...]:
    """Return a point per TPOT limit, price step and rate, in that order. An infeasible point says why.

    The tightest limit is planned first: its fleets serve under the looser ones too.
    """
    spec = load_own_spec(source, "sweep takes a melange_sky spec, not a Mélange JSON config")
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
        log.info("TPOT limit %s: %d points planned", shown, len(points[tpot_s]))
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
