"""The attention of one layer of a config, as its family builds it."""

from __future__ import annotations

from dataclasses import dataclass

from melange_sky.errors import InputError
from melange_sky.models.fields import ALIASES, Fields
from melange_sky.models.layers import Attention, AttentionKind, Matrix
from melange_sky.models.reading.attention import (
    AttentionTraits,
    Heads,
    Indexer,
    Latent,
    grouped,
    latent,
    with_block_index,
)
from melange_sky.models.reading.family import Family, is_on
from melange_sky.models.reading.patterns import Mixer
from melange_sky.models.reading.recurrent import (
    STATE_BYTES,
    DeltaNet,
    KimiDelta,
    Mamba1,
    Mamba2,
    delta_net,
    kimi_delta,
    lightning,
    mamba1,
    mamba2,
    short_conv,
)

Mixed = tuple[Attention, tuple[Matrix, ...]]


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
    if heads % kv_heads:
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
            f"{fields.where}: 'num_attention_heads' differs from layer to layer, which is not read"
        )
    return fields.whole("num_attention_heads")


def _kv_heads(fields: Fields, family: Family, heads: int) -> int:
    """Return the key-value heads as vLLM counts them: Falcon's new form ignores `multi_query`."""
    if "multi_query" in fields.raw or "multi_query" in fields.defaults:
        fields.read.update(("new_decoder_architecture", *ALIASES["num_key_value_heads"]))
        if fields.flag("multi_query") and not fields.flag("new_decoder_architecture"):
            return 1
    if (nested := fields.section("attn_config")) is not None:
        return nested.maybe("kv_n_heads") or heads
    if family.types[0] == "chatglm" and not fields.flag("multi_query_attention"):
        return heads
    return fields.maybe("num_key_value_heads") or heads


def mix(kind: Mixer, fields: Fields, family: Family, core: Core, number: int) -> Mixed:
    """Return the attention of layer `number` with its weights."""
    if kind == "linear":
        return _linear(fields, family, core)
    if family.attention == "latent":
        return _latent(fields, family, core, number)
    return _grouped(kind, fields, family, core, number)


def _grouped(kind: Mixer, fields: Fields, family: Family, core: Core, number: int) -> Mixed:
    window = None
    if kind == "sliding":
        window = fields.whole("sliding_window")
    elif kind == "chunked":
        window = fields.whole("attention_chunk_size")
    heads = _layer_heads(kind, fields, core, number)
    head_norm = family.head_norm
    if family.head_norm_field is not None and not fields.flag(family.head_norm_field):
        head_norm = "none"
    gate = family.gate
    if family.gate_field is not None and not fields.flag(family.gate_field):
        gate = "none"
    traits = AttentionTraits(
        module=family.module,
        qkv_bias=is_on(fields, family.qkv_bias),
        o_bias=is_on(fields, family.o_bias),
        head_norm=head_norm,
        gate=gate,
        sinks=family.sinks or _sinks(fields, kind),
    )
    name: AttentionKind = "full"
    if window is not None:
        name = "chunked" if kind == "chunked" else "sliding"
    mixed = grouped(heads, traits, name, window)
    if family.block_index:
        index = _block_index(fields, core, number)
        if index is not None:
            return with_block_index(mixed, core.hidden, *index)
    return mixed


def _block_index(fields: Fields, core: Core, number: int) -> tuple[int, int] | None:
    """Return (heads, head size) of the index of a layer that attends to chosen blocks (MiniMax-M3)."""
    section = fields.section("sparse_attention_config")
    if section is not None:
        section.read.update(section.raw)
        flags = section.wholes("sparse_attention_freq", core.layers) or [1] * core.layers
        if not section.flag("use_sparse_attention", True) or not flags[number]:
            return None
        return section.whole("sparse_num_index_heads"), section.whole("sparse_index_dim")
    types = fields.words("layer_types", core.layers)
    if types is None or types[number] != "minimax_m3_sparse":
        return None
    return fields.whole("index_n_heads"), fields.whole("index_head_dim")


