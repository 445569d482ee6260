"""The tree of minima against looking at every value, and the choice of replicas that rests on it."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.routing import Router, RoutingState, RoutingTable, policy
from melange_sky.routing.minima import NEVER, first_at_most, put, side_by_side
from tests.test_routing import two_way_plan

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(counts=COUNTS, seed=st.integers(0, 10_000))
def test_the_first_low_enough_is_found_in_every_tree(counts: list[int], seed: int) -> None:
    rng = random.Random(seed)
    leaf, top, nodes = side_by_side(counts)
    tree = [NEVER] * nodes
    values = [[NEVER] * count for count in counts]
    for _ in range(60):
        k = rng.randrange(len(counts))
        if not counts[k]:
            assert first_at_most(tree, top[k], top[k], 1e299) == -1
            continue
        place = rng.randrange(counts[k])
        values[k][place] = rng.choice([NEVER, 0.0, rng.random(), float(rng.randrange(4))])
        put(tree, leaf[k] + place, top[k], values[k][place])
        assert tree[top[k]] == min(values[k])
        start, limit = rng.randrange(counts[k]), rng.choice([0.0, 0.5, 2.0, 1e299])
        expected = [i for i in range(start, counts[k]) if values[k][i] <= limit]
        found = first_at_most(tree, leaf[k] + start, top[k], limit)
        assert found == (leaf[k] + expected[0] if expected else -1)


def scanned(t: RoutingTable, s: RoutingState, k: int) -> tuple[int, int]:
    """The plain loop: (least loaded healthy replica, ties in turn; the turn after it)."""
    first, best, lowest = t.first[k], -1, 1e300
    count = t.first[k + 1] - first
    at = s.cursor[k]
    for _ in range(count):
        if at >= count:
            at = 0
        r = first + at
        if s.healthy[r] and s.load[r] < lowest:
            best, lowest = r, s.load[r]
            if lowest <= 0.0:
                break
        at += 1
    return best, s.cursor[k] if best < 0 else best - first + 1


@settings(max_examples=150, deadline=None)
@given(
    counts=st.tuples(st.integers(0, 30), st.integers(1, 30)),
    seed=st.integers(0, 10_000),
    busy=st.sampled_from([0.2, 0.5, 0.8]),
)
def test_replicas_are_chosen_as_by_the_plain_loop(
    counts: tuple[int, int], seed: int, busy: float
) -> None:
    rng = random.Random(seed)
    router = Router(two_way_plan(), random.Random(1), list(counts), full_load=1e9)
    table, state = router.table, router.state
    held: list[tuple[int, float]] = []
    for _ in range(200):
        replica = rng.randrange(table.replicas)
        if rng.random() < 0.15:
            router.set_health(replica, rng.random() < 0.5)
        if rng.random() < 0.05 and not state.in_flight[replica]:
            router.restore(replica, 0.25, 1)
            held.append((replica, 0.25))
        for k in range(table.options):
            best, turn = scanned(table, state, k)
            before = state.cursor[k]
            assert (policy.pick_replica(table, state, k), state.cursor[k]) == (best, turn)
            if rng.random() < 0.5:
                state.cursor[k] = before
        avoid = [r for r in range(table.replicas) if rng.random() < 0.02]
        kind = router.class_of(rng.randrange(200), None)
        chosen, need, _reason = router.route(kind, 50, avoid)
        if chosen >= 0:
            assert chosen not in avoid
            held.append((chosen, need))
        while held and rng.random() > busy:
            router.finish(*held.pop(rng.randrange(len(held))))
