"""A plan that passes on paper and fails in replay is repaired, or the reason is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from melange_sky.errors import NoPlanInTimeError
from melange_sky.optimizer import SolveOptions
from melange_sky.planfile import dump_plan, load_plan
from melange_sky.planner.plan_spec import plan_loaded
from melange_sky.planner.replay_loop.ease import EaseSearch, cheaper_fleets
from melange_sky.planner.replay_loop.loop import LoopRequest, plan_verified
from melange_sky.planner.replay_loop.replan import Replanner, scaled
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan, with_policy
from melange_sky.planner.request import PlanRequest
from melange_sky.plans import ModelPlan, Plan
from melange_sky.pricing import OfferQuery
from melange_sky.replay import Replay
from melange_sky.spec import Spec, load_spec

AZURE = Path(__file__).resolve().parents[4] / "shared" / "data" / "azure_llm_2023_conv.csv"
REQUEST = PlanRequest(prices=OfferQuery(offline=True), sensitivity=False)
BURSTY = SimulationRequest(burstiness=60.0, ci=0.02)
SMALL = {
    "input_edges": [0, 200, 1000],
    "output_edges": [0, 300],
    "weights": [[0.6], [0.4]],
    "input_sizes": [[120], [600]],
    "output_sizes": [[200], [150]],
}

pytestmark = [pytest.mark.usefixtures("kept_estimates"), pytest.mark.timeout(300)]


def spec_of(
    tmp_path: Path, extra: str = "", accelerators: str = "[A10G, L40S]", **workload: object
) -> Spec:
    given = workload or {"rate_rps": 14, "histogram": SMALL}
    path = tmp_path / "spec.yaml"
    path.write_text(
        "name: chat\nmodel: meta-llama/Llama-3.1-8B-Instruct\n"
        "slo: {tpot_ms: 50, ttft_ms: 1000}\n"
        f"workload: {given}\n"
        f"resources:\n  accelerators: {accelerators}\n  infra: [aws]\n" + extra
    )
    spec = load_spec(path)
    assert isinstance(spec, Spec)
    return spec


def planned(spec: Spec) -> Plan:
    return plan_loaded(spec, REQUEST)


def planned_model(spec: Spec) -> ModelPlan:
    (model,) = planned(spec).models
    return model


def verified(spec: Spec, loop: LoopRequest) -> ModelPlan:
    (model,) = plan_verified(planned(spec), REQUEST, loop).models
    return model


def test_bursts_break_the_plan_and_the_loop_repairs_it(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    before = planned_model(spec)
    calm = simulate_plan(before, SimulationRequest(ci=0.02))
    assert calm.verdict.met
    broken = simulate_plan(before, BURSTY)
    assert not broken.verdict.met

    told = []
    whole = plan_verified(
        planned(spec), REQUEST, LoopRequest(simulation=BURSTY, on_round=told.append)
    )
    (plan,) = whole.models
    found = plan.verification
    assert found is not None
    assert found.holds
    assert found.reason is None
    assert found.low >= 0.95
    assert found.premium_usd_per_hour == pytest.approx(
        plan.cost_usd_per_hour - before.cost_usd_per_hour
    )
    assert found.premium_usd_per_hour > 0
    assert len(found.rounds) == len(told) + 1 >= 2
    assert found.rounds[0].low < 0.95
    assert found.rounds[0].cost_usd_per_hour == pytest.approx(before.cost_usd_per_hour)
    assert found.rounds[-1].cost_usd_per_hour == pytest.approx(plan.cost_usd_per_hour)
    assert all(0 < factor < 1 for _, factor in found.rounds[0].derated)
    # The cheapest that held is the plan, and no single type that holds is cheaper.
    singles = [b.verified.cost_usd_per_hour for b in plan.baselines if b.verified]
    assert singles
    assert plan.cost_usd_per_hour <= min(singles)
    assert len(found.seeds) == 3
    held = [r.cost_usd_per_hour for r in found.rounds if r.low >= 0.95]
    assert plan.cost_usd_per_hour == pytest.approx(min(held))
    unused = dataclasses.replace(BURSTY, how=Replay(seed=987))
    assert simulate_plan(plan, unused).verdict.interval[0] >= 0.94

    path = tmp_path / "plan.json"
    path.write_text(dump_plan(whole))
    assert load_plan(path) == whole


def test_long_prefills_beside_a_tight_tpot_break_the_plan_and_the_loop_repairs_it(
    tmp_path: Path,
) -> None:
    """Prompts of 6,000 tokens with one token of answer hold alone, and so do chats; together they do
    not: each long prefill is a step that all chats on the replica wait for."""
    beside = {
        "input_edges": [0, 400, 8000],
        "output_edges": [0, 4, 400],
        "weights": [[0, 0.8], [0.2, 0]],
        "input_sizes": [[100, 100], [6000, 6000]],
        "output_sizes": [[1, 300], [1, 100]],
    }
    spec = spec_of(tmp_path, accelerators="['A10G:1', 'L40S:1']", rate_rps=3, histogram=beside)
    limits = dataclasses.replace(spec.models[0].slo, tpot_s=0.045, ttft_s=5.0)
    spec = dataclasses.replace(spec, models=(dataclasses.replace(spec.models[0], slo=limits),))
    before, traffic = planned_model(spec), SimulationRequest(ci=0.02)
    assert all(a.load_fraction <= 1 - spec.headroom for a in before.allocations)
    broken = simulate_plan(before, traffic).verdict
    assert not broken.met
    assert broken.surely
    missed = max(broken.options, key=lambda option: option.tpot_missed or 0.0)
    assert missed.tpot_missed is not None and missed.ttft_missed is not None
    assert missed.tpot_missed > 0.05 > missed.ttft_missed

    plan = verified(spec, LoopRequest(simulation=traffic))
    assert plan.verification is not None
    assert plan.verification.holds, plan.verification.reason
    assert plan.verification.premium_usd_per_hour > 0
    unused = dataclasses.replace(traffic, how=Replay(seed=987))
    assert simulate_plan(plan, unused).verdict.met


def test_a_plan_that_holds_with_no_room_is_left_as_it_is(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, rate_rps=13, histogram=SMALL)
    plan = verified(spec, LoopRequest(simulation=SimulationRequest(ci=0.02)))
    assert plan.verification is not None
    assert plan.verification.holds
    assert plan.verification.premium_usd_per_hour == 0
    assert (
        dataclasses.replace(plan, verification=None).allocations == planned_model(spec).allocations
    )


def test_a_plan_that_holds_with_room_is_shrunk_within_its_rules(tmp_path: Path) -> None:
    """At half the headroom's worth of capacity the fleet is larger than replay needs."""
    spec = spec_of(tmp_path, "headroom: 0.5\n")
    before = planned_model(spec)
    plan = verified(spec, LoopRequest(simulation=SimulationRequest(ci=0.02)))
    assert plan.verification is not None
    assert plan.verification.holds
    assert plan.cost_usd_per_hour < before.cost_usd_per_hour
    by_name = {c.option.name: c for c in before.candidates}
    assert all(a.candidate == by_name[a.candidate.option.name] for a in plan.allocations)
    least = spec_of(
        tmp_path, f"redundancy: {{min_replicas: {sum(a.instances for a in before.allocations)}}}\n"
    )
    kept = verified(least, LoopRequest(simulation=SimulationRequest(ci=0.02)))
    assert sum(a.instances for a in kept.allocations) >= sum(
        a.instances for a in before.allocations
    )


