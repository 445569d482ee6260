"""Tiny checkpoints in the real vLLM: its weight bytes and KV blocks are those that a plan counts with."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from melange_sky.engines.vllm_models import FOREIGN_CONFIGS, WITHOUT_CODE
from melange_sky.models import read_model
from melange_sky.models.config_file import read_local
from melange_sky.models.expert_tiles import ExpertSizes, tile_of
from melange_sky.models.fields import ALIASES
from melange_sky.models.reading import registry, wrappers
from melange_sky.models.reading.context import ALREADY_SCALED, LENGTHS
from melange_sky.models.weights.methods import READERS
from melange_sky.steps.pool import block_layout
from tests.stack import read_models
from tests.stack.vllm_server import ENVIRONMENT, ROOT, VENV

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


def _vllm_says(*words: str) -> dict[str, Any]:
    """Return the last line of JSON that a program of the vLLM environment prints."""
    if not (VENV / "bin/vllm").exists():
        pytest.skip(f"no vLLM in {VENV}: `make test-stack` installs it")
    said = subprocess.run(
        [VENV / "bin" / "python", *words],
        env={**os.environ, **ENVIRONMENT, "VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = [line for line in said.stdout.splitlines() if line.startswith("{")]
    assert said.returncode == 0 and lines, said.stderr[-3000:]
    document: dict[str, Any] = json.loads(lines[-1])
    return document


@pytest.mark.parametrize(
    "name", ["dense", "experts", "windows", "deltas", "states", "convolutions"]
)
def test_weights_and_blocks_are_those_that_vllm_counts(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    said = _vllm_says(str(ROOT / "tests/stack/read_models.py"), str(folder), name)
    read = read_model(read_local(folder))
    shape = read.shape.in_plain("float32")
    layout = block_layout(shape, 1, read_models.BLOCK_TOKENS, read_models.BATCHED_TOKENS)
    assert shape.weight_bytes == pytest.approx(said["weight_bytes"], rel=0.02)
    assert read.layers.resident_parameters * 4 == pytest.approx(said["weight_bytes"], rel=0.02)
    assert layout.rule.block_tokens == said["block_tokens"]
    blocks = read_models.CACHE_BYTES // layout.block_bytes
    assert blocks == pytest.approx(said["blocks"], rel=0.02)


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return _vllm_says(str(ROOT / "tests/stack/vllm_facts.py"))


def test_architectures_without_code_are_those_that_are_not_in_its_registry(facts: Any) -> None:
    """An architecture that is read and that vLLM does not have, or has again, shows up here."""
    names = set(registry.BY_ARCHITECTURE) | set(wrappers.BY_ARCHITECTURE)
    missing = {name: facts["dropped"].get(name) for name in names - set(facts["architectures"])}
    assert missing == WITHOUT_CODE


def test_types_of_configs_without_a_class_are_those_that_it_does_not_know(facts: Any) -> None:
    types = set(registry.BY_TYPE) | set(wrappers.BY_TYPE)
    inner = {"deepseek_v2_text", "glm46v_text", "molmo2_text", "step3p7_text"}  # sections of others
    other_spellings = {"lfm2-vl", "lightonocr"}
    assert types - set(facts["config_types"]) - inner - other_spellings == FOREIGN_CONFIGS


def test_names_of_fields_are_those_that_vllm_reads(facts: Any) -> None:
    for ours, theirs in (
        ("num_key_value_heads", facts["kv_heads"]),
        ("num_experts", facts["experts"]),
        ("num_experts_per_tok", facts["experts_per_token"]),
    ):
        assert set(theirs) <= {ours, *ALIASES[ours]}
    assert list(LENGTHS) == facts["lengths"]
    assert set(facts["not_multiplied"]) == ALREADY_SCALED


@pytest.mark.parametrize(
    ("backend", "capability"),
    [("MARLIN", 8.0), ("TRITON", 9.0), ("FLASHINFER_TRTLLM_MXFP4_BF16", 10.0)],
)
def test_sizes_of_4_bit_experts_are_rounded_as_vllm_rounds_them(
    facts: Any, backend: str, capability: float
) -> None:
    tile = tile_of(ExpertSizes(form="mxfp4", hidden=2880, width=720), capability)
    rounded = [-(-2880 // tile.hidden) * tile.hidden, -(-720 // tile.width) * tile.width]
    assert facts["rounded"][backend] == rounded


def test_every_method_of_a_checkpoint_is_read_or_known_not_to_be_one(facts: Any) -> None:
    loading = {"online", "experts_int8", "moe_wna16", "humming", *facts["while_loading"]}
    unread = {"fp_quant"}
    assert set(facts["quantization"]) - set(READERS) - loading == unread
