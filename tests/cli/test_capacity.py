"""`melange-sky capacity` as scripts call it."""

from __future__ import annotations

import contextlib
import io
import json

import pytest

from melange_sky.cli.capacity import capacity
from melange_sky.errors import InfeasibleError, InputError
from melange_sky.models import find_model
from tests.models.test_cases import AWQ_72B

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "home"))


def run(*arguments):
    """Return what the command prints to stdout."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        capacity.main(list(arguments), standalone_mode=False)
    return out.getvalue()


def document(*arguments):
    return json.loads(run(*arguments, "--format", "json"))


SMALL = ("--input", "100,1000", "--output", "50")


def test_json_has_a_row_per_input_and_a_column_per_output():
    found = document(
        "--model", LLAMA, "--accelerators", "L4,A10G:2,H100", *SMALL, "--tpot-ms", "60"
    )
    assert found["model"] == LLAMA and found["engine"] == "vllm"
    assert found["slo"] == {"tpot_ms": 60.0, "ttft_ms": None, "attainment": 0.95}
    assert (found["input_tokens"], found["output_tokens"]) == ([100, 1000], [50])
    assert [o["accelerator"] for o in found["options"]] == ["L4", "A10G:2", "H100"]
    for option in found["options"]:
        for name in ("origin", "max_rate_rps", "reasons", "usd_per_million_tokens"):
            assert [len(row) for row in option[name]] == [1, 1]
    rates = {o["accelerator"]: o["max_rate_rps"] for o in found["options"]}
    assert rates["H100"][0][0] > rates["H100"][1][0] > 0  # longer prompts, fewer requests
    assert rates["H100"][0][0] > rates["A10G:2"][0][0]


def test_a_tighter_slo_carries_less_and_a_missed_one_says_why():
    loose, tight = (
        document("--model", LLAMA, "--accelerators", "A100-80GB", *SMALL, "--tpot-ms", limit)
        for limit in ("100", "25")
    )
    cells = [d["options"][0]["max_rate_rps"][0][0] for d in (loose, tight)]
    assert cells[0] > cells[1]
    missed = document("--model", LLAMA, "--accelerators", "L4", *SMALL, "--tpot-ms", "20")[
        "options"
    ][0]
    assert missed["max_rate_rps"][0][0] is None and "TPOT is" in missed["reasons"][0][0]


def test_the_second_run_answers_the_same_from_the_cache(tmp_path):
    arguments = ("--model", LLAMA, "--accelerators", "A100", *SMALL, "--ttft-ms", "900")
    first = run(*arguments, "--format", "json")
    assert any((tmp_path / "home" / "estimates").iterdir())
    assert run(*arguments, "--format", "json") == first


def test_a_config_file_is_a_model_too(tmp_path):
    shape = find_model("meta-llama/Llama-2-7b-hf")
    config = {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    ours = document("--model", str(path), "--accelerators", "A100", *SMALL)["options"]
    known = document("--model", shape.name, "--accelerators", "A100", *SMALL)["options"]
    assert ours[0]["max_rate_rps"] == known[0]["max_rate_rps"]


def test_past_the_context_it_warns_and_computes(capsys):
    sizes = ("--input", "6000", "--output", "100")
    found = document("--model", "meta-llama/Llama-2-7b", "--accelerators", "A100-80GB", *sizes)
    assert found["options"][0]["max_rate_rps"][0][0] > 0
    assert "exceed the context of 4096" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "heatmap"])
def test_people_see_rates_origins_and_reasons(form):
    text = run(
        "--model", LLAMA, "--accelerators", "L4,H100", *SMALL, "--tpot-ms", "30", "--format", form
    )
    assert "TPOT is" in text and "H100" in text and " e" in text


def test_an_engine_without_figures_of_its_own_takes_the_nearest_and_says_so(capsys):
    asked = ("--model", LLAMA, "--accelerators", "L4", *SMALL, "--tpot-ms", "60")
    own, other = (document(*asked, "--engine", engine) for engine in ("vllm", "sglang"))
    note = (
        "SGLang has no figures of its own yet: its replicas are estimated as those of vLLM, the nearest "
        "engine; measure to know the error (melange-sky profile launch)"
    )
    assert capsys.readouterr().err == f"warning: {note}\n"
    assert (own["engine"], own["generation"], own["generation_note"]) == ("vllm", "vllm", None)
    assert (other["engine"], other["generation"], other["generation_note"]) == (
        "sglang",
        "vllm",
        note,
    )
    assert own["options"] == other["options"]
    assert document(*asked, "--engine", "vllm-0.5")["generation"] == "vllm-0.5"
    with pytest.raises(InputError, match="--quantization: unknown quantization 'experts_int8'"):
        run(*asked, "--engine", "sglang", "--quantization", "experts_int8")


def test_where_nothing_fits_the_memory_missing_is_told():
    with pytest.raises(InfeasibleError, match=r"GiB missing; 8 × L4 would fit"):
        run("--model", "meta-llama/Llama-3.1-70B", "--accelerators", "L4", *SMALL)


def test_more_instances_of_a_replica_are_weighed_where_asked():
    asked = ("--model", "deepseek-ai/DeepSeek-V3", "--accelerators", "H100:8", *SMALL)
    with pytest.raises(InfeasibleError, match=r"\(--max-nodes 2 weighs 2 instances\)"):
        run(*asked)
    (option,) = document(*asked, "--max-nodes", "2")["options"]
    assert option["nodes"] == 2
    gpus = option["tensor_parallel"] * option["pipeline_parallel"] * option["data_parallel"]
    assert gpus == 16
    assert "on 2 instances" in run(*asked, "--max-nodes", "2")
    with pytest.raises(InputError, match="--max-nodes: must be between 1 and 16"):
        run(*asked, "--max-nodes", "0")


def test_what_a_split_would_tear_is_told_of_each_option(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(AWQ_72B))
    asked = ("--model", str(path), "--accelerators", "A10G:4,H100:2", *SMALL)
    small, large = document(*asked)["options"]
    assert (small["tensor_parallel"], small["pipeline_parallel"]) == (1, 4)
    assert [row["tensor_parallel"] for row in small["refused_splits"]] == [2, 4]
    assert "no whole number of groups of 128" in large["refused_splits"][0]["reason"]
    assert "not in tp 2, 4: 29568 inputs of mlp.down_proj" in run(*asked)


def test_what_a_cloud_lists_apart_has_the_figures_of_its_accelerator():
    asked = ("--model", LLAMA, *SMALL, "--tpot-ms", "30", "--format", "json", "--accelerators")
    assert run(*asked, "H100-SXM") == run(*asked, "H100")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "Lama-3.1-8B"}, "did you mean"),
        ({"--model": "nowhere/config.json"}, "cannot be read"),
        ({"--accelerators": "H1000"}, "unknown accelerator 'H1000'"),
        ({"--accelerators": "A100-SXM4-80GB"}, "name for it is 'A100-80GB'"),
        ({"--accelerators": "H100:0.5"}, "a replica needs whole GPUs"),
        ({"--accelerators": "H100:-1"}, "--accelerators"),
        ({"--input": "ten"}, "--input: 'ten' is not a number of tokens"),
        ({"--output": "0"}, "--output: '0'"),
        ({"--output": "1" * 5000}, "--output: '1111"),
        ({"--tpot-ms": "nan"}, "--tpot-ms: must be a positive number"),
        ({"--ttft-ms": "-3"}, "--ttft-ms: must be a positive number"),
        ({"--attainment": "1.5"}, "--attainment"),
        ({"--engine": "vlm"}, "unknown engine 'vlm'"),
        (
            {"--engine": "sglan"},
            "unknown engine 'sglan' (did you mean 'sglang'?); known: vllm, sglang,",
        ),
        ({"--quantization": "fp9"}, "--quantization: unknown quantization 'fp9'"),
        ({"--kv-cache-dtype": "int2"}, "--kv-cache-dtype: unknown 'int2'"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    given = {"--model": LLAMA, "--accelerators": "H100", "--input": "10", "--output": "10"} | change
    with pytest.raises(InputError) as caught:
        run(*(word for pair in given.items() for word in pair))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 900 and "\n" not in str(caught.value)
