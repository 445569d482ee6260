"""Feed-forward layers: two or three matrices, or a mixture of experts with its router."""

from __future__ import annotations

from dataclasses import dataclass

from melange_sky.models.layers import FeedForward, Matrix, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """Sizes of a dense feed-forward; `gated`: three matrices (gate, up, down), else two."""

    hidden: int
    width: int
    gated: bool = True
    bias: bool = False
    module: str = "mlp"


def dense(sizes: Dense) -> tuple[FeedForward, tuple[Matrix, ...]]:
    """Return a dense feed-forward with its weights."""
    matrices = _projections(sizes, "mlp", 1)
    return FeedForward(kind="dense", width=sizes.width), matrices


def _projections(sizes: Dense, part: Part, copies: int) -> tuple[Matrix, ...]:
    rising = ("gate_proj", "up_proj") if sizes.gated else ("up_proj",)
    up = [
        Matrix(
            name=f"{sizes.module}.{name}",
            part=part,
            outputs=sizes.width,
            inputs=sizes.hidden,
            copies=copies,
            extra=sizes.width if sizes.bias else 0,
        )
        for name in rising
    ]
    down = Matrix(
        name=f"{sizes.module}.down_proj",
        part=part,
        outputs=sizes.hidden,
        inputs=sizes.width,
        copies=copies,
        extra=sizes.hidden if sizes.bias else 0,
    )
    return (*up, down)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Sizes of a mixture of experts.

    `router_outputs` counts the rows of the router where they are more than the experts. `latent`: the
    experts work on a narrower state between two projections. `shared_gate`: one value per token
    weighs the shared expert. `router_extra` are values beside the router's matrix (biases, scales).
    """

    hidden: int
    count: int
    per_token: int
    width: int
    gated: bool = True
    bias: bool = False
    shared_width: int = 0
    shared_gate: bool = False
    shared_bias: bool = False
    shared_module: str = "shared_experts"
    router_outputs: int | None = None
    router_extra: int = 0
    latent: int | None = None
    latent_norm: bool = False
    module: str = "mlp"
    experts_module: str | None = None


def experts(sizes: Experts) -> tuple[FeedForward, tuple[Matrix, ...]]:
    """Return a mixture of experts with its weights."""
    module = sizes.module
    inner = sizes.hidden if sizes.latent is None else sizes.latent
    routed = Dense(
        hidden=inner,
        width=sizes.width,
        gated=sizes.gated,
        bias=sizes.bias,
        module=f"{sizes.experts_module or module + '.experts'}.0",
    )
    matrices = [
        Matrix(
            name=f"{module}.gate",
            part="router",
            outputs=sizes.router_outputs or sizes.count,
            inputs=sizes.hidden,
            extra=sizes.router_extra,
            linear=False,
        ),
        *_projections(routed, "experts", sizes.count),
    ]
    if sizes.latent is not None:
        matrices += _latent_projections(sizes, sizes.latent)
    if sizes.shared_width:
        matrices += _shared(sizes)
    feed_forward = FeedForward(
        kind="moe",
        width=sizes.width,
        experts=sizes.count,
        experts_per_token=sizes.per_token,
        shared_width=sizes.shared_width,
    )
    return feed_forward, tuple(matrices)


def _latent_projections(sizes: Experts, latent: int) -> list[Matrix]:
    """Return what leads into the narrower state of the experts and out of it."""
    return [
        Matrix(
            name=f"{sizes.module}.fc1_latent_proj",
            part="mlp",
            outputs=latent,
            inputs=sizes.hidden,
            extra=latent if sizes.latent_norm else 0,
        ),
        Matrix(
            name=f"{sizes.module}.fc2_latent_proj",
            part="mlp",
            outputs=sizes.hidden,
            inputs=latent,
        ),
    ]


def _shared(sizes: Experts) -> list[Matrix]:
    shared = Dense(
        hidden=sizes.hidden,
        width=sizes.shared_width,
        gated=sizes.gated,
        bias=sizes.shared_bias,
        module=f"{sizes.module}.{sizes.shared_module}"
        if not sizes.shared_module.startswith("/")
        else sizes.shared_module[1:],
    )
    matrices = list(_projections(shared, "shared_experts", 1))
    if sizes.shared_gate:
        matrices.append(
            Matrix(
                name=f"{sizes.module}.{sizes.shared_module}_gate",
                part="router",
                inputs=sizes.hidden,
                linear=False,
            )
        )
    return matrices
