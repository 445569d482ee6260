"""A model in several forms: checkpoints of it, and quantizations, each an option of its own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from melange_sky.errors import InputError
from melange_sky.gateway.seating import served_names
from melange_sky.optimizer import SolveOptions
from melange_sky.planfile import dump_plan, parse_plan
from melange_sky.planner.checkpoints import form_labels, form_name
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.request import PlanRequest
from melange_sky.plans import Plan
from melange_sky.pricing import OfferQuery
from melange_sky.profiletable import ProfileTable, Provenance, write_table
from melange_sky.rendering import serve_command
from melange_sky.spec import CheckpointChoice
from tests.factories import LLAMA_CONFIG, make_measured

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
SMALL = {
    "rate_rps": 20,
    "histogram": {"input_edges": [0, 1000], "output_edges": [0, 100], "weights": [[1.0]]},
}
PAYS = {**SMALL, "rate_rps": 1}  # an L4 alone serves it in 8 bits, and cannot in 16
PAYS_NOT = {**SMALL, "rate_rps": 5}  # one A100 serves it in 16 bits, and in 8 it serves less
FULL = PlanRequest(prices=OfferQuery(offline=True))
OFFLINE = PlanRequest(prices=OfferQuery(offline=True), sensitivity=False)


@pytest.fixture
def hub_models(hub: Any) -> Any:
    """A model, three checkpoints of it and another model, kept so that no network is asked."""
    from melange_sky.hub.models import pull
    from melange_sky.hub.reference import ModelReference
    from melange_sky.settings import home_dir

    for number, (name, over) in enumerate(
        {
            "org/Own-8B": {},
            "org/Own-8B-FP8": {"quantization_config": FP8},
            "org/Own-8B-AWQ": {"quantization_config": AWQ},
            "org/Other-8B": {"num_hidden_layers": 30},
        }.items()
    ):
        config = json.dumps({**LLAMA_CONFIG, **over}).encode()
        hub.put(name, {"config.json": config}, commit=f"{number:040x}")
        pull(ModelReference(name), home_dir(), offline=False)
    return hub


def spec(folder: Path, **over: Any) -> Path:
    document = {
        "name": "own",
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "slo": {"tpot_ms": 60, "ttft_ms": 2000},
        "workload": SMALL,
        "resources": {"accelerators": ["L4:1", "A100-80GB:1", "H100:1"]},
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(document | over, sort_keys=False), encoding="utf-8")
    return path


def planned(path: Path) -> Plan:
    return plan_spec(path, OFFLINE)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as told:
        planned(path)
    text = str(told.value)
    assert "\n" not in text
    return text.removeprefix(str(path))


@pytest.mark.usefixtures("kept_estimates")
def test_each_quantization_is_an_option_with_capacities_of_its_own(tmp_path: Path) -> None:
    plan = planned(spec(tmp_path, engine={"quantization": ["none", "fp8"]}))
    (model,) = plan.models
    rates = {c.option.name: c.rate(0, 0) for c in model.candidates}
    plain = [name for name in rates if not name.endswith("-fp8")]
    assert len(plain) * 2 == len(rates)
    assert all(rates[f"{name}-fp8"] != rates[name] for name in plain)
    (form,) = model.forms
    assert (form.name, form.quantization, form.checkpoint) == ("fp8", "fp8", model.model)
    assert model.model_shape is not None
    assert form.shape.weight_bytes < 0.6 * model.model_shape.weight_bytes
    alone = planned(spec(tmp_path, engine={"quantization": "fp8"})).models[0]
    assert {c.option.name: c.rate(0, 0) for c in alone.candidates} == {
        name: rates[f"{name}-fp8"] for name in plain
    }
    assert alone.engine.args == ("--quantization", "fp8")
    assert alone.forms == ()


@pytest.mark.usefixtures("kept_estimates")
def test_a_choice_costs_no_more_than_any_of_its_forms(tmp_path: Path) -> None:
    both, plain, small = (
        planned(spec(tmp_path, engine={"quantization": words})).cost_usd_per_hour
        for words in (["none", "fp8"], "none", "fp8")
    )
    assert both <= min(plain, small) + 1e-9


@pytest.mark.usefixtures("kept_estimates", "hub_models")
def test_checkpoints_of_a_list_serve_under_the_first_name(tmp_path: Path) -> None:
    plan = planned(spec(tmp_path, model=["org/Own-8B", "org/Own-8B-FP8", "org/Own-8B-AWQ"]))
    (model,) = plan.models
    assert model.model == "org/Own-8B"
    assert served_names(model) == ["org/Own-8B"]
    assert [(f.name, f.checkpoint, f.shape.dtype) for f in model.forms] == [
        ("fp8", "org/Own-8B-FP8", "fp8"),
        ("awq", "org/Own-8B-AWQ", "awq"),
    ]
    assert {c.option.form for c in model.candidates} == {None, "fp8", "awq"}
    for candidate in model.candidates:
        option = candidate.option
        command = serve_command(model, option).as_shell()
        checkpoint = model.checkpoint_of(option)
        number = ["org/Own-8B", "org/Own-8B-FP8", "org/Own-8B-AWQ"].index(checkpoint)
        assert f"vllm serve {checkpoint} \\\n" in command
        assert f"--revision {number:040x}" in command
        assert ("--served-model-name org/Own-8B" in command) is (number > 0)
    document = json.loads(dump_plan(plan))
    assert all(a["checkpoint"].startswith("org/Own-8B") for a in document["allocations"])
    assert parse_plan(document, "plan.json") == plan


@pytest.mark.usefixtures("hub_models")
def test_what_does_not_go_together_is_one_line(tmp_path: Path) -> None:
    other = spec(tmp_path, model=["org/Own-8B", "org/Other-8B"])
    assert refusal(other) == (
        ":4: model[1]: org/Other-8B is no checkpoint of org/Own-8B: layers 30 against 32; "
        "list another model under models"
    )
    flag = spec(
        tmp_path, model=["org/Own-8B", "org/Own-8B-FP8"], engine={"args": ["--revision", "v1"]}
    )
    assert "write it behind the one that it is of: org/Own-8B@v1" in refusal(flag)
    awq = spec(tmp_path, model="org/Own-8B-AWQ", engine={"quantization": "fp8"})
    assert refusal(awq).endswith(
        "engine.quantization: --quantization: fp8 cannot serve this checkpoint, whose weights are kept as awq"
    )
    online = spec(tmp_path, engine={"quantization": ["none", "awq"]})
    assert "engine.quantization: --quantization: awq needs a checkpoint stored in" in refusal(
        online
    )


@pytest.mark.usefixtures("kept_estimates", "hub_models")
def test_a_quantized_checkpoint_is_no_choice_of_another_quantization(tmp_path: Path) -> None:
    models = ["org/Own-8B", "org/Own-8B-AWQ"]
    plan = planned(spec(tmp_path, model=models, engine={"quantization": ["none", "fp8"]}))
    assert [f.name for f in plan.models[0].forms] == ["fp8", "awq"]
    told = [w.message for w in plan.warnings if w.code == "form"]
    assert told == ["org/Own-8B-AWQ: its weights are kept as awq already, so fp8 is no choice"]


@pytest.mark.usefixtures("kept_estimates")
def test_what_was_measured_of_one_form_says_nothing_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Provenance(
        model="meta-llama/Llama-3.1-8B-Instruct",
        accelerator="H100",
        accelerator_count=1,
        engine_flags=("--quantization", "fp8"),
    )
    folder = tmp_path / "profiles"
    monkeypatch.setattr("melange_sky.profiles.measured.profiles_dir", lambda: folder)
    cell = make_measured(1000, 100, 11.0)
    write_table(ProfileTable(provenance=made, cells=(cell,)), folder / "a.profile.jsonl")
    plan = planned(spec(tmp_path, engine={"quantization": ["none", "fp8"]}))
    origins = {
        (c.option.accelerator, c.option.form): c.cells[0][0].origin
        for c in plan.models[0].candidates
    }
    assert {key for key, origin in origins.items() if origin == "measured"} == {("H100", "fp8")}


def test_measured_tables_of_other_weights_or_organisations_do_not_count() -> None:
    from melange_sky.engines import DEFAULT_ENGINE
    from melange_sky.models import find_model
    from melange_sky.profiles import ReplicaShape, has_weights, is_of

    made = Provenance(
        model="org/Own-8B-GPTQ", accelerator="H100", accelerator_count=1, weight_bytes=5 * 10**9
    )
    shape = ReplicaShape(accelerator="H100", tensor_parallel=1)
    assert is_of(made, "org/own-8b-gptq", shape)
    assert is_of(made, "Own-8B-GPTQ", shape)
    assert not is_of(made, "else/Own-8B-GPTQ", shape)
    llama = find_model("meta-llama/Llama-3.1-8B")
    assert not has_weights(made, llama)
    assert has_weights(made, DEFAULT_ENGINE.held(llama, ())) is False


names = st.from_regex(r"org/[A-Za-z0-9]{1,4}(-[A-Z0-9]{1,4}){0,2}", fullmatch=True)
words = st.lists(
    st.sampled_from([None, "fp8", "mxfp8", "fp8_per_block"]), min_size=1, max_size=4, unique=True
)


@given(st.lists(names, min_size=1, max_size=5, unique_by=str.casefold), words)
def test_forms_are_told_apart_whatever_the_names(
    checkpoints: list[str], quantizations: list[str | None]
) -> None:
    choices = [CheckpointChoice(name=name) for name in checkpoints]
    labels = form_labels(choices, quantizations)
    found = [form_name(label, word) for label in labels for word in quantizations]
    assert len(set(found)) == len(found)
    assert labels[0] == ""


def told(plan: Plan) -> list[str]:
    return [w.message for w in plan.warnings if w.code in ("quantization", "proposal")]


@pytest.mark.usefixtures("kept_estimates")
def test_the_plan_says_what_the_choice_gained(tmp_path: Path) -> None:
    over = {"workload": PAYS}
    plan = plan_spec(spec(tmp_path, **over, engine={"quantization": ["none", "fp8"]}), FULL)
    alone = plan_spec(spec(tmp_path, **over, engine={"quantization": "none"}), FULL)
    gain = plan.form_gain
    assert gain is not None
    assert gain.without_usd_per_hour == pytest.approx(alone.cost_usd_per_hour)
    assert gain.cost_usd_per_hour == plan.cost_usd_per_hour < alone.cost_usd_per_hour
    (text,) = told(plan)
    saved = alone.cost_usd_per_hour - plan.cost_usd_per_hour
    assert text.startswith(
        f"fp8 on L4: ${saved:,.2f}/h less than with meta-llama/Llama-3.1-8B-Instruct as bfloat16"
    )
    assert parse_plan(json.loads(dump_plan(plan)), "plan.json") == plan


@pytest.mark.usefixtures("kept_estimates")
def test_what_would_pay_is_proposed_at_a_cost_that_a_plan_can_have(tmp_path: Path) -> None:
    over = {"workload": PAYS}
    plan = plan_spec(spec(tmp_path, **over), FULL)
    asked = plan_spec(spec(tmp_path, **over, engine={"quantization": ["none", "fp8"]}), FULL)
    (text,) = told(plan)
    found = re.match(
        r"engine\.quantization: \[none, fp8\] would plan \$([0-9.]+)/h or less by estimate instead of "
        r"\$([0-9.]+)/h, with fp8 on L4, computed in fp8: vLLM makes the weights smaller while it loads "
        r"them, or name a checkpoint that is stored so in model: \[this one, that one\]; check first",
        text,
    )
    assert found is not None
    proposed, now = map(float, found.groups())
    assert now == pytest.approx(plan.cost_usd_per_hour, abs=0.006)
    assert asked.cost_usd_per_hour <= proposed + 0.006 < now
    assert plan.form_gain is None


@pytest.mark.usefixtures("kept_estimates", "hub_models")
@pytest.mark.parametrize(
    "over",
    [
        {"engine": {"quantization": "none"}},
        {"engine": {"args": ["--quantization", "fp8"]}},
        {"model": "org/Own-8B-AWQ"},
        {"engine": {"args": ["--dtype", "float32"]}},
        {"workload": PAYS_NOT},
    ],
)
def test_nothing_is_proposed_where_it_is_chosen_impossible_or_does_not_pay(
    tmp_path: Path, over: dict[str, Any]
) -> None:
    assert told(plan_spec(spec(tmp_path, **{"workload": PAYS} | over), FULL)) == []


@pytest.mark.usefixtures("kept_estimates")
def test_another_form_that_saves_nothing_is_not_taken(tmp_path: Path) -> None:
    over = {"workload": {**SMALL, "rate_rps": 2}, "engine": {"quantization": ["none", "fp8"]}}
    plan = plan_spec(spec(tmp_path, **over), FULL)
    small = plan_spec(spec(tmp_path, **over | {"engine": {"quantization": "fp8"}}), FULL)
    assert small.cost_usd_per_hour == pytest.approx(plan.cost_usd_per_hour)
    assert {a.candidate.option.form for a in plan.models[0].allocations} == {None}
    assert told(plan) == [
        "no other form pays here: all of the fleet holds meta-llama/Llama-3.1-8B-Instruct as bfloat16"
    ]


def test_a_hurried_plan_is_not_kept_waiting_for_a_proposal(tmp_path: Path) -> None:
    asked = spec(tmp_path, workload=PAYS)
    assert told(plan_spec(asked, FULL)) != []
    assert told(plan_spec(asked, replace(FULL, solve=SolveOptions(time_limit_s=5)))) == []


def test_a_proposal_simulates_nothing_where_tables_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "home"))
    over = {
        "workload": {"rate_rps": 16, "distribution": "azure-conv-2023"},
        "resources": {"accelerators": ["L4:1", "L40S:1", "A100-80GB:1", "H100:1"]},
    }
    plan = plan_spec(spec(tmp_path, **over), FULL)
    asked = plan_spec(spec(tmp_path, **over, engine={"quantization": ["none", "fp8"]}), FULL)
    assert bool(told(plan)) is (asked.cost_usd_per_hour <= 0.95 * plan.cost_usd_per_hour)
    assert not (tmp_path / "home" / "estimates").exists()
