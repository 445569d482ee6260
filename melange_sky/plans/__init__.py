"""The plan: data only, and all that rendering, simulating, explaining and reporting need."""

from melange_sky.plans.allocations import Allocation, ExpectedMiss
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
    "FILLER_MEMORY",
    "NO_GUARD",
    "RESTARTING",
    "SCHEMA_VERSION",
    "SKY_KEYS",
    "Allocation",
    "AllowedHours",
    "AlternativeMix",
    "Baseline",
    "ByteCheck",
    "CurrentFleet",
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
    "is_given_at_launch",
    "merged_with",
    "place_of",
    "reason_of",
    "secret_names",
    "sky_problems",
]
