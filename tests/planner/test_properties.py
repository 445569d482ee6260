"""What must hold of any plan, from the file to the cost: checked on random small inputs.

The optimizer has such tests on its own problems; these also pass through the spec, offers and capacities.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.errors import InfeasibleError
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.request import PlanRequest
from melange_sky.pricing import OfferQuery

OFFLINE = PlanRequest(prices=OfferQuery(offline=True), sensitivity=False)
ACCELERATORS = ("L4", "A10G", "L40S", "A100-80GB", "H100")

few = settings(max_examples=5, deadline=None, derandomize=True)
rates = st.floats(min_value=0.5, max_value=60)


def _cost(document: dict[str, Any]) -> float:
    """The plan's cost, infinite where there is no plan."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spec.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        try:
            planned = plan_spec(file, OFFLINE)
        except InfeasibleError:
            return float("inf")
    assert planned.solver.status == "optimal"
    return planned.cost_usd_per_hour


def _spec(
    rate_rps: float, tpot_ms: float = 80, accelerators: tuple[str, ...] = ACCELERATORS[:3]
) -> dict[str, Any]:
    return {
        "name": "chat",
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "slo": {"tpot_ms": tpot_ms, "ttft_ms": 3000},
        "workload": {
            "rate_rps": rate_rps,
            "histogram": {
                "input_edges": [0, 200, 2000],
                "output_edges": [0, 300],
                "weights": [[0.7], [0.3]],
            },
        },
        "resources": {"accelerators": list(accelerators), "infra": ["aws", "gcp"]},
    }


@few
@given(rate=rates, more=st.floats(min_value=1, max_value=3))
def test_more_rate_is_never_cheaper(rate: float, more: float) -> None:
    assert _cost(_spec(rate)) <= _cost(_spec(rate * more)) + 1e-6


@few
@given(rate=rates, loose=st.floats(min_value=10, max_value=120), factor=st.floats(0.3, 1))
def test_a_tighter_slo_is_never_cheaper(rate: float, loose: float, factor: float) -> None:
    assert _cost(_spec(rate, loose)) <= _cost(_spec(rate, loose * factor)) + 1e-6


@few
@given(rate=rates, kept=st.sets(st.sampled_from(ACCELERATORS), min_size=1, max_size=4))
def test_more_accelerators_are_never_dearer(rate: float, kept: set[str]) -> None:
    some = tuple(sorted(kept))
    assert (
        _cost(_spec(rate, accelerators=ACCELERATORS))
        <= _cost(_spec(rate, accelerators=some)) + 1e-6
    )


@few
@given(
    rate=rates,
    costs=st.tuples(st.floats(0.5, 5), st.floats(0.5, 5)),
    tputs=st.tuples(st.floats(0.5, 9), st.floats(0.5, 9)),
)
def test_a_melange_config_of_one_bucket_is_what_counting_gives(
    rate: float, costs: tuple[float, float], tputs: tuple[float, float]
) -> None:
    document = {
        "gpu_info": {
            name: {"cost": cost, "tputs": [[tput]]}
            for name, cost, tput in zip("ab", costs, tputs, strict=True)
        },
        "workload_distribution": [[1.0]],
        "total_request_rate": rate,
    }
    counts = range(int(rate / min(tputs)) + 2)
    brute = min(
        n * costs[0] + m * costs[1]
        for n in counts
        for m in counts
        if n * tputs[0] + m * tputs[1] >= rate * (1 - 1e-7)
    )
    assert abs(_cost(document) - brute) < 1e-6
