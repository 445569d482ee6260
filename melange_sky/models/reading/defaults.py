"""Defaults of configuration classes, which stand in for what a section leaves out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from melange_sky.models.fields import ALIASES, Fields
from melange_sky.resources import catalogs_dir

_SAME_CLASS = {"kimi_k2": "deepseek_v3"}
"""Types that engines read by the class of another."""


@lru_cache(maxsize=1)
def _defaults() -> dict[str, dict[str, Any]]:
    document = json.loads((catalogs_dir() / "config_defaults.json").read_text(encoding="utf-8"))
    defaults: dict[str, dict[str, Any]] = document["defaults"]
    return defaults


def class_defaults(model_type: str) -> Mapping[str, Any]:
    """Return the defaults of the `transformers` class of a model type, empty where there is none."""
    return _defaults().get(_SAME_CLASS.get(model_type, model_type), {})


STATED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "intermediate_size",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "kv_lora_rank",
    "q_lora_rank",
    "layer_types",
    "max_position_embeddings",
    "n_shared_experts",
)
"""Sizes that a config states at its top; only in a nested section do class defaults stand in for them."""

CONTEXT = "max_position_embeddings"
"""What no size follows from: its class default is told, see `context_tokens`."""


def stated_at_top(raw: Mapping[str, Any], where: str, model_type: str) -> Fields:
    """Return the fields of a config whose sizes stand at its top, where a file states most of them."""
    defaults = class_defaults(model_type)
    stated = {name for key in STATED for name in (key, *ALIASES.get(key, ()))} - {CONTEXT}
    withheld = {key: value for key, value in defaults.items() if key in stated}
    rest = {key: value for key, value in defaults.items() if key not in {*stated, CONTEXT}}
    return Fields(raw, where, rest, withheld)