def test_a_spare_is_not_shrunk_away(tmp_path: Path) -> None:
    """No replay of the whole fleet shows what is left after a loss: the optimizer's word stands."""
    spec = spec_of(tmp_path, "redundancy: {spare: 1}\nheadroom: 0.5\n")
    plan = verified(spec, LoopRequest(simulation=SimulationRequest(ci=0.02)))
    assert plan.cost_usd_per_hour >= planned_model(spec).cost_usd_per_hour - 1e-9


def test_time_that_runs_out_leaves_the_best_fleet_so_far(tmp_path: Path) -> None:
    loop = LoopRequest(simulation=SimulationRequest(ci=0.02), seconds=1e-9)
    plan = verified(spec_of(tmp_path), loop)
    assert plan.verification is not None
    assert (plan.verification.holds, plan.verification.cut_short) == (False, True)
    assert "--verify-seconds" in (plan.verification.reason or "")


def test_more_types_are_never_dearer_than_one_of_them_alone(tmp_path: Path) -> None:
    loop = LoopRequest(simulation=dataclasses.replace(BURSTY, burstiness=50.0))
    alone = verified(spec_of(tmp_path, accelerators="[L40S]", rate_rps=4, histogram=SMALL), loop)
    both = verified(
        spec_of(tmp_path, accelerators="[A10G, L40S]", rate_rps=4, histogram=SMALL), loop
    )
    assert alone.verification is not None and both.verification is not None
    assert alone.verification.holds and both.verification.holds
    assert both.cost_usd_per_hour <= alone.cost_usd_per_hour
    (single,) = [b.verified for b in both.baselines if b.accelerator == "L40S"]
    assert single is not None
    assert single.cost_usd_per_hour == pytest.approx(alone.cost_usd_per_hour)


