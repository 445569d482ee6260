"""How a plan's verification by replay is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.plans import ModelPlan, Verification, VerificationRound


def verification_text(plan: ModelPlan) -> str:
    """Return what the replay said of a plan, one paragraph for people; empty where none ran."""
    verified = plan.verification
    if verified is None:
        return ""
    word = "Holds in replay" if verified.holds else "Does NOT hold in replay"
    text = (
        f"{word}: {verified.attainment:.2%} of {verified.requests} requests within the SLO "
        f"(95 % interval {verified.low:.2%} to {verified.high:.2%}, target {plan.slo.attainment:.4g}); "
        f"{verified.traffic}.\n"
    )
    if len(verified.seeds) > 1:
        text += f"The least of replays with {len(verified.seeds)} seeds; {_fleets(verified)}.\n"
    text += _premium_text(plan, verified)
    if verified.cut_short and verified.holds:
        text += "The search was cut short: a cheaper fleet may hold too (--verify-seconds).\n"
    return text + (f"Why: {verified.reason}\n" if verified.reason else "")


def _fleets(verified: Verification) -> str:
    fleets = {(one.fleet, one.cost_usd_per_hour) for one in verified.rounds}
    return f"{len(fleets)} fleets were replayed" if len(fleets) != 1 else "1 fleet was replayed"


def _premium_text(plan: ModelPlan, verified: Verification) -> str:
    """Say what replay changed of the cost."""
    premium = verified.premium_usd_per_hour
    before = plan.cost_usd_per_hour - premium
    share = abs(premium) / before if before > 0 else 0.0
    if premium > 0:
        return f"That costs ${premium:,.3f}/h ({share:.0%}) more than the plan before replay, which missed.\n"
    if premium < 0:
        return f"That costs ${-premium:,.3f}/h ({share:.0%}) less than the plan by estimate.\n"
    return ""


def round_text(one: VerificationRound) -> str:
    """Return one replayed fleet in a line."""
    return (
        f"replayed {one.fleet} at ${one.cost_usd_per_hour:,.3f}/h: {one.attainment:.1%} within the SLO "
        f"({one.low:.1%} to {one.high:.1%})"
    )
