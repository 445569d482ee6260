"""What `reserve` and `bound` write, with something in every field, and with what may be null left out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from melange_sky.capacities import OptionCapacity
from melange_sky.commitments import Commitment, Owned
from melange_sky.planner.reserving.ages import PriceLine
from melange_sky.planner.reserving.api_price import ApiComparison
from melange_sky.planner.reserving.document import bound_document, reserve_document
from melange_sky.planner.reserving.one_run import OneRun
from melange_sky.planner.reserving.proving import ModelProof, Proof, WholeReplay
from melange_sky.planner.reserving.purchases import Purchasable
from melange_sky.planner.reserving.terms import term_name
from melange_sky.planner.scheduling.document import schedule_document
from melange_sky.planner.timetable import Timetable
from melange_sky.plans import Plan, Verification
from melange_sky.pricing.freshness import Age
from melange_sky.reserve.answer import Advice, Bought, ScenarioCost, Totals
from melange_sky.spec.hourly import HourlyDemand
from melange_sky.workload import Workload
from tests.docs.filled import Hollow, filled

START = datetime(2026, 11, 2, tzinfo=timezone.utc)


def reservations() -> Iterator[dict[str, Any]]:
    """Yield documents of `reserve`: instances and spend, taken and not."""
    for hollow in Hollow:
        for step in (None, 0.5):
            yield reserve_document(_found(hollow, step))


def bounds() -> Iterator[dict[str, Any]]:
    """Yield documents of `bound`."""
    for hollow in Hollow:
        found = _found(hollow, None)
        yield bound_document(found.asked, (0.5, 0.5), found.lines, found.lines)


def schedules() -> Iterator[dict[str, Any]]:
    """Yield documents of `schedule`: a day with a step up, a step down and an hour without anything."""
    for hollow in Hollow:
        table = Timetable(
            start=START,
            step_s=3600.0,
            fleets=[0, 1, *[2] * 22],
            cycle=24,
            counts=[{"text": 1}, {"text": 2}, {}],
        )
        files = [SimpleNamespace(file=name) for name in (Path("text"), Path("text"), None)]
        schedule: Any = SimpleNamespace(
            name="text",
            fleet_id=filled(str | None, hollow),
            repeats="day",
            startup_s=0.5,
            startup_origin="text",
            timetable=table,
            fleets=files,
        )
        for hour in (0, 5):
            yield schedule_document(schedule, START + timedelta(hours=hour))


def _found(hollow: Hollow, step: float | None) -> Any:
    some = "text" if hollow is Hollow.NOTHING else ""
    term = filled(Commitment, hollow, term_hours=24.0, region=some, product=some)
    one = Purchasable(
        purchase=filled(Any), terms=(term,), rates={0: 0.5}, step_usd_per_hour=step, dearer=(term,)
    )
    taken = filled(Bought, hollow, units=2, used_fraction=None if hollow is Hollow.ALL else 0.5)
    age = filled(Age, hollow)
    advice = Advice(
        bought=(taken, filled(Bought, hollow, units=0)),
        fleets=np.ones((1, 1)),
        covered=np.ones((1, 1)),
        totals=filled(Totals, hollow, best_single=None if hollow is Hollow.ALL else 0),
        scenarios=(filled(ScenarioCost),),
        objective_usd=0.5,
        bound_objective_usd=0.5,
        gap=0.5,
        stochastic_value_usd=filled(float | None, hollow),
        foresight_value_usd=0.5,
        flip_fraction=filled(float | None, hollow),
    )
    line = PriceLine(
        what=term_name(term),
        usd_per_hour=0.5,
        source="text",
        as_of=filled(str | None, hollow),
        age=age,
    )
    is_whole = hollow is Hollow.NOTHING
    plan = filled(Plan)
    judged = SimpleNamespace(
        fleet_id="text",
        models=(
            SimpleNamespace(
                verification=filled(Verification | None, hollow),
                fleet_text=lambda: "text",
                slo=SimpleNamespace(attainment=0.5),
                name="text",
            ),
        ),
    )
    fleet: Any = SimpleNamespace(
        mix=0,
        periods=(0,),
        rate_rps=0.5,
        running=(SimpleNamespace(option=0, instances=2, owned=1, committed=0, rented=1),),
        plan=judged if is_whole else None,
    )
    proof = Proof(
        fleets=(fleet,),
        models=(ModelProof(name="text", whole=filled(WholeReplay), one_run=_one_run(hollow)),),
    )
    return SimpleNamespace(
        asked=_asked(hollow, plan, (one, one)),
        advice=advice,
        fleets=(fleet,),
        lines=(line,),
        proof=proof if is_whole else None,
        api=filled(ApiComparison | None, hollow),
    )


def _one_run(hollow: Hollow) -> OneRun:
    run: OneRun = filled(OneRun, hollow, first=0, steps=2, by_step=(0.5, None))
    return run


def _asked(hollow: Hollow, plan: Plan, bought: tuple[Purchasable, ...]) -> Any:
    (model,) = plan.models
    demand = HourlyDemand(
        source="text",
        starts=(START,),
        step_s=3600.0,
        rate_rps=(0.5,),
        mix=("",),
        of_models=(("text", (0.5,)),) if hollow is Hollow.ALL else (),
        is_dated=hollow is Hollow.NOTHING,
        notes=("text",),
    )
    label = "text" if hollow is Hollow.NOTHING else ""
    mixes = (
        SimpleNamespace(
            label=label,
            workload=filled(Workload),
            workloads=(filled(Workload),),
            parts=(1.0,),
            keys={"text": ("text", "text")},
        ),
    )
    return SimpleNamespace(
        spec=SimpleNamespace(
            name="text", models=(filled(type(model), hollow),) * (2 if hollow is Hollow.ALL else 1)
        ),
        options=SimpleNamespace(
            objective="expected",
            startup_s=0.5,
            min_run_s=0.5,
            discount_rate=0.5,
            budget_upfront=filled(float | None, hollow),
            seed=0,
        ),
        demand=demand,
        mixes=mixes,
        told_mixes=mixes,
        purchasable=bought,
        owned=(filled(Owned, hollow, region=label),),
        notes=("text",),
        question=SimpleNamespace(
            scenarios=(SimpleNamespace(rate_rps=np.array([0.5])),),
            mix=np.zeros(1, dtype=np.intp),
            options=("text",),
        ),
        rates_of=lambda _place: np.array([0.5]),
        candidate=lambda _k: filled(OptionCapacity, hollow),
    )
