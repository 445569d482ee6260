"""The loop: replay fleets until the cheapest that holds is found, or it is clear why there is none.

Several ways lead to a fleet that holds. The optimizer chooses with all capacities scaled together, up
where the plan holds and down where it misses; each accelerator is tried alone in the same way; where
the plan missed, the accelerators that missed are derated and others take their place; and from the
cheapest that any way found single instances are moved (`ease`). The result is the cheapest of all, so
never dearer than the best single accelerator by the same replay. A fleet is believed once it holds on
three seeds, two of them new to the search that found it. Every fleet is the optimizer's own choice
under the spec's rules.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.constraints import Constraints
from melange_sky.planner.replay_loop.ease import EaseSearch, cheaper_fleets
from melange_sky.planner.replay_loop.incumbent import CODE, Incumbent
from melange_sky.planner.replay_loop.keep import try_incumbent
from melange_sky.planner.replay_loop.proof import why_none
from melange_sky.planner.replay_loop.record import same_fleet, saving, unproven, verification_of
from melange_sky.planner.replay_loop.replan import Replanner
from melange_sky.planner.replay_loop.replay import SimulationRequest
from melange_sky.planner.replay_loop.scale import scale_to_hold
from melange_sky.planner.replay_loop.search import (
    Journal,
    Search,
    StopSearchError,
    Sure,
    holds,
    round_of,
)
from melange_sky.planner.replay_loop.singles import (
    may_be_cheaper,
    move_to_cheaper,
    search_alone,
    single_of,
    verified,
    widened,
)
from melange_sky.planner.replay_loop.tighten import tighten_to_hold
from melange_sky.plans import ModelPlan, Plan, PlanWarning, VerificationRound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.planner.request import PlanRequest
    from melange_sky.replay import Simulation


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRequest:
    """What to replay in the loop, and for how long: `seconds` and `max_rounds` None set no end.

    `on_round` gets every round once it is replayed. An `incumbent` is replayed too, at today's prices.
    With `alone` False no accelerator is tried alone.
    """

    simulation: SimulationRequest = field(default_factory=SimulationRequest)
    seconds: float | None = None
    max_rounds: int | None = None
    on_round: Callable[[VerificationRound], None] | None = None
    incumbent: Incumbent | None = None
    alone: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A verified plan, and of a plan of one model what each accelerator alone came to.

    `singles` hold None where no fleet of it was found that holds; accelerators that were not reached are
    not in it. `is_interrupted` True after Ctrl-C.
    """

    plan: Plan
    singles: Mapping[str, Sure | None]
    is_interrupted: bool


@dataclass(slots=True, kw_only=True)
class _Loop:
    """One verification: the search of the whole plan, each accelerator alone, and why it ended.

    `dearer` are accelerators that are not sized yet, for one replay showed them dearer than a sure fleet.
    """

    search: Search
    incumbent: Incumbent | None = None
    alone: bool = True
    notes: list[PlanWarning] = field(default_factory=list)
    singles: dict[str, Search] = field(default_factory=dict)
    dearer: dict[str, Search] = field(default_factory=dict)
    missed: tuple[Simulation, ...] = ()
    stopped: StopSearchError | None = None
    reason: str | None = None


def plan_verified(plan: Plan, request: PlanRequest, loop: LoopRequest) -> Plan:
    """Return the cheapest plan found that holds in replay, with its rounds; or the first, with the reason.

    `plan` must come from `request`. `verification.holds` says which it is.
    """
    return verify(plan, request, loop).plan


def verify(plan: Plan, request: PlanRequest, loop: LoopRequest) -> Verified:
    """Verify a plan that came from `request`. Models that no rule binds together are searched one by one."""
    replanner = Replanner(first=plan, request=request)
    journal = Journal(
        rounds=[[] for _ in plan.models],
        on_round=loop.on_round,
        max_rounds=loop.max_rounds,
        seconds=loop.seconds,
        ends_at_s=None if loop.seconds is None else time.monotonic() + loop.seconds,
    )
    if len(plan.models) == 1 or _binds(plan.constraints):
        everything = tuple(range(len(plan.models)))
        one = _searched(replanner, loop, journal, everything)
        return Verified(
            plan=_recorded(one),
            singles={name: single.cheapest for name, single in one.singles.items()},
            is_interrupted=journal.is_interrupted,
        )
    parts = [
        _recorded(_searched(replanner.part(k), loop, journal, (k,)))
        for k in range(len(plan.models))
    ]
    unchanged = all(
        part.models[0].allocations == m.allocations
        for part, m in zip(parts, plan.models, strict=True)
    )
    whole = plan if unchanged else replace(unproven(plan), sensitivity=None, alternatives=())
    notes = [w for part in parts for w in part.warnings if w.code == CODE]
    warnings = (*dict.fromkeys(notes), *whole.warnings)
    whole = replace(whole, models=tuple(part.models[0] for part in parts), warnings=warnings)
    return Verified(plan=whole, singles={}, is_interrupted=journal.is_interrupted)


