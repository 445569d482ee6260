"""Capacity tables and estimates behind one question: what does this replica carry?"""

from melange_sky.profiles.constants import engine_generation, engine_generations
from melange_sky.profiles.lookup import CapacityLookup, engine_replica, replica_capacities
from melange_sky.profiles.measured import has_weights, is_of, is_usable, table_notes
from melange_sky.profiles.query import CapacityQuery, ReplicaCapacity, ReplicaShape
from melange_sky.profiles.shipped import write_table
from melange_sky.profiles.splits import (
    enough_nodes,
    holding,
    nearest_split,
    refused_splits,
    sensible_splits,
)
from melange_sky.profiles.to_ship import tables_to_ship

__all__ = [
    "CapacityLookup",
    "CapacityQuery",
    "ReplicaCapacity",
    "ReplicaShape",
    "engine_generation",
    "engine_generations",
    "engine_replica",
    "enough_nodes",
    "has_weights",
    "holding",
    "is_of",
    "is_usable",
    "nearest_split",
    "refused_splits",
    "replica_capacities",
    "sensible_splits",
    "table_notes",
    "tables_to_ship",
    "write_table",
]
