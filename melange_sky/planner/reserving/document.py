"""`reserve.json`, what `bound` prints, and the files of a reserve folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from melange_sky.commitments import term_text
from melange_sky.planfile import dump_plan
from melange_sky.planfile.write import document_text
from melange_sky.planner.clock import created_at
from melange_sky.planner.reserving.ages import oldest, used_lines
from melange_sky.planner.reserving.api_price import tokens_per_request
from melange_sky.planner.reserving.document_models import (
    model_names,
    models_document,
    slo_document,
    verification_document,
)
from melange_sky.planner.reserving.proving import verification
from melange_sky.planner.reserving.purchases import Purchasable
from melange_sky.planner.reserving.terms import HOURS_PER_YEAR, net_present_usd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, timedelta

    from melange_sky.commitments import Commitment
    from melange_sky.planner.reserving.ages import PriceLine
    from melange_sky.planner.reserving.answer import Reservation
    from melange_sky.planner.reserving.asking import Asked
    from melange_sky.planner.reserving.fleets import Fleet
    from melange_sky.reserve.answer import Advice, Bought

SCHEMA_VERSION = 1
RESERVE_FILE = "reserve.json"

NOT_IN_TOTALS = "data transfer, disks, SkyServe's controller and taxes are in no total"


def plan_name(number: int) -> str:
    """Return the file of a fleet, counted from 1.

    >>> plan_name(7)
    'fleet-07.json'
    """
    return f"fleet-{number:02d}.json"


def reserve_files(found: Reservation) -> dict[str, str]:
    """Return the texts of a reserve folder by file name: reserve.json and a plan per distinct fleet."""
    plans = {
        plan_name(n): dump_plan(fleet.plan)
        for n, fleet in enumerate(found.fleets, 1)
        if fleet.plan is not None
    }
    return {RESERVE_FILE: document_text(reserve_document(found)) + "\n", **plans}


def reserve_document(found: Reservation) -> dict[str, Any]:
    """Return what reserve.json holds."""
    asked, advice = found.asked, found.advice
    first, *others = asked.spec.models
    totals = advice.totals
    pairs = list(zip(asked.purchasable, advice.bought, strict=True))
    used = used_lines(asked, advice, found.lines)
    ids = [fleet.plan.fleet_id for fleet in found.fleets if fleet.plan is not None]
    return {
        "schema_version": SCHEMA_VERSION,
        "name": asked.spec.name,
        "model": model_names(asked),
        "fleet_id": ids[0] if ids else None,
        "created_at": created_at(),
        "slo": None if others else slo_document(first),
        "models": models_document(asked),
        "objective": asked.options.objective,
        "startup_s": asked.options.startup_s,
        "min_run_s": asked.options.min_run_s,
        "discount_rate": asked.options.discount_rate,
        "budget_upfront_usd": asked.options.budget_upfront,
        "demand": _demand(asked),
        "commitments": [_commitment(found, one, b, found.lines) for one, b in pairs if b.units],
        "considered": [_considered(asked, one, b, found.lines) for one, b in pairs if not b.units],
        "owned": [
            {
                "cloud": own.cloud,
                "region": own.region or None,
                "instance_type": own.instance_type,
                "count": own.count,
                "until": None if own.until is None else own.until.isoformat(),
            }
            for own in asked.owned
        ],
        "periods": [_period(asked, fleet, n) for n, fleet in enumerate(found.fleets, 1)],
        "totals": {
            "chosen_usd": totals.chosen_usd,
            "all_on_demand_usd": totals.all_on_demand_usd,
            "commit_peak_usd": totals.commit_peak_usd,
            "best_single_usd": totals.best_single_usd,
            "bound_usd": totals.bound_usd,
            "best_single": None
            if totals.best_single is None
            else asked.candidate(totals.best_single).option.accelerators,
            "free_switch_usd": totals.free_switch_usd,
            "committed_usd": sum(b.usd for b in advice.bought),
            "upfront_usd": sum(b.upfront_usd for b in advice.bought),
            "span_hours": asked.demand.hours,
            "year_factor": HOURS_PER_YEAR / asked.demand.hours,
        },
        "scenarios": [
            {
                "name": one.name,
                "weight": one.weight,
                "cost_usd": one.cost_usd,
                "regret_usd": one.regret_usd,
                "nothing_usd": one.nothing_usd,
                "regret_of_nothing_usd": one.regret_of_nothing_usd,
                "best_usd": one.best_usd,
            }
            for one in advice.scenarios
        ],
        "gap": min(advice.gap, 1.0),  # no cost is below 0
        "objective_usd": advice.objective_usd,
        "bound_objective_usd": max(advice.bound_objective_usd, 0.0),
        "stochastic_value_usd": advice.stochastic_value_usd,
        "foresight_value_usd": advice.foresight_value_usd,
        "flip_fraction": advice.flip_fraction,
        "api": None if found.api is None else _flat(found.api),
        "verification": None if found.proof is None else verification_document(asked, found.proof),
        "prices": [_price(line, line in used) for line in found.lines],
        "prices_as_of": oldest(used),
        "notes": [*_late(advice), *asked.notes, *asked.demand.notes, NOT_IN_TOTALS],
    }


def _late(advice: Advice) -> Iterator[str]:
    if advice.late:
        yield f"not worked out within --time-limit, raise it to see: {', '.join(advice.late)}"


def bound_document(
    asked: Asked, totals: tuple[float, float], lines: Sequence[PriceLine], used: Sequence[PriceLine]
) -> dict[str, Any]:
    """Return what `bound --format json` prints; `totals` are the bound with terms and without any.

    `used` are the lines of what runs.
    """
    with_terms, without = totals
    return {
        "name": asked.spec.name,
        "model": model_names(asked),
        "autoscaler_usd": without,
        "bound_usd": with_terms,
        "startup_s": asked.options.startup_s,
        "span_hours": asked.demand.hours,
        "usd_per_hour": without / asked.demand.hours,
        "year_factor": HOURS_PER_YEAR / asked.demand.hours,
        "demand": _demand(asked),
        "prices": [_price(line, line in used) for line in lines],
        "prices_as_of": oldest(used),
        "notes": [*asked.notes, *asked.demand.notes, NOT_IN_TOTALS],
    }


def _flat(record: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(record)


def _demand(asked: Asked) -> dict[str, Any]:
    demand = asked.demand
    rates = asked.question.scenarios[0].rate_rps
    return {
        "source": demand.source,
        "start": demand.starts[0].isoformat() if demand.is_dated else None,
        "offsets": list(_offsets(demand.starts)) if demand.is_dated else [],
        "step_s": demand.step_s,
        "hours": demand.hours,
        "mean_rps": float(rates.mean()),
        "peak_rps": float(rates.max()),
        "rates_rps": [float(rate) for rate in rates],
        "mixes": [
            {
                "label": mix.label or None,
                "source": mix.workload.source,
                "input_tokens": prompt,
                "output_tokens": answer,
            }
            for mix in asked.told_mixes
            for prompt, answer in (tokens_per_request(mix),)
        ],
        "mix": [0 if demand.of_models else int(k) for k in asked.question.mix],
    }


def _offsets(starts: Sequence[datetime]) -> Iterator[dict[str, Any]]:
    """Yield the steps from which on another offset from UTC holds: the first, and where clocks change."""
    last: timedelta | None = None
    for step, start in enumerate(starts):
        offset = start.utcoffset()
        if offset is not None and offset != last:
            yield {"step": step, "utc_offset_s": offset.total_seconds()}
            last = offset


def _term(term: Commitment, lines: Sequence[PriceLine]) -> dict[str, Any]:
    from melange_sky.planner.reserving.terms import term_name

    age = next((line.age_days for line in lines if line.what == term_name(term)), None)
    return {
        "cloud": term.cloud,
        "region": term.region or None,
        "instance_type": term.instance_type,
        "term": term_text(term.term_hours),
        "term_months": term.term_months,
        "starts": None if term.starts is None else term.starts.isoformat(),
        "ends": None if term.ends is None else term.ends.isoformat(),
        "kind": term.kind,
        "product": term.product or None,
        "pool": term.pool,
        "usd_per_hour": term.usd_per_hour,
        "upfront_usd": term.upfront_usd,
        "all_in_usd_per_hour": term.all_in_usd_per_hour,
        "source": term.source,
        "as_of": term.as_of,
        "age_days": age,
        "is_own": term.is_own,
        "flags": [flag.code for flag in term.flags],
    }


def _on_demand(asked: Asked, one: Purchasable) -> float | None:
    """Return what the commitment's instance costs an hour on demand, None for spend, which covers several."""
    if one.step_usd_per_hour is not None:
        return None
    option = asked.candidate(next(iter(one.rates))).option
    return option.price_usd_per_hour / option.nodes


