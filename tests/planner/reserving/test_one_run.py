"""The demand in one run: a step that comes too late misses, one that is grown ahead holds."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melange_sky.planner.reserving import one_run
from melange_sky.planner.reserving.one_run import Clock, Demanded, in_one_run, scheduled_steps
from melange_sky.plans import ModelPlan
from melange_sky.routing import QUEUE_LENGTH
from tests.test_rollout import FULL_RPS, engine_of, fleet

DAY = 24
QUIET, BUSY = fleet(a=1), fleet(a=4)
SLO = dataclasses.replace(QUIET.slo, ttft_s=0.5, tpot_s=None, attainment=0.95)
STEP_S = 600.0
CHANGES = (8, 16)


@pytest.fixture(autouse=True)
def _simple_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines whose capacity is known by hand: FULL_RPS of a replica."""
    monkeypatch.setattr(one_run, "engine_of", engine_of)


def a_day(startup_s: float = 300.0, **over: Any) -> Demanded:
    """One replica's load, between two steps four's, and one's again."""
    quiet, busy = (dataclasses.replace(plan, slo=SLO) for plan in (QUIET, BUSY))
    is_busy = [CHANGES[0] <= k < CHANGES[1] for k in range(DAY)]
    plans: list[ModelPlan | None] = [busy if b else quiet for b in is_busy]
    values: dict[str, Any] = {
        "rates_rps": np.array([(3.0 if b else 0.5) * FULL_RPS for b in is_busy]),
        "step_s": STEP_S,
        "plans": plans,
        "startup_s": startup_s,
        "startup_origin": "test",
        "seed": 5,
    }
    return Demanded(**(values | over))


def in_time(short_s: float) -> float:
    """The part of a step that is in time where three replicas are missing for its first seconds.

    What arrives then waits behind more than can be served; and once they serve, the gateway's queue, full by
    then, is worked off by what four serve beyond what arrives.
    """
    return 1 - (short_s + QUEUE_LENGTH / FULL_RPS) / STEP_S


def test_grown_ahead_it_holds_even_where_every_change_is_as_late_as_can_be() -> None:
    found = in_one_run(a_day())
    assert found.holds and found.attainment > 0.99
    assert found.ahead_s == 600.0 and found.late_s == 300.0
    assert (found.starts, found.switches) == (3, 2)
    assert found.span_s == found.replayed_s == DAY * STEP_S


def test_started_on_the_hour_it_misses_as_long_as_replicas_start() -> None:
    found = in_one_run(a_day(startup_s=300.0), late_s=0.0, ahead_s=0.0)
    assert not found.holds and found.worst == CHANGES[0]
    assert found.worst_attainment == pytest.approx(in_time(300.0), abs=0.04)
    assert [a for k, a in enumerate(found.by_step) if k != CHANGES[0] and (a or 0) < 0.95] == []
    slower = in_one_run(a_day(startup_s=450.0), late_s=0.0, ahead_s=0.0)
    assert slower.worst_attainment == pytest.approx(in_time(450.0), abs=0.04)


def test_too_little_ahead_is_in_between() -> None:
    found = [in_one_run(a_day(), 0.0, ahead).worst_attainment for ahead in (0.0, 150.0, 300.0)]
    assert found == pytest.approx([in_time(300.0), in_time(150.0), 1.0], abs=0.04)


def test_a_fleet_that_is_too_small_for_an_hour_misses_in_that_hour_only() -> None:
    asked = a_day()
    found = in_one_run(dataclasses.replace(asked, plans=[asked.plans[0]] * DAY))
    assert not found.holds
    by_step = [a or 0.0 for a in found.by_step]
    assert {k for k, a in enumerate(by_step) if a < 0.9} - {CHANGES[1]} == set(range(*CHANGES))
    # The hour after works its queue off, at what one replica serves beyond what arrives then.
    assert by_step[CHANGES[1]] == pytest.approx(
        1 - QUEUE_LENGTH / (0.5 * FULL_RPS) / STEP_S, abs=0.04
    )


