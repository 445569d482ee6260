"""A vision transformer and the parts that join it to a language model."""

from __future__ import annotations

from dataclasses import dataclass

from melange_sky.models.fields import Fields
from melange_sky.models.layers import Matrix, norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Vit:
    """Sizes of a vision transformer (Dosovitskiy et al., arXiv 2010.11929).

    `patch_values` are the values of one patch, `positions` rows of a learned table, `beside` values of
    class tokens and norms outside of the layers, `layer_extra` those within a layer beyond its norms.
    `kv_width` narrower than `hidden` where keys are grouped.
    """

    hidden: int
    layers: int
    width: int
    patch_values: int
    positions: int = 0
    gated: bool = False
    qkv_bias: bool = True
    o_bias: bool = True
    mlp_bias: bool = True
    patch_bias: bool = True
    norms: int = 2
    norm_values: int = 2
    layer_extra: int = 0
    beside: int = 0
    kv_width: int | None = None
    query_width: int | None = None


def vit(sizes: Vit, name: str) -> tuple[Matrix, ...]:
    """Return the weights of a vision transformer; `copies` stand for its equal layers."""
    hidden = sizes.hidden
    embedding = Matrix(
        name=f"{name}.patch_embed",
        part="tower",
        outputs=hidden,
        inputs=sizes.patch_values,
        extra=hidden if sizes.patch_bias else 0,
        linear=False,
    )
    norms = Matrix(
        name=f"{name}.layers.0.norms",
        part="tower",
        inputs=sizes.norms * sizes.norm_values * hidden + sizes.layer_extra,
        copies=sizes.layers,
        linear=False,
    )
    matrices = [embedding, *_projections(sizes, name), norms]
    outside = sizes.positions * hidden + sizes.beside
    if outside:
        matrices.append(
            Matrix(name=f"{name}.embeddings", part="tower", inputs=outside, linear=False)
        )
    return tuple(matrices)


def _projections(sizes: Vit, name: str) -> list[Matrix]:
    """Return the matrices of attention and feed-forward of all layers."""
    hidden = sizes.hidden
    query_width = sizes.query_width or hidden
    kv_width = query_width if sizes.kv_width is None else sizes.kv_width

    def each(part: str, outputs: int, inputs: int, bias: bool) -> Matrix:
        return Matrix(
            name=f"{name}.layers.0.{part}",
            part="tower",
            outputs=outputs,
            inputs=inputs,
            copies=sizes.layers,
            extra=outputs if bias else 0,
        )

    matrices = [
        each("attn.q_proj", query_width, hidden, sizes.qkv_bias),
        each("attn.k_proj", kv_width, hidden, sizes.qkv_bias),
        each("attn.v_proj", kv_width, hidden, sizes.qkv_bias),
        each("attn.proj", hidden, query_width, sizes.o_bias),
        each("mlp.fc1", sizes.width, hidden, sizes.mlp_bias),
        each("mlp.fc2", hidden, sizes.width, sizes.mlp_bias),
    ]
    if sizes.gated:
        matrices.append(each("mlp.gate_proj", sizes.width, hidden, sizes.mlp_bias))
    return matrices


def projection(name: str, outputs: int, inputs: int, bias: bool = True) -> Matrix:
    """Return one matrix between a tower and the language model."""
    return Matrix(
        name=name,
        part="projector",
        outputs=outputs,
        inputs=inputs,
        extra=outputs if bias else 0,
    )


def two_layers(
    name: str, inputs: int, inner: int, outputs: int, bias: bool = True
) -> tuple[Matrix, ...]:
    """Return a projector of two matrices."""
    return (
        projection(f"{name}.linear_1", inner, inputs, bias),
        projection(f"{name}.linear_2", outputs, inner, bias),
    )


def projector_norm(name: str, values: int) -> Matrix:
    """Return a norm of a projector."""
    return norm(f"{name}.norm", values)


def side(fields: Fields, key: str, default: int | None = None) -> int:
    """Return a length that may be written as a pair, such as `image_size: [448, 448]`."""
    value = fields.get(key)
    if isinstance(value, (list, tuple)) and value:
        first = value[0]
        return Fields({key: first}, fields.where).whole(key)
    return fields.whole(key, default)


def depth(vision: Fields) -> int:
    """Return how many layers a tower has, under either name of the field."""
    return vision.maybe("depth") or vision.layers()


def patch_values(vision: Fields, frames: int = 1) -> int:
    """Return the values of one patch over `frames` frames."""
    patch = side(vision, "patch_size", 14)
    channels = vision.maybe("in_channels") or vision.maybe("num_channels") or 3
    return channels * frames * patch * patch


def grid(vision: Fields, extra: int = 0) -> int:
    """Return how many patches an image has, and `extra` positions."""
    count = side(vision, "image_size", 224) // side(vision, "patch_size", 14)
    return count * count + extra
