"""Plan a spec, and verify it by replay where asked: what `plan` does."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from melange_sky.errors import InputError
from melange_sky.optimizer import Robustness, SolveOptions, StayClose
from melange_sky.planfile import load_plan
from melange_sky.planner.figures import one_of, side_by_side, within
from melange_sky.planner.fleet_ids import new_fleet_id
from melange_sky.planner.hooks import NO_HOOKS, Hooks
from melange_sky.planner.plan_spec import plan_read
from melange_sky.planner.replayed_trace import replayed_trace
from melange_sky.planner.request import PlanRequest
from melange_sky.plans.reuse import Routing
from melange_sky.pricing import OfferQuery
from melange_sky.profiles import engine_generation
from melange_sky.spec import MelangeConfig, load_spec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from melange_sky.plans import Plan
    from melange_sky.spec import Spec, SpecSource
    from melange_sky.workload import Trace

log = logging.getLogger(__name__)

Assignment = Literal["fractional", "sliced"]
LARGEST_USD = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """How to plan beyond the spec: the flags of `plan`, by their names.

    `verify_trace`, `burstiness`, `seed`, `jobs` and `verify_seconds` are of the replay that `verify` asks for;
    `columns`, `timezone` and `keep_failed` say how its trace is read, where evidence does not.
    Raises InputError where options clash or make no sense.
    """

    offline: bool = False
    refresh: bool = False
    time_limit_s: float = 30.0
    assignment: Assignment = "fractional"
    offers: Path | None = None
    allow_flagged: bool = False
    within_fraction: float = 0.0
    alternatives: int = 0
    stay_close: Path | None = None
    switch_cost: float | None = None
    throughput_error: float = 0.0
    error_budget: int | None = None
    price_error: float = 0.0
    confidence: float = 0.5
    engine_generation: str | None = None
    verify: bool = False
    verify_trace: Path | None = None
    columns: str | Mapping[str, str] | None = None
    timezone: str | None = None
    keep_failed: bool = False
    burstiness: float | None = None
    seed: int = 0
    jobs: int | None = None
    verify_seconds: float = 120.0
    incumbent: Path | None = None
    affinity: Routing = "session"

    def __post_init__(self) -> None:
        one_of("--assignment", self.assignment, get_args(Assignment))
        one_of("--affinity", self.affinity, get_args(Routing))
        for flag, seconds in (
            ("--time-limit", self.time_limit_s),
            ("--verify-seconds", self.verify_seconds),
        ):
            if not 0 < seconds < float("inf"):
                raise InputError(f"{flag}: must be a positive number of seconds")
        for flag, share in (
            ("--within", self.within_fraction),
            ("--throughput-error", self.throughput_error),
            ("--price-error", self.price_error),
        ):
            within(flag, share, 0.0, 100.0 if flag == "--within" else 1.0 - 1e-12)
        if not 0.01 <= self.confidence <= 0.99:
            raise InputError("--confidence: must lie between 0.01 and 0.99")
        if self.engine_generation is not None:
            engine_generation(self.engine_generation)
        self._check_pairs()

    def _check_pairs(self) -> None:
        """Raise InputError for options that need or rule out one another."""
        if (self.stay_close is None) != (self.switch_cost is None):
            raise InputError("--stay-close PLAN.json and --switch-cost USD go together")
        if self.switch_cost is not None:
            within("--switch-cost", self.switch_cost, 0.0, LARGEST_USD)
        if self.error_budget is not None and not self.throughput_error:
            raise InputError("--error-budget needs --throughput-error")
        if self.verify_trace is not None and not self.verify:
            raise InputError("--verify-trace needs --verify")
        _ = self.traffic
        if self.refresh and self.prices().forbids_network:
            raise InputError("--refresh needs the network and cannot be combined with --offline")

    @property
    def traffic(self) -> Trace | None:
        """The trace that verifies the plan, as it is to be read; None for the spec's own traffic."""
        flag = "--verify-trace"
        return replayed_trace(
            self.verify_trace, flag, self.columns, self.timezone, keep_failed=self.keep_failed
        )

    def prices(self, hooks: Hooks = NO_HOOKS) -> OfferQuery:
        """Which prices to plan with."""
        return OfferQuery(
            offline=self.offline,
            refresh=self.refresh,
            offers_csv=self.offers,
            progress=hooks.refreshing,
        )

    def request(self, hooks: Hooks = NO_HOOKS) -> PlanRequest:
        """What the planner is asked for."""
        protection = None
        if self.throughput_error:
            protection = Robustness(
                throughput_error=self.throughput_error, budget=self.error_budget
            )
        return PlanRequest(
            prices=self.prices(hooks),
            allow_flagged=self.allow_flagged,
            price_error=self.price_error,
            confidence=self.confidence,
            engine_generation=self.engine_generation,
            solve=SolveOptions(
                assignment=self.assignment,
                time_limit_s=self.time_limit_s,
                within_fraction=self.within_fraction,
                alternatives=self.alternatives,
                stay_close=_stay_close(self.stay_close, self.switch_cost),
                robustness=protection,
            ),
            progress=hooks.estimating,
            affinity=self.affinity,
        )


