"""Sessions and their replicas: shares hold, few move, none takes a replica for itself, gateways agree."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
from array import array
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.plans import ModelPlan
from melange_sky.routing import Homes, Router, affinity, policy
from melange_sky.routing.homes import RECENT_REQUESTS, SPAN, divide
from melange_sky.routing.table import RoutingState, RoutingTable
from melange_sky.simulator.native import Program
from tests.test_routing import chi_square, grid_plan, two_way_plan


def session(name: object) -> int:
    digest = hashlib.blake2b(str(name).encode(), digest_size=8).digest()
    return affinity.session_of(int.from_bytes(digest, "big"))


def wide_plan(replicas: int, left: float = 0.7) -> ModelPlan:
    plan = two_way_plan(left)
    grown = tuple(dataclasses.replace(a, instances=replicas) for a in plan.allocations)
    return dataclasses.replace(plan, allocations=grown)


def homes_of(router: Router, sessions: range, size: int = 50) -> dict[int, int]:
    """Route one request of each session, one at a time; return their replicas."""
    found = {}
    for name in sessions:
        replica, need, _ = router.route(router.class_of(size, None), 200, session=session(name))
        router.finish(replica, need)
        found[name] = replica
    return found


def test_shares_over_sessions_hold_in_every_bucket() -> None:
    plan = grid_plan()
    router = Router(plan, random.Random(1), names=())
    turns, sessions = 6, 3000
    for i, edge in enumerate(plan.workload.input_edges[1:]):
        c = router.class_of(edge, None)
        counts = Counter[str]()
        for name in range(sessions):
            for _ in range(turns):
                replica, need, reason = router.route(c, 10, session=session((i, name)))
                assert (reason, router.place) == (policy.PLANNED, affinity.HOME)
                counts[router.option_of(replica)] += 1
                router.finish(replica, need)
        shares = router.expected_shares(c)
        names = [name for name in router.options if shares[name] > 0]
        statistic = chi_square([counts[n] for n in names], [shares[n] for n in names])
        # A session's requests all go the same way: the variance is `turns` times that of single requests.
        assert statistic / turns < 13.8  # p = 0.001 with two degrees of freedom
        assert sum(counts.values()) == sum(counts[n] for n in names)


def test_of_ten_thousand_sessions_only_a_lost_replicas_move_and_evenly() -> None:
    router = Router(wide_plan(10, left=1.0), random.Random(1), names=())
    before = homes_of(router, range(10_000))
    at_each = Counter(before.values())
    assert max(at_each.values()) <= 1.1 * min(at_each.values()) + 6 * math.sqrt(1000)
    router.set_health(3, False)
    after = homes_of(router, range(10_000))
    moved = [name for name in before if before[name] != after[name]]
    assert {before[name] for name in moved} == {3}
    assert len(moved) == at_each[3] <= 1200
    shed = Counter(after[name] for name in moved)
    assert len(shed) == 9 and chi_square(list(shed.values()), [1 / 9] * 9) < 1.3 * 26.1
    router.set_health(3, True)
    assert homes_of(router, range(10_000)) == before


def test_a_replica_taken_out_of_the_list_moves_its_own_sessions_only() -> None:
    names = [f"http://10.0.0.{n}:8000" for n in range(12)]
    plan = wide_plan(10, left=1.0)
    all_of = Router(plan, random.Random(1), replicas=[10, 2], names=names)
    gone = names[:4] + names[5:]
    fewer = Router(plan, random.Random(2), replicas=[9, 2], names=gone)
    before = {k: names[r] for k, r in homes_of(all_of, range(2000)).items()}
    after = {k: gone[r] for k, r in homes_of(fewer, range(2000)).items()}
    assert {before[k] for k in before if before[k] != after[k]} == {names[4]}
    shuffled = names[:10][::-1] + names[10:]
    again = Router(plan, random.Random(3), replicas=[10, 2], names=shuffled)
    assert {k: shuffled[r] for k, r in homes_of(again, range(2000)).items()} == before


def test_gateways_that_saw_different_traffic_agree() -> None:
    one, other = (
        Router(two_way_plan(), random.Random(seed), routers=2, names=()) for seed in (1, 2)
    )
    for _ in range(500):
        other.observe(other.class_of(50, None), 60)
    assert homes_of(one, range(1000)) == homes_of(other, range(1000))


@pytest.mark.parametrize("concurrent", [1, 7, 40, 200])
def test_no_replica_holds_more_than_its_part_and_a_quarter(concurrent: int) -> None:
    router = Router(wide_plan(10, left=1.0), random.Random(1), full_load=1e9, names=())
    rng = random.Random(concurrent)
    held: list[tuple[int, float]] = []
    spilled = 0
    for _ in range(3000):
        name = "hot" if rng.random() < 0.3 else rng.randrange(300)
        size = rng.choice((50, 150))
        replica, need, _ = router.route(router.class_of(size, None), 200, session=session(name))
        held.append((replica, need))
        k = router.table.option_of[replica]
        mean = router.state.option_in_flight[k] / 10
        assert router.state.in_flight[replica] <= math.ceil(1.25 * mean)
        spilled += router.place == affinity.ELSEWHERE
        if len(held) == concurrent:
            router.finish(*held.pop(rng.randrange(len(held))))
    assert (spilled > 0) == (concurrent > 1)
    for replica, need in held:
        router.finish(replica, need)
    assert list(router.state.option_in_flight) == [0, 0]


def test_one_session_that_sends_everything_leaves_the_shares_as_planned() -> None:
    router = Router(two_way_plan(left=0.5), random.Random(1), full_load=1e9, names=())
    counts = Counter[str]()
    held: list[tuple[int, float]] = []
    for _ in range(4000):
        replica, need, _ = router.route(router.class_of(50, None), 90, session=session("hot"))
        counts[router.option_of(replica)] += 1
        held.append((replica, need))
        if len(held) > 10:
            router.finish(*held.pop(0))
    assert max(counts.values()) <= 1.5 * 0.5 * 4000 + RECENT_REQUESTS


def test_a_session_that_grows_keeps_its_option_as_far_as_the_shares_allow() -> None:
    router = Router(two_way_plan(left=0.6), random.Random(1), names=())
    small, large = (homes_of(router, range(3000), size) for size in (50, 150))
    option = router.table.option_of
    for name in small:  # only `big` takes large requests: those of `small` move, the others stay
        assert option[large[name]] == 1
        if option[small[name]] == 1:
            assert large[name] == small[name]


def test_sessions_of_an_option_that_is_away_go_by_the_others_shares_and_come_back() -> None:
    plan = grid_plan()
    router = Router(plan, random.Random(1), names=())
    before = homes_of(router, range(2000), 10)
    for replica in range(router.table.first[0], router.table.first[1]):
        router.set_health(replica, False)
    away = homes_of(router, range(2000), 10)
    for name, replica in before.items():
        if router.table.option_of[replica] != 0:
            assert away[name] == replica
        else:
            assert router.table.option_of[away[name]] != 0
    for replica in range(router.table.first[0], router.table.first[1]):
        router.set_health(replica, True)
    assert homes_of(router, range(2000), 10) == before


def test_a_loaded_options_sessions_leave_it_one_after_another() -> None:
    def at_big(load: float, left: float) -> set[int]:
        router = Router(two_way_plan(left), random.Random(7), names=())
        for replica in (0, 1, 2):
            router.restore(replica, load, 20)
        found = homes_of(router, range(500))
        return {name for name, replica in found.items() if router.table.option_of[replica] == 1}

    home, some, all_of_them = (at_big(load, 0.7) for load in (0.5, 1.1, 1.26))
    assert home < some < all_of_them
    assert len(all_of_them) == 500
    # Where the plan gives the others no share, they take sessions only once the option is late.
    assert at_big(1.2, 1.0) == set()
    assert len(at_big(1.4, 1.0)) == 500


shares_of_three = st.lists(st.floats(0, 1), min_size=3, max_size=3)


@given(st.lists(shares_of_three, min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_dividing_anew_moves_as_little_as_the_shares_allow(chain: list[list[float]]) -> None:
    def owners(pieces: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
        return [
            (start, end, k)
            for start, (end, k) in zip([0, *(end for end, _ in pieces)], pieces, strict=False)
        ]

    before = [(SPAN, 0)]
    for shares in chain:
        after = divide(before, shares, [2, 0, 1])
        had, has = ([0, 0, 0], [0, 0, 0])
        for start, end, k in owners(before):
            had[k] += end - start
        for start, end, k in owners(after):
            assert end > start
            has[k] += end - start
        assert sum(has) == SPAN
        total = sum(shares)
        if total > 0:
            for k in range(3):
                assert abs(has[k] - shares[k] / total * SPAN) <= 1.01
        kept = sum(
            max(0, min(e1, e2) - max(s1, s2))
            for s1, e1, k1 in owners(before)
            for s2, e2, k2 in owners(after)
            if k1 == k2
        )
        assert kept == sum(map(min, had, has))
        before = after


def test_compiled_homes_are_the_plain_ones() -> None:
    choose, begin, finish = Program(affinity.choose, policy.begin, policy.finish).entries()
    plain, arrays = (Router(two_way_plan(), random.Random(7), names=()) for _ in range(2))
    table = RoutingTable(*(as_array(x) for x in arrays.table))
    state = RoutingState(*(as_array(x) for x in arrays.state))
    homes = Homes(*(as_array(x) for x in arrays.homes or ()))
    rng = random.Random(3)
    held: list[tuple[int, float]] = []
    for _ in range(2000):
        size, name = rng.randrange(200), session(rng.randrange(60))
        c = plain.class_of(size, None)
        replica, reason, place = choose(table, state, homes, (c, size, name))
        chosen, need, why = plain.route(c, size, session=name)
        assert (replica, reason, place) == (chosen, why, plain.place)
        if replica >= 0:
            assert begin(table, state, c, replica) == need
            held.append((replica, need))
        if held and rng.random() < 0.9:
            gone = held.pop(rng.randrange(len(held)))
            plain.finish(*gone)
            finish(table, state, *gone)


def as_array(value: object) -> object:
    return np.array(value) if isinstance(value, list | array) else value