def _sinks(fields: Fields, kind: Mixer) -> bool:
    key = "add_swa_attention_sink_bias" if kind == "sliding" else "add_full_attention_sink_bias"
    return fields.flag(key)


def _layer_heads(kind: Mixer, fields: Fields, core: Core, number: int) -> Heads:
    """Return a layer's heads where sliding layers, or single ones, have sizes of their own."""
    heads, kv_heads, head_dim = core.heads, core.kv_heads, core.head_dim
    value_dim = fields.maybe("v_head_dim")
    listed = fields.wholes("num_attention_heads_per_layer", core.layers)
    if listed is not None:
        heads = max(1, listed[number])
    if kind == "sliding":
        heads = fields.maybe("swa_num_attention_heads") or (
            fields.maybe("num_sliding_attention_heads") or heads
        )
        kv_heads = fields.maybe("swa_num_key_value_heads") or kv_heads
        head_dim = fields.maybe("swa_head_dim") or head_dim
        value_dim = fields.maybe("swa_v_head_dim") or value_dim
        other = fields.section("attention_other_setting")
        if other is not None:
            other.read.update(other.raw)
            heads = other.maybe("num_attention_heads") or heads
            kv_heads = other.maybe("num_key_value_heads") or kv_heads
            head_dim = other.maybe("head_dim") or head_dim
    if heads % kv_heads:
        raise InputError(
            f"{fields.where}: {heads} heads of layer {number} are not a multiple of its {kv_heads} key-value heads"
        )
    return Heads(
        hidden=core.hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, value_dim=value_dim
    )


def _latent(fields: Fields, family: Family, core: Core, number: int) -> Mixed:
    fields.read.update(("qk_head_dim", "head_dim", "num_key_value_heads"))
    sizes = Latent(
        hidden=core.hidden,
        heads=core.heads,
        latent=fields.whole("kv_lora_rank"),
        rope=fields.whole("qk_rope_head_dim"),
        nope=fields.whole("qk_nope_head_dim"),
        value=fields.whole(
            "v_head_dim", core.hidden // core.heads if family.types[0] == "minicpm3" else None
        ),
        query_rank=fields.maybe("q_lora_rank"),
        bias=fields.flag("attention_bias"),
        gate="width" if fields.flag("mla_use_output_gate") else family.gate,
        module=family.module,
    )
    return latent(sizes, _indexer(fields, core, number))


def _indexer(fields: Fields, core: Core, number: int) -> Indexer | None:
    top = fields.maybe("index_topk")
    heads, head_dim = fields.maybe("index_n_heads"), fields.maybe("index_head_dim")
    if top is None or heads is None or head_dim is None:
        return None
    if _shares_index(fields, core, number):
        return None
    return Indexer(heads=heads, head_dim=head_dim, top_tokens=top)


def _shares_index(fields: Fields, core: Core, number: int) -> bool:
    """Return whether a layer uses the choice of an earlier one (GLM-5.2) and has no indexer."""
    types = fields.words("indexer_types", core.layers)
    if types is not None:
        return types[number] == "shared"
    pattern = fields.text("index_topk_pattern")
    if pattern:
        return pattern[number % len(pattern)] == "S"
    frequency = fields.maybe("index_topk_freq") or 1
    offset = fields.maybe("index_skip_topk_offset") or 2
    return max(number - offset + 1, 0) % frequency != 0


def _linear(fields: Fields, family: Family, core: Core) -> Mixed:
    builders = {
        "delta_net": _delta_net,
        "mamba1": _mamba1,
        "mamba2": read_mamba2,
        "kda": _kda,
        "lightning": _lightning,
        "short_conv": _short_conv,
    }
    builder = builders.get(family.linear)
    if builder is None:
        raise InputError(
            f"{fields.where}: 'layer_types' holds linear layers, which {family.types[0]} does not have"
        )
    return builder(fields, core)


def _state_bytes(fields: Fields) -> int:
    word = fields.text("mamba_ssm_dtype") or fields.text("mamba_ssm_cache_dtype") or "auto"
    if word not in STATE_BYTES:
        raise InputError(
            f"{fields.where}: 'mamba_ssm_dtype' holds '{word[:40]}', which is not read"
        )
    return STATE_BYTES[word]


