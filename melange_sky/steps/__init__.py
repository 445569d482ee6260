"""The engine model: how long a step of a replica takes and what its KV cache holds."""

from melange_sky.steps.bands import REGIMES, BandClass, ErrorBand, Regime, regime_of
from melange_sky.steps.estimate import Estimate, capacity_estimate, capacity_estimates_within
from melange_sky.steps.generation import (
    AllReduce,
    Efficiency,
    Generation,
    Overheads,
    Products,
    Schedule,
)
from melange_sky.steps.memory import Misfit, kv_pool, layout_of, usable_bytes
from melange_sky.steps.pool import BlockLayout, KvPool, WindowBlocks, block_layout
from melange_sky.steps.replica import ReplicaModel, replica_model
from melange_sky.steps.request_sizes import RequestSizes
from melange_sky.steps.saturation import knee_batch
from melange_sky.steps.scales import Scales
from melange_sky.steps.splits import NETWORK_GBPS, holds, split_band, split_replica
from melange_sky.steps.times import StepCosts, WindowCosts, products_table, step_costs

__all__ = [
    "NETWORK_GBPS",
    "REGIMES",
    "AllReduce",
    "BandClass",
    "BlockLayout",
    "Efficiency",
    "ErrorBand",
    "Estimate",
    "Generation",
    "KvPool",
    "Misfit",
    "Overheads",
    "Products",
    "Regime",
    "ReplicaModel",
    "RequestSizes",
    "Scales",
    "Schedule",
    "StepCosts",
    "WindowBlocks",
    "WindowCosts",
    "block_layout",
    "capacity_estimate",
    "capacity_estimates_within",
    "holds",
    "knee_batch",
    "kv_pool",
    "layout_of",
    "products_table",
    "regime_of",
    "replica_model",
    "split_band",
    "split_replica",
    "step_costs",
    "usable_bytes",
]
