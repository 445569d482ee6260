"""From the answer to fleets: which hours share one, and a plan of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.constraints import Constraints
from melange_sky.errors import MelangeError
from melange_sky.optimizer import shared_out
from melange_sky.planner.clock import created_at
from melange_sky.planner.fleet_ids import new_fleet_id
from melange_sky.planner.notes import allocation_notes, elastic_notes, headroom_notes
from melange_sky.planner.prepare import generation_of
from melange_sky.planner.reserving.hourly_models import at_rates
from melange_sky.planner.reserving.owned_units import given_out, owned_running
from melange_sky.planner.reserving.terms import term_name
from melange_sky.plans import ModelPlan, Plan, PlanWarning, SolverReport

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer import Problem
    from melange_sky.planner.request import PlanRequest
    from melange_sky.planner.reserving.asking import Asked
    from melange_sky.planner.reserving.material import Mix
    from melange_sky.plans import Allocation
    from melange_sky.reserve.answer import Advice

    Floats = NDArray[np.float64]

CODE = "reserved"
FEASIBLE = "feasible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """So many instances of an option in a fleet: `owned` and `committed` of them are paid for anyway.

    A spend commitment covers what it covers in money, not in instances: it is in none of these.
    """

    option: int
    instances: int
    owned: int
    committed: int

    @property
    def rented(self) -> int:
        """What is billed by the hour."""
        return self.instances - self.owned - self.committed


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The periods that share a fleet and a mix; `rate_rps` is the highest of theirs, `plan` None where nothing runs.

    Where the demand states rates of each model, periods of any proportion share one, and the plan is made at the
    highest rate of each.
    """

    mix: int
    periods: tuple[int, ...]
    rate_rps: float
    running: tuple[Running, ...]
    plan: Plan | None


def fleets_of(asked: Asked, advice: Advice, request: PlanRequest) -> tuple[Fleet, ...]:
    """Return the distinct fleets in the order of their first hour, each with a plan of what runs.

    Whatever is committed or owned runs in every hour in which it is paid for and can serve: it costs no more.
    """
    question = asked.question
    owned = owned_running(question, advice.fleets)
    committed = _committed(asked, advice, owned)
    rates = question.scenarios[0].rate_rps
    running = _running(asked, np.round(advice.fleets), owned + committed)
    groups: dict[tuple[int, bytes, bytes], list[int]] = {}
    for period in range(question.periods):
        paid = np.stack((owned[period], committed[period]))
        mixed = 0 if asked.demand.of_models else int(question.mix[period])
        key = mixed, running[period].tobytes(), paid.tobytes()
        groups.setdefault(key, []).append(period)
    fleets = []
    fleet_id = None
    for periods in groups.values():
        mix = int(question.mix[periods[0]])
        first, highest = periods[0], float(rates[periods].max())
        owned_here = np.minimum(owned[first], running[first])
        kinds = tuple(
            Running(
                option=k,
                instances=int(running[first, k]),
                owned=int(owned_here[k]),
                committed=int(min(committed[first, k], running[first, k] - owned_here[k])),
            )
            for k in np.flatnonzero(running[first] > 0).tolist()
        )
        plan = None
        if kinds and highest > 0:
            plan = _plan(asked, advice, _busiest(asked, mix, periods), kinds, request)
            fleet_id = fleet_id or new_fleet_id(plan)
            plan = replace(plan, fleet_id=fleet_id)
        fleets.append(
            Fleet(mix=mix, periods=tuple(periods), rate_rps=highest, running=kinds, plan=plan)
        )
    return tuple(fleets)


def _busiest(asked: Asked, mix: int, periods: Sequence[int]) -> Mix:
    """Return a mix at the highest rate of some periods, of each model where the demand states them: fleets serve that."""
    if asked.demand.of_models:
        rates = [
            float(asked.rates_of(m)[list(periods)].max()) for m in range(len(asked.spec.models))
        ]
        return at_rates(asked.mixes[mix], rates)
    return asked.mixes[mix].at_rate(
        float(asked.question.scenarios[0].rate_rps[list(periods)].max())
    )


def _running(asked: Asked, fleets: Floats, paid: Floats) -> Floats:
    """Return fleets with all that is paid for anyway, (periods × options), as far as the rules let it stand by."""
    question = asked.question
    rates = question.scenarios[0].rate_rps
    running = np.maximum(fleets, paid)
    known: dict[tuple[object, ...], Floats] = {}
    for t in np.flatnonzero((paid > fleets).any(axis=1) & (rates > 0)).tolist():
        mix = int(question.mix[t])
        key = (mix, float(rates[t]), fleets[t].tobytes(), paid[t].tobytes())
        if key not in known:
            known[key] = question.mixes[mix].with_idle(fleets[t], paid[t], float(rates[t]))
        running[t] = known[key]
    return running


