"""SGLang: checked against the argument parser and the source of its release 0.5.23."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from melange_sky.accelerators import accelerator_table
from melange_sky.engines.base import KEY_HINT, LISTENS, PLANNED, Engine
from melange_sky.engines.command import Replica, ServeCommand
from melange_sky.engines.flags import FlagTable
from melange_sky.engines.weights import WeightTable
from melange_sky.errors import InputError

if TYPE_CHECKING:
    from melange_sky.capacities import EngineSettings

KEY_VARIABLE = "SGLANG_API_KEY"

NODE_RANK = (
    '--node-rank "$SKYPILOT_NODE_RANK" '
    '--dist-init-addr "$(echo "$SKYPILOT_NODE_IPS" | head -n 1):20000"'
)
"""What each node of a replica over several adds; the first one answers requests."""

_MODEL = "the spec's model says what is served"
_SPLIT_ROLES = "a replica answers whole requests by itself"

FLAGS = FlagTable(
    refused={
        "--host": LISTENS,
        "--port": LISTENS,
        "--grpc-mode": LISTENS,
        "--smg-grpc-mode": LISTENS,
        "--api-key": KEY_HINT.format(KEY_VARIABLE),
        "--admin-api-key": "a secret does not belong in a plan",
        "--model-path": _MODEL,
        "--tp-size": PLANNED,
        "--dp-size": PLANNED,
        "--pp-size": PLANNED,
        "--dcp-size": PLANNED,
        "--attn-dp-size": PLANNED,
        "--attn-cp-size": PLANNED,
        "--moe-dp-size": PLANNED,
        "--dwdp-size": PLANNED,
        "--enable-dp-attention": PLANNED,
        "--nnodes": PLANNED,
        "--node-rank": PLANNED,
        "--dist-init-addr": PLANNED,
        "--disaggregation-mode": _SPLIT_ROLES,
        "--encoder-only": _SPLIT_ROLES,
    },
    unmodelled=frozenset(
        {
            "--max-running-requests",
            "--mem-fraction-static",
            "--max-total-tokens",
            "--max-queued-requests",
            "--chunked-prefill-size",
            "--max-prefill-tokens",
            "--prefill-max-requests",
            "--schedule-conservativeness",
            "--num-continuous-decode-steps",
            "--enable-mixed-chunk",
            "--disable-overlap-schedule",
            "--disable-cuda-graph",
            "--enable-torch-compile",
            "--enable-two-batch-overlap",
            "--enable-single-batch-overlap",
            "--enable-deterministic-inference",
            "--cpu-offload-gb",
            "--speculative-algorithm",
            "--ep-size",
            "--enable-lora",
            "--lora-paths",
        }
    ),
    spellings={
        "--model": "--model-path",
        "--tensor-parallel-size": "--tp-size",
        "--data-parallel-size": "--dp-size",
        "--pipeline-parallel-size": "--pp-size",
        "--decode-context-parallel-size": "--dcp-size",
        "--attention-data-parallel-size": "--attn-dp-size",
        "--attention-context-parallel-size": "--attn-cp-size",
        "--moe-data-parallel-size": "--moe-dp-size",
        "--expert-parallel-size": "--ep-size",
        "--ep": "--ep-size",
        "--nccl-init-addr": "--dist-init-addr",
    },
    length="--context-length",
    adapters_flag="--lora-paths",
    tokenizer="--tokenizer-path",
    scaling=("--json-model-override-args",),
    prefixes=True,
)

WEIGHTS = WeightTable(
    # Left out are methods of one vendor's chips (`modelslim`, `mxfp_w4a8`, `mlx_*`), those that need
    # Hopper or Blackwell (`w4afp8`, `nvfp4_online`, `petit_nvfp4`), and those whose bits a file decides.
    bits={
        "awq": 4.0,
        "awq_marlin": 4.0,
        "gptq": 4.0,
        "gptq_marlin": 4.0,
        "moe_wna16": 4.0,
        "auto-round": 4.0,
        "mxfp4": 4.0,
        "fp8": 8.0,
        "w8a8_fp8": 8.0,
        "w8a8_int8": 8.0,
        "modelopt": 8.0,
        "modelopt_fp8": 8.0,
        "compressed-tensors": 8.0,
        "quark": 8.0,
    },
    fp8=frozenset({"fp8", "w8a8_fp8", "modelopt", "modelopt_fp8"}),
    online=frozenset({"fp8", "w8a8_fp8"}),
    experts_only=frozenset({"mxfp4"}),
    # Compute capability 8.0 and 8.9, as each method's own class demands.
    need_bf16=frozenset({"fp8", "mxfp4", "awq_marlin", "gptq", "gptq_marlin"}),
    need_fp8=frozenset({"w8a8_fp8", "modelopt", "modelopt_fp8"}),
    kv_bytes={
        "auto": 2.0,
        "bf16": 2.0,
        "bfloat16": 2.0,
        "fp8_e4m3": 1.0,
        "fp8_e5m2": 1.0,
        "mxfp8": 8.25 / 8,  # a scale of 8 bits per 32 values
        "nvfp4": 4.5 / 8,  # a scale of 8 bits per 16 values
        "fp4_mx_block16": 4.5 / 8,
    },
    unservable=frozenset(
        {
            "auto_awq",
            "auto_gptq",
            "deepseek_v4_fp8",
            "experts_int8",
            "fbgemm_fp8",
            "fp8_per_block",
            "fp8_per_channel",
            "fp8_per_tensor",
            "gpt_oss_mxfp4",
            "int8_per_channel_weight_only",
            "modelopt_mxfp8",
        }
    ),
    # `configure_kv_cache_dtype` asks ModelOpt's configs for it and no other's.
    stored_caches=frozenset({("modelopt", "fp8"), ("modelopt_fp4", "fp8")}),
    latent_caches=frozenset({"modelopt", "modelopt_fp4"}),
)

_TOKENS = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(Ki|Mi|Gi|Ti|k|M|G|T)?")
_SCALES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_SCALES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class Sglang(Engine):
    """SGLang's OpenAI-compatible server, `python3 -m sglang.launch_server`."""

    name = "sglang"
    title = "SGLang"
    package = "sglang"
    program = "sglang"
    default_version = "0.5.23"
    generation = "vllm"
    prefix_cache_flags: ClassVar = {"--disable-radix-cache": False}
    generation_note = (
        "SGLang has no figures of its own yet: its replicas are estimated as those of vLLM, the nearest "
        "engine; measure to know the error (melange-sky profile launch)"
    )
    template = "sglang.service.yaml"
    key_variable = KEY_VARIABLE
    health_path = "/health"
    version_path = "/server_info"
    metrics: ClassVar[Mapping[str, str]] = {
        "sglang:num_running_reqs": "running",
        "sglang:num_queue_reqs": "waiting",
        "sglang:token_usage": "kv_use",
        "sglang:num_retracted_requests_total": "preemptions",
    }
    flags = FLAGS
    weights = WEIGHTS

    def serve_command(self, replica: Replica) -> ServeCommand:
        """Return the server's start with what follows from the option, then the user's flags.

        The server reads its key from the command line alone, so the shell adds it where one is set.
        """
        self.check(replica)
        ending = f'${{{KEY_VARIABLE}:+"--api-key=${KEY_VARIABLE}"}}'
        if replica.option.nodes > 1:
            ending = f"{NODE_RANK} {ending}"
        return ServeCommand(
            program=("python3", "-m", "sglang.launch_server", "--model-path", replica.model),
            flags=(*_derived_flags(replica), *self.flags.lines(replica.choice.args)),
            ending=ending,
        )

    def tokens(self, text: str) -> int | None:
        """Return a token count as SGLang reads it: 8192, 8k or 8.2k (8000, 8200), 8Ki (8192)."""
        number = _TOKENS.fullmatch(text.strip())
        tokens = 0
        if number is not None:
            digits, suffix = number.groups()
            if suffix in _SCALES:
                tokens = int(float(digits) * _SCALES[suffix])
            elif "." not in digits:
                tokens = int(digits) * _BINARY_SCALES.get(suffix, 1)
        if tokens <= 0:
            raise InputError(f"--context-length: '{text[:40]}' is not a number of tokens")
        return tokens


