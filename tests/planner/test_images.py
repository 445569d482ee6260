"""Images beside the text of prompts: what they add to a plan, its replay and its checks."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from melange_sky.errors import InputError
from melange_sky.models import find_model
from melange_sky.models.config import with_images
from melange_sky.names.accelerators import find_accelerator
from melange_sky.planfile import load_plan, plan_document
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan
from melange_sky.planner.request import PlanRequest
from melange_sky.pricing import OfferQuery
from melange_sky.profiles import engine_generation
from melange_sky.steps import KvPool, kv_pool
from melange_sky.workload import Images
from tests.factories import make_workload

SEES = "Qwen/Qwen3-VL-8B-Instruct"


def spec_file(
    folder: Path, model: str = SEES, images: str | None = None, longest: int = 400
) -> Path:
    path = folder / "see.yaml"
    line = f"\n  images: {images}" if images else ""
    path.write_text(
        f"name: see\nmodel: {model}\nslo: {{tpot_ms: 80, ttft_ms: 3000}}\nworkload:\n  rate_rps: 4\n"
        f"  histogram: {{input_edges: [0, 100, {longest}], output_edges: [0, 60], weights: [[0.5], [0.5]]}}{line}\n"
        "resources: {accelerators: ['H100:1'], infra: [lambda]}\n",
        encoding="utf-8",
    )
    return path


def planned(path: Path):
    return plan_spec(path, PlanRequest(prices=OfferQuery(offline=True), sensitivity=False))


def test_prompts_gain_their_images_and_buckets_stay_those_of_the_text():
    workload = make_workload(images=Images(per_request=1.5, tokens=401))
    prompts = workload.as_prompts()
    assert prompts.input_edges == tuple(edge + 602 for edge in workload.input_edges)
    assert prompts.input_sizes[1][0] == workload.input_sizes[1][0] + 602
    assert prompts.rates_rps == workload.rates_rps
    assert prompts.as_prompts() == prompts  # counted once
    assert make_workload().as_prompts() == make_workload()


def test_images_cost_capacity_and_the_plan_says_so(tmp_path):
    plain = planned(spec_file(tmp_path)).models[0]
    seeing = planned(spec_file(tmp_path, images="{per_request: 2, tokens: 1000}")).models[0]
    assert seeing.workload.images == Images(per_request=2.0, tokens=1000)
    assert seeing.workload.input_edges == plain.workload.input_edges
    least = seeing.candidates[0].cells[0][0].max_rate_rps
    assert least < 0.5 * plain.candidates[0].cells[0][0].max_rate_rps
    assert seeing.candidates[0].option.engine.max_model_len >= 400 + 60 + 2000


@pytest.mark.parametrize(
    "model", [SEES, "google/gemma-4-26B-A4B", "Qwen/Qwen3.5-27B", "Qwen/Qwen3-VL-30B-A3B-Instruct"]
)
def test_what_sees_is_planned_for_its_text_and_says_how_to_plan_images(tmp_path, model):
    told = [w.message for w in planned(spec_file(tmp_path, model)).warnings if w.code == "model"]
    assert told == [
        (
            f"{model}: the vision input of requests is not planned, only their text; "
            "workload.images: {per_request, tokens} plans images"
        )
    ]


def test_a_plan_keeps_its_images_and_is_replayed_with_them(tmp_path):
    plan = planned(spec_file(tmp_path, images="{per_request: 2, tokens: 1000}"))
    notes = [w.message for w in plan.warnings if w.code == "images"]
    assert len(notes) == 1
    assert "2000 tokens of images beside its text (2 × 1000)" in notes[0]
    assert not any("only their text" in w.message for w in plan.warnings)
    document = plan_document(plan)
    assert document["workload"]["images"] == {"per_request": 2.0, "tokens": 1000}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    (model,) = load_plan(path).models
    assert model.workload == plan.models[0].workload
    replayed = simulate_plan(model, SimulationRequest(duration_s=60.0))
    tokens = replayed.run.log.input_tokens
    assert 2000 < tokens.min() <= tokens.max() <= 2400
    assert replayed.plan == model
    assert {bucket.bucket for bucket in replayed.verdict.buckets} == {(0, 0), (1, 0)}
    bare = replace(model, workload=replace(model.workload, images=None))
    assert np.median(
        simulate_plan(bare, SimulationRequest(duration_s=60.0)).run.log.ttft_s
    ) < np.median(replayed.run.log.ttft_s)


def test_a_trace_gains_its_images(tmp_path):
    plan = planned(spec_file(tmp_path, images="{per_request: 1, tokens: 700}"))
    trace = tmp_path / "trace.csv"
    rows = [f"2024-05-10 00:00:{i:02d}.0000000,{50 + i},20" for i in range(40)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    replayed = simulate_plan(plan.models[0], SimulationRequest(trace=trace))
    assert sorted(replayed.run.log.input_tokens) == [750 + i for i in range(40)]


def test_a_model_that_sees_nothing_takes_no_images(tmp_path):
    path = spec_file(tmp_path, "Qwen/Qwen3-8B", "{per_request: 1, tokens: 1000}")
    with pytest.raises(InputError) as caught:
        planned(path)
    assert str(caught.value) == (
        f"{path}:7: workload.images: Qwen/Qwen3-8B takes no images: its config describes no vision encoder; "
        "leave images out"
    )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("{per_request: 0, tokens: 1000}", "workload.images.per_request"),
        ("{per_request: 1, tokens: 0.5}", "workload.images.tokens"),
        ("{per_request: 1}", "tokens"),
        ("{per_request: 1, token: 9, tokens: 9}", "token"),
        ("[1, 2]", "workload.images"),
    ],
)
def test_wrong_images_are_named(tmp_path, images, message):
    with pytest.raises(InputError, match=message) as caught:
        planned(spec_file(tmp_path, images=images))
    assert f"{tmp_path / 'see.yaml'}:7" in str(caught.value)


def test_a_context_holds_text_and_images(tmp_path):
    context = find_model(SEES).context_tokens
    plan = planned(spec_file(tmp_path, images="{per_request: 1, tokens: 200}", longest=400))
    assert plan.models[0].candidates[0].cells[1][0].max_rate_rps
    config = dataclasses.replace(find_model(SEES), context_tokens=context)
    assert config.context_tokens == context
    with pytest.raises(Exception, match=f"exceed the model's context of {context}"):
        planned(spec_file(tmp_path, images=f"{{per_request: 1, tokens: {context}}}"))


def test_the_encoder_keeps_memory():
    model, generation = find_model(SEES), engine_generation("vllm")
    card = find_accelerator("L40S")
    pools = [
        kv_pool(shape, card, 1, generation)
        for shape in (model, with_images(model, 1000), with_images(model, 50_000))
    ]
    assert all(isinstance(pool, KvPool) for pool in pools)
    assert pools[0].blocks > pools[1].blocks > pools[2].blocks
    assert with_images(model, 1000).notes == ()
