"""The spec: what it yields, and that every problem is told at once, bounded and fast."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from melange_sky.constraints import InstanceGroup, SpotPolicy
from melange_sky.engines import EngineChoice
from melange_sky.errors import InputError
from melange_sky.names.clouds import Infra
from melange_sky.names.limits import LimitKey, LimitKind
from melange_sky.spec import (
    AcceleratorChoice,
    MelangeConfig,
    Redundancy,
    Spec,
    load_spec,
)

ROOT = Path(__file__).resolve().parents[2]


def base(**over: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "name": "chat",
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "slo": {"tpot_ms": 60, "ttft_ms": 2000},
        "workload": {
            "rate_rps": 10,
            "histogram": {
                "input_edges": [0, 25, 100],
                "output_edges": [0, 25, 100],
                "weights": [[0.2, 0.1], [0.5, 0.2]],
            },
        },
    }
    return spec | over


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(
        content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    )
    return path


def load(tmp_path: Path, **over: Any) -> Spec:
    spec = load_spec(write(tmp_path, base(**over)))
    assert isinstance(spec, Spec)
    return spec


def problems(tmp_path: Path, content: Any) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        load_spec(write(tmp_path, content))
    assert all(len(line) < 600 and "\n" not in line for line in caught.value.problems)
    return caught.value.problems


def test_example_is_the_interfaces_spec() -> None:
    spec = load_spec(ROOT / "examples" / "chat.yaml")
    assert isinstance(spec, Spec)
    assert spec.models[0].workload.rate_rps == pytest.approx(16)
    assert spec.models[0].slo.ttft_s == 2.0
    assert not spec.lists_models


def test_defaults(tmp_path: Path) -> None:
    spec = load(tmp_path)
    assert spec.headroom == 0.1
    assert spec.resources.accelerators == ()
    assert spec.redundancy == Redundancy(spare=0, min_replicas=1)
    assert spec.models[0].slo.attainment == 0.95
    assert spec.engine.version is None


def test_bucket_is_planned_at_upper_edges_where_no_size_is_known(tmp_path: Path) -> None:
    workload = load(tmp_path).models[0].workload
    assert workload.input_sizes == ((25.0, 25.0), (100.0, 100.0))
    assert workload.output_sizes == ((25.0, 100.0), (25.0, 100.0))
    assert workload.rates_rps[1][0] == pytest.approx(5.0)


def test_resources_are_canonical(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        resources={
            "accelerators": ["l4", "A100-80GB:2"],
            "infra": ["AWS", "gcp/us-central1"],
            "limits": {"h100": 4, "aws": 10, "aws/us-east-1": 5, "g5.xlarge": 3},
            "budget_usd_per_hour": 20,
            "fixed": [{"accelerators": "A100-80GB:1", "infra": "gcp/us-central1", "instances": 2}],
            "minimum": [{"accelerators": "L4", "instances": 1}],
            "spot": {"max_fraction": 0.3, "interruption_rate": 0.05, "recovery_s": 300},
        },
        redundancy={"spare": 1, "min_replicas": 2, "max_share_per_cloud": 0.6},
    )
    found = spec.resources
    assert found.accelerators == (
        AcceleratorChoice(name="L4", count=None),
        AcceleratorChoice(name="A100-80GB", count=2),
    )
    assert found.infra == (Infra(cloud="aws"), Infra(cloud="gcp", region="us-central1"))
    assert [(key.kind, key.name, most) for key, most in found.limits] == [
        (LimitKind.ACCELERATOR, "H100", 4),
        (LimitKind.CLOUD, "aws", 10),
        (LimitKind.REGION, "aws/us-east-1", 5),
        (LimitKind.INSTANCE_TYPE, "g5.xlarge", 3),
    ]
    assert found.fixed == (
        InstanceGroup(
            accelerator="A100-80GB",
            accelerator_count=1,
            cloud="gcp",
            region="us-central1",
            instances=2,
        ),
    )
    assert found.minimum == (InstanceGroup(accelerator="L4", accelerator_count=1, instances=1),)
    assert found.spot == SpotPolicy(max_fraction=0.3, interruption_rate=0.05, recovery_s=300)
    assert spec.redundancy.max_share_per_cloud == 0.6


def test_a10_and_a10g_are_two_things(tmp_path: Path) -> None:
    found = load(tmp_path, resources={"accelerators": ["A10", "A10G"]}).resources.accelerators
    assert [choice.name for choice in found] == ["A10", "A10G"]


def test_what_a_cloud_lists_apart_may_be_asked_for(tmp_path: Path) -> None:
    asked = {
        "accelerators": ["h100-sxm", "A100-80GB-SXM:2"],
        "limits": {"H200-sxm": 4},
        "fixed": [{"accelerators": "H100-SXM:8", "instances": 1}],
    }
    found = load(tmp_path, resources=asked).resources
    assert [(c.name, c.count) for c in found.accelerators] == [
        ("H100-SXM", None),
        ("A100-80GB-SXM", 2),
    ]
    assert found.limits == ((LimitKey.of("H200-SXM"), 4),)
    assert found.fixed == (InstanceGroup(accelerator="H100-SXM", accelerator_count=8, instances=1),)


def test_several_models(tmp_path: Path) -> None:
    one = base()
    entries = [{**one, "name": "a"}, {**one, "name": "b", "model": "mistralai/Mistral-7B-v0.1"}]
    spec = load_spec(write(tmp_path, {"name": "fleet", "models": entries}))
    assert isinstance(spec, Spec)
    assert spec.lists_models
    assert [m.name for m in spec.models] == ["a", "b"]


def test_unknown_model_is_told_with_a_suggestion(tmp_path: Path) -> None:
    told = problems(tmp_path, base(model="Llama-3.1-8B-Instrct"))
    assert "did you mean 'Llama-3.1-8B-Instruct'?" in told[0]
    config = tmp_path / "config.json"
    config.write_text("{}")
    assert (
        load(tmp_path, model="my/own", model_config="config.json").models[0].model_config == config
    )
    told = problems(tmp_path, base(model="my/own", model_config="absent.json"))
    assert any("model_config: no file at 'absent.json'" in t for t in told)


def test_a_model_is_an_id_of_the_hub_a_revision_of_it_or_several_checkpoints(
    tmp_path: Path,
) -> None:
    found = load(tmp_path, model="llama-3.1-8b-instruct").models[0]
    assert found.model == "meta-llama/Llama-3.1-8B-Instruct"
    names = ["org/m@refs/pr/1", "org/m-FP8"]
    served = load(tmp_path, model=names).models[0]
    assert served.model == "org/m"
    assert [(c.name, c.revision) for c in served.checkpoints] == [
        ("org/m", "refs/pr/1"),
        ("org/m-FP8", None),
    ]
    assert served.checkpoints[1].where.endswith("spec.yaml:4: model[1]")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "2: model: must not be empty"),
        (5, "2: model: must be a model's id as text (put it in quotes)"),
        ([["org/m"]], "3: model[0]: must be a model's id as text (put it in quotes)"),
        (["org/m", "org/M"], "2: model: names 'org/m' twice"),
        ("org/m@", "2: model: 'org/m@': '' is not a revision"),
        ("org/m@../../etc", "2: model: 'org/m@../../etc': '../../etc' is not a revision"),
        ("org/m/x", "2: model: unknown model 'org/m/x'"),
        ("org/m" + "x" * 600, "2: model: must be at most 500 long"),
        ("--help", "2: model: must not be empty or start with '-'"),
    ],
)
def test_what_is_no_model_is_told_at_its_place(tmp_path: Path, given: Any, told: str) -> None:
    (line,) = problems(tmp_path, base(model=given))
    assert line.startswith(f"{tmp_path / 'spec.yaml'}:{told}")


def test_a_file_of_sizes_is_of_one_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (line,) = problems(tmp_path, base(model=["org/a", "org/b"], model_config="config.json"))
    assert line.endswith("names several checkpoints, but model_config is the config.json of one")


def test_every_problem_at_once_with_line_and_suggestion(tmp_path: Path) -> None:
    text = """\
