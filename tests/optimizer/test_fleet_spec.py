"""One spec that asks for everything at once: planned, explained, rendered, taken by SkyPilot's parser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from melange_sky.cli.explain import explain
from melange_sky.cli.plan import plan
from melange_sky.errors import InfeasibleError
from melange_sky.planfile import load_plan
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan

EVERYTHING = """\
name: everything
models:
  - name: chat
    model: meta-llama/Llama-3.1-8B-Instruct
    slo: {tpot_ms: 60, ttft_ms: 2000}
    workload:
      rate_rps: 20
      histogram: {input_edges: [0, 500], output_edges: [0, 200], weights: [[1.0]]}
  - name: code
    model: Qwen/Qwen2.5-7B-Instruct
    slo: {tpot_ms: 80, ttft_ms: 3000}
    workload:
      rate_rps: 10
      histogram: {input_edges: [0, 500], output_edges: [0, 200], weights: [[1.0]]}
resources:
  accelerators: ["H100:1", "L40S:1"]
  infra: [aws/us-east-1, aws/us-west-2]
  limits: {H100: 2, aws/us-east-1: 4}
  budget_usd_per_hour: 40
  spot: {max_fraction: 0.3, interruption_rate: 0.05, recovery_s: 300}
redundancy: {spare: 1, max_share_per_region: 0.7}
headroom: 0.1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("everything")
    spec = place / "everything.yaml"
    spec.write_text(EVERYTHING, encoding="utf-8")
    done = CliRunner().invoke(
        plan,
        [str(spec), "--offline", "-o", str(place / "plan"), "--time-limit", "10"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    return place / "plan"


def test_the_plan_keeps_every_rule(folder: Path) -> None:
    planned = load_plan(folder)
    assert planned.lists_models
    assert planned.cost_usd_per_hour <= 40
    allocations = [a for model in planned.models for a in model.allocations]
    h100s = sum(a.instances for a in allocations if a.candidate.option.accelerator == "H100")
    assert h100s <= 2
    offers = [(a, a.candidate.option.offer) for a in allocations]
    assert sum(a.instances for a, o in offers if o and o.region == "us-east-1") <= 4
    for model in planned.models:
        rate_rps = model.workload.rate_rps
        spot = sum(a.rate_rps for a in model.allocations if a.candidate.option.use_spot)
        assert spot <= 0.3 * rate_rps * (1 + 1e-6)
        by_region: dict[str, float] = {}
        for a in model.allocations:
            offer = a.candidate.option.offer
            assert offer is not None
            by_region[offer.region] = by_region.get(offer.region, 0.0) + a.rate_rps
        assert max(by_region.values()) <= 0.7 * rate_rps * (1 + 1e-6)
        # One bucket: the rest serves if what is left after the largest loss still has the capacity.
        room = [
            (a.candidate.rate(0, 0) or 0.0) * (1 - planned.headroom) / (1 + 0.05 * 300 / 3600)
            if a.candidate.option.use_spot
            else (a.candidate.rate(0, 0) or 0.0) * (1 - planned.headroom)
            for a in model.allocations
        ]
        total = sum(r * a.instances for r, a in zip(room, model.allocations, strict=True))
        assert total - max(room) >= rate_rps * (1 - 1e-5)


def test_the_plan_is_explained(folder: Path) -> None:
    shown = CliRunner().invoke(
        explain,
        [str(folder / "plan.json"), "--format", "json", "--time-limit", "10"],
        catch_exceptions=False,
    )
    rules = {rule["rule"] for rule in json.loads(shown.stdout)["rules"]}
    assert {
        "the limit of 2 H100 GPUs",
        "the limit of 4 instances on aws/us-east-1",
        "1 spare instance",
        "a share per region of at most 0.7",
        "a share on spot of at most 0.3",
        "the budget of $40/h",
    } <= rules


PARSE = """
import sys
import sky
for path in sys.argv[1:]:
    task = sky.Task.from_yaml(path)
    (resources,) = task.resources
    print(task.service.min_replicas, resources.instance_type, resources.region, resources.use_spot)
"""


def test_each_model_replays_its_own_spot_interruptions(folder: Path) -> None:
    planned = load_plan(folder)
    assert planned.lists_models
    on_spot = [m for m in planned.models if any(a.candidate.option.use_spot for a in m.allocations)]
    assert on_spot
    for model in on_spot:
        told = simulate_plan(model, SimulationRequest(duration_s=60.0)).traffic
        assert told.endswith("0.05 interruptions of 300 s per spot replica and hour"), told


def test_every_service_is_taken_by_skypilot(folder: Path, tmp_path: Path) -> None:
    """In a process of its own with an empty home: importing sky warns and writes."""
    files = sorted(folder.glob("*.sky.yaml"))
    done = subprocess.run(
        [sys.executable, "-c", PARSE, *map(str, files)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
    )
    taken = sorted(done.stdout.split("\n")[:-1])
    planned = load_plan(folder)
    assert planned.lists_models
    expected = []
    for allocation in (a for model in planned.models for a in model.allocations):
        offer = allocation.candidate.option.offer
        assert offer is not None
        spot = allocation.candidate.option.use_spot
        expected.append(f"{allocation.instances} {offer.instance_type} {offer.region} {spot}")
    assert taken == sorted(expected)


TYPES = """\
name: kinds
model: meta-llama/Llama-3.1-8B-Instruct
slo: {{tpot_ms: 60, ttft_ms: 2000}}
workload:
  rate_rps: 24
  histogram: {{input_edges: [0, 500], output_edges: [0, 200], weights: [[1.0]]}}
resources:
  accelerators: ["H100:1", "L40S:1", "L4:1"]
  infra: [aws, gcp]
  {resources}
redundancy: {{{redundancy}}}
"""


def plan_types(folder: Path, resources: str = "", redundancy: str = "") -> Result:
    """Plan with these rules; the plan lies in `folder`."""
    spec = folder / "kinds.yaml"
    spec.write_text(TYPES.format(resources=resources, redundancy=redundancy), encoding="utf-8")
    arguments = [str(spec), "--offline", "-o", str(folder / "plan")]
    return CliRunner().invoke(plan, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    ("resources", "types", "rule"),
    [
        ("use_spot: false", 2, None),
        ("min_option_types: 3", 3, "at least 3 option types"),
        ("max_option_types: 1", 1, "at most 1 option type"),
    ],
)
def test_as_many_option_types_as_asked_for_are_planned_and_priced(
    tmp_path: Path, resources: str, types: int, rule: str | None
) -> None:
    done = plan_types(tmp_path, resources)
    assert done.exit_code == 0, done.stderr
    document = json.loads((tmp_path / "plan" / "plan.json").read_text(encoding="utf-8"))
    assert len(document["allocations"]) == types
    assert all(allocation["rate_rps"] > 0 for allocation in document["allocations"])
    planned = load_plan(tmp_path / "plan")
    told = CliRunner().invoke(explain, [str(tmp_path / "plan"), "--format", "json"])
    rules = json.loads(told.stdout)["rules"]
    if rule is None:
        bounds = (None, 0)
        assert rules == []
    else:
        bounds = (1, 0) if types == 1 else (None, 3)
        assert [(r["rule"], r["binds"]) for r in rules] == [(rule, True)]
    assert (planned.constraints.max_option_types, planned.constraints.min_option_types) == bounds
    keys = document["constraints"]
    assert (keys["max_option_types"], keys["min_option_types"]) == bounds


def test_one_option_type_against_a_share_per_region_is_the_conflict_that_is_told(
    tmp_path: Path,
) -> None:
    clash = "a share per region of at most 0.5 and at most 1 option type cannot be met together"
    with pytest.raises(InfeasibleError, match=clash):
        plan_types(tmp_path, "max_option_types: 1", "max_share_per_region: 0.5")
    assert plan_types(tmp_path, "max_option_types: 2", "max_share_per_region: 0.5").exit_code == 0
