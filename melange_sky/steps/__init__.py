"""The engine model: how long a step of a replica takes and what its KV cache holds."""

from melange_sky.steps.estimate import Estimate, RequestSizes, capacity_estimate, capacity_estimates
from melange_sky.steps.generation import Efficiency, ErrorBand, Generation, Overheads, Schedule
from melange_sky.steps.memory import KvPool, Misfit, kv_pool, usable_bytes
from melange_sky.steps.replica import ReplicaModel, replica_model
from melange_sky.steps.saturation import knee_batch
from melange_sky.steps.times import StepCosts, products_table, step_costs, step_seconds

__all__ = [
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
    "capacity_estimate",
    "capacity_estimates",
    "knee_batch",
    "kv_pool",
    "products_table",
    "replica_model",
    "step_costs",
    "step_seconds",
    "usable_bytes",
]
