"""Simulate replicas of the engine model, event by event, to request records."""

from melange_sky.simulator.fit import (
    ScaleFit,
    fit_replica,
    fit_scales,
    median_latencies,
    predict_like,
)
from melange_sky.simulator.runs import (
    FleetSimulation,
    RequestStream,
    Router,
    simulate_closed_loop,
    simulate_fleet,
    simulate_replica,
)
from melange_sky.simulator.target import SimulatedTarget

__all__ = [
    "FleetSimulation",
    "RequestStream",
    "Router",
    "ScaleFit",
    "SimulatedTarget",
    "fit_replica",
    "fit_scales",
    "median_latencies",
    "predict_like",
    "simulate_closed_loop",
    "simulate_fleet",
    "simulate_replica",
]
