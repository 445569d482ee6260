"""In which form an engine holds a model: what its flags make of weights, KV cache and context."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, did_you_mean
from melange_sky.models.quantization import are_alike, plain, quantized

if TYPE_CHECKING:
    from melange_sky.models import ModelShape, StoredCache
    from melange_sky.models.quantization import WeightFormat


_FLOAT16 = ("float16", "half")
_FLOAT32 = ("float32", "float")

STORED_BYTES = {"fp8": 1.0, "nvfp4": 4.5 / 8}
"""Form of a KV cache → bytes per value; NVFP4 keeps a scale of 8 bits per 16 values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightTable:
    """What an engine makes of weights, by names of its quantisation flag.

    `bits`: name → bits per quantised weight where the checkpoint does not say. `fp8`: those whose
    products run in fp8. `online`: those that make a 16-bit checkpoint smaller while it is loaded;
    the others need one kept so. `experts_only` leave all but routed experts in 16 bits. `need_bf16`
    and `need_fp8`: those refused on GPUs without bfloat16 (before Ampere) or fp8 (before Ada).
    `kv_bytes`: name of a KV cache dtype → bytes per value. `unservable`: checkpoints' names of
    methods that the engine does not serve. `stored_caches`: (method, form) of the KV caches that
    checkpoints ask for and get where no flag says otherwise; `latent_caches` those methods whose word
    also holds where a latent is cached. `small_cache_needs_bf16`: whether a cache below 16 bits is
    refused on GPUs without bfloat16. `falls_to_float32`: whether a model that float16 does not suit is
    refused in it, and served in float32 where there is no bfloat16.
    """

    bits: Mapping[str, float]
    fp8: frozenset[str]
    online: frozenset[str]
    experts_only: frozenset[str]
    need_bf16: frozenset[str]
    need_fp8: frozenset[str] = frozenset()
    kv_bytes: Mapping[str, float]
    unservable: frozenset[str] = frozenset()
    stored_caches: frozenset[tuple[str, str]] = frozenset()
    latent_caches: frozenset[str] = frozenset()
    small_cache_needs_bf16: bool = False
    falls_to_float32: bool = False

    def with_stored_cache(
        self, model: ModelShape, stored: StoredCache | None, engine: str
    ) -> ModelShape:
        """Return the model with the KV cache that its checkpoint asks for, as far as the engine heeds it."""
        if stored is None:
            return model
        if (stored.method, stored.form) not in self.stored_caches:
            if stored.form != "other":
                return model
            raise InputError(
                f"{engine} cannot serve this checkpoint, whose KV cache scheme is none that it reads"
            )
        if stored.latent and stored.method not in self.latent_caches:
            return model
        return dataclasses.replace(model, kv_dtype_bytes=STORED_BYTES[stored.form])

    def with_dtype(self, model: ModelShape, dtype: str) -> ModelShape:
        """Return the model in a plain dtype; a quantised checkpoint keeps its weights in any."""
        form = plain(dtype, "--dtype")
        if form.name in _FLOAT16 and model.no_float16 and self.falls_to_float32:
            raise InputError(
                f"--dtype: {dtype} is refused for this model, which is numerically unstable in it; "
                "leave it out, or give bfloat16 or float32"
            )
        if form.name == "auto" or not model.is_plain:
            return model
        return dataclasses.replace(model.in_plain(form.name), needs_bf16=form.name == "bfloat16")

    def lacks_float16(self, model: ModelShape) -> bool:
        """Return whether a GPU without bfloat16 cannot serve the model in any type."""
        return model.no_float16 and (
            not self.falls_to_float32 if model.dtype == "bfloat16" else not model.is_plain
        )

    def with_quantization(self, model: ModelShape, method: str, own_config: bool) -> ModelShape:
        """Return the model with its weights quantised; InputError where the engine would refuse."""
        form = self.quantization(method)
        if not model.is_plain:
            if are_alike(model.dtype, form.name):
                return model  # the checkpoint says it already, and in more detail
            raise InputError(
                f"--quantization: {form.name} cannot serve this checkpoint, whose weights are kept as {model.dtype}"
            )
        if model.dtype in _FLOAT32:
            raise InputError(
                f"--quantization: {form.name} is computed in 16 bits, so --dtype {model.dtype} is refused "
                "beside it; leave one of them out"
            )
        if form.name not in self.online and not own_config:
            raise InputError(
                f"--quantization: {form.name} needs a checkpoint stored in that form (give its own name "
                f"and config.json); 16-bit weights can be quantized while loading with {', '.join(sorted(self.online))}"
            )
        return dataclasses.replace(
            model.in_bytes(
                form.bytes_per_parameter,
                experts_only=method in self.experts_only,
                form=form.name,
            ),
            dtype=form.name,
            fp8_compute=form.fp8_compute,
            checkpoint_bytes=model.download_bytes if form.name in self.online else None,
        )

    def quantization(self, method: str) -> WeightFormat:
        """Return what a value of the quantisation flag makes of weights; InputError where unknown."""
        try:
            return quantized(method, 1.0, known=self.bits, fp8=self.fp8)
        except InputError as error:
            raise InputError(f"--quantization: {error}") from error

    def check_kv_dtype(self, dtype: str) -> None:
        """Raise InputError where the engine knows no such KV cache dtype."""
        if dtype not in self.kv_bytes:
            raise InputError(
                f"--kv-cache-dtype: unknown '{dtype[:40]}'{did_you_mean(dtype, self.kv_bytes)}; "
                f"known: {', '.join(sorted(self.kv_bytes))}"
            )

    def with_kv_dtype(self, model: ModelShape, dtype: str) -> ModelShape:
        """Return the model with its KV cache in another dtype."""
        self.check_kv_dtype(dtype)
        return dataclasses.replace(model, kv_dtype_bytes=self.kv_bytes[dtype])
