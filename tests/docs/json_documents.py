"""The JSON documents of the program, each with something in every field, and each with what may be null."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np

from melange_sky.capacity_search import SearchResult
from melange_sky.commitments import Commitment
from melange_sky.learning import Learnt
from melange_sky.offers import Offer
from melange_sky.optimizer import SweepPoint
from melange_sky.planfile import plan_document
from melange_sky.planner.capacity import OptionCapacities
from melange_sky.planner.comparison import Contender
from melange_sky.planner.explaining import PlanReasons
from melange_sky.planner.models import KnownModel, list_models, show_model
from melange_sky.planner.observed import ObservedTraffic
from melange_sky.planner.plugin_files import PluginStatus
from melange_sky.planner.profiling import ProfilingJob
from melange_sky.planner.reprice import PlanDifference
from melange_sky.planner.timetable import Timetable
from melange_sky.planner.watching.document import backtest_document
from melange_sky.planner.watching.entries import entry_of
from melange_sky.planner.watching.replay import Backtest
from melange_sky.planner.watching.replay import Contender as PlayedFleet
from melange_sky.planner.watching.traffic import PlayedTraffic
from melange_sky.plans import Plan, Verification
from melange_sky.pricing.commitments.on_demand import Quote
from melange_sky.pricing.commitments.store import PulledTerms
from melange_sky.pricing.cross_check import PriceCheck
from melange_sky.pricing.diff import Difference, PriceChange
from melange_sky.pricing.store import Manifest
from melange_sky.profiler.bench import CrossCheck
from melange_sky.profiler.skyjobs import JobState
from melange_sky.profiles.calibration import Calibration
from melange_sky.profiletable import Provenance
from melange_sky.rendering import service_name
from melange_sky.replay import OptionVerdict, Verdict
from melange_sky.report.capacity import capacity_document
from melange_sky.report.comparison import comparison_rows
from melange_sky.report.explanation import explanation_document
from melange_sky.report.jobs import job_states_document, preview_document
from melange_sky.report.learning import observation_document
from melange_sky.report.measuring import measured_document
from melange_sky.report.models import list_document, model_document
from melange_sky.report.offers import offer_row
from melange_sky.report.plugin import status_document as plugin_status_document
from melange_sky.report.price_changes import (
    check_document,
    difference_document,
    refresh_document,
    snapshots_document,
)
from melange_sky.report.quick import quick_document
from melange_sky.report.repricing import repricing_document
from melange_sky.report.services import status_document
from melange_sky.report.simulation import simulations_document
from melange_sky.report.sweep import sweep_json
from melange_sky.report.terms import term_row
from melange_sky.report.workload import workload_document
from melange_sky.skyplugin.fleets import by_name, fleet_documents
from melange_sky.skyplugin.observed import ModelSeen, OptionSeen
from melange_sky.skyplugin.plan_folders import FoundPlan
from melange_sky.skyplugin.records import RunningService
from melange_sky.skyplugin.watched import last_told
from melange_sky.skyserve import LiveReplica, LiveService, ServiceState
from melange_sky.slo import SLO
from melange_sky.spec import Histogram
from melange_sky.watching.decide import State
from melange_sky.watching.decision import Decision
from melange_sky.watching.forecast import Forecast
from melange_sky.watching.journal import JOURNAL_FILE
from melange_sky.watching.seen import Seen
from melange_sky.workload import Coverage, Workload
from tests.docs.filled import Hollow, filled
from tests.docs.reserve_documents import bounds, reservations, schedules
from tests.factories import make_offer, make_plan


def _plans() -> Iterator[dict[str, Any]]:
    for hollow in Hollow:
        for lists_models in (False, True):
            yield plan_document(_with_copies(filled(Plan, hollow, lists_models=lists_models)))


def _with_copies(plan: Plan) -> Plan:
    """Return a plan with one more candidate: two engines like the first one's."""
    (model,) = plan.models
    (one,) = model.candidates
    if one.option.engine is None:
        return plan
    engine = replace(one.option.engine, data_parallel=2)
    cells = tuple(tuple(cell.scaled(2) for cell in row) for row in one.cells)
    two = replace(one, option=replace(one.option, engine=engine), cells=cells)
    return replace(plan, models=(replace(model, candidates=(one, two)),))