def test_the_same_bytes_each_time_and_another_seed_is_another_run() -> None:
    one, other = in_one_run(a_day()), in_one_run(a_day())
    assert one == other
    assert in_one_run(a_day(seed=6)).requests != one.requests


def test_long_stretches_stand_for_themselves_in_part() -> None:
    """What a shortened run finds is what the whole one does: late in one step out of eight, in part."""
    asked = a_day(step_s=3600.0, startup_s=1200.0)
    whole = in_one_run(asked, late_s=0.0, ahead_s=0.0)
    assert whole.replayed_s == whole.span_s
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_run, "MOST_REQUESTS", 200_000)
        short = in_one_run(asked, late_s=0.0, ahead_s=0.0)
    assert short.replayed_s < 0.3 * whole.replayed_s and short.requests < 0.35 * whole.requests
    assert short.attainment == pytest.approx(whole.attainment, abs=0.004)
    assert short.worst == whole.worst
    assert short.worst_attainment == pytest.approx(whole.worst_attainment, abs=0.03)


def test_hours_without_anything_and_a_fleet_before_its_hour() -> None:
    asked = a_day()
    rates = asked.rates_rps.copy()
    rates[: CHANGES[0]] = 0.0
    plans = [None if k < CHANGES[0] else plan for k, plan in enumerate(asked.plans)]
    asked = dataclasses.replace(asked, rates_rps=rates, plans=plans)
    found = in_one_run(asked)
    assert found.holds and found.by_step[: CHANGES[0]] == (None,) * CHANGES[0]
    steps = scheduled_steps(asked, (0, DAY), 600.0, 0.0)
    assert [(step.at_s, dict(step.wanted)) for step in steps if step.at_s < 9 * STEP_S][:2] == [
        (0.0, {}),
        (STEP_S, {}),
    ]
    grown = next(step for step in steps if step.wanted)
    assert (grown.at_s, dict(grown.wanted)) == (CHANGES[0] * STEP_S - 600.0, {"a": 4})


def test_of_a_long_demand_the_busiest_week_is_replayed() -> None:
    days = 21
    one = fleet(a=1)
    rates = np.full(days, 0.02)
    rates[9:16] = 0.05
    asked = Demanded(
        rates_rps=rates,
        step_s=86_400.0,
        plans=[one] * days,
        startup_s=900.0,
        startup_origin="test",
    )
    found = in_one_run(asked)
    assert (found.first, found.steps) == (9, 7)
    assert 9 <= found.worst < 16 and found.holds


def test_of_more_requests_than_can_be_replayed_the_busiest_hours_are() -> None:
    asked = a_day(step_s=3600.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_run, "MOST_REQUESTS", 20_000)
        found = in_one_run(asked)
    assert CHANGES[0] <= found.first and found.first + found.steps <= CHANGES[1]
    assert found.requests < 60_000 and found.holds


@given(
    st.lists(st.floats(1, 1e5), min_size=1, max_size=12),
    st.floats(10, 1e5),
    st.lists(st.floats(0, 2e5), min_size=2, max_size=20),
)
def test_the_short_clock_never_goes_back_and_keeps_what_follows_a_change(
    gaps: list[float], most_s: float, moments: list[float]
) -> None:
    edges = np.cumsum([0.0, *gaps]).tolist()
    span_s = edges[-1] + 5000.0
    clock = Clock.of(edges, span_s, most_s)
    times = [clock.short(at) for at in sorted(moments)]
    assert all(a <= b for a, b in pairwise(times))
    assert clock.length_s <= span_s * (1 + 1e-9)
    for edge in edges:
        after = min([e for e in edges if e > edge] + [span_s]) - edge
        kept = min(after, one_run.SHORTEST_S)
        assert clock.short(edge + kept) - clock.short(edge) == pytest.approx(kept, abs=1e-6)
