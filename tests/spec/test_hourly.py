"""Demand over time: what is read, and the one line for everything that is wrong with it."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melange_sky.errors import InputError
from melange_sky.spec.hourly import read_demand

HOUR = timedelta(hours=1)


def rows(*lines: str, header: str = "time,rate_rps") -> str:
    return "\n".join((header, *lines)) + "\n"


def refused(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "demand.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as found:
        read_demand(path)
    return [line.replace(f"{tmp_path}/", "") for line in found.value.problems]


GOOD = ("2026-11-02T00:00:00Z,1", "2026-11-02T01:00:00Z,2")

CASES: dict[str, tuple[str, str]] = {
    "nothing": ("", "demand.csv: is empty; give a row per hour under time,rate_rps"),
    "only a header": (
        rows(),
        "demand.csv: holds no rows; give a row per hour under time,rate_rps",
    ),
    "one row": (
        rows(GOOD[0]),
        "demand.csv: holds a single row, so that no step can be told; give a row per hour under time,rate_rps",
    ),
    "a total beside rates of models": (
        rows(*GOOD, header="time,rate_rps,rate_rps:code"),
        (
            "demand.csv:1: names both rate_rps and 'rate_rps:code'; give the total of all models, or the rates of each"
        ),
    ),
    "a model twice": (
        rows("2026-11-02T00:00:00Z,1,2", header="time,rate_rps:chat,rate_rps:chat"),
        "demand.csv:1: names the column 'rate_rps:chat' twice",
    ),
    "no rate of a model": (
        rows("2026-11-02T00:00:00Z,1", header="time,rate_rps:chat,rate_rps:code"),
        "demand.csv:2: rate_rps:code is empty; write 0 where nothing is asked",
    ),
    "another header": (
        rows(*GOOD, header="time,rate_rsp"),
        (
            "demand.csv:1: lacks the column 'rate_rps' (did you mean 'rate_rsp'?); the first line must name "
            "time,rate_rps and may name mix"
        ),
    ),
    "a naive time": (
        rows("2026-11-02T00:00:00,1", GOOD[1]),
        (
            "demand.csv:2: time '2026-11-02T00:00:00' names no offset, so the hour is not known; write "
            "2026-11-02T00:00:00Z for UTC or such as 2026-11-02T00:00:00+01:00"
        ),
    ),
    "no time": (
        rows("Monday,1", GOOD[1]),
        "demand.csv:2: time 'Monday' is not ISO 8601, such as 2026-11-02T09:00:00Z",
    ),
    "a negative rate": (
        rows(GOOD[0], "2026-11-02T01:00:00Z,-2"),
        "demand.csv:3: rate_rps is -2, below 0",
    ),
    "no number": (
        rows(GOOD[0], "2026-11-02T01:00:00Z,nan"),
        "demand.csv:3: rate_rps 'nan' is not a finite number",
    ),
    "text": (
        rows(GOOD[0], "2026-11-02T01:00:00Z,many"),
        "demand.csv:3: rate_rps 'many' is not a number",
    ),
    "an empty rate": (
        rows(GOOD[0], "2026-11-02T01:00:00Z,"),
        "demand.csv:3: rate_rps is empty; write 0 where nothing is asked",
    ),
    "too many": (
        rows(GOOD[0], "2026-11-02T01:00:00Z,1e9"),
        "demand.csv:3: rate_rps 1e+09 is above 1e+06; requests per second are meant",
    ),
    "a double": (
        rows(*GOOD, "2026-11-02T01:00:00+00:00,2"),
        (
            "demand.csv:4: 2026-11-02T01:00:00+00:00 comes twice: line 3 has it too (an hour that clocks repeat in autumn "
            "needs its own offset)"
        ),
    ),
    "a gap": (
        rows(*GOOD, "2026-11-02T04:00:00Z,3"),
        (
            "demand.csv:4: 2026-11-02T04:00:00+00:00: 2 steps are missing between this line and the one above (a step is "
            "1 h); give every step, 0 where nothing was asked"
        ),
    ),
    "another step": (
        rows(*GOOD, "2026-11-02T02:00:00Z,3", "2026-11-02T02:30:00Z,3"),
        "demand.csv:5: 2026-11-02T02:30:00+00:00 comes 30 min after the line above, but steps are 1 h: all must be equal",
    ),
    "another order": (
        rows(*GOOD, "2026-11-02T02:00:00Z,3", "2026-11-01T23:00:00Z,3"),
        "demand.csv:5: 2026-11-01T23:00:00+00:00 comes before the line above; sort the rows by time",
    ),
    "silence": (
        rows("2026-11-02T00:00:00Z,0", "2026-11-02T01:00:00Z,0"),
        "demand.csv: every rate is 0: there is nothing to serve",
    ),
    "a mix left out": (
        rows("2026-11-02T00:00:00Z,1,day", "2026-11-02T01:00:00Z,1,", header="time,rate_rps,mix"),
        "demand.csv:3: mix is empty; name the mix of sizes in every row or in none",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_one_line_with_file_and_line(tmp_path: Path, name: str) -> None:
    text, line = CASES[name]
    assert refused(tmp_path, text) == [line]


def test_every_line_at_fault_is_told_at_once_and_no_more_than_twenty(tmp_path: Path) -> None:
    bad = [f"2026-11-02T{hour:02}:00:00Z,x" for hour in range(24)]
    told = refused(tmp_path, rows(*bad))
    assert len(told) == 21 and told[-1] == "demand.csv: and 4 more"


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.csv", "no such file"), (tmp_path, "is a folder where")):
        with pytest.raises(InputError, match=reason):
            read_demand(path)


def test_offsets_comments_and_other_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "demand.csv"
    path.write_text(
        "# by hand\nregion,time,rate_rps,mix\neu,2026-11-02 00:00+0100,1.5,day\neu,2026-11-02T01:00:00.000+01,0,night\n\n"
    )
    found = read_demand(path)
    assert found.rate_rps == (1.5, 0.0) and found.labels == ("day", "night")
    assert found.starts[0] == datetime(2026, 11, 1, 23, tzinfo=timezone.utc)
    assert found.hours == 2


@pytest.mark.parametrize("change", [datetime(2026, 10, 25), datetime(2026, 3, 29)])
def test_a_day_on_which_clocks_change_is_a_day_of_equal_hours(
    tmp_path: Path, change: datetime
) -> None:
    """25 hours in autumn and 23 in spring, written in local time with offsets, are the same as in UTC."""
    zone = ZoneInfo("Europe/Berlin")
    first = change.replace(tzinfo=zone).astimezone(timezone.utc) - 12 * HOUR
    times = [first + n * HOUR for n in range(48)]
    rng = random.Random(4)
    rates = [round(rng.random(), 3) for _ in times]
    found = []
    for shown in (zone, timezone.utc):
        path = tmp_path / "demand.csv"
        lines = (
            f"{t.astimezone(shown).isoformat()},{r}" for t, r in zip(times, rates, strict=True)
        )
        path.write_text(rows(*lines))
        found.append(read_demand(path))
    local, utc = found
    assert local.rate_rps == utc.rate_rps and local.step_s == utc.step_s == 3600
    assert local.starts == utc.starts  # the same moments, in other offsets
    assert len({start.utcoffset() for start in local.starts}) == 2


@given(
    steps=st.integers(2, 40),
    minutes=st.sampled_from([1, 15, 60, 180]),
    offset_h=st.integers(-11, 13),
)
def test_any_equal_steps_in_any_offset_are_read_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, steps: int, minutes: int, offset_h: int
) -> None:
    path = tmp_path_factory.mktemp("demand") / "demand.csv"
    zone = timezone(timedelta(hours=offset_h))
    first = datetime(2026, 11, 2, tzinfo=zone)
    times = [first + n * timedelta(minutes=minutes) for n in range(steps)]
    path.write_text(rows(*(f"{t.isoformat()},{n + 1}" for n, t in enumerate(times))))
    found = read_demand(path)
    assert found.starts == tuple(times) and found.step_s == minutes * 60
    assert found.rate_rps == tuple(float(n + 1) for n in range(steps))


def test_a_week_is_repeated_with_growth_and_less_than_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "demand.csv"
    first = datetime(2026, 11, 2, tzinfo=timezone.utc)
    path.write_text(rows(*(f"{(first + n * HOUR).isoformat()},{n + 1}" for n in range(170))))
    found = read_demand(path).repeated(52, 0.5)
    assert len(found.starts) == 52 * 168 and found.starts[1] - found.starts[0] == HOUR
    assert found.rate_rps[168] == pytest.approx(1.5 ** (7 / 365))
    assert found.rate_rps[-1] == pytest.approx(168 * 1.5 ** ((52 * 168 - 1) / 8760))
    assert found.notes == ("2 steps beyond whole weeks are left out of what is repeated",)
    path.write_text(rows(*GOOD))
    with pytest.raises(InputError, match="covers 2 hours; give at least 168"):
        read_demand(path).repeated(52, 0.5)
