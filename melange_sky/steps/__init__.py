"""The engine model: how long a step of a replica takes and what its KV cache holds."""

from melange_sky.steps.estimate import Estimate, RequestSizes, capacity_estimate, capacity_estimates
from melange_sky.steps.generation import Efficiency, ErrorBand, Generation, Overheads, Schedule
from melange_sky.steps.memory import Misfit, kv_pool, layout_of, usable_bytes
from melange_sky.steps.pool import BlockLayout, KvPool, WindowBlocks, block_layout
from melange_sky.steps.replica import ReplicaModel, replica_model
from melange_sky.steps.saturation import knee_batch
from melange_sky.steps.splits import holds, split_band, split_replica
from melange_sky.steps.times import StepCosts, WindowCosts, products_table, step_costs

__all__ = [
    "BlockLayout",
    "Efficiency",
    "ErrorBand",
    "Estimate",
    "Generation",
    "KvPool",
    "Misfit",
    "Overheads",
    "ReplicaModel",
    "RequestSizes",
    "Schedule",
    "StepCosts",
    "WindowBlocks",
    "WindowCosts",
    "block_layout",
    "capacity_estimate",
    "capacity_estimates",
    "holds",
    "knee_batch",
    "kv_pool",
    "layout_of",
    "products_table",
    "replica_model",
    "split_band",
    "split_replica",
    "step_costs",
    "usable_bytes",
]
