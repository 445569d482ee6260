"""A model as a list of layers: what each layer holds, caches and reads.

A layer is one attention (full, within a window, over a compressed latent, linear with a state, or
none) and one feed-forward (dense, a mixture of experts, or none). Every figure of a model is a sum
over its parts, so that no average hides a layer that differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Part = Literal[
    "embedding",
    "head",
    "attention",
    "linear_attention",
    "mlp",
    "experts",
    "shared_experts",
    "router",
    "norm",
    "adapter",
    "tower",
    "projector",
]
"""What a weight belongs to."""

AttentionKind = Literal[
    "full", "sliding", "chunked", "latent", "sparse", "linear", "hybrid", "none"
]
FeedForwardKind = Literal["dense", "moe", "none"]
KV_VALUE_BYTES = 2
"""Bytes of a cached value in 16 bits, which is what engines keep unless a flag says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """One weight as its checkpoint names it, within its layer where it has one.

    `copies` counts weights that differ only by their number in the name (experts). `extra` are values
    beside the matrix that quantization never touches, for each copy: a bias, a norm. `linear` False
    for what is no matrix product (embeddings, norms, convolutions): quantization leaves those alone.
    """

    name: str
    part: Part
    outputs: int = 1
    inputs: int
    copies: int = 1
    extra: int = 0
    linear: bool = True

    @property
    def weights(self) -> int:
        """Values of the matrix over all its copies."""
        return self.copies * self.outputs * self.inputs

    @property
    def values(self) -> int:
        """Parameters over all copies, those beside the matrix included."""
        return self.copies * (self.outputs * self.inputs + self.extra)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What the attention of one layer caches and computes.

    `kv_values` are cached for every token however long the sequence (a fraction where the cache is
    compressed over tokens), `window_values` for the last `window` tokens only. `fixed_bytes` per token
    have a type of their own (the index keys of sparse attention). `state_bytes` are held per
    sequence, whatever its length, of them `state_values` in 16 bits or what else the model computes in.
    `pair_flops` is the work of one query token on one key token.
    `selected`: a query attends to no more than so many cached tokens, chosen by an index whose work on
    one key token is `index_flops`. `sinks`: each head has a learned sink in its softmax.
    """

    kind: AttentionKind
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    kv_values: float = 0.0
    window_values: int = 0
    window: int | None = None
    fixed_bytes: float = 0.0
    state_bytes: int = 0
    state_values: int = 0
    pair_flops: int = 0
    selected: int | None = None
    index_flops: int = 0
    sinks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """The feed-forward of one layer: its width, or its experts and how many a token passes."""

    kind: FeedForwardKind
    width: int = 0
    experts: int = 0
    experts_per_token: int = 0
    shared_width: int = 0


NO_ATTENTION = Attention(kind="none")
NO_FEED_FORWARD = FeedForward(kind="none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer with all its weights."""

    attention: Attention
    feed_forward: FeedForward
    matrices: tuple[Matrix, ...]

    @property
    def parameters(self) -> int:
        """All parameters of the layer."""
        return count(self.matrices)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes."""
        return self.parameters - self.expert_parameters + self.active_expert_parameters

    @property
    def expert_parameters(self) -> int:
        """Parameters of the routed experts."""
        return count(m for m in self.matrices if m.part == "experts")

    @property
    def active_expert_parameters(self) -> int:
        """Parameters of the routed experts that one token passes."""
        if not self.feed_forward.experts:
            return 0
        routed = self.expert_parameters * self.feed_forward.experts_per_token
        return routed // self.feed_forward.experts

    @property
    def label(self) -> str:
        """The kind of layer in a few words, such as `sliding attention 1024 + MoE 8 of 128`."""
        return f"{_attention_label(self.attention)} + {_feed_forward_label(self.feed_forward)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """An encoder of another kind of input (vision, audio) with its projector, all of it resident."""

    kind: str
    matrices: tuple[Matrix, ...]
    estimated: bool = False

    @property
    def parameters(self) -> int:
        """All parameters of the tower."""
        return count(self.matrices)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerList:
    """A whole model: its layers, what stands outside of them, towers and extra heads.

    `outside` holds embeddings, output head and last norm; `extra_heads` the layers that predict
    further tokens, which lie in the checkpoint but are not loaded unless an engine speculates with them.
    `prefix` is how checkpoints name a layer, with `{i}` for its number. `assumptions` say what the
    config left open; `unloaded` names sections of parts that lie in the checkpoint, are not counted here
    and are not loaded; `warnings` what was not read, `doubtful` whether that is of the structure.
    """

    architecture: str
    model_type: str
    hidden_size: int
    vocabulary: int
    layers: tuple[Layer, ...]
    outside: tuple[Matrix, ...]
    towers: tuple[Tower, ...] = ()
    extra_heads: tuple[Matrix, ...] = ()
    prefix: str = "model.layers.{i}."
    tied: bool = False
    context_tokens: int
    assumptions: tuple[str, ...] = ()
    unloaded: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    doubtful: bool = False

    @property
    def parameters(self) -> int:
        """All parameters of the checkpoint, towers and extra heads included."""
        return self.resident_parameters + count(self.extra_heads)

    @property
    def resident_parameters(self) -> int:
        """Parameters that an engine loads: all but the extra heads."""
        return self.text_parameters + sum(tower.parameters for tower in self.towers)

    @property
    def text_parameters(self) -> int:
        """Parameters of the language model."""
        return sum(layer.parameters for layer in self.layers) + count(self.outside)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token of text passes, embeddings included as the makers count them."""
        return sum(layer.active_parameters for layer in self.layers) + count(self.outside)

    @property
    def expert_parameters(self) -> int:
        """Parameters of all routed experts."""
        return sum(layer.expert_parameters for layer in self.layers)

    def is_lookup(self, matrix: Matrix) -> bool:
        """Return whether a step reads single rows of a weight outside the layers.

        An input embedding that is the output head too is read as a whole.
        """
        if matrix.part != "embedding":
            return False
        shared = self.tied and not any(m.part == "head" for m in self.outside)
        return not (shared and matrix.inputs == self.hidden_size)

    @property
    def kv_values_per_token(self) -> float:
        """Cached values that each token of a long sequence adds, beyond every window."""
        return sum(layer.attention.kv_values for layer in self.layers)

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes that each token of a long sequence adds to a 16-bit cache, beyond every window."""
        fixed = sum(layer.attention.fixed_bytes for layer in self.layers)
        return self.kv_values_per_token * KV_VALUE_BYTES + fixed

    def kv_bytes(self, context_tokens: int) -> float:
        """Return the bytes that a sequence of so many tokens holds in a 16-bit cache.

        Full layers cache every token, the others no more than their window; the state of linear
        layers comes on top.
        """
        windowed = sum(
            layer.attention.window_values * min(context_tokens, layer.attention.window or 0)
            for layer in self.layers
        )
        grown = self.kv_bytes_per_token * context_tokens
        return grown + windowed * KV_VALUE_BYTES + self.state_bytes_per_sequence

    @property
    def state_bytes_per_sequence(self) -> int:
        """Bytes that linear layers hold for each sequence, whatever its length."""
        return sum(layer.attention.state_bytes for layer in self.layers)

    def all_matrices(self) -> Iterator[tuple[str, Matrix]]:
        """Yield every weight of the checkpoint with the full name that it has there."""
        for matrix in self.outside:
            yield matrix.name, matrix
        for number, layer in enumerate(self.layers):
            prefix = self.prefix.replace("{i}", str(number))
            for matrix in layer.matrices:
                yield prefix + matrix.name, matrix
        for tower in self.towers:
            for matrix in tower.matrices:
                yield matrix.name, matrix
        for matrix in self.extra_heads:
            yield f"mtp.{matrix.name}", matrix

    def kinds(self) -> list[tuple[str, int]]:
        """Return each kind of layer with the number of such layers, in order of appearance."""
        counts: dict[str, int] = {}
        for layer in self.layers:
            counts[layer.label] = counts.get(layer.label, 0) + 1
        return list(counts.items())

    def parameters_by_part(self) -> dict[str, int]:
        """Return the parameters by what they belong to; the parts add up to `parameters`."""
        parts: dict[str, int] = {}
        for matrix in (*self.outside, *(m for layer in self.layers for m in layer.matrices)):
            parts[matrix.part] = parts.get(matrix.part, 0) + matrix.values
        for tower in self.towers:
            parts[tower.kind] = parts.get(tower.kind, 0) + tower.parameters
        if self.extra_heads:
            parts["extra_heads"] = count(self.extra_heads)
        return parts


def count(matrices: Iterable[Matrix]) -> int:
    """Return the parameters of some weights."""
    return sum(matrix.values for matrix in matrices)


def norm(name: str, size: int, copies: int = 1) -> Matrix:
    """Return a norm's weight: never quantised."""
    return Matrix(name=name, part="norm", inputs=size, copies=copies, linear=False)


_LABELS: dict[str, str] = {
    "full": "full attention",
    "sliding": "sliding attention",
    "chunked": "chunked attention",
    "latent": "latent attention",
    "sparse": "sparse attention",
    "linear": "linear attention",
    "hybrid": "full and linear attention",
    "none": "no attention",
}


def _attention_label(attention: Attention) -> str:
    label = _LABELS[attention.kind]
    return f"{label} {attention.window}" if attention.kind in ("sliding", "chunked") else label


def _feed_forward_label(feed_forward: FeedForward) -> str:
    if feed_forward.kind == "moe":
        return f"MoE {feed_forward.experts_per_token} of {feed_forward.experts}"
    return "dense" if feed_forward.kind == "dense" else "no feed-forward"
