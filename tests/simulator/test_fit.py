"""Step constants fitted on request records alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from melange_sky.simulator import RequestStream, simulate_replica
from melange_sky.simulator.fit import fit_replica, median_latencies
from melange_sky.steps import KvPool, ReplicaModel, StepCosts

TRUE = ReplicaModel(
    costs=StepCosts(
        fixed_s=2e-3,
        sequence_s=3e-4,
        weights_s=0.0,
        experts_s=0.0,
        expert_miss=0.0,
        token_flops_s=6e-5,
        token_link_s=0.0,
        kv_token_s=4e-7,
        pair_s=0.0,
    ),
    pool=KvPool(blocks=4000, block_tokens=16),
    chunked=True,
    budget_tokens=1024,
    max_num_seqs=4,
    watermark_blocks=0,
    reserve_tokens=0,
)


def probe(replica, rate, inputs, outputs, seed=0):
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, 80))
    return simulate_replica(replica, RequestStream.of(arrivals, inputs, outputs))


def test_constants_fitted_on_five_probes_predict_other_sizes_and_rates():
    probes = [
        probe(TRUE, rate, i, o, seed)
        for seed, (rate, i, o) in enumerate(
            [(1.0, 64, 16), (1.0, 512, 32), (8.0, 128, 32), (4.0, 512, 64), (12.0, 64, 64)]
        )
    ]
    wrong = TRUE.costs._replace(fixed_s=2e-2, sequence_s=1e-5, token_flops_s=1e-6, kv_token_s=1e-6)
    fitted = fit_replica(dataclasses.replace(TRUE, costs=wrong), probes)
    for rate, i, o in ((2.0, 256, 32), (5.0, 32, 100), (3.0, 1000, 20)):
        expected = median_latencies(probe(TRUE, rate, i, o, 99))
        assert median_latencies(probe(fitted, rate, i, o, 99)) == pytest.approx(expected, rel=0.25)


def test_time_outside_the_engine_is_fitted_apart_from_the_steps():
    true = dataclasses.replace(TRUE, request_s=0.05)
    sizes = [(1.0, 64, 16), (1.0, 512, 32), (8.0, 128, 32), (4.0, 512, 64), (12.0, 64, 64)]
    fitted = fit_replica(TRUE, [probe(true, *size, seed) for seed, size in enumerate(sizes)])
    assert fitted.request_s == pytest.approx(0.05, rel=0.2)
    assert fitted.costs.fixed_s == pytest.approx(TRUE.costs.fixed_s, rel=0.3)


def test_a_probe_whose_answers_came_in_one_piece_is_fitted_by_its_ttft_alone():
    probes = [probe(TRUE, *size, 1) for size in ((1.0, 64, 16), (1.0, 512, 32), (8.0, 128, 32))]
    merged = dataclasses.replace(probes[0], last_token_s=probes[0].first_token_s)
    fitted = fit_replica(TRUE, [merged, *probes[1:]])
    expected = median_latencies(probe(TRUE, 4.0, 256, 32, 99))
    assert median_latencies(probe(fitted, 4.0, 256, 32, 99)) == pytest.approx(expected, rel=0.25)


def test_probes_in_which_nothing_completed_cannot_be_fitted():
    nothing = probe(TRUE, 1.0, 100_000, 10)
    assert not nothing.ok.any()
    with pytest.raises(ValueError, match="no probe has a completed request"):
        fit_replica(TRUE, [nothing])
