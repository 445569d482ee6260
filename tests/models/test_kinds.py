"""What is no decoder of text is named as what it is, by its architecture, its type or its name."""

from __future__ import annotations

import pytest

from melange_sky.errors import InputError
from melange_sky.models import Checkpoint, read_layers, read_model
from tests.factories import LLAMA_CONFIG

KINDS = [
    ("BertModel", "bert", "an encoder"),
    ("ModernBertModel", "modernbert", "an encoder"),
    ("LlamaModel", "llama", "an embedding model without an output head"),
    ("PhiModel", "phi", "an embedding model without an output head"),
    ("Qwen3MoeModel", "qwen3_moe", "an embedding model without an output head"),
    ("Gemma3TextModel", "gemma3_text", "an embedding model without an output head"),
    ("NVEmbedModel", "nvembed", "an embedding model"),
    ("ColQwen2", "qwen2_vl", "an embedding model"),
    ("Qwen2ForRewardModel", "qwen2", "a reward model"),
    ("LlamaForRewardModelWithGating", "llama", "a reward model"),
    ("LlamaForSequenceClassification", "llama", "a classifier"),
    ("MistralForTokenClassification", "mistral", "a classifier"),
    ("JinaVLForRanking", "qwen2_vl", "a reranker"),
    ("T5ForConditionalGeneration", "t5", "an encoder-decoder model"),
    ("WhisperForConditionalGeneration", "whisper", "a speech model"),
    ("Qwen3TTSForConditionalGeneration", "qwen3_tts", "a speech model"),
    ("KimiAudioForConditionalGeneration", "kimi_audio", "a speech model"),
    ("DPTForDepthEstimation", "dpt", "a vision model"),
    ("SegformerForSemanticSegmentation", "segformer", "a vision model"),
    ("LLaDAModelLM", "llada", "a diffusion model"),
    ("RWKV7ForCausalLM", "rwkv7", "a model of states without a KV cache"),
    ("LlamaForCausalLMEagle3", "llama", "a draft model"),
]


@pytest.mark.parametrize(("name", "kind", "words"), KINDS)
def test_it_is_named(name, kind, words):
    config = {**LLAMA_CONFIG, "architectures": [name], "model_type": kind}
    with pytest.raises(InputError) as refused:
        read_layers(config)
    assert str(refused.value).startswith(f"config.json: this is {words} ({name}), not a decoder")


def test_names_of_untrusted_files_stay_on_one_line():
    config = {**LLAMA_CONFIG, "architectures": ["A\n\r\u2028Speech"], "model_type": "whisper"}
    with pytest.raises(InputError) as refused:
        read_layers(config)
    assert not set(str(refused.value)) & {"\n", "\r", "\u2028"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Qwen/Qwen3-Embedding-8B", "an embedding model"),
        ("Qwen/Qwen3-Reranker-8B", "a reranker"),
        ("nvidia/Llama-3.1-Nemotron-8B-Reward", "a reward model"),
        ("meta-llama/Llama-3.1-8B", None),
    ],
)
def test_a_decoder_whose_name_says_otherwise_is_told(name, words):
    read = read_model(Checkpoint(name=name, config=LLAMA_CONFIG, where="config.json"))
    told = f"its name says that it is {words}: planned as a model that writes text"
    assert read.warnings == ((told,) if words else ())


def test_heads_that_predict_more_are_counted_only_where_the_file_states_them():
    """The class default of DeepSeek-V3 is one; Moonlight, of its class, has none."""
    config = {
        **LLAMA_CONFIG,
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "moe_intermediate_size": 1408,
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 512,
        "q_lora_rank": None,
    }
    silent, stated = read_layers(config), read_layers({**config, "num_nextn_predict_layers": 1})
    assert silent.parameters == silent.resident_parameters == stated.resident_parameters
    assert stated.parameters > silent.parameters
