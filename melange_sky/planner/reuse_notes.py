"""What a reader must know of a plan that counts on prefix caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.plans import PlanWarning

if TYPE_CHECKING:
    from melange_sky.plans import ModelPlan, OptionHits, Plan

CODE = "reuse"
FEW_HITS = 0.5
"""Replicas that find less than this part of what the best of a fleet find are spoken of."""

WORTH_TELLING = 0.05


def reuse_notes(plan: Plan) -> tuple[PlanWarning, ...]:
    """Return what each model's caches find, what affinity is worth, and which GPUs gain little from it."""
    notes: list[str] = []
    for model in plan.models:
        if model.reuse is not None:
            notes += [f"{model.name}: {text}" for text in _notes(model)]
    return tuple(PlanWarning(code=CODE, message=text) for text in notes)


def blind_note(model: ModelPlan, attainment: float, target: float) -> PlanWarning:
    """Return how a verified fleet does in the same replay where sessions are not kept together."""
    word = "would miss the target" if attainment < target else "holds too"
    message = (
        f"{model.name}: verified with session affinity (melange-sky gateway --affinity session); in the same replay "
        f"without it this fleet {word}: {attainment:.2%} of the requests within the SLO, target {target:.4g}"
    )
    return PlanWarning(code=CODE, message=message)


def _notes(model: ModelPlan) -> list[str]:
    reuse = model.reuse
    assert reuse is not None
    cost = model.cost_usd_per_hour
    instances = {a.candidate.option.name: a for a in model.allocations}
    found = "; ".join(
        f"{instances[h.option].instances} × {instances[h.option].candidate.option.shape} "
        f"{h.affinity:.0%} with session affinity, {h.blind:.0%} without"
        for h in reuse.hits
    )
    texts = [f"prefix caches find of the prompt tokens: {found} (simulated)"]
    if reuse.cold_usd_per_hour is not None:
        texts[0] += (
            f"; planned for prompts that find nothing it would cost ${reuse.cold_usd_per_hour:.2f}/h, not ${cost:.2f}/h"
        )
    if reuse.affinity != "off" and reuse.blind_usd_per_hour is not None:
        gain = reuse.blind_usd_per_hour - cost
        texts.append(
            f"the plan counts on session affinity (melange-sky gateway --affinity {reuse.affinity}), which is worth "
            f"${gain:.2f}/h here: without it ${reuse.blind_usd_per_hour:.2f}/h are needed"
            if gain > 0
            else f"session affinity saves no instance here; the plan was made for it (melange-sky gateway --affinity {reuse.affinity})"
        )
    return texts + _poor_caches(model, reuse.hits)


def _poor_caches(model: ModelPlan, hits: tuple[OptionHits, ...]) -> list[str]:
    """Say which of the options keep too little for sessions to come back to."""
    best = max(hits, key=lambda h: h.affinity, default=None)
    if best is None:
        return []
    engines = {a.candidate.option.name: a.candidate.option for a in model.allocations}
    texts = []
    for one in hits:
        if best.affinity - one.affinity < WORTH_TELLING or one.affinity > FEW_HITS * best.affinity:
            continue
        option, other = engines[one.option], engines[best.option]
        room = option.engine.kv_cache_tokens if option.engine else None
        held = "" if room is None else f", whose caches hold {room:,} tokens each"
        texts.append(
            f"{option.shape} find {one.affinity:.0%} where {other.shape} find {best.affinity:.0%}{held}: sessions "
            "placed there are computed anew at almost every turn; the more sessions are resent, the less such GPUs are worth "
            "mixing in"
        )
    return texts