def _each(kind: Any, document: Callable[[Any], Any]) -> Callable[[], Iterator[Any]]:
    """Return what makes a document of a filled record of a kind, and of hollow ones."""
    return lambda: (document(filled(kind, hollow)) for hollow in Hollow)


def _many(kind: Any, document: Callable[[Any], Any]) -> Callable[[], Iterator[Any]]:
    """The same of a list of records."""
    return lambda: (document([filled(kind, hollow)]) for hollow in Hollow)


def _simulations() -> Iterator[dict[str, Any]]:
    run = SimpleNamespace(
        sample_s=np.zeros(1),
        waiting=np.zeros((1, 1), dtype=np.int64),
        running=np.zeros((1, 1), dtype=np.int64),
        kv_used=np.zeros((1, 1)),
        found_tokens=np.zeros(1, dtype=np.int64),
        log=SimpleNamespace(options=["text"]),
    )
    for hollow in Hollow:
        plan = filled(Plan, hollow)
        verdict = filled(Verdict, hollow, options=(filled(OptionVerdict, hollow),))
        for lists_models in (False, True):
            one: Any = SimpleNamespace(
                plan=plan.models[0], verdict=verdict, run=run, traffic="text", notes=("text",)
            )
            yield simulations_document([one], replace(plan, lists_models=lists_models))


def _capacities() -> Iterator[dict[str, Any]]:
    for hollow in Hollow:
        query = SimpleNamespace(
            model=SimpleNamespace(name="text"),
            engine_label="text",
            generation="text",
            engine=SimpleNamespace(generation_note="text" if hollow is Hollow.NOTHING else None),
            slo=filled(SLO, hollow),
            input_sizes=((1.0,),),
            output_sizes=((1.0,),),
        )
        answer: Any = SimpleNamespace(
            query=query,
            options=SimpleNamespace(
                tpot_ms=filled(float | None, hollow), ttft_ms=filled(float | None, hollow)
            ),
            rows=[filled(OptionCapacities, hollow)],
        )
        yield capacity_document(answer)


def _refreshes() -> Iterator[dict[str, Any]]:
    names = {"fetched": ("text",), "unchanged": ("text",), "absent": ("text",)}
    terms = PulledTerms(came={"key": 1}, failed={"key": "text"})
    for manifest in (filled(Manifest), None):
        result: Any = SimpleNamespace(
            manifest=manifest, failed={"key": "text"}, terms=terms, **names
        )
        yield refresh_document(result)


def _workloads() -> Iterator[dict[str, Any]]:
    for hollow in Hollow:
        yield workload_document(filled(Histogram, hollow, coverage=filled(Coverage)))


def _offers() -> Iterator[list[dict[str, Any]]]:
    for hollow in Hollow:
        yield [offer_row(filled(Offer, hollow))]
    yield [offer_row(filled(Offer, accelerator="text", accelerator_count=math.nan))]


def _terms() -> Iterator[list[dict[str, Any]]]:
    for hollow in Hollow:
        yield [term_row(filled(Quote, hollow))]
    day = filled(Quote, commitment=filled(Commitment, term_hours=24.0), on_demand_usd_per_hour=None)
    yield [term_row(day)]


def _differences() -> Iterator[dict[str, Any]]:
    for hollow in Hollow:
        yield difference_document(filled(Difference, hollow))
    unreadable = filled(PriceChange, accelerator_count=-1.0)
    yield difference_document(filled(Difference, changes=(unreadable,)))


