"""What `prices diff` prints: moved prices, and a saved plan at today's prices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import echo_json
from melange_sky.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.planner.reprice import Repriced, RepricedAllocation
    from melange_sky.plans import Plan
    from melange_sky.pricing.cross_check import Disagreement
    from melange_sky.pricing.diff import Change, Difference


def echo_diff(difference: Difference, min_change: float, output_format: str) -> None:
    """Print the moved prices as a table or JSON; unknown changes (came, went) are always shown."""
    changes = [
        c
        for c in difference.changes
        if c.change_fraction is None or abs(c.change_fraction) >= min_change
    ]
    if output_format == "json":
        echo_json(
            {
                "before": difference.before,
                "after": difference.after,
                "changes": [_change_row(change) for change in changes],
                "clouds_added": list(difference.clouds_added),
                "clouds_removed": list(difference.clouds_removed),
            }
        )
        return
    click.echo(f"from {difference.before} to {difference.after}: {len(changes)} prices moved")
    for change in changes:
        c = change
        name = f"{c.accelerator}:{c.accelerator_count:g}"
        kind = "spot" if c.price == "spot" else "on demand"
        flags = f"  kept out: {' '.join(c.flags)}" if c.flags else ""
        click.echo(
            f"{name:<16}{c.cloud}/{c.region} {c.instance_type}, {kind}: "
            f"{_money(c.before_usd_per_hour)} -> {_money(c.after_usd_per_hour)} $/h"
            f"{_percent(c.change_fraction)}{flags}"
        )
    for clouds, what in (
        (difference.clouds_added, "new in the second snapshot"),
        (difference.clouds_removed, "only in the first snapshot"),
    ):
        if clouds:
            click.echo(f"{what}: {', '.join(clouds)}")


def _change_row(change: Change) -> dict[str, Any]:
    return {
        "cloud": change.cloud,
        "region": change.region,
        "instance_type": change.instance_type,
        "accelerator": change.accelerator,
        "accelerator_count": None if change.accelerator_count < 0 else change.accelerator_count,
        "price": change.price,
        "before_usd_per_hour": change.before_usd_per_hour,
        "after_usd_per_hour": change.after_usd_per_hour,
        "change_fraction": change.change_fraction,
        "flags": list(change.flags),
    }


def echo_check(compared: int, found: Sequence[Disagreement], output_format: str) -> None:
    """Print the prices on which a second catalog disagrees."""
    if output_format == "json":
        rows = [
            {
                "cloud": row.offer.cloud,
                "region": row.offer.region,
                "instance_type": row.offer.instance_type,
                "price": row.kind,
                "usd_per_hour": row.ours_usd_per_hour,
                "second_usd_per_hour": row.theirs_usd_per_hour,
                "difference_fraction": row.difference_fraction,
                "source": row.offer.source,
            }
            for row in found
        ]
        echo_json({"compared": compared, "disagreements": rows})
        return
    click.echo(f"{compared} prices compared, {len(found)} disagree")
    for row in found:
        kind = "spot" if row.kind == "spot" else "on demand"
        click.echo(
            f"{row.offer.cloud}/{row.offer.region} {row.offer.instance_type}, {kind}: "
            f"{_money(row.ours_usd_per_hour)} here, {_money(row.theirs_usd_per_hour)} $/h in gpuhunt"
            f"{_percent(row.difference_fraction)}"
        )


def _money(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f" ({fraction:+.1%})"


def diff_plan(
    plan_json: Path, spec: Path | None, offers_csv: Path | None, output_format: str
) -> None:
    """Print what a saved plan costs at the newest prices and whether another mix is cheaper."""
    # the planner is not wanted by the other price commands
    from melange_sky.planfile import load_plan
    from melange_sky.planner.reprice import reprice
    from melange_sky.pricing import OfferQuery, load_offers
    from melange_sky.pricing.names import KNOWN_CLOUDS

    planned = load_plan(plan_json)
    clouds = _clouds(planned)
    query = OfferQuery(
        infra=tuple((c, None) for c in clouds if c in KNOWN_CLOUDS),
        offline=True,
        offers_csv=offers_csv,
    )
    book = load_offers(query)
    for warning in book.warnings:
        click.echo(f"warning: {warning.message}", err=True)
    repriced = reprice(planned, book.offers)
    anew = _planned_anew(spec, offers_csv) if spec is not None else None
    document = _plan_document(planned, repriced, anew, book.snapshot)
    if output_format == "json":
        echo_json(document)
    else:
        _echo_plan(planned, repriced, document)


def _clouds(planned: Plan) -> tuple[str, ...]:
    offers = [c.option.offer for m in planned.models for c in m.candidates]
    if not any(offers):
        raise InputError("the plan's prices were given by a Mélange config: nothing can move")
    return tuple(dict.fromkeys(offer.cloud for offer in offers if offer is not None))


def _planned_anew(spec: Path, offers_csv: Path | None) -> Plan:
    from melange_sky.planner import PlanRequest, plan_spec
    from melange_sky.pricing import OfferQuery

    query = OfferQuery(offline=True, offers_csv=offers_csv)
    return plan_spec(spec, PlanRequest(prices=query, sensitivity=False))


def _plan_document(
    planned: Plan,
    repriced: Repriced,
    anew: Plan | None,
    snapshot: str | None,
) -> dict[str, Any]:
    best = repriced.best_usd_per_hour if anew is None else anew.cost_usd_per_hour
    now = repriced.now_usd_per_hour
    return {
        "name": planned.name,
        "planned_at": planned.created_at,
        "snapshot": snapshot,
        "planned_usd_per_hour": repriced.planned_usd_per_hour,
        "now_usd_per_hour": now,
        "change_fraction": None if now is None else now / repriced.planned_usd_per_hour - 1,
        "allocations": [_allocation_row(row) for row in repriced.allocations],
        "cheapest_now_usd_per_hour": best,
        "saving_usd_per_hour": None if now is None or best is None else now - best,
        "cheapest_mix": _mix(repriced) if anew is None else _mix_of(anew),
        "weighed": "the plan's options" if anew is None else "all offers",
    }


def _allocation_row(row: RepricedAllocation) -> dict[str, Any]:
    option = row.allocation.candidate.option
    offer = option.offer
    return {
        "model": row.model,
        "option": option.name,
        "cloud": offer.cloud if offer else None,
        "region": offer.region if offer else None,
        "instance_type": offer.instance_type if offer else None,
        "use_spot": option.use_spot,
        "instances": row.allocation.instances,
        "planned_usd_per_hour": row.planned_usd_per_hour,
        "now_usd_per_hour": row.now_usd_per_hour,
        "reason": row.reason,
    }


def _mix(repriced: Repriced) -> list[dict[str, Any]]:
    return [
        {
            "model": model,
            "option": option.name,
            "region": option.offer.region if option.offer else None,
            "instances": instances,
            "price_usd_per_hour": option.price_usd_per_hour,
        }
        for model, option, instances in repriced.best
    ]


def _mix_of(anew: Plan) -> list[dict[str, Any]]:
    return [
        {
            "model": model.name,
            "option": a.candidate.option.name,
            "region": a.candidate.option.offer.region if a.candidate.option.offer else None,
            "instances": a.instances,
            "price_usd_per_hour": a.candidate.option.price_usd_per_hour,
        }
        for model in anew.models
        for a in model.allocations
    ]


def _echo_plan(planned: Plan, repriced: Repriced, document: dict[str, Any]) -> None:
    click.echo(f"{planned.name}, planned {planned.created_at}")
    for row in document["allocations"]:
        moved = row["now_usd_per_hour"]
        change = None if moved is None else moved / row["planned_usd_per_hour"] - 1
        now = f"now unknown ({row['reason']})" if moved is None else f"now {moved:.4f}"
        click.echo(
            f"  {row['instances']} x {row['option']} in {row['cloud']}/{row['region']}: "
            f"planned {row['planned_usd_per_hour']:.4f}, {now} $/h each{_percent(change)}"
        )
    now_cost = document["now_usd_per_hour"]
    cost = "unknown" if now_cost is None else f"{now_cost:.4f} $/h"
    click.echo(
        f"plan: {repriced.planned_usd_per_hour:.4f} $/h then, {cost} now"
        f"{_percent(document['change_fraction'])}"
    )
    best, saving = document["cheapest_now_usd_per_hour"], document["saving_usd_per_hour"]
    if best is None:
        click.echo("the plan's options cannot serve it at today's offers; plan it anew")
    elif saving is not None and saving <= 1e-6:
        click.echo("no other mix is cheaper now")
    else:
        by = "" if saving is None else f", {saving:.4f} $/h less"
        click.echo(f"another mix costs {best:.4f} $/h now{by}:")
        for row in document["cheapest_mix"]:
            click.echo(
                f"  {row['instances']} x {row['option']} in {row['region']}"
                f" at {row['price_usd_per_hour']:.4f} $/h each"
            )
    if document["weighed"] != "all offers":
        click.echo(
            "(of the options that the plan weighed, under its rules; --spec SPEC weighs all offers)",
            err=True,
        )
