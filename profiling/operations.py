"""Fit the kernel constants of each accelerator on measured operations of vLLM: kernels.json.

    pip install aiconfigurator-core pyarrow pandas     # Apache-2.0; not needed by the project itself
    python profiling/operations.py

The wheel holds tables of measured operations (vLLM 0.24 on H100, H200, L40S, B200, RTX PRO 6000;
0.14 on A100) and an estimator that adds them up to steps. Its steps of several models, formats and
splits are taken apart by operation, and the constants of `melange_sky.steps` fitted on each kind by
robust least squares on logarithms. Only the fitted figures and their residuals are kept. They are
kernels alone: what a served token takes besides, `calibrate.py` fits on end-to-end runs.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from melange_sky.accelerators import AcceleratorSpec
from melange_sky.models import ModelShape, find_model
from melange_sky.names.accelerators import find_accelerator

OUTPUT = Path(__file__).resolve().parent / "kernels.json"
CARDS = {
    "H100": ("h100_sxm", "0.24.0"),
    "H200": ("h200_sxm", "0.24.0"),
    "L40S": ("l40s", "0.24.0"),
    "B200": ("b200_sxm", "0.24.0"),
    "RTXPRO6000": ("rtx_pro_6000_server", "0.24.0"),
    "A100-80GB": ("a100_sxm", "0.14.0"),
}
DENSE = {
    "meta-llama/Meta-Llama-3.1-8B": (1, 2, 4),
    "meta-llama/Meta-Llama-3.1-70B": (2, 4, 8),
    "Qwen/Qwen3-8B": (1,),
    "Qwen/Qwen3-32B": (1, 2, 4),
}
SPARSE = {"Qwen/Qwen3-30B-A3B": (1, 2, 4), "Qwen/Qwen3-235B-A22B": (4, 8)}
FOUR_BITS = {"openai/gpt-oss-20b": (1, 2), "openai/gpt-oss-120b": (1, 2, 4)}
OURS = {
    "meta-llama/Meta-Llama-3.1-8B": "meta-llama/Llama-3.1-8B",
    "meta-llama/Meta-Llama-3.1-70B": "meta-llama/Llama-3.1-70B",
}
BATCHES, CONTEXTS = (1, 4, 16, 64, 128, 256), (256, 1024, 4096, 8192)
PROMPTS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
EXPERT_SKEW = 0.87
"""m tokens touch as many experts as m^0.87 evenly spread ones would, on all cards within 0.83 to 0.88."""

ELEMENTWISE = ("act_gate", "add_norm_1", "add_norm_2", "embedding")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One step of one model, its milliseconds by kind of operation."""

    model: ModelShape
    tensor_parallel: int
    format: str
    is_decode: bool
    batch: int
    tokens: int
    seconds: dict[str, float]

    @property
    def computed(self) -> int:
        """Tokens that the step computes."""
        return self.batch if self.is_decode else self.tokens


def steps_of(card: str) -> Iterator[Step]:
    """Yield the steps that the estimator adds up for one accelerator."""
    from aiconfigurator_core.sdk.engine import EngineHandle

    system, version = CARDS[card]
    for name, splits in {**DENSE, **SPARSE, **FOUR_BITS}.items():
        for split in splits:
            for number_format in ("bfloat16",) if name in FOUR_BITS else ("bfloat16", "fp8"):
                modes: dict[str, Any] = {"gemm_quant_mode": number_format}
                if name in SPARSE:
                    modes |= {"moe_quant_mode": number_format, "moe_tp_size": split}
                if name in FOUR_BITS:
                    modes |= {"moe_quant_mode": "w4a16_mxfp4", "moe_tp_size": split}
                try:
                    engine = EngineHandle.compile(
                        name,
                        system,
                        "vllm",
                        backend_version=version,
                        tp_size=split,
                        kvcache_quant_mode="bfloat16",
                        fmha_quant_mode="bfloat16",
                        **modes,
                    )
                    yield from _steps(engine, name, split, number_format)
                except Exception as error:  # noqa: BLE001  # no table for this combination
                    print(f"  {card} {name} tp{split} {number_format}: {str(error)[:80]}")


