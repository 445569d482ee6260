"""Capacity tables and estimates behind one question: what does this replica carry?"""

from melange_sky.profiles.constants import engine_generation, engine_generations
from melange_sky.profiles.embedded import write_table
from melange_sky.profiles.model_files import load_model
from melange_sky.profiles.own_tables import is_of, is_usable, table_notes
from melange_sky.profiles.query import CapacityQuery, ReplicaCapacity, ReplicaShape
from melange_sky.profiles.replicas import (
    embedded_tables,
    engine_replica,
    replica_capacities,
    sensible_splits,
)

__all__ = [
    "CapacityQuery",
    "ReplicaCapacity",
    "ReplicaShape",
    "embedded_tables",
    "engine_generation",
    "engine_generations",
    "engine_replica",
    "is_of",
    "is_usable",
    "load_model",
    "replica_capacities",
    "sensible_splits",
    "table_notes",
    "write_table",
]
