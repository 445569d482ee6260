"""What was meant by a key that a spec does not have: other tools' words, other places, slips of the pen.

One table of words for one schema: a key that is called so elsewhere (servers, load generators,
Kubernetes, cloud consoles) leads to ours, wherever it lives; every key of the schema is known at every level.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from typing import TYPE_CHECKING

from melange_sky.engines import ENGINES
from melange_sky.errors import clip, did_you_mean
from melange_sky.spec.schema import SECTIONS
from melange_sky.spec.validators import known_keys

if TYPE_CHECKING:
    from melange_sky.spec.yaml_source import KeyPath

_WORDS: dict[str, str] = {
    "slo.tpot_ms": (
        "itl itl_ms inter_token_latency inter_token_latency_ms inter_token_ms tbt tbt_ms time_between_tokens tpot tpot_s"
        " tpot_seconds time_per_output_token time_per_output_token_ms ms_per_token token_latency_ms per_token_ms"
        " decode_latency_ms"
    ),
    "slo.ttft_ms": (
        "ttft ttft_s ttft_seconds time_to_first_token time_to_first_token_ms first_token first_token_ms"
        " first_token_latency first_token_latency_ms prefill_ms prefill_latency_ms"
    ),
    "slo.attainment": "percentile quantile p50 p90 p95 p99 goodput slo_attainment target confidence success_rate availability",
    "slo": "sla slos objectives targets latency latency_slo",
    "workload.rate_rps": (
        "qps rps rate_qps target_qps request_rate requests_per_second req_per_s req_per_sec request_per_second arrival_rate"
        " requests_rate rate_rpm rpm requests_per_minute qpm throughput load concurrency total_request_rate traffic"
    ),
    "workload.burstiness": "cv cv2 burst bursts burst_factor gamma_shape arrival_cv",
    "workload.distribution": "dataset dataset_name sizes size_distribution shape mix",
    "workload.trace": "log logs csv file files trace_file trace_path traces jsonl request_log requests_file",
    "workload.input_tokens": (
        "isl prompt_tokens prompt_len prompt_length input_len input_length mean_input avg_input average_input input"
        " prompt_size context_tokens random_input_len"
    ),
    "workload.output_tokens": (
        "osl max_tokens max_new_tokens max_output_tokens max_completion_tokens completion_tokens output_len output_length"
        " mean_output avg_output average_output output generated_tokens response_tokens random_output_len"
    ),
    "workload.timezone": "tz time_zone zone_name",
    "workload.histogram": "buckets bins workload_distribution",
    "workload.images": "image multimodal vision pictures",
    "workload": "traffic_profile demand request_profile",
    "resources.accelerators": (
        "gpu gpus gpu_type gpu_types gpu_name gpu_names gpu_info accelerator accelerator_type hardware device devices cards"
        " instance instances instance_type instance_types machine_type tpu tpus tensor_parallel_size tensor_parallel tp"
    ),
    "resources.infra": (
        "cloud clouds provider providers cloud_provider region regions zone zones location locations any_of"
        " availability_zone datacenter datacenters"
    ),
    "resources.use_spot": "preemptible use_preemptible spot_instances use_spot_instances interruptible",
    "resources.limits": "max_gpus quota quotas max_instances caps cap capacity_limits limit gpu_limits max_count",
    "resources.budget_usd_per_hour": "budget budget_usd max_cost max_price max_usd_per_hour cost_limit budget_per_hour",
    "resources.max_nodes_per_replica": "num_nodes nodes max_nodes pipeline_parallel_size",
    "redundancy.min_replicas": "replicas min_replica minreplicas replica_count num_replicas",
    "redundancy.spare": "n_plus_one spares standby extra_replicas",
    "headroom": "safety safety_factor safety_margin margin buffer slack overprovision utilization target_utilization overhead",
    "engine.quantization": "quant quantize precision weight_format",
    "engine.args": (
        "engine_args extra_args flags cli_args max_model_len context_length max_context_length"
        " max_seq_len gpu_memory_utilization max_num_seqs max_num_batched_tokens"
        " dtype kv_cache_dtype enable_prefix_caching"
    ),
    "engine.version": "engine_version image_tag",
    "engine.env": "environment env_vars",
    "engine": "backend server serving_engine runtime",
    "model": "model_id model_name hf_model checkpoint checkpoints weights model_path repo",
    "model_config": "config config_json hf_config config_path",
    "current": "existing running fleet current_fleet today",
    "name": "service service_name id title",
}  # fmt: skip

_WORDS |= {
    f"engine{key}": " ".join((_WORDS[f"engine{key}"], *(f"{name}{word}" for name in ENGINES)))
    for key, word in ((".args", "_args"), (".version", "_version"), ("", ""))
}

_NOTES: dict[str, str] = {
    "max_tokens": "the mean of what answers have, not the most that they may have",
    "max_new_tokens": "the mean of what answers have, not the most that they may have",
    "max_output_tokens": "the mean of what answers have, not the most that they may have",
    "max_completion_tokens": "the mean of what answers have, not the most that they may have",
    "concurrency": "requests per second, which are concurrency ÷ seconds that a request takes",
    "utilization": "what is kept free: 1 − utilization",
    "target_utilization": "what is kept free: 1 − utilization",
    "replicas": "how many there are the plan decides; this is the least",
    "num_replicas": "how many there are the plan decides; this is the least",
    "tensor_parallel_size": 'the plan chooses splits; "NAME:2" asks for two per replica',
    "tensor_parallel": 'the plan chooses splits; "NAME:2" asks for two per replica',
    "tp": 'the plan chooses splits; "NAME:2" asks for two per replica',
}
_NO_LIMIT = re.compile(
    r"(e2e|end_to_end|request|response|total|latency)(_latency|_time|_duration)?(_ms|_s)?\Z"
)


def unknown_key(key: str, known: list[str], at: KeyPath, of_skypilot: str | None) -> str:
    """Return what to say of a key that a spec does not have at a path, where `known` are the keys that it has.

    `of_skypilot` is what to say of a field of SkyPilot's, None for a key that is none.
    """
    hint = _slip(_plain(key), known) or of_skypilot or _elsewhere(key, _section_of(at))
    return f"unknown key '{clip(key)}'{hint or _near(key, known)}"


def _section_of(at: KeyPath) -> str:
    """Return the section that a path leads to, as `SECTIONS` names it, whichever model it is of."""
    names = [part for part in at if isinstance(part, str)]
    if names[:1] == ["models"]:
        return ".".join(names[1:]) or "models[]"
    return ".".join(names)


def _slip(key: str, known: list[str]) -> str:
    found = _close(key, known, 0.85)
    return "" if found is None else f" (did you mean '{found}'?)"


def _elsewhere(key: str, section_path: str) -> str:
    plain = _plain(key)
    found = _synonyms().get(plain) or _place_of(plain, section_path)
    if found is None and section_path == "slo" and _NO_LIMIT.match(plain):
        return "; there is no limit on whole requests: give ttft_ms and tpot_ms"
    if found is None:
        return ""
    note = _NOTES.get(plain) or _unit_note(plain, found)
    return f" (did you mean {_told(found, section_path)}{note and ': ' + note}?)"


def _told(path: str, section_path: str) -> str:
    section, _, name = path.rpartition(".")
    if section == section_path:
        return f"'{name}'"
    return f"'{name}' under {section}" if section else f"'{name}' at the top level"


def _unit_note(key: str, path: str) -> str:
    if path.endswith("_ms") and not key.endswith("_ms"):
        return "in milliseconds"
    if path == "workload.rate_rps" and (key.endswith(("rpm", "qpm")) or "minute" in key):
        return "per second, so divided by 60"
    if path == "engine.args":
        return f"--{key.replace('_', '-')}"
    return ""


def _plain(key: str) -> str:
    """Return a key in the spec's own way of writing: snake case."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key.strip()[:80])
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


