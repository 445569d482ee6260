"""How the reasons for a plan are shown."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from melange_sky.optimizer import Termination
from melange_sky.report.plan_summary import shares_map, summary_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer import Explanation, OtherFleet, RobustReport
    from melange_sky.optimizer.answers.explanation import BucketReason, RulePrice
    from melange_sky.plans import Plan
    from melange_sky.report.plan_summary import SummaryView


class ReasonsView(Protocol):
    """Why a plan is what it is, see `planner.explaining.PlanReasons`."""

    @property
    def plan(self) -> Plan: ...
    @property
    def summary(self) -> SummaryView: ...
    @property
    def explanation(self) -> Explanation: ...
    @property
    def others(self) -> Sequence[OtherFleet]: ...
    @property
    def robustness(self) -> RobustReport | None: ...


def explanation_document(reasons: ReasonsView) -> dict[str, Any]:
    """Return the reasons for `explain --format json`."""
    summary: Any = reasons.summary
    return asdict(reasons.explanation) | {
        "summary": asdict(summary),
        "others": [asdict(other) for other in reasons.others],
        "robustness": asdict(reasons.robustness) if reasons.robustness else None,
    }


def explanation_text(
    reasons: ReasonsView, *, everything: bool = True, coloured: bool = False
) -> str:
    """Return the reasons for people: five lines, the map of shares, what rules and errors cost.

    With `everything` also each size with its options, how full each option is, and each accelerator alone.
    """
    plan, explanation = reasons.plan, reasons.explanation
    several = len(plan.models) > 1
    parts = [summary_text(plan, reasons.summary, explanation)]
    for model in plan.models:
        parts.append(f"{model.name}:\n" if several else "")
        parts[-1] += shares_map(model, coloured=coloured)
    if explanation.rules:
        lines = ["What each rule costs (solved again without it):"]
        lines += [f"  {rule.rule}: {_price_text(rule)}" for rule in explanation.rules]
        parts.append(_text(lines))
    if reasons.robustness or reasons.others:
        lines = [f"{other.kind}: {other.differs}" for other in reasons.others]
        parts.append(_text([*_robust_lines(reasons.robustness), *lines]))
    if everything:
        parts.append(_text(_all_lines(explanation, several)))
    return "\n".join(parts)


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _all_lines(explanation: Explanation, several: bool) -> list[str]:
    lines = ["Who serves what, and why ($ per million tokens of each option at full load):"]
    for bucket in explanation.buckets:
        lines += _bucket_lines(bucket, several)
    lines.append("Utilization (load ÷ capacity after headroom):")
    lines += [
        f"  {o.instances} x {o.option}: {o.fill_fraction:.1%}{' (full)' if o.binds else ''}"
        for o in explanation.options
    ]
    lines.append(
        f"Cost ${explanation.cost_usd_per_hour:.3f}/h; lower bound (fractional instances, no rules): ${explanation.bound_usd_per_hour:.3f}/h"
    )
    return [*lines, *explanation.savings]


def _bucket_lines(bucket: BucketReason, several: bool) -> list[str]:
    who = f"{bucket.model}: " if several else ""
    able = [c for c in bucket.choices if c.usd_per_million_tokens is not None]
    shown = [c for n, c in enumerate(able) if n < 3 or c.share > 0]
    lines = [f"  {who}{bucket.bucket} tokens, {bucket.rate_rps:.3g} req/s: {bucket.why}"]
    lines += [
        f"    {f'{c.share:6.1%}' if c.share else '      '}  ${c.usd_per_million_tokens:.3f}  {c.option}"
        for c in shown
    ]
    if len(able) > len(shown):
        lines.append(f"            and {len(able) - len(shown)} dearer options")
    return lines


def _price_text(rule: RulePrice) -> str:
    saved = (rule.saved_without_usd_per_hour, rule.saved_by_step_usd_per_hour)
    if saved == (None, None):
        return "unknown (time limit reached)"
    return f"{_money(saved[0])} if dropped; {_money(saved[1])} if you {rule.step}"


def _money(saved: float | None) -> str:
    if saved is None:
        return "unknown (time limit reached)"
    return f"saves ${saved:.3f}/h" if saved > 1e-6 else "saves nothing"


def _robust_lines(robust: RobustReport | None) -> list[str]:
    if robust is None:
        return []
    lines = [
        f"Within the price error this fleet costs ${robust.price_low_usd_per_hour:.3f} to ${robust.price_high_usd_per_hour:.3f}/h."
    ]
    if robust.status == Termination.LIMIT.value:
        return [
            *lines,
            f"The cost of withstanding the throughput error is unknown: {robust.reason}",
        ]
    if robust.protected_usd_per_hour is None:
        return [*lines, f"No fleet withstands the throughput error: {robust.reason}"]
    mix = ", ".join(f"{n} x {name}" for name, n in robust.protected)
    return [
        *lines,
        (
            f"Withstanding the throughput error costs ${robust.protected_usd_per_hour:.3f}/h, a premium of "
            f"${robust.premium_usd_per_hour:.3f}/h: {mix}"
        ),
    ]
