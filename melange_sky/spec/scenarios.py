"""Scenarios of demand and prices: a YAML list of `{name, weight, demand, price}`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.names.accelerators import canonical_accelerator
from melange_sky.spec import yaml_source
from melange_sky.spec.problems import Place, Problems

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ("name", "weight", "demand", "price")
ON_DEMAND = "on_demand"
MOST_SCENARIOS = 50
MOST_FACTOR = 1000.0

_CHANGE = re.compile(r"[×x*]?\s*([0-9.eE+-]+)\s*(?:from\s+(\S.*))?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A factor, from a moment (aware) on; None: from the beginning."""

    factor: float
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioChanges:
    """How demand and on-demand prices differ from those given; `prices` by accelerator, "" for all.

    `where` is file, line and key of the entry.
    """

    name: str
    weight: float = 1.0
    demand: Change | None = None
    prices: tuple[tuple[str, Change], ...] = ()
    where: str = ""

    @property
    def changes_nothing(self) -> bool:
        """Whether demand and prices are as given."""
        changes = [c for c in (self.demand, *(c for _, c in self.prices)) if c is not None]
        return all(change.factor == 1 for change in changes)


AS_GIVEN = ScenarioChanges(name="as given")


def read_scenarios(path: Path) -> tuple[ScenarioChanges, ...]:
    """Read scenarios, the one that changes nothing first; InputError with every problem, one line each."""
    document = yaml_source.parse(yaml_source.read_text(path), path)
    problems = Problems(path, document)
    raw = document.value
    if not isinstance(raw, list) or not raw:
        problems.add((), "must be a list of scenarios: {name, weight, demand, price}")
        problems.raise_if_any()
    if len(raw) > MOST_SCENARIOS:
        problems.add((), f"has {len(raw)} scenarios; at most {MOST_SCENARIOS} are weighed")
    found = [_scenario(item, Place(problems, (i,))) for i, item in enumerate(raw)]
    scenarios = [one for one in found if one is not None]
    names = [one.name for one in scenarios]
    for i, one in enumerate(scenarios):
        if one.name in names[:i]:
            problems.add((i, "name"), f"two scenarios are named '{clip(one.name)}'")
    problems.raise_if_any()
    plain = [one for one in scenarios if one.changes_nothing]
    if len(plain) != 1:
        count = "none does" if not plain else "several do"
        raise InputError(
            f"{path}: exactly one scenario must leave demand and prices as they are ({count}): its fleets are planned; "
            "give one with a name and a weight alone"
        )
    return (plain[0], *(one for one in scenarios if one is not plain[0]))


def _scenario(raw: Any, place: Place) -> ScenarioChanges | None:
    if not isinstance(raw, dict):
        place.add("must be a mapping with name, weight, demand and price")
        return None
    for key in raw:
        if key not in KEYS:
            hint = did_you_mean(str(key), KEYS) or f"; known: {', '.join(KEYS)}"
            (place / str(key)).add(f"unknown key '{clip(str(key))}'{hint}")
    name, weight = raw.get("name"), raw.get("weight", 1.0)
    if not isinstance(name, str) or not name.strip() or len(name) > 60 or not name.isprintable():
        (place / "name").add("must be text of 1 to 60 characters")
        return None
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e9:
        (place / "weight").add("must be a number above 0; leave out what cannot happen")
        return None
    demand = None if raw.get("demand") is None else _change(raw["demand"], place / "demand")
    return ScenarioChanges(
        name=name.strip(),
        weight=float(weight),
        demand=demand,
        prices=_prices(raw.get("price"), place / "price"),
        where=place.text,
    )


def _prices(raw: Any, place: Place) -> tuple[tuple[str, Change], ...]:
    if raw is None:
        return ()
    if not isinstance(raw, dict):
        place.add("must map on_demand, or an accelerator, to a factor such as ×0.8 from 2027-06-01")
        return ()
    found = []
    for key, value in raw.items():
        change = _change(value, place / str(key))
        if change is not None:
            name = "" if key == ON_DEMAND else canonical_accelerator(str(key))
            found.append((name, change))
    return tuple(found)


def _change(raw: Any, place: Place) -> Change | None:
    text = str(raw).strip() if isinstance(raw, str | int | float) else ""
    match = None if isinstance(raw, bool) else _CHANGE.match(text)
    try:
        factor = math.nan if match is None else float(match[1])
    except ValueError:
        factor = math.nan
    if match is None or not 0 <= factor <= MOST_FACTOR:
        place.add("must be a factor such as ×0.6, or ×0.8 from 2027-06-01")
        return None
    if match[2] is None:
        return Change(factor=factor)
    since = _moment(match[2].strip())
    if since is None:
        place.add(f"'{clip(match[2])}' is no date such as 2027-06-01")
        return None
    return Change(factor=factor, since=since)


def _moment(text: str) -> datetime | None:
    """Return the moment of a date (its midnight in UTC) or of a time with an offset."""
    try:
        day = date.fromisoformat(text)
        return datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment
