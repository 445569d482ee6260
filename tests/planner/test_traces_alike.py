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


def planned(folder: Path, *texts: str, named: list[str] | str | None = None) -> Plan:
    """Plan from a trace in so many files, named in this order unless another is given."""
    for k, text in enumerate(texts):
        (folder / f"trace{k}").write_text(text)
    trace = json.dumps(named or [f"trace{k}" for k in range(len(texts))])
    (folder / "spec.yaml").write_text(
        "name: chat\nmodel: meta-llama/Llama-3.1-8B-Instruct\nslo: {tpot_ms: 50, ttft_ms: 1000}\n"
        f"workload: {{trace: {trace}, grid: {{input_edges: [0, 200, 1000], output_edges: [0, 300]}}}}\n"
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


def halves(requests: list[Row]) -> tuple[list[Row], list[Row]]:
    return requests[: len(requests) // 2], requests[len(requests) // 2 :]


def shuffled(requests: list[Row]) -> list[Row]:
    return random.Random(5).sample(requests, len(requests))


@pytest.mark.parametrize(
    ("split", "named"),
    [
        (lambda r: [own(halves(r)[1] + halves(r)[0])], None),
        (lambda r: [own(shuffled(r))], None),
        (lambda r: [own(half) for half in halves(r)], None),
        (lambda r: [own(half) for half in halves(r)], ["trace1", "trace0"]),
        (lambda r: [own(half) for half in halves(r)], "trace*"),
        (lambda r: [own(r[k::3]) for k in range(3)], None),
        (lambda r: [own(halves(r)[0]), mooncake(halves(r)[1])], None),
    ],
    ids=["swapped", "shuffled", "files", "files swapped", "pattern", "in turns", "two formats"],
)
def test_parts_in_any_order_are_the_same_traffic(
    tmp_path: Path, split: Callable[[list[Row]], list[str]], named: list[str] | str | None
) -> None:
    requests = rows()
    first = planned(tmp_path, own(requests))
    other = planned(tmp_path, *split(requests), named=named)
    (a,), (b,) = first.models, other.models
    assert b.allocations == a.allocations
    assert b.rate_profile == a.rate_profile
    assert b.workload.rates_rps == a.workload.rates_rps
    assert b.workload.input_sizes == a.workload.input_sizes
    notes = [
        w.code for w in other.warnings if w.code != "workload"
    ]  # files that overlap are told of
    assert notes == [w.code for w in first.warnings]
