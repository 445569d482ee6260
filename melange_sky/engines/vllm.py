"""vLLM: checked against the command line and the source of releases 0.32 and 0.33."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from melange_sky.engines.base import (
    KEY_HINT,
    LISTENS,
    PLANNED,
    BenchLoad,
    BenchResult,
    BenchTool,
    Engine,
)
from melange_sky.engines.command import Replica, ServeCommand
from melange_sky.engines.flags import FlagTable
from melange_sky.engines.weights import WeightTable
from melange_sky.errors import InputError
from melange_sky.models.quantization import FP8_METHODS, METHOD_BITS

KEY_VARIABLE = "VLLM_API_KEY"
MODELOPT = ("modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed")

FLAGS = FlagTable(
    refused={
        "--host": LISTENS,
        "--port": LISTENS,
        "--uds": LISTENS,
        "--api-key": KEY_HINT.format(KEY_VARIABLE),
        "--hf-token": KEY_HINT.format("HF_TOKEN"),
        "--tensor-parallel-size": PLANNED,
        "--data-parallel-size": PLANNED,
        "--pipeline-parallel-size": PLANNED,
        "--prefill-context-parallel-size": PLANNED,
        "--decode-context-parallel-size": PLANNED,
    },
    unmodelled=frozenset(
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
    ),
    spellings={
        "-q": "--quantization",
        "-tp": "--tensor-parallel-size",
        "-dp": "--data-parallel-size",
        "-pp": "--pipeline-parallel-size",
        "-pcp": "--prefill-context-parallel-size",
        "-dcp": "--decode-context-parallel-size",
        "-sc": "--speculative-config",
        "-ep": "--enable-expert-parallel",
    },
    length="--max-model-len",
    tokenizer_revision="--tokenizer-revision",
    elsewhere=frozenset({"--hf-config-path"}),
    scaling=("--hf-overrides", "--hf-config-path", "--rope-"),
)

WEIGHTS = WeightTable(
    # Left out are `torchao`, `online` and `humming`, whose bits another option decides,
    # `modelopt_mixed` and `fp_quant`, and `nvfp4_per_token`, of which no figures are known.
    bits=METHOD_BITS,
    fp8=FP8_METHODS,
    online=frozenset(
        {
            "fp8",
            "fp8_per_tensor",
            "fp8_per_block",
            "fp8_per_channel",
            "mxfp8",
            "mxfp4",
            "experts_int8",
            "int8_per_channel_weight_only",
        }
    ),
    experts_only=frozenset({"experts_int8", "int8_per_channel_weight_only"}),
    need_bf16=frozenset(
        {
            "fbgemm_fp8",
            "modelopt",
            "modelopt_mxfp8",
            "experts_int8",
            "mxfp4",
            "gpt_oss_mxfp4",
        }
    ),
    kv_bytes={
        "auto": 2.0,
        "bfloat16": 2.0,
        "float16": 2.0,
        "fp8": 1.0,
        "fp8_e4m3": 1.0,
        "fp8_e5m2": 1.0,
        "fp8_inc": 1.0,
        "fp8_per_token_head": 1.0,
        "int8_per_token_head": 1.0,
        "nvfp4": 4.5 / 8,
    },
    # `resolve_kv_cache_dtype_string` for ModelOpt; attention layers for compressed-tensors, but not
    # those of a latent, whose cache keeps 16 bits.
    stored_caches=frozenset(
        {
            *((method, form) for method in MODELOPT for form in ("fp8", "nvfp4")),
            ("compressed-tensors", "fp8"),
        }
    ),
    latent_caches=frozenset(MODELOPT),
    # Triton's attention needs compute capability 8.9 for fp8, FlashInfer's 8.0.
    small_cache_needs_bf16=True,
)


class VllmBench(BenchTool):
    """`vllm bench serve`."""

    name = "vllm-bench"
    title = "vllm bench"
    program = "vllm"
    key_variable = "OPENAI_API_KEY"
    result_file = "bench.json"

    def words(self, load: BenchLoad, folder: str) -> list[str]:
        """Return the words after the program."""
        flags = {
            "--backend": "openai",
            "--base-url": load.base_url,
            "--endpoint": "/v1/completions",
            "--model": load.model,
            "--tokenizer": load.tokenizer,
            "--dataset-name": "random",
            "--random-input-len": load.input_tokens,
            "--random-output-len": load.output_tokens,
            "--random-range-ratio": 0,
            "--request-rate": f"{load.rate_rps:.6g}",
            "--num-prompts": load.requests,
            "--num-warmups": 2,
            "--seed": load.seed,
            "--temperature": 0,
            "--result-filename": self.result_file,
            "--percentile-metrics": "ttft,tpot",
            "--result-dir": folder,
        }
        words = [str(word) for pair in flags.items() for word in pair]
        return ["bench", "serve", *words, "--ignore-eos", "--save-result", "--disable-tqdm"]

    def result(self, document: Mapping[str, Any]) -> BenchResult:
        """Read its result file."""
        return BenchResult(
            ttft_ms=float(document["median_ttft_ms"]),
            tpot_ms=float(document["median_tpot_ms"]),
            completed=int(document["completed"]),
        )


class Vllm(Engine):
    """vLLM's OpenAI server, `vllm serve`."""

    name = "vllm"
    title = "vLLM"
    package = "vllm"
    program = "vllm"
    default_version = "0.33.0"
    generation = "vllm"
    template = "service.yaml"
    key_variable = KEY_VARIABLE
    health_path = "/health"
    version_path = "/version"
    metrics: ClassVar[Mapping[str, str]] = {
        "vllm:num_requests_running": "running",
        "vllm:num_requests_waiting": "waiting",
        "vllm:kv_cache_usage_perc": "kv_use",  # a fraction in spite of its name
        "vllm:num_preemptions_total": "preemptions",
    }
    flags = FLAGS
    weights = WEIGHTS
    bench = VllmBench()

    def serve_command(self, replica: Replica) -> ServeCommand:
        """Return `vllm serve MODEL` with what follows from the option, then the user's flags."""
        self.check(replica)
        derived = _derived_flags(replica)
        return ServeCommand(
            program=("vllm", "serve", replica.model),
            flags=(*derived, *self.flags.lines(replica.choice.args)),
        )

    def tokens(self, text: str) -> int | None:
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


def _derived_flags(replica: Replica) -> Iterator[tuple[str, str]]:
    """Yield the flags that follow from the option and its checkpoint."""
    option = replica.option
    yield "--host", "0.0.0.0"
    yield "--port", str(replica.port)
    yield from replica.checkpoint_flags(FLAGS)
    settings = option.engine
    if settings is None:
        yield "--tensor-parallel-size", str(option.accelerator_count)
        return
    yield "--tensor-parallel-size", str(settings.tensor_parallel)
    if settings.data_parallel > 1:
        yield "--data-parallel-size", str(settings.data_parallel)
    yield "--max-model-len", str(settings.max_model_len)
    yield "--max-num-seqs", str(settings.max_num_seqs)
    yield "--gpu-memory-utilization", f"{settings.gpu_memory_utilization:g}"
    if settings.dtype is not None:
        yield "--dtype", settings.dtype
