"""Replay what was found: every distinct fleet in its busiest hour, the demand hour by hour, and it in one run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.planner.figures import side_by_side
from melange_sky.planner.replay_loop.record import verification_of
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan
from melange_sky.planner.reserving.one_run import Demanded, OneRun, in_one_run
from melange_sky.planner.timetable import startup_of
from melange_sky.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from melange_sky.planner.reserving.asking import Asked
    from melange_sky.planner.reserving.fleets import Fleet
    from melange_sky.plans import Verification

MOST_FLEETS = 40
"""More distinct fleets than so many are replayed only where that is asked for: each takes a second or two."""

MOST_STRETCHES = 336
"""Hours of a longer demand that are replayed: evenly spread ones."""

WEEK_REQUESTS = 400_000
SHORTEST_S, LONGEST_S = 120.0, 3600.0
"""Of each hour so long a stretch is replayed, as `WEEK_REQUESTS` in all allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeReplay:
    """The demand hour by hour, each through its own fleet, with its instances started before the hour.

    `attainment` is over all requests of the demand by weight; `worst` that of the worst hour (an index of the
    demand) with `worst_attainment`. `hours` were replayed, `stretch_s` of each.
    """

    attainment: float
    target: float
    hours: int
    stretch_s: float
    requests: int
    worst: int
    worst_attainment: float

    @property
    def holds(self) -> bool:
        """Whether the SLO's attainment is reached over the demand."""
        return self.attainment >= self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The fleets with the verification in their plans, the replay of the demand hour by hour, and in one run."""

    fleets: tuple[Fleet, ...]
    whole: WholeReplay
    one_run: OneRun

    @property
    def missed(self) -> tuple[str, ...]:
        """What does not hold, a sentence each."""
        told = [
            f"fleet {n} ({_text(fleet)}): {found.reason}"
            for n, fleet in enumerate(self.fleets, 1)
            if (found := verification(fleet)) is not None and not found.holds
        ]
        if not self.whole.holds:
            told.append(
                f"over the demand {self.whole.attainment:.2%} of the requests meet the SLO, target {self.whole.target:.2%}"
            )
        if not self.one_run.holds:
            told.append(
                f"in one run, in which replicas take {self.one_run.startup_s:g} s to start, "
                f"{self.one_run.attainment:.2%} of the requests meet the SLO, target {self.one_run.target:.2%}"
            )
        return tuple(told)


def _text(fleet: Fleet) -> str:
    assert fleet.plan is not None
    return fleet.plan.models[0].fleet_text()


def verification(fleet: Fleet) -> Verification | None:
    """Return how a fleet's plan did in replay, None where it was not replayed."""
    return None if fleet.plan is None else fleet.plan.models[0].verification


def prove(
    asked: Asked,
    fleets: Sequence[Fleet],
    tell: Callable[[int, int], None] = lambda _done, _all: None,
) -> Proof:
    """Replay every fleet and every hour; `tell` is told how many replays are done, and of how many."""
    rates = asked.question.scenarios[0].rate_rps
    of_period = {period: fleet for fleet in fleets for period in fleet.periods}
    busy = [p for p in range(asked.question.periods) if rates[p] > 0 and of_period[p].plan]
    step = -(-len(busy) // MOST_STRETCHES)
    hours = busy[::step]
    total = len([fleet for fleet in fleets if fleet.plan]) + len(hours) + 1
    done = 0
    proven = []
    for fleet in fleets:
        proven.append(_proven(fleet, asked))
        done += fleet.plan is not None
        tell(done, total)
    stretch_s = WEEK_REQUESTS / max(float(sum(rates[p] for p in hours)), 1e-9)
    stretch_s = min(max(stretch_s, SHORTEST_S), LONGEST_S, asked.demand.step_s)
    met = asked_rps = 0.0
    requests, worst, worst_attainment = 0, hours[0], 2.0
    for period in hours:
        plan = of_period[period].plan
        assert plan is not None
        (model,) = plan.models
        rate_rps = float(rates[period])
        request = replace(
            _request(asked, period + 1),
            rate_scale=rate_rps / model.workload.rate_rps,
            duration_s=max(stretch_s, 20 / rate_rps),
        )
        verdict = simulate_plan(model, request).verdict
        met, asked_rps = met + rate_rps * verdict.attainment, asked_rps + rate_rps
        requests += verdict.requests
        if verdict.attainment < worst_attainment:
            worst, worst_attainment = period, verdict.attainment
        done += 1
        tell(done, total)
    whole = WholeReplay(
        attainment=met / asked_rps,
        target=asked.spec.models[0].slo.attainment,
        hours=len(hours),
        stretch_s=stretch_s,
        requests=requests,
        worst=worst,
        worst_attainment=worst_attainment,
    )
    one_run = in_one_run(_demanded(asked, [of_period[p] for p in range(asked.question.periods)]))
    tell(total, total)
    return Proof(fleets=tuple(proven), whole=whole, one_run=one_run)


def _demanded(asked: Asked, fleets: Sequence[Fleet]) -> Demanded:
    """Return what is replayed in one run; `fleets` are those of all steps in order."""
    startup_s, origin = startup_of(asked.options.startup_s or None, 0.0, "")
    return Demanded(
        rates_rps=asked.question.scenarios[0].rate_rps,
        step_s=asked.demand.step_s,
        plans=[None if fleet.plan is None else fleet.plan.models[0] for fleet in fleets],
        startup_s=startup_s,
        startup_origin=origin,
        burstiness=_request(asked).burstiness,
        seed=asked.options.seed,
    )


def _request(asked: Asked, more: int = 0) -> SimulationRequest:
    arrivals = asked.spec.models[0].workload.arrivals
    return SimulationRequest(
        until_sure=True,
        burstiness=1.0 if arrivals is None else arrivals.burstiness,
        how=Replay(seed=asked.options.seed + more),
        jobs=side_by_side(asked.options.jobs),
    )


def _proven(fleet: Fleet, asked: Asked) -> Fleet:
    """Return a fleet with the verification of its plan."""
    if fleet.plan is None:
        return fleet
    (model,) = fleet.plan.models
    simulation = simulate_plan(model, _request(asked))
    verdict = simulation.verdict
    reason = None
    if not verdict.met:
        reason = f"{verdict.attainment:.2%} of the requests within limits in replay, target {verdict.target:.2%}"
    judged = replace(model, verification=verification_of(simulation, (), reason))
    return replace(fleet, plan=replace(fleet.plan, models=(judged,)))
