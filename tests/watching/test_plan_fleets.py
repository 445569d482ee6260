"""The fleets of a plan: what they hold in replay, and where replay has no say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import melange_sky
from melange_sky.capacities import OptionCapacity, Origin
from melange_sky.constraints import InstanceGroup
from melange_sky.errors import MelangeError
from melange_sky.planfile import load_plan
from melange_sky.planner.plan_files import write_plan
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan
from melange_sky.planner.watching import proven
from melange_sky.planner.watching.plan_fleets import PlanFleets
from melange_sky.planner.watching.target import target_plan
from melange_sky.plans import Plan
from melange_sky.settings import estimates_dir
from melange_sky.watching.fleets import Counts

SPEC = """\
name: w
model: meta-llama/Llama-3.1-8B-Instruct
slo: {tpot_ms: 60, ttft_ms: 2000}
workload: {rate_rps: 6, distribution: short-chat}
resources: {accelerators: [L4, A10G], infra: aws}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    spec = tmp_path_factory.mktemp("fleets") / "w.yaml"
    spec.write_text(SPEC)
    return melange_sky.plan(spec, offline=True)


def named(fleets: PlanFleets, fleet: Counts) -> dict[str, int]:
    return {name: n for name, n in zip(fleets.options, fleet, strict=True) if n}


def chosen(fleets: PlanFleets, rate_rps: float) -> Counts:
    found = fleets.cheapest(rate_rps)
    assert found is not None
    return found


def test_a_fleet_holds_its_rate_in_replay_and_little_more(plan: Plan) -> None:
    fleets = PlanFleets(plan)
    fleet = chosen(fleets, 6.0)
    rate = fleets.rate(fleet)
    assert fleets.origin(fleet) == "replayed"
    assert rate > fleets.planned_rate(fleet) * 1.05  # chance evens out, and no headroom is kept
    (model,) = target_plan(fleets, named(fleets, fleet), 1e9).models
    assert model.workload.rate_rps == pytest.approx(rate, rel=1e-4)
    asked = SimulationRequest(until_sure=True, ci=0.02)
    assert simulate_plan(model, asked).verdict.attainment >= 0.95
    much = simulate_plan(model, replace(asked, rate_scale=1.15)).verdict
    assert much.attainment < 0.95


def test_the_cheapest_is_enough_and_costs_no_more_than_by_the_plans_rates(plan: Plan) -> None:
    fleets, careful = PlanFleets(plan), PlanFleets(replace(plan, confidence=0.6))
    before = 0.0
    for rate in (0.5, 3.0, 6.0, 11.0, 20.0):
        fleet = chosen(fleets, rate)
        assert fleets.rate(fleet) >= rate
        assert before <= fleets.cost(fleet) <= careful.cost(chosen(careful, rate))
        before = fleets.cost(fleet)
        more = fleets.grown(fleet, rate * 1.5)
        assert more is not None and fleets.rate(more) >= rate * 1.5
        assert all(a >= b for a, b in zip(more, fleet, strict=True))
        less = fleets.shrunk(more, rate)
        assert less is not None and fleets.rate(less) >= rate


def test_caution_and_figures_that_were_seen_go_before_replay(plan: Plan) -> None:
    careful = PlanFleets(replace(plan, confidence=0.6))
    fleet = chosen(careful, 6.0)
    assert careful.origin(fleet) == "planned"
    assert careful.rate(fleet) == careful.planned_rate(fleet)
    (model,) = plan.models
    seen = replace(model, candidates=tuple(_observed(c) for c in model.candidates))
    observed = PlanFleets(replace(plan, models=(seen,)))
    assert observed.origin(fleet) == "planned"
    assert observed.rate(fleet) == observed.planned_rate(fleet)


def test_what_is_paid_for_is_never_spared(plan: Plan) -> None:
    option = plan.models[0].allocations[0].candidate.option
    paid = InstanceGroup(accelerator=option.accelerator, instances=2)
    fleets = PlanFleets(replace(plan, constraints=replace(plan.constraints, fixed=(paid,))))
    k = fleets.options.index(option.name)
    held = tuple(4 * (n == k) for n in range(len(fleets.options)))
    two = tuple(2 * (n == k) for n in range(len(fleets.options)))
    assert fleets.kept(held) == fleets.shrunk(held, 0.01) == two
    assert fleets.cost(two) == 0.0 < fleets.cost(held)


