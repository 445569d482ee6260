"""Make tiny checkpoints with `transformers`, load each in vLLM and print what it holds, as JSON lines.

Run by the interpreter of the vLLM environment: `python read_models.py FOLDER NAME…`. Each line has the
bytes of the weights that were loaded, the KV blocks, tokens of a block, bytes per group of layers, and
the requests of the longest length that fit at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CACHE_BYTES = 64 * 2**20
BLOCK_TOKENS = 128
CONTEXT = 4096
BATCHED_TOKENS = 1024

SIZES: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def _config(name: str) -> Any:
    import transformers

    without_head_dim = {k: v for k, v in SIZES.items() if k != "head_dim"}
    if name == "dense":
        return transformers.LlamaConfig(**SIZES, num_hidden_layers=5)
    if name == "experts":
        return transformers.Qwen3MoeConfig(
            **SIZES,
            num_hidden_layers=4,
            num_experts=8,
            num_experts_per_tok=2,
            moe_intermediate_size=192,
            mlp_only_layers=[0],
        )
    if name == "windows":
        kinds = [
            "sliding_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ] * 2
        return transformers.Olmo3Config(
            **without_head_dim,
            num_hidden_layers=8,
            sliding_window=512,
            layer_types=kinds,
        )
    if name == "convolutions":
        return transformers.Lfm2Config(
            **{**without_head_dim, "tie_word_embeddings": True},  # the engine ties them anyway
            num_hidden_layers=6,
            layer_types=["conv", "conv", "full_attention", "conv", "conv", "full_attention"],
            conv_L_cache=3,
            conv_dim=SIZES["hidden_size"],
            conv_dim_out=SIZES["hidden_size"],
            block_dim=SIZES["hidden_size"],
            block_ff_dim=SIZES["intermediate_size"],
            block_multiple_of=64,
        )
    if name == "states":
        return transformers.GraniteMoeHybridConfig(
            **without_head_dim,
            num_hidden_layers=4,
            layer_types=["mamba", "mamba", "attention", "mamba"],
            num_local_experts=4,
            num_experts_per_tok=2,
            shared_intermediate_size=320,
            mamba_n_heads=8,
            mamba_d_state=32,
            mamba_d_head=64,
        )
    if name == "deltas":
        return transformers.Qwen3NextConfig(
            **SIZES,
            num_hidden_layers=4,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=128,
            shared_expert_intermediate_size=128,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=64,
            linear_value_head_dim=64,
        )
    raise SystemExit(f"no tiny model '{name}'")


def make(folder: Path, name: str) -> None:
    """Write one checkpoint with random weights."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = _config(name)
    AutoModelForCausalLM.from_config(config, torch_dtype=torch.float32).save_pretrained(folder)


def _note_weights(noted: list[int]) -> None:
    """Note the bytes of a model's weights when they are loaded, before the CPU packs them anew."""
    from vllm.model_executor.model_loader import base_loader

    packing = base_loader.process_weights_after_loading

    def note(model: Any, *rest: Any) -> None:
        sizes = {id(p): p.numel() * p.element_size() for p in model.parameters()}
        noted.append(sum(sizes.values()))
        packing(model, *rest)

    base_loader.process_weights_after_loading = note


def measure(folder: Path) -> dict[str, Any]:
    """Load a checkpoint in vLLM and return what it holds."""
    from vllm import LLM

    noted: list[int] = []
    _note_weights(noted)
    llm = LLM(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=CONTEXT,
        kv_cache_memory_bytes=CACHE_BYTES,
        max_num_batched_tokens=BATCHED_TOKENS,
        max_num_seqs=4,
        block_size=BLOCK_TOKENS,
        enable_prefix_caching=False,
        distributed_executor_backend="uni",
    )
    cache = llm.llm_engine.vllm_config.cache_config
    return {
        "weight_bytes": noted[0],
        "blocks": cache.num_gpu_blocks,
        "block_tokens": cache.block_size,
    }


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    folder.mkdir(parents=True, exist_ok=True)
    make(folder, name)
    print(json.dumps({"name": name, **measure(folder)}))


if __name__ == "__main__":
    main()
