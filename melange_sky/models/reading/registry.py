"""The families that are read, by `model_type` and by `architectures`: everything else is refused."""

from __future__ import annotations

from collections.abc import Callable

from melange_sky.models.fields import Fields
from melange_sky.models.reading.blocks import read_longcat, read_nas_blocks, read_zamba2
from melange_sky.models.reading.compressed import read_deepseek_v4
from melange_sky.models.reading.decoder import Decoder, read_decoder
from melange_sky.models.reading.families_dense import DENSE
from melange_sky.models.reading.families_experts import EXPERTS
from melange_sky.models.reading.families_hybrid import HYBRID
from melange_sky.models.reading.family import Family
from melange_sky.models.reading.gemma import read_gemma3n, read_gemma4
from melange_sky.models.reading.single_mixer import read_parallel_mixers, read_single_mixer

FAMILIES: tuple[Family, ...] = (*DENSE, *EXPERTS, *HYBRID)

BY_TYPE: dict[str, Family] = {name: family for family in FAMILIES for name in family.types}
BY_ARCHITECTURE: dict[str, Family] = {
    name: family for family in FAMILIES for name in family.architectures
}

READERS: dict[str, Callable[[Fields, Family], Decoder]] = {
    "decoder": read_decoder,
    "single_mixer": read_single_mixer,
    "nas_blocks": read_nas_blocks,
    "parallel_mixers": read_parallel_mixers,
    "gemma3n": read_gemma3n,
    "gemma4": read_gemma4,
    "deepseek_v4": read_deepseek_v4,
    "longcat": read_longcat,
    "zamba2": read_zamba2,
}
