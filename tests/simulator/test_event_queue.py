"""Only replicas with something to do are looked at, to the very result of looking at all of them."""

from __future__ import annotations

import dataclasses
import random
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.routing import routing_state, routing_table
from melange_sky.simulator import FleetSimulation, RequestStream, kernel
from melange_sky.simulator import state as c
from melange_sky.simulator.fleet import simulate_planned_fleet
from melange_sky.simulator.native import Program
from melange_sky.simulator.state import FleetState, fleet_state
from melange_sky.steps import ReplicaModel
from tests.simulator.test_fleet import engine, mixed, options_of
from tests.simulator.test_windows import POOL, WINDOWS, replica
from tests.test_routing import two_way_plan


def advance_every(s: FleetState, until: float) -> None:
    """The plain loop: every replica, whether it has something to do or not."""
    for r in range(len(s.real)):
        kernel.advance(s, r, until, False)


ADVANCE_EVERY, SUBMIT = Program(advance_every, kernel.submit).entries()


def engines(rng: np.random.Generator, count: int) -> list[ReplicaModel]:
    kinds = [
        replica(
            WINDOWS[: int(rng.integers(0, 4))],
            pool=dataclasses.replace(POOL, blocks=int(rng.integers(40, 400))),
            chunked=bool(rng.integers(2)),
            max_num_seqs=int(rng.integers(2, 32)),
            reserve_tokens=int(rng.choice([0, 0, 300])),
        )
        for _ in range(3)
    ]
    return [kinds[k] for k in rng.integers(0, 3, count)]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.sampled_from([1, 2, 3, 8, 13, 40]))
def test_a_fleet_moves_as_by_the_plain_loop(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    fleet, requests = engines(rng, count), 300
    gaps = rng.exponential(0.4 / count, requests) * rng.choice([0.0, 1.0, 1.0, 20.0], requests)
    arrivals = np.cumsum(gaps).tolist()
    queue, plain = FleetSimulation(fleet, requests), fleet_state(fleet, requests, 4096)
    for number, arrival in enumerate(arrivals):
        size = int(rng.integers(1, 150)), int(rng.integers(1, 120))
        queue.advance(arrival)
        ADVANCE_EVERY(plain, arrival)
        assert queue.clock_s.tobytes() == plain.real[:, c.CLOCK].tobytes()
        assert queue.running.tobytes() == plain.whole[:, c.RUNNING].tobytes()
        chosen = int(rng.integers(count))
        queue.submit(chosen, arrival, *size)
        plain.times[number, c.ARRIVAL] = arrival
        plain.request[number, [c.INPUT, c.OUTPUT]] = size
        SUBMIT(plain, chosen, number)
    queue.finish()
    ADVANCE_EVERY(plain, float("inf"))
    same = ("whole", "residues", "times", "request", "finished", "ended")
    for name in same:
        assert getattr(queue._state, name).tobytes() == getattr(plain, name).tobytes(), name
    assert queue.busy_s.tobytes() == plain.real[:, c.BUSY].tobytes()


def microseconds(replicas: int, requests: int = 20_000) -> float:
    """CPU time per request of a fleet of so many replicas, each under the same load."""
    plan = two_way_plan()
    half = tuple(
        dataclasses.replace(a, instances=replicas // 2, rate_rps=1.0) for a in plan.allocations
    )
    plan = dataclasses.replace(plan, allocations=half)
    table = routing_table(plan)
    options, state = (
        options_of(plan, engine=engine(64)),
        routing_state(table, plan, random.Random(1)),
    )
    stream = mixed(8.0 * replicas, requests)
    simulate_planned_fleet(options, table, state, RequestStream.of([0.0], 5, 5))
    began = time.process_time()
    run = simulate_planned_fleet(options, table, state, stream)
    spent = time.process_time() - began
    assert run.log.ok.all()
    return spent / requests * 1e6


def test_a_request_costs_about_the_same_in_a_fleet_of_any_size() -> None:
    """The aim is 20 µs at 1,000 replicas; with every replica looked at, ten times as many cost that."""
    sizes = (8, 64, 512, 4096)
    spent = [min(microseconds(n) for _ in range(2)) for n in sizes]
    assert max(spent) < 20.0
    assert all(late < 5 * soon + 2.0 for soon, late in pairwise(spent))


@pytest.mark.parametrize("replicas", [1, 5])
def test_clocks_of_idle_replicas_go_with_the_fleets(replicas: int) -> None:
    fleet = FleetSimulation([engine()] * replicas, 2)
    fleet.advance(7.5)
    assert fleet.clock_s.tolist() == [7.5] * replicas
    fleet.submit(0, 7.5, 10, 3)
    fleet.advance(9.0)
    assert fleet.clock_s.tolist() == [9.0] * replicas
    assert fleet.log().first_token_s[0] > 7.5
