"""A log as demand by the hour: its rates, and the mixes of sizes that its hours are of."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.spec.hourly_trace import demand_of_trace
from melange_sky.spec.mixes import read_mixes

START = datetime(2026, 11, 2, tzinfo=timezone.utc)


def write_log(path: Path, hours: int, *, nights: bool) -> Path:
    """Write 300 requests in each of 8 hours of the night and 600 in the others; those of nights may be longer."""
    rng = random.Random(3)
    rows = []
    for hour in range(hours):
        is_night = hour % 24 < 8
        middle = 7.0 if is_night and nights else 5.5
        for _ in range(300 if is_night else 600):
            at = START + timedelta(hours=hour, seconds=rng.random() * 3600)
            rows.append(
                (at, int(rng.lognormvariate(middle, 0.4)), int(rng.lognormvariate(4.5, 0.4)))
            )
    lines = (f"{at.isoformat()},{prompt},{answer}" for at, prompt, answer in sorted(rows))
    path.write_text("time,input,output\n" + "\n".join(lines) + "\n")
    return path


def test_day_and_night_are_two_mixes_with_a_stated_error(tmp_path: Path) -> None:
    found = demand_of_trace(write_log(tmp_path / "log.csv", 48, nights=True))
    demand = found.demand
    assert demand.starts[0] == START and len(demand.starts) == 48 and demand.step_s == 3600
    assert list(demand.mix) == ["mix-1" if hour % 24 < 8 else "mix-2" for hour in range(48)]
    assert set(found.mixes) == {"mix-1", "mix-2"}
    means = {
        name: sum(
            w * size
            for ws, sizes in zip(h.weights, h.input_sizes or (), strict=True)
            for w, size in zip(ws, sizes, strict=True)
            if size
        )
        for name, h in found.mixes.items()
    }
    assert means["mix-1"] > 3 * means["mix-2"]
    assert sum(demand.rate_rps) * 3600 == pytest.approx(2 * (8 * 300 + 16 * 600), rel=0.01)
    assert max(found.size_error) < 0.05
    (note,) = demand.notes
    assert note.startswith(
        "hours are planned with 2 mixes of sizes; an hour's mean prompt and answer differ"
    )


def test_hours_that_are_alike_are_one_mix(tmp_path: Path) -> None:
    found = demand_of_trace(write_log(tmp_path / "log.csv", 24, nights=False))
    assert set(found.demand.mix) == {""} and set(found.mixes) == {""}


def test_an_hour_of_which_little_is_covered_is_left_out(tmp_path: Path) -> None:
    lines = [f"2026-11-02T{m // 60:02}:{m % 60:02}:00Z,100,20" for m in range(55, 185)]
    path = tmp_path / "log.csv"
    path.write_text("time,input,output\n" + "\n".join(lines) + "\n")
    demand = demand_of_trace(path).demand
    assert [start.hour for start in demand.starts] == [1, 2]
    assert demand.rate_rps == pytest.approx([1 / 60, 1 / 60])
    assert len([note for note in demand.notes if "left out" in note]) == 2


def test_less_than_two_hours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    lines = [f"2026-11-02T00:{minute:02}:00Z,100,20" for minute in range(60)]
    path.write_text("time,input,output\n" + "\n".join(lines) + "\n")
    with pytest.raises(
        InputError, match="covers fewer than two hours; a demand over time needs more"
    ):
        demand_of_trace(path)


def test_mixes_are_named_in_the_demand_and_have_their_sizes(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 2, nights=True)
    found = read_mixes([f"day={log}", "night=azure-conv-2023"], ["day", "night"])
    assert set(found) == {"day", "night"}
    for texts, labels, said in (
        (["day"], ["day"], "--mix: 'day' must be LABEL=FILE, such as night=night.yaml"),
        ([f"dya={log}"], ["day"], "--mix: the demand has no mix 'dya' (did you mean 'day'?)"),
        ([f"day={log}"], [""], "--mix: the demand has no mix 'day', which names no mix"),
        ([f"day={log}"] * 2, ["day"], "--mix: 'day' is given twice"),
        (
            [],
            ["day"],
            "the demand's mix 'day' has no sizes: give --mix day=FILE, a trace or what `melange-sky workload` writes",
        ),
    ):
        with pytest.raises(InputError) as error:
            read_mixes(texts, labels)
        assert str(error.value) == said