def _measurements() -> Iterator[dict[str, Any]]:
    for hollow in Hollow:
        answer = filled(SearchResult, hollow)
        cell = SimpleNamespace(answer=lambda slo, answer=answer: answer)
        table = SimpleNamespace(provenance=filled(Provenance), cell=lambda *size, cell=cell: cell)
        report = SimpleNamespace(
            table=table,
            path=Path("text"),
            inferred={(2, 2): 0.5},
            expected_error=filled(float | None, hollow),
            unmeasured={(3, 3): "text"},
            kept=((1, 1),),
        )
        measured: Any = SimpleNamespace(
            report=report,
            slo=filled(SLO, hollow),
            sizes=((1, 1), (2, 2), (3, 3)),
            check=filled(CrossCheck) if hollow is Hollow.NOTHING else None,
        )
        yield measured_document(measured)


def _models() -> Iterator[dict[str, Any]]:
    names = (
        "Qwen/Qwen3-VL-8B-Instruct",
        "Qwen/Qwen3-32B-FP8",
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4",
        "meta-llama/Llama-3.1-8B",
    )
    for name in names:
        read = show_model(name, offline=True)
        yield model_document(read)
        yield model_document(replace(read, checkpoint=replace(read.checkpoint, revision="text")))


def _model_lists() -> Iterator[list[dict[str, Any]]]:
    yield list_document(list_models())
    yield list_document([filled(KnownModel)])


def _fleets() -> Iterator[dict[str, Any]]:
    """As `skyplugin.routes.Board.document` has them: a live service, strays, odd prices, nothing known."""
    plan = make_plan(fleet_id=_FLEET, verification=filled(Verification))
    (model,) = plan.models
    first = model.allocations[0]
    undated = _with_offer(make_plan(name="undated"), make_offer(as_of=None))
    free = _with_offer(make_plan(name="free"), None)
    running = [
        _running(service_name(model, first), option=first.candidate.option.name, plan="chat"),
        _running("stray", option="a100", plan="chat"),
        _running("stray-2"),
    ]
    now = datetime(2026, 9, 11, tzinfo=timezone.utc)
    table = Timetable(
        start=now, step_s=43_200.0, fleets=(0, 1), cycle=2, counts=({"text": 1}, {"text": 2})
    )
    schedule: Any = SimpleNamespace(timetable=table)
    option = first.candidate.option.name
    seen = {
        (_FLEET, "chat"): replace(filled(ModelSeen), options={option: filled(OptionSeen)}),
        ("undated", "undated"): filled(ModelSeen, Hollow.PLAIN),
    }
    plans = [FoundPlan(plan=undated, file=Path("text/text"))]
    with TemporaryDirectory() as name:
        looks = [*_looks(), {"time": "text", "event": "done", "message": "text"}]
        rows = [json.dumps(one) for one in [*looks, {**looks[0], "decision": "apply"}]]
        (Path(name) / JOURNAL_FILE).write_text("".join(f"{row}\n" for row in rows))
        watched = last_told(Path(name))
        (Path(name) / JOURNAL_FILE).write_text(f"{json.dumps(looks[-1])}\n")
        begun = last_told(Path(name))
    plans.append(FoundPlan(plan=free, file=Path("text/text"), watched=begun))
    plans.insert(
        0, FoundPlan(plan=plan, file=Path("text/text"), schedule=schedule, watched=watched)
    )
    for known, age_s, error in ((running, 1.0, None), (None, None, "text")):
        fleets = fleet_documents(plans, by_name(known), now, seen)
        yield {"fleets": fleets, "live": {"age_s": age_s, "error": error}, "problems": ["text"]}


_FLEET = "0123456789ab"


def _with_offer(plan: Plan, offer: Offer | None) -> Plan:
    """Return a plan whose allocations all have the same offer."""
    (model,) = plan.models
    allocations = tuple(
        replace(a, candidate=replace(a.candidate, option=replace(a.candidate.option, offer=offer)))
        for a in model.allocations
    )
    return replace(plan, models=(replace(model, allocations=allocations),))


