"""Write `reserve-week.csv`: an invented week of rates by the hour, shaped as chat traffic is.

    rate(t) = MEAN × day(t) × hours(t) × noise,   day: 1.18 from Monday to Friday, 0.55 on Saturday and Sunday,
    hours: 1 + 0.6 × sin(2π × (hour − 9) ÷ 24) of the local clock, noise: 0.9 to 1.1, evenly

The times are those of Berlin. The seed is fixed: the same file every time.

python examples/make_reserve_week.py
"""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

MONDAY = datetime(2026, 11, 2, tzinfo=ZoneInfo("Europe/Berlin"))
MEAN = 17.5
HOURS = 168


def factor(moment: datetime) -> float:
    """Return the rate at a moment as a multiple of `MEAN`, without noise."""
    day = 1.18 if moment.weekday() < 5 else 0.55
    return day * (1 + 0.6 * math.sin(2 * math.pi * (moment.hour - 9) / 24))


def lines() -> list[str]:
    """Return the file's lines."""
    rng = random.Random(21)
    rows = ["time,rate_rps"]
    for hour in range(HOURS):
        moment = MONDAY + timedelta(hours=hour)
        rows.append(f"{moment.isoformat()},{MEAN * factor(moment) * rng.uniform(0.9, 1.1):.2f}")
    return rows


def main() -> None:
    """Write the file beside this script."""
    text = "\n".join(lines()) + "\n"
    Path(__file__).with_name("reserve-week.csv").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
