"""SkyPilot itself reads the rendered files: its parser, its service spec, its optimizer's dry run."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from melange_sky.engines import ENGINES, EngineChoice, Replica
from melange_sky.models import find_model
from melange_sky.plans import Allocation, ModelPlan, Plan
from melange_sky.rendering import render_services, service_name, unservable_clouds
from tests.factories import make_capacity, make_engine, make_offer, make_option, make_plan
from tests.skycatalog import write_catalogs

JUDGE = Path(__file__).with_name("sky_judge.py")

A10G = make_offer()
DEARER = make_offer(region="eu-west-1", price_usd_per_hour=1.122, spot_usd_per_hour=0.5)
TIED = make_offer(region="us-west-2")
BIG = make_offer(
    instance_type="p5.48xlarge",
    accelerator="H100",
    accelerator_count=8,
    price_usd_per_hour=55.04,
    spot_usd_per_hour=22.0,
    vcpus=192,
    memory_gib=2048,
)
GCP = make_offer(
    cloud="gcp",
    region="us-central1",
    instance_type="a2-ultragpu-1g",
    accelerator="A100-80GB",
    price_usd_per_hour=5.0688,
    spot_usd_per_hour=2.0,
    vcpus=12,
    memory_gib=170,
)
LAMBDA = make_offer(
    cloud="lambda",
    region="us-east-1",
    instance_type="gpu_1x_a100_sxm4",
    accelerator="A100",
    price_usd_per_hour=1.29,
    spot_usd_per_hour=None,
    vcpus=30,
    memory_gib=200,
)
RUNPOD = make_offer(
    cloud="runpod",
    region="US",
    instance_type="1x_L4_SECURE",
    accelerator="L4",
    price_usd_per_hour=0.43,
    spot_usd_per_hour=0.3,
    vcpus=12,
    memory_gib=50,
)
RUNPOD_SXM = make_offer(
    cloud="runpod",
    region="US",
    instance_type="1x_H100-SXM_SECURE",
    accelerator="H100-SXM",
    price_usd_per_hour=2.69,
    spot_usd_per_hour=1.75,
    vcpus=20,
    memory_gib=125,
)
AZURE = make_offer(
    cloud="azure",
    region="eastus",
    instance_type="Standard_NC24ads_A100_v4",
    accelerator="A100-80GB",
    price_usd_per_hour=3.673,
    spot_usd_per_hour=0.9,
    vcpus=24,
    memory_gib=220,
)


def allocate(offer: Any, instances: int = 1, **over: Any) -> Allocation:
    use_spot = over.get("use_spot", False)
    values = {
        "accelerator": offer.accelerator,
        "accelerator_count": int(offer.accelerator_count),
        "price_usd_per_hour": offer.price(use_spot),
        "offer": offer,
    }
    name = over.pop("name", f"{offer.accelerator}-{offer.cloud}-{offer.instance_type}".lower())
    option = make_option(name, **(values | over))
    return Allocation(
        candidate=make_capacity([[4.0, 2.0], [1.0, 1.0]], option),
        instances=instances,
        load_fraction=0.5,
        rate_rps=1.0,
        shares=((1.0, 1.0), (1.0, 0.0)),
    )


def plan_of(*allocations: Allocation, **over: Any) -> Plan:
    return make_plan(
        allocations=allocations, candidates=tuple(a.candidate for a in allocations), **over
    )


PLAN = plan_of(
    allocate(A10G, 3),
    allocate(A10G, 2, name="spread", fallbacks=(DEARER,)),
    allocate(A10G, 2, name="tied", fallbacks=(TIED, DEARER)),
    allocate(A10G, 4, name="spot", use_spot=True),
    allocate(A10G, 4, name="spot-spread", use_spot=True, fallbacks=(DEARER,)),
    allocate(BIG, 1, engine=make_engine(tensor_parallel=2, data_parallel=4)),
    allocate(
        BIG,
        1,
        name="two-nodes",
        price_usd_per_hour=2 * 55.04,
        engine=make_engine(tensor_parallel=8, pipeline_parallel=2, nodes=2),
    ),
    allocate(GCP, 1),
    allocate(LAMBDA, 5),
    allocate(RUNPOD, 1),
    allocate(RUNPOD_SXM, 1, figures="H100"),
    allocate(AZURE, 2),
    engine=EngineChoice(
        args=("--kv-cache-dtype", "fp8"), env=(("NOTE", 'it\'s "$HOME" $(id)\n; 100 %'),)
    ),
)
MODEL = PLAN.models[0]
OTHERS = {
    name: plan_of(allocate(A10G, 2), name=f"chat-{name}", engine=EngineChoice(name=name))
    for name in ENGINES
    if name != MODEL.engine.name
}
"""A plan for every other engine: its own template is read by SkyPilot too."""
MOE = find_model("mistralai/Mixtral-8x7B-Instruct-v0.1")
SPLITS = {
    "servers": make_engine(tensor_parallel=2, data_parallel=4),
    "spread": make_engine(tensor_parallel=1, data_parallel=8, expert_parallel=True),
}
"""Ways to run a mixture of experts on eight GPUs."""
MIXED = plan_of(
    *(allocate(BIG, 1, name=name, engine=engine) for name, engine in SPLITS.items()),
    name="mixed",
    model="mistralai/Mixtral-8x7B-Instruct-v0.1",
    model_shape=MOE,
)


def ask_sky(script: Path, home: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Return what a script that loads SkyPilot, in a home of its own, says of a request: its line of JSON."""
    done = subprocess.run(
        [sys.executable, str(script)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        },
    )
    mark = "ANSWER "
    lines = [line for line in done.stdout.splitlines() if line.startswith(mark)]
    assert done.returncode == 0 and lines, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(lines[0].removeprefix(mark))
    return told


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("skyhome")
    write_catalogs(home, [A10G, DEARER, TIED, BIG, GCP, LAMBDA, RUNPOD, RUNPOD_SXM, AZURE])
    request = {
        "clouds": ["aws", "gcp", "lambda", "runpod", "azure"],
        "files": {
            name: text
            for plan in (PLAN, MIXED, *OTHERS.values())
            for name, text in render_services(plan).items()
        },
    }
    return ask_sky(JUDGE, home, request)


