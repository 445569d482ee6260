"""The same requests give the same plan, however a file tells of them: clock, unit, zone, order of its parts."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from melange_sky.planner.planning import PlanOptions, plan_source
from melange_sky.plans import Plan, RateSummary

pytestmark = [pytest.mark.usefixtures("kept_estimates"), pytest.mark.timeout(300)]

Row = tuple[float, int, int]
BEGIN = datetime(2024, 5, 10, 20, 0, 0)


def rows() -> list[Row]:
    """Forty minutes around midnight, busy in the middle; times in whole milliseconds."""
    rng, now, found = random.Random(3), 0.0, []
    while (now := now + rng.expovariate(8.0)) < 2400:
        if rng.random() < 0.2 + 0.8 * math.sin(math.pi * now / 2400):
            found.append((round(now, 3), rng.choice((120, 600)), rng.choice((150, 200))))
    return found


def own(requests: list[Row], shift_s: float = 0.0) -> str:
    lines = [f"{at + shift_s:.3f},{i},{o}" for at, i, o in requests]
    return "\n".join(["arrival_s,input_tokens,output_tokens", *lines]) + "\n"


def azure(requests: list[Row], zone: str = "", hours: float = 0.0) -> str:
    lines = []
    for at, i, o in requests:
        stamp = BEGIN + timedelta(hours=hours, milliseconds=round(at * 1000))
        lines.append(f"{stamp.isoformat(sep=' ', timespec='milliseconds')}{zone},{i},{o}")
    return "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]) + "\n"


def mooncake(requests: list[Row]) -> str:
    lines = [
        json.dumps({"timestamp": round(at * 1000), "input_length": i, "output_length": o})
        for at, i, o in requests
    ]
    return "\n".join(lines) + "\n"


def parts_swapped(requests: list[Row]) -> str:
    """The file as its second half before its first."""
    half = len(requests) // 2
    return own(requests[half:] + requests[:half])


def planned(folder: Path, text: str) -> Plan:
    (folder / "trace").write_text(text)
    (folder / "spec.yaml").write_text(
        "name: chat\nmodel: meta-llama/Llama-3.1-8B-Instruct\nslo: {tpot_ms: 50, ttft_ms: 1000}\n"
        "workload: {trace: trace, grid: {input_edges: [0, 200, 1000], output_edges: [0, 300]}}\n"
        "resources: {accelerators: [A10G, L40S], infra: [aws]}\n"
    )
    return plan_source(folder / "spec.yaml", PlanOptions(offline=True))


def rates(plan: Plan) -> RateSummary:
    found = plan.models[0].rate_profile
    assert found is not None
    return found


@pytest.mark.parametrize(
    "told",
    [
        lambda requests: own(requests, 86_400.0 * 9 + 17.0),
        lambda requests: own(requests, -3600.0),
        azure,
        lambda requests: azure(requests, "+02:00", hours=2.0),
        lambda requests: azure(requests, "Z"),
        mooncake,
    ],
    ids=["later", "before zero", "dates", "another zone", "UTC", "milliseconds"],
)
def test_the_plan_is_the_same(tmp_path: Path, told: Callable[[list[Row]], str]) -> None:
    requests = rows()
    first, other = planned(tmp_path, own(requests)), planned(tmp_path, told(requests))
    assert other.models[0].fleet_text() == first.models[0].fleet_text()
    assert other.cost_usd_per_hour == first.cost_usd_per_hour
    a, b = rates(first), rates(other)
    assert b.planned_rps == pytest.approx(a.planned_rps, rel=1e-6)
    assert b.mean_rps == pytest.approx(a.mean_rps, rel=1e-6)
    assert b.peak_rps == pytest.approx(a.peak_rps, rel=1e-6)
    assert b.dispersion == a.dispersion
    assert b.burstiness == pytest.approx(a.burstiness, rel=1e-6)


def test_parts_in_another_order_are_the_same_traffic(tmp_path: Path) -> None:
    """Seconds are counted from the first request of the file: within a second's edge rates move a little."""
    requests = rows()
    first, other = planned(tmp_path, own(requests)), planned(tmp_path, parts_swapped(requests))
    assert other.models[0].fleet_text() == first.models[0].fleet_text()
    a, b = rates(first), rates(other)
    assert b.mean_rps == pytest.approx(a.mean_rps, rel=1e-6)
    assert b.planned_rps == pytest.approx(a.planned_rps, rel=0.02)
    assert b.peak_rps == pytest.approx(a.peak_rps, rel=0.01)
