"""Linear attention from measured operations of vLLM 0.24: gated delta nets, with their convolutions.

    python profiling/delta_nets.py     # after operations.py, and with what it needs; adds to kernels.json

The wheel (see operations.py) times both kernels of a layer of the Qwen3.5 models by batch and length.
Two constants a card tell them:

    state  what decoding reaches of memory bandwidth: it reads and writes the state of each sequence. From
           batches whose states lie outside the cache (256 MB), as in a step, where other layers passed
           meanwhile
    scan   prompts are computed in chunks: one token takes as long as moving this share of the state.
           From steps of 2,048 to 16,384 tokens, 16 heads and more

Starting them takes 5 to 6 µs, no longer than starting attention. The A100's table (SGLang 0.5) has no
kernel of prompts and states of another type, and Mamba's tables time convolutions alone: the first takes
the scan of L40S, whose kernels are Triton's too, and Mamba what delta nets of the same state take.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from operations import CARDS, OUTPUT

from melange_sky.names.accelerators import find_accelerator

OUTSIDE_CACHE_BYTES = 256e6
STEP_TOKENS = 2048, 16384
SHORTEST, LEAST_HEADS = 128, 16
STATE_BYTES = 128 * 128 * 4
"""A head's state in float32, as the tables were measured."""

KEYS = ["phase", "batch_size", "seq_len", "num_v_heads"]


def timings(name: str) -> Any:
    """Return seconds of a layer's kernels by phase, batch, length and heads, of one card."""
    import aiconfigurator_core
    import pandas

    system, version = CARDS[name]
    folder = Path(aiconfigurator_core.__file__).parent / "systems" / "data" / system
    rows = pandas.read_parquet(folder / "linear_attention" / "vllm" / version / "gdn_perf.parquet")
    each = rows.groupby([*KEYS, "num_k_heads", "d_model", "kernel_source"]).latency.median()
    each = each.groupby([*KEYS, "kernel_source"]).median()
    summed = (each.groupby(KEYS).sum() / 1e3).reset_index(name="seconds")
    summed["tokens"] = summed.batch_size * summed.seq_len
    summed["state_bytes"] = summed.num_v_heads * STATE_BYTES
    return summed


def fit_delta_nets(name: str) -> dict[str, Any]:
    """Return what the kernels of linear attention reach on one card, medians with their spread."""
    rows, bandwidth = timings(name), find_accelerator(name).bandwidth_gbps * 1e9
    moved = 2 * rows.batch_size * rows.state_bytes
    decode = (rows.phase == "generation") & (moved >= OUTSIDE_CACHE_BYTES)
    state = (moved / bandwidth / rows.seconds)[decode]
    prompts = (rows.phase == "context") & rows.tokens.between(*STEP_TOKENS)
    prompts &= (rows.seq_len >= SHORTEST) & (rows.num_v_heads >= LEAST_HEADS)
    scan = (rows.seconds * bandwidth / (rows.tokens * rows.state_bytes))[prompts]
    return {
        "state": _short(state.median()),
        "state_p10_p90": [_short(state.quantile(q)) for q in (0.1, 0.9)],
        "scan": _short(scan.median()),
        "scan_p10_p90": [_short(scan.quantile(q)) for q in (0.1, 0.9)],
    }


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def main() -> None:
    """Fit every card whose table is of vLLM, and put it into kernels.json."""
    document = json.loads(OUTPUT.read_text(encoding="utf-8"))
    for name, card in document["cards"].items():
        if card["engine_version"] == "0.24.0":
            card["linear"] = fit_delta_nets(name)
            print(name, json.dumps(card["linear"]))
    OUTPUT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
