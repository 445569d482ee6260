"""Measure real endpoints: open-loop load, rate search per request size, tables with raw points."""

from melange_sky.profiler.endpoint import Endpoint, ServerPages
from melange_sky.profiler.grid import (
    GridOptions,
    GridReport,
    Progress,
    measure_grid,
    table_path,
)
from melange_sky.profiler.prompts import PromptStyle
from melange_sky.profiler.shared_prompts import found_in_a_load
from melange_sky.profiler.target import EndpointTarget, ServerFacts, check_endpoint

__all__ = [
    "Endpoint",
    "EndpointTarget",
    "GridOptions",
    "GridReport",
    "Progress",
    "PromptStyle",
    "ServerFacts",
    "ServerPages",
    "check_endpoint",
    "found_in_a_load",
    "measure_grid",
    "table_path",
]
