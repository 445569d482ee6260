"""How advice on commitments is shown, from what reserve.json holds."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import groupby
from typing import TYPE_CHECKING, Any

from melange_sky.report.columns import aligned

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Document = Mapping[str, Any]

MOST_DAYS = 15
"""Longer demands are not listed day by day."""

MOST_CONSIDERED = 8


def reserve_text(document: Document) -> str:
    """Return the answer of `reserve` for people."""
    parts = [
        _head(document),
        _commitments(document),
        _totals(document),
        _fleets(document),
        _days(document),
        _scenarios(document),
        _api(document),
        _verification(document),
        _prices(document),
        "".join(f"note: {note}\n" for note in document["notes"]),
    ]
    return "\n".join(part for part in parts if part)


def bound_text(document: Document) -> str:
    """Return the answer of `bound` for people."""
    hours = document["span_hours"]
    rows = [("over the demand", "USD", "USD/h", "")]
    for key, text in (
        (
            "autoscaler_usd",
            f"perfect autoscaler, on demand, start-up of {document['startup_s']:g} s billed",
        ),
        ("bound_usd", "each used hour at its cheapest rate, committed or not, instant start"),
    ):
        rows.append((key, _usd(document[key]), _usd(document[key] / hours), text))
    return _head(document) + "\n" + aligned(rows, right=(1, 2)) + "\n" + _prices(document)


def _head(document: Document) -> str:
    demand = document["demand"]
    start = "" if demand["start"] is None else f" from {demand['start']}"
    return (
        f"{document['name']}: {document['model']} over {demand['hours']:g} hours of {demand['source']}{start}, "
        f"{demand['mean_rps']:.3g} req/s on average, {demand['peak_rps']:.3g} at the most\n"
    )


def _usd(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _place(row: Document) -> str:
    return str(row["cloud"]) + (f"/{row['region']}" if row["region"] else "")


def _commitments(document: Document) -> str:
    rows: list[tuple[str, ...]] = [
        (
            "commit",
            "what",
            "where",
            "term",
            "$/h each",
            "on demand",
            "breaks even",
            "expected use",
            "pays down to",
        )
    ]
    for one in document["commitments"]:
        spend = one["step_usd_per_hour"] is not None
        upfront = (
            f", ${_usd(one['upfront_usd'])} upfront" if one["upfront_usd"] and not spend else ""
        )
        rows.append(
            (
                f"${one['commit_usd_per_hour']:,.2f}/h" if spend else f"{one['count']} ×",
                one["pool"] or one["product"] if spend else one["instance_type"],
                _place(one),
                one["term"] + upfront,
                "-" if spend else f"{one['all_in_usd_per_hour']:.3f}",
                _price(one["on_demand_usd_per_hour"]),
                _percent(one["break_even_utilization"]),
                _percent(one["expected_utilization"]),
                _price(one["not_worth_below_usd_per_hour"]),
            )
        )
    text = (
        aligned(rows, right=(4, 5, 6, 7, 8))
        if len(rows) > 1
        else "Commit to nothing: no term pays.\n"
    )
    own = any(one["is_own"] for one in document["commitments"])
    if document["commitments"] and not own:
        text += "List prices: yours may differ (--commitments). "
    flip = document["flip_fraction"]
    if flip is not None:
        text += (
            f"If all on-demand prices fell by {flip:.0%}, committing to nothing would cost no more."
        )
    text = text.rstrip() + "\n"
    passed = [
        f"{one['name']} (breaks even at {one['break_even_utilization']:.0%} use)"
        for one in document["considered"]
    ]
    if passed:
        more = f" and {len(passed) - MOST_CONSIDERED} more" if len(passed) > MOST_CONSIDERED else ""
        text += f"Weighed, not taken: {'; '.join(passed[:MOST_CONSIDERED])}{more}.\n"
    return text


def _price(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _totals(document: Document) -> str:
    totals = document["totals"]
    chosen, factor = totals["chosen_usd"], totals["year_factor"]
    single = totals["best_single"]
    rows = [("over the demand", "USD", "USD a year", "the advice saves")]
    for key, text in (
        ("chosen_usd", "this advice"),
        ("all_on_demand_usd", "all on demand"),
        ("commit_peak_usd", "commit the peak"),
        ("best_single_usd", f"best single type{f' ({single})' if single else ''}"),
        ("bound_usd", "perfect autoscaler at the cheapest rates"),
    ):
        value = totals[key]
        saves = "" if key == "chosen_usd" or not value else _against(chosen, value)
        rows.append((text, _usd(value), "-" if value is None else _usd(value * factor), saves))
    gap = document["gap"]
    proven = "proven best" if gap <= 1e-9 else f"proven within {gap:.2%} of the best"
    return (
        aligned(rows, right=(1, 2))
        + f"USD a year: as if the demand repeated all year. {proven}; of the total ${_usd(totals['committed_usd'])} are "
        f"committed, ${_usd(totals['upfront_usd'])} are paid upfront.\n"
    )


def _against(chosen: float, other: float) -> str:
    return f"{1 - chosen / other:.1%}" if chosen <= other else f"is {chosen / other - 1:.1%} above"


def _fleets(document: Document) -> str:
    rows = [("fleet", "hours", "req/s", "runs: [paid anyway] + rented", "rented $/h", "in replay")]
    for n, period in enumerate(document["periods"], 1):
        replayed = period["attainment"]
        told = "-" if replayed is None else f"{replayed:.2%}{'' if period['holds'] else ' MISSED'}"
        rows.append(
            (
                f"F{n}",
                str(len(period["hours"])),
                f"≤ {period['rate_rps']:.3g}",
                _runs(period) or "nothing",
                f"{period['rented_usd_per_hour']:.2f}",
                told,
            )
        )
    return aligned(rows, right=(1, 2, 4))


def _runs(period: Document) -> str:
    """Return what runs, such as ``[2 × L4:1] + 1 × H100:1``: in brackets what is paid for anyway.

    Of several models each after its name.
    """
    models = dict.fromkeys(one["model"] for one in period["fleet"])
    if len(models) > 1:
        parts = [[one for one in period["fleet"] if one["model"] == name] for name in models]
        texts = [_runs({"fleet": part}) for part in parts]
        return "; ".join(f"{name}: {text}" for name, text in zip(models, texts, strict=True))
    paid = [(one["owned"] + one["committed"], one["accelerator"]) for one in period["fleet"]]
    rented = [(one["rented"], one["accelerator"]) for one in period["fleet"]]
    base, top = (" + ".join(f"{n} × {name}" for n, name in rows if n) for rows in (paid, rented))
    return " + ".join(part for part in (f"[{base}]" if base else "", top) if part)


def _days(document: Document) -> str:
    """Return which fleet runs when: a line per day, days alike together."""
    demand = document["demand"]
    if demand["hours"] > 24 * MOST_DAYS:
        return ""
    of_step = {h: n for n, period in enumerate(document["periods"], 1) for h in period["hours"]}
    step, times = timedelta(seconds=demand["step_s"]), _times(demand, len(of_step))
    rows = []
    for label, steps in _by_day(times, dated=demand["start"] is not None):
        ranges = []
        for fleet, run in groupby(steps, key=of_step.__getitem__):
            hours = list(run)
            ends = times[hours[-1]] + step
            ranges.append(f"{times[hours[0]]:%H:%M}–{ends:%H:%M} F{fleet}")
        rows.append((label, "  ".join(ranges)))
    return aligned([("day", "fleets"), *rows])


def _times(demand: Document, steps: int) -> list[datetime]:
    """Return the local time of each step's start as the demand writes them."""
    first = datetime.fromisoformat(demand["start"] or "1970-01-01T00:00:00+00:00")
    starts = [first + k * timedelta(seconds=demand["step_s"]) for k in range(steps)]
    zones = {
        row["step"]: timezone(timedelta(seconds=row["utc_offset_s"])) for row in demand["offsets"]
    }
    zone = first.tzinfo
    times = []
    for step, start in enumerate(starts):
        zone = zones.get(step, zone)
        times.append(start.astimezone(zone))
    return times


def _by_day(times: list[datetime], *, dated: bool) -> Iterator[tuple[str, list[int]]]:
    for n, (day, steps) in enumerate(groupby(range(len(times)), key=lambda k: times[k].date()), 1):
        yield f"{day:%a %d %b}" if dated else f"day {n}", list(steps)


def _scenarios(document: Document) -> str:
    scenarios = document["scenarios"]
    if len(scenarios) < 2:
        return ""
    rows = [("scenario", "weight", "USD", "regret", "nothing committed", "its regret")]
    rows += [
        (
            one["name"],
            f"{one['weight']:g}",
            _usd(one["cost_usd"]),
            _usd(one["regret_usd"]),
            _usd(one["nothing_usd"]),
            _usd(one["regret_of_nothing_usd"]),
        )
        for one in scenarios
    ]
    text = aligned(rows, right=(1, 2, 3, 4, 5))
    known = document["foresight_value_usd"]
    text += f"Knowing the scenario beforehand would save ${_usd(known)} on average"
    stochastic = document["stochastic_value_usd"]
    if stochastic is not None:
        text += (
            f"; planning for all of them saves ${_usd(stochastic)} against planning for their mean"
        )
    return text + ".\n"


def _api(document: Document) -> str:
    api = document["api"]
    if api is None:
        return ""
    wins = api["wins_from_rps"]
    from_rate = (
        f"an even load is cheaper on own fleets from {wins:.3g} req/s on"
        if wins is not None
        else f"no even load up to {api['sought_rps']:.3g} req/s is cheaper on fleets rented on demand"
    )
    return (
        f"Per million tokens this advice costs ${api['own_usd_per_million']:.3f}, the API ${api['usd_per_million']:.3f} "
        f"(${api['input_usd']:g} in, ${api['output_usd']:g} out; ${_usd(api['usd'])} over the demand); {from_rate}.\n"
    )