def _committed(asked: Asked, advice: Advice, owned: Floats) -> Floats:
    """Return the committed instances that run as each option, (periods × options), beside what is owned.

    What several options of one instance type may fill goes to those that the hour's fleet has, the rest to the
    first of them.
    """
    question = asked.question
    units = np.zeros((question.periods, len(question.options)))
    left = np.maximum(np.round(advice.fleets) - owned, 0.0)
    for one, bought in zip(asked.purchasable, advice.bought, strict=True):
        if one.step_usd_per_hour is None and bought.units:
            active = question.active(one.purchase)
            units += given_out(one.purchase, np.where(active, float(bought.units), 0.0), left)
    return units


def _plan(
    asked: Asked,
    advice: Advice,
    mix: Mix,
    kinds: Sequence[Running],
    request: PlanRequest,
) -> Plan:
    """Return the plan of a mix at its rate."""
    spec, prepared, problem = asked.spec, mix.prepared, mix.problem
    running = {mix.keys[asked.question.options[one.option]]: one for one in kinds}
    models = tuple(
        _model(asked, mix, replace(problem, demands=(demand,)), running, request)
        for demand in problem.demands
    )
    notes = (
        *_paid_notes(asked, advice, kinds),
        *(note for m in models for note in allocation_notes(m.allocations, m.engine_generation)),
        *headroom_notes(spec.headroom),
        *elastic_notes(spec.elastic),
        *prepared.shared_warnings,
        *(warning for of_model in prepared.warnings for warning in of_model),
    )
    return Plan(
        name=spec.name,
        created_at=created_at(),
        models=models,
        solver=SolverReport(
            status=FEASIBLE,
            mip_gap=min(advice.gap, 1.0),
            solve_seconds=0.0,
            solver="melange_sky.reserve",
        ),
        lists_models=spec.lists_models,
        headroom=spec.headroom,
        guard=spec.guard,
        elastic=spec.elastic,
        constraints=_constraints(asked, [a for model in models for a in model.allocations]),
        price_snapshot=prepared.snapshot,
        warnings=tuple(dict.fromkeys(notes)),
    )


def _model(
    asked: Asked,
    mix: Mix,
    problem: Problem,
    running: Mapping[tuple[str, str], Running],
    request: PlanRequest,
) -> ModelPlan:
    """Return the plan of a problem's one model, its traffic spread over what runs."""
    spec, prepared = asked.spec, mix.prepared
    (demand,) = problem.demands
    place = [served.name for served in spec.models].index(demand.name)
    served, workload = spec.models[place], demand.workload
    if len(spec.models) == 1:
        workload = mix.workload.at_rate(workload.rate_rps)
    own = {option: one for (model, option), one in running.items() if model == demand.name}
    options = tuple(c for c in demand.options if c.option.name in own)
    rules = problem.constraints
    found = shared_out(
        replace(
            problem,
            demands=(replace(demand, workload=workload, options=options),),
            constraints=replace(rules, limits=(), minimum=()),  # of all models together
        ),
        {name: one.instances for name, one in own.items()},
        {name: one.owned + one.committed for name, one in own.items()},
    )
    if found is None:
        raise MelangeError(
            f"{spec.name}: the fleet found for {workload.rate_rps:g} req/s does not serve it when checked again"
        )
    forms = prepared.forms[place]
    return ModelPlan(
        name=served.name,
        model=served.model,
        slo=served.slo,
        workload=workload,
        allocations=found,
        candidates=options,
        model_shape=forms[0].shape,
        model_source=forms[0].source,
        forms=tuple(form for form in forms if form.name),
        engine=spec.engine,
        engine_generation=generation_of(spec, request),
        attainment_per_bucket=served.attainment_per_bucket,
        sky=served.sky,
    )


def _constraints(asked: Asked, found: Sequence[Allocation]) -> Constraints:
    """Return the spec's rules, with what is paid for in this very fleet as fixed."""
    from melange_sky.planner.replay_loop.replan import instance_group

    (mix, *_) = asked.mixes
    paid = tuple(
        replace(instance_group(a.candidate, 1), instances=a.fixed_instances)
        for a in found
        if a.fixed_instances
    )
    return replace(mix.problem.constraints, fixed=paid)


def _paid_notes(asked: Asked, advice: Advice, kinds: Sequence[Running]) -> tuple[PlanWarning, ...]:
    """Say which instances the plan's cost leaves out, and what they cost."""
    paid = [one for one in kinds if one.owned or one.committed]
    if not paid:
        return ()
    parts = []
    for one in paid:
        name = asked.question.options[one.option]
        if one.owned:
            parts.append(f"{one.owned} × {name} owned")
        if one.committed:
            parts.append(f"{one.committed} × {name} committed")
    terms = [
        f"{bought.units} × {term_name(one.term)} at ${one.term.all_in_usd_per_hour:,.4g}/h each"
        for one, bought in zip(asked.purchasable, advice.bought, strict=True)
        if bought.units and one.step_usd_per_hour is None
    ]
    behind = f"; the commitments are billed used or not: {', '.join(terms)}" if terms else ""
    return (
        PlanWarning(
            code=CODE,
            message=f"the cost per hour is of what is rented on top: {', '.join(parts)}, paid for anyway{behind}",
        ),
    )
