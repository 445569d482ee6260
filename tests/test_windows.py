"""Windows of a long trace stand for all of it: evenly over its requests, busy and quiet."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from melange_sky.planner.planning import PlanOptions, plan_source
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan
from melange_sky.replay import STAGES, windows_of
from melange_sky.replay.windows import WINDOW_REQUESTS
from melange_sky.simulator import RequestStream

SPEC = """\
name: long
model: meta-llama/Llama-3.1-8B-Instruct
slo: {tpot_ms: 60, ttft_ms: 2000}
workload: {trace: trace.csv}
resources: {accelerators: ["L40S:1", "H100:1"], infra: [aws]}
"""


def days(requests: int, seed: int = 3) -> RequestStream:
    """A stream whose rate swings by a factor of nine within each of ten spans; short prompts."""
    rng = np.random.default_rng(seed)
    place = np.sort(rng.random(requests))
    swing = place + 0.8 / (2 * np.pi * 10) * np.sin(2 * np.pi * 10 * place)
    return RequestStream.of(np.sort(swing) * requests / 6.0, 200, 40)


def test_windows_are_of_as_many_requests_each_and_rise_in_business() -> None:
    stream = days(200_000)
    windows = windows_of(stream, 15)
    assert len(windows) == 15
    assert {len(w) for w in windows} == {WINDOW_REQUESTS}
    rates = [len(w) / w.arrival_s[-1] for w in windows]
    assert np.corrcoef(rates, np.arange(15))[0, 1] > 0.8
    assert all(w.arrival_s[0] == 0 for w in windows)


def test_each_stage_holds_the_windows_before() -> None:
    stream = days(400_000)
    stages = [{w.arrival_s.tobytes() for w in windows_of(stream, n)} for n in STAGES]
    assert stages[0] < stages[1] < stages[2]


def test_other_seeds_take_other_windows_and_a_short_trace_is_whole() -> None:
    stream = days(400_000)
    first, other = (
        {w.arrival_s.tobytes() for w in windows_of(stream, 45, shift)} for shift in (0.0, 0.4)
    )
    assert first != other
    short = days(20_000)
    assert windows_of(short, 15) == [short]


@pytest.mark.usefixtures("kept_estimates")
@pytest.mark.timeout(300)
def test_a_long_trace_is_verified_on_the_whole_of_it_in_bounded_time(tmp_path: Path) -> None:
    stream = days(160_000)
    lines = [f"{at:.3f},200,40" for at in stream.arrival_s]
    (tmp_path / "trace.csv").write_text("arrival_s,input_tokens,output_tokens\n" + "\n".join(lines))
    (tmp_path / "spec.yaml").write_text(SPEC)
    begin = time.monotonic()
    options = PlanOptions(offline=True, verify=True, verify_seconds=60)
    (model,) = plan_source(tmp_path / "spec.yaml", options).models
    assert time.monotonic() - begin < 200
    found = model.verification
    assert found is not None
    assert found.holds, found.reason
    assert found.requests == 160_000
    assert "windows" not in found.traffic
    assert len(found.seeds) == 4
    rough = simulate_plan(model, SimulationRequest(trace=tmp_path / "trace.csv", until_sure=True))
    assert "windows of it" in rough.traffic
    low, high = rough.verdict.interval
    assert low - 0.01 <= found.attainment <= high + 0.01
