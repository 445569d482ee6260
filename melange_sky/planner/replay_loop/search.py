"""What a search for fleets that hold remembers: each fleet replayed once, those that held, those sure.

A fleet is replayed on the search's own seed first, the same for all (common random numbers). The
cheapest that hold are replayed again on seeds that nothing in this search has used: only these and
the first together are believed, for a fleet that was picked by its luck on one seed has spent it.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.planner.replay_loop.replan import fleet_key
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan
from melange_sky.plans import VerificationRound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from melange_sky.constraints import InstanceGroup
    from melange_sky.planner.replay_loop.replan import Deratings, Replanner
    from melange_sky.plans import ModelPlan, Plan
    from melange_sky.replay import Simulation, Verdict

log = logging.getLogger(__name__)

FRESH_SEEDS = 2
RESERVE = 1.5
"""Time kept for the proof on a whole trace, in times what the last one took."""

LEAST_SAVING = 1e-6
"""USD per hour below which two fleets cost the same."""


class StopSearchError(Exception):
    """The search has to end with what it has; `reason` says why."""

    def __init__(self, reason: str, *, late: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.late = late


@dataclass(slots=True, kw_only=True)
class Journal:
    """What all searches of one verification share: each fleet's replay on the common seed, the rounds by
    model, and when to stop.

    `margin` is by how much more than the target windows of a trace must show, `refuted` are fleets that
    the whole trace spoke against.
    """

    rounds: list[list[VerificationRound]]
    on_round: Callable[[VerificationRound], None] | None = None
    max_rounds: int | None = None
    ends_at_s: float | None = None
    seconds: float | None = None
    is_interrupted: bool = False
    reserve_s: float = 0.0
    margin: float = 0.0
    judged: dict[object, tuple[Simulation, ...]] = field(default_factory=dict)
    refuted: set[object] = field(default_factory=set)

    def check(self) -> None:
        """Raise StopSearchError where nothing more is to be replayed.

        `reserve_s` are kept for the proof of what was found.
        """
        if self.is_interrupted:
            raise StopSearchError("interrupted", late=True)
        if self.ends_at_s is not None and time.monotonic() >= self.ends_at_s - self.reserve_s:
            raise StopSearchError(
                f"no time was left after {self.seconds:g} s (--verify-seconds)", late=True
            )
        count = max(map(len, self.rounds))
        if self.max_rounds is not None and count >= self.max_rounds:
            raise StopSearchError(f"no fleet holds after {self.max_rounds} rounds", late=False)

    def record(self, k: int, one: VerificationRound) -> None:
        """Add what was replayed as a round of model `k`."""
        self.rounds[k].append(one)
        log.info("round %d: %s, attainment %.4f", len(self.rounds[k]), one.fleet, one.attainment)
        if self.on_round is not None:
            self.on_round(one)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sure:
    """A fleet that holds on every seed, with each model's worst replay and the seeds.

    `is_whole` False where these replays were of windows of a trace alone.
    """

    plan: Plan
    worst: tuple[Simulation, ...]
    seeds: tuple[int, ...]
    is_whole: bool = True

    @property
    def cost(self) -> float:
        """What it costs per hour."""
        return self.plan.cost_usd_per_hour


@dataclass(slots=True, kw_only=True)
class Search:
    """Fleets of one replanner under one traffic. `models` are its models' places in the journal.

    `held` are those that hold on the search's own seed, in the order found; `late` says what the
    solver had no time for. `cheapest` is the cheapest that is sure, `proven` the cheapest that is so on
    the whole of the traffic.
    """

    replanner: Replanner
    simulation: SimulationRequest
    journal: Journal
    models: tuple[int, ...]
    held: list[Plan] = field(default_factory=list)
    late: str | None = None
    cheapest: Sure | None = None
    proven: Sure | None = None
    last: tuple[Simulation, ...] = ()
    used_seeds: int = 1
    _tried: set[object] = field(default_factory=set)
    _refuted: set[object] = field(default_factory=set)

    @property
    def by_windows(self) -> bool:
        """Whether fleets are judged by windows of a trace first."""
        return self.simulation.is_long

    @property
    def underated(self) -> list[Deratings]:
        """No derating of any model."""
        return [{} for _ in self.models]

    def plan(
        self,
        deratings: Sequence[Deratings],
        minimum: tuple[InstanceGroup, ...] = (),
        scale: float = 1.0,
        *,
        strict: bool = False,
    ) -> Plan | None:
        """Choose a fleet, with `strict` one that meets the target in every bucket; None where there is
        none or none in time."""
        replanner = self.replanner.in_every_bucket() if strict else self.replanner
        try:
            return self.replanner.as_asked(replanner.plan(deratings, minimum, scale))
        except InfeasibleError:
            return None
        except NoPlanInTimeError as error:
            self.late = str(error)
            return None

    def holds(
        self, plan: Plan, deratings: Sequence[Deratings] | None = None, *, always: bool = False
    ) -> bool:
        """Replay a fleet on the search's own seed, once; keep it where it holds.

        Raises StopSearchError where no time is left, unless it is to be replayed `always`.
        """
        key = self.key(plan)
        if key not in self.journal.judged:
            if not always:
                self.journal.check()
            # Which side of the target a fleet is on, and no more.
            request = replace(self.simulation, until_sure=True)
            simulations = tuple(simulate_plan(model, request) for model in plan.models)
            self.journal.judged[key] = simulations
            for k, one in enumerate(simulations):
                self.journal.record(
                    self.models[k], round_of(one, deratings[k] if deratings else {})
                )
        self.last = self.journal.judged[key]
        held = self._passes(self.last)
        if key not in self._tried and held:
            self.held.append(plan)
        self._tried.add(key)
        return held

    def _passes(self, simulations: Sequence[Simulation]) -> bool:
        """Return whether every model's target holds, by what windows are asked for besides."""
        margin = self.journal.margin
        return all(s.verdict.interval[0] >= s.verdict.target + margin for s in simulations)

    def key(self, plan: Plan) -> object:
        """Return what a replay of a fleet is known by."""
        return self.models, _key(plan)

    def confirm(self) -> bool:
        """Replay those that held on fresh seeds, the cheapest first; return whether one is sure."""
        for plan in sorted(self.held, key=lambda p: p.cost_usd_per_hour):
            if self.cheapest is not None and plan.cost_usd_per_hour >= self.cheapest.cost:
                break
            key = self.key(plan)
            if key in self._refuted or key in self.journal.refuted:
                continue
            if not self._passes(self.journal.judged[key]):
                continue
            self.journal.check()
            offsets = [seed - self.simulation.how.seed for seed in self._next_seeds()]
            sure = self._fresh(plan, self.journal.judged[key], offsets)
            if sure is not None:
                self.cheapest = sure
                break
            self._refuted.add(key)
        return self.cheapest is not None

    def prove(self, *, once: bool = False) -> None:
        """Replay the cheapest sure fleet on the whole trace; where it misses there, go on to the next.

        Does nothing where no windows were replayed. With `once` the next one is what is proven already.
        """
        while self.cheapest is not None and not self.cheapest.is_whole:
            sure = self.cheapest
            if self.key(sure.plan) not in self.journal.refuted:
                found = self._whole(sure)
                if found is not None:
                    self.cheapest = self.proven = found
                    return
            self.cheapest = self.proven
            if not once:
                self.confirm()

    def retract(self) -> None:
        """Fall back on what is proven where the whole trace has spoken against the cheapest."""
        if self.cheapest is not None and self.key(self.cheapest.plan) in self.journal.refuted:
            self.cheapest = self.proven

    def _whole(self, sure: Sure, offset: int | None = None) -> Sure | None:
        """Replay a sure fleet on the whole trace, with a fresh seed unless one is given; None where it
        misses there."""
        begin, seed = time.monotonic(), self.used_seeds if offset is None else offset
        self.used_seeds += offset is None
        request = _reseeded(self.simulation, seed)
        found = tuple(simulate_plan(model, request) for model in sure.plan.models)
        for k, one in enumerate(found):
            self.journal.record(self.models[k], round_of(one, {}))
        self.journal.reserve_s = RESERVE * (time.monotonic() - begin)
        if not all_hold(found):
            self.journal.refuted.add(self.key(sure.plan))
            pairs = zip(sure.worst, found, strict=True)
            lost = max(a.verdict.attainment - b.verdict.attainment for a, b in pairs)
            self.journal.margin = max(self.journal.margin, lost)
            return None
        seeds = (*sure.seeds, self.simulation.how.seed + seed)
        return replace(sure, worst=found, seeds=seeds, is_whole=True)

    def believe(self, sure: Sure) -> None:
        """Take over a fleet that another search is sure of, where it is cheaper."""
        if self.cheapest is None or sure.cost < self.cheapest.cost - LEAST_SAVING:
            self.cheapest = sure

    def try_known(self, plan: Plan, seeds: Sequence[int]) -> bool:
        """Replay a fleet on the seeds on which it was seen to hold before; return whether it is sure.

        The same traffic on the same seeds is the same replay: what held then holds now.
        """
        own = self.simulation.how.seed
        first, *others = seeds if len(seeds) > FRESH_SEEDS else (own, *self._next_seeds())
        request = replace(_reseeded(self.simulation, first - own), until_sure=True)
        found = tuple(simulate_plan(model, request) for model in plan.models)
        self.journal.judged.setdefault(self.key(plan), found)
        for k, one in enumerate(found):
            self.journal.record(self.models[k], round_of(one, {}))
        if not self._passes(found):
            return False
        sure = self._fresh(plan, found, [seed - own for seed in others[:FRESH_SEEDS]])
        if sure is None:
            return False
        if not sure.is_whole:
            whole = self._whole(sure, *(seed - own for seed in others[FRESH_SEEDS:]))
            if whole is None:
                return False
            sure = self.proven = whole
        self.believe(replace(sure, seeds=(first, *sure.seeds[1:])))
        return True

    def _next_seeds(self) -> list[int]:
        own, used = self.simulation.how.seed, self.used_seeds
        self.used_seeds += FRESH_SEEDS
        return [own + k for k in range(used, used + FRESH_SEEDS)]

    def _fresh(
        self, plan: Plan, first: tuple[Simulation, ...], offsets: Sequence[int]
    ) -> Sure | None:
        """Replay on other seeds, so far from the search's own; each model's worst replay counts."""
        jobs = self.simulation.jobs
        each = replace(
            self.simulation, jobs=max(1, jobs // FRESH_SEEDS), until_sure=self.by_windows
        )

        def worst(model: ModelPlan) -> Simulation:
            replays = pool.map(
                lambda offset: simulate_plan(model, _reseeded(each, offset)), offsets
            )
            return min(replays, key=lambda s: s.verdict.interval[0])

        with ThreadPoolExecutor(max_workers=min(max(1, jobs), FRESH_SEEDS)) as pool:
            found = tuple(worst(model) for model in plan.models)
        self.last = found
        if not self._passes(found):
            for k, one in enumerate(found):
                self.journal.record(self.models[k], round_of(one, {}))
            return None
        pairs = zip(first, found, strict=True)
        lowest = tuple(min(pair, key=lambda s: s.verdict.interval[0]) for pair in pairs)
        seed = self.simulation.how.seed
        seeds = (seed, *(seed + k for k in offsets))
        return Sure(plan=plan, worst=lowest, seeds=seeds, is_whole=not self.by_windows)


def _key(plan: Plan) -> object:
    """Return what a replay depends on: who runs, and who serves what."""
    shares = tuple(
        tuple(tuple(round(s, 6) for s in row) for row in a.shares)
        for m in plan.models
        for a in sorted(m.allocations, key=lambda a: a.candidate.option.name)
    )
    return fleet_key(plan), shares


def holds(verdict: Verdict) -> bool:
    """Return whether the lower end of the attainment's interval reaches the target."""
    return verdict.interval[0] >= verdict.target


def all_hold(simulations: Sequence[Simulation]) -> bool:
    """Return whether every model's target holds."""
    return all(holds(s.verdict) for s in simulations)


def _reseeded(simulation: SimulationRequest, offset: int) -> SimulationRequest:
    how = simulation.how
    return replace(simulation, how=replace(how, seed=how.seed + offset))


def round_of(simulation: Simulation, deratings: Deratings) -> VerificationRound:
    """Return a replay as a round of the verification."""
    plan, verdict = simulation.plan, simulation.verdict
    return VerificationRound(
        cost_usd_per_hour=plan.cost_usd_per_hour,
        fleet=plan.fleet_text(),
        attainment=verdict.attainment,
        low=verdict.interval[0],
        high=verdict.interval[1],
        derated=tuple(sorted((f"{name}:{count}", f) for (name, count), f in deratings.items())),
    )