def _commitment(
    found: Reservation, one: Purchasable, bought: Bought, lines: Sequence[PriceLine]
) -> dict[str, Any]:
    asked = found.asked
    price, rate = _on_demand(asked, one), net_present_usd(one.term, asked.options.discount_rate)
    spend = one.step_usd_per_hour
    return {
        **_term(one.term, lines),
        "name": bought.name,
        "count": bought.units if spend is None else 1,
        "step_usd_per_hour": spend,
        "commit_usd_per_hour": bought.units
        * (one.term.all_in_usd_per_hour if spend is None else spend),
        "options": [asked.question.options[k] for k in one.rates],
        "on_demand_usd_per_hour": price,
        "break_even_utilization": bought.break_even_fraction,
        "expected_utilization": bought.used_fraction,
        "span_usd": bought.usd,
        "span_upfront_usd": bought.upfront_usd,
        "npv_usd": rate * bought.units if spend is None else None,
        "total_usd": one.term.total_usd * bought.units
        if spend is None
        else spend * bought.units * one.term.term_hours,
        "not_worth_below_usd_per_hour": _flip(one, bought, price),
        "dearer_terms": [_term(term, lines) for term in one.dearer],
    }


def _flip(one: Purchasable, bought: Bought, on_demand: float | None) -> float | None:
    """Return the on-demand price at which the units, used as expected, cost no less than the hours that they save."""
    if on_demand is None or not bought.used_fraction:
        return None
    return next(iter(one.rates.values())) / bought.used_fraction


