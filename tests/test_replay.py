"""Traffic as asked for, and verdicts that say what the log holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from melange_sky.constraints import SpotPolicy
from melange_sky.errors import InputError
from melange_sky.plans import ModelPlan
from melange_sky.replay import Replay, Traffic, replay, sample_stream, scaled_rows, trace_rows
from melange_sky.replay.verdict import attainment_interval, judged_window, percentiles
from melange_sky.simulator import RequestStream
from melange_sky.simulator.fleet import FleetRun
from melange_sky.slo import RequestLog
from melange_sky.workload import bucket_index
from tests.factories import make_model_plan, make_workload
from tests.simulator.test_fleet import engine


def scaled_trace(
    requests: list[tuple[float, int, int]], rate_scale: float = 1.0, duration_s: float | None = None
) -> tuple[RequestStream, int]:
    """The stream of a trace that is given row by row."""
    columns = np.array(requests, dtype=float).reshape(-1, 3).T
    rows = trace_rows(columns[0], columns[1].astype(int), columns[2].astype(int))
    return scaled_rows(rows, rate_scale, duration_s)


def test_sampled_traffic_has_the_rate_the_buckets_and_the_sizes_asked_for() -> None:
    workload = make_workload(
        [[2.0, 1.0], [0.5, 0.5]],
        input_sizes=((30.0, 50.0), (150.0, 200.0)),
        output_sizes=((20.0, 75.0), (50.0, 60.0)),
    )
    stream = sample_stream(workload, Traffic(duration_s=20_000), np.random.default_rng(1))
    assert len(stream) == pytest.approx(80_000, rel=0.02)
    assert (np.diff(stream.arrival_s) >= 0).all()
    rows = zip(stream.input_tokens.tolist(), stream.output_tokens.tolist(), strict=True)
    cells: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for inputs, outputs in rows:
        i = bucket_index(workload.input_edges, inputs)
        j = bucket_index(workload.output_edges, outputs)
        assert i is not None and j is not None
        cells.setdefault((i, j), []).append((inputs, outputs))
    for i, j in workload.buckets():
        share = workload.rates_rps[i][j] / workload.rate_rps
        assert len(cells[i, j]) / len(stream) == pytest.approx(share, rel=0.03)
        means = np.mean(cells[i, j], axis=0)
        assert means[0] == pytest.approx(workload.input_sizes[i][j], rel=0.02)
        assert means[1] == pytest.approx(workload.output_sizes[i][j], rel=0.02)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 8.0])
def test_burstiness_is_the_squared_variation_of_the_gaps(burstiness: float) -> None:
    traffic = Traffic(duration_s=50_000, burstiness=burstiness)
    stream = sample_stream(make_workload([[1.0]]), traffic, np.random.default_rng(2))
    gaps = np.diff(stream.arrival_s)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(burstiness, rel=0.06)


def test_same_generator_same_requests() -> None:
    draw = [
        sample_stream(make_workload(), Traffic(duration_s=50), np.random.default_rng([3, 0]))
        for _ in range(2)
    ]
    assert draw[0].arrival_s.tobytes() == draw[1].arrival_s.tobytes()
    assert draw[0].output_tokens.tobytes() == draw[1].output_tokens.tobytes()


def test_a_trace_keeps_its_order_gaps_and_sizes() -> None:
    rows = [(105.0, 7, 3), (100.0, 5, 0), (101.0, 6, 2)]
    stream, without = scaled_trace(rows, rate_scale=2.0)
    assert stream.arrival_s.tolist() == [0.0, 0.5, 2.5]
    assert stream.input_tokens.tolist() == [5, 6, 7]
    assert stream.output_tokens.tolist() == [1, 2, 3]
    assert without == 1
    assert len(scaled_trace(rows, duration_s=1.0)[0]) == 1
    assert len(scaled_trace([])[0]) == 0


def log_of(arrival_s: np.ndarray, e2e_s: float) -> RequestLog:
    count = len(arrival_s)
    return RequestLog(
        arrival_s=arrival_s,
        input_tokens=np.full(count, 10),
        output_tokens=np.full(count, 11),
        first_token_s=arrival_s + 0.1,
        last_token_s=arrival_s + e2e_s,
        ok=np.ones(count, dtype=np.bool_),
        option=np.zeros(count, dtype=np.int64),
        options=("a",),
    )


def test_warm_up_and_cool_down_are_one_slow_request_long() -> None:
    window, settle_s = judged_window(log_of(np.arange(101.0), 5.0))
    assert settle_s == 5.0
    assert window.sum() == 91
    window, settle_s = judged_window(log_of(np.arange(11.0), 100.0))
    assert settle_s == 1.0
    assert judged_window(log_of(np.zeros(3), 1.0))[0].all()


def test_correlated_outcomes_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    independent = rng.random(6400) < 0.9
    runs = np.repeat(rng.random(64) < 0.9, 100)
    low, high = attainment_interval(independent)
    assert high - low == pytest.approx(2 * 1.96 * 0.3 / 80, rel=0.3)
    wide = attainment_interval(runs)
    assert wide[1] - wide[0] > 4 * (high - low)
    assert attainment_interval(np.ones(0, dtype=np.bool_)) == (0.0, 1.0)
    assert attainment_interval(np.ones(100, dtype=np.bool_))[1] == 1.0


def test_intervals_hold_what_they_promise() -> None:
    rng = np.random.default_rng(5)
    hits = sum(
        low <= 0.95 <= high
        for low, high in (attainment_interval(rng.random(2000) < 0.95) for _ in range(400))
    )
    assert 0.92 <= hits / 400 <= 0.995


def test_percentiles_leave_the_unknown_out() -> None:
    found = percentiles(np.array([np.nan, 1.0, 2.0, 3.0]))
    assert found.p50 == 2.0
    assert percentiles(np.array([np.nan])).p50 is None


def test_a_plan_without_engines_cannot_be_replayed() -> None:
    plan = make_model_plan(model_shape=None)
    stream, _ = scaled_trace([(0.0, 1, 1)])
    with pytest.raises(InputError, match="nothing to replay"):
        replay(plan, lambda _plan, _allocation: engine(), stream, Replay())


def test_the_verdict_comes_from_step_times_and_not_from_the_plans_capacities() -> None:
    """Ten times the promised capacity changes no step: only the engines' speed does."""
    plan = make_model_plan()
    stream = sample_stream(plan.workload, Traffic(duration_s=300), np.random.default_rng(6))
    fast = replay(plan, lambda _p, _a: engine(8, 0.001), stream, Replay())
    slow = replay(plan, lambda _p, _a: engine(8, 0.5), stream, Replay())
    assert np.nanmean(slow.log.tpot_s) > 100 * np.nanmean(fast.log.tpot_s)