def _binds(rules: Constraints) -> bool:
    """Return whether rules span all models together."""
    together = rules.limits, rules.budget_usd_per_hour, rules.fixed, rules.minimum
    return any(bool(one) for one in together)


def _searched(
    replanner: Replanner, loop: LoopRequest, journal: Journal, models: tuple[int, ...]
) -> _Loop:
    search = Search(replanner=replanner, simulation=loop.simulation, journal=journal, models=models)
    one = _Loop(search=search, incumbent=_part_of(loop.incumbent, models), alone=loop.alone)
    try:
        _run(one)
    except StopSearchError as stop:
        one.stopped = stop
    except KeyboardInterrupt:
        if not one.missed:
            raise
        journal.is_interrupted = True
        one.stopped = StopSearchError("interrupted", late=True)
    _settle(one)
    return one


def _part_of(incumbent: Incumbent | None, models: tuple[int, ...]) -> Incumbent | None:
    """Return the incumbent of the models that are searched together."""
    if incumbent is None or len(models) == len(incumbent.saved.models):
        return incumbent
    return incumbent.part(models[0])


def _run(one: _Loop) -> None:
    """Search every way, the surest first: what one accelerator alone costs is known before mixes are
    tried, so that short of time the result is not dearer. Raises StopSearchError."""
    search = one.search
    first = search.replanner.first
    names = [_cheapest_first(model) for model in first.models]
    if search.holds(first, always=True):
        one.missed = search.last
        search.confirm()
    one.missed = one.missed or search.last
    if one.incumbent is not None:
        one.notes.append(try_incumbent(search, one.incumbent))
    tries = one.alone and len(names) == 1 and len(names[0]) > 1
    if tries and _seeks_least_cost(search.replanner):
        for accelerator in names[0]:
            _try_alone(one, accelerator)
        search.prove()
    _search_mixes(search, max(map(len, names)))
    for accelerator in tuple(one.dearer):
        _size_alone(one, one.dearer[accelerator], accelerator)
    search.prove()
    if not _has_found(search):
        failing = [k for k, s in enumerate(one.missed) if not holds(s.verdict)] or [0]
        one.reason = why_none(search, failing[0], one.missed[failing[0]])
        _look_nearby(search)
    if len(names) == 1 and len(names[0]) == 1:
        one.singles[names[0][0]] = search
    for single in sorted(one.singles.values(), key=_cost_of):
        single.prove()


def _search_mixes(search: Search, accelerators: int) -> None:
    """Search among all of so many accelerators."""
    scale_to_hold(search)
    search.prove()
    if accelerators > 1:
        if search.replanner.asks_budget:
            scale_to_hold(search, strict=True)
        _tighten(search)
    _look_nearby(search)


def _look_nearby(search: Search) -> None:
    """Move single instances of what was found, and prove what comes of it."""
    if _seeks_least_cost(search.replanner):
        move_to_cheaper(search)
    search.prove()


def _has_found(search: Search) -> bool:
    """Return whether a fleet holds, or time is what there was too little of."""
    return search.cheapest is not None or search.late is not None


def _cost_of(search: Search) -> float:
    return float("inf") if search.cheapest is None else search.cheapest.cost


def _settle(one: _Loop) -> None:
    """Prove on the whole trace what windows of it made sure of, where that is not done yet."""
    search = one.search
    is_proven = search.proven is not None
    if search.journal.is_interrupted and is_proven:
        search.cheapest = search.proven
    search.prove(once=True)
    for single in one.singles.values():
        single.retract()
    if one.dearer:
        text = (
            f"not sized alone to the end: {', '.join(one.dearer)}; the time was up, and the largest fleet of each "
            "that is cheaper than one that holds missed in replay"
        )
        one.notes.append(PlanWarning(code="baseline", message=text))


