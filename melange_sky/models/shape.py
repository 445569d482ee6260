"""What a served model is: the sizes that decide its memory and its work per token."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of one decoder-only transformer, read from its Hugging Face `config.json`.

    `parameters` is the total count, `active_parameters` those that one token passes (equal for dense
    models); both include embeddings, counted once where they are tied.
    `kv_values_per_token` counts the cached numbers per token over all layers (for MLA the compressed
    latent), to be multiplied by `kv_dtype_bytes`. `kv_heads` limits how far tensor parallelism can
    split the cache. `sliding_window` None where attention is full; `sliding_layers` how many layers
    keep that window (None: all). `context_tokens` is the longest input + output. `gated` True where
    Hugging Face asks for a token.

    `lookup_parameters` are rows of an input embedding that no step reads as a whole (0 where it is
    tied to the output); `expert_parameters` lie in routed experts, of which a token passes a few.
    `attention_flops_per_pair` is the work of one query token on one key token over all layers (None:
    4 × heads × head_dim × layers). `fp8_compute` True where matrix products run in fp8.
    `dtype` names how the weights are kept, for people. `checkpoint_bytes` is what a replica downloads
    (None: its weights as they are held), more where the engine makes them smaller while it loads them.
    `needs_bf16` True where a GPU without bfloat16 (before Ampere) is refused. `full_kv_fraction` is the
    share of the cache that grows without end where layers do not weigh alike (None: that of the layers).
    `state_bytes_per_sequence` are held by linear layers whatever the length of a sequence.
    `split_units` are (size, unit) pairs: each GPU of a group needs whole units of every size.
    """

    name: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    parameters: int
    active_parameters: int
    kv_values_per_token: int
    weight_dtype_bytes: float = 2.0
    kv_dtype_bytes: float = 2.0
    context_tokens: int
    sliding_window: int | None = None
    experts: int | None = None
    experts_per_token: int | None = None
    gated: bool = False
    lookup_parameters: int = 0
    expert_parameters: int = 0
    sliding_layers: int | None = None
    attention_flops_per_pair: int | None = None
    fp8_compute: bool = False
    dtype: str = "bfloat16"
    checkpoint_bytes: float | None = None
    needs_bf16: bool = False
    full_kv_fraction: float | None = None
    state_bytes_per_sequence: int = 0
    split_units: tuple[tuple[int, int], ...] = ()

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return self.parameters * self.weight_dtype_bytes

    @property
    def download_bytes(self) -> float:
        """Bytes of the files that hold the weights."""
        return self.weight_bytes if self.checkpoint_bytes is None else self.checkpoint_bytes

    def splits_over(self, tensor_parallel: int) -> bool:
        """Return whether engines can split the attention heads over so many GPUs.

        Each GPU gets as many query heads, whole key-value heads or copies of one, and whole units of
        what its quantization keeps together.
        """
        if tensor_parallel == 1:
            return True
        heads_split = self.heads % tensor_parallel == 0 and (
            self.kv_heads % tensor_parallel == 0 or tensor_parallel % self.kv_heads == 0
        )
        return heads_split and all(
            size % tensor_parallel == 0 and size // tensor_parallel % unit == 0
            for size, unit in self.split_units
        )

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of KV cache that one token of context takes, over all layers and GPUs."""
        return self.kv_values_per_token * self.kv_dtype_bytes

    @property
    def pair_flops(self) -> int:
        """FLOPs of one query token attending to one key token, over all layers."""
        if self.attention_flops_per_pair is not None:
            return self.attention_flops_per_pair
        return 4 * self.heads * self.head_dim * self.layers

    @property
    def full_attention_fraction(self) -> float:
        """Fraction of the cache, in layers, whose attention reads the whole context."""
        if self.full_kv_fraction is not None:
            return self.full_kv_fraction
        if self.sliding_window is None:
            return 1.0
        return 0.0 if self.sliding_layers is None else 1.0 - self.sliding_layers / self.layers
