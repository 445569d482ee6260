"""The comment on top of each service file: what it is, what it costs, how to run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.capacities import weakest
from melange_sky.engines import engine_named
from melange_sky.rendering.clouds import controller_note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from melange_sky.capacities import DeploymentOption
    from melange_sky.offers import Offer
    from melange_sky.plans import Allocation, ModelPlan

_LONGEST_FIELD = 200


def header(
    plan: ModelPlan, allocation: Allocation, created_at: str, commands: tuple[str, str]
) -> str:
    """Return the comment lines. Untrusted text in them cannot end a comment."""
    lines = _lines(plan, allocation, created_at, commands)
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _lines(
    plan: ModelPlan, allocation: Allocation, created_at: str, commands: tuple[str, str]
) -> Iterator[str]:
    option = allocation.candidate.option
    offer = option.offer
    assert offer is not None
    what = option.accelerators
    yield f"{allocation.instances} x {_say(what)} of plan {_say(plan.name)}, made {_say(created_at)}"
    yield f"Model:    {_say(plan.model)}{_held(plan, option)}"
    yield (
        f"Instance: {_place(offer)}, {_say(offer.instance_type)}, {_kind(option.use_spot)}, "
        f"${option.price_usd_per_hour:.4g}/h {_each(option)}, ${allocation.cost_usd_per_hour:.4g}/h in all"
    )
    if allocation.fixed_instances:
        yield (
            f"Paid for: {allocation.fixed_instances} of {allocation.instances * option.nodes}, counted as $0: "
            + _paid_by(option)
        )
    yield f"Price:    {_say(offer.source)}, as of {_say(offer.as_of or 'unknown')}"
    yield from _other_prices(option)
    yield f"Capacity: {_origin(allocation)}; planned load {allocation.load_fraction:.0%} of it"
    yield ""
    yield f"Start:    {commands[0]}"
    yield f"Change:   {commands[1]}"
    key = engine_named(plan.engine.name).key_variable
    yield f"To demand a key from clients, set {key} and add --secret {key} to both."
    yield controller_note()
    yield ""


def _paid_by(option: DeploymentOption) -> str:
    """Return who says that instances are paid for."""
    if option.reserved is None:
        return "the spec says that you have them"
    return _say(
        f"reserved, free when SkyPilot was asked at {option.reserved.as_of} ({', '.join(option.reserved.names)})"
    )


def _held(plan: ModelPlan, option: DeploymentOption) -> str:
    """Return which checkpoint and quantization an option runs where the plan chose among several."""
    form = plan.form_of(option)
    if form is None:
        return ""
    words = [] if form.checkpoint == plan.model else [f"as {form.checkpoint}"]
    if form.quantization is not None:
        words.append(f"weights quantized to {form.quantization}")
    return _say(f", {' with '.join(words)}")


def _other_prices(option: DeploymentOption) -> Iterator[str]:
    if option.fallbacks:
        dearest = max(option.places, key=option.price_in)
        yield (
            f"Where:    the cheapest of {len(option.places)} regions with room, "
            f"at most ${option.price_in(dearest):.4g}/h ({_place(dearest)})"
        )
    if option.use_spot:
        price = _dearest_on_demand(option)
        cost = "price unknown" if price is None else f"at most ${price:.4g}/h"
        yield f"Spot:     while spot is unavailable, an on-demand instance stands in, {cost}"


def _dearest_on_demand(option: DeploymentOption) -> float | None:
    prices = [offer.price_usd_per_hour for offer in option.places]
    if None in prices:
        return None
    return option.nodes * max(price for price in prices if price is not None)


def _origin(allocation: Allocation) -> str:
    cells = allocation.candidate.cells
    origin = weakest(
        cell.origin
        for i, row in enumerate(cells)
        for j, cell in enumerate(row)
        if cell.origin is not None and allocation.shares[i][j] > 0
    )
    return "unknown" if origin is None else origin.value


def _each(option: DeploymentOption) -> str:
    return "each" if option.nodes == 1 else f"per replica of {option.nodes} instances"


def _kind(use_spot: bool) -> str:
    return "spot" if use_spot else "on demand"


def _place(offer: Offer) -> str:
    return _say(f"{offer.cloud}/{offer.region}" if offer.region else offer.cloud)


def _say(text: str) -> str:
    """Return `text` on one line: what is not printable is escaped, what is long is cut."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= _LONGEST_FIELD else shown[: _LONGEST_FIELD - 1] + "…"