@pytest.fixture(scope="module")
def verdicts(answer: dict[str, Any]) -> dict[str, Any]:
    files: dict[str, Any] = answer["files"]
    return files


def test_clouds_that_cannot_open_ports_are_known(answer: dict[str, Any]) -> None:
    assert sorted(unservable_clouds()) == answer["closed"]


@pytest.mark.parametrize("index", range(len(MODEL.allocations)))
def test_dry_run_chooses_what_was_planned(verdicts: dict[str, Any], index: int) -> None:
    allocation = MODEL.allocations[index]
    option = allocation.candidate.option
    assert option.offer is not None
    got = verdicts[f"{service_name(MODEL, allocation)}.sky.yaml"]
    assert got["name"] == service_name(MODEL, allocation)
    assert got["cloud"] == option.offer.cloud
    # SkyPilot keeps `any_of` as a set: among regions of exactly one price it takes any.
    assert got["region"] in [
        offer.region
        for offer in (option.offer, *option.fallbacks)
        if option.price_in(offer) == option.price_usd_per_hour
    ]
    assert got["instance_type"] == option.offer.instance_type
    assert got["accelerators"] == {option.accelerator: option.accelerator_count}
    assert got["price_usd_per_hour"] == pytest.approx(option.price_usd_per_hour, rel=1e-9)
    assert got["use_spot"] == option.use_spot
    assert got["num_nodes"] == option.nodes


@pytest.mark.parametrize("index", range(len(MODEL.allocations)))
def test_service_as_sky_reads_it(verdicts: dict[str, Any], index: int) -> None:
    allocation = MODEL.allocations[index]
    got = verdicts[f"{service_name(MODEL, allocation)}.sky.yaml"]
    assert got["min_replicas"] == allocation.instances
    assert got["max_replicas"] in (None, allocation.instances)
    assert got["fallback"] == allocation.candidate.option.use_spot
    assert got["readiness_path"] == "/health"
    assert got["initial_delay_s"] >= 1200
    assert got["stream_timeout_s"] >= 600
    assert got["policy"] == "least_load"
    assert got["service_ports"] == "8000" and got["resources_ports"] == ["8000"]
    assert got["managed_secrets"] == ["HF_TOKEN"]
    assert got["envs"] == {"NOTE": 'it\'s "$HOME" $(id)\n; 100 %'}
    assert not got["file_mounts"]
    assert got["metadata"] == {
        "git_commit": "not-recorded",
        "melange_sky": {"plan": "chat", "option": allocation.candidate.option.name},
    }


@pytest.mark.parametrize("engine", OTHERS)
def test_the_template_of_every_engine_is_a_service(verdicts: dict[str, Any], engine: str) -> None:
    model = OTHERS[engine].models[0]
    got = verdicts[f"{service_name(model, model.allocations[0])}.sky.yaml"]
    assert (got["cloud"], got["instance_type"]) == ("aws", "g5.xlarge")
    assert got["readiness_path"] == ENGINES[engine].health_path
    assert got["service_ports"] == "8000" and got["resources_ports"] == ["8000"]
    assert got["policy"] == "least_load" and got["min_replicas"] == 2
    assert got["managed_secrets"] == ["HF_TOKEN"] and not got["file_mounts"]
    assert (
        got["run"]
        .rstrip()
        .endswith(ENGINES[engine].serve_command(replica_of(model)).as_shell().rstrip())
    )


@pytest.mark.parametrize("index", range(len(SPLITS)))
def test_the_ways_of_a_mixture_of_experts_are_services(
    verdicts: dict[str, Any], index: int
) -> None:
    model = MIXED.models[0]
    allocation = model.allocations[index]
    got = verdicts[f"{service_name(model, allocation)}.sky.yaml"]
    assert got["instance_type"] == "p5.48xlarge" and got["num_nodes"] == 1
    command = ENGINES[model.engine.name].serve_command(replica_of(model, index))
    assert got["run"].rstrip().endswith(command.as_shell().rstrip())
    assert ("install haproxy" in got["setup"]) == (command.servers is not None)
    assert (command.servers is not None) == (allocation.candidate.option.name == "servers")


def replica_of(model: ModelPlan, index: int = 0) -> Replica:
    option = model.allocations[index].candidate.option
    return Replica(
        model=model.model, choice=model.engine, option=option, shape=model.model_shape, port=8000
    )


def test_no_gated_model_needs_no_token() -> None:
    assert MODEL.model_shape is not None
    shape = dataclasses.replace(MODEL.model_shape, gated=False)
    open_model = dataclasses.replace(MODEL, model_shape=shape)
    for text in render_services(dataclasses.replace(PLAN, models=(open_model,))).values():
        assert "HF_TOKEN" not in text
