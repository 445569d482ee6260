"""Simulated rates never bend: looser limits, better chips, more memory and shorter prompts never give less."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.accelerators import accelerator_table
from melange_sky.models import find_model
from melange_sky.profiles import engine_generation
from melange_sky.profiles.simulated import simulated_cell
from melange_sky.slo import SLO
from melange_sky.steps import ReplicaModel, RequestSizes, capacity_estimate, replica_model

TOLERANCE = 0.06
"""The search brackets a rate to a few percent, by streams of random arrivals."""

GENERATION = engine_generation("vllm")
MODELS = {name: find_model(name) for name in ("meta-llama/Llama-3.1-8B", "openai/gpt-oss-20b")}
CARDS = ("A10G", "A100-80GB", "H100")

cases = st.tuples(
    st.sampled_from(sorted(MODELS)),
    st.sampled_from(CARDS),
    st.integers(50, 6000),
    st.integers(20, 600),
    st.sampled_from([0.04, 0.06, 0.1, 0.2]),
)


def replica_on(card, model):
    replica = replica_model(model, card, 1, GENERATION)
    return replica if isinstance(replica, ReplicaModel) else None


def rate_of(replica, prompt, answer, slo):
    load = RequestSizes(
        input_tokens=np.array([float(prompt)]), output_tokens=np.array([float(answer)])
    )
    guess = float(capacity_estimate(replica, load, slo).rate_rps[0])
    return simulated_cell(replica, (prompt, answer), slo, guess).max_rate_rps or 0.0


def assert_no_less(better, worse):
    assert better >= worse * (1 - TOLERANCE)


@pytest.mark.parametrize("better", ["slo", "bandwidth", "flops", "memory", "prompt"])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(case=cases)
def test_what_is_better_never_gives_less(better, case) -> None:
    name, card_name, prompt, answer, tpot_s = case
    card, model = accelerator_table()[card_name], MODELS[name]
    slo = SLO(tpot_s=tpot_s, ttft_s=3.0, attainment=0.95)
    replica = replica_on(card, model)
    if replica is None:
        return
    rate, gained = rate_of(replica, prompt, answer, slo), None
    if better == "slo":
        gained = rate_of(replica, prompt, answer, dataclasses.replace(slo, tpot_s=tpot_s * 1.5))
    elif better == "bandwidth":
        card = dataclasses.replace(card, bandwidth_gbps=card.bandwidth_gbps * 1.3)
        gained = rate_of(replica_on(card, model), prompt, answer, slo)
    elif better == "flops":
        card = dataclasses.replace(card, dense_tflops=card.dense_tflops * 1.3)
        gained = rate_of(replica_on(card, model), prompt, answer, slo)
    elif better == "memory":
        pool = dataclasses.replace(replica.pool, blocks=int(replica.pool.blocks * 1.3))
        gained = rate_of(dataclasses.replace(replica, pool=pool), prompt, answer, slo)
    else:
        gained = rate_of(replica, max(1, prompt * 2 // 3), answer, slo)
    assert_no_less(gained, rate)
