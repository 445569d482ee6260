"""A fleet behind the policy: against theory, conservation, and the policy's own Python form."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import numpy as np
import pytest

from melange_sky.plans import ModelPlan
from melange_sky.prefixes import paths_of_sessions
from melange_sky.routing import Router, routing_state, routing_table, session_homes
from melange_sky.simulator import FleetSimulation, RequestStream
from melange_sky.simulator.fleet import (
    POLICIES,
    FleetOption,
    FleetRules,
    FleetRun,
    Outage,
    session_hashes,
    simulate_planned_fleet,
)
from melange_sky.steps import KvPool, ReplicaModel, StepCosts
from tests.factories import make_capacity, make_model_plan, make_option, make_workload
from tests.test_routing import two_way_plan


def engine(sequences: int = 256, fixed_s: float = 0.01, blocks: int = 100_000) -> ReplicaModel:
    """An engine whose steps all take `fixed_s`, whatever they hold."""
    costs = StepCosts(
        fixed_s=fixed_s,
        sequence_s=0.0,
        weights_s=0.0,
        experts_s=0.0,
        expert_miss=0.0,
        token_flops_s=0.0,
        token_link_s=0.0,
        kv_token_s=0.0,
        pair_s=0.0,
    )
    return ReplicaModel(
        costs=costs,
        pool=KvPool(blocks=blocks, block_tokens=16),
        chunked=True,
        budget_tokens=2048,
        max_num_seqs=sequences,
        watermark_blocks=0,
        reserve_tokens=0,
    )


def options_of(plan: ModelPlan, **over: Any) -> list[FleetOption]:
    values = {"engine": engine(), "engines_per_replica": 1} | over
    return [
        FleetOption(name=a.candidate.option.name, replicas=a.instances, **values)
        for a in plan.allocations
    ]


def run(
    plan: ModelPlan, stream: RequestStream, rules: FleetRules | None = None, **over: Any
) -> FleetRun:
    table = routing_table(plan)
    state = routing_state(table, plan, random.Random(1))
    return simulate_planned_fleet(options_of(plan, **over), table, state, stream, rules)


def poisson(rate: float, count: int, seed: int = 1) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def mixed(rate: float, count: int, seed: int = 1) -> RequestStream:
    rng = np.random.default_rng(seed + 100)
    return RequestStream.of(
        poisson(rate, count, seed), rng.integers(1, 250, count), rng.integers(1, 150, count)
    )


def single_plan() -> ModelPlan:
    capacity = make_capacity([[1e6]], make_option("one"))
    allocation = make_model_plan().allocations[0]
    one = type(allocation)(
        candidate=capacity, instances=1, load_fraction=0.5, rate_rps=1.0, shares=((1.0,),)
    )
    return make_model_plan(
        allocations=(one,),
        candidates=(capacity,),
        workload=make_workload([[1.0]], input_edges=(0, 10), output_edges=(0, 10_000_000)),
    )


def erlang_c(servers: int, offered: float) -> float:
    """Probability of waiting in M/M/c."""
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last)


@pytest.mark.parametrize("load", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("servers", [1, 4])
def test_waiting_is_that_of_m_m_c(servers: int, load: float) -> None:
    """Geometric lengths in steps of a thousandth of the mean are exponential service times."""
    step_s, tokens, count = 1e-3, 1000, 250_000 if load > 0.9 else 100_000
    service_s = step_s * tokens
    outputs = np.random.default_rng(5).geometric(1 / tokens, count)
    stream = RequestStream.of(poisson(load * servers / service_s, count, 6), 1, outputs)
    found = run(single_plan(), stream, engine=engine(servers, step_s, 10**7))
    waits = (found.log.e2e_s - outputs * step_s)[count // 20 :]
    means = waits[: len(waits) // 20 * 20].reshape(20, -1).mean(axis=1)
    error = float(means.std(ddof=1)) / math.sqrt(20)
    offered = load * servers
    expected = erlang_c(servers, offered) * service_s / (servers - offered)
    # Requests start at step boundaries: half a step more on average, where steps are running.
    assert abs(float(means.mean()) - expected) < 3 * error + step_s
    assert error < 0.2 * expected


def python_reference(
    plan: ModelPlan, stream: RequestStream, sessions: list[int] | None = None
) -> list[int]:
    """The same fleet driven by the policy's Python form, one call at a time."""
    router = Router(plan, random.Random(1), names=None if sessions is None else ())
    engines = [engine() for a in plan.allocations for _ in range(a.instances)]
    fleet = FleetSimulation(engines, len(stream), 4096)
    flying: dict[int, tuple[int, float, int]] = {}
    chosen = []
    rows = zip(stream.arrival_s, stream.input_tokens, stream.output_tokens, strict=True)
    for now, inputs, outputs in rows:
        fleet.advance(float(now))
        log = fleet.log()
        order = [q for q in fleet._state.finished[: fleet._state.ended[0]].tolist() if q in flying]
        for request in order:
            if log.last_token_s[request] <= now:
                replica, need, category = flying.pop(request)
                router.finish(replica, need)
                router.observe(category, int(log.output_tokens[request]))
        category = router.class_of(int(inputs), None)
        session = 0 if sessions is None else sessions[len(chosen)]
        replica, need, _ = router.route(category, int(inputs) + 1, session=session)
        request = fleet.submit(replica, float(now), int(inputs), int(outputs))
        flying[request] = (replica, need, category)
        chosen.append(replica)
    return chosen