def _steps(engine: Any, name: str, split: int, number_format: str) -> Iterator[Step]:
    model = find_model(OURS.get(name, name))
    if number_format == "fp8":
        model = dataclasses.replace(model.in_bytes(1.0), fp8_compute=True)
    same = {"model": model, "tensor_parallel": split, "format": number_format}
    for batch in BATCHES:
        for context in CONTEXTS:
            if batch * context <= 600_000:
                found = engine.decode_step_per_op(batch, context, 2)
                yield Step(
                    **same, is_decode=True, batch=batch, tokens=context, seconds=_kinds(found)
                )
    for prompt in PROMPTS:
        found, _ = engine.run_static_per_op(batch_size=1, isl=prompt, osl=2, mode="static_ctx")
        yield Step(**same, is_decode=False, batch=1, tokens=prompt, seconds=_kinds(found))


def _kinds(operations: Sequence[Any]) -> dict[str, float]:
    kinds: dict[str, float] = {}
    for operation, ms, *_ in operations:
        name = operation.split("_", 1)[1]
        kind = "other"
        if name in ("attention", "moe"):
            kind = name
        elif name.endswith("gemm"):
            kind = "products"
        elif name in ELEMENTWISE:
            kind = "elementwise"
        elif "dispatch" in name or name.endswith("_ar") or name.startswith("ar_"):
            kind = "all_reduce"
        kinds[kind] = kinds.get(kind, 0.0) + ms / 1e3
    return kinds


Law = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


def fit(law: Law, start: Sequence[float], seconds: np.ndarray[Any, Any]) -> list[float]:
    """Return the constants of a law, given as logarithms, that fit best."""
    found = least_squares(
        lambda z: np.log(law(np.exp(z)) / seconds),
        np.log(start),
        loss="soft_l1",
        f_scale=0.1,
        diff_step=1e-3,
    )
    return [float(f"{v:.4g}") for v in np.exp(found.x)]


