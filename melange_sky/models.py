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
    split the cache. `sliding_window` None where attention is full. `context_tokens` is the longest
    input + output. `gated` True where Hugging Face asks for a token.
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

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        return self.parameters * self.weight_dtype_bytes

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes of KV cache that one token of context takes, over all layers and GPUs."""
        return self.kv_values_per_token * self.kv_dtype_bytes