def plan_source(source: SpecSource, options: PlanOptions, hooks: Hooks = NO_HOOKS) -> Plan:
    """Plan a spec file or mapping, and verify the plan by replay where asked.

    A verified plan that misses its SLO is returned all the same: its models' `verification` says so.
    """
    request = options.request(hooks)
    if options.verify or options.incumbent is not None:
        planned = _replayed(source, request, options, hooks)
    else:
        planned = _plan(source, request, options)
    log.info("%s: $%.4f/h", planned.name, planned.cost_usd_per_hour)
    return replace(planned, fleet_id=new_fleet_id(planned))


def _replayed(source: SpecSource, request: PlanRequest, options: PlanOptions, hooks: Hooks) -> Plan:
    """Plan with replays; numpy and the simulator are not wanted where nothing is replayed."""
    from melange_sky.planner.verifying import (
        ReplayOptions,
        plan_and_verify,
        plan_beside_incumbent,
    )

    replayed = ReplayOptions(
        trace=options.traffic,
        burstiness=options.burstiness,
        seed=options.seed,
        jobs=options.jobs,
        seconds=options.verify_seconds,
        incumbent=options.incumbent,
    )
    how = plan_and_verify if options.verify else plan_beside_incumbent
    return how(source, request, replayed, hooks)


def _plan(source: SpecSource, request: PlanRequest, options: PlanOptions) -> Plan:
    """Plan; where a spec leaves its rate to be found over a trace or bursts, by simulating those."""
    spec = load_spec(source)
    if isinstance(spec, MelangeConfig):
        return plan_read(spec, source, request)
    if any(served.workload.reuse for served in spec.models):
        from melange_sky.planner.reuse_rounds import plan_with_reuse

        planned = plan_with_reuse(
            spec, request, lambda one, asked: _planned(one, source, asked, options), options.seed
        )
    else:
        planned = _planned(spec, source, request, options)
    if not spec.current:
        return planned
    from melange_sky.planner.current_fleet import with_current

    return with_current(planned, spec, request)


def _planned(spec: Spec, source: SpecSource, request: PlanRequest, options: PlanOptions) -> Plan:
    """Plan a spec; where it leaves its rate open, at one that holds over its traffic."""
    if spec.leaves_rate_open:
        from melange_sky.planner.rate_over_time import plan_over_time

        return plan_over_time(spec, request, options.seed, jobs=side_by_side(options.jobs))
    return plan_read(spec, source, replace(request, as_needed=not spec.current))


def _stay_close(running: Path | None, switch_usd_per_hour: float | None) -> StayClose | None:
    if running is None or switch_usd_per_hour is None:
        return None
    instances = tuple(
        (model.name, allocation.candidate.option.name, allocation.instances)
        for model in load_plan(running).models
        for allocation in model.allocations
    )
    return StayClose(instances=instances, switch_usd_per_hour=switch_usd_per_hour)


def missed_reasons(planned: Plan) -> tuple[str, ...]:
    """Return why replayed models of a plan do not hold their SLO, none where all hold."""
    reasons = [
        f"{model.name}: {model.verification.reason or 'the SLO is missed in replay'}"
        for model in planned.models
        if model.verification is not None and not model.verification.holds
    ]
    return tuple(dict.fromkeys(reasons))
