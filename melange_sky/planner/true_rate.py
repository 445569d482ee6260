"""The factor that brings replayed traffic to the true mean rate of a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.planner.replay_loop.replay import rate_of_trace

if TYPE_CHECKING:
    from melange_sky.plans import Plan
    from melange_sky.spec import Spec
    from melange_sky.workload import Trace


def scale_to_mean(spec: Spec, planned: Plan, trace: Trace | None) -> float:
    """Return the factor for a trace, or for the sample of the planned workload where there is none.

    Raises InputError for a trace with several models.
    """
    if trace is None:
        if spec.lists_models:
            return 1.0
        summary, model = planned.models[0].rate_profile, planned.models[0]
        return 1.0 if summary is None else summary.mean_rps / model.workload.rate_rps
    if spec.lists_models:
        raise InputError(
            "--verify-trace holds one model's requests, but the spec has several models"
        )
    arrivals = spec.models[0].workload.arrivals
    mean_rps = spec.models[0].workload.rate_rps if arrivals is None else arrivals.mean_rps
    if arrivals is not None and arrivals.trace == trace:
        return 1.0
    return mean_rps / rate_of_trace(trace)
