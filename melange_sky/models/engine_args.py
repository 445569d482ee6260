"""What vLLM arguments change about a model: dtype, quantization, KV cache dtype, context."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from melange_sky.errors import InputError, did_you_mean
from melange_sky.models.quantization import plain, quantized
from melange_sky.models.shape import ModelShape

KV_DTYPE_BYTES = {
    "auto": 2.0, "bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0,
    "fp8_inc": 1.0, "fp8_per_token_head": 1.0, "int8_per_token_head": 1.0,
}  # fmt: skip

_SHORT = {"-q": "--quantization"}
_FORM = ("--quantization", "--dtype", "--kv-cache-dtype")
_READ = (*_FORM, "--max-model-len")


def with_engine_args(model: ModelShape, args: Sequence[str]) -> ModelShape:
    """Return the model as `vllm serve` would hold it under `args` (`--flag value` or `--flag=value`).

    Reads `--quantization`, `--dtype`, `--kv-cache-dtype` and `--max-model-len`; the last one of each
    counts. Anything else is left to vLLM. Raises InputError for a value that cannot be.
    """
    given = _flags(args)
    if "--dtype" in given:
        model = _with_dtype(model, given["--dtype"])
    if "--quantization" in given:
        model = _with_quantization(model, given["--quantization"])
    if "--kv-cache-dtype" in given:
        model = dataclasses.replace(model, kv_dtype_bytes=_kv_bytes(given["--kv-cache-dtype"]))
    if "--max-model-len" in given:
        longest = _tokens(given["--max-model-len"])
        if longest is not None:
            model = dataclasses.replace(model, context_tokens=longest)
    return model


def form_args(args: Sequence[str]) -> tuple[str, ...]:
    """Return those of `args` that change the form in which a model is held, in one spelling.

    >>> form_args(["--port", "80", "-q", "fp8", "--max-model-len=4096"])
    ('--quantization=fp8',)
    """
    given = _flags(args)
    return tuple(f"{flag}={given[flag]}" for flag in _FORM if flag in given)


def _flags(args: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for position, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        flag = _SHORT.get(flag, flag).replace("_", "-")
        if flag in _READ:
            following = args[position + 1] if position + 1 < len(args) else ""
            found[flag] = value if equals else following
    return found


def _linear_fraction(model: ModelShape) -> float:
    embedding = model.vocabulary * model.hidden_size
    kept = embedding * (2 if model.lookup_parameters else 1)
    return max(0.0, 1.0 - kept / model.parameters)


def _with_dtype(model: ModelShape, dtype: str) -> ModelShape:
    if dtype == "auto" or model.dtype not in ("bfloat16", "float16", "half", "float32", "float"):
        return model  # a quantised checkpoint keeps its weights whatever the activations are
    form = plain(dtype, "--dtype")
    return dataclasses.replace(
        model, weight_dtype_bytes=form.bytes_per_parameter, dtype=form.name,
        kv_dtype_bytes=form.bytes_per_parameter,
    )  # fmt: skip


def _with_quantization(model: ModelShape, method: str) -> ModelShape:
    try:
        form = quantized(method, _linear_fraction(model))
    except InputError as error:
        raise InputError(f"--quantization: {error}") from error
    if model.dtype == form.name or (model.dtype, form.name) in (
        ("awq", "awq_marlin"),
        ("gptq", "gptq_marlin"),
    ):
        return model  # the checkpoint says it already, and in more detail
    return dataclasses.replace(
        model, weight_dtype_bytes=form.bytes_per_parameter, dtype=form.name, fp8_compute=form.fp8_compute
    )  # fmt: skip


def _kv_bytes(dtype: str) -> float:
    if dtype not in KV_DTYPE_BYTES:
        raise InputError(
            f"--kv-cache-dtype: unknown '{dtype[:40]}'{did_you_mean(dtype, KV_DTYPE_BYTES)}; "
            f"known: {', '.join(sorted(KV_DTYPE_BYTES))}"
        )
    return KV_DTYPE_BYTES[dtype]


def _tokens(text: str) -> int | None:
    """Return a token count as vLLM reads it: 8192, 8k (8000), 8K (8192); None for auto or -1."""
    if text in ("auto", "-1"):
        return None
    scale = {"k": 1000, "K": 1024, "m": 10**6, "M": 2**20}.get(text[-1:], 1)
    digits = text[:-1] if scale > 1 else text
    try:
        tokens = int(float(digits) * scale) if len(digits) < 16 else 0
    except (ValueError, OverflowError):
        tokens = 0
    if tokens <= 0:
        raise InputError(f"--max-model-len: '{text[:40]}' is not a number of tokens")
    return tokens
