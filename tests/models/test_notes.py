"""What estimates do not count of a model is said, in `capacity` and in `plan` alike."""

from __future__ import annotations

import json
from pathlib import Path

from melange_sky.models import shape_from_config
from tests.cli.runner import melange_sky
from tests.models.test_cases import HYBRID

NOTE = "no 'vision_config': only the language model is counted"
SPEC = """\
name: hybrid
model: own/hybrid
model_config: config.json
slo: {tpot_ms: 100, attainment: 0.9}
workload:
  rate_rps: 1
  histogram: {input_edges: [0, 200], output_edges: [0, 50], weights: [[1.0]]}
resources: {accelerators: ["H100:1"], infra: [lambda]}
"""


def test_the_state_of_linear_layers_is_counted_and_needs_no_note() -> None:
    shape = shape_from_config("hybrid", HYBRID)
    assert shape.notes == (NOTE,)
    assert shape.state_bytes_per_sequence == 48 * 2 * (3 * 10240 + 48 * 128 * 128)
    plain = {key: value for key, value in HYBRID["text_config"].items() if "linear" not in key}
    plain |= {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "layer_types": None}
    assert shape_from_config("dense", plain | {"attn_output_gate": None}).notes == ()


def test_capacity_and_plan_say_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HYBRID), encoding="utf-8")
    (tmp_path / "spec.yaml").write_text(SPEC, encoding="utf-8")
    home = {"MELANGE_SKY_HOME": str(tmp_path / "home"), "MELANGE_SKY_OFFLINE": "1"}
    asked = ["--accelerators", "H100", "--input", "100", "--output", "10"]
    shown = melange_sky("capacity", "--model", "config.json", *asked, cwd=tmp_path, **home)
    assert f"warning: {NOTE}" in shown.stderr, shown.stderr
    planned = melange_sky("plan", "spec.yaml", "--format", "json", cwd=tmp_path, **home)
    warnings = json.loads(planned.stdout)["warnings"]
    assert {"code": "model", "message": f"own/hybrid: {NOTE}"} in warnings
