"""Fleets that change while they serve: known answers about when replicas start, serve and stop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melange_sky.plans import ModelPlan
from melange_sky.replay import (
    FleetStep,
    Replay,
    Rollout,
    Traffic,
    replay,
    replay_rollout,
    rollout_of,
    sample_stream,
)
from melange_sky.replay.stepped import seated
from melange_sky.simulator import RequestStream
from melange_sky.simulator.fleet import FleetRun
from melange_sky.steps import ReplicaModel
from tests.factories import make_capacity, make_engine, make_model_plan, make_option, make_workload
from tests.simulator.test_fleet import engine, poisson

STEP_S, SEQUENCES, TOKENS = 0.01, 4, 50
SERVICE_S = STEP_S * TOKENS  # of one request on an engine that takes SEQUENCES at a time
FULL_RPS = SEQUENCES / SERVICE_S


def engine_of(_plan: ModelPlan, _allocation: object) -> ReplicaModel:
    return engine(SEQUENCES, STEP_S)


def fleet(**counts: int) -> ModelPlan:
    """A plan of such options, each of which serves all sizes; the rate is shared by their counts."""
    total = sum(counts.values())
    rate = 0.5 * FULL_RPS * total
    (template, _) = make_model_plan().allocations
    allocations = tuple(
        replace(
            template,
            candidate=make_capacity(
                [[FULL_RPS]], make_option(name, engine=make_engine(max_num_seqs=SEQUENCES))
            ),
            instances=count,
            rate_rps=rate * count / total,
            shares=((count / total,),),
        )
        for name, count in counts.items()
    )
    workload = make_workload([[rate]], input_edges=(0, 100), output_edges=(0, 100))
    return make_model_plan(
        allocations=allocations,
        candidates=tuple(a.candidate for a in allocations),
        workload=workload,
    )


def requests(*parts: tuple[float, float]) -> RequestStream:
    """Requests at such rates for so many seconds each, one part after the other."""
    arrival_s: list[float] = []
    begin = 0.0
    for number, (rate, seconds) in enumerate(parts):
        times = begin + poisson(rate, int(2 * rate * seconds) + 50, number)
        begin += seconds
        arrival_s += times[times < begin].tolist()
    return RequestStream.of(np.array(arrival_s), 20, TOKENS)


def waits_s(run: FleetRun, from_s: float, to_s: float) -> float:
    """The mean wait of what arrived in between, endless where some of it was refused."""
    log = run.log
    inside = (log.arrival_s >= from_s) & (log.arrival_s < to_s)
    return float(np.where(log.ok, log.e2e_s - SERVICE_S, math.inf)[inside].mean())


def grown(order_s: float, startup_s: float) -> tuple[Rollout, FleetRun]:
    """One replica, three from `order_s` on; the rate is three times as high from 600 s on."""
    steps = [FleetStep(at_s=0, plan=fleet(a=1)), FleetStep(at_s=order_s, plan=fleet(a=3))]
    rollout = rollout_of(steps, startup_s)
    stream = requests((0.5 * FULL_RPS, 600), (1.5 * FULL_RPS, 600))
    return rollout, replay_rollout(rollout, engine_of, stream)


def test_a_fleet_that_never_changes_is_replayed_as_ever() -> None:
    plan = make_model_plan()
    stream = sample_stream(plan.workload, Traffic(duration_s=500), np.random.default_rng(1))
    one = replay(plan, engine_of, stream, Replay(seed=3))
    other = replay_rollout(rollout_of([FleetStep(at_s=0, plan=plan)], 600), engine_of, stream, 3)
    for name in ("first_token_s", "last_token_s", "ok", "option"):
        assert getattr(one.log, name).tobytes() == getattr(other.log, name).tobytes()
    assert one.replica.tobytes() == other.replica.tobytes()


def test_grown_ahead_holds_and_grown_on_the_hour_misses() -> None:
    _, early = grown(300, startup_s=300)
    assert waits_s(early, 600, 1200) < 0.5
    _, late = grown(600, startup_s=300)
    assert waits_s(late, 600, 900) == math.inf  # the gateway's queue overflows
    assert waits_s(late, 1000, 1200) < 0.5  # and once they serve it holds again
    assert waits_s(late, 0, 600) == waits_s(early, 0, 600)


def test_the_sooner_it_is_ordered_the_more_are_in_time() -> None:
    done = [grown(order, startup_s=300)[1].log.ok.mean() for order in (300, 420, 540, 660)]
    assert done[0] == 1.0 and all(b < a for a, b in itertools.pairwise(done))


def test_the_same_bytes_each_time() -> None:
    one, other = grown(500, 300)[1], grown(500, 300)[1]
    assert one.log.last_token_s.tobytes() == other.log.last_token_s.tobytes()
    assert one.replica.tobytes() == other.replica.tobytes()


def test_replicas_that_stop_end_what_they_have_and_get_nothing_more() -> None:
    steps = [FleetStep(at_s=0, plan=fleet(a=3)), FleetStep(at_s=300, plan=fleet(a=1))]
    run = replay_rollout(rollout_of(steps, 60), engine_of, requests((0.75 * FULL_RPS, 600)))
    assert run.log.ok.all()
    after = run.log.arrival_s >= 300
    assert set(run.replica[after].tolist()) == {0}
    assert set(run.replica[~after].tolist()) == {0, 1, 2}
    stopped = run.replica > 0
    assert run.log.last_token_s[stopped].max() > 300  # some were in flight then


def test_where_nothing_serves_requests_are_refused_and_no_gap_is_made_by_another_plan() -> None:
    steps = [
        FleetStep(at_s=0, plan=fleet(a=1)),
        FleetStep(at_s=100, plan=None),
        FleetStep(at_s=190, plan=fleet(b=1)),
    ]
    run = replay_rollout(rollout_of(steps, 10), engine_of, requests((0.5 * FULL_RPS, 300)))
    log = run.log
    lost = ~log.ok
    assert lost.any() and log.arrival_s[lost].min() >= 100 and log.arrival_s[lost].max() < 191
    assert {log.options[k] for k in set(log.option[log.arrival_s > 200].tolist())} == {"b"}
    without = rollout_of([steps[0], FleetStep(at_s=100, plan=fleet(b=1))], 10)
    run = replay_rollout(without, engine_of, requests((0.5 * FULL_RPS, 300)))
    assert run.log.ok.all()  # the new one serves before the old one stops
    assert [one.at_s for one in without.handovers] == [0, 110]


def test_one_that_comes_later_takes_over_what_was_started() -> None:
    a1, a2, a3 = fleet(a=1), fleet(a=2), fleet(a=3)
    rollout = rollout_of(
        [
            FleetStep(at_s=0, plan=a1),
            FleetStep(at_s=100, plan=a3),
            FleetStep(at_s=150, plan=a2),  # one of the two is not wanted any more
        ],
        100,
    )
    assert [(one.ordered_s, one.serves_s, one.stops_s) for one in rollout.lives] == [
        (0, 0, math.inf),
        (100, 200, math.inf),
        (100, 200, 200),
    ]
    assert [(one.at_s, one.plan) for one in rollout.handovers] == [(0.0, a1), (200, a2)]
    assert rollout.billed_s(1000) == {"a": 1000 + 900 + 100}
    assert rollout.starts == 2


def test_each_option_starts_in_its_own_time() -> None:
    steps = [FleetStep(at_s=0, plan=fleet(a=1)), FleetStep(at_s=50, plan=fleet(a=2, b=1))]
    rollout = rollout_of(steps, {"a": 10.0, "b": 300.0})
    assert [one.serves_s for one in rollout.lives] == [0, 60, 350]
    assert rollout.moments() == [0, 60, 350]


def test_plans_with_other_buckets_follow_each_other() -> None:
    coarse = fleet(a=1, b=1)
    fine = replace(
        fleet(b=2),
        workload=make_workload(
            [[1.0, 1.0], [1.0, 1.0]], input_edges=(0, 10, 100), output_edges=(0, 40, 90)
        ),
    )
    (one,) = fine.allocations
    fine = replace(
        fine,
        allocations=(
            replace(
                one,
                candidate=make_capacity(
                    [[FULL_RPS] * 2] * 2,
                    make_option("b", engine=make_engine(max_num_seqs=SEQUENCES)),
                ),
                shares=((1.0, 1.0), (1.0, 1.0)),
            ),
        ),
    )
    steps = [FleetStep(at_s=at, plan=(coarse, fine)[at // 100 % 2]) for at in range(0, 600, 100)]
    rng = np.random.default_rng(4)
    count = 2000
    stream = RequestStream.of(
        np.sort(rng.uniform(0, 600, count)),
        rng.integers(1, 300, count),
        rng.integers(1, 120, count),
    )
    run = replay_rollout(rollout_of(steps, 20), engine_of, stream)
    assert run.log.ok.all()


@given(
    st.lists(
        st.tuples(st.integers(0, 500), st.integers(0, 3), st.integers(0, 3)),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 200),
)
def test_lives_add_up_to_what_is_wanted(rows: list[tuple[int, int, int]], startup_s: int) -> None:
    plan = fleet(a=1, b=1)
    steps = [
        FleetStep(at_s=at, plan=plan, counts={"a": a, "b": b})
        for at, a, b in sorted(rows, key=lambda row: row[0])
    ]
    rollout = rollout_of(steps, startup_s)
    wanted: Mapping[str, int] = steps[-1].wanted
    for option in ("a", "b"):
        lives = [one for one in rollout.lives if one.option == option]
        assert sum(one.stops_s == math.inf for one in lives) == wanted.get(option, 0)
        assert all(one.ordered_s <= one.serves_s and one.ordered_s <= one.stops_s for one in lives)
        for now, after in zip(steps, [*steps[1:], None], strict=True):
            until = math.inf if after is None else after.at_s
            alive = sum(one.ordered_s <= now.at_s < one.stops_s for one in lives)
            assert until == now.at_s or alive >= now.wanted.get(option, 0)
    seats, most = seated(rollout.lives)
    for option, count in most.items():
        for seat in range(count):
            taken = [one for one, at in seats if at == seat and one.option == option]
            assert all(a.stops_s <= b.serves_s for a, b in itertools.pairwise(taken))


def test_steps_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="no step has a plan"):
        rollout_of([FleetStep(at_s=0, plan=None)], 0)
    with pytest.raises(ValueError, match="back in time"):
        rollout_of([FleetStep(at_s=1, plan=fleet(a=1)), FleetStep(at_s=0, plan=fleet(a=1))], 0)


def test_a_plan_is_taken_once_its_own_replicas_serve_whatever_is_grown_for_later() -> None:
    a1, a2, a4 = fleet(a=1), fleet(a=2), fleet(a=4)
    rollout = rollout_of(
        [
            FleetStep(at_s=0, plan=a1, counts={"a": 2}),
            FleetStep(at_s=100, plan=a2, counts={"a": 4}),  # two more for the step after it
            FleetStep(at_s=400, plan=a4),
        ],
        600,
    )
    assert [(one.at_s, one.plan) for one in rollout.handovers] == [(0.0, a1), (100, a2), (700, a4)]