def test_the_compiled_policy_decides_as_the_gateways_own() -> None:
    plan, stream = two_way_plan(), mixed(40.0, 1500)
    found = run(plan, stream)
    assert found.replica.tolist() == python_reference(plan, stream)
    assert len(set(found.replica.tolist())) == 5


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_completed_or_refused_once(policy: str) -> None:
    stream = mixed(200.0, 3000)
    found = run(
        two_way_plan(), stream, FleetRules(policy=policy, queue_room=50, queue_patience_s=1)
    )
    log = found.log
    assert len(log) == 3000
    assert np.isfinite(log.last_token_s[log.ok]).all()
    assert (log.first_token_s[log.ok] > log.arrival_s[log.ok]).all()
    assert (log.last_token_s[log.ok] >= log.first_token_s[log.ok]).all()
    assert (found.replica[~log.ok] == -1).all()
    assert np.isnan(log.last_token_s[~log.ok]).all()


def test_same_arguments_same_bytes() -> None:
    first, second = (run(two_way_plan(), mixed(50.0, 2000)) for _ in range(2))
    for name in ("arrival_s", "first_token_s", "last_token_s", "ok", "option"):
        assert getattr(first.log, name).tobytes() == getattr(second.log, name).tobytes()
    assert first.kv_used.tobytes() == second.kv_used.tobytes()


def test_a_full_fleet_queues_at_the_gateway_and_refuses_beyond_its_room() -> None:
    stream = RequestStream.of(np.linspace(0, 1, 2000), 50, 100)
    slow = engine(fixed_s=0.05)
    roomy = run(
        two_way_plan(), stream, FleetRules(queue_room=5000, queue_patience_s=1e4), engine=slow
    )
    tight = run(
        two_way_plan(), stream, FleetRules(queue_room=10, queue_patience_s=1e4), engine=slow
    )
    hasty = run(
        two_way_plan(), stream, FleetRules(queue_room=5000, queue_patience_s=0.5), engine=slow
    )
    assert roomy.log.ok.all()
    assert 0 < tight.log.ok.sum() < hasty.log.ok.sum() + 2000
    assert not tight.log.ok.all()
    assert not hasty.log.ok.all()


def test_an_outage_sends_waiting_requests_elsewhere_and_fails_started_ones() -> None:
    plan = two_way_plan()
    stream = mixed(40.0, 4000)
    outage = Outage(replica=3, start_s=30.0, end_s=60.0)
    found = run(plan, stream, FleetRules(outages=(outage,)))
    log = found.log
    sent = found.replica == 3
    away = (log.arrival_s > 30.0) & (log.arrival_s < 60.0)
    assert not (sent & away).any()
    assert (sent & (log.arrival_s > 61.0)).any()
    lost = ~log.ok
    assert 0 < lost.sum() < 200
    assert (log.arrival_s[lost] <= 30.0).all()
    assert np.isfinite(log.first_token_s[lost]).all()
    calm = run(plan, stream)
    assert calm.log.ok.all()


