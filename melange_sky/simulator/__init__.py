"""Simulate replicas of the engine model, event by event, to request records."""

from melange_sky.simulator.runs import (
    FleetSimulation,
    RequestStream,
    Router,
    simulate_closed_loop,
    simulate_fleet,
    simulate_replica,
)

__all__ = [
    "FleetSimulation", "RequestStream", "Router", "simulate_closed_loop", "simulate_fleet",
    "simulate_replica",
]  # fmt: skip
