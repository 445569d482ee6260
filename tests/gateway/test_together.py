"""Several gateways that know nothing of each other hold the plan's shares together."""

from __future__ import annotations

import random

import pytest

from melange_sky.routing import Router
from tests.gateway.bed import split_plan

GATEWAYS, REQUESTS = 4, 4000


@pytest.mark.parametrize("left", [0.1, 0.5, 0.85])
@pytest.mark.parametrize("spread", ["evenly", "at random", "mostly to one"])
def test_shares_hold_at_every_moment_whoever_gets_which_request(left: float, spread: str) -> None:
    (plan,) = split_plan(left=left, rate=1e6).models
    routers = [Router(plan, random.Random(n), routers=GATEWAYS) for n in range(GATEWAYS)]
    rng, counts = random.Random(7), [0, 0]
    weights = [30, 1, 1, 1] if spread == "mostly to one" else [1] * GATEWAYS
    for n in range(1, REQUESTS + 1):
        own = n % GATEWAYS if spread == "evenly" else rng.choices(range(GATEWAYS), weights)[0]
        router = routers[own]
        replica, need, _ = router.route(router.class_of(50, 20), 70)
        counts[replica] += 1
        router.finish(replica, need)
        # each is off by a request and a half at most, however many have come
        assert abs(counts[0] - left * n) <= 1.5 * GATEWAYS, (n, counts)


def test_each_counts_its_requests_for_all_so_that_a_burst_spills_at_the_same_load() -> None:
    (plan,) = split_plan(left=1.0, rate=2.0).models

    def planned_before_it_spills(gateways: int) -> int:
        routers = [Router(plan, random.Random(n), routers=gateways) for n in range(gateways)]
        for n in range(1000):
            router = routers[n % gateways]
            replica, _, _ = router.route(router.class_of(50, 20), 70)
            if replica != 0:
                return n
        raise AssertionError("never spilled")

    alone, together = planned_before_it_spills(1), planned_before_it_spills(GATEWAYS)
    assert abs(together - alone) <= GATEWAYS