name: -chat
modle: meta-llama/Llama-3.1-8B-Instruct
slo: {tpot_ms: -60, ttft_ms: .nan, attainment: 1.95, tppt_ms: 4}
workload:
  rate_rps: -16
  distribution: azure-conv-2033
resources:
  accelerators: [L4, A10H, A100-40GB, "H100:x", "A100-80GB:2.5"]
  infra: [awss, gcp/us/central, azure/eastus, google]
  use_spot: maybe
  limits: {H101: 4, aws: 10, g5.xlarge: -3}
headroom: 10
name: twice
engine: {version: 0.11, args: [1], env: {HF_TOKEN: hunter2}}
"""
    told = problems(tmp_path, text)
    file = tmp_path / "spec.yaml"
    expected = [
        ("1", "name: '-chat' must be letters"),
        ("1", "model is missing (did you mean 'modle'?)"),
        ("2", "unknown key 'modle' (did you mean 'model'?)"),
        ("3", "slo.tpot_ms: must be greater than 0"),
        ("3", "slo.ttft_ms: must be a finite number"),
        ("3", "slo.attainment: must be at most 1"),
        ("3", "(did you mean 'tpot_ms'?)"),
        ("5", "workload.rate_rps: must be greater than 0"),
        ("6", "unknown distribution 'azure-conv-2033' (did you mean 'azure-conv-2023'?)"),
        ("8", "resources.accelerators[1]: unknown accelerator 'A10H'"),
        (
            "8",
            "resources.accelerators[2]: unknown accelerator 'A100-40GB': SkyPilot's name for it is 'A100'",
        ),
        ("8", "resources.accelerators[3]: 'H100:x' must be NAME or NAME:COUNT"),
        ("8", "resources.accelerators[4]: 'A100-80GB:2.5': the count must be a whole number"),
        ("9", "unknown cloud 'awss' (did you mean 'aws'?)"),
        ("9", "zones are left to SkyPilot"),
        ("9", "unknown cloud 'google' (did you mean 'gcp'?)"),
        ("10", "resources.use_spot: must be true or false"),
        ("11", "(did you mean 'H100'?)"),
        ("11", "resources.limits['g5.xlarge']: must be at least 0"),
        ("12", "headroom: must be at most 0.95; it is a fraction: 10 % is 0.1"),
        ("13", "name: is given twice"),
        ("14", "engine.version: must be text (put it in quotes)"),
        ("14", "engine.args[0]: must be text (put it in quotes)"),
        ("14", "engine.env.HF_TOKEN: is a secret"),
    ]
    for line, words in expected:
        assert any(t.startswith(f"{file}:{line}: ") and words in t for t in told), (line, words)
    assert len(told) == len(expected)
    assert not any("hunter2" in t for t in told)


def test_a_spot_mix_beside_use_spot_false_is_refused(tmp_path: Path) -> None:
    mix = {"max_fraction": 0.3}
    (told,) = problems(tmp_path, base(resources={"use_spot": False, "spot": mix}))
    assert told.endswith(
        "resources.spot: mixes in spot instances, which use_spot: false rules out; remove one of the two"
    )
    for resources in ({"spot": mix}, {"use_spot": True, "spot": mix}):
        assert load(tmp_path, resources=resources).resources.spot is not None


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("{version: 0.33.0-foo}", "engine.version: must be a version such as 0.33.0"),
        ("{name: sglang, version: x1}", "engine.version: must be a version such as 0.5.23"),
        ("{env: {SKYPILOT_X: a}}", "engine.env.SKYPILOT_X: belongs to SkyPilot"),
        ("{env: {A-B: a}}", "engine.env.A-B: is not the name of an environment variable"),
        (
            '{env: {HF_TOKEN: ""}}',
            "engine.env.HF_TOKEN: is a secret: leave it out of the spec and pass it with --secret HF_TOKEN",
        ),
        ('{setup: "a\\0b"}', "engine.setup: holds a NUL character"),
        (
            "{name: sglan}",
            "engine.name: unknown engine 'sglan' (did you mean 'sglang'?); known: sglang, vllm",
        ),
        ("{name: 7}", "engine.name: must be text (put it in quotes)"),
        (
            "{name: sglang, args: [--max-running-requests, '8', --tp, '2']}",
            (
                "engine.args[2]: --tp-size cannot be given here; the plan decides it, and its "
                "capacities hold for no other"
            ),
        ),
        (
            "{args: [--seed, '1', --max-model-len=many]}",
            "engine.args[2]: --max-model-len: 'many' is not a number of tokens",
        ),
        (
            "{name: sglang, args: [--context-length]}",
            "engine.args[0]: --context-length: '' is not a number of tokens",
        ),
        (
            "{args: [--kv-cache-dtype, fp9]}",
            (
                "engine.args[0]: --kv-cache-dtype: unknown 'fp9' (did you mean 'fp8'?); known: auto, "
                "bfloat16, float16, fp8, fp8_e4m3, fp8_e5m2, fp8_inc, fp8_per_token_head, "
                "int8_per_token_head, nvfp4"
            ),
        ),
        (
            "{args: [--dtype, half2]}",
            (
                "engine.args[0]: --dtype: unknown dtype 'half2' (did you mean 'half'?); known: auto, "
                "bfloat16, float, float16, float32, half"
            ),
        ),
    ],
)
def test_an_engine_that_no_service_could_start_is_told_with_its_line(
    tmp_path: Path, engine: str, told: str
) -> None:
    text = yaml.safe_dump(base(), sort_keys=False) + f"engine:\n  {engine}\n"
    line = text.count("\n")
    assert problems(tmp_path, text) == (f"{tmp_path / 'spec.yaml'}:{line}: {told}",)


def test_a_model_whose_name_would_be_a_flag_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    text = yaml.safe_dump(base(model="--help", model_config="config.json"), sort_keys=False)
    assert problems(tmp_path, text) == (
        f"{tmp_path / 'spec.yaml'}:2: model: must not be empty or start with '-'",
    )


def test_the_engine_is_chosen_by_name(tmp_path: Path) -> None:
    assert load(tmp_path).engine == EngineChoice()
    assert load(tmp_path, engine={"name": "sglang"}).engine == EngineChoice(name="sglang")
    assert load(tmp_path, engine={"name": "vllm", "version": "0.32.0"}).engine.name == "vllm"


def test_option_types_are_bounded_from_both_sides(tmp_path: Path) -> None:
    found = load(tmp_path, resources={"max_option_types": 3, "min_option_types": 2}).resources
    assert (found.max_option_types, found.min_option_types) == (3, 2)
    plain = load(tmp_path).resources
    assert (plain.max_option_types, plain.min_option_types) == (None, 1)


def test_replicas_over_several_instances_are_asked_for(tmp_path: Path) -> None:
    assert load(tmp_path).resources.max_nodes_per_replica == 1
    found = load(tmp_path, resources={"max_nodes_per_replica": 2}).resources
    assert found.max_nodes_per_replica == 2


def test_splits_without_a_measured_run_are_let_in_by_a_word(tmp_path: Path) -> None:
    assert load(tmp_path).resources.assumed_splits.value == "robust"
    for word in ("robust", "all", "none"):
        found = load(tmp_path, resources={"assumed_splits": word}).resources
        assert found.assumed_splits.value == word


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"max_nodes_per_replica": 0}, "resources.max_nodes_per_replica: must be at least 1"),
        ({"max_nodes_per_replica": 99}, "resources.max_nodes_per_replica: must be at most 16"),
        (
            {"assumed_splits": "al"},
            "resources.assumed_splits: must be robust, all or none (did you mean 'all'?)",
        ),
        ({"assumed_splits": True}, "resources.assumed_splits: must be text (put it in quotes)"),
        (
            {"min_option_types": 3, "max_option_types": 2},
            "resources.min_option_types: is 3, above max_option_types 2",
        ),
        ({"max_option_types": 0}, "resources.max_option_types: must be at least 1"),
        ({"min_option_types": 1.5}, "resources.min_option_types: must be a whole number"),
    ],
)
def test_bad_option_types(tmp_path: Path, resources: dict[str, Any], words: str) -> None:
    (told,) = problems(tmp_path, base(resources=resources))
    assert told.partition(": ")[2] == words
    assert told.partition(": ")[0].endswith(tuple("0123456789"))


def test_flags_that_the_plan_decides_are_refused_where_they_stand(tmp_path: Path) -> None:
    told = problems(tmp_path, base(engine={"args": ["--seed", "1", "-tp", "8", "--port=80"]}))
    first, second = (line.partition(": ")[2] for line in told)
    assert first == (
        "engine.args[2]: --tensor-parallel-size cannot be given here; the plan decides it, and its "
        "capacities hold for no other"
    )
    assert second == (
        "engine.args[4]: --port cannot be given here; replicas listen where SkyServe probes them"
    )


@pytest.mark.parametrize(
    ("histogram", "words"),
    [
        ({"weights": [[0.2, 0.1], [0.5, 0.3]]}, "must sum to 1 ± 0.001, but sum to 1.1"),
        ({"weights": [[0, 0], [0, 0]]}, "no weight is above 0"),
        ({"weights": [[-0.1, 0.4], [0.5, 0.2]]}, "must be at least 0"),
        ({"weights": [[math.nan, 0.4], [0.5, 0.2]]}, "must be"),
        ({"weights": [[math.inf, 0.4], [0.5, 0.2]]}, "must be a finite number"),
        ({"weights": [[0.5, 0.5]]}, "must have 2 rows"),
        ({"weights": [[0.2, 0.1], [0.7]]}, "must have 2 numbers"),
        ({"weights": []}, "must not be empty"),
        ({"input_edges": [0, 25, 25]}, "must rise strictly"),
        ({"input_edges": [0]}, "must not be empty"),
        ({"input_edges": [0, 25.5, 100]}, "must be a whole number"),
        ({"input_sizes": [[30, 10], [50, 50]]}, "lies outside its bucket 0-25"),
    ],
)
def test_bad_histogram(tmp_path: Path, histogram: dict[str, Any], words: str) -> None:
    spec = base()
    spec["workload"]["histogram"] |= histogram
    assert any(words in line for line in problems(tmp_path, spec)), problems(tmp_path, spec)


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (
            {"rate_rps": 1},
            "one of distribution, trace, histogram and input_tokens with output_tokens is missing",
        ),
        ({"rate_rps": 1, "distribution": "short-chat", "trace": "x"}, "only one of"),
        ({"distribution": "short-chat"}, "rate_rps is missing"),
        ({"rate_rps": 0, "distribution": "short-chat"}, "must be greater than 0"),
        ({"rate_rps": "16", "distribution": "short-chat"}, "must be a number"),
        ({"rate_rps": True, "distribution": "short-chat"}, "must be a number"),
        ({"rate_rps": 1, "trace": "absent.csv"}, "workload.trace: no such trace file '"),
        ({"rate_rps": 1, "trace": "x" * 300}, "workload.trace: File name too long: trace file '"),
        ({"rate_rps": 1, "distribution": "short-chat", "grid": {}}, "applies to a trace"),
        ([], "must be a mapping"),
        ("x", "must be a mapping"),
    ],
)
def test_bad_workload(tmp_path: Path, workload: Any, words: str) -> None:
    told = problems(tmp_path, base(workload=workload))
    assert any(words in line for line in told), told


@pytest.mark.parametrize("key", ["distribution", "trace"])
@pytest.mark.parametrize(("name", "shown"), [("a\0b.yaml", "a?b.yaml"), ("no.yaml", "no.yaml")])
def test_a_path_that_leads_nowhere_is_told_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, name: str, shown: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = json.dumps(base(workload={"rate_rps": 1, key: name}), indent=1)
    Path("spec.json").write_text(text)
    with pytest.raises(InputError) as caught:
        load_spec(Path("spec.json"))
    line = next(i for i, row in enumerate(text.splitlines(), 1) if f'"{key}"' in row)
    assert caught.value.problems == (
        f"spec.json:{line}: workload.{key}: no such {key} file '{shown}'",
    )


@pytest.mark.parametrize(("name", "shown"), [("a\0b.yaml", "a?b.yaml"), ("\ud800.yaml", "?.yaml")])
def test_a_spec_of_a_name_that_no_file_can_have(name: str, shown: str) -> None:
    with pytest.raises(InputError) as caught:
        load_spec(Path(name))
    assert caught.value.problems == (f"{shown}: is not a possible file name",)


def test_bad_models(tmp_path: Path) -> None:
    entry = base(name="a")
    told = problems(tmp_path, {"name": "f", "model": "x", "models": [entry, entry, 3, {}]})
    assert any("model: belongs in each entry" in t for t in told)
    assert any("two models are named 'a'" in t for t in told)
    assert any("models[2]: must be a mapping" in t for t in told)
    assert any("models[3]" in t and "slo is missing" in t for t in told)
    assert any(
        "models: must be a list" in t for t in problems(tmp_path, {"name": "f", "models": 3})
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("- a\n- b\n", "must be a mapping"),
        ("just text", "must be a mapping"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "tags are not supported"),
        ("a: 1\n---\nb: 2\n", "holds more than one document"),
        ("a: &a [*a]", "refers to itself"),
        ("&a a: {b: *a}", "unknown key"),
        ("a: *nowhere", "has no anchor"),
        ("? [1, 2]\n: 3\n", ":1: a key must be plain text"),
        ("a: " + "[" * 5000, "nested deeper"),
        ("name: \x07", "not valid YAML"),
        ("{" * 200_000, "nested deeper"),
    ],
)
def test_hostile_text(tmp_path: Path, text: str, words: str) -> None:
    started = time.monotonic()
    told = problems(tmp_path, text)
    assert any(words in line for line in told), told
    assert time.monotonic() - started < 2


def test_exploding_aliases_are_refused_at_once(tmp_path: Path) -> None:
    rows = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    rows += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    started = time.monotonic()
    assert "aliases expanded" in problems(tmp_path, "\n".join(rows))[0]
    assert time.monotonic() - started < 2


def test_aliases_nest_no_deeper_than_brackets(tmp_path: Path) -> None:
    rows = ["a0: &a0 " + "[" * 28 + "1" + "]" * 28]
    rows += [f"a{i}: &a{i} " + "[" * 28 + f"*a{i - 1}" + "]" * 28 for i in range(1, 40)]
    file = tmp_path / "spec.yaml"
    told = problems(tmp_path, "\n".join(rows))
    assert told == (f"{file}:2: nested deeper than 32 levels",)
    for target, levels in (("[]", 1), ("1", 0), ("{k: [{}]}", 3)):
        room = 31 - levels  # the document's own mapping is one level
        text = f"a: &a {target}\nb: 1\n"
        fits = problems(tmp_path, text + "c: " + "[" * room + "*a" + "]" * room)
        assert not any("nested deeper" in line for line in fits), fits
        deeper = problems(tmp_path, text + "c: " + "[" * (room + 1) + "*a" + "]" * (room + 1))
        assert deeper == (f"{file}:3: nested deeper than 32 levels",)


def test_junk_of_100_mb(tmp_path: Path) -> None:
    path = tmp_path / "junk.yaml"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    started = time.monotonic()
    with pytest.raises(InputError, match="larger than 1024 KiB"):
        load_spec(path)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "unit", ["[1,", "a: b: ", "'x\n", "? ", "- ", "&a *a ", "k: v\n", "{a: ", "\t", "#\n"]
)
def test_a_full_size_file_of_anything_is_answered_in_time(tmp_path: Path, unit: str) -> None:
    text = unit * ((1 << 20) // len(unit))
    started = time.monotonic()
    problems(tmp_path, text)
    assert time.monotonic() - started < 5


def test_aliases_within_bounds_are_read(tmp_path: Path) -> None:
    text = yaml.safe_dump(base())
    path = write(tmp_path, text + "resources: {infra: &i [aws], accelerators: [L4]}\n")
    assert isinstance(load_spec(path), Spec)


def test_missing_file_folder_and_bytes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_spec(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="folder where a file"):
        load_spec(tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(InputError, match=r"latin\.yaml:1: not UTF-8"):
        load_spec(path)


def test_long_values_never_fill_a_message(tmp_path: Path) -> None:
    secret = "s3cret" * 50_000
    spec = base(name=secret, resources={"accelerators": [secret], "infra": [secret], secret: 1})
    for line in problems(tmp_path, spec):
        assert len(line) < 1000


MELANGE = {
    "gpu_info": {
        "A10G": {"cost": 1.01, "tputs": [[2, 1], [5, 2]]},
        "A100-80GB": {"cost": 3.67, "tputs": [[20, 20], [40, 20]]},
    },
    "workload_distribution": [[0.2, 0.1], [0.5, 0.2]],
    "total_request_rate": 30.0,
    "slice_factor": 1,
}


def test_melange_config_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MELANGE, indent="\t"))
    config = load_spec(path)
    assert isinstance(config, MelangeConfig)
    assert config.gpus[0] == ("A10G", 1.01, ((2.0, 1.0), (5.0, 2.0)))
    assert config.workload.rates_rps == ((6.0, 3.0), (15.0, 6.0))
    assert config.slice_factor == 1


def test_melange_weights_stand_as_written(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps(MELANGE | {"workload_distribution": [[2, 1], [5, 2]]}))
    config = load_spec(path)
    assert isinstance(config, MelangeConfig)
    assert config.workload.rate_rps == pytest.approx(300)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"gpu_info": {}}, "gpu_info: must not be empty"),
        ({"gpu_info": {"A": {"cost": -1, "tputs": [[1, 1], [1, 1]]}}}, "gpu_info.A.cost"),
        ({"gpu_info": {"A": {"cost": 1, "tputs": [[1, 1]]}}}, "must be 2 × 2"),
        ({"gpu_info": {"A": {"cost": 1, "tputs": [[1, math.nan], [1, 1]]}}}, "gpu_info.A.tputs"),
        ({"gpu_info": {"A": 3}}, "gpu_info.A: must be a mapping"),
        ({"slice_factor": 0}, "slice_factor: must be at least 1"),
        ({"total_request_rate": math.nan}, "total_request_rate: must be"),
        ({"workload_distribution": [[0, 0], [0, 0]]}, "no weight is above 0"),
        ({"workload_distribution": [[]]}, "must be at least 1 × 1"),
        ({"slice_facto": 2}, "did you mean 'slice_factor'"),
    ],
)
def test_bad_melange_config(tmp_path: Path, over: dict[str, Any], words: str) -> None:
    told = problems(tmp_path, json.dumps(MELANGE | over))
    assert any(words in line for line in told), told
