"""What to commit and what to rent: a week and a year of hours, real GPUs and made-up ones, to a gap of 0.1 %.

Each question is held to MELANGE_BENCH_RESERVE_S (default 35 s) of its own; what is not proven by then tells the
gap that it had reached. Made-up options are those of `bench_optimizer.lifelike` (60 buckets). The demand has a daily
swing of 60 %, weekends at 55 % and noise; terms for the whole span at 55 to 75 % of the price on demand, blocks
over a quarter of it at 50 to 70 %, and a spend commitment at 65 to 80 %. Run: `make bench`, or this file alone.
"""

from __future__ import annotations

import os
import time

import numpy as np
from bench_optimizer import lifelike, real_gpus, real_options
from table import Figure, note

from melange_sky.optimizer import Problem
from melange_sky.optimizer.deadline import Deadline, TimeUpError
from melange_sky.reserve.advise import advise
from melange_sky.reserve.build import served_by
from melange_sky.reserve.question import Purchase, Question, Scenario

CAP_S = float(os.environ.get("MELANGE_BENCH_RESERVE_S", "35"))
WEEK, YEAR = 168, 8760
PEAK_RPS, LARGE_RPS = 44.7, 120.0
BUCKETS = (10, 6)


def demand_rps(hours: int, peak_rps: float) -> np.ndarray:
    """Hourly rates with a daily swing, calmer weekends and noise."""
    rng, hour = np.random.default_rng(0), np.arange(hours)
    day = 1 + 0.6 * np.sin(2 * np.pi * (hour % 24 - 9) / 24)
    week = np.where((hour // 24) % 7 >= 5, 0.55, 1.0)
    rate = day * week * rng.lognormal(0, 0.08, hours)
    return rate / rate.max() * peak_rps


def question(problem: Problem, hours: int, kinds: int, peak_rps: float = PEAK_RPS) -> Question:
    """Terms, then blocks, then a spend commitment: as many kinds as asked for."""
    names = tuple(o.option.name for o in problem.demands[0].options)
    rents = np.array([o.option.price_usd_per_hour for o in problem.demands[0].options])
    rng, options = np.random.default_rng(1), range(len(names))
    bought = [
        Purchase(name=f"term-{names[k]}", usd=c * hours, draws={k: 1.0}, most=20)
        for k, c in enumerate((rents * rng.uniform(0.55, 0.75, len(rents))).tolist())
    ]
    if kinds >= 2:
        active = np.zeros(hours, dtype=bool)
        active[hours // 4 : hours // 2] = True
        prices = (rents * rng.uniform(0.5, 0.7, len(rents)) * active.sum()).tolist()
        bought += [
            Purchase(name=f"block-{names[k]}", usd=c, draws={k: 1.0}, most=20, active=active)
            for k, c in enumerate(prices)
        ]
    if kinds >= 3:
        step = float(rents.max()) / 4
        draws = (rents * rng.uniform(0.65, 0.8, len(rents)) / step).tolist()
        spend = dict(zip(options, draws, strict=True))
        bought.append(Purchase(name="spend", usd=step * hours, draws=spend, most=60))
    base = Scenario(
        name="base",
        rate_rps=demand_rps(hours, peak_rps),
        rents=rents[None],
        price=np.zeros(hours, dtype=np.intp),
    )
    return Question(
        options=names,
        mixes=[served_by(problem, names)],
        mix=np.zeros(hours, dtype=np.intp),
        hours_each=1.0,
        scenarios=(base,),
        purchases=tuple(bought),
        within=1e-3,
    )


def told(what: str, asked: Question, at_most_s: float) -> None:
    """Note the time to an answer and its gap."""
    start = time.perf_counter()
    try:
        advice = advise(asked, deadline=Deadline.after(CAP_S))
    except TimeUpError:
        note(Figure(what=what, ours=None, at_most=at_most_s, note="no answer in time"))
        return
    taken = time.perf_counter() - start
    saved = 1 - advice.totals.chosen_usd / advice.totals.all_on_demand_usd
    gap = f"gap {advice.gap:.2%} (target ≤ 0.1 %), saves {saved:.1%} of all on demand"
    note(Figure(what=what, ours=taken, at_most=at_most_s, note=gap))


def main() -> None:
    """Note every row."""
    real = real_gpus(PEAK_RPS)
    told("a week, 4 real GPUs, terms", question(real, WEEK, 1), 20.0)
    told("a year, 4 real GPUs, terms", question(real, YEAR, 1), 60.0)
    many = real_options(16, PEAK_RPS)
    told("a week, 16 real options, 3 kinds", question(many, WEEK, 3), 20.0)
    told("a year, 16 real options, 3 kinds", question(many, YEAR, 3), 60.0)
    large = question(real_options(16, LARGE_RPS), WEEK, 3, LARGE_RPS)
    told(f"a week at {LARGE_RPS:g} req/s, 16 real options, 3 kinds", large, 30.0)
    told("a week, 8 made-up options, terms", question(_made(8, 6), WEEK, 1), 20.0)
    told("a week, 16 made-up options, 3 kinds", question(_made(16, 3), WEEK, 3), 20.0)


def _made(options: int, seed: int) -> Problem:
    return lifelike(BUCKETS, options, PEAK_RPS, seed)


if __name__ == "__main__":
    main()
