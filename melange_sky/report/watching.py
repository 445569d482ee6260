"""What was watched, for people: the journal's lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def lines_text(lines: Iterable[Mapping[str, Any]]) -> str:
    """Return lines of a journal for people, each with what it rests on."""
    return "".join(f"{_line_text(line)}\n" for line in lines)


def _line_text(line: Mapping[str, Any]) -> str:
    if "decision" not in line:
        return f"{line.get('time')}  {line.get('event', '')}  {line.get('message', '')}".rstrip()
    rows = [f"{line['time']}  {line['decision']} [{line['reason']}]  {line.get('message', '')}"]
    seen = line.get("observed") or {}
    rows.append(
        f"  seen: {_number(seen.get('rate_rps'), 'req/s')}, attainment {_part(seen.get('attainment'))}, "
        f"live {_fleet(seen.get('live'))}" + _starting(seen.get("starting"))
    )
    rows += [f"  fault: {fault['code']}: {fault['message']}" for fault in seen.get("faults") or ()]
    told = line.get("forecast")
    if told:
        rows.append(
            f"  forecast: up to {told['high_rps']:g} req/s within {told['over_s'] / 60:g} min, by the rule "
            f"'{told['rule']}', band {told['band_origin']}"
        )
    for one in line.get("candidates") or ():
        rows.append(
            f"  {one['kind']:<9} {_fleet(one['counts'])}: ${one['usd_per_hour']:,.2f}/h, {one['rate_rps']:.2f} req/s, "
            f"to change ${one['switch_usd']:,.2f}"
        )
    wanted = (line.get("plan") or {}).get("counts")
    if wanted is not None:
        rows.append(f"  wanted: {_fleet(wanted)}")
    return "\n".join(rows)


def _number(value: float | None, unit: str) -> str:
    return "rate unknown" if value is None else f"{value:g} {unit}"


def _part(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2%}"


def _fleet(counts: Mapping[str, int] | None) -> str:
    if counts is None:
        return "unknown"
    return " + ".join(f"{n} × {name}" for name, n in counts.items()) or "nothing"


def _starting(counts: Mapping[str, int] | None) -> str:
    return f", starting {_fleet(counts)}" if counts else ""