def _observed(candidate: OptionCapacity) -> OptionCapacity:
    cells = tuple(
        tuple(replace(c, origin=Origin.OBSERVED) if c.max_rate_rps else c for c in row)
        for row in candidate.cells
    )
    return replace(candidate, cells=cells)


def test_what_was_replayed_is_kept_by_content(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    first = PlanFleets(plan)
    fleet = chosen(first, 6.0)
    rate = first.rate(fleet)
    first.save()
    asked: list[object] = []
    monkeypatch.setattr(proven, "find_knee", lambda *given: asked.append(given))
    assert PlanFleets(plan).rate(fleet) == rate
    assert not asked
    (model,) = plan.models
    other = replace(model, slo=replace(model.slo, attainment=0.9))
    again = PlanFleets(replace(plan, models=(other,)))
    assert again.rate(fleet) == again.planned_rate(fleet)  # replay tells nothing here
    assert asked


def test_a_damaged_cache_costs_time_and_no_answer(plan: Plan) -> None:
    first = PlanFleets(plan)
    fleet = chosen(first, 6.0)
    rate = first.rate(fleet)
    first.save()
    for path in estimates_dir().glob("fleets-*.json"):
        path.write_text('{"[[": "no number"}')
    assert PlanFleets(plan).rate(fleet) == rate


def test_spare_instances_are_lost_before_a_fleet_is_replayed(plan: Plan) -> None:
    rules = replace(plan.constraints, spare=1)
    spared = PlanFleets(replace(plan, constraints=rules))
    fleet = chosen(spared, 6.0)
    whole = PlanFleets(plan)
    least = min(
        whole.rate(tuple(n - (j == k) for j, n in enumerate(fleet)))
        for k, count in enumerate(fleet)
        if count
    )
    assert spared.rate(fleet) == least >= 6.0
    assert spared.origin(fleet) == "replayed"


def test_a_plan_above_the_planned_rate_is_a_plan(plan: Plan, tmp_path: Path) -> None:
    fleets = PlanFleets(plan)
    fleet = chosen(fleets, 6.0)
    rate = (fleets.planned_rate(fleet) + fleets.rate(fleet)) / 2
    written = target_plan(fleets, named(fleets, fleet), rate)
    write_plan(written, tmp_path / "plan")
    (model,) = load_plan(tmp_path / "plan").models
    assert sum(a.rate_rps for a in model.allocations) == pytest.approx(rate, rel=1e-4)
    assert model.workload.rate_rps == pytest.approx(rate, rel=1e-4)
    with pytest.raises(MelangeError, match="serves nothing"):
        target_plan(fleets, {}, rate)


def test_replicas_that_a_rule_asks_for_never_leave_a_rate_without_a_fleet(tmp_path: Path) -> None:
    spec = tmp_path / "w.yaml"
    spec.write_text(SPEC + "redundancy: {min_replicas: 3}\n")
    fleets = PlanFleets(melange_sky.plan(spec, offline=True))
    for rate in (1.0, 4.0, 7.0, 12.0):  # an L4 beside others is asked for more than it holds
        fleet = chosen(fleets, rate)
        assert sum(fleet) >= 3 and fleets.rate(fleet) >= rate


def test_a_part_of_a_fleet_has_a_rate_whatever_the_plan_must_have(tmp_path: Path) -> None:
    for rule in ("minimum", "fixed"):
        spec = tmp_path / f"{rule}.yaml"
        groups = f'{rule}: [{{accelerators: "A10G:1", instances: 2}}]'
        spec.write_text(SPEC.replace("infra: aws}", f"infra: [aws], {groups}}}"))
        fleets = PlanFleets(melange_sky.plan(spec, offline=True))
        for k, name in enumerate(fleets.options):
            if name.startswith("l4-1-") and "g6.xlarge" in name:
                assert fleets.rate(tuple(4 * (j == k) for j in range(len(fleets.options)))) > 0
