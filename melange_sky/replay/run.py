"""A plan's fleet under traffic: engines of the plan's options behind the plan's own routing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InputError
from melange_sky.routing import routing_state, routing_table, session_homes, skyserve_weights
from melange_sky.simulator.fleet import (
    FleetOption,
    FleetRules,
    FleetRun,
    Outage,
    simulate_planned_fleet,
)

if TYPE_CHECKING:
    from melange_sky.plans import Allocation, ModelPlan
    from melange_sky.simulator import RequestStream
    from melange_sky.steps import ReplicaModel

EngineOf = Callable[["ModelPlan", "Allocation"], "ReplicaModel"]
"""The engine of one allocation's replicas, from its step times; never from its capacities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How a plan is replayed.

    `policy` is the gateway's own or one of SkyServe's to compare. `outages_per_hour` per replica, each
    lasting `outage_s` until the replacement serves; spot replicas are interrupted besides, as often and
    for as long as the plan's spot policy says. Replications of one seed are independent. With `affinity`
    the gateway keeps together the requests of a session, where the stream tells them.
    """

    policy: str = "gateway"
    seed: int = 0
    replication: int = 0
    outages_per_hour: float = 0.0
    outage_s: float = 300.0
    outages: tuple[Outage, ...] = field(default=())
    affinity: bool = False


def replay(plan: ModelPlan, engine_of: EngineOf, stream: RequestStream, how: Replay) -> FleetRun:
    """Send `stream` through the plan's fleet. Same arguments, same result.

    Raises InputError for a plan whose options say nothing of their engines (Mélange's own config).
    """
    options = fleet_options(plan, engine_of)
    table = routing_table(plan)
    state = routing_state(table, plan, random.Random(f"{how.seed}/{how.replication}"))
    end_s = float(stream.arrival_s[-1]) if len(stream) else 0.0
    outages = how.outages + _drawn_outages(plan, end_s, how)
    rules = FleetRules(policy=how.policy, outages=outages)
    homes = session_homes(plan, table, state) if how.affinity else None
    return simulate_planned_fleet(options, table, state, stream, rules, homes)


def fleet_options(plan: ModelPlan, engine_of: EngineOf) -> list[FleetOption]:
    """Return the plan's allocations as replicas of their engines."""
    weights = skyserve_weights(
        [
            (a.candidate.option.accelerator, a.candidate.option.accelerator_count)
            for a in plan.allocations
        ],
        [a.rate_rps / a.instances for a in plan.allocations],
    )
    options = []
    for allocation, weight in zip(plan.allocations, weights, strict=True):
        option = allocation.candidate.option
        if option.engine is None or plan.shape_of(option) is None:
            raise InputError(
                f"{plan.name}: the plan does not say which model and engine it serves, so there is "
                "nothing to replay (plans from Mélange's JSON config hold throughputs only)"
            )
        options.append(
            FleetOption(
                name=option.name,
                engine=engine_of(plan, allocation).with_max_num_seqs(
                    max(1, option.engine.max_num_seqs // option.engine.pipeline_parallel)
                ),
                engines_per_replica=option.engine.split.simulated_engines,
                replicas=allocation.instances,
                weight=weight,
            )
        )
    return options


def interruptions_per_hour(plan: ModelPlan, allocation: Allocation) -> float:
    """Return how often the plan expects one replica of an allocation to be interrupted."""
    spot = plan.spot
    if spot is None or not allocation.candidate.option.use_spot:
        return 0.0
    # a replica is lost with any of its instances
    return spot.interruption_rate * allocation.candidate.option.nodes


def _drawn_outages(plan: ModelPlan, end_s: float, how: Replay) -> tuple[Outage, ...]:
    """Draw outages of each replica as a Poisson process; none begins while one lasts."""
    rng = np.random.default_rng([how.seed, 1, how.replication])
    outages: list[Outage] = []
    first = 0
    for allocation in plan.allocations:
        on_spot = interruptions_per_hour(plan, allocation)
        recovery_s = plan.spot.recovery_s if plan.spot else how.outage_s
        per_hour = how.outages_per_hour + on_spot
        replicas = range(first, first + allocation.instances)
        first += allocation.instances
        for replica in replicas if per_hour > 0 else ():
            at = float(rng.exponential(3600.0 / per_hour))
            while at < end_s:
                lasts_s = recovery_s if rng.random() * per_hour < on_spot else how.outage_s
                outages.append(Outage(replica=replica, start_s=at, end_s=at + lasts_s))
                at += lasts_s + float(rng.exponential(3600.0 / per_hour))
    return tuple(outages)