def _delta_net(fields: Fields, core: Core) -> Mixed:
    sizes = DeltaNet(
        hidden=core.hidden,
        key_heads=fields.whole("linear_num_key_heads"),
        value_heads=fields.whole("linear_num_value_heads"),
        key_dim=fields.whole("linear_key_head_dim"),
        value_dim=fields.whole("linear_value_head_dim"),
        kernel=fields.whole("linear_conv_kernel_dim", 4),
        state_bytes=_state_bytes(fields),
    )
    return delta_net(sizes)


def _mamba1(fields: Fields, core: Core) -> Mixed:
    inner = fields.maybe("mamba_d_inner") or fields.whole("mamba_expand", 2) * core.hidden
    sizes = Mamba1(
        hidden=core.hidden,
        inner=inner,
        state=fields.whole("mamba_d_state", 16),
        kernel=fields.whole("mamba_d_conv", 4),
        rank=fields.maybe("mamba_dt_rank") or -(-core.hidden // 16)
        if not isinstance(fields.get("mamba_dt_rank"), str)
        else -(-core.hidden // 16),
        conv_bias=fields.flag("mamba_conv_bias", True),
        proj_bias=fields.flag("mamba_proj_bias"),
        inner_norms=True,
        state_bytes=_state_bytes(fields),
    )
    return mamba1(sizes)


def read_mamba2(fields: Fields, core: Core) -> Mixed:
    """Return a Mamba-2 mixer from the names that Bamba, Falcon-H1, Granite and Nemotron-H use."""

    def first(*keys: str, default: int | None = None) -> int:
        for key in keys[:-1]:
            if (value := fields.maybe(key)) is not None:
                return value
        return fields.whole(keys[-1], default)

    heads = first("mamba_num_heads", "n_mamba_heads", "mamba_n_heads")
    inner = fields.maybe("mamba_d_ssm")
    head_dim = (
        fields.get("mamba_head_dim") or fields.get("mamba_d_head") or fields.get("mamba_headdim")
    )
    if inner is None:
        expanded = first("expand", "mamba_expand", default=2) * core.hidden
        inner = heads * head_dim if _is_size(head_dim) else expanded
    if not _is_size(head_dim):
        head_dim = max(1, inner // heads)
    sizes = Mamba2(
        hidden=core.hidden,
        heads=heads,
        head_dim=head_dim,
        groups=first("mamba_ngroups", "n_groups", "mamba_n_groups", default=1),
        state=first("ssm_state_size", "mamba_d_state", default=128),
        kernel=first("conv_kernel", "mamba_d_conv", default=4),
        inner=inner,
        conv_bias=fields.flag("use_conv_bias", fields.flag("mamba_conv_bias", True)),
        proj_bias=fields.flag("mamba_proj_bias", fields.flag("use_bias")),
        gated_norm=fields.flag("mamba_rms_norm", True),
        state_bytes=_state_bytes(fields),
    )
    return mamba2(sizes)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**6


def _kda(fields: Fields, core: Core) -> Mixed:
    section = fields.section("linear_attn_config")
    if section is None:
        return kimi_delta(
            KimiDelta(
                hidden=core.hidden,
                heads=fields.whole("linear_num_heads"),
                head_dim=fields.whole("linear_head_dim"),
                kernel=fields.maybe("linear_conv_kernel_dim")
                or fields.whole("short_conv_kernel_size", 4),
                full_forget="bailing" in fields.text("model_type"),
            )
        )
    return kimi_delta(
        KimiDelta(
            hidden=core.hidden,
            heads=section.whole("num_heads"),
            head_dim=section.whole("head_dim"),
            kernel=section.whole("short_conv_kernel_size", 4),
            full_rank=section.flag("use_full_rank_gate"),
        )
    )


def _lightning(fields: Fields, core: Core) -> Mixed:
    return lightning(core.hidden, core.heads, core.head_dim)


def _short_conv(fields: Fields, core: Core) -> Mixed:
    return short_conv(core.hidden, fields.whole("conv_L_cache", 3), fields.flag("conv_bias"))
