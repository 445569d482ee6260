"""How fast this machine is, for limits in seconds that were set on another."""

from __future__ import annotations

import time

USUAL_S = 0.06
"""The processor's seconds for the loop below where the limits were set."""


def slowness() -> float:
    """Return how many times as long as there plain Python takes here at the moment, at its slowest; at least 1."""
    return max(1.0, max(_loop() for _ in range(5)) / USUAL_S)


def _loop() -> float:
    before = time.process_time()
    total = 0
    for number in range(1_000_000):
        total += number
    return time.process_time() - before
