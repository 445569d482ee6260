"""The feed-forward of one layer of a config, as its family builds it."""

from __future__ import annotations

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields, shown
from melange_sky.models.layers import FeedForward, Matrix
from melange_sky.models.reading.core import Core
from melange_sky.models.reading.family import ExpertTraits, Family, is_on
from melange_sky.models.reading.feed_forward import Dense, Experts, dense, experts

Fed = tuple[FeedForward, tuple[Matrix, ...]]


def read_dense(fields: Fields, family: Family, core: Core, number: int = 0) -> Fed:
    """Return the dense feed-forward of a layer with its weights."""
    width = _dense_width(fields, family, core, number)
    traits = family.experts
    return dense(
        Dense(
            hidden=core.hidden,
            width=width,
            gated=family.gated,
            bias=is_on(fields, family.mlp_bias),
            module=family.mlp_module if traits is None else traits.dense_module,
        )
    )


def _dense_width(fields: Fields, family: Family, core: Core, number: int) -> int:
    traits = family.experts
    key = "intermediate_size" if traits is None else traits.dense_width
    if traits is not None and traits.dense_first is not None:
        width = fields.maybe(traits.dense_first)
        if width is not None:
            return width
    listed = fields.get(key)
    if isinstance(listed, list):
        widths = fields.wholes(key, core.layers) or []
        return max(1, widths[number])
    if family.types[0] == "lfm2":
        return _lfm2_width(fields)
    if fields.maybe("expansion_ratio") is not None:
        return core.hidden * fields.whole("expansion_ratio")
    width = fields.whole(key, None if family.gated else 4 * core.hidden)
    return width // 2 if family.width_of_both else width


def _lfm2_width(fields: Fields) -> int:
    """LFM2 shrinks its stated width to two thirds, rounded up to a multiple."""
    width = fields.maybe("block_ff_dim") or fields.whole("intermediate_size")
    if not fields.flag("block_auto_adjust_ff_dim", True):
        return width
    width = int(2 * width / 3)
    width = int(fields.number("block_ffn_dim_multiplier", 1.0) * width)
    multiple = fields.whole("block_multiple_of", 256)
    return multiple * -(-width // multiple)


def expert_count(fields: Fields, family: Family) -> int:
    """Return how many experts a config states, 0 where it is dense."""
    if family.experts is None:
        if fields.raw.get("num_experts") == 1:  # the dense models of a family that has others
            fields.read.add("num_experts")
        return 0
    section = fields.section("ffn_config")
    if section is not None:
        return section.maybe("moe_num_experts") or 0
    if "enable_moe_block" in fields.raw and not _has_moe_block(fields):
        fields.read.update(("top_k_experts", "moe_intermediate_size"))
        return 0
    value = fields.get("num_experts")
    if isinstance(value, list) and value:  # Ernie-VL: text and vision experts
        return max(fields.wholes("num_experts") or [0])
    count = fields.maybe("num_experts") or 0
    if count > 100_000:
        raise InputError(f"{fields.where}: 'num_experts' is {count}; no model has so many")
    if count > 1:
        return count
    if fields.has("num_experts"):
        fields.has("num_experts_per_tok")  # of no experts none answers, whatever the field says
    return 0


def _has_moe_block(fields: Fields) -> bool:
    """Return what Gemma 4 states of its experts: `transformers` goes by the switch, engines by the count.

    Where they differ, none of the two models is the one in the files: InputError.
    """
    switched = fields.flag("enable_moe_block")
    if switched is not (fields.maybe("num_experts") is not None):
        raise InputError(
            f"{fields.where}: 'enable_moe_block' ({fields.raw['enable_moe_block']}) contradicts 'num_experts' "
            f"({shown(fields.raw.get('num_experts'))}): transformers goes by the first, engines by the second"
        )
    return switched


def read_experts(fields: Fields, family: Family, core: Core, count: int) -> Fed:
    """Return the mixture of experts of a layer with its weights."""
    traits = family.experts or ExpertTraits()
    per_token = _per_token(fields)
    if per_token > count:
        raise InputError(f"{fields.where}: {per_token} experts per token of {count} experts")
    width = _expert_width(fields, traits)
    latent = fields.maybe("moe_latent_size") or fields.maybe("routed_expert_hidden_size")
    idle = fields.maybe("zero_expert_num") or 0
    fields.read.add("zero_expert_type")
    router_extra = (core.hidden if traits.norm else 0) + (
        count if is_on(fields, traits.router_bias) else 0
    )
    return experts(
        Experts(
            hidden=core.hidden,
            count=count,
            per_token=per_token,
            width=width,
            gated=family.gated,
            bias=traits.bias,
            shared_width=_shared_width(fields, traits, width),
            shared_gate=traits.shared_gate,
            shared_module=traits.shared_module,
            router_outputs=count + idle,
            router_extra=router_extra + (idle if traits.router_bias else 0),
            latent=latent,
            latent_norm=fields.flag("latent_moe_use_norm"),
            module=traits.module,
            experts_module=traits.experts_module,
        )
    )


def _per_token(fields: Fields) -> int:
    section = fields.section("ffn_config")
    if section is not None:
        return section.whole("moe_top_k")
    value = fields.get("num_experts_per_tok")
    if isinstance(value, list) and value:
        return max(1, *(fields.wholes("num_experts_per_tok") or [1]))
    return fields.whole("num_experts_per_tok")


def _expert_width(fields: Fields, traits: ExpertTraits) -> int:
    section = fields.section("ffn_config")
    if section is not None:
        return section.whole("ffn_hidden_size")
    value = fields.get(traits.width)
    if isinstance(value, list) and value:
        return max(1, (fields.wholes(traits.width) or [1])[0])
    width = fields.maybe(traits.width)
    if width is None and traits.or_dense_width:
        return fields.whole(traits.dense_width)
    return fields.whole(traits.width) if width is None else width


def _shared_width(fields: Fields, traits: ExpertTraits, width: int) -> int:
    if traits.shared_width is not None:
        stated = fields.maybe(traits.shared_width)
        if stated is not None or traits.shared_width in fields.raw:
            fields.read.add(traits.shared_width)
            for_each = traits.shared_width.startswith(("moe_", "intermediate"))
            several = fields.has("n_shared_experts") and for_each
            return (stated or 0) * (_shared_experts(fields) or 1 if several else 1)
    if traits.always_shared:
        return width
    return width * _shared_experts(fields)


def _shared_experts(fields: Fields) -> int:
    """Return how many shared experts a layer has, the most where layers differ."""
    value = fields.get("n_shared_experts")
    if isinstance(value, list) and value:
        return max(fields.wholes("n_shared_experts") or [0])
    return fields.maybe("n_shared_experts") or 0
