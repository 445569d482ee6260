"""What a plan saves against the best single accelerator, in a sentence that says by what."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.plans import CurrentFleet, ModelPlan


def saving_text(plan: ModelPlan) -> str:
    """Say the saving against the best single accelerator, also where there is none."""
    if plan.verification is not None:
        return _verified_saving(plan)
    best = min(
        (b for b in plan.baselines if b.cost_usd_per_hour is not None),
        key=lambda b: b.cost_usd_per_hour or 0.0,
        default=None,
    )
    if best is None:
        if any(b.feasible is None for b in plan.baselines):
            return (
                "Whether a single accelerator can serve this alone is unknown: raise --time-limit."
            )
        return "No single accelerator can serve this alone."
    saving = best.saving_fraction or 0.0
    if saving > 1e-6:
        unsure = best.reason or any(b.feasible is None for b in plan.baselines)
        at_most = "at least " if best.at_least else "at most " if unsure else ""
        return (
            f"Against the best single accelerator ({best.accelerator}) the mix saves {at_most}"
            f"{saving:.1%} by estimate; plan --verify sizes both by replay."
        )
    if best.at_least:
        return f"Whether {best.accelerator} alone costs more is not known; plan --verify sizes both by replay."
    if saving < -1e-6:
        return (
            f"{best.accelerator} alone costs less than this plan, which was not proven"
            " optimal in time: raise --time-limit."
        )
    return f"One type is the cheapest here: {best.accelerator} alone costs the same."


def _verified_saving(plan: ModelPlan) -> str:
    """Say the saving against the best single accelerator, both sized by the same replay."""
    assert plan.verification is not None
    held = [(b.verified, b.accelerator) for b in plan.baselines if b.verified is not None]
    if not plan.verification.holds:
        return "What the plan saves is not known: it does not hold in replay."
    if not held:
        return "No single accelerator was found to hold alone in replay."
    best, name = min(held, key=lambda pair: pair[0].cost_usd_per_hour)
    saving = best.saving_fraction or 0.0
    if saving > 1e-6:
        text = f"the mix saves {saving:.1%} against the best single accelerator ({name})"
    elif saving < -1e-6:
        text = f"{name} alone costs less, but not under all rules of the spec"
    else:
        text = f"one type is the cheapest here: {name} alone costs the same"
    return f"By the same replay {text}."


def current_text(current: CurrentFleet) -> str:
    """Return what the plan saves against what serves today, and whether that holds."""
    saves = current.saving_usd_per_hour
    word = "saves" if saves >= 0 else "costs more than that by"
    text = (
        f"Today's {current.fleet} at ${current.cost_usd_per_hour:,.3f}/h ({current.price} price): the plan "
        f"{word} ${abs(saves):,.3f}/h ({abs(current.saving_fraction):.1%})"
    )
    if current.holds is None:
        return text + "."
    shown = "" if current.attainment is None else f", {current.attainment:.2%} within the SLO"
    holds = "it holds" if current.holds else "it does NOT hold"
    return f"{text}; {holds} the SLO by {current.judged_by}{shown}."