def test_a_fleet_that_holds_survives_easing_that_finds_none_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A solver that runs out of time while capacity is given back has not made the plan infeasible."""

    def late(*_: object, **__: object) -> Plan:
        raise NoPlanInTimeError(1.0)

    spec = spec_of(tmp_path)
    first = planned(spec)
    replanner = Replanner(first=first, request=REQUEST)
    search = EaseSearch(replanner=replanner, holds=lambda *_: True, held=[first])
    monkeypatch.setattr(Replanner, "plan", late)
    assert cheaper_fleets(search, [{("L40S", 1): 0.5}]) == [first]


def test_long_answers_are_replayed_for_long_enough_or_the_doubt_is_told(tmp_path: Path) -> None:
    """Answers of 2000 tokens at 50 ms take 100 s: at least ten times as long is replayed."""
    long = {
        "input_edges": [0, 200],
        "output_edges": [0, 2000],
        "weights": [[1]],
        "output_sizes": [[2000]],
    }
    plan = planned_model(spec_of(tmp_path, rate_rps=20, histogram=long))
    told = simulate_plan(plan, SimulationRequest(ci=0.3))
    assert "2 × 1010 s" in told.traffic
    assert not told.verdict.warmup_capped
    assert not any("slowest" in note for note in told.notes)
    cut = simulate_plan(plan, SimulationRequest(ci=0.3, duration_s=200.0))
    assert cut.verdict.warmup_capped
    assert any(n.startswith("too short for its slowest requests, which take") for n in cut.notes)


def test_the_loop_says_when_limits_leave_no_fleet(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "  limits: {L40S: 3, A10G: 1}\n")
    burst = dataclasses.replace(BURSTY, burstiness=300.0)
    plan = verified(spec, LoopRequest(simulation=burst))
    assert plan.verification is not None
    assert not plan.verification.holds
    assert plan.verification.reason
    assert plan.verification.rounds[-1].low < 0.95


def test_the_loop_does_not_take_a_time_out_for_the_last_fleet(tmp_path: Path) -> None:
    first = planned(spec_of(tmp_path))
    at_once = dataclasses.replace(REQUEST, solve=SolveOptions(time_limit_s=1e-6))
    plan = plan_verified(first, at_once, LoopRequest(simulation=BURSTY))
    (model,) = plan.models
    assert model.allocations == first.models[0].allocations
    assert model.verification is not None
    assert (model.verification.holds, model.verification.cut_short) == (False, True)
    assert model.verification.reason == (
        "the search for a fleet that holds was cut short: no plan was found within the time limit "
        "of 1e-06 s (none is proven impossible)"
    )


def test_rounds_are_bounded(tmp_path: Path) -> None:
    plan = verified(spec_of(tmp_path), LoopRequest(simulation=BURSTY, max_rounds=1))
    assert plan.verification is not None
    assert plan.verification.reason == "no fleet holds after 1 rounds"
    assert len(plan.verification.rounds) == 1


@pytest.mark.skipif(not AZURE.exists(), reason="the Azure trace is not beside the project")
def test_the_azure_trace_holds_on_the_verified_plan(tmp_path: Path) -> None:
    """SLO of 95 % within TPOT 80 ms and TTFT 2 s, the trace at four times its own rate."""
    times = 4
    spec = spec_of(
        tmp_path, accelerators="[L40S, H100]", rate_rps=5.53 * times, distribution="azure-conv-2023"
    )
    slo = dataclasses.replace(spec.models[0].slo, tpot_s=0.08, ttft_s=2.0)
    spec = dataclasses.replace(spec, models=(dataclasses.replace(spec.models[0], slo=slo),))
    traffic = SimulationRequest(trace=AZURE, rate_scale=times, ci=0.05)
    plan = verified(spec, LoopRequest(simulation=traffic))
    assert plan.verification is not None
    assert plan.verification.holds, plan.verification.reason
    unused = dataclasses.replace(traffic, how=Replay(seed=4321))
    verdict = simulate_plan(plan, unused).verdict
    assert verdict.requests == 19366
    assert verdict.met
    blind = simulate_plan(plan, with_policy(unused, "round_robin")).verdict
    if len(plan.allocations) > 1:
        assert blind.attainment < verdict.attainment


def test_too_tight_is_a_proof_of_every_option(tmp_path: Path) -> None:
    """No card answers within 4 ms a token; the estimates' own word on that plays no part."""
    spec = spec_of(tmp_path, rate_rps=2, histogram=SMALL)
    first = planned(spec)
    (model,) = first.models
    tight = dataclasses.replace(model, slo=dataclasses.replace(model.slo, tpot_s=0.004))
    plan = plan_verified(dataclasses.replace(first, models=(tight,)), REQUEST, LoopRequest())
    found = plan.models[0].verification
    assert found is not None
    assert not found.holds
    assert "too tight for these accelerators" in (found.reason or "")
    for shape in ("A10G:1", "L40S:1"):
        assert shape in (found.reason or "")


