"""Engines of a replica whose GPUs share a model otherwise than by tensor parallelism alone.

Simple laws, from assumptions and not from measurements; their error bands are wider for that.

A pipeline of p stages works on p batches in turn (GPipe's schedule, arXiv 1811.06965, with decoding
steps for microbatches). Each batch passes all layers, so that its steps take as long as those of one
tensor group that holds the whole model, and p batches are under way at once. So the pipeline is
simulated as p engines, each with a p-th of the cache. The longest stage sets the pace; every stage but
the last hands the hidden states and the residual of each token on. Batches keep their order: all wait
for the one that takes longest.

Where experts are spread over d engines, each engine holds the attention and the dense layers itself
and works on sequences of its own, and all wait for each other in every layer with experts (idle ones
run along). So one of them is simulated, on the assumption that the others carry as
many tokens: experts are read for the tokens of all, and each token of an engine stands for d on the
links, where every engine gathers the tokens of all and gives back what its experts made of them.

Prompts come unevenly: while one batch or engine computes a prompt, half of the others are taken to do
so too and the rest to wait.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from melange_sky.models.layer_group import NO_WEIGHTS
from melange_sky.steps.bands import ErrorBand
from melange_sky.steps.memory import Misfit, kv_pool
from melange_sky.steps.replica import ReplicaModel, replica_model, replica_of
from melange_sky.steps.times import StepCosts, step_costs

if TYPE_CHECKING:
    from melange_sky.accelerators import AcceleratorSpec
    from melange_sky.models import ModelShape
    from melange_sky.models.layer_group import LayerGroup
    from melange_sky.parallelism import Parallelism
    from melange_sky.steps.generation import Generation

NETWORK_GBPS = 6.0
"""Assumed rate between the instances of a replica, in GB/s: half of 100 Gbit/s, without RDMA."""

NETWORK_LATENCY_S = 100e-6
"""Assumed latency of one message between instances, over TCP."""

VALUE_BYTES = 2.0
"""Bytes of an activation."""

PROMPT_WAIT = 2.0
"""Work on prompts counts so many times where others wait for it: half of them compute prompts at once."""

PIPELINE_BAND = (0.7, 1.3)
NODES_BAND = (0.6, 1.3)
SPREAD_BAND = (0.5, 1.3)
"""True ÷ estimated beyond the band of a tensor group: assumed, wider on the side that costs money."""


def split_replica(
    model: ModelShape, accelerator: AcceleratorSpec, split: Parallelism, generation: Generation
) -> ReplicaModel | Misfit:
    """Return one of the like engines that a replica's GPUs are simulated as, or a misfit.

    A replica is `split.simulated_engines` of them.
    """
    if split.step_together:
        return _one_of_many(model, accelerator, split, generation)
    if split.pipeline > 1:
        return _one_in_turn(model, accelerator, split, generation)
    return replica_model(model, accelerator, split.tensor, generation)


def holds(
    model: ModelShape, accelerator: AcceleratorSpec, split: Parallelism, generation: Generation
) -> bool:
    """Return whether the GPUs of a split hold the model and a cache."""
    part = _held_by_gpus(model, split)
    alone = split.engine_gpus == split.tensor and not split.step_together
    pool = kv_pool(part, accelerator, split.tensor, generation, alone=alone)
    return not isinstance(pool, Misfit)


def split_band(band: ErrorBand, split: Parallelism) -> ErrorBand:
    """Return the error band of a split, given that of tensor groups."""
    low, high, words = 1.0, 1.0, []
    if split.pipeline > 1:
        low, high = PIPELINE_BAND if split.nodes == 1 else NODES_BAND
        words.append("pipeline stages" if split.nodes == 1 else "stages over several instances")
    if split.step_together:
        low, high = SPREAD_BAND
        words.append("experts spread over engines that step together")
    if not words:
        return band
    basis = f"{band.basis}; {words[0]}: assumed, not measured"
    return ErrorBand(low=band.low * low, high=band.high * high, basis=basis)


def _held_by_gpus(model: ModelShape, split: Parallelism) -> ModelShape:
    """Return the part of a model that one tensor group of a split holds."""
    if split.step_together:
        return _with_spread_experts(model, split.data)
    return model if split.pipeline == 1 else fullest_stage(model, split.pipeline)


def fullest_stage(model: ModelShape, stages: int) -> ModelShape:
    """Return the stage that holds most: its layers, and what is larger of the embeddings and the head.

    Kinds of layers need not lie evenly: a stage may hold one of each kind more than its share.
    """
    longest = longest_stage(model, stages)
    groups = tuple(
        dataclasses.replace(group, count=_most_of(group, model, longest)) for group in model.groups
    )
    if model.lookup.bytes + model.towers.bytes > model.head.bytes:
        return dataclasses.replace(model, groups=groups, head=NO_WEIGHTS)
    return dataclasses.replace(model, groups=groups, lookup=NO_WEIGHTS, towers=NO_WEIGHTS)


def longest_stage(model: ModelShape, stages: int) -> int:
    """Return the layers of the longest stage."""
    return -(-model.layers // stages)


def _most_of(group: LayerGroup, model: ModelShape, longest: int) -> int:
    if len(model.groups) == 1:
        return longest
    share = -(-group.count * longest // model.layers)
    return min(share + 1, group.count, longest)


def _with_spread_experts(model: ModelShape, engines: int) -> ModelShape:
    """Return the model with that part of its experts which the GPUs of one engine hold."""

    def part(group: LayerGroup) -> LayerGroup:
        experts, sizes = group.experts, group.expert_sizes
        fewer = dataclasses.replace(
            experts,
            linear_bytes=experts.linear_bytes / engines,
            plain_bytes=experts.plain_bytes / engines,
        )
        whole = None if sizes is None else dataclasses.replace(sizes, whole=True)
        return dataclasses.replace(group, experts=fewer, expert_sizes=whole)

    return dataclasses.replace(model, groups=tuple(part(group) for group in model.groups))


def _one_in_turn(
    model: ModelShape, accelerator: AcceleratorSpec, split: Parallelism, generation: Generation
) -> ReplicaModel | Misfit:
    stages = split.pipeline
    stage = fullest_stage(model, stages)
    pool = kv_pool(stage, accelerator, split.tensor, generation, alone=False)
    if isinstance(pool, Misfit):
        return Misfit(missing_bytes=pool.missing_bytes * stages)
    costs = _stretched(
        step_costs(model, accelerator, split.tensor, generation),
        longest_stage(model, stages) * stages / model.layers,
        generation.overheads.step_s,
    )
    handed = 2 * model.hidden_size * VALUE_BYTES  # hidden states and residual of a token
    within, between = stages - split.nodes, split.nodes - 1
    latency_s, rate = _within_instance(accelerator, generation)
    costs = costs._replace(
        fixed_s=costs.fixed_s + within * latency_s + between * NETWORK_LATENCY_S,
        token_link_s=costs.token_link_s
        + handed * (within / (rate * split.tensor) + between / (NETWORK_GBPS * 1e9)),
    )
    share = dataclasses.replace(pool, blocks=pool.blocks // stages)
    engine = replica_of(costs, share, model, accelerator, generation)
    return _waited_for(engine, costs.token_flops_s + costs.expert_token_s)


def _stretched(costs: StepCosts, factor: float, step_s: float) -> StepCosts:
    """Return the costs of a pass whose every stage takes as long as the longest one."""
    return costs._replace(
        fixed_s=step_s + (costs.fixed_s - step_s) * factor,
        weights_s=costs.weights_s * factor,
        experts_s=costs.experts_s * factor,
        token_flops_s=costs.token_flops_s * factor,
        token_link_s=costs.token_link_s * factor,
        expert_token_s=costs.expert_token_s * factor,
        link_s=costs.link_s * factor,
        link_token_s=costs.link_token_s * factor,
        kv_token_s=costs.kv_token_s * factor,
        pair_s=costs.pair_s * factor,
        prompts_s=costs.prompts_s * factor,
        windows=tuple(
            w._replace(kv_token_s=w.kv_token_s * factor, pair_s=w.pair_s * factor)
            for w in costs.windows
        ),
    )


def _one_of_many(
    model: ModelShape, accelerator: AcceleratorSpec, split: Parallelism, generation: Generation
) -> ReplicaModel | Misfit:
    engines, gpus = split.data, split.gpus
    part = _with_spread_experts(model, engines)
    pool = kv_pool(part, accelerator, split.tensor, generation, alone=False)
    if isinstance(pool, Misfit):
        return Misfit(missing_bytes=pool.missing_bytes * engines)
    # from the whole model: a part's bytes over all its weights would pass for another format
    costs = step_costs(model, accelerator, split.tensor, generation)
    exchanges = 2 * model.total(lambda group: int(group.routed > 0))
    gathered = exchanges * (gpus - 1) / gpus * engines * model.hidden_size * VALUE_BYTES
    if split.nodes > 1:
        latency_s, rate = NETWORK_LATENCY_S, NETWORK_GBPS * 1e9
    else:
        latency_s, rate = _within_instance(accelerator, generation)
    shared = costs._replace(
        fixed_s=costs.fixed_s + exchanges * latency_s * math.log2(gpus),
        experts_s=costs.experts_s / engines,
        expert_miss=costs.expert_miss**engines,
        token_link_s=costs.token_link_s + gathered / rate,
    )
    engine = replica_of(shared, pool, model, accelerator, generation)
    return _waited_for(engine, costs.token_flops_s)


def _waited_for(engine: ReplicaModel, token_flops_s: float) -> ReplicaModel:
    """Return an engine whose work on prompts others wait for, as it waits for theirs."""
    costs = engine.costs
    return dataclasses.replace(
        engine,
        costs=costs._replace(
            pair_s=costs.pair_s * PROMPT_WAIT,
            windows=tuple(w._replace(pair_s=w.pair_s * PROMPT_WAIT) for w in costs.windows),
        ),
        prompt_token_s=(PROMPT_WAIT - 1.0) * token_flops_s,
    )


def _within_instance(accelerator: AcceleratorSpec, generation: Generation) -> tuple[float, float]:
    """Return (seconds of one message, bytes/s) between two GPUs of an instance."""
    rate, overheads = accelerator.interconnect_gbps * 1e9, generation.overheads
    measured = generation.links.get(accelerator.links)
    if measured:
        one = measured[min(measured)]
        return one.latency_s, rate * one.fraction
    nvlink = accelerator.links == "nvlink"
    latency_s = overheads.allreduce_nvlink_s if nvlink else overheads.allreduce_pcie_s
    return latency_s, rate * overheads.interconnect
