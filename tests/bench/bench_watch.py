"""A fleet that follows its traffic: three invented weeks, and what foretells best on days that were held back.

The weeks have a rate per minute of mean 16 req/s: `chat` a swing of 60 % and weekends at 62 % of workdays, `office` a
night at a tenth of the day, a steep morning, a lunch dip, and an hour of 35 % more on Wednesday, `spikes` is chat with two bursts a day that nobody foresees, of 40 to 100 % more for
20 to 80 minutes. All wander by 5 to 6 % over half an hour, with levels of days apart by 4 %, and requests are a Poisson
stream. Each week takes about two minutes of CPU. Run: `make bench`, or this file alone. Ten weeks of a kind, each by
itself and then together: `bench_watch.py --week office 3 100000 >> weeks.txt`, `bench_watch.py --weeks weeks.txt`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import scipy.stats
from table import Figure, note

import melange_sky
from melange_sky.planner.watching.asking import WatchOptions
from melange_sky.planner.watching.replay import MOST_REQUESTS, backtest
from melange_sky.watching.forecast import DAY, Forecaster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MINUTE, MEAN_RPS, AHEAD = 60, 16.0, 3
TARGET = 0.95
EQUAL = "the rule at equal attainment"
START = datetime(2026, 11, 2, tzinfo=timezone.utc)


def week(kind: str, seed: int, days: int = 7) -> np.ndarray:
    """Rates per minute of `days` days from a Monday on, mean 1."""
    rng = np.random.default_rng(seed)
    count = days * 1440
    at_s = np.arange(count) * MINUTE
    hour, day = (at_s % 86_400) / 3600, (at_s // 86_400) % 7
    if kind != "office":
        turn = 2 * np.pi * (hour - 9) / 24
        base = np.where(day < 5, 1.12, 0.7) * (1 + 0.6 * np.sin(turn) + 0.1 * np.sin(2 * turn))
    else:
        up, down = 1 / (1 + np.exp(-(hour - 8.5) * 3)), 1 / (1 + np.exp((hour - 18) * 2))
        lunch = 1 - 0.25 * np.exp(-(((hour - 12.7) / 0.6) ** 2))
        free = 0.2 + 0.15 * np.sin(np.pi * (hour - 6) / 14).clip(0)
        base = np.where(day < 5, 0.15 + 1.7 * up * down * lunch, free)
    level = np.exp(rng.normal(0, 0.04, days + 1))
    base = base * np.interp(at_s / 86_400, np.arange(days + 1), level)
    keep = math.exp(-MINUTE / 1800)
    wander = np.zeros(count)
    for n, step in enumerate(rng.normal(0, math.sqrt(1 - keep * keep), count)):
        wander[n] = keep * wander[n - 1] + step
    rate = base * np.exp((0.05 if kind == "office" else 0.06) * wander)
    if kind == "office":
        spike = 2 * 1440 + 14 * 60
        rate[spike : spike + 60] *= 1.35
    if kind == "spikes":
        for day_start in np.repeat(np.arange(days) * 1440, 2).tolist():
            begin, lasts = day_start + int(rng.integers(0, 1350)), int(rng.integers(20, 80))
            slope = np.minimum(np.arange(lasts), lasts - np.arange(lasts)) / 5
            rate[begin : begin + lasts] *= 1 + rng.uniform(0.4, 1.0) * slope.clip(0, 1)
    return np.asarray(rate / rate.mean())


def foretold(kind: str, seed: int) -> dict[str, float]:
    """Pinball loss at 0.9 of the highest five minutes in the next quarter of an hour, after a day, as % of the mean."""
    rng = np.random.default_rng(seed + 1000)
    rates = rng.poisson(week(kind, seed) * MEAN_RPS * MINUTE) / MINUTE
    steps = rates.reshape(-1, 5).mean(axis=1)
    came = np.array([steps[n : n + AHEAD].max() for n in range(1, len(steps) - AHEAD + 1)])
    forecaster, ours = Forecaster(AHEAD * 300.0), []
    for n, rate in enumerate(rates.tolist()):
        forecaster.add(n * MINUTE, rate)
        told = forecaster.forecast()
        if n % 5 == 0 and n:  # the step before has just ended
            assert told is not None
            ours.append(told.high_rps)
    told_at = {"chosen by its errors": np.array(ours)[: len(came)]}
    naive = np.array([steps[n - DAY : n - DAY + AHEAD].max() for n in range(DAY, len(steps))])
    seasonal = np.full(len(came), np.nan)
    seasonal[DAY - 1 :] = naive[: len(came) - DAY + 1]
    told_at["seasonal-naive"] = _with_band(seasonal, came)
    found = {}
    for name, high in told_at.items():
        over = came[2 * DAY :] - high[2 * DAY :]
        found[name] = float(np.where(over > 0, 0.9 * over, -0.1 * over).mean() / came.mean() * 100)
    return found


def _with_band(expected: np.ndarray, came: np.ndarray) -> np.ndarray:
    errors = np.log(came / expected)
    high = expected.copy()
    for n in range(2 * DAY, len(came)):
        high[n] *= math.exp(float(np.nanquantile(errors[n - AHEAD - DAY + 1 : n - AHEAD + 1], 0.9)))
    return high


def told_forecast(kind: str) -> None:
    """Note how far forecasts were off, over two seeds."""
    rows = [foretold(kind, seed) for seed in (1, 2)]
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    beside = ", ".join(f"{name} {loss:.2f} %" for name, loss in mean.items())
    note(
        Figure(
            what=f"forecast of {kind}, a quarter of an hour ahead",
            ours=mean["chosen by its errors"],
            unit="%",
            at_most=mean["seasonal-naive"],
            note=f"pinball loss at 0.9: {beside}",
        )
    )


@dataclass(frozen=True)
class Week:
    """What a week cost ÷ perfect foresight by contender, the attainment of each, and how far that may be off."""

    cost: dict[str, float]
    attainment: dict[str, float]
    half_width: dict[str, float]


def played_week(kind: str, seed: int, most_requests: int = MOST_REQUESTS) -> Week:
    """Play a week through the watcher and its rivals, so many requests of each."""
    with TemporaryDirectory() as place:
        folder, trace = Path(place) / "plan", Path(place) / f"{kind}.csv"
        melange_sky.write(melange_sky.plan(EXAMPLES / "chat.yaml", offline=True), folder)
        rates = week(kind, seed).reshape(-1, 5).mean(axis=1) * MEAN_RPS
        rows = [
            f"{(START + timedelta(minutes=5 * n)).isoformat()},{rate:.4f}\n"
            for n, rate in enumerate(rates)
        ]
        trace.write_text("time,rate_rps\n" + "".join(rows))
        options = WatchOptions(replay=trace, seed=seed)
        found = backtest(folder, options, lambda _text: None, most_requests=most_requests)
    judged = {one.name: one.judged for one in found.contenders if one.judged is not None}
    cost = {one.name: one.usd / found.perfect_usd for one in found.contenders}
    for one in found.contenders:
        if one.usd_at_equal is not None:
            cost[EQUAL] = one.usd_at_equal / found.perfect_usd
    return Week(
        cost=cost,
        attainment={name: one.attainment for name, one in judged.items()},
        half_width={name: one.half_width for name, one in judged.items()},
    )


def told_week(kind: str) -> None:
    """Note what following a week costs against perfect foresight, and how well all serve."""
    found = played_week(kind, 1)
    ours, best = found.cost["watched"], found.cost.get(EQUAL, math.inf)
    beside = ", ".join(
        f"{name} {found.cost[name]:.3f} at {reached:.2%} ± {found.half_width[name]:.2%}"
        for name, reached in found.attainment.items()
    )
    held = "held" if found.attainment["watched"] >= TARGET else "missed"
    what = f"{kind} week followed ÷ SkyServe's rule at its best target, at equal attainment"
    note(Figure(what=what, ours=ours / best, unit="", at_most=1.0, note=f"attainment {held}"))
    what = f"{kind} week followed ÷ perfect foresight"
    note(Figure(what=what, ours=ours, unit="", at_most=1.10, note=beside))


def told_weeks(lines: list[str]) -> None:
    """Print over the weeks that `--week` printed what following cost beside each rival, with intervals by Student's t."""
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    for kind in sorted({row["kind"] for row in rows}):
        weeks = [row for row in rows if row["kind"] == kind]
        print(f"{kind}: {len(weeks)} weeks")
        ours = [row["attainment"]["watched"] for row in weeks]
        print(f"  attainment {_interval(ours)}, least {min(ours):.4f}")
        print(f"  ÷ perfect foresight {_interval([row['cost']['watched'] for row in weeks])}")
        for rival in sorted({name for row in weeks for name in row["cost"]} - {"watched"}):
            both = [row for row in weeks if rival in row["cost"]]
            ratios = [math.log(row["cost"]["watched"] / row["cost"][rival]) for row in both]
            more = [
                row["attainment"]["watched"] - row["attainment"][rival]
                for row in both
                if rival != EQUAL
            ]
            beside = f", attainment more by {_interval(more)}" if more else ""
            print(f"  ÷ {rival} {_interval(ratios, math.exp)} ({len(both)} weeks){beside}")


def _interval(values: list[float], shown: Callable[[float], float] = float) -> str:
    """Return the mean and within what it lies in 95 of 100 cases."""
    mean, count = float(np.mean(values)), len(values)
    half = math.inf
    if count > 1:
        half = float(scipy.stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5)
    return f"{shown(mean):.4f} [{shown(mean - half):.4f}, {shown(mean + half):.4f}]"


def main() -> None:
    """Note every row; with `--week KIND SEED REQUESTS` print one week, with `--weeks FILE` what such lines say together."""
    match sys.argv[1:]:
        case ["--week", kind, seed, requests]:
            found = played_week(kind, int(seed), int(requests))
            print(json.dumps({"kind": kind, "seed": int(seed), **asdict(found)}))
            return
        case ["--weeks", path]:
            told_weeks(Path(path).read_text().splitlines())
            return
    for kind in ("chat", "office"):
        told_forecast(kind)
    for kind in ("chat", "office", "spikes"):
        told_week(kind)


if __name__ == "__main__":
    main()