def test_large_fleets_that_hold_become_a_plan_not_an_excuse(tmp_path: Path) -> None:
    """Estimates eight and more times too high leave the optimizer's fleets too small at every scale."""
    first = planned(spec_of(tmp_path, accelerators="['L40S:1']", rate_rps=12, histogram=SMALL))
    (model,) = first.models
    rosy = tuple(scaled(c, 400.0) for c in model.candidates)
    fleet = tuple(dataclasses.replace(a, candidate=rosy[0], instances=1) for a in model.allocations)
    model = dataclasses.replace(model, candidates=rosy, allocations=fleet, baselines=())
    plan = plan_verified(dataclasses.replace(first, models=(model,)), REQUEST, LoopRequest())
    found = plan.models[0].verification
    assert found is not None
    assert found.holds, found.reason
    assert plan.cost_usd_per_hour <= first.cost_usd_per_hour * 1.5


def test_a_search_that_is_cut_short_has_tried_each_accelerator_alone(tmp_path: Path) -> None:
    """One replay shows whether another accelerator alone could be cheaper; mixes and figures come later."""
    spec = spec_of(tmp_path, accelerators="[A10G, L40S, L4, H100]")
    whole = verified(spec, LoopRequest(simulation=BURSTY))
    singles = [b.verified.cost_usd_per_hour for b in whole.baselines if b.verified]
    assert len(singles) == 4
    cut = plan_verified(planned(spec), REQUEST, LoopRequest(simulation=BURSTY, max_rounds=16))
    (model,) = cut.models
    found = model.verification
    assert found is not None
    assert found.holds
    assert model.cost_usd_per_hour <= min(singles)
    (note,) = [w.message for w in cut.warnings if w.code == "baseline"]
    left = [b.accelerator for b in model.baselines if b.verified is None]
    assert left
    assert all(name in note for name in left)
