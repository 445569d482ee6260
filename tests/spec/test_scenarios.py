"""Scenarios: what is read, and the line for what is wrong."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.spec.scenarios import read_scenarios


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_factors_dates_and_the_plain_one_first(tmp_path: Path) -> None:
    found = read_scenarios(
        write(
            tmp_path,
            "- {name: less, weight: 0.3, demand: ×0.6}\n"
            "- {name: base, weight: 0.5}\n"
            "- {name: cut, weight: 0.2, price: {on_demand: x0.8 from 2027-06-01, H100: 0.7}}\n",
        )
    )
    assert [one.name for one in found] == ["base", "less", "cut"]
    base, less, cut = found
    assert base.changes_nothing and less.demand is not None and less.demand.factor == 0.6
    (name, change), (gpu, cheaper) = cut.prices
    assert (name, change.factor) == ("", 0.8) and (gpu, cheaper.factor) == ("H100", 0.7)
    assert change.since == datetime(2027, 6, 1, tzinfo=timezone.utc)
    assert cut.where == f"{tmp_path}/s.yaml:3: [2]"


CASES = {
    "name: base": "s.yaml:1: must be a list of scenarios: {name, weight, demand, price}",
    "- {name: base, wieght: 1}": "s.yaml:1: [0].wieght: unknown key 'wieght' (did you mean 'weight'?)",
    "- {name: base, weight: 0}": "s.yaml:1: [0].weight: must be a number above 0; leave out what cannot happen",
    "- {weight: 1}": "s.yaml:1: [0].name: must be text of 1 to 60 characters",
    "- {name: a}\n- {name: b, demand: -1}": "s.yaml:2: [1].demand: must be a factor such as ×0.6, or ×0.8 from 2027-06-01",
    "- {name: a}\n- {name: b, price: {on_demand: ×0.8 from June}}": "s.yaml:2: [1].price.on_demand: 'June' is no date such as 2027-06-01",
    "- {name: a}\n- {name: a, demand: 2}": "s.yaml:2: [1].name: two scenarios are named 'a'",
    "- {name: a, demand: 2}": "s.yaml: exactly one scenario must leave demand and prices as they are (none does): its "
    "fleets are planned; give one with a name and a weight alone",
    "- {name: a}\n- {name: b}": "s.yaml: exactly one scenario must leave demand and prices as they are (several do): its "
    "fleets are planned; give one with a name and a weight alone",
}


@pytest.mark.parametrize("text", CASES)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as found:
        read_scenarios(write(tmp_path, text))
    assert [line.replace(f"{tmp_path}/", "") for line in found.value.problems] == [CASES[text]]
