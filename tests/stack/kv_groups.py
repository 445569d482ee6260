"""Run inside vLLM's environment: how its allocator deals out layers. JSON in, JSON out.

Input: a list of [name, tokens of a block, [[count, layer], …]]; output per name: bytes of a block, and
per table its layers and the tokens of its blocks.
"""

import json
import sys


def spec_of(layer, block):
    """Return one layer's cache as vLLM describes it."""
    import torch
    from vllm.v1 import kv_cache_interface as kinds

    sizes = {"block_size": block, "dtype": torch.bfloat16}
    if layer["kind"] == "state":
        return kinds.MambaSpec(
            block_size=block,
            shapes=((layer["bytes"],),),
            dtypes=(torch.uint8,),
            page_size_padded=layer["page"],
            mamba_cache_mode="align",
        )
    if layer["kind"] == "latent":
        return kinds.MLAAttentionSpec(num_kv_heads=1, head_size=layer["head_dim"], **sizes)
    sizes |= {"num_kv_heads": layer["kv_heads"], "head_size": layer["head_dim"]}
    sizes["head_size_v"] = layer.get("value_dim", layer["head_dim"])
    if layer["kind"] == "sliding":
        return kinds.SlidingWindowSpec(sliding_window=layer["window"], **sizes)
    if layer["kind"] == "chunked":
        return kinds.ChunkedLocalAttentionSpec(attention_chunk_size=layer["window"], **sizes)
    return kinds.FullAttentionSpec(**sizes)


def groups_of(specs):
    """Return the tables, in the order of `get_kv_cache_groups` where pages lie layer by layer."""
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.kv_cache_interface import UniformTypeKVCacheSpecs

    if kv_cache_utils.is_kv_cache_spec_uniform(specs):
        return kv_cache_utils._get_kv_cache_groups_uniform_spec(specs)
    if uniform := UniformTypeKVCacheSpecs.from_specs(specs):
        return kv_cache_utils._get_kv_cache_groups_uniform_type(uniform)
    pages = kv_cache_utils.unify_kv_cache_spec_page_size(specs)
    return kv_cache_utils._get_kv_cache_groups_uniform_page_size(pages)


def main():
    """Answer every model of the input."""
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.kv_cache_layout import KVCacheLayout

    found = {}
    for name, block, layers in json.load(sys.stdin):
        flat = [layer for count, layer in layers for _ in range(count)]
        specs = {f"layer.{i}": spec_of(layer, block) for i, layer in enumerate(flat)}
        groups = groups_of(specs)
        size = kv_cache_utils._get_kv_cache_bytes_per_block(groups, KVCacheLayout.LBHNC)
        tables = [[len(g.layer_names), g.kv_cache_spec.block_size] for g in groups]
        found[name] = {"block_bytes": size, "tables": tables}
    print("FOUND " + json.dumps(found))


if __name__ == "__main__":
    main()
