"""The state-keeping layers of a config, as its family builds them."""

from __future__ import annotations

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields, shown
from melange_sky.models.reading.core import Core, Mixed
from melange_sky.models.reading.family import Family
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


def read_linear(fields: Fields, family: Family, core: Core) -> Mixed:
    """Return the state-keeping layer of a family with its weights."""
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


def _state_bytes(fields: Fields) -> int | None:
    word = fields.text("mamba_ssm_dtype") or fields.text("mamba_ssm_cache_dtype") or "auto"
    if word not in STATE_BYTES:
        raise InputError(
            f"{fields.where}: 'mamba_ssm_dtype' holds '{shown(word)}', which is not supported"
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
        if fields.has("mamba_headdim"):  # Zamba2 derives it, whatever the file states
            inner, head_dim = expanded, None
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
                heads=_kda_heads(fields, core),
                head_dim=fields.maybe("linear_head_dim") or core.head_dim,
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


def _kda_heads(fields: Fields, core: Core) -> int:
    """Return the heads of linear layers, which engines take from the attention; tell where they differ."""
    stated = fields.maybe("linear_num_heads")
    if stated is not None and stated != core.heads:
        fields.told.append(
            f"'linear_num_heads' ({stated}) is not 'num_attention_heads' ({core.heads}), which engines take in its place"
        )
    return stated or core.heads


def _lightning(fields: Fields, core: Core) -> Mixed:
    return lightning(core.hidden, core.heads, core.head_dim)


def _short_conv(fields: Fields, core: Core) -> Mixed:
    return short_conv(core.hidden, fields.whole("conv_L_cache", 3), fields.flag("conv_bias"))
