"""What vLLM arguments change about a model: dtype, quantization, KV cache dtype, context."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from melange_sky.errors import InputError, did_you_mean
from melange_sky.models.quantization import (
    EXPERTS_ONLY,
    NEED_BF16,
    ONLINE,
    PLAIN_BYTES,
    are_alike,
    plain,
    quantized,
)
from melange_sky.models.shape import ModelShape

KV_DTYPE_BYTES = {
    "auto": 2.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e5m2": 1.0,
    "fp8_inc": 1.0,
    "fp8_per_token_head": 1.0,
    "int8_per_token_head": 1.0,
}

_LISTENS = "replicas listen where SkyServe probes them"
_PLANNED = "the plan decides it, and its capacities hold for no other"
_REFUSED = {
    "--host": _LISTENS,
    "--port": _LISTENS,
    "--uds": _LISTENS,
    "--api-key": "give it as a secret: sky serve up --secret VLLM_API_KEY",
    "--hf-token": "give it as a secret: sky serve up --secret HF_TOKEN",
    "--tensor-parallel-size": _PLANNED,
    "--data-parallel-size": _PLANNED,
    "--pipeline-parallel-size": _PLANNED,
    "--prefill-context-parallel-size": _PLANNED,
    "--decode-context-parallel-size": _PLANNED,
}
_UNMODELLED = frozenset(
    {
        "--max-num-seqs",
        "--max-num-batched-tokens",
        "--gpu-memory-utilization",
        "--kv-cache-memory-bytes",
        "--device-memory-utilization",
        "--num-gpu-blocks-override",
        "--enforce-eager",
        "--cpu-offload-gb",
        "--speculative-config",
        "--enable-expert-parallel",
        "--no-enable-chunked-prefill",
        "--enable-lora",
    }
)
_SHORT = {
    "-q": "--quantization",
    "-tp": "--tensor-parallel-size",
    "-dp": "--data-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-pcp": "--prefill-context-parallel-size",
    "-dcp": "--decode-context-parallel-size",
    "-sc": "--speculative-config",
    "-ep": "--enable-expert-parallel",
}
_SCALING = ("--hf-overrides", "--hf-config-path", "--rope-")
_FORM = ("--quantization", "--dtype", "--kv-cache-dtype")
_USUAL = ("auto", "bfloat16", "float16", "half")
_READ = (*_FORM, "--max-model-len")


def with_engine_args(
    model: ModelShape, args: Sequence[str], *, own_config: bool = False
) -> ModelShape:
    """Return the model as `vllm serve` would hold it under `args` (`--flag value` or `--flag=value`).

    Reads `--quantization`, `--dtype`, `--kv-cache-dtype` and `--max-model-len`; the last one of each
    counts. Anything else is left to vLLM. `own_config`: the model's sizes come from the user's own
    config.json, beside which another file may say how the weights are quantised. Raises InputError
    for a value that cannot be or that vLLM refuses.
    """
    given = _flags(args)
    if "--dtype" in given:
        model = _with_dtype(model, given["--dtype"])
    if "--quantization" in given:
        model = _with_quantization(model, given["--quantization"], own_config)
    if "--kv-cache-dtype" in given:
        model = dataclasses.replace(model, kv_dtype_bytes=_kv_bytes(given["--kv-cache-dtype"]))
    if "--max-model-len" in given:
        longest = _tokens(given["--max-model-len"])
        if longest is not None:
            if longest > model.context_tokens and not _scales_context(args):
                raise InputError(
                    f"--max-model-len: {longest} exceeds the model's context of {model.context_tokens}; "
                    "a longer one needs --hf-overrides that scale it"
                )
            model = dataclasses.replace(model, context_tokens=longest)
    return model


def refused_flag(word: str) -> str | None:
    """Return why a word of `engine.args` cannot stand there, None where it can.

    >>> refused_flag("-tp=8")
    '--tensor-parallel-size cannot be given here; the plan decides it, and its capacities hold for no other'
    """
    flag = _flag(word)
    return f"{flag} cannot be given here; {_REFUSED[flag]}" if flag in _REFUSED else None


def unmodelled_flags(args: Sequence[str]) -> tuple[str, ...]:
    """Return the flags among `args` that change what a replica carries, as no estimate knows.

    >>> unmodelled_flags(["--seed", "1", "--max_num_seqs=8", "-sc", "{}"])
    ('--max-num-seqs', '--speculative-config')
    """
    return tuple(dict.fromkeys(flag for flag in map(_flag, args) if flag in _UNMODELLED))


def without_max_model_len(args: Sequence[str]) -> list[str]:
    """Return `args` less `--max-model-len` and its value.

    >>> without_max_model_len(["--seed", "1", "--max_model_len", "8k", "--max-model-len=9k"])
    ['--seed', '1']
    """
    kept, skip = [], False
    for word in args:
        if not skip and _flag(word) != "--max-model-len":
            kept.append(word)
        skip = not skip and word.replace("_", "-") == "--max-model-len"
    return kept


def _flag(word: str) -> str:
    flag = word.partition("=")[0]
    return _SHORT.get(flag, flag).replace("_", "-")


def longest_admitted(args: Sequence[str]) -> int | None:
    """Return the tokens of `--max-model-len`, None where it is not given or left to vLLM."""
    given = _flags(args).get("--max-model-len")
    return None if given is None else _tokens(given)


def _scales_context(args: Sequence[str]) -> bool:
    return any(arg.partition("=")[0].replace("_", "-").startswith(_SCALING) for arg in args)


def form_args(args: Sequence[str]) -> tuple[str, ...]:
    """Return those of `args` that change the form in which a model is held, in one spelling.

    The 16-bit types are one form, that of most checkpoints.

    >>> form_args(["--port", "80", "-q", "fp8", "--dtype=half", "--max-model-len=4096"])
    ('--quantization=fp8',)
    """
    given = _flags(args)
    return tuple(f"{flag}={given[flag]}" for flag in _FORM if given.get(flag, "auto") not in _USUAL)


def _flags(args: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for position, arg in enumerate(args):
        flag, (_, equals, value) = _flag(arg), arg.partition("=")
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
        model,
        weight_dtype_bytes=form.bytes_per_parameter,
        dtype=form.name,
        kv_dtype_bytes=form.bytes_per_parameter,
        checkpoint_bytes=model.download_bytes,
        needs_bf16=form.name == "bfloat16",
    )


def _with_quantization(model: ModelShape, method: str, own_config: bool) -> ModelShape:
    fraction = (
        model.expert_parameters / model.parameters
        if method in EXPERTS_ONLY
        else _linear_fraction(model)
    )
    try:
        form = quantized(method, fraction)
    except InputError as error:
        raise InputError(f"--quantization: {error}") from error
    if model.dtype not in PLAIN_BYTES:
        if are_alike(model.dtype, form.name):
            return model  # the checkpoint says it already, and in more detail
        raise InputError(
            f"--quantization: {form.name} cannot serve this checkpoint, whose weights are kept as {model.dtype}"
        )
    if form.name not in ONLINE and not own_config:
        raise InputError(
            f"--quantization: {form.name} needs a checkpoint whose weights are kept so (give its own name "
            f"and config.json); 16-bit weights are made smaller by {', '.join(sorted(ONLINE))}"
        )
    return dataclasses.replace(
        model,
        weight_dtype_bytes=form.bytes_per_parameter,
        dtype=form.name,
        fp8_compute=form.fp8_compute,
        checkpoint_bytes=model.download_bytes if form.name in ONLINE else None,
        needs_bf16=model.needs_bf16 or form.name in NEED_BF16,
    )


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