def _verification(document: Document) -> str:
    found = document["verification"]
    if found is None:
        return "Nothing was replayed: --verify replays every fleet and hour.\n"
    missed = "".join(f"MISSED: {text}\n" for text in found["missed"])
    return (
        f"Replayed {found['fleets']} fleets in their busiest hour, and {found['hours']} hours one after the other "
        f"({found['stretch_s']:.0f} s of each): {found['attainment']:.2%} of the requests meet the SLO (target "
        f"{found['target']:.0%}), {found['worst_attainment']:.2%} in the worst hour.\n{_in_one_run(found['in_one_run'])}"
        f"{missed}"
    )


def _in_one_run(run: Document) -> str:
    """Say how the schedule itself does: replicas that start ahead of their hour, and plans that change."""
    return (
        f"In one run over {run['hours']} hours as `schedule` carries them out ({run['starts']} replicas started "
        f"{run['ahead_s']:.0f} s before their hour and {run['startup_s']:.0f} s from serving, every change up to "
        f"{run['late_s']:.0f} s late): {run['attainment']:.2%}, {run['worst_attainment']:.2%} in the worst hour.\n"
    )


def _prices(document: Document) -> str:
    """Return the prices of what is advised, each with its age and source, and how old the others are."""
    used = [line for line in document["prices"] if line["used"]]
    others = [line for line in document["prices"] if not line["used"]]
    rows = [("price", "$/h", "age", "source")]
    rows += [
        (
            line["what"],
            f"{line['usd_per_hour']:.4g}",
            _age(line) + (" STALE" if line["stale"] else ""),
            f"{line['source']}{'' if line['as_of'] is None else ', as of ' + line['as_of']}",
        )
        for line in used
    ]
    text = aligned(rows, right=(1,))
    if others:
        stale = sum(line["stale"] for line in others)
        text += f"{len(others)} other prices and terms were weighed, {stale} of them older than a day (all are in the JSON).\n"
    return text


def _age(line: Document) -> str:
    days = line["age_days"]
    if days is None:
        return "yours" if line["is_own"] else "unknown"
    return f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"
