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
    from collections.abc import Callable, Iterator, Sequence

    from melange_sky.planner.reserving.asking import Asked
    from melange_sky.planner.reserving.fleets import Fleet
    from melange_sky.plans import ModelPlan, Verification

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
class ModelProof:
    """The replay of one model's demand hour by hour, and in one run."""

    name: str
    whole: WholeReplay
    one_run: OneRun

    @property
    def margin(self) -> float:
        """How far its attainments lie above their target, the lesser of both."""
        return min(replay.attainment - replay.target for replay in (self.whole, self.one_run))

    @property
    def missed(self) -> tuple[str, ...]:
        """What does not hold, a sentence each."""
        told = []
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The fleets with the verification in their plans, and the replays of the demand, model by model."""

    fleets: tuple[Fleet, ...]
    models: tuple[ModelProof, ...]

    @property
    def least(self) -> ModelProof:
        """The model whose replays lie least above its target."""
        return min(self.models, key=lambda one: one.margin)

    @property
    def missed(self) -> tuple[str, ...]:
        """What does not hold, a sentence each."""
        told = [
            f"fleet {n} ({text}): {reason}"
            for n, fleet in enumerate(self.fleets, 1)
            for text, reason in _missed_by(fleet)
        ]
        for model in self.models:
            who = f"{model.name}: " if len(self.models) > 1 else ""
            told += [who + text for text in model.missed]
        return tuple(told)


def _missed_by(fleet: Fleet) -> Iterator[tuple[str, str]]:
    """Yield each model of a fleet that misses its SLO in replay: what serves it, and what is missed."""
    models = () if fleet.plan is None else fleet.plan.models
    for model in models:
        found = model.verification
        if found is not None and not found.holds:
            who = f"{model.name}: " if len(models) > 1 else ""
            yield who + model.fleet_text(), str(found.reason)


def verification(fleet: Fleet) -> Verification | None:
    """Return how the model of a fleet's plan did that has least left in replay, None where none was replayed."""
    models = () if fleet.plan is None else fleet.plan.models
    judged = [(model, model.verification) for model in models]
    found = [(v.attainment - m.slo.attainment, n, v) for n, (m, v) in enumerate(judged) if v]
    return min(found, key=lambda one: one[:2])[2] if found else None


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
    models = len(asked.spec.models)
    total = len([fleet for fleet in fleets if fleet.plan]) + models * (len(hours) + 1)
    done = 0

    def tell_one() -> None:
        nonlocal done
        done += 1
        tell(done, total)

    proven = []
    for fleet in fleets:
        proven.append(_proven(fleet, asked))
        if fleet.plan is not None:
            tell_one()
    in_order = [of_period[p] for p in range(asked.question.periods)]
    found = []
    for place, served in enumerate(asked.spec.models):
        whole = _hour_by_hour(asked, in_order, hours, place, tell_one)
        one_run = in_one_run(_demanded(asked, in_order, place))
        tell_one()
        found.append(ModelProof(name=served.name, whole=whole, one_run=one_run))
    return Proof(fleets=tuple(proven), models=tuple(found))


def _hour_by_hour(
    asked: Asked,
    fleets: Sequence[Fleet],
    hours: Sequence[int],
    place: int,
    tell: Callable[[], None],
) -> WholeReplay:
    """Replay hours of one model, by its place in the spec; `fleets` are those of all steps in order."""
    rates = asked.rates_of(place)
    stretch_s = WEEK_REQUESTS / max(float(sum(rates[p] for p in hours)), 1e-9)
    stretch_s = min(max(stretch_s, SHORTEST_S), LONGEST_S, asked.demand.step_s)
    met = asked_rps = 0.0
    requests, worst, worst_attainment = 0, hours[0], 2.0
    for period in hours:
        plan = fleets[period].plan
        assert plan is not None
        model = plan.models[place]
        rate_rps = float(rates[period])
        request = replace(
            _request(asked, place, period + 1),
            rate_scale=rate_rps / model.workload.rate_rps,
            duration_s=max(stretch_s, 20 / rate_rps),
        )
        verdict = simulate_plan(model, request).verdict
        met, asked_rps = met + rate_rps * verdict.attainment, asked_rps + rate_rps
        requests += verdict.requests
        if verdict.attainment < worst_attainment:
            worst, worst_attainment = period, verdict.attainment
        tell()
    return WholeReplay(
        attainment=met / asked_rps,
        target=asked.spec.models[place].slo.attainment,
        hours=len(hours),
        stretch_s=stretch_s,
        requests=requests,
        worst=worst,
        worst_attainment=worst_attainment,
    )


def _demanded(asked: Asked, fleets: Sequence[Fleet], place: int) -> Demanded:
    """Return what of a model is replayed in one run; `fleets` are those of all steps in order."""
    startup_s, origin = startup_of(asked.options.startup_s or None, 0.0, "")
    return Demanded(
        rates_rps=asked.rates_of(place),
        step_s=asked.demand.step_s,
        plans=[None if fleet.plan is None else fleet.plan.models[place] for fleet in fleets],
        startup_s=startup_s,
        startup_origin=origin,
        burstiness=_request(asked, place).burstiness,
        seed=asked.options.seed,
    )


def _request(asked: Asked, place: int, more: int = 0) -> SimulationRequest:
    arrivals = asked.spec.models[place].workload.arrivals
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
    judged = tuple(_judged(model, place, asked) for place, model in enumerate(fleet.plan.models))
    return replace(fleet, plan=replace(fleet.plan, models=judged))


def _judged(model: ModelPlan, place: int, asked: Asked) -> ModelPlan:
    simulation = simulate_plan(model, _request(asked, place))
    verdict = simulation.verdict
    reason = None
    if not verdict.met:
        reason = f"{verdict.attainment:.2%} of the requests within limits in replay, target {verdict.target:.2%}"
    return replace(model, verification=verification_of(simulation, (), reason))