def _tighten(search: Search) -> None:
    """Turn to other accelerators where the plan missed, and give back what that took too much."""
    tightened = tighten_to_hold(search)
    if tightened is not None and any(tightened.deratings):
        eased = EaseSearch(replanner=search.replanner, holds=search.holds, held=[tightened.plan])
        cheaper_fleets(eased, tightened.deratings)
    search.confirm()


def _seeks_least_cost(replanner: Replanner) -> bool:
    """Return whether the least cost is all that was asked for: not a simpler fleet, nor a near one."""
    solve = replanner.request.solve
    return solve.within_fraction == 0 and solve.stay_close is None


def _cheapest_first(model: ModelPlan) -> list[str]:
    """Return the accelerators by what each alone would cost by estimate, unknown ones last."""
    known = {
        b.accelerator: b.cost_usd_per_hour
        for b in model.baselines
        if b.cost_usd_per_hour is not None
    }
    names = {c.option.accelerator for c in model.candidates}
    return sorted(names, key=lambda name: (known.get(name, float("inf")), name))


def _try_alone(one: _Loop, accelerator: str) -> None:
    """Size an accelerator alone by replay; where one replay shows it dearer than what is sure, later."""
    single = single_of(one.search, accelerator)
    if single is None:
        return
    sure = one.search.cheapest
    if sure is not None and not may_be_cheaper(single, sure.cost):
        one.dearer[accelerator] = single
    else:
        _size_alone(one, single, accelerator)


def _size_alone(one: _Loop, single: Search, accelerator: str) -> None:
    """Look for the cheapest fleet of an accelerator; it is the plan's where it is the cheapest so far."""
    one.singles[accelerator] = single
    try:
        search_alone(single)
        one.dearer.pop(accelerator, None)
    finally:
        one.search.late = one.search.late or single.late
        if single.cheapest is not None:
            whole = widened(single.cheapest, one.search.replanner)
            if whole is not None:
                one.search.believe(whole)


def _recorded(one: _Loop) -> Plan:
    """Return the cheapest sure plan, or the first one, with how it was verified."""
    search = one.search
    first = search.replanner.first
    sure = search.cheapest
    cut_short, reason = _how_it_ended(one)
    plan = first if sure is None else sure.plan
    worst = one.missed if sure is None else sure.worst
    if not same_fleet(plan, first):
        plan = replace(unproven(plan), sensitivity=None, alternatives=())
    elif sure is not None:
        plan = first
    models = []
    for k, (model, before) in enumerate(zip(plan.models, first.models, strict=True)):
        rounds = list(search.journal.rounds[search.models[k]])
        if sure is not None:
            rounds.append(round_of(worst[k], {}))
        verification = replace(
            verification_of(worst[k], rounds, reason),
            premium_usd_per_hour=model.cost_usd_per_hour - before.cost_usd_per_hour,
            cut_short=cut_short,
            seeds=sure.seeds if sure is not None else (search.simulation.how.seed,),
        )
        cost = model.cost_usd_per_hour
        rows = tuple(
            verified(
                replace(b, saving_fraction=saving(cost, b.cost_usd_per_hour)),
                _alone(one, b.accelerator),
                cost,
            )
            for b in before.baselines
        )
        models.append(replace(model, verification=verification, baselines=rows))
    return replace(plan, models=tuple(models), warnings=(*one.notes, *plan.warnings))


def _alone(one: _Loop, accelerator: str) -> Sure | None:
    """Return the fleet of one accelerator alone that holds."""
    single = one.singles.get(accelerator)
    return None if single is None else single.cheapest


def _how_it_ended(one: _Loop) -> tuple[bool, str | None]:
    """Return whether the search was cut short, and why no fleet holds; None where one does."""
    late = one.stopped is not None and one.stopped.late
    if one.search.cheapest is not None:
        return late or one.search.late is not None, None
    if one.stopped is not None:
        words = f"the search for a fleet that holds was cut short: {one.stopped.reason}"
        return late, words if late else one.stopped.reason
    if one.search.late is not None:
        return True, f"the search for a fleet that holds was cut short: {one.search.late}"
    return False, one.reason or "no fleet was found that holds"
