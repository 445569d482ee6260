"""Our blocks of the KV cache against the allocator of the installed vLLM, for models of all kinds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from melange_sky.steps import block_layout
from tests.stack.vllm_server import VENV
from tests.steps.test_pool import ALLOTTED, model

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

SCRIPT = Path(__file__).with_name("kv_groups.py")
KINDS: dict[str, list[Any]] = {
    "meta-llama/Llama-3.1-8B": [[32, {"kind": "full", "kv_heads": 8, "head_dim": 128}]],
    "mistralai/Mistral-7B-v0.1": [
        [32, {"kind": "sliding", "kv_heads": 8, "head_dim": 128, "window": 4096}]
    ],
    "deepseek-ai/DeepSeek-V3": [[61, {"kind": "latent", "head_dim": 576}]],
    "openai/gpt-oss-20b": [
        [12, {"kind": "sliding", "kv_heads": 8, "head_dim": 64, "window": 128}],
        [12, {"kind": "full", "kv_heads": 8, "head_dim": 64}],
    ],
    "gemma-3-27b": [
        [52, {"kind": "sliding", "kv_heads": 16, "head_dim": 128, "window": 1024}],
        [10, {"kind": "full", "kv_heads": 16, "head_dim": 128}],
    ],
    "llama-4-scout": [
        [36, {"kind": "chunked", "kv_heads": 8, "head_dim": 128, "window": 8192}],
        [12, {"kind": "full", "kv_heads": 8, "head_dim": 128}],
    ],
    "XiaomiMiMo/MiMo-V2-Flash": [
        [
            39,
            {"kind": "sliding", "kv_heads": 8, "head_dim": 192, "value_dim": 128, "window": 128},
        ],
        [9, {"kind": "full", "kv_heads": 4, "head_dim": 192, "value_dim": 128}],
    ],
    "google/gemma-4-26B-A4B": [
        [25, {"kind": "sliding", "kv_heads": 8, "head_dim": 256, "window": 1024}],
        [5, {"kind": "full", "kv_heads": 2, "head_dim": 512}],
    ],
    "Qwen/Qwen3.5-27B": [
        [48, {"kind": "state", "bytes": 3_207_168, "page": 784 * 4096}],
        [16, {"kind": "full", "kv_heads": 4, "head_dim": 256}],
    ],
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": [
        [23, {"kind": "state", "bytes": 2_134_016, "page": 2096 * 1024}],
        [6, {"kind": "full", "kv_heads": 2, "head_dim": 128}],
    ],
}


@pytest.fixture(scope="module")
def dealt() -> dict[str, Any]:
    python = VENV / "bin/python"
    if not python.exists():
        pytest.skip(f"no vLLM in {VENV}: `make test-stack` installs it")
    asked = [[name, ALLOTTED[name][1], layers] for name, layers in KINDS.items()]
    run = subprocess.run(
        [str(python), str(SCRIPT)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, run.stderr[-2000:]
    found: dict[str, Any] = json.loads(lines[0].removeprefix("FOUND "))
    return found


@pytest.mark.parametrize("name", KINDS)
def test_it_deals_out_the_layers_as_we_do(name: str, dealt: dict[str, Any]) -> None:
    layout, theirs = block_layout(model(name), 1, 16, 8192), dealt[name]
    rule, block = layout.rule, ALLOTTED[name][1]
    assert layout.block_bytes == theirs["block_bytes"]
    assert rule.block_tokens == min(tokens for _, tokens in theirs["tables"]) == block
    long = 1 << 20
    parts = rule.grown + sum(w.parts for w in rule.windows)
    states = rule.fixed // rule.scale
    assert parts / rule.scale + states == sum(block / tokens for _, tokens in theirs["tables"])
    assert rule.held(2 * long) - rule.held(long) == rule.grown * long // block
