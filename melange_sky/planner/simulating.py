"""Replay a saved plan's models and judge them: what `simulate` does."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, did_you_mean
from melange_sky.planner.figures import POLICIES, one_of, side_by_side, within
from melange_sky.planner.hooks import NO_HOOKS, Hooks
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan
from melange_sky.planner.replayed_trace import replayed_trace
from melange_sky.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from melange_sky.plans import ModelPlan, Plan
    from melange_sky.replay import Simulation
    from melange_sky.workload import Trace

log = logging.getLogger(__name__)

LARGEST = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions:
    """What to replay and how: the flags of `simulate`, by their names.

    `columns`, `timezone` and `keep_failed` say how `trace` is read, where evidence does not.

    Raises InputError where one makes no sense.
    """

    trace: Path | None = None
    rate_scale: float = 1.0
    duration_s: float | None = None
    seed: int = 0
    ci: float = 0.01
    burstiness: float = 1.0
    policy: str = "gateway"
    outages_per_hour: float = 0.0
    outage_s: float = 300.0
    model_name: str | None = None
    jobs: int | None = None
    columns: str | Mapping[str, str] | None = None
    timezone: str | None = None
    keep_failed: bool = False

    def __post_init__(self) -> None:
        one_of("--policy", self.policy, POLICIES)
        within("--ci", self.ci, 1e-4, 0.5)
        within("--burstiness", self.burstiness, 0.01, 1000)
        within("--outages", self.outages_per_hour, 0, 3600)
        for flag, number in (
            ("--rate-scale", self.rate_scale),
            ("--duration", self.duration_s),
            ("--outage-s", self.outage_s),
        ):
            if number is not None and not 0 < number <= LARGEST:
                raise InputError(f"{flag}: must be a number above 0, at most {LARGEST:g}")
        _ = self.traffic

    @property
    def traffic(self) -> Trace | None:
        """The trace as it is to be read."""
        return replayed_trace(
            self.trace, "--trace", self.columns, self.timezone, keep_failed=self.keep_failed
        )

    def request(self, hooks: Hooks) -> SimulationRequest:
        """What is replayed."""
        return SimulationRequest(
            trace=self.traffic,
            rate_scale=self.rate_scale,
            duration_s=self.duration_s,
            ci=self.ci,
            burstiness=self.burstiness,
            how=Replay(
                policy=self.policy,
                seed=self.seed,
                outages_per_hour=self.outages_per_hour,
                outage_s=self.outage_s,
            ),
            jobs=side_by_side(self.jobs),
            on_progress=hooks.replaying,
        )


def simulate_models(
    planned: Plan, options: SimulateOptions, hooks: Hooks = NO_HOOKS
) -> tuple[Simulation, ...]:
    """Replay each model of a plan, or the one named, and judge it. Same seed, same result.

    Raises InputError for an unknown model, and for a trace with several models.
    """
    request = options.request(hooks)
    simulations = []
    for model in _chosen(planned, options):
        simulation = simulate_plan(model, request)
        verdict = simulation.verdict
        log.info(
            "%s: %d requests replayed in %d replications, attainment %.4f (target %.4g)",
            model.name,
            verdict.requests,
            verdict.replications,
            verdict.attainment,
            verdict.target,
        )
        simulations.append(simulation)
    return tuple(simulations)


def _chosen(planned: Plan, options: SimulateOptions) -> tuple[ModelPlan, ...]:
    wanted = options.model_name
    if wanted is not None:
        named = tuple(m for m in planned.models if wanted in (m.name, m.model))
        if not named:
            names = [model.name for model in planned.models]
            hint = did_you_mean(wanted, names) or f"; the plan has {', '.join(names)}"
            raise InputError(f"no model '{wanted[:80]}' in the plan{hint}")
        return named
    if options.trace is not None and len(planned.models) > 1:
        raise InputError(
            "the plan has several models: name the one that the trace is for with --model"
        )
    return planned.models


def missed_text(simulation: Simulation) -> str:
    """Return by how much a replayed model missed its SLO."""
    verdict = simulation.verdict
    return (
        f"{simulation.plan.name}: SLO missed: {verdict.attainment:.2%} of the requests within limits, "
        f"target {verdict.target:.2%}"
    )
