"""The plan: data only, and all that rendering, simulating, explaining and reporting need.

Each part is loaded when it is first asked for: most plans are neither verified nor elastic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.exports import exported_from

if TYPE_CHECKING:
    from melange_sky.plans.allocations import Allocation, ExpectedMiss
    from melange_sky.plans.elastic import DOWNSCALE_DELAY_S, UPSCALE_DELAY_S, Elastic
    from melange_sky.plans.figures import (
        AlternativeMix,
        Baseline,
        CurrentFleet,
        FormGain,
        RateSummary,
        Sensitivity,
        SolverReport,
        VerifiedBaseline,
    )
    from melange_sky.plans.forms import ByteCheck, ModelForm, ModelSource
    from melange_sky.plans.guard import NO_GUARD, AllowedHours, GuardRails
    from melange_sky.plans.plan import SCHEMA_VERSION, ModelPlan, Plan, PlanWarning
    from melange_sky.plans.replica_bounds import (
        ElasticBounds,
        cost_range,
        elastic_bounds,
        plan_bounds,
    )
    from melange_sky.plans.reuse import OptionHits, PlannedReuse
    from melange_sky.plans.sky_fields import (
        FILLER_MEMORY,
        RESTARTING,
        SKY_KEYS,
        SkyFields,
        check_sky,
        is_given_at_launch,
        merged_with,
        place_of,
        reason_of,
        secret_names,
        sky_problems,
    )
    from melange_sky.plans.verification import LateSize, Verification, VerificationRound

_HOMES = {
    "Allocation": "allocations",
    "AllowedHours": "guard",
    "AlternativeMix": "figures",
    "Baseline": "figures",
    "ByteCheck": "forms",
    "CurrentFleet": "figures",
    "DOWNSCALE_DELAY_S": "elastic",
    "Elastic": "elastic",
    "ElasticBounds": "replica_bounds",
    "ExpectedMiss": "allocations",
    "FILLER_MEMORY": "sky_fields",
    "FormGain": "figures",
    "GuardRails": "guard",
    "LateSize": "verification",
    "ModelForm": "forms",
    "ModelPlan": "plan",
    "ModelSource": "forms",
    "NO_GUARD": "guard",
    "OptionHits": "reuse",
    "Plan": "plan",
    "PlanWarning": "plan",
    "PlannedReuse": "reuse",
    "RESTARTING": "sky_fields",
    "RateSummary": "figures",
    "SCHEMA_VERSION": "plan",
    "SKY_KEYS": "sky_fields",
    "Sensitivity": "figures",
    "SkyFields": "sky_fields",
    "SolverReport": "figures",
    "UPSCALE_DELAY_S": "elastic",
    "Verification": "verification",
    "VerificationRound": "verification",
    "VerifiedBaseline": "figures",
    "check_sky": "sky_fields",
    "cost_range": "replica_bounds",
    "elastic_bounds": "replica_bounds",
    "is_given_at_launch": "sky_fields",
    "merged_with": "sky_fields",
    "place_of": "sky_fields",
    "plan_bounds": "replica_bounds",
    "reason_of": "sky_fields",
    "secret_names": "sky_fields",
    "sky_problems": "sky_fields",
}
"""What is exported → the module that has it."""

__all__ = [
    "DOWNSCALE_DELAY_S",
    "FILLER_MEMORY",
    "NO_GUARD",
    "RESTARTING",
    "SCHEMA_VERSION",
    "SKY_KEYS",
    "UPSCALE_DELAY_S",
    "Allocation",
    "AllowedHours",
    "AlternativeMix",
    "Baseline",
    "ByteCheck",
    "CurrentFleet",
    "Elastic",
    "ElasticBounds",
    "ExpectedMiss",
    "FormGain",
    "GuardRails",
    "LateSize",
    "ModelForm",
    "ModelPlan",
    "ModelSource",
    "OptionHits",
    "Plan",
    "PlanWarning",
    "PlannedReuse",
    "RateSummary",
    "Sensitivity",
    "SkyFields",
    "SolverReport",
    "Verification",
    "VerificationRound",
    "VerifiedBaseline",
    "check_sky",
    "cost_range",
    "elastic_bounds",
    "is_given_at_launch",
    "merged_with",
    "place_of",
    "plan_bounds",
    "reason_of",
    "secret_names",
    "sky_problems",
]

__getattr__ = exported_from(__name__, _HOMES)
