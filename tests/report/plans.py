"""Plans whose reports are read: the examples, one with everything that a replay adds, one of hostile names."""

from __future__ import annotations

from functools import cache

from melange_sky.planner.planning import PlanOptions, plan_source
from melange_sky.plans import (
    Allocation,
    Baseline,
    LateSize,
    Plan,
    PlanWarning,
    Sensitivity,
    Verification,
    VerificationRound,
    VerifiedBaseline,
)
from tests.cli.runner import ROOT
from tests.factories import make_capacity, make_model_plan, make_offer, make_option, make_plan

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b[31m\x00\u202egnp.\u2066 שלום "
    + "x" * 200
)


@cache
def example(name: str) -> Plan:
    return plan_source(ROOT / "examples" / name, PlanOptions(offline=True))


def replayed(**over: object) -> Plan:
    """A plan with everything that a replay adds."""
    verification = Verification(
        holds=True,
        reason=None,
        traffic="Poisson arrivals",
        requests=19256,
        attainment=0.97738,
        low=0.96361,
        high=0.98602,
        premium_usd_per_hour=-2.8671,
        rounds=(
            VerificationRound(
                cost_usd_per_hour=9.8123,
                fleet="1 × L4:1",
                attainment=0.4321,
                low=0.41,
                high=0.4511,
                derated=(("L4:1", 0.8123),),
            ),
        ),
        seeds=(7, 11, 13),
        late=(LateSize(i=0, j=1, requests=431, missed=17, ttft_p50_s=1.2345, ttft_p95_s=3.4567),),
    )
    baselines = (
        Baseline(
            accelerator="H100",
            feasible=True,
            reason=None,
            instances=23,
            cost_usd_per_hour=158.243,
            saving_fraction=0.9123,
            shape="H100:1",
            verified=VerifiedBaseline(
                instances=19,
                cost_usd_per_hour=130.731,
                attainment=0.9612,
                saving_fraction=0.8876,
                shape="H100:1",
            ),
        ),
        Baseline(
            accelerator="L4",
            feasible=False,
            reason="too slow",
            instances=None,
            cost_usd_per_hour=None,
            saving_fraction=None,
        ),
    )
    model = make_model_plan(baselines=baselines, verification=verification)
    values = {
        "models": (model,),
        "sensitivity": Sensitivity(low_usd_per_hour=0.7511, high_usd_per_hour=None),
    }
    return make_plan(**{**values, **over})


def hostile() -> Plan:
    option = make_option(
        HOSTILE,
        accelerator=HOSTILE,
        offer=make_offer(instance_type=HOSTILE, region=HOSTILE, source=HOSTILE),
    )
    whole = ((1.0, 1.0), (1.0, 0.0))
    allocation = Allocation(
        candidate=make_capacity([[4.0, 3.0], [2.0, 1.0]], option),
        instances=2,
        load_fraction=0.5,
        rate_rps=3.5,
        shares=whole,
    )
    model = make_model_plan(name=HOSTILE, model=HOSTILE, allocations=(allocation,))
    return make_plan(
        name=HOSTILE,
        models=(model,),
        warnings=(PlanWarning(code=HOSTILE, message=HOSTILE),),
        sensitivity=Sensitivity(
            low_usd_per_hour=1.0,
            high_usd_per_hour=2.0,
            measure=HOSTILE,
            measure_size=HOSTILE,
            command=HOSTILE,
        ),
    )


PLANS = {
    "one model": lambda: example("chat.yaml"),
    "several models": lambda: example("several-models.yaml"),
    "spot and quotas": lambda: example("quotas-and-spot.yaml"),
    "forms": lambda: example("moe-fp8.yaml"),
    "replayed": replayed,
}
