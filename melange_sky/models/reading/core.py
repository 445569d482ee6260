"""The sizes that every decoder has."""

from __future__ import annotations

from dataclasses import dataclass

from melange_sky.errors import InputError
from melange_sky.models.fields import ALIASES, Fields
from melange_sky.models.layers import Attention, Matrix
from melange_sky.models.reading.family import Family

Mixed = tuple[Attention, tuple[Matrix, ...]]
"""The attention of a layer, with its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The sizes that every decoder has."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


def read_core(fields: Fields, family: Family) -> Core:
    """Read the sizes that every decoder has; raise InputError that names what is missing."""
    hidden, layers = fields.whole("hidden_size"), fields.layers()
    heads = _heads(fields)
    vocabulary = fields.whole("vocab_size")
    kv_heads = _kv_heads(fields, family, heads)
    head_dim = fields.maybe("head_dim") or max(1, hidden // heads)
    if not fields.has("head_dim") and hidden % heads and family.attention == "grouped":
        fields.told.append(
            f"'hidden_size' ({hidden}) is not a multiple of 'num_attention_heads' ({heads}) and no 'head_dim' is "
            f"stated: heads of {head_dim} are assumed, and engines may refuse it"
        )
    if heads % kv_heads and family.attention != "latent":  # which caches no heads
        raise InputError(
            f"{fields.where}: num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({kv_heads})"
        )
    return Core(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
    )


def _heads(fields: Fields) -> int:
    if isinstance(fields.raw.get("num_attention_heads"), list):  # OpenELM-like configs
        raise InputError(
            f"{fields.where}: 'num_attention_heads' differs from layer to layer, which is not supported"
        )
    return fields.whole("num_attention_heads")


def _kv_heads(fields: Fields, family: Family, heads: int) -> int:
    """Return the key-value heads as engines count them: Falcon's new form ignores `multi_query`."""
    if "multi_query" in fields.raw or "multi_query" in fields.defaults:
        heads_fields = ("num_key_value_heads", *ALIASES["num_key_value_heads"])
        fields.read.update(("new_decoder_architecture", *heads_fields))
        if fields.flag("multi_query") and not fields.flag("new_decoder_architecture"):
            return 1
        if family.types[0] == "gpt_bigcode":
            return heads
    if (nested := fields.section("attn_config")) is not None:
        if family.reader == "mpt":
            from melange_sky.models.reading.mpt_heads import (
                mpt_kv_heads,  # few models are of this kind
            )

            return mpt_kv_heads(nested, heads)
        return nested.maybe("kv_n_heads") or heads
    if family.types[0] == "chatglm" and not fields.flag("multi_query_attention"):
        return heads
    if family.attention == "latent":
        return fields.maybe("num_key_value_heads") or heads
    return fields.whole("num_key_value_heads", heads)