@cache
def _synonyms() -> dict[str, str]:
    return {word: path for path, words in _WORDS.items() for word in words.split()}


@cache
def all_paths() -> tuple[str, ...]:
    """Return the path of every key that belongs to a section of the spec, such as ``slo.tpot_ms``."""
    found = []
    for path, section in SECTIONS.items():
        if path != "models[]":
            start = path.removesuffix("[]")
            for name in known_keys(section, ()):
                own = f"{start}.{name}" if start else name
                found += [own, *(f"{own}.{inner}" for inner in known_keys(section, (name,)))]
    return tuple(found)


def _place_of(key: str, section_path: str) -> str | None:
    """Return where a key of this name lives, or one much like it."""
    paths = [path for path in all_paths() if path.rpartition(".")[0] != section_path]
    names: dict[str, str] = {}
    for path in paths:
        names.setdefault(path.rpartition(".")[2], path)
    found = key if key in names else _close(key, list(names), 0.8)
    return None if found is None else names[found]


def _close(key: str, names: list[str], cutoff: float) -> str | None:
    near = difflib.get_close_matches(key, names, n=1, cutoff=cutoff)
    return near[0] if near and key not in _synonyms() else None


def _near(key: str, known: list[str]) -> str:
    return did_you_mean(key, known) or f"; known: {', '.join(known)}"
