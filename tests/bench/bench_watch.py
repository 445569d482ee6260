"""A fleet that follows its traffic: three invented weeks, and what foretells best on days that were held back.

The weeks have a rate per minute of mean 16 req/s: `chat` a swing of 60 % and weekends at 62 % of workdays, `office` a
night at a tenth of the day, a steep morning, a lunch dip, and an hour of 35 % more on Wednesday, `spikes` is chat with two bursts a day that nobody foresees, of 40 to 100 % more for
20 to 80 minutes. All wander by 5 to 6 % over half an hour, with levels of days apart by 4 %, and requests are a Poisson
stream. Each week takes about two minutes of CPU. Run: `make bench`, or this file alone.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from table import Figure, note

import melange_sky
from melange_sky.planner.watching.asking import WatchOptions
from melange_sky.planner.watching.replay import TUNED_RULE, backtest
from melange_sky.watching.forecast import DAY, Forecaster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MINUTE, MEAN_RPS, AHEAD = 60, 16.0, 3
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


def told_week(kind: str) -> None:
    """Note what following a week costs against perfect foresight, and how well all serve."""
    with TemporaryDirectory() as place:
        folder, trace = Path(place) / "plan", Path(place) / f"{kind}.csv"
        melange_sky.write(melange_sky.plan(EXAMPLES / "chat.yaml", offline=True), folder)
        rates = week(kind, 1).reshape(-1, 5).mean(axis=1) * MEAN_RPS
        rows = [
            f"{(START + timedelta(minutes=5 * n)).isoformat()},{rate:.4f}\n"
            for n, rate in enumerate(rates)
        ]
        trace.write_text("time,rate_rps\n" + "".join(rows))
        found = backtest(folder, WatchOptions(replay=trace), lambda _text: None)
    beside = ", ".join(
        f"{one.name} {one.usd / found.perfect_usd:.3f} at {one.judged.attainment:.2%}"
        for one in found.contenders
        if one.judged is not None
    )
    best = next((one.usd for one in found.contenders if one.name == TUNED_RULE), math.inf)
    note(
        Figure(
            what=f"{kind} week followed ÷ SkyServe's rule at its best target, at equal attainment",
            ours=found.watched.usd / best,
            unit="",
            at_most=1.0,
            note=f"attainment {'held' if found.held else 'missed'}",
        )
    )
    note(
        Figure(
            what=f"{kind} week followed ÷ perfect foresight",
            ours=found.watched.usd / found.perfect_usd,
            unit="",
            at_most=1.10,
            note=beside,
        )
    )


def main() -> None:
    """Note every row."""
    for kind in ("chat", "office"):
        told_forecast(kind)
    for kind in ("chat", "office", "spikes"):
        told_week(kind)


if __name__ == "__main__":
    main()
