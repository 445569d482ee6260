"""What replicas would find of prompts by the stack-distance curve, before any fleet is replayed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.engines import engine_named
from melange_sky.planner.hits import replica_with_cache
from melange_sky.planner.prepare import query_of
from melange_sky.planner.replay_loop.replay import NO_AFFINITY, sharing_stream
from melange_sky.prefixes import endless_tokens, reuse_of
from melange_sky.workload import bucket_places

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.capacities import OptionCapacity
    from melange_sky.plans import ModelPlan
    from melange_sky.profiles import CapacityQuery
    from melange_sky.reuse import Reuse

STEPS = 200
"""Fractions are planned with in steps of one part of so many, downwards."""

SAMPLED_REQUESTS = 10_000


def first_guesses(model: ModelPlan, affinity: str) -> dict[str, float]:
    """Return what replicas of each candidate would find by the stack-distance curve at the most.

    One that carries the part f of all traffic sees distances as many times shorter as that, where sessions stay
    with it; where requests go anywhere, the turn before was with it as seldom as that.
    """
    reuse = known_curve(model)
    guesses: dict[str, float] = {}
    for candidate in model.candidates:
        replica = replica_with_cache(_query(model, candidate), candidate.option)
        share = _part_of_traffic(model, candidate)
        if replica is None or share is None or candidate.option.engine is None:
            continue
        engines = candidate.option.engine.split.simulated_engines
        found = reuse.hit_fraction(replica.pool.tokens * engines / share)
        alike = min(reuse.shared_fraction, found)
        meets = 1.0 / engines
        if affinity == NO_AFFINITY:
            meets *= min(1.0, 2 * share)
        fraction = alike + (found - alike) * meets
        guesses[candidate.option.name] = math.floor(fraction * STEPS) / STEPS
    return guesses


def _query(model: ModelPlan, candidate: OptionCapacity) -> CapacityQuery:
    form, shape = model.form_of(candidate.option), model.shape_of(candidate.option)
    assert shape is not None
    generation = model.engine_generation or engine_named(model.engine.name).generation
    return query_of(model, shape, model.engine, generation, form.quantization if form else None)


def _part_of_traffic(model: ModelPlan, candidate: OptionCapacity) -> float | None:
    """Return the part of all requests that one replica carries of what it can serve, None for none."""
    load = total = 0.0
    for i, j in model.workload.buckets():
        rate, capacity = model.workload.rates_rps[i][j], candidate.cells[i][j].largest_rps
        if capacity:
            load += rate / capacity
            total += rate
    return min(1.0, total / load / model.workload.rate_rps) if load > 0 else None


def known_curve(model: ModelPlan) -> Reuse:
    """Return a workload's reuse with its curve; where sessions are stated, that of a sample of them."""
    reuse = model.workload.reuse
    assert reuse is not None
    if reuse.stack_distance:
        return reuse
    stream = sharing_stream(model, SAMPLED_REQUESTS, 0)
    assert stream.prefixes is not None
    return reuse_of(
        stream.prefixes,
        stream.input_tokens,
        stream.output_tokens,
        told_by_tokens=stream.prefixes.block_tokens,
        source=reuse.source,
    )


def profile_by_input(model: ModelPlan, seed: int) -> NDArray[np.float64]:
    """Return, of each input bucket, what an endless cache finds of its prompts against what it finds of all.

    Later turns of a session are longer and find more. Shape (input buckets,).
    """
    stream = sharing_stream(model, SAMPLED_REQUESTS, seed)
    edges, asked_tokens = model.workload.input_edges, stream.input_tokens
    assert stream.prefixes is not None
    found = endless_tokens(stream.prefixes, asked_tokens, stream.output_tokens)
    row = bucket_places(edges, asked_tokens)
    asked = np.bincount(row, weights=asked_tokens, minlength=len(edges) - 1)
    had = np.bincount(row, weights=found, minlength=len(edges) - 1)
    overall = max(float(had.sum() / max(asked.sum(), 1.0)), 1e-9)
    profile: NDArray[np.float64] = had / np.maximum(asked, 1.0) / overall
    return profile
