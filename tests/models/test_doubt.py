"""What is not understood in full is refused, or planned with a warning and a wider band."""

from __future__ import annotations

import dataclasses

import pytest

from melange_sky.engines import engine_named
from melange_sky.errors import InputError
from melange_sky.models import Checkpoint, find_model, read_layers, read_model
from melange_sky.models.weights.tensors import TensorTotals
from melange_sky.profiles import CapacityQuery, ReplicaShape, replica_capacities
from melange_sky.slo import SLO
from tests.models.test_cases import LLAMA_70B

NEW = {**LLAMA_70B, "architectures": ["BrandNewForCausalLM"], "model_type": "brand_new"}


def checkpoint(config: dict, total_bytes: float | None = None) -> Checkpoint:
    tensors = None if total_bytes is None else TensorTotals(total_bytes=round(total_bytes))
    return Checkpoint(name="org/new-70B", config=config, where="config.json", tensors=tensors)


BYTES = read_model(checkpoint(LLAMA_70B)).file_bytes


def test_an_unknown_architecture_is_planned_only_where_its_bytes_bear_it_out():
    with pytest.raises(
        InputError, match="architecture 'BrandNewForCausalLM' is not a supported model"
    ):
        read_model(checkpoint(NEW))
    read = read_model(checkpoint(NEW, 1.01 * BYTES))
    assert read.layers.doubtful
    assert read.warnings == (
        "BrandNewForCausalLM is not supported: read as a plain decoder, which the bytes of its files bear out",
    )
    assert read.shape.doubt == 1.5
    with pytest.raises(InputError, match="the structure is not understood well enough"):
        read_model(checkpoint(NEW, 1.2 * BYTES))


def test_unread_structure_widens_where_the_bytes_agree():
    odd = {**LLAMA_70B, "num_memory_blocks": 12}
    with pytest.raises(InputError, match="'num_memory_blocks'"):
        read_model(checkpoint(odd))
    read = read_model(checkpoint(odd, BYTES))
    assert read.shape.doubt == 1.5
    assert read_model(checkpoint(LLAMA_70B, BYTES)).shape.doubt == 1.0


def test_a_doubtful_model_has_a_wider_band():
    certain = find_model("meta-llama/Llama-3.1-8B-Instruct")
    doubtful = dataclasses.replace(certain, doubt=1.5)
    cells = []
    for model in (certain, doubtful):
        query = CapacityQuery(
            model=model,
            slo=SLO(tpot_s=0.1, ttft_s=None),
            input_sizes=((200.0,),),
            output_sizes=((100.0,),),
            longest_request_tokens=300,
        )
        (found,) = replica_capacities(query, [ReplicaShape(accelerator="H100", tensor_parallel=1)])
        cells.append(found.cells[0][0])
    assert cells[0].max_rate_rps == cells[1].max_rate_rps
    assert cells[1].low_rps == pytest.approx(cells[0].low_rps / 1.5)
    assert cells[1].high_rps == pytest.approx(cells[0].high_rps * 1.5)


def test_a_name_that_contradicts_the_config_is_noted_in_plans():
    read = read_model(Checkpoint(name="org/tiny-7B", config=LLAMA_70B, where="config.json"))
    assert read.shape.notes == ("its name says 7 B parameters, its config 70.6 B",)


@pytest.mark.parametrize(
    ("architecture", "since"),
    [("PersimmonForCausalLM", " since release 0.25.0"), ("HeliumForCausalLM", "")],
)
def test_vllm_says_what_it_has_no_code_for(architecture, since):
    model = dataclasses.replace(find_model("Qwen/Qwen3-8B"), architecture=architecture)
    (note,) = engine_named("vllm").held(model, ()).notes
    assert note == (
        f"vLLM 0.33.0 has no code of its own for {architecture}{since}: it runs through transformers, slower "
        "than estimated, or not at all"
    )
    assert engine_named("sglang").held(model, ()).notes == ()
    assert engine_named("vllm").held(find_model("Qwen/Qwen3-8B"), ()).notes == ()


def test_a_multimodal_type_without_its_encoder_says_so():
    step = {**LLAMA_70B, "model_type": "step3p7", "num_attention_groups": 8, "head_dim": 128}
    step |= {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512}
    assert "no 'vision_config': only the language model is counted" in read_layers(step).warnings


def test_a_config_that_only_its_own_code_reads_needs_a_flag_and_is_told():
    """`auto_map` alone tells nothing: what the engine has a class for needs no word."""
    engine = engine_named("vllm")
    mapped = {**LLAMA_70B, "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    assert engine.held(read_model(checkpoint(mapped)).shape, []).notes == ()
    own = {**mapped, "architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2"}
    shape = read_model(checkpoint(own)).shape
    (note,) = engine.held(shape, []).notes
    assert "give --trust-remote-code (engine.args) if you trust that code" in note
    for word in ("--trust-remote-code", "--trust_remote_code"):
        assert engine.held(shape, [word]).notes == ()


def test_code_of_an_unknown_model_is_never_run_and_that_is_said():
    with pytest.raises(
        InputError, match=r"cannot be sized; its own code \('auto_map'\) is never run"
    ):
        read_model(checkpoint({**NEW, "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}))
