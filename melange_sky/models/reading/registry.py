"""The families that are read, by `model_type` and by `architectures`: everything else is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from melange_sky.models.fields import ALIASES, Fields
from melange_sky.models.reading.decoder import Decoder
from melange_sky.models.reading.families_dense import DENSE
from melange_sky.models.reading.families_experts import EXPERTS
from melange_sky.models.reading.families_hybrid import HYBRID
from melange_sky.models.reading.families_others import OTHERS
from melange_sky.models.reading.families_ungated import UNGATED
from melange_sky.models.reading.family import ExpertTraits, Family

FAMILIES: tuple[Family, ...] = (*DENSE, *UNGATED, *EXPERTS, *HYBRID, *OTHERS)

BY_TYPE: dict[str, Family] = {name: family for family in FAMILIES for name in family.types}
BY_ARCHITECTURE: dict[str, Family] = {
    name: family for family in FAMILIES for name in family.architectures
}

READERS: dict[str, str] = {
    "decoder": "decoder:read_decoder",
    "single_mixer": "single_mixer:read_single_mixer",
    "nas_blocks": "blocks:read_nas_blocks",
    "parallel_mixers": "single_mixer:read_parallel_mixers",
    "gemma3n": "gemma:read_gemma3n",
    "gemma4": "gemma:read_gemma4",
    "deepseek_v4": "compressed:read_deepseek_v4",
    "longcat": "blocks:read_longcat",
    "zamba2": "blocks:read_zamba2",
    "molmo": "molmo:read_molmo",
    "mpt": "mpt:read_mpt",
}
"""Reader → where it is: each is imported when a config needs it."""


def plain_family(config: Mapping[str, Any]) -> Family:
    """Return a plain decoder, with experts where a config counts some: for bytes to confirm or refuse."""
    counted = any(config.get(key) for key in ("num_experts", *ALIASES["num_experts"]))
    return Family(
        types=("plain",),
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        mlp_bias="mlp_bias",
        experts=ExpertTraits(or_dense_width=True) if counted else None,
    )


def reader_of(family: Family) -> Callable[[Fields, Family], Decoder]:
    """Return the function that reads configs of a family."""
    module, _, name = READERS[family.reader].partition(":")
    reader: Callable[[Fields, Family], Decoder] = getattr(
        import_module(f"melange_sky.models.reading.{module}"), name
    )
    return reader
