"""What stands in the rendered files, and what must not depend on anything but model and option."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.engines import DEFAULT_ENGINE, EngineChoice
from melange_sky.errors import InputError
from melange_sky.models import find_model
from melange_sky.plans import Allocation, ModelPlan, Plan
from melange_sky.plans.reuse import PlannedReuse
from melange_sky.rendering import (
    launch_command,
    render_services,
    required_secrets,
    service_document,
    service_name,
    unservable_clouds,
)
from melange_sky.rendering.names import SERVICE_NAME_PATTERN
from tests.factories import make_model_plan, make_offer, make_option, make_plan
from tests.rendering.test_sky_accepts import allocate, plan_of

A10G = make_offer()


def without_service(plan: Plan) -> list[dict[str, Any]]:
    documents = [yaml.safe_load(text) for text in render_services(plan).values()]
    for document in documents:
        del document["service"]
    return documents


def test_two_plans_with_one_option_differ_in_replicas_only() -> None:
    before = plan_of(allocate(A10G, 3), created_at="2026-11-01T00:00:00Z")
    busier = dataclasses.replace(allocate(A10G, 7), load_fraction=0.9, rate_rps=31.0)
    after = plan_of(busier, created_at="2026-12-24T00:00:00Z", price_snapshot="live")
    assert list(render_services(before)) == list(render_services(after))
    assert without_service(before) == without_service(after)
    first, second = (service_document(*_first(p))["service"] for p in (before, after))
    assert first.pop("replicas") == 3 and second.pop("replicas") == 7
    assert first == second


def test_a_price_move_between_regions_changes_no_replica() -> None:
    east, west = make_offer(), make_offer(region="us-west-2", price_usd_per_hour=1.01)
    before = plan_of(allocate(east, name="x", fallbacks=(west,)))
    cheaper_west = dataclasses.replace(west, price_usd_per_hour=1.0)
    after = plan_of(allocate(cheaper_west, name="x", fallbacks=(east,)))
    assert without_service(before) == without_service(after)
    resources = without_service(before)[0]["resources"]
    assert resources["any_of"] == [{"infra": "aws/us-east-1"}, {"infra": "aws/us-west-2"}]
    assert "$1.01/h (aws/us-west-2)" in next(iter(render_services(before).values()))


def test_nothing_there_that_makes_an_update_replace_replicas() -> None:
    for document in without_service(plan_of(allocate(A10G))):
        assert not {"file_mounts", "workdir", "num_nodes"} & set(document)
        assert document["_metadata"]["git_commit"] == "not-recorded"
        assert "labels" not in document["resources"]


def test_services_of_listed_models_name_their_plan() -> None:
    plan = plan_of(allocate(A10G))
    (alone,) = (yaml.safe_load(text) for text in render_services(plan).values())
    listed = dataclasses.replace(plan, name="both", lists_models=True)
    (shared,) = (yaml.safe_load(text) for text in render_services(listed).values())
    assert "fleet" not in alone["_metadata"]["melange_sky"]
    assert shared["_metadata"]["melange_sky"].pop("fleet") == "both"
    assert alone == shared


def test_same_plan_same_bytes() -> None:
    assert render_services(make_plan()) == render_services(make_plan())


def test_header_tells_price_source_and_command() -> None:
    plan = plan_of(allocate(A10G, 3))
    (text,) = render_services(plan).values()
    head = text.partition("\nname:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "embedded, as of 2026-09-01" in head
    assert "$1.006/h each, $3.018/h in all" in head
    assert launch_command(*_first(plan)) in head
    assert launch_command(*_first(plan)).endswith("--secret HF_TOKEN")
    assert required_secrets(plan.models[0], plan.models[0].allocations[0].candidate.option) == (
        "HF_TOKEN",
    )


def test_spot_has_an_on_demand_bridge_and_tells_its_price() -> None:
    plan = plan_of(allocate(A10G, 3, use_spot=True))
    (text,) = render_services(plan).values()
    document = yaml.safe_load(text)
    assert document["resources"]["use_spot"] is True
    assert document["service"]["replica_policy"] == {
        "min_replicas": 3,
        "max_replicas": 3,
        "dynamic_ondemand_fallback": True,
    }
    assert "replicas" not in document["service"]
    assert "$0.4/h each" in text and "at most $1.006/h" in text


def test_virtual_clouds_ask_for_what_the_offer_has() -> None:
    offer = make_offer(cloud="slurm", region="lab", instance_type="", vcpus=2, memory_gib=4)
    (document,) = without_service(plan_of(allocate(offer, name="lab")))
    assert document["resources"] == {
        "infra": "slurm/lab",
        "accelerators": "A10G:1",
        "use_spot": False,
        "ports": 8000,
        "cpus": "2+",
        "memory": "4+",
    }


def test_free_labels_are_not_rendered() -> None:
    first = make_model_plan().allocations[0]
    candidate = dataclasses.replace(first.candidate, option=make_option(offer=None))
    allocation = dataclasses.replace(first, candidate=candidate)
    assert render_services(make_plan(allocations=(allocation,))) == {}


def test_the_users_flags_come_last_and_setup_first() -> None:
    choice = EngineChoice(
        version="0.31.0", args=("--quantization", "fp8"), env=(("A", "1"),), setup="echo hello"
    )
    document = service_document(*_first(plan_of(allocate(A10G), engine=choice)))
    assert document["run"].rstrip().endswith("--quantization fp8")
    assert document["setup"].startswith("echo hello\nrequirement=vllm==0.31.0 pinned=yes\n")
    assert document["envs"] == {"A": "1"}


def test_an_asked_length_stands_once_in_the_command() -> None:
    choice = EngineChoice(args=("--max-model-len", "8k", "--seed", "1", "--max_model_len=9000"))
    run = service_document(*_first(plan_of(allocate(A10G), engine=choice)))["run"]
    assert run.count("max-model-len") == 1 and "max_model_len" not in run
    assert run.rstrip().endswith("--seed 1")


def test_disk_and_delay_are_of_what_is_downloaded() -> None:
    """A 70B model is 141 GB on Hugging Face, whatever vLLM makes of it while it loads."""
    big = find_model("meta-llama/Llama-3.1-70B-Instruct")
    plain, fp8 = (
        service_document(*_first(plan_of(allocate(A10G), model_shape=shape)))
        for shape in (big, DEFAULT_ENGINE.held(big, ["-q", "fp8"]))
    )
    assert plain["resources"]["disk_size"] == fp8["resources"]["disk_size"] == 250
    probes = [service["service"]["readiness_probe"] for service in (plain, fp8)]
    assert probes[0] == probes[1]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (EngineChoice(args=("-tp", "8")), "--tensor-parallel-size cannot be given here; the plan"),
        (EngineChoice(args=("--data_parallel_size=2",)), "--data-parallel-size cannot be given"),
        (EngineChoice(args=("--api-key", "x")), "VLLM_API_KEY"),
        (EngineChoice(args=("--api_key=x",)), "VLLM_API_KEY"),
        (EngineChoice(args=("--port", "1")), "--port"),
        (EngineChoice(env=(("HF_TOKEN", "hf_x"),)), "--secret HF_TOKEN"),
        (EngineChoice(env=(("A B", "x"),)), "environment variable"),
        (EngineChoice(env=(("SKYPILOT_X", "x"),)), "SkyPilot"),
        (EngineChoice(env=(("A", "x\0y"),)), "NUL"),
        (EngineChoice(args=("\ud800",)), "Unicode"),
        (EngineChoice(version="1; rm -rf /"), "engine.version"),
    ],
)
def test_what_cannot_be_carried_is_refused(choice: EngineChoice, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        render_services(plan_of(allocate(A10G), engine=choice))
    assert "hf_x" not in str(caught.value)


@pytest.mark.parametrize("model", ["", "-h", "--help", "a\0b"])
def test_a_model_name_that_is_a_flag_is_refused(model: str) -> None:
    with pytest.raises(InputError):
        render_services(plan_of(allocate(A10G), model=model))


@pytest.mark.parametrize("name", ["", "1chat", "chat-", "a b", "x" * 41, "$(id)"])
def test_plan_name_must_be_a_service_name(name: str) -> None:
    with pytest.raises(InputError, match="SkyServe"):
        render_services(plan_of(allocate(A10G), name=name))


@given(names=st.sets(st.text(min_size=1, max_size=80), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_service_names_are_valid_and_unique(names: set[str]) -> None:
    (model,) = plan_of(*(allocate(A10G, name=name) for name in sorted(names))).models
    services = [service_name(model, allocation) for allocation in model.allocations]
    assert len(set(services)) == len(names)
    assert all(SERVICE_NAME_PATTERN.fullmatch(s) and len(s) <= 85 for s in services)


def test_clouds_without_ports_have_a_reason() -> None:
    assert "slurm" in unservable_clouds() and "aws" not in unservable_clouds()


def _first(plan: Plan) -> tuple[ModelPlan, Allocation]:
    (model,) = plan.models
    return model, model.allocations[0]


@pytest.mark.parametrize(
    ("engine", "flag"),
    [("vllm", "--enable-prompt-tokens-details"), ("sglang", "--enable-cache-report")],
)
def test_replicas_say_what_they_cached_where_the_plan_counts_on_it(engine: str, flag: str) -> None:
    reuse = PlannedReuse(affinity="session", hits=())
    choice = EngineChoice(name=engine)
    plan = plan_of(allocate(A10G, 1), engine=choice)
    counting = plan_of(allocate(A10G, 1), engine=choice, reuse=reuse)
    asked = plan_of(
        allocate(A10G, 1), engine=dataclasses.replace(choice, args=(flag,)), reuse=reuse
    )
    texts = ["".join(render_services(one).values()) for one in (plan, counting, asked)]
    assert [text.count(flag) for text in texts] == [0, 1, 1]
