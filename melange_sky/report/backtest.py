"""A backtest of watching: what it would have cost and how well it would have served, beside others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def backtest_text(document: Mapping[str, Any]) -> str:
    """Return the document of a backtest for people."""
    own, perfect_usd = document["contenders"][0], document["perfect_usd"]
    lines = [
        f"{document['replay']}: {document['requests']:,} requests over {document['hours']:.0f} hours",
        f"a look every {document['every_s']:g} s; replicas serve {document['startup_s'][1] / 60:g} min after their start",
        "",
        f"{'':<18}{'cost':>12}{'of perfect':>12}{'attainment':>12}{'changes':>9}",
    ]
    rows = [
        (one["name"], one["usd"], (one["replayed"] or {}).get("attainment"), one["changes"])
        for one in document["contenders"]
    ]
    rows.append(("perfect foresight", perfect_usd, None, None))
    lines += [
        f"{name:<18}{f'${usd:,.2f}':>12}{f'{usd / perfect_usd:.3f}' if perfect_usd else '':>12}"
        f"{'' if attained is None else f'{attained:.2%}':>12}{'' if changes is None else changes:>9}"
        for name, usd, attained, changes in rows
    ]
    lines.append("")
    replayed = own["replayed"]
    if replayed is not None:
        what = f"{replayed['requests']:,} requests"
        if not replayed["whole"]:
            what += f" in {replayed['stretches']} stretches, which may be off by {replayed['half_width']:.2%}"
        held = "held" if document["held"] else "MISSED"
        lines.append(
            f"The SLO ({document['target_attainment']:.1%} of requests within their limits) is {held}: "
            f"{replayed['attainment']:.2%} of {what}, in the simulator"
        )
        if len(replayed["days"]) > 1:
            days = ", ".join(
                f"{one['day'] + 1}: {one['attainment']:.1%}" for one in replayed["days"]
            )
            lines.append(f"By days of the trace: {days}")
    lines += [f"{one['name']}: {one['detail']}" for one in document["contenders"] if one["detail"]]
    if document["blocked"]:
        lines.append("The guard forbade growing at times; `--explain` shows the last")
    lines += [f"note: {note}" for note in document["notes"]]
    counts = ", ".join(f"{reason} {count}" for reason, count in document["decisions"].items())
    lines.append(f"Decisions: {counts}")
    return "\n".join(lines) + "\n"