def _considered(
    asked: Asked, one: Purchasable, bought: Bought, lines: Sequence[PriceLine]
) -> dict[str, Any]:
    return {
        **_term(one.term, lines),
        "name": bought.name,
        "on_demand_usd_per_hour": _on_demand(asked, one),
        "break_even_utilization": bought.break_even_fraction,
    }


def _period(asked: Asked, fleet: Fleet, number: int) -> dict[str, Any]:
    judged = verification(fleet)
    return {
        "hours": list(fleet.periods),
        "rate_rps": fleet.rate_rps,
        "plan": None if fleet.plan is None else plan_name(number),
        "mix": asked.mixes[fleet.mix].label or None,
        "fleet": [
            {
                "model": asked.mixes[fleet.mix].keys[asked.question.options[one.option]][0],
                "option": option.name,
                "accelerator": option.accelerators,
                "cloud": None if option.offer is None else option.offer.cloud,
                "region": None if option.offer is None else option.offer.region,
                "instance_type": None if option.offer is None else option.offer.instance_type,
                "instances": one.instances,
                "owned": one.owned,
                "committed": one.committed,
                "rented": one.rented,
                "price_usd_per_hour": option.price_usd_per_hour,
            }
            for one in fleet.running
            for option in (asked.candidate(one.option).option,)
        ],
        "rented_usd_per_hour": sum(
            one.rented * asked.candidate(one.option).option.price_usd_per_hour
            for one in fleet.running
        ),
        "attainment": None if judged is None else judged.attainment,
        "holds": None if judged is None else judged.holds,
        "replay": None
        if judged is None
        else {
            "traffic": judged.traffic,
            "requests": judged.requests,
            "low": judged.low,
            "high": judged.high,
        },
    }


def _price(line: PriceLine, used: bool) -> dict[str, Any]:
    return {
        "what": line.what,
        "usd_per_hour": line.usd_per_hour,
        "source": line.source,
        "as_of": line.as_of,
        "age_days": line.age_days,
        "is_own": line.age.is_own,
        "used": used,
        "stale": line.age.is_stale,
    }