def test_outages_are_drawn_from_the_seed() -> None:
    plan = make_model_plan()
    stream = sample_stream(plan.workload, Traffic(duration_s=2000), np.random.default_rng(7))
    how = Replay(outages_per_hour=6.0, outage_s=100.0, seed=3)
    first = replay(plan, lambda _p, _a: engine(64, 0.2), stream, how)
    again = replay(plan, lambda _p, _a: engine(64, 0.2), stream, how)
    calm = replay(plan, lambda _p, _a: engine(64, 0.2), stream, Replay(seed=3))
    assert first.log.ok.tobytes() == again.log.ok.tobytes()
    assert first.log.ok.sum() < calm.log.ok.sum() == len(stream)


def test_spot_replicas_are_interrupted_as_the_plan_expects() -> None:
    """Ten an hour of 100 s over two replicas and two hours; on-demand replicas are left alone."""
    plan = make_model_plan(spot=SpotPolicy(interruption_rate=10, recovery_s=100))
    on_demand = drawn(plan)
    assert on_demand.log.ok.all()
    spot = [
        dataclasses.replace(
            a,
            candidate=dataclasses.replace(
                a.candidate, option=dataclasses.replace(a.candidate.option, use_spot=True)
            ),
        )
        for a in plan.allocations
    ]
    whole = dataclasses.replace(plan, allocations=tuple(spot))
    assert not drawn(whole).log.ok.all()
    half = dataclasses.replace(plan, allocations=(spot[0], plan.allocations[1]))
    lost = drawn(half).log
    assert set(lost.option[~lost.ok].tolist()) <= {0}
    assert not lost.ok.all()


def drawn(plan: ModelPlan) -> FleetRun:
    stream = sample_stream(plan.workload, Traffic(duration_s=7200), np.random.default_rng(8))
    return replay(plan, lambda _p, _a: engine(64, 0.2), stream, Replay(seed=1))
