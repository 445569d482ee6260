"""The plan: data only, and all that rendering, simulating, explaining and reporting need."""

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
from melange_sky.plans.replica_bounds import ElasticBounds, cost_range, elastic_bounds, plan_bounds
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