def error(law: Law, z: Sequence[float], seconds: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return median and 90th percentile of |fitted ÷ measured − 1|."""
    gaps = np.abs(law(np.array(z)) / seconds - 1)
    return {
        "median": round(float(np.median(gaps)), 3),
        "p90": round(float(np.percentile(gaps, 90)), 3),
    }


def column(steps: Sequence[Step], figure: Callable[[Step], float]) -> np.ndarray[Any, Any]:
    """Return a figure of every step."""
    return np.array([figure(step) for step in steps])


def smooth(first: Any, second: Any, sharpness: float) -> Any:
    """Return (first^s + second^s)^(1/s)."""
    larger = np.maximum(first, second)
    return larger * (1 + (np.minimum(first, second) / larger) ** sharpness) ** (1 / sharpness)


def fit_products(steps: Sequence[Step], card: AcceleratorSpec, fp8: bool) -> dict[str, Any]:
    """Dense products and the head: bandwidth, compute, sharpness and the start of a kernel."""
    steps = [s for s in steps if "moe" not in s.seconds and (s.format == "fp8") is fp8]
    if not steps:
        return {}
    bandwidth, plain = card.bandwidth_gbps * 1e9, card.dense_tflops * 1e12
    peak = (card.fp8_tflops or card.dense_tflops) * 1e12 if fp8 else plain
    read = column(
        steps, lambda s: s.model.total(lambda g: g.dense.linear_bytes) / s.tensor_parallel
    )
    flops = column(
        steps,
        lambda s: 2 * s.computed * s.model.total(lambda g: g.dense.linear) / s.tensor_parallel,
    )
    head = column(steps, lambda s: s.model.head.bytes / s.tensor_parallel)
    head_flops = column(steps, lambda s: 2 * s.batch * s.model.head.parameters / s.tensor_parallel)
    layers = column(steps, lambda s: s.model.layers)

    def law(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        products = smooth(read / bandwidth / z[0], flops / peak / z[1], z[2])
        heads = smooth(head / bandwidth / z[0], head_flops / plain / 0.7, z[2])
        total: np.ndarray[Any, Any] = products + heads + 4 * layers * z[3]
        return total

    seconds = column(steps, lambda s: s.seconds["products"])
    z = fit(law, (0.85, 0.7, 2.5, 2e-6), seconds)
    return {
        "bandwidth": z[0],
        "compute": z[1],
        "sharpness": z[2],
        "kernel_s": z[3],
        "error": error(law, z, seconds),
    }


def fit_attention(steps: Sequence[Step], card: AcceleratorSpec) -> dict[str, Any]:
    """Decode: start of a kernel and bandwidth; prefill: start and compute."""
    steps = [s for s in steps if s.format == "bfloat16"]
    decode = [s for s in steps if s.is_decode]
    prefill = [s for s in steps if not s.is_decode]
    read = column(decode, _kv_bytes) / (card.bandwidth_gbps * 1e9)
    flops = column(prefill, _pair_flops) / (card.dense_tflops * 1e12)
    layers = column(decode, lambda s: s.model.layers), column(prefill, lambda s: s.model.layers)

    def reading(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        total: np.ndarray[Any, Any] = layers[0] * z[0] + read / z[1]
        return total

    def computing(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        total: np.ndarray[Any, Any] = layers[1] * z[0] + flops / z[1]
        return total

    seconds = column(decode, lambda s: s.seconds["attention"])
    z = fit(reading, (1e-5, 0.8), seconds)
    later = column(prefill, lambda s: s.seconds["attention"])
    y = fit(computing, (2e-5, 0.6), later)
    return {
        "start_s": z[0],
        "attention": z[1],
        "decode_error": error(reading, z, seconds),
        "prefill_start_s": y[0],
        "prefill": y[1],
        "prefill_error": error(computing, y, later),
    }


def _kv_bytes(step: Step) -> float:
    return step.batch * step.model.total(
        lambda g: g.kv_bytes(step.tokens, 2.0) / g.kv_split(step.tensor_parallel)
    )


def _pair_flops(step: Step) -> float:
    def of_layer(group: Any) -> float:
        window = group.window or step.tokens
        inside = min(step.tokens, window)
        pairs = inside * inside / 2 + (step.tokens - inside) * window
        return float(group.pair_flops * pairs / min(step.tensor_parallel, max(group.heads, 1)))

    return step.model.total(of_layer)


def fit_experts(steps: Sequence[Step], card: AcceleratorSpec, kind: str) -> dict[str, Any]:
    """Routed experts: bandwidth, compute and start, reading and computing added up."""
    four = kind == "int4"
    steps = [
        s
        for s in steps
        if s.seconds.get("moe")
        and (s.format == "fp8") is (kind == "fp8")
        and (s.model.dtype == "mxfp4") is four
    ]
    if not steps:
        return {}
    peak = (card.fp8_tflops or card.dense_tflops) if kind == "fp8" else card.dense_tflops
    bandwidth, peak = card.bandwidth_gbps * 1e9, peak * 1e12

    def touched(step: Step) -> float:
        group = next(g for g in step.model.groups if g.routed)
        miss = 1 - group.experts_per_token / group.routed
        return 1 - miss ** (step.computed**EXPERT_SKEW)

    read = column(
        steps,
        lambda s: touched(s) * s.model.total(lambda g: g.experts.bytes) / s.tensor_parallel,
    )
    flops = column(
        steps,
        lambda s: 2 * s.computed * s.model.total(lambda g: g.active_experts) / s.tensor_parallel,
    )
    layers = column(steps, lambda s: s.model.layers)

    def law(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        total: np.ndarray[Any, Any] = layers * z[2] + read / bandwidth / z[0] + flops / peak / z[1]
        return total

    seconds = column(steps, lambda s: s.seconds["moe"])
    z = fit(law, (0.8, 0.4, 1e-5), seconds)
    return {"bandwidth": z[0], "compute": z[1], "start_s": z[2], "error": error(law, z, seconds)}


ENGINES_OWN_OVER_PCIE = 2
"""Over PCIe the engine's own all-reduces are for so many GPUs; beyond, NCCL's are used."""

MOST_BYTES = 2**27

LINKED = {"nvlink": ("A100-80GB", "H100", "H200"), "pcie-peer": ("RTXPRO6000",), "pcie": ("L40S",)}
"""Cards whose measured all-reduces stand for a kind of link. L40S: 4 and 8 GPUs meet through the host."""


def fit_links(own: bool = False) -> dict[str, Any]:
    """All-reduces by kind of link and GPUs: latency, fraction of the link's rate, sharpness.

    `own`: the engine's own ones everywhere, which the estimator's sums take.
    """
    found: dict[str, Any] = {}
    for links, names in LINKED.items():
        found[links] = {}
        for gpus in (2, 4, 8):
            rows = [(name, *row) for name in names for row in all_reduces(name, gpus, own)]
            ideal = np.array(
                [b / (find_accelerator(n).interconnect_gbps * 1e9) for n, b, _ in rows]
            )
            seconds = np.array([s for _, _, s in rows])

            def law(z: np.ndarray[Any, Any], ideal: np.ndarray[Any, Any] = ideal) -> Any:
                return smooth(z[0], ideal / z[1], z[2])

            z = fit(law, (1e-5, 0.5, 1.0), seconds)
            gaps = np.abs(law(np.array(z)) / seconds - 1)
            owner = np.array([row[0] for row in rows])
            by_card = {name: round(float(np.median(gaps[owner == name])), 3) for name in names}
            found[links][gpus] = {
                "latency_s": z[0],
                "fraction": z[1],
                "sharpness": z[2],
                "median_error": by_card,
            }
    return found


def all_reduces(name: str, gpus: int, own: bool = False) -> list[tuple[float, float]]:
    """Return (bytes, seconds) of all-reduces up to 128 MiB, as the engine chooses them.

    Its `own` in a captured graph; NCCL's over PCIe without peer access on more than two GPUs.
    """
    import aiconfigurator_core
    import pandas

    system, version = CARDS[name]
    version = "0.22.0" if name == "L40S" else version
    folder = Path(aiconfigurator_core.__file__).parent / "systems" / "data" / system
    if name in LINKED["pcie"] and gpus > ENGINES_OWN_OVER_PCIE and not own:
        rows = pandas.read_parquet(folder / "comm" / "nccl" / "2.27.3" / "nccl_perf.parquet")
        rows = rows[(rows.op_name == "all_reduce") & (rows.nccl_dtype == "half")]
    else:
        file = folder / "comm" / "vllm" / version / "custom_allreduce_perf.parquet"
        rows = pandas.read_parquet(file)
        rows = rows[rows.backend == "vllm_graph"]
    rows = rows[rows.num_gpus == gpus]
    pairs = [
        (2.0 * float(n), float(ms) / 1e3)
        for n, ms in zip(rows.message_size, rows.latency, strict=True)
    ]
    return [pair for pair in pairs if pair[0] <= MOST_BYTES]


def main() -> None:
    """Fit every accelerator and write kernels.json."""
    logging.disable(logging.WARNING)
    cards = {}
    for name, (_, version) in CARDS.items():
        card, steps = find_accelerator(name), list(steps_of(name))
        cards[name] = {
            "engine_version": version,
            "products": fit_products(steps, card, fp8=False),
            "products_fp8": fit_products(steps, card, fp8=True) if card.fp8_tflops else {},
            "attention": fit_attention(steps, card),
            "experts": fit_experts(steps, card, "bf16"),
            "experts_fp8": fit_experts(steps, card, "fp8") if card.fp8_tflops else {},
            "experts_int4": fit_experts(steps, card, "int4"),
        }
        print(name, json.dumps(cards[name]))
    document = {
        "source": "AIConfigurator 0.12 (aiconfigurator-core, Apache-2.0): its sums of measured operations",
        "command": "python profiling/operations.py",
        "cards": cards,
        "links": fit_links(),
        "links_own": {"pcie": fit_links(own=True)["pcie"]},
    }
    OUTPUT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
