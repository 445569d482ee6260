"""What a served model is: the sizes that decide its memory and its work per token.

A model is its layers by kinds (`LayerGroup`) and the weights outside of them; every figure of the
model is a sum over these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from melange_sky.models.layer_group import NO_WEIGHTS, LayerGroup, Weights
from melange_sky.models.split_units import SplitUnit, split_problem
from melange_sky.parallelism import Parallelism

PLAIN_BYTES = {
    "bfloat16": 2.0,
    "float16": 2.0,
    "half": 2.0,
    "float32": 4.0,
    "float": 4.0,
    "auto": 2.0,
}
"""Bytes per parameter of `torch_dtype` / `--dtype`. float32 checkpoints are served in 16 bits by
`--dtype auto`, so `auto` is 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of one decoder-only model, read from its Hugging Face `config.json`.

    `head` are the weights outside the layers that every step reads (output head, last norm, a tied
    embedding), `lookup` those of which a step reads single rows, `towers` the encoders of images or
    sound. `heads` and `kv_heads` limit how far tensor parallelism splits the attention.
    `kv_dtype_bytes` per cached value. `context_tokens` is the longest input + output. `gated` True
    where Hugging Face asks for a token.

    `fp8_compute` True where matrix products run in fp8. `dtype` names how the weights are kept, for
    people. `checkpoint_bytes` is what a replica downloads (None: its weights as they are held), more
    where the engine makes them smaller while it loads them. `needs_bf16` True where a GPU without
    bfloat16 (before Ampere) is refused, `no_float16` where the model is numerically unstable in float16.
    `split_units` are what each GPU of a tensor group needs whole units of; `in_stages` False where no
    pipeline can cut between the layers. `architecture` is what its config calls it, `config_type` the type of
    that config; `doubt` is by which
    factor the error of estimates is wider. `inputs` names what it takes beside text, `image_tokens` is the
    size of the images that are planned (0: none). `notes` say what a reader must know of how the model
    was read.
    """

    name: str
    groups: tuple[LayerGroup, ...]
    head: Weights
    lookup: Weights = NO_WEIGHTS
    towers: Weights = NO_WEIGHTS
    hidden_size: int
    heads: int
    kv_heads: int
    vocabulary: int
    kv_dtype_bytes: float = 2.0
    context_tokens: int
    gated: bool = False
    fp8_compute: bool = False
    dtype: str = "bfloat16"
    checkpoint_bytes: float | None = None
    needs_bf16: bool = False
    no_float16: bool = False
    split_units: tuple[SplitUnit, ...] = ()
    in_stages: bool = True
    architecture: str = ""
    config_type: str = ""
    doubt: float = 1.0
    inputs: tuple[str, ...] = ()
    image_tokens: int = 0
    notes: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether its weights are not quantized."""
        return self.dtype in PLAIN_BYTES

    @property
    def value_bytes(self) -> float:
        """Bytes of a value that is computed with."""
        return PLAIN_BYTES.get(self.dtype, 2.0)

    def in_plain(self, dtype: str) -> ModelShape:
        """Return the model with weights, cache, states and computing in a plain type, one of `PLAIN_BYTES`."""
        size = PLAIN_BYTES[dtype]
        wider = round(size - self.value_bytes)
        groups = tuple(
            dataclasses.replace(g, state_bytes=g.state_bytes + wider * g.state_values)
            for g in self.in_bytes(size, size).groups
        )
        return dataclasses.replace(
            self.in_bytes(size, size),
            groups=groups,
            dtype=dtype,
            kv_dtype_bytes=size,
            checkpoint_bytes=self.download_bytes,
        )

    def on(self, has_bf16: bool) -> ModelShape:
        """Return the model as a GPU with or without bfloat16 holds it where nothing else is asked for.

        Without, engines take float16, and float32 for a model that float16 does not suit; a smaller KV
        cache stays as it is.
        """
        if has_bf16 or self.dtype != "bfloat16":
            return self
        if not self.no_float16:
            return dataclasses.replace(self, dtype="float16")
        whole = self.in_plain("float32")
        smaller = self.kv_dtype_bytes < PLAIN_BYTES["bfloat16"]
        return dataclasses.replace(whole, kv_dtype_bytes=self.kv_dtype_bytes) if smaller else whole

    def total(self, figure: Callable[[LayerGroup], float]) -> float:
        """Return a figure of single layers summed over all of them."""
        return sum(group.count * figure(group) for group in self.groups)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return sum(group.count for group in self.groups)

    @property
    def mixers(self) -> float:
        """Attentions and feed-forwards of all layers: each ends in an all-reduce."""
        return self.total(lambda g: g.mixers)

    @property
    def _outside(self) -> tuple[Weights, ...]:
        return self.head, self.lookup, self.towers

    @property
    def parameters(self) -> int:
        """All parameters that an engine loads."""
        layers = self.total(lambda g: g.dense.parameters + g.experts.parameters)
        return int(layers) + sum(weights.parameters for weights in self._outside)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token of text passes, embeddings included as the makers count them."""
        layers = self.total(lambda g: g.dense.parameters + g.active_experts)
        return int(layers) + self.head.parameters + self.lookup.parameters

    @property
    def expert_parameters(self) -> int:
        """Parameters of all routed experts."""
        return int(self.total(lambda g: g.experts.parameters))

    @property
    def experts(self) -> int | None:
        """Routed experts of the first layer that has some, None where the model is dense."""
        return next((group.routed for group in self.groups if group.routed), None)

    @property
    def linear_parameters(self) -> int:
        """Parameters that quantization may make smaller."""
        return int(self.total(lambda g: g.dense.linear + g.experts.linear))

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights."""
        layers = self.total(lambda g: g.dense.bytes + g.experts.bytes)
        return layers + sum(weights.bytes for weights in self._outside)

    @property
    def weight_dtype_bytes(self) -> float:
        """Bytes of a parameter, on average over all of them."""
        return self.weight_bytes / self.parameters

    def weight_bytes_per_gpu(self, tensor_parallel: int) -> float:
        """Return the bytes of weights that each GPU of a tensor-parallel group has, what kernels pad apart.

        Compressing projections of latent attention are held whole by each, projections of keys and
        values once for each of their heads; norms and routers, which are as well, weigh nothing.
        """
        dense = self.total(lambda g: g.dense_bytes(tensor_parallel))
        split = self.total(lambda g: g.experts.bytes) + sum(w.bytes for w in self._outside)
        return dense + split / tensor_parallel

    def padding_bytes_per_gpu(self, tensor_parallel: int, capability: float | None) -> float:
        """Return what the kernels of a GPU of such a compute capability pad experts with, on each GPU."""
        return self.total(lambda g: g.padding_bytes(tensor_parallel, capability))

    @property
    def download_bytes(self) -> float:
        """Bytes of the files that hold the weights."""
        return self.weight_bytes if self.checkpoint_bytes is None else self.checkpoint_bytes

    def splits_over(self, tensor_parallel: int) -> bool:
        """Return whether engines can split the model over so many GPUs."""
        return self.split_problem(Parallelism(tensor=tensor_parallel)) is None

    def split_problem(self, split: Parallelism) -> str | None:
        """Return what a split would tear, in words with numbers; None where engines take it.

        Each GPU of a tensor group gets as many query heads, whole key-value heads or copies of one,
        and whole units of what its quantization keeps together; experts that are spread stay whole.
        """
        return split_problem(self, split)

    @property
    def kv_bytes_per_token(self) -> float:
        """Bytes that each token of a long sequence adds to the cache, beyond every window."""
        return self.total(lambda g: g.kv_values * self.kv_dtype_bytes + g.fixed_bytes)

    @property
    def state_bytes_per_sequence(self) -> int:
        """Bytes that linear layers hold for each sequence, whatever its length."""
        return int(self.total(lambda g: g.state_bytes))

    def kv_bytes(self, tokens: float, tensor_parallel: int = 1) -> float:
        """Return the bytes that a sequence of so many tokens holds on each GPU, state included."""
        return self.total(
            lambda g: (
                g.kv_bytes(tokens, self.kv_dtype_bytes) / g.kv_split(tensor_parallel)
                + g.state_bytes / tensor_parallel
            )
        )

    def in_bytes(
        self,
        linear: float | None,
        plain: float | None = None,
        *,
        experts_only: bool = False,
        form: str = "",
    ) -> ModelShape:
        """Return the model with its weights held in so many bytes each.

        `linear` for those that quantization may make smaller (`experts_only`: of routed experts
        alone), `plain` for the others; None leaves them as they are. `form`: what the kernels of
        experts call it.
        """
        dense = None if experts_only else linear
        held = self._with_weights(
            dense=lambda weights: weights.in_bytes(dense, plain),
            experts=lambda weights: weights.in_bytes(linear, plain),
        )
        return held if linear is None else held._with_expert_form(form)

    def _with_expert_form(self, form: str) -> ModelShape:
        groups = tuple(
            g
            if g.expert_sizes is None
            else dataclasses.replace(g, expert_sizes=dataclasses.replace(g.expert_sizes, form=form))
            for g in self.groups
        )
        return dataclasses.replace(self, groups=groups)

    def scaled(self, factor: float) -> ModelShape:
        """Return the model with all its weights in so many times the bytes."""
        return self._with_weights(
            dense=lambda weights: weights.scaled(factor),
            experts=lambda weights: weights.scaled(factor),
        )

    def _with_weights(
        self, dense: Callable[[Weights], Weights], experts: Callable[[Weights], Weights]
    ) -> ModelShape:
        groups = tuple(
            dataclasses.replace(group, dense=dense(group.dense), experts=experts(group.experts))
            for group in self.groups
        )
        return dataclasses.replace(
            self,
            groups=groups,
            head=dense(self.head),
            lookup=dense(self.lookup),
            towers=dense(self.towers),
        )
