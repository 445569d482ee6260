"""Which instances, how many, and who serves what: exact, with reasons.

Pure functions of their input: no file, network, clock-dependent choice or global state.
"""

from melange_sky.constraints import Constraints, InstanceGroup, SpotPolicy
from melange_sky.optimizer.answers.baseline import baselines
from melange_sky.optimizer.answers.explanation import Explanation, explain, problem_of
from melange_sky.optimizer.answers.lowest_cost import Least, least_cost
from melange_sky.optimizer.answers.optimum import optimize
from melange_sky.optimizer.answers.rate_sweep import PriceStep, SweepPoint, sweep_rates
from melange_sky.optimizer.answers.robustness import (
    OtherFleet,
    RobustReport,
    other_fleets,
    robust_report,
)
from melange_sky.optimizer.problem.question import (
    Alternative,
    Demand,
    Problem,
    Robustness,
    Solution,
    SolveOptions,
    StayClose,
)
from melange_sky.optimizer.rules.registry import rules_of

__all__ = [
    "Alternative",
    "Constraints",
    "Demand",
    "Explanation",
    "InstanceGroup",
    "Least",
    "OtherFleet",
    "PriceStep",
    "Problem",
    "RobustReport",
    "Robustness",
    "Solution",
    "SolveOptions",
    "SpotPolicy",
    "StayClose",
    "SweepPoint",
    "baselines",
    "explain",
    "least_cost",
    "optimize",
    "other_fleets",
    "problem_of",
    "robust_report",
    "rules_of",
    "sweep_rates",
]
