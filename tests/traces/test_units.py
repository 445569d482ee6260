"""The unit of times: right or asked for, never wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.spec.trace_files import histogram_of_trace
from melange_sky.traces import read_options, trace_blocks
from melange_sky.traces.units import Numbers, unit_by_evidence
from melange_sky.workload import TraceFiles

TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def arrivals(rng: random.Random, count: int, rate_rps: float) -> list[float]:
    at, found = rng.uniform(0, 5), []
    for _ in range(count):
        at += rng.expovariate(rate_rps)
        found.append(at)
    return found


def read_as(times_s: list[float], unit: str, whole: bool, usual: str | None) -> str | None:
    """The unit that such times are read in, None for asked."""
    numbers = [t * TICKS[unit] for t in times_s]
    numbers = [float(int(n)) for n in numbers] if whole else [round(n, 3) for n in numbers]
    told = Numbers(
        rows=len(numbers),
        low=min(numbers),
        high=max(numbers),
        has_fractions=any(n % 1 for n in numbers),
    )
    try:
        return unit_by_evidence(told, usual, "timestamp", "t").name
    except InputError as error:
        assert "say which: --columns time=timestamp:" in str(error)
        return None


@pytest.mark.parametrize("usual", ["ms", None])
@pytest.mark.parametrize(
    ("unit", "whole"),
    [("s", False), ("s", True), ("ms", True), ("ms", False), ("us", True), ("ns", True)],
)
def test_no_unit_is_guessed_wrong(unit: str, whole: bool, usual: str | None) -> None:
    """Traffic as it is planned for: a request in ten seconds to forty a second, for minutes to half a day."""
    asked = 0
    for seed in range(60):
        rng = random.Random(seed)
        rate_rps = 10 ** rng.uniform(-1, 1.6)
        span_s = 10 ** rng.uniform(2.6, 4.6)
        times_s = arrivals(rng, max(30, min(4000, int(rate_rps * span_s))), rate_rps)
        found = read_as(times_s, unit, whole, usual)
        assert found in (unit, None), (seed, rate_rps, span_s, found)
        asked += found is None
    if (unit, whole, usual) in {("s", False, None), ("ms", True, "ms")}:
        assert asked <= 6, "what such logs usually hold is read without a question"


@pytest.mark.parametrize(("unit", "whole"), [("s", False), ("ms", True)])
def test_mooncake_and_its_kin(tmp_path: Path, unit: str, whole: bool) -> None:
    times_s = arrivals(random.Random(1), 1500, 2.0)
    ticks = TICKS[unit]
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "timestamp": int(t * ticks) if whole else round(t * ticks, 3),
                    "input_length": 9,
                    "output_length": 5,
                }
            )
            + "\n"
            for t in times_s
        )
    )
    rate_rps = histogram_of_trace(path).rate_rps
    assert rate_rps == pytest.approx(1499 / (times_s[-1] - times_s[0]), rel=1e-3)


def log(path: Path, times: list[str], header: str = "time,input_tokens,output_tokens") -> Path:
    path.write_text(header + "\n" + "".join(f"{t},9,5\n" for t in times))
    return path


@pytest.mark.parametrize(
    ("header", "times", "words"),
    [
        (
            "time,input_tokens,output_tokens",
            [str(k * 500) for k in range(1200)],
            (
                "the unit of time is not told: 1200 requests, 6.94 days at 0.002 req/s in seconds or 9.99 min at 2 req/s"
                " in milliseconds; say which: --columns time=time:s (or :ms, :us, :ns)"
            ),
        ),
        (
            "time_ms,input_tokens,output_tokens",
            [f"{k * 0.5:.3f}" for k in range(1200)],
            (
                "1200 requests within 0.6 s (2002 req/s) are no stretch of traffic: time_ms read as milliseconds"
                " (as time_ms is named); say the unit, --columns time=time_ms:s"
            ),
        ),
        (
            "time_s,input_tokens,output_tokens",
            [str(k * 5_000_000) for k in range(1200)],
            "its times span 190 years, from 0 s to 5.995e+09 s: time_s read as seconds",
        ),
        (
            "time,input_tokens,output_tokens",
            ["2025-03-28 10:00:00"] * 200,
            "200 requests within 0 s are no stretch of traffic: time read as dates that name no zone",
        ),
        (
            "time,input_tokens,output_tokens",
            ["1970-01-01T00:00:00Z", *(f"2025-03-28T10:00:{k % 60:02}Z" for k in range(50))],
            "its times span 55.2 years, from 1970-01-01 00:00:00 to 2025-03-28 10:00:49: time read as dates, UTC",
        ),
    ],
)
def test_what_cannot_be_stops_with_the_line_that_explains(
    tmp_path: Path, header: str, times: list[str], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        histogram_of_trace(log(tmp_path / "t.csv", times, header))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_unit_that_is_given_is_taken(tmp_path: Path) -> None:
    path = log(tmp_path / "t.csv", [str(k * 500) for k in range(1200)])
    for unit, ticks in TICKS.items():
        options = read_options(f"time=time:{unit}")
        if unit in ("s", "ms"):
            rate = histogram_of_trace(TraceFiles(files=(path,), options=options)).rate_rps
            assert rate == pytest.approx(ticks / 500)
        (block,) = trace_blocks(path, options)
        assert block.arrival_s[-1] == pytest.approx(1199 * 500 / ticks)


@pytest.mark.parametrize(
    ("name", "per_hour"),
    [("time_min", 60), ("time_hours", 1), ("arrival_minute", 60), ("time", 3600)],
)
def test_minutes_and_hours_are_read_as_the_column_is_named(
    name: str, per_hour: float, tmp_path: Path
) -> None:
    path = tmp_path / "log.csv"
    rows = "".join(f"{n},100,50\n" for n in range(200))
    path.write_text(f"{name},input_tokens,output_tokens\n{rows}")
    (block,) = trace_blocks(path, read_options(None))
    assert block.arrival_s[-1] == pytest.approx(199 * 3600 / per_hour)
