"""The rate to plan at over a trace: held in replay, no dearer than the peak, and never the mean in silence."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from melange_sky.errors import InputError
from melange_sky.planfile import dump_plan, load_plan
from melange_sky.planner.plan_spec import plan_loaded
from melange_sky.planner.planning import PlanOptions, plan_source
from melange_sky.planner.rate_over_time import plan_over_time
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan
from melange_sky.planner.request import PlanRequest
from melange_sky.plans import Plan
from melange_sky.pricing import OfferQuery
from melange_sky.replay import Replay
from melange_sky.spec import Spec, load_spec

REQUEST = PlanRequest(prices=OfferQuery(offline=True), sensitivity=False)
GRID = "{input_edges: [0, 200, 1000], output_edges: [0, 300]}"

pytestmark = [pytest.mark.usefixtures("kept_estimates"), pytest.mark.timeout(300)]


def write_trace(path: Path, rate_at: object, span_s: float, most_rps: float) -> Path:
    """Write a Poisson stream of the rate `rate_at(t)`, by thinning one of `most_rps`."""
    rng, now = random.Random(7), 0.0
    lines = ["arrival_s,input_tokens,output_tokens"]
    while (now := now + rng.expovariate(most_rps)) < span_s:
        if rng.random() < rate_at(now) / most_rps:  # type: ignore[operator]
            lines.append(f"{now:.3f},{rng.choice((120, 600))},{rng.choice((150, 200))}")
    path.write_text("\n".join(lines) + "\n")
    return path


def day(path: Path) -> Path:
    """Half an hour that stands for a day: the rate swings between 2 and 26 req/s, its mean is 14."""
    return write_trace(path, lambda t: 14 - 12 * math.cos(2 * math.pi * t / 1800), 1800.0, 26.0)


def bursts(path: Path) -> Path:
    """Bursts of 10 s at 12 times the mean."""
    return write_trace(path, lambda t: 24.0 if t % 200 < 10 else 0.85, 2000.0, 24.0)


def spec_of(folder: Path, workload: str, extra: str = "") -> Spec:
    path = folder / "spec.yaml"
    path.write_text(
        "name: chat\nmodel: meta-llama/Llama-3.1-8B-Instruct\nslo: {tpot_ms: 60, ttft_ms: 1000}\n"
        f"workload: {{{workload}}}\nresources: {{accelerators: [A10G, L40S], infra: [aws]}}\n{extra}"
    )
    spec = load_spec(path)
    assert isinstance(spec, Spec)
    return spec


def attainment(plan: Plan, trace: Path, seed: int = 9) -> float:
    (model,) = plan.models
    return simulate_plan(
        model, SimulationRequest(trace=trace, how=Replay(seed=seed))
    ).verdict.attainment


def test_the_least_rate_that_holds_lies_between_mean_and_peak(tmp_path: Path) -> None:
    trace = day(tmp_path / "day.csv")
    found = plan_over_time(spec_of(tmp_path, f"trace: day.csv, grid: {GRID}"), REQUEST)
    mean = plan_loaded(spec_of(tmp_path, f"trace: day.csv, rate: mean, grid: {GRID}"), REQUEST)
    peak = plan_loaded(spec_of(tmp_path, f"trace: day.csv, rate: peak, grid: {GRID}"), REQUEST)
    assert attainment(found, trace) >= 0.95
    assert attainment(mean, trace) < 0.95, "else this trace shows nothing"
    assert mean.cost_usd_per_hour < found.cost_usd_per_hour <= peak.cost_usd_per_hour
    summary = found.models[0].rate_profile
    assert summary is not None
    assert summary.mean_rps == pytest.approx(14.0, rel=0.05)
    assert summary.peak_rps == pytest.approx(25.0, rel=0.08)
    assert summary.mean_rps < summary.planned_rps <= summary.peak_rps * 1.1
    (note,) = [w.message for w in found.warnings if w.code == "rate"]
    assert note.startswith(
        f"planned at {summary.planned_rps:.3g} req/s (mean {summary.mean_rps:.3g},"
    )


@pytest.mark.parametrize(("variation", "told"), [(0.5, 1), (0.05, 0)])
def test_few_windows_that_differ_much_are_told(tmp_path: Path, variation: float, told: int) -> None:
    rates = 2 * np.random.default_rng(4).gamma(variation**-2, variation**2, size=12)
    write_trace(tmp_path / "hour.csv", lambda t: float(rates[int(t // 300)]), 3600, 8.0)
    found = plan_over_time(spec_of(tmp_path, f"trace: hour.csv, grid: {GRID}"), REQUEST)
    notes = [w.message for w in found.warnings if "may be busier" in w.message]
    assert len(notes) == told
    for note in notes:
        assert re.match(
            r"the 1[12] five-minute windows of the trace differ by \d\d% by chance", note
        )


def test_a_cheaper_fleet_of_the_same_kind_would_miss(tmp_path: Path) -> None:
    trace = day(tmp_path / "day.csv")
    found = plan_over_time(spec_of(tmp_path, f"trace: day.csv, grid: {GRID}"), REQUEST)
    (model,) = found.models
    fewer = tuple(replace(a, instances=max(1, a.instances // 2)) for a in model.allocations)
    halved = replace(found, models=(replace(model, allocations=fewer),))
    assert attainment(halved, trace) < 0.95


@pytest.mark.parametrize("extra", ["redundancy: {spare: 2}\n", "headroom: 0.4\n"])
def test_what_is_asked_for_besides_comes_on_top_of_the_rate(tmp_path: Path, extra: str) -> None:
    """Spare replicas and headroom are no room that a replay of the whole fleet may save."""
    day(tmp_path / "day.csv")
    workload = f"trace: day.csv, grid: {GRID}"
    plain = plan_over_time(spec_of(tmp_path, workload, "headroom: 0\n"), REQUEST)
    guarded = plan_over_time(spec_of(tmp_path, workload, extra), REQUEST)
    assert guarded.models[0].workload.rate_rps == pytest.approx(plain.models[0].workload.rate_rps)
    assert guarded.cost_usd_per_hour > plain.cost_usd_per_hour


def test_short_bursts_are_planned_for(tmp_path: Path) -> None:
    trace = bursts(tmp_path / "bursts.csv")
    found = plan_over_time(spec_of(tmp_path, f"trace: bursts.csv, grid: {GRID}"), REQUEST)
    assert attainment(found, trace) >= 0.95
    summary = found.models[0].rate_profile
    assert summary is not None
    assert summary.burstiness > 20
    assert summary.planned_rps > summary.mean_rps


def test_the_plan_file_keeps_the_rates(tmp_path: Path) -> None:
    day(tmp_path / "day.csv")
    plan = plan_loaded(spec_of(tmp_path, f"trace: day.csv, rate: p95, grid: {GRID}"), REQUEST)
    (tmp_path / "plan.json").write_text(dump_plan(plan))
    (read,) = load_plan(tmp_path / "plan.json").models
    assert read.rate_profile == plan.models[0].rate_profile
    assert read.rate_profile is not None
    assert read.rate_profile.rule == "p95"
    assert read.rate_profile.quantile == pytest.approx(1.0, abs=0.2)
    assert set(read.rate_profile.dispersion) == {"1", "10", "60", "300"}


def test_a_rate_that_the_spec_chooses_is_used_and_its_risk_said(tmp_path: Path) -> None:
    day(tmp_path / "day.csv")
    for rate, rate_rps in (("mean", 14.0), ("9.5", 9.5)):
        plan = plan_loaded(
            spec_of(tmp_path, f"trace: day.csv, rate: {rate}, grid: {GRID}"), REQUEST
        )
        assert plan.models[0].workload.rate_rps == pytest.approx(rate_rps, rel=0.05)
        (note,) = [w.message for w in plan.warnings if w.code == "rate"]
        assert "as workload.rate says: the trace is above that rate for" in note


def test_burstiness_without_a_trace_is_planned_for(tmp_path: Path) -> None:
    histogram = "histogram: {input_edges: [0, 200], output_edges: [0, 300], weights: [[1]]}"
    calm = plan_loaded(spec_of(tmp_path, f"rate_rps: 14, {histogram}"), REQUEST)
    bursty = plan_over_time(
        spec_of(tmp_path, f"rate_rps: 14, burstiness: 80, {histogram}"), REQUEST
    )
    assert bursty.cost_usd_per_hour > calm.cost_usd_per_hour
    (model,) = bursty.models
    assert model.rate_profile is not None
    scale = 14 / model.workload.rate_rps
    request = SimulationRequest(rate_scale=scale, burstiness=80.0)
    assert simulate_plan(model, request).verdict.attainment >= 0.95


def test_plan_asks_the_trace_by_itself(tmp_path: Path) -> None:
    day(tmp_path / "day.csv")
    spec_of(tmp_path, f"trace: day.csv, grid: {GRID}")
    plan = plan_source(tmp_path / "spec.yaml", PlanOptions(offline=True))
    assert plan.models[0].rate_profile is not None
    assert plan.models[0].rate_profile.rule == "holds"


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        ("rate: mean, rate_rps: 3, distribution: short-chat", "rate: needs a trace; without one"),
        (
            "rate: mean, rate_rps: 3, trace: day.csv",
            "rate: cannot be combined with rate_rps; give one",
        ),
        (
            "rate: fast, trace: day.csv",
            "rate: must be mean, p95, peak or a number of req/s above 0",
        ),
        ("rate: -1, trace: day.csv", "rate: must be mean, p95, peak or a number of req/s above 0"),
        (
            "rate: true, trace: day.csv",
            "rate: must be mean, p95, peak or a number of req/s above 0",
        ),
        (
            "burstiness: 3, trace: day.csv",
            "burstiness: is read from the trace; give it only without",
        ),
        (
            "burstiness: 0, rate_rps: 3, distribution: short-chat",
            "burstiness: must be at least 0.01",
        ),
    ],
)
def test_wrong_words_are_one_line(tmp_path: Path, workload: str, words: str) -> None:
    write_trace(tmp_path / "day.csv", lambda t: 1.0, 60.0, 1.0)
    with pytest.raises(InputError) as error:
        spec_of(tmp_path, workload)
    assert any(f"spec.yaml:4: workload.{words}" in line for line in error.value.problems)
