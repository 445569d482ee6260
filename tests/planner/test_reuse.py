"""Plans that count on prefix caches: cheaper, on the safe side, and proven by replay of what prompts share."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from melange_sky.cli import main
from melange_sky.planfile import dump_plan, load_plan
from melange_sky.planner.hits import with_hits
from melange_sky.planner.planning import PlanOptions, plan_source
from melange_sky.planner.prepare import query_of
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan
from melange_sky.planner.request import PlanRequest
from melange_sky.planner.reuse_guesses import first_guesses, profile_by_input
from melange_sky.planner.reuse_rounds import found_by, plan_with_reuse
from melange_sky.plans import ModelPlan, Plan
from melange_sky.pricing import OfferQuery
from melange_sky.replay import Replay
from melange_sky.replay.verdict import judged_window
from melange_sky.spec import Spec, load_spec
from melange_sky.steps import RequestSizes, capacity_estimate
from tests.prefixes.shaped import mooncake_like

GRID = "{input_edges: [0, 6000, 16000, 48000, 200000], output_edges: [0, 300, 900, 4000]}"

pytestmark = [pytest.mark.usefixtures("kept_estimates"), pytest.mark.timeout(300)]


def spec_file(folder: Path, reuse: str = "file", extra: str = "") -> Path:
    trace = folder / "moon.jsonl"
    if not trace.exists():
        mooncake_like(7000, rate_rps=9.0).write(trace)
    path = folder / f"spec-{reuse}.yaml"
    path.write_text(
        "name: moon\nmodel: meta-llama/Llama-3.1-8B-Instruct\nslo: {tpot_ms: 80, ttft_ms: 10000, attainment: 0.9}\n"
        f"workload: {{trace: {trace}, rate: mean, grid: {GRID}, reuse: {reuse}}}\n"
        f"resources: {{accelerators: [L40S, H100], infra: [aws]}}\n{extra}"
    )
    return path


def planned(path: Path, **over: object) -> Plan:
    return plan_source(path, PlanOptions(offline=True, **over))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reuse")


_WARM: dict[Path, Plan] = {}


@pytest.fixture
def warm(folder: Path) -> Plan:
    """The plan that most tests look at, made once."""
    if folder not in _WARM:
        _WARM[folder] = planned(spec_file(folder))
    return _WARM[folder]


def test_a_plan_with_reuse_is_cheaper_and_finds_what_it_counts_on(folder: Path, warm: Plan) -> None:
    cold = planned(spec_file(folder, "none"))
    (model,) = warm.models
    assert warm.cost_usd_per_hour < cold.cost_usd_per_hour
    assert model.reuse is not None
    assert model.reuse.cold_usd_per_hour == pytest.approx(cold.cost_usd_per_hour)
    assert (model.reuse.blind_usd_per_hour or 0) >= warm.cost_usd_per_hour
    assert [h.option for h in model.reuse.hits] == [
        a.candidate.option.name for a in model.allocations
    ]
    assert any(h.planned > 0.02 for h in model.reuse.hits)
    found = found_by(model)
    for hits in model.reuse.hits:
        assert 0 <= hits.planned <= hits.affinity == found[hits.option]
        assert (
            0 < hits.blind < hits.affinity + 0.01
        )  # within a replica of several engines nothing is kept together
    assert any(h.blind < h.affinity - 0.01 for h in model.reuse.hits)
    endless = model.workload.reuse and model.workload.reuse.infinite_hit
    assert max(h.affinity for h in model.reuse.hits) < (endless or 0)


def test_nothing_of_it_stands_in_a_plan_without(folder: Path) -> None:
    text = dump_plan(planned(spec_file(folder, "none")))
    assert "reuse" not in json.loads(text)
    assert "reuse" not in json.loads(text)["workload"]


def test_the_plan_tells_it_and_keeps_it(folder: Path, warm: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(dump_plan(warm))
    again = load_plan(path)
    assert again.models[0].reuse == warm.models[0].reuse
    assert again.models[0].workload.reuse == warm.models[0].workload.reuse
    told = [w.message for w in warm.warnings if w.code == "reuse"]
    assert "prefix caches find of the prompt tokens" in told[0]
    assert any("affinity" in text and "gateway --affinity session" in text for text in told)
    document = json.loads(path.read_text())
    document["reuse"]["affinity"] = "sticky"
    path.write_text(json.dumps(document))
    with pytest.raises(Exception, match="affinity"):
        load_plan(path)


def test_same_spec_same_plan(folder: Path, warm: Plan) -> None:
    again = planned(spec_file(folder))
    assert again.models[0].reuse == warm.models[0].reuse
    assert again.models[0].allocations == warm.models[0].allocations


def test_both_plans_hold_in_replay_of_the_trace(folder: Path, warm: Plan) -> None:
    trace = folder / "moon.jsonl"
    for plan in (warm, planned(spec_file(folder, "none"))):
        verdict = simulate_plan(plan.models[0], SimulationRequest(trace=trace)).verdict
        assert verdict.attainment >= verdict.target


def test_verified_plans_hold_and_say_what_affinity_does(folder: Path) -> None:
    plan = planned(spec_file(folder), verify=True, verify_seconds=20.0)
    (model,) = plan.models
    assert model.verification is not None and model.verification.holds
    assert model.reuse is not None
    assert (model.reuse.cold_usd_per_hour, model.reuse.blind_usd_per_hour) == (None, None)
    told = " ".join(w.message for w in plan.warnings if w.code == "reuse")
    assert "in the same replay without it this fleet" in told


def test_an_engine_without_prefix_cache_is_planned_cold(folder: Path) -> None:
    """And its replay finds nothing."""
    off = spec_file(folder, "file", 'engine: {args: ["--no-enable-prefix-caching"]}\n')
    plan = planned(off)
    spec_file(folder)
    (model,) = plan.models
    cold = planned(spec_file(folder, "none"))
    assert plan.cost_usd_per_hour == pytest.approx(cold.cost_usd_per_hour)
    assert all(h.planned == h.affinity == 0 for h in (model.reuse.hits if model.reuse else ()))
    run = simulate_plan(model, SimulationRequest(duration_s=300.0)).run
    assert run.found_tokens is None


def test_a_blind_gateway_is_planned_with_what_it_finds(folder: Path, warm: Plan) -> None:
    plan = planned(spec_file(folder), affinity="off")
    (model,) = plan.models
    assert model.reuse is not None
    assert model.reuse.affinity == "off"
    for hits in model.reuse.hits:
        assert hits.planned <= hits.blind
    assert plan.cost_usd_per_hour >= warm.cost_usd_per_hour - 1e-9


def test_stated_sessions_are_planned_by_a_sample(folder: Path) -> None:
    stated = (
        "{session_turns: {mean: 4}, think_time_s: {mean: 40, p95: 120}, shared_prefix_tokens: 1500}"
    )
    path = folder / "stated.yaml"
    path.write_text(
        spec_file(folder)
        .read_text()
        .replace("reuse: file", f"reuse: {stated}")
        .replace("rate: mean", "rate_rps: 9")
    )
    plan = planned(path)
    (model,) = plan.models
    assert model.reuse is not None
    assert max(h.planned for h in model.reuse.hits) > 0.05


def test_rounds_end_for_any_fleet_and_never_above_what_was_found(folder: Path, warm: Plan) -> None:
    """A planner whose fleets find less and less: the guesses fall to nothing, and it ends cold."""
    spec = load_spec(spec_file(folder))
    assert isinstance(spec, Spec)
    rounds: list[float] = []

    def how(one: Spec, asked: PlanRequest) -> Plan:
        """Return a plan of one replica whose cache is too small for anything."""
        rounds.append(max((max(r) for h in asked.hits.values() for r in h.values()), default=0.0))
        small = tuple(replace(a, instances=1) for a in warm.models[0].allocations)
        model = replace(warm.models[0], allocations=small, workload=one.models[0].workload)
        return replace(warm, models=(replace(model, reuse=model.reuse if asked.hits else None),))

    plan = plan_with_reuse(
        spec, PlanRequest(prices=OfferQuery(offline=True), sensitivity=False), how
    )
    assert len(rounds) < 40
    (model,) = plan.models
    if model.reuse is not None:
        found = found_by(model)
        assert all(h.planned <= found[h.option] for h in model.reuse.hits)


def test_guesses_rise_with_memory_and_fall_without_affinity(warm: Plan) -> None:
    (model,) = warm.models
    near, far = first_guesses(model, "session"), first_guesses(model, "off")
    assert set(near) == set(far)
    assert all(far[name] <= near[name] for name in near)
    reuse = model.workload.reuse
    assert reuse is not None and max(near.values()) <= reuse.infinite_hit
    profile = profile_by_input(model, 0)
    assert profile.argmax() > 0  # short prompts are first turns


def warm_query(model: ModelPlan):
    assert model.model_shape is not None and model.engine_generation is not None
    return query_of(model, model.model_shape, model.engine, model.engine_generation, None)


def test_rates_grow_with_what_is_found_and_stay_where_nothing_is(warm: Plan) -> None:
    (model,) = warm.models
    query = warm_query(model)
    rows = len(model.workload.input_edges) - 1
    name = model.candidates[0].option.name
    before = 0.0
    for share in (0.0, 0.2, 0.5, 0.9):
        (grown, *_) = with_hits(model.candidates, query, {name: (share,) * rows})
        rate = sum(c.max_rate_rps or 0.0 for row in grown.cells for c in row)
        assert rate >= before
        before = rate
    assert with_hits(model.candidates, query, {}) == list(model.candidates)


def test_the_closed_form_spares_prefill_and_keeps_memory_and_the_cold_prompts_ttft(
    warm: Plan,
) -> None:
    from melange_sky.planner.hits import replica_with_cache

    (model,) = warm.models
    replica = replica_with_cache(warm_query(model), model.candidates[0].option)
    assert replica is not None
    cold = RequestSizes(input_tokens=np.array([8000.0]), output_tokens=np.array([300.0]))
    none, most = (replace(cold, found_tokens=np.array([x])) for x in (0.0, 7000.0))
    base, same, found = (capacity_estimate(replica, load, model.slo) for load in (cold, none, most))
    assert base.rate_rps == same.rate_rps
    assert found.rate_rps[0] > 1.3 * base.rate_rps[0]
    assert found.ttft_floor_s == base.ttft_floor_s
    assert found.batch[0] <= base.batch[0] * 3


def test_sampled_replays_share_as_the_trace_does(folder: Path, warm: Plan) -> None:
    """A saved plan knows no trace: its figures make sessions of sampled requests."""
    (model,) = warm.models
    bare = replace(model, workload=replace(model.workload, arrivals=None))
    request = SimulationRequest(duration_s=700.0, how=Replay(seed=3))
    sampled = simulate_plan(bare, request).run
    traced = simulate_plan(model, SimulationRequest(trace=folder / "moon.jsonl")).run
    assert sampled.found_tokens is not None and traced.found_tokens is not None
    shares = [float(r.found_tokens.sum() / r.log.input_tokens.sum()) for r in (sampled, traced)]
    assert shares[0] == pytest.approx(shares[1], abs=0.05)


def test_simulate_tells_what_each_option_found_of_its_judged_prompts(
    folder: Path, warm: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(dump_plan(warm))
    trace = str(folder / "moon.jsonl")
    document = _simulated(capsys, str(path), "--trace", trace, "--format", "json")
    run = simulate_plan(warm.models[0], SimulationRequest(trace=folder / "moon.jsonl")).run
    assert run.found_tokens is not None
    judged, _ = judged_window(run.log)
    for k, told in enumerate(json.loads(document)["allocations"]):
        mine = judged & (run.log.option == k)
        share = run.found_tokens[mine].sum() / run.log.input_tokens[mine].sum()
        assert told["prefix_hit_fraction"] == pytest.approx(share, abs=1e-6)
        assert share > 0
    table = _simulated(capsys, str(path), "--trace", trace)
    assert "prefix hits" in table and "with session affinity" in table
    other = _simulated(capsys, str(path), "--trace", trace, "--policy", "round_robin")
    assert "prefix hits" in other and "without session affinity" in other


def test_simulate_tells_nothing_of_it_where_nothing_is_shared(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(dump_plan(planned(spec_file(folder, "none"))))
    trace = str(folder / "moon.jsonl")
    assert "prefix" not in _simulated(capsys, str(path), "--trace", trace, "--format", "json")
    assert "prefix" not in _simulated(capsys, str(path), "--trace", trace)


def _simulated(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with contextlib.suppress(SystemExit):
        main(["simulate", *arguments])
    return capsys.readouterr().out
