"""A plan that simulates only what it rests on is the plan of all capacities simulated."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from melange_sky.capacities import CapacityCell, Origin
from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import Deadline, SolveOptions, explain, problem_of
from melange_sky.planfile import dump_plan, parse_plan
from melange_sky.planner.known_rates import with_known_rates
from melange_sky.planner.observed import judge_traffic
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.request import PlanRequest
from melange_sky.plans import Plan
from melange_sky.pricing import OfferQuery
from melange_sky.profiles.estimate import GroupEstimates
from melange_sky.profiles.lookup import CapacityLookup

REQUEST = PlanRequest(prices=OfferQuery(offline=True), solve=SolveOptions(), sensitivity=False)
AS_NEEDED = replace(REQUEST, as_needed=True)
EDGES = {"input_edges": [0, 120, 700, 4000], "output_edges": [0, 60, 400]}
MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
    "mistralai/Mistral-7B-v0.1",
)
GPUS = (["L4:1", "A10G:1", "H100:1"], ["A10G:1", "L40S:1"], ["L4:1", "L40S:1", "A100-80GB:1"])


def spec(**over: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "name": "t",
        "model": MODELS[0],
        "slo": {"tpot_ms": 47, "ttft_ms": 1500, "attainment": 0.95},
        "workload": {
            "rate_rps": 8,
            "histogram": {**EDGES, "weights": [[0.2, 0.2], [0.2, 0.2], [0.1, 0.1]]},
        },
        "resources": {"accelerators": GPUS[0], "infra": ["aws", "gcp", "azure/eastus"]},
    }
    return given | over


def drawn(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    raw = [[rng.random() ** 2 for _ in range(2)] for _ in range(3)]
    total = sum(map(sum, raw))
    return spec(
        model=rng.choice(MODELS),
        slo={
            "tpot_ms": rng.choice([28, 35, 47, 55, 80, 120]),
            "ttft_ms": rng.choice([300, 700, 1500, 4000]),
            "attainment": rng.choice([0.9, 0.95, 0.99]),
        },
        workload={
            "rate_rps": rng.choice([1, 4, 12, 30, 90]),
            "histogram": {**EDGES, "weights": [[x / total for x in row] for row in raw]},
        },
        resources={"accelerators": rng.choice(GPUS), "infra": ["aws", "gcp", "azure/eastus"]},
    )


def drawn_split(seed: int) -> dict[str, Any]:
    """One that takes several GPUs a replica, among them splits whose step times are assumed."""
    rng = random.Random(f"splits {seed}")
    document = drawn(seed)
    document["model"] = rng.choice(["Qwen/Qwen2.5-32B-Instruct", "meta-llama/Llama-2-13b-hf"])
    document["slo"]["tpot_ms"] = rng.choice([55, 80, 120])
    document["resources"]["accelerators"] = rng.choice(
        [["L4:4", "L4:8", "A10G:4"], ["A10G:8", "L40S:4", "L4:8"], ["L4:2", "L4:8", "H100:1"]]
    )
    document["resources"]["assumed_splits"] = rng.choice(["robust", "robust", "none", "all"])
    return document


def fleet(plan: Plan) -> list[tuple[str, int]]:
    return [(a.candidate.option.name, a.instances) for m in plan.models for a in m.allocations]


def at_bounds(plan: Plan) -> int:
    cells = (c for m in plan.models for o in m.candidates for row in o.cells for c in row)
    return sum(cell.origin is Origin.BOUND for cell in cells)


@pytest.mark.parametrize("document", [*map(drawn, range(30)), *map(drawn_split, range(12))])
def test_the_same_answer_as_with_all_simulated(document: dict[str, Any]) -> None:
    """What is simulated first is kept, so that both see the same rates."""
    try:
        quick = plan_spec(document, AS_NEEDED)
    except InfeasibleError as refused:
        with pytest.raises(InfeasibleError) as as_well:
            plan_spec(document, REQUEST)
        assert str(as_well.value) == str(refused)
        return
    whole = plan_spec(document, REQUEST)
    assert at_bounds(whole) == 0
    assert quick.cost_usd_per_hour == pytest.approx(whole.cost_usd_per_hour, rel=1e-9)
    assert (quick.solver.status, fleet(quick)) == (whole.solver.status, fleet(whole))
    for mine, theirs in zip(quick.models[0].baselines, whole.models[0].baselines, strict=True):
        if mine.at_least:
            assert theirs.cost_usd_per_hour is None or (
                (mine.cost_usd_per_hour or 0) <= theirs.cost_usd_per_hour * (1 + 1e-9)
            )
        else:
            assert (mine.feasible, mine.cost_usd_per_hour) == (
                theirs.feasible,
                pytest.approx(theirs.cost_usd_per_hour),
            )
    cheapest = min(quick.models[0].baselines, key=lambda b: b.cost_usd_per_hour or 1e9)
    assert not cheapest.at_least


MANY_GPUS = ["L4:1", "A10G:1", "L40S:1", "A100:1", "A100-80GB:1", "H100:1", "H200:1", "B200:1"]
REFUSED = (
    {"slo": {"tpot_ms": 47, "ttft_ms": 60, "attainment": 0.95}},
    {"slo": {"tpot_ms": 61, "ttft_ms": 90, "attainment": 0.99}},
    {"slo": {"tpot_ms": 35, "ttft_ms": 75, "attainment": 0.9}},
)


@pytest.mark.parametrize("over", REFUSED)
def test_what_nothing_serves_is_told_alike_with_less_simulated(
    over: dict[str, Any], kept_estimates: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    simulate = GroupEstimates.simulate

    def counted(self: GroupEstimates, at: int) -> CapacityCell:
        asked.append(at)
        return simulate(self, at)

    monkeypatch.setattr(GroupEstimates, "simulate", counted)
    document = spec(resources={"accelerators": MANY_GPUS}, **over)
    with pytest.raises(InfeasibleError) as quick:
        plan_spec(document, AS_NEEDED)
    needed = len(asked)
    with pytest.raises(InfeasibleError) as whole:
        plan_spec(document, REQUEST)
    assert "no option serves" in str(whole.value)
    assert (str(quick.value), quick.value.causes) == (str(whole.value), whole.value.causes)
    assert 2 * needed < len(asked)


def test_bounds_are_told_as_such_and_promise_nothing(kept_estimates: None) -> None:
    plan = plan_spec(spec(), replace(AS_NEEDED, sensitivity=True))
    assert at_bounds(plan) > 0
    for allocation in plan.models[0].allocations:
        for i, j in plan.models[0].workload.buckets():
            if allocation.shares[i][j] > 0:
                assert allocation.candidate.cells[i][j].origin is Origin.ESTIMATED
    again = parse_plan(json.loads(dump_plan(plan)), "p")
    assert again == plan
    assert not any(c.has_bounds for d in problem_of(plan).demands for c in d.options)
    assert explain(plan).cost_usd_per_hour == pytest.approx(plan.cost_usd_per_hour)
    whole = plan_spec(spec(), replace(REQUEST, sensitivity=True))
    assert plan.sensitivity is not None
    assert whole.sensitivity is not None
    assert (plan.sensitivity.low_usd_per_hour or 0) <= (
        whole.sensitivity.low_usd_per_hour or 0
    ) + 1e-9
    assert (plan.sensitivity.high_usd_per_hour or 1e9) >= (
        whole.sensitivity.high_usd_per_hour or 0
    ) - 1e-9


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_what_was_left_out_is_simulated_from_the_plan_alone(
    confidence: float, kept_estimates: None
) -> None:
    """`explain` and `prices diff` ask of other fleets, and get what a plan of all rates would say."""
    asked = spec(slo={"tpot_ms": 41 + confidence, "ttft_ms": 1500, "attainment": 0.95})
    plan = plan_spec(asked, replace(AS_NEEDED, confidence=confidence))
    assert at_bounds(plan) > 0
    known = with_known_rates(parse_plan(json.loads(dump_plan(plan)), "p"))
    whole = plan_spec(asked, replace(REQUEST, confidence=confidence))
    rates = [
        {
            c.option.name: [[cell.max_rate_rps for cell in row] for row in c.cells]
            for c in candidates
        }
        for candidates in (known.models[0].candidates, whole.models[0].candidates)
    ]
    assert rates[0].keys() == rates[1].keys()
    for name, cells in rates[0].items():
        for mine, theirs in zip(cells, rates[1][name], strict=True):
            assert mine == [None if rate is None else pytest.approx(rate) for rate in theirs]


@pytest.mark.parametrize("n", range(6))
def test_other_traffic_is_judged_by_simulated_rates_too(n: int) -> None:
    """Nearly all requests are of one size: fleets that the plan had no use for serve these best."""
    asked = spec(
        slo={"tpot_ms": 44.5, "ttft_ms": 1500, "attainment": 0.95},
        resources={"accelerators": ["L4", "A10G", "H100", "L40S"], "infra": ["aws", "gcp"]},
    )
    quick = plan_spec(asked, AS_NEEDED)
    assert at_bounds(quick) > 0
    served = quick.models[0].workload
    seen = replace(
        served,
        rates_rps=tuple(
            tuple(rate * (3.0 if (i, j) == divmod(n, 2) else 0.001) for j, rate in enumerate(row))
            for i, row in enumerate(served.rates_rps)
        ),
    )
    judged = judge_traffic(quick, seen, SolveOptions())
    whole = judge_traffic(plan_spec(asked, REQUEST), seen, SolveOptions())
    assert judged.least_usd_per_hour == pytest.approx(whole.least_usd_per_hour)


@pytest.mark.parametrize("over", [{"within_fraction": 0.1}, {"alternatives": 1}])
def test_what_asks_for_more_than_the_least_cost_has_all_simulated(
    over: dict[str, Any], kept_estimates: None
) -> None:
    request = replace(AS_NEEDED, solve=replace(AS_NEEDED.solve, **over))
    assert at_bounds(plan_spec(spec(), request)) == 0


def test_several_models_rest_on_simulated_rates_too() -> None:
    one = spec()
    models = [
        {"name": f"m{n}", **{k: one[k] for k in ("model", "slo", "workload")}} for n in range(3)
    ]
    models[1]["workload"] = {**models[1]["workload"], "rate_rps": 30}
    listed = {
        "name": "t",
        "models": models,
        "resources": {**one["resources"], "limits": {"A10G": 6}},
    }
    quick, whole = plan_spec(listed, AS_NEEDED), plan_spec(listed, REQUEST)
    assert quick.cost_usd_per_hour == pytest.approx(whole.cost_usd_per_hour, rel=1e-9)
    assert fleet(quick) == fleet(whole)


def test_time_that_simulation_takes_is_none_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of which each look takes nothing and each round of simulation half of the limit."""
    now_s, rounds = [0.0], [0]
    simulate = CapacityLookup.simulate

    def slow(self: CapacityLookup, asked: Any) -> None:
        simulate(self, asked)
        now_s[0] += 50.0
        rounds[0] += 1

    monkeypatch.setattr(CapacityLookup, "simulate", slow)
    deadline = Deadline(100.0, lambda: now_s[0])
    request = replace(AS_NEEDED, solve=SolveOptions(deadline=deadline))
    plan = plan_spec(spec(slo={"tpot_ms": 46, "ttft_ms": 1500, "attainment": 0.95}), request)
    assert rounds[0] > 2
    assert at_bounds(plan) > 0
    assert plan.solver.status == "optimal"
    assert not any(warning.code == "time-limit" for warning in plan.warnings)
