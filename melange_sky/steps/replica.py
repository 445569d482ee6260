"""One replica as the simulator takes it: step costs, KV cache and batching limits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.steps.memory import Misfit, kv_pool, large_memory
from melange_sky.steps.times import StepCosts, step_costs

if TYPE_CHECKING:
    from melange_sky.accelerators import AcceleratorSpec
    from melange_sky.models import ModelShape
    from melange_sky.steps.generation import Generation
    from melange_sky.steps.pool import KvPool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaModel:
    """One engine (one tensor-parallel group) of a replica.

    A replica with data parallelism d is d such engines that share its requests evenly. `request_s` is
    the time that a request spends outside the engine's steps (HTTP, tokenising, network), which its
    client sees in TTFT; open-loop simulations add it, data sheets do not know it. `prompt_token_s` is
    what each token of a prompt costs besides its products, where other engines wait for it.
    """

    costs: StepCosts
    pool: KvPool
    chunked: bool
    budget_tokens: int
    max_num_seqs: int
    watermark_blocks: int
    reserve_tokens: int
    wait_steps: int = 0
    waiting_ratio: float = 0.0
    request_s: float = 0.0
    prompt_token_s: float = 0.0

    def with_max_num_seqs(self, sequences: int) -> ReplicaModel:
        """Return the same engine with `--max-num-seqs` set."""
        return dataclasses.replace(self, max_num_seqs=sequences)


def replica_model(
    model: ModelShape, accelerator: AcceleratorSpec, tensor_parallel: int, generation: Generation
) -> ReplicaModel | Misfit:
    """Return the engine of `model` on `tensor_parallel` GPUs with the generation's default limits, or a misfit."""
    pool = kv_pool(model, accelerator, tensor_parallel, generation)
    if isinstance(pool, Misfit):
        return pool
    costs = step_costs(model, accelerator, tensor_parallel, generation)
    return replica_of(costs, pool, model, accelerator, generation)


def replica_of(
    costs: StepCosts,
    pool: KvPool,
    model: ModelShape,
    accelerator: AcceleratorSpec,
    generation: Generation,
) -> ReplicaModel:
    """Return the engine with such steps and such a cache, and the generation's default limits."""
    schedule = generation.schedule
    large = large_memory(accelerator)
    return ReplicaModel(
        costs=costs,
        pool=pool,
        chunked=schedule.chunked,
        budget_tokens=schedule.budget(large, model.context_tokens),
        max_num_seqs=schedule.sequences(large),
        watermark_blocks=int(pool.parts * schedule.watermark_fraction),
        reserve_tokens=schedule.reserve_tokens,
        wait_steps=schedule.wait_steps,
        waiting_ratio=schedule.waiting_ratio,
        request_s=generation.overheads.request_s,
    )
