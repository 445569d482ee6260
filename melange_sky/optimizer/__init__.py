"""Which instances, how many, and who serves what: exact, with reasons.

Pure functions of their input: no file, network, clock-dependent choice or global state.
"""

from melange_sky.constraints import Constraints, Pledge, SpotPolicy
from melange_sky.optimizer.baseline import baselines
from melange_sky.optimizer.least import Least, least_cost
from melange_sky.optimizer.problem import (
    Alternative,
    Demand,
    Problem,
    Robustness,
    Solution,
    SolveOptions,
    StayClose,
)
from melange_sky.optimizer.solve import optimize

__all__ = [
    "Alternative",
    "Constraints",
    "Demand",
    "Least",
    "Pledge",
    "Problem",
    "Robustness",
    "Solution",
    "SolveOptions",
    "SpotPolicy",
    "StayClose",
    "baselines",
    "least_cost",
    "optimize",
]