def _running(name: str, **mark: str) -> RunningService:
    replicas = tuple(filled(LiveReplica, hollow, id=i) for i, hollow in enumerate(Hollow))
    document = {"_metadata": {"melange_sky": {**mark, "id": _FLEET}}}
    service = filled(LiveService, name=name, document=document, replicas=replicas)
    return RunningService(service=service, instances={0: "text"})


def _observations() -> Iterator[dict[str, Any]]:
    for busiest in (0.1, 0.9):
        learnt = filled(Learnt, busiest=busiest)
        for kept in (None, filled(Calibration)):
            path = None if kept is None else Path("text")
            yield observation_document(learnt, {"reason": 1}, kept, path)


def _statuses() -> Iterator[dict[str, Any]]:
    for hollow in Hollow:
        traffic = filled(ObservedTraffic, hollow)
        services = [filled(ServiceState, hollow)]
        yield status_document(SimpleNamespace(services=services, traffic=traffic))


def _looks() -> Iterator[dict[str, Any]]:
    for hollow in Hollow:
        unknown = hollow is Hollow.ALL
        seen = filled(
            Seen,
            hollow,
            time=0.0,
            live=None if unknown else {"a": 1},
            bucket_rates=None if unknown else np.ones((1, 1)),
        )
        told = None if hollow is Hollow.ALL else filled(Forecast)
        target = None if hollow is Hollow.ALL else {"a": 2}
        decision = filled(Decision, verb="apply", target=target)
        fleet = None if hollow is Hollow.ALL else (1,)
        state = State(
            changed_s=None if fleet is None else 0.0,
            started_s=None if fleet is None else 0.0,
            standing=fleet,
            target=fleet,
            shrunk_s=None if fleet is None else 0.0,
            calm_until_s=None if fleet is None else 0.0,
            without={"a": 60.0},
        )
        entry = entry_of(seen, (told, told), decision, state, ("a",))
        yield {**entry, "previous_hash": None if fleet is None else "text"}


def _backtests() -> Iterator[dict[str, Any]]:
    traffic = PlayedTraffic(
        source="text",
        start=0.0,
        counts=np.ones(3, dtype=np.int64),
        rates_rps=np.ones(3),
        workload=filled(Workload),
        seed=0,
        notes=("text",),
    )
    bare = PlayedFleet(name="text", usd=1.0, judged=None, changes=None)
    for perfect_usd in (0.5, 0.0):
        yield backtest_document(
            filled(
                Backtest,
                traffic=traffic,
                contenders=(filled(PlayedFleet), bare),
                perfect_usd=perfect_usd,
                reasons={"keep steady": 1},
            )
        )


DOCUMENTS: dict[str, Callable[[], Iterator[Any]]] = {
    "plan": _plans,
    "simulate": _simulations,
    "explain": _each(PlanReasons, explanation_document),
    "sweep": _many(SweepPoint, lambda points: json.loads(sweep_json(points))),
    "compare": _many(Contender, comparison_rows),
    "reserve": reservations,
    "bound": bounds,
    "schedule": schedules,
    "watch": _looks,
    "watch-replay": _backtests,
    "capacity": _capacities,
    "models-show": _models,
    "models-list": _model_lists,
    "workload": _workloads,
    "prices-list": _offers,
    "prices-terms": _terms,
    "prices-refresh": _refreshes,
    "prices-snapshots": _many(Manifest, snapshots_document),
    "prices-diff": _differences,
    "prices-diff-plan": _each(PlanDifference, repricing_document),
    "prices-check": _each(PriceCheck, check_document),
    "profile-run": _measurements,
    "profile-quick": _each(Calibration, lambda kept: quick_document(kept, Path("text"))),
    "profile-learn": _observations,
    "profile-launch": _many(
        ProfilingJob, lambda jobs: preview_document(SimpleNamespace(jobs=jobs, taken=jobs))
    ),
    "profile-status": _each(JobState, lambda state: job_states_document({"JOB": state})),
    "status": _statuses,
    "plugin-status": _each(PluginStatus, plugin_status_document),
    "plugin-fleets": _fleets,
}
"""By the name of the file of its fields in `melange_sky/help/fields/`."""
