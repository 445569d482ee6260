"""The replica simulator against queueing theory, conservation laws and monotonicity."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.models import find_model
from melange_sky.names.accelerators import find_accelerator
from melange_sky.profiles import engine_generation
from melange_sky.simulator import (
    RequestStream,
    simulate_closed_loop,
    simulate_fleet,
    simulate_replica,
)
from melange_sky.slo import RequestLog
from melange_sky.steps import KvPool, ReplicaModel, StepCosts, replica_model

NOTHING = StepCosts(
    fixed_s=0.0,
    sequence_s=0.0,
    weights_s=0.0,
    experts_s=0.0,
    expert_miss=0.0,
    token_flops_s=0.0,
    token_link_s=0.0,
    kv_token_s=0.0,
    pair_s=0.0,
)


def replica(chunked=True, blocks=100_000, sequences=256, budget=2048, **costs) -> ReplicaModel:
    return ReplicaModel(
        costs=NOTHING._replace(**({"fixed_s": 0.01} | costs)),
        pool=KvPool(blocks=blocks, block_tokens=16),
        chunked=chunked,
        budget_tokens=budget,
        max_num_seqs=sequences,
        watermark_blocks=0,
        reserve_tokens=0,
    )


def poisson(rate, count, seed=1):
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def real(accelerator="A100-80GB", model="meta-llama/Llama-3.1-8B", generation="vllm", tp=1):
    found = replica_model(
        find_model(model), find_accelerator(accelerator), tp, engine_generation(generation)
    )
    assert isinstance(found, ReplicaModel)
    return found


def littles_law_gap(log: RequestLog) -> float:
    """Return |L − λ W| / L with L integrated over time from arrivals and departures."""
    events = np.concatenate([log.arrival_s, log.last_token_s])
    order = np.argsort(events, kind="stable")
    steps = np.concatenate([np.ones(len(log)), -np.ones(len(log))])[order]
    times = events[order]
    area = float(np.sum(np.cumsum(steps)[:-1] * np.diff(times)))
    span = float(times[-1] - times[0])
    in_system = area / span
    return abs(in_system - len(log) / span * float(log.e2e_s.mean())) / in_system


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("load", [0.3, 0.8])
def test_one_token_requests_one_at_a_time_are_m_d_1(chunked, load):
    service = 0.01
    one = replica(chunked=chunked, sequences=1, fixed_s=service)
    log = simulate_replica(one, RequestStream.of(poisson(load / service, 200_000), 1, 1))
    wait = float(log.ttft_s.mean()) - service
    assert wait == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)  # Pollaczek-Khinchine


def erlang_c(servers: int, offered: float) -> float:
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last)


@pytest.mark.parametrize("servers", [1, 4])
def test_tiny_steps_and_geometric_lengths_are_m_m_c(servers):
    step, mean_tokens, load = 1e-3, 1000, 0.7
    rng = np.random.default_rng(3)
    count = 120_000
    outputs = rng.geometric(1 / mean_tokens, count)
    service = step * mean_tokens
    stream = RequestStream.of(poisson(load * servers / service, count, seed=4), 1, outputs)
    log = simulate_replica(replica(sequences=servers, fixed_s=step, blocks=10**7), stream)
    wait = float((log.e2e_s - outputs * step).mean())
    offered = load * servers
    expected = erlang_c(servers, offered) * service / (servers - offered)
    assert wait == pytest.approx(expected, rel=0.08)


@settings(max_examples=25, deadline=None)
@given(
    chunked=st.booleans(),
    seed=st.integers(0, 1000),
    rate=st.floats(0.5, 200.0),
    blocks=st.sampled_from([40, 70, 200, 5000]),
    sequences=st.sampled_from([1, 3, 64]),
)
def test_every_run_keeps_tokens_littles_law_and_causality(chunked, seed, rate, blocks, sequences):
    rng = np.random.default_rng(seed)
    count = 300
    inputs, outputs = rng.integers(1, 400, count), rng.integers(1, 120, count)
    one = replica(
        chunked=chunked,
        blocks=blocks,
        sequences=sequences,
        budget=256,
        sequence_s=1e-5,
        weights_s=0.002,
        token_flops_s=2e-5,
        kv_token_s=1e-8,
        pair_s=1e-9,
    )
    stream = RequestStream.of(poisson(rate, count, seed), inputs, outputs)
    fleet = simulate_fleet([one], stream, lambda number, live: 0)
    log = fleet.log()
    assert log.ok.all()  # every request fits the pool, so every one ends with all its tokens
    assert (log.output_tokens == outputs).all()
    assert (log.first_token_s > log.arrival_s).all()
    # every token after the first takes a step of at least the fixed time
    assert (log.last_token_s - log.first_token_s >= (outputs - 1) * 0.01 - 1e-9).all()
    assert littles_law_gap(log) < 1e-9
    assert (fleet.free_block_fraction == 1.0).all()
    assert fleet.outstanding_tokens[0] == fleet.running[0] == fleet.waiting[0] == 0
    assert fleet.busy_s[0] <= log.last_token_s.max() + 1e-9


def test_a_tight_cache_preempts_and_recomputes():
    tight = replica(blocks=40, fixed_s=0.001, token_flops_s=1e-6)
    stream = RequestStream.of(np.zeros(30), 100, 300)
    fleet = simulate_fleet([tight], stream, lambda number, live: 0)
    assert fleet.log().ok.all()
    assert fleet.preemptions[0] > 0
    roomy = simulate_fleet([replica(fixed_s=0.001, token_flops_s=1e-6)], stream, lambda n, f: 0)
    assert roomy.preemptions[0] == 0
    assert roomy.log().last_token_s.max() < fleet.log().last_token_s.max()


def test_a_request_that_can_never_fit_fails_alone():
    stream = RequestStream.of([0.0, 0.0], [100, 5000], [10, 10])
    log = simulate_replica(replica(blocks=40), stream)
    assert log.ok.tolist() == [True, False]
    assert np.isnan(log.first_token_s[1])


def step_by_step(one: ReplicaModel, inputs, outputs) -> tuple[list[float], list[float]]:
    """A slow, independent reading of the chunked scheduler for arrivals at 0 and a roomy cache."""
    costs, clock, decoding = one.costs, 0.0, {}
    waiting = list(range(len(inputs)))
    prefill: dict[int, int] = {}
    first, last = [0.0] * len(inputs), [0.0] * len(inputs)
    while waiting or prefill or decoding:
        budget, chunks = one.budget_tokens - len(decoding), {}
        while budget > 0 and (prefill.keys() - chunks.keys() or waiting):
            if not prefill.keys() - chunks.keys():
                if len(decoding) + len(prefill) >= one.max_num_seqs:
                    break
                prefill[waiting.pop(0)] = 0
            request = next(r for r in prefill if r not in chunks)
            chunks[request] = min(inputs[request] - prefill[request], budget)
            budget -= chunks[request]
        pairs = sum(sum(prefill[r] + k + 1 for k in range(c)) for r, c in chunks.items())
        context = sum(inputs[r] + made for r, made in decoding.items())
        tokens = len(decoding) + sum(chunks.values())
        weights = costs.weights_s
        clock += costs.fixed_s + costs.sequence_s * (len(decoding) + len(chunks))
        clock += max(weights, costs.token_flops_s * tokens) + costs.kv_token_s * context
        clock += costs.pair_s * pairs
        for request in list(decoding):
            decoding[request] += 1
            if decoding[request] == outputs[request]:
                last[request] = clock
                del decoding[request]
        for request, chunk in chunks.items():
            prefill[request] += chunk
            if prefill[request] == inputs[request]:
                del prefill[request]
                first[request] = last[request] = clock
                if outputs[request] > 1:
                    decoding[request] = 1
    return first, last


def test_closed_form_equals_a_step_by_step_reading():
    one = replica(
        sequences=8,
        budget=64,
        sequence_s=1e-4,
        weights_s=0.004,
        token_flops_s=1e-4,
        kv_token_s=1e-6,
        pair_s=1e-8,
    )
    rng = np.random.default_rng(5)
    inputs, outputs = rng.integers(1, 200, 40), rng.integers(1, 60, 40)
    log = simulate_replica(one, RequestStream.of(np.zeros(40), inputs, outputs))
    first, last = step_by_step(one, inputs.tolist(), outputs.tolist())
    np.testing.assert_allclose(log.first_token_s, first, rtol=1e-9)
    np.testing.assert_allclose(log.last_token_s, last, rtol=1e-9)


def test_the_same_seed_gives_the_same_records():
    stream = RequestStream.of(poisson(3.0, 2000), 800, 150)
    first, second = simulate_replica(real(), stream), simulate_replica(real(), stream)
    assert first.last_token_s.tobytes() == second.last_token_s.tobytes()


@settings(max_examples=15, deadline=None)
@given(
    what=st.sampled_from(["memory_gib", "bandwidth_gbps", "dense_tflops"]),
    factor=st.floats(1.05, 3.0),
    inputs=st.integers(20, 3000),
    outputs=st.integers(2, 400),
)
def test_more_memory_bandwidth_or_flops_never_serves_a_batch_later(what, factor, inputs, outputs):
    base = find_accelerator("A10G")
    better = dataclasses.replace(base, **{what: getattr(base, what) * factor})
    if what == "memory_gib":
        better = dataclasses.replace(better, usable_gib=base.usable_gib * factor)
    stream = RequestStream.of(np.zeros(64), inputs, outputs)
    times = []
    for accelerator in (base, better):
        one = replica_model(
            find_model("meta-llama/Llama-3.1-8B"), accelerator, 1, engine_generation("vllm")
        )
        budget = dataclasses.replace(one, budget_tokens=2048, max_num_seqs=256)
        times.append(simulate_replica(budget, stream).last_token_s.max())
    assert times[1] <= times[0] * (1 + 1e-9)


def test_a_closed_loop_keeps_its_users_in_flight():
    inputs = np.full(500, 200)
    log = simulate_closed_loop(real(), 8, inputs, np.full(500, 50))
    in_flight = [
        int(((log.arrival_s <= t) & (log.last_token_s > t)).sum())
        for t in np.linspace(1.0, 0.97 * log.arrival_s[-1], 20)
    ]
    assert set(in_flight) == {8}


def test_routing_sees_live_state():
    seen = []

    def least_loaded(number, fleet):
        seen.append(fleet.waiting.tolist())
        return int(np.argmin(fleet.waiting + fleet.running))

    stream = RequestStream.of(poisson(20.0, 400), 1000, 100)
    fleet = simulate_fleet([real(), real("A10G")], stream, least_loaded)
    assert fleet.log().ok.all()
    assert set(fleet.engine_of.tolist()) == {0, 1}
    assert any(sum(row) > 0 for row in seen)
