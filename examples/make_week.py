"""Write `week.csv.gz`: an invented week of contract reviews, 30,000 long prompts.

Requests are a Poisson stream whose rate over the week is

    rate(t) = MEAN × day(t) × hours(t),   day: 1.3 from Monday to Friday, 0.25 on Saturday and Sunday,
    hours: 0.2 + 1.6 × max(0, sin(π × (hour − 7) ÷ 12)) between 7 and 19 o'clock, else 0.2

Prompts are 6,000 to 28,000 tokens (lognormal around 12,000), answers 100 to 900 (around 350), in steps of
500 and 50 tokens, so that the file stays small. The seed is fixed: the same file every time.

python examples/make_week.py
"""

from __future__ import annotations

import gzip
import math
import random
from datetime import datetime, timedelta
from pathlib import Path

MONDAY = datetime(2026, 11, 2)
MEAN = 0.066
WEEK_S = 7 * 86_400
MOST = 1.3 * 1.8
"""Largest value of day × hours."""


def factor(moment: datetime) -> float:
    """Return the rate at a moment as a multiple of `MEAN`."""
    hour = moment.hour + moment.minute / 60
    swing = max(0.0, math.sin(math.pi * (hour - 7) / 12)) if 7 <= hour <= 19 else 0.0
    return (1.3 if moment.weekday() < 5 else 0.25) * (0.2 + 1.6 * swing)


def size(rng: random.Random, middle: float, low: int, high: int, step: int) -> int:
    """Return a lognormal number of tokens between two bounds, in steps."""
    return min(high, max(low, round(rng.lognormvariate(math.log(middle), 0.45) / step) * step))


def lines() -> list[str]:
    """Return the file's lines: thinning of a stream at the highest rate (Lewis and Shedler, 1979)."""
    rng = random.Random(19)
    rows, now_s = ["TIMESTAMP,ContextTokens,GeneratedTokens"], 0.0
    while (now_s := now_s + rng.expovariate(MEAN * MOST)) < WEEK_S:
        moment = MONDAY + timedelta(seconds=int(now_s))
        if rng.random() * MOST < factor(moment):
            prompt, answer = size(rng, 12_000, 6_000, 28_000, 500), size(rng, 350, 100, 900, 50)
            rows.append(f"{moment:%Y-%m-%d %H:%M:%S},{prompt},{answer}")
    return rows


def main() -> None:
    """Write the file beside this script."""
    text = "\n".join(lines()) + "\n"
    path = Path(__file__).with_name("week.csv.gz")
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    main()
