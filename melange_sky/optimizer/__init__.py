"""Which instances, how many, and who serves what: exact, with reasons.

`problem/` is what is to be solved, `program/` the rows and the solvers, `rules/` what a fleet keeps,
`search/` the way to whole instances, `answers/` what comes out. Imports run back along that line only.

Pure functions of their input and one clock: no file, network or global state. The clock is an
argument (`SolveOptions.deadline`) and decides one thing, when to stop; an answer that it cut short
says so (`Termination`, a gap, `Solution.unfinished`, `Conflict.is_minimal`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.constraints import Constraints, InstanceGroup, SpotPolicy
from melange_sky.exports import exported_from
from melange_sky.optimizer.answers.baseline import baselines
from melange_sky.optimizer.answers.lowest_cost import LeastCost, least_cost
from melange_sky.optimizer.answers.optimum import optimize
from melange_sky.optimizer.answers.planned import demand_of, problem_of
from melange_sky.optimizer.deadline import NEVER, Deadline, TimeUpError
from melange_sky.optimizer.problem.canonical import Unserved
from melange_sky.optimizer.problem.question import (
    Alternative,
    Demand,
    Problem,
    Robustness,
    Solution,
    SolveOptions,
    StayClose,
    Step,
)
from melange_sky.optimizer.program.termination import Termination
from melange_sky.optimizer.rules.registry import constraints_among, rules_of
from melange_sky.optimizer.search.levels import checked_levels as check_served

if TYPE_CHECKING:
    from melange_sky.optimizer.answers.conflict import Conflict
    from melange_sky.optimizer.answers.explanation import Explanation, explain
    from melange_sky.optimizer.answers.given_fleet import shared_out
    from melange_sky.optimizer.answers.neighbours import Neighbour, next_cheaper, next_simpler
    from melange_sky.optimizer.answers.rate_sweep import PriceStep, SweepPoint, sweep_rates
    from melange_sky.optimizer.answers.robustness import (
        OtherFleet,
        RobustReport,
        other_fleets,
        robust_report,
    )
    from melange_sky.optimizer.answers.traffic_split import TakenTraffic, taken_traffic

_HOMES = {
    "Conflict": "conflict",
    **dict.fromkeys(("Explanation", "explain"), "explanation"),
    "shared_out": "given_fleet",
    **dict.fromkeys(("Neighbour", "next_cheaper", "next_simpler"), "neighbours"),
    **dict.fromkeys(("PriceStep", "SweepPoint", "sweep_rates"), "rate_sweep"),
    **dict.fromkeys(("OtherFleet", "RobustReport", "other_fleets", "robust_report"), "robustness"),
    **dict.fromkeys(("TakenTraffic", "taken_traffic"), "traffic_split"),
}
"""What a plan does without, by its module: loaded when first used."""

__all__ = [
    "NEVER",
    "Alternative",
    "Conflict",
    "Constraints",
    "Deadline",
    "Demand",
    "Explanation",
    "InstanceGroup",
    "LeastCost",
    "Neighbour",
    "OtherFleet",
    "PriceStep",
    "Problem",
    "RobustReport",
    "Robustness",
    "Solution",
    "SolveOptions",
    "SpotPolicy",
    "StayClose",
    "Step",
    "SweepPoint",
    "TakenTraffic",
    "Termination",
    "TimeUpError",
    "Unserved",
    "baselines",
    "check_served",
    "constraints_among",
    "demand_of",
    "explain",
    "least_cost",
    "next_cheaper",
    "next_simpler",
    "optimize",
    "other_fleets",
    "problem_of",
    "robust_report",
    "rules_of",
    "shared_out",
    "sweep_rates",
    "taken_traffic",
]

__getattr__ = exported_from(__name__, {name: f"answers.{home}" for name, home in _HOMES.items()})
