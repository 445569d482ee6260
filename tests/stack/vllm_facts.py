"""Print what the installed vLLM knows of models, as one line of JSON. Run by its own interpreter."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from typing import Any


def _lists(function: Any) -> list[list[str]]:
    """Return the lists and tuples of texts in a function's source, in order."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple | ast.Set) and node.elts:
            texts = [e.value for e in node.elts if isinstance(e, ast.Constant)]
            if len(texts) == len(node.elts) and all(isinstance(t, str) for t in texts):
                found.append(texts)
    return found


def _rounded() -> dict[str, list[int]]:
    """Return what hidden size and width of gpt-oss become under each backend of MXFP4 experts."""
    from vllm.model_executor.layers.fused_moe.oracle import mxfp4

    return {
        name: list(
            mxfp4.mxfp4_round_up_hidden_size_and_intermediate_size(
                getattr(mxfp4.Mxfp4MoeBackend, name), 2880, 2880 // 4
            )
        )
        for name in ("MARLIN", "TRITON", "FLASHINFER_TRTLLM_MXFP4_BF16")
    }


def main() -> None:
    from transformers import CONFIG_MAPPING
    from vllm.config import model as config
    from vllm.config.quantization import ONLINE_QUANT_SHORTHAND_NAMES
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.model_executor.models import registry
    from vllm.transformers_utils.config import _CONFIG_REGISTRY
    from vllm.transformers_utils.model_arch_config_convertor import (
        ModelArchConfigConvertorBase as Convertor,
    )

    not_multiplied = next(
        texts for texts in _lists(config._get_and_verify_max_len) if "llama3" in texts
    )
    document = {
        "architectures": sorted(registry.ModelRegistry.get_supported_archs()),
        "config_types": sorted({*CONFIG_MAPPING.keys(), *_CONFIG_REGISTRY}),
        "dropped": registry._PREVIOUSLY_SUPPORTED_MODELS,
        "kv_heads": _lists(Convertor.get_total_num_kv_heads)[0],
        "experts": _lists(Convertor.get_num_experts)[0],
        "experts_per_token": _lists(Convertor.get_num_experts_per_token)[0],
        "lengths": _lists(Convertor.derive_max_model_len_and_key)[0],
        "not_multiplied": not_multiplied,
        "rounded": _rounded(),
        "quantization": list(QUANTIZATION_METHODS),
        "while_loading": list(ONLINE_QUANT_SHORTHAND_NAMES),
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
