"""The same question, asked in any order on a busy machine, gets the same plan to the byte."""

from __future__ import annotations

import itertools
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from melange_sky.planfile import dump_plan
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.request import PlanRequest
from melange_sky.pricing import OfferQuery

LISTS = ("fixed", "minimum")
SPEC: dict[str, Any] = {
    "name": "chat",
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "slo": {"tpot_ms": 60, "ttft_ms": 2000},
    "workload": {
        "rate_rps": 16,
        "histogram": {
            "input_edges": [0, 200, 1000],
            "output_edges": [0, 100, 500],
            "weights": [[0.3, 0.2], [0.3, 0.2]],
        },
    },
    "resources": {
        "accelerators": ["L4:1", "A10G:1", "H100:1"],
        "infra": ["aws/us-east-1", "gcp/us-central1", "azure/eastus"],
        "limits": {"H100": 4, "aws": 6, "L4": 10},
        "fixed": [
            {"accelerators": "L4:1", "instances": 1},
            {"accelerators": "A10G:1", "instances": 1},
        ],
        "spot": {"max_fraction": 0.3, "interruption_rate": 0.05},
    },
    "redundancy": {"min_replicas": 3},
}


def shuffled(value: Any, rng: random.Random) -> Any:
    """The same spec with its keys and groups in another order."""
    if not isinstance(value, dict):
        return value
    keys = rng.sample(sorted(value), len(value))
    return {
        key: rng.sample(value[key], len(value[key]))
        if isinstance(value[key], list) and key in LISTS
        else shuffled(value[key], rng)
        for key in keys
    }


def orders() -> list[dict[str, Any]]:
    """Every order of the accelerators with every order of the infra, keys and groups shuffled in each."""
    lists = [
        list(itertools.permutations(SPEC["resources"][key])) for key in ("accelerators", "infra")
    ]
    specs = []
    for seed, (accelerators, infra) in enumerate(itertools.product(*lists)):
        resources = SPEC["resources"] | {"accelerators": list(accelerators), "infra": list(infra)}
        specs.append(shuffled(SPEC | {"resources": resources}, random.Random(seed)))
    return specs


def plan_text(path: Path, spec: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    document = json.loads(
        dump_plan(plan_spec(path, PlanRequest(prices=OfferQuery(offline=True), sensitivity=False)))
    )
    for key in ("created_at", "solve_seconds"):
        assert document.pop(key) is not None
    return json.dumps(document)


@pytest.mark.timeout(600)  # dozens of plans, on a machine that may be busy
def test_specs_in_every_order_planned_at_once_give_one_plan_to_the_byte(tmp_path: Path) -> None:
    first = plan_text(tmp_path / "first.yaml", SPEC)
    specs = orders()
    assert len(specs) == 36
    paths = [tmp_path / f"{n}.yaml" for n in range(len(specs))]
    with ThreadPoolExecutor(2) as pool:  # solves overlap and finish in any order
        texts = list(pool.map(plan_text, paths, specs))
    assert [n for n, text in enumerate(texts) if text != first] == []