def _derived_flags(replica: Replica) -> Iterator[tuple[str, ...]]:
    """Yield the flags that follow from the option. With data parallelism each copy takes them all."""
    yield "--host", "0.0.0.0"
    yield "--port", str(replica.port)
    yield ("--enable-metrics",)
    yield from replica.checkpoint_flags(FLAGS)
    if replica.reports_cached and not list(
        FLAGS.given(replica.choice.args, {"--enable-cache-report"})
    ):
        yield ("--enable-cache-report",)
    settings = replica.option.engine
    if settings is None:
        yield "--tp-size", str(replica.option.accelerator_count)
        return
    yield from _split_flags(settings)
    yield "--context-length", str(settings.max_model_len)
    shared = settings.data_parallel if settings.expert_parallel else 1
    yield "--max-running-requests", str(settings.max_num_seqs * shared)
    share = _static_fraction(replica, settings)
    if share is not None:
        yield "--mem-fraction-static", f"{share:g}"
    if settings.dtype is not None:
        yield "--dtype", settings.dtype


def _split_flags(settings: EngineSettings) -> Iterator[tuple[str, ...]]:
    """Yield how the GPUs share the model.

    Of engines that share the experts the tensor group is all GPUs, attention being copied within it;
    the most running requests are then those of all engines. Other copies are replicas of their own.
    """
    if settings.expert_parallel:
        gpus = settings.tensor_parallel * settings.data_parallel
        yield "--tp-size", str(gpus)
        yield "--ep-size", str(gpus)
        if settings.data_parallel > 1:
            yield "--attn-dp-size", str(settings.data_parallel)
    else:
        yield "--tp-size", str(settings.tensor_parallel)
        if settings.data_parallel > 1:
            yield "--dp-size", str(settings.data_parallel)
    if settings.pipeline_parallel > 1:
        yield "--pp-size", str(settings.pipeline_parallel)
    if settings.nodes > 1:
        yield "--nnodes", str(settings.nodes)


def _static_fraction(replica: Replica, settings: EngineSettings) -> float | None:
    """Return the share of a GPU that weights and KV cache take, as the plan counted them.

    The server's fraction leaves activations and CUDA graphs out, the planned utilisation holds them:
    (weights + cached tokens, in sequences of the longest length) ÷ memory, on each GPU. None where the
    plan does not say so much, and for layers with windows or states, which the server gives pools of
    their own; it then chooses by itself.
    """
    shape, gpu = replica.shape, accelerator_table().get(replica.option.gpu)
    if shape is None or gpu is None or settings.kv_cache_tokens is None:
        return None
    if settings.pipeline_parallel > 1 or settings.expert_parallel:
        return None  # what a GPU then holds is no tensor group's part of the model
    if any(group.window or group.state_bytes for group in shape.groups):
        return None
    tp = settings.tensor_parallel
    weights = shape.weight_bytes_per_gpu(tp) + shape.padding_bytes_per_gpu(tp, gpu.capability)
    longest = settings.max_model_len
    cache = settings.kv_cache_tokens / longest * shape.kv_bytes(longest, tp)
    return max(0.01, int((weights + cache) / (gpu.usable_gib * 2.0**30) * 1000) / 1000)
