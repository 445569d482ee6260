"""vLLM: checked against the command line and the source of releases 0.32 and 0.33."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

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
from melange_sky.engines.servers import Servers
from melange_sky.engines.vllm_models import FOREIGN_CONFIGS, WITHOUT_CODE
from melange_sky.engines.weights import WeightTable
from melange_sky.errors import InputError
from melange_sky.models.quantization import FP8_METHODS, METHOD_BITS

if TYPE_CHECKING:
    from melange_sky.capacities import EngineSettings

KEY_VARIABLE = "VLLM_API_KEY"
MODELOPT = ("modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed")

NODE_RANK = (
    '--node-rank "$SKYPILOT_NODE_RANK" '
    '--master-addr "$(echo "$SKYPILOT_NODE_IPS" | head -n 1)" '
    '$([ "$SKYPILOT_NODE_RANK" = 0 ] || echo --headless)'
)
"""What each node of a replica over several adds: the first one answers requests, the others work for it."""

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
        "--nnodes": PLANNED,
        "--node-rank": PLANNED,
        "--master-addr": PLANNED,
        "--headless": PLANNED,
        "--data-parallel-size-local": PLANNED,
        "--data-parallel-rank": PLANNED,
        "--data-parallel-start-rank": PLANNED,
        "--data-parallel-address": PLANNED,
        "--data-parallel-backend": PLANNED,
        "--data-parallel-hybrid-lb": PLANNED,
        "--data-parallel-external-lb": PLANNED,
        "--data-parallel-multi-port-external-lb": PLANNED,
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
        "-n": "--nnodes",
        "-r": "--node-rank",
        "-dpn": "--data-parallel-rank",
        "-dpr": "--data-parallel-start-rank",
        "-dpl": "--data-parallel-size-local",
        "-dpa": "--data-parallel-address",
        "-dpb": "--data-parallel-backend",
        "-dph": "--data-parallel-hybrid-lb",
        "-dpe": "--data-parallel-external-lb",
    },
    length="--max-model-len",
    adapters_flag="--lora-modules",
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
    unservable=frozenset({"bitsandbytes"}),  # its loader went with the version that is rendered
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
    falls_to_float32=True,
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
    generations_before = (
        ((0, 3), "vllm-0.2"),
        ((0, 8), "vllm-0.5"),
        ((0, 14), "vllm-0.11"),
    )
    template = "service.yaml"
    key_variable = KEY_VARIABLE
    health_path = "/health"
    version_path = "/version"
    metrics: ClassVar[Mapping[str, str]] = {
        "vllm:num_requests_running": "running",
        "vllm:num_requests_waiting": "waiting",
        "vllm:kv_cache_usage_perc": "kv_use",  # a fraction in spite of its name
        "vllm:num_preemptions_total": "preemptions",
        "vllm:prefix_cache_queries_total": "prefix_asked",
        "vllm:prefix_cache_hits_total": "prefix_found",
        "vllm:inter_token_latency_seconds_sum": "decode_s",
        "vllm:inter_token_latency_seconds_count": "decoded",
        "vllm:prompt_tokens_total": "prompted",
        "vllm:time_to_first_token_seconds_sum": "ttft_s",
        "vllm:time_to_first_token_seconds_count": "first_tokens",
    }
    histograms: ClassVar[Mapping[str, str]] = {
        "vllm:request_prompt_tokens": "prompts",
        "vllm:request_generation_tokens": "answers",
    }
    flags = FLAGS
    weights = WEIGHTS
    without_code = WITHOUT_CODE
    foreign_configs = FOREIGN_CONFIGS
    prefix_cache_flags: ClassVar = {
        "--enable-prefix-caching": True,
        "--no-enable-prefix-caching": False,
    }
    bench = VllmBench()

    def serve_command(self, replica: Replica) -> ServeCommand:
        """Return `vllm serve MODEL` with what follows from the option, then the user's flags.

        Engines of a dense model are independent within one server. Those of a mixture of experts share
        the experts, so that copies of it are servers of their own.
        """
        self.check(replica)
        servers, ending = self._servers(replica), ""
        if servers is not None:
            ending = f'--port "{servers.own_port}"'
        elif replica.option.nodes > 1:
            ending = NODE_RANK
        return ServeCommand(
            program=("vllm", "serve", replica.model),
            flags=(*_derived_flags(replica, servers), *self.flags.lines(replica.choice.args)),
            ending=ending,
            servers=servers,
        )

    def _servers(self, replica: Replica) -> Servers | None:
        settings, shape = replica.option.engine, replica.shape
        if settings is None or settings.data_parallel == 1 or settings.expert_parallel:
            return None
        if shape is None or not shape.experts:
            return None
        return Servers(
            count=settings.data_parallel,
            gpus=settings.split.engine_gpus,
            port=replica.port,
            health_path=self.health_path,
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


def _derived_flags(replica: Replica, servers: Servers | None) -> Iterator[tuple[str, ...]]:
    """Yield the flags that follow from the option and its checkpoint."""
    if servers is None:
        yield "--host", "0.0.0.0"
        yield "--port", str(replica.port)
    else:
        yield "--host", "127.0.0.1"
    yield from replica.checkpoint_flags(FLAGS)
    if replica.reports_cached and not list(
        FLAGS.given(replica.choice.args, {"--enable-prompt-tokens-details"})
    ):
        yield ("--enable-prompt-tokens-details",)
    settings = replica.option.engine
    if settings is None:
        yield "--tensor-parallel-size", str(replica.option.accelerator_count)
        return
    yield from _split_flags(settings, servers)
    yield "--max-model-len", str(settings.max_model_len)
    yield "--max-num-seqs", str(settings.max_num_seqs)
    yield "--gpu-memory-utilization", f"{settings.gpu_memory_utilization:g}"
    if settings.dtype is not None:
        yield "--dtype", settings.dtype


def _split_flags(settings: EngineSettings, servers: Servers | None) -> Iterator[tuple[str, ...]]:
    yield "--tensor-parallel-size", str(settings.tensor_parallel)
    if settings.pipeline_parallel > 1:
        yield "--pipeline-parallel-size", str(settings.pipeline_parallel)
    if settings.data_parallel > 1 and servers is None:
        yield "--data-parallel-size", str(settings.data_parallel)
    if settings.expert_parallel:
        yield ("--enable-expert-parallel",)
    if settings.nodes > 1:
        yield "--nnodes", str(settings.nodes)
