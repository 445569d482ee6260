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
from melange_sky.plans.plan import SCHEMA_VERSION, ModelPlan, Plan, PlanWarning
from melange_sky.plans.verification import LateSize, Verification, VerificationRound

__all__ = [
    "SCHEMA_VERSION",
    "Allocation",
    "AlternativeMix",
    "Baseline",
    "ByteCheck",
    "CurrentFleet",
    "ExpectedMiss",
    "FormGain",
    "LateSize",
    "ModelForm",
    "ModelPlan",
    "ModelSource",
    "Plan",
    "PlanWarning",
    "RateSummary",
    "Sensitivity",
    "SolverReport",
    "Verification",
    "VerificationRound",
    "VerifiedBaseline",
]