def test_a_fleet_that_is_down_serves_again_when_it_is_back() -> None:
    stream = RequestStream.of([0.0, 10.0, 11.0], 50, 10)
    down = tuple(Outage(replica=r, start_s=5.0, end_s=20.0) for r in range(5))
    found = run(two_way_plan(), stream, FleetRules(outages=down))
    assert found.log.ok.all()
    assert (found.log.first_token_s[1:] >= 20.0).all()
    gone = run(two_way_plan(), stream, FleetRules(outages=down, queue_patience_s=2.0))
    assert gone.log.ok.tolist() == [True, False, False]


def test_engines_of_one_replica_share_its_requests() -> None:
    stream = RequestStream.of(poisson(5.0, 400), 100, 100)
    one = run(single_plan(), stream, engine=engine(2, 0.005))
    two = run(single_plan(), stream, engine=engine(2, 0.005), engines_per_replica=2)
    assert two.log.e2e_s.mean() < one.log.e2e_s.mean()
    assert two.busy_fraction[0] < one.busy_fraction[0]


def test_samples_show_queue_and_cache() -> None:
    found = run(two_way_plan(), mixed(100.0, 2000), engine=engine(4), rules=FleetRules(samples=10))
    assert found.sample_s.shape == (10,)
    assert found.running.max() > 0
    assert found.waiting.shape == found.kv_used.shape == (10, 2)
    assert 0 <= found.kv_used.min() <= found.kv_used.max() <= 1


def test_time_outside_the_engine_is_added_to_ttft_alone() -> None:
    plan, stream = two_way_plan(), mixed(5.0, 300)
    slow = dataclasses.replace(engine(), request_s=0.25)
    one, two = run(plan, stream).log, run(plan, stream, engine=slow).log
    np.testing.assert_allclose(two.ttft_s, one.ttft_s + 0.25)
    np.testing.assert_allclose(two.tpot_s, one.tpot_s)


def chats_of(count: int, sessions: int) -> RequestStream:
    rng = np.random.default_rng(8)
    session, outputs = rng.integers(0, sessions, count), rng.integers(1, 60, count)
    inputs, reached = np.zeros(count, dtype=np.int64), dict.fromkeys(range(sessions), 20)
    for i, s in enumerate(session.tolist()):
        inputs[i] = reached[s] + 10
        reached[s] = int(inputs[i] + outputs[i]) if inputs[i] < 200 else 20
    return RequestStream.of(
        poisson(1.0, count), inputs, outputs, paths_of_sessions(session, inputs, outputs)
    )


def test_affinity_is_the_gateways_own_object() -> None:
    """Every request goes where the gateway's router sends it, told the same session."""
    plan, stream = two_way_plan(), chats_of(300, 25)
    table = routing_table(plan)
    state = routing_state(table, plan, random.Random(1))
    homes = session_homes(plan, table, state)
    found = simulate_planned_fleet(options_of(plan), table, state, stream, homes=homes)
    assert stream.prefixes is not None
    sessions = session_hashes(stream.prefixes.session).tolist()
    assert found.replica.tolist() == python_reference(plan, stream, sessions)
    assert len(set(found.replica.tolist())) == 5


def test_sessions_find_more_where_they_are_kept_together() -> None:
    plan, stream = two_way_plan(), chats_of(600, 40)
    plan = dataclasses.replace(
        plan, allocations=tuple(dataclasses.replace(a, instances=4) for a in plan.allocations)
    )
    table = routing_table(plan)
    state = routing_state(table, plan, random.Random(1))
    homes = session_homes(plan, table, state)
    together = simulate_planned_fleet(options_of(plan), table, state, stream, homes=homes)
    apart = simulate_planned_fleet(options_of(plan), table, state, stream)
    assert together.found_tokens is not None
    assert apart.found_tokens is not None
    assert together.found_tokens.sum() > 2 * apart.found_tokens.sum()
