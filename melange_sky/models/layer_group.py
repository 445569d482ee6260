"""The layers of a model by kinds: what each kind caches, computes and holds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from melange_sky.models.expert_tiles import ExpertSizes, padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Some weights: parameters, and the bytes that they are held in.

    `linear` are those that quantization may make smaller, the matrices of the layers; `plain` those
    that it leaves alone: norms, biases, routers, embeddings, the output head.
    """

    linear: int = 0
    plain: int = 0
    linear_bytes: float = 0.0
    plain_bytes: float = 0.0

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.linear + self.plain

    @property
    def bytes(self) -> float:
        """Bytes of all of them."""
        return self.linear_bytes + self.plain_bytes

    def in_bytes(self, linear: float | None, plain: float | None = None) -> Weights:
        """Return the same parameters in so many bytes each; None leaves them as they are."""
        return dataclasses.replace(
            self,
            linear_bytes=self.linear_bytes if linear is None else self.linear * linear,
            plain_bytes=self.plain_bytes if plain is None else self.plain * plain,
        )

    def scaled(self, factor: float) -> Weights:
        """Return the same parameters in so many times the bytes."""
        return dataclasses.replace(
            self,
            linear_bytes=self.linear_bytes * factor,
            plain_bytes=self.plain_bytes * factor,
        )


NO_WEIGHTS = Weights()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """`count` layers alike; every other figure is of one of them.

    Of each token a layer caches `kv_values` without end (a fraction where tokens are compressed),
    `window_values` of the last `window` tokens (`chunked`: of the chunk of so many tokens that it is
    in), and `fixed_bytes` whatever the type of the cache. `selected`: no more cached tokens than these
    are read for one query. `state_bytes` are held for each sequence, of them `state_values` in the type
    that is computed in. `kv_heads` limits how far
    tensor parallelism splits the cache (1: not at all). `pair_flops` is the work of one query token on
    one key token, `decode_flops` that of a decoding token where it differs (absorbed latents),
    `index_flops` that of the index which chooses them. `sinks`: heads have a learned sink
    in their softmax.

    `dense` are the weights that every token passes, shared experts included; `experts` all the routed
    ones, `experts_per_token` of `routed` for a token. Among the dense ones, each GPU of a
    tensor-parallel group holds `whole` weights itself and `key_values` once for each key-value head.
    `expert_sizes` are those that kernels may pad, None where there are no experts.
    """

    count: int
    heads: int = 0
    kv_heads: int = 0
    kv_values: float = 0.0
    window_values: int = 0
    window: int | None = None
    chunked: bool = False
    selected: int | None = None
    latent: bool = False
    fixed_bytes: float = 0.0
    state_bytes: int = 0
    state_values: int = 0
    pair_flops: int = 0
    decode_flops: int = 0
    index_flops: int = 0
    sinks: bool = False
    routed: int = 0
    experts_per_token: int = 0
    dense: Weights = NO_WEIGHTS
    experts: Weights = NO_WEIGHTS
    expert_sizes: ExpertSizes | None = None
    whole: int = 0
    key_values: int = 0
    mixers: int = 2

    @property
    def caches(self) -> bool:
        """Whether the layer keeps keys and values."""
        return bool(self.kv_values or self.window_values)

    def kv_split(self, tensor_parallel: int) -> int:
        """Return into how many parts a tensor-parallel group of so many GPUs splits the cache."""
        return min(tensor_parallel, max(self.kv_heads, 1))

    @property
    def active_experts(self) -> float:
        """Parameters of routed experts that one token passes."""
        if not self.routed:
            return 0.0
        return self.experts.parameters * self.experts_per_token / self.routed

    def kv_bytes(self, tokens: float, value_bytes: float) -> float:
        """Return the bytes that one layer caches of a sequence of so many tokens, its state apart."""
        grown = (self.kv_values * value_bytes + self.fixed_bytes) * tokens
        return grown + self.window_values * value_bytes * min(tokens, self.window or 0)

    def padding_bytes(self, tensor_parallel: int, capability: float | None) -> float:
        """Return the bytes that kernels pad one layer's experts with, on each GPU of a tensor-parallel group."""
        if self.expert_sizes is None:
            return 0.0
        share = padding(self.expert_sizes, capability, tensor_parallel) - 1.0
        return share * self.experts.bytes / tensor_parallel

    def dense_bytes(self, tensor_parallel: int) -> float:
        """Return the bytes of one layer's dense weights on each GPU of a tensor-parallel group."""
        each = self.dense.linear_bytes / self.dense.linear if self.dense.linear else 0.0
        whole, key_values = self.whole * each, self.key_values * each
        split = self.dense.bytes - whole - key_values
        return split / tensor_parallel + whole + key_values / self.kv_split(tensor_parallel)
