"""Layers that keep a state per sequence instead of keys and values per token.

The state is what an engine keeps for each sequence: the last inputs of the short convolution in the
model's 16-bit type, and the recurrent state in the type that the config names (float32 where it says
so, as for Mamba and delta nets).
"""

from __future__ import annotations

from dataclasses import dataclass

from melange_sky.models.layers import Attention, Matrix

VALUE_BYTES = 2
"""Bytes of a value in the 16 bits that a model computes in unless a flag says otherwise."""

STATE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "auto": None}
"""Word for the type of a state → bytes per value, None: that which the model computes in."""


def _linear(module: str, name: str, outputs: int, inputs: int, extra: int = 0) -> Matrix:
    return Matrix(
        name=f"{module}.{name}",
        part="linear_attention",
        outputs=outputs,
        inputs=inputs,
        extra=extra,
    )


def _beside(module: str, name: str, values: int) -> Matrix:
    return Matrix(name=f"{module}.{name}", part="linear_attention", inputs=values, linear=False)


def _state(
    conv_values: int,
    recurrent_values: int,
    value_bytes: int | None,
    heads: int = 0,
    key_heads: int = 0,
) -> Attention:
    """Return a state whose convolutions are kept in the model's own type, the rest in `value_bytes` each."""
    plain = conv_values + (recurrent_values if value_bytes is None else 0)
    fixed = 0 if value_bytes is None else recurrent_values * value_bytes
    return Attention(
        kind="linear",
        heads=heads,
        kv_heads=key_heads,
        state_bytes=plain * VALUE_BYTES + fixed,
        state_values=plain,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaNet:
    """Sizes of a gated delta net (Yang et al., arXiv 2412.06464)."""

    hidden: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    state_bytes: int | None = 4
    module: str = "linear_attn"


def delta_net(sizes: DeltaNet) -> tuple[Attention, tuple[Matrix, ...]]:
    """Return one gated delta net layer with its weights."""
    keys, values = sizes.key_heads * sizes.key_dim, sizes.value_heads * sizes.value_dim
    mixed = 2 * keys + values
    module = sizes.module
    matrices = (
        _linear(module, "in_proj_qkv", mixed, sizes.hidden),
        _linear(module, "in_proj_z", values, sizes.hidden),
        _linear(module, "in_proj_b", sizes.value_heads, sizes.hidden),
        _linear(module, "in_proj_a", sizes.value_heads, sizes.hidden),
        _linear(module, "out_proj", sizes.hidden, values),
        _beside(module, "conv1d", mixed * sizes.kernel),
        _beside(module, "norm", sizes.value_dim + 2 * sizes.value_heads),
    )
    recurrent = sizes.value_heads * sizes.key_dim * sizes.value_dim
    conv = mixed * (sizes.kernel - 1)
    return _state(conv, recurrent, sizes.state_bytes, sizes.value_heads, sizes.key_heads), matrices


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2:
    """Sizes of a Mamba-2 mixer (Dao and Gu, arXiv 2405.21060)."""

    hidden: int
    heads: int
    head_dim: int
    groups: int
    state: int
    kernel: int
    inner: int
    conv_bias: bool = True
    proj_bias: bool = False
    gated_norm: bool = True
    state_bytes: int | None = None
    module: str = "mamba"


def mamba2(sizes: Mamba2) -> tuple[Attention, tuple[Matrix, ...]]:
    """Return one Mamba-2 mixer with its weights."""
    conv = sizes.inner + 2 * sizes.groups * sizes.state
    projected = sizes.inner + conv + sizes.heads
    bias = 1 if sizes.proj_bias else 0
    module = sizes.module
    matrices = (
        _linear(module, "in_proj", projected, sizes.hidden, bias * projected),
        _linear(module, "out_proj", sizes.hidden, sizes.inner, bias * sizes.hidden),
        _beside(module, "conv1d", conv * (sizes.kernel + (1 if sizes.conv_bias else 0))),
        _beside(module, "norm", 3 * sizes.heads + (sizes.inner if sizes.gated_norm else 0)),
    )
    recurrent = sizes.heads * sizes.head_dim * sizes.state
    return _state(conv * (sizes.kernel - 1), recurrent, sizes.state_bytes, sizes.heads), matrices


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba1:
    """Sizes of a Mamba mixer (Gu and Dao, arXiv 2312.00752); `inner_norms` as in Jamba."""

    hidden: int
    inner: int
    state: int
    kernel: int
    rank: int
    conv_bias: bool = True
    proj_bias: bool = False
    inner_norms: bool = False
    state_bytes: int | None = None
    module: str = "mamba"


def mamba1(sizes: Mamba1) -> tuple[Attention, tuple[Matrix, ...]]:
    """Return one Mamba mixer with its weights."""
    bias = 1 if sizes.proj_bias else 0
    module, inner = sizes.module, sizes.inner
    matrices = (
        _linear(module, "in_proj", 2 * inner, sizes.hidden, bias * 2 * inner),
        _linear(module, "x_proj", sizes.rank + 2 * sizes.state, inner),
        _linear(module, "dt_proj", inner, sizes.rank, inner),
        _linear(module, "out_proj", sizes.hidden, inner, bias * sizes.hidden),
        _beside(module, "conv1d", inner * (sizes.kernel + (1 if sizes.conv_bias else 0))),
        _beside(
            module,
            "norm",
            inner * (sizes.state + 1) + (sizes.rank + 2 * sizes.state if sizes.inner_norms else 0),
        ),
    )
    return _state(inner * (sizes.kernel - 1), inner * sizes.state, sizes.state_bytes), matrices


@dataclass(frozen=True, slots=True, kw_only=True)
class KimiDelta:
    """Sizes of Kimi delta attention (arXiv 2510.26692). `full_rank`: gates are not factored."""

    hidden: int
    heads: int
    head_dim: int
    kernel: int
    full_rank: bool = False
    full_forget: bool = False
    module: str = "self_attn"


def kimi_delta(sizes: KimiDelta) -> tuple[Attention, tuple[Matrix, ...]]:
    """Return one Kimi delta attention layer with its weights; its state is kept in float32."""
    width, module = sizes.heads * sizes.head_dim, sizes.module
    rank = sizes.head_dim
    matrices = [
        _linear(module, name, width, sizes.hidden) for name in ("q_proj", "k_proj", "v_proj")
    ]
    if sizes.full_forget:
        matrices += [
            _linear(module, "f_proj", width, sizes.hidden),
            _linear(module, "g_proj", width, sizes.hidden),
        ]
    else:
        matrices += [
            _linear(module, "f_a_proj", rank, sizes.hidden),
            _linear(module, "f_b_proj", width, rank),
        ]
        if sizes.full_rank:
            matrices.append(_linear(module, "g_proj", width, sizes.hidden))
        else:
            matrices += [
                _linear(module, "g_a_proj", rank, sizes.hidden),
                _linear(module, "g_b_proj", width, rank),
            ]
    matrices += [
        _linear(module, "b_proj", sizes.heads, sizes.hidden),
        _linear(module, "o_proj", sizes.hidden, width),
        _beside(module, "conv1d", 3 * width * sizes.kernel),
        _beside(module, "o_norm", sizes.head_dim + sizes.heads + width),
    ]
    recurrent = sizes.heads * sizes.head_dim * sizes.head_dim
    state = _state(3 * width * (sizes.kernel - 1), recurrent, 4, sizes.heads)
    return state, tuple(matrices)


def lightning(
    hidden: int, heads: int, head_dim: int, module: str = "self_attn"
) -> tuple[Attention, tuple[Matrix, ...]]:
    """Return one lightning attention layer (arXiv 2501.08313) with its weights; engines keep its state in the model's type."""
    width = heads * head_dim
    matrices = (
        _linear(module, "qkv_proj", 3 * width, hidden),
        _linear(module, "out_proj", hidden, width),
        _linear(module, "output_gate", width, hidden),
        _beside(module, "norm", width),
    )
    return _state(0, heads * head_dim * head_dim, None, heads), matrices


def short_conv(
    hidden: int, kernel: int, bias: bool, module: str = "conv"
) -> tuple[Attention, tuple[Matrix, ...]]:
    """Return one gated short convolution (LFM2) with its weights."""
    extra = 1 if bias else 0
    matrices = (
        _linear(module, "in_proj", 3 * hidden, hidden, extra * 3 * hidden),
        _linear(module, "out_proj", hidden, hidden, extra * hidden),
        _beside(module, "conv", hidden * (kernel + extra)),
    )
    return _state(hidden * (kernel - 1), 0, None), matrices
