"""What a step takes, in seconds. Plain functions for `compiled`."""

from __future__ import annotations

import math

from melange_sky.simulator import state as c
from melange_sky.simulator.state import FleetState


def windows_s(s: FleetState, r: int, context: int) -> float:
    """Seconds that layers with a window read for a sequence that attends to so many tokens."""
    seconds = 0.0
    for number in range(s.whole[r, c.WINDOWS]):
        at = c.WINDOW_WHOLE + number * c.WINDOW_COLUMNS
        window = s.whole[r, at + c.TOKENS]
        seen = min(context, window)
        if s.whole[r, at + c.IN_CHUNKS] == 1:
            seen = (context - 1) % window + 1
        seconds += seen * s.real[r, c.WINDOW_REAL + 2 * number + c.WINDOW_KV]
    return seconds


def windows_growth_s(s: FleetState, r: int, context: int) -> float:
    """How much longer that takes with one token more, the end of a chunk apart."""
    seconds = 0.0
    for number in range(s.whole[r, c.WINDOWS]):
        at = c.WINDOW_WHOLE + number * c.WINDOW_COLUMNS
        if context < s.whole[r, at + c.TOKENS] or s.whole[r, at + c.IN_CHUNKS] == 1:
            seconds += s.real[r, c.WINDOW_REAL + 2 * number + c.WINDOW_KV]
    return seconds


def products(s: FleetState, r: int, tokens: int) -> float:
    """Matrix products of a step, extended along the table's last slope beyond its end."""
    table = s.tables[s.whole[r, c.TABLE]]
    last = len(table) - 1
    if tokens <= last:
        return table[tokens]
    return table[last] + (tokens - last) * (table[last] - table[last - 1])


def _pairs(tokens: int, window: int, chunked: int) -> float:
    """(query, key) pairs of a prompt of so many tokens within a window or chunks."""
    if chunked == 1:
        left = tokens % window
        return tokens // window * (window * (window + 1) / 2.0) + left * (left + 1) / 2.0
    inside = min(tokens, window)
    return inside * (inside + 1) / 2.0 + (tokens - inside) * float(window)


def chunk_s(s: FleetState, r: int, done: int, chunk: int) -> float:
    """Attention of a prefill chunk after `done` tokens, and what waits for it, in seconds."""
    seconds = chunk * (done + (chunk + 1) / 2.0) * s.real[r, c.PER_PAIR]
    seconds += chunk * s.real[r, c.PER_PROMPT_TOKEN]
    for number in range(s.whole[r, c.WINDOWS]):
        at = c.WINDOW_WHOLE + number * c.WINDOW_COLUMNS
        window, chunked = s.whole[r, at + c.TOKENS], s.whole[r, at + c.IN_CHUNKS]
        pairs = _pairs(done + chunk, window, chunked) - _pairs(done, window, chunked)
        seconds += pairs * s.real[r, c.WINDOW_REAL + 2 * number + c.WINDOW_PAIR]
    return seconds


def step_s(s: FleetState, r: int, sequences: int, tokens: int, prefill_s: float) -> float:
    """One step: the decoding sequences and the prefill tokens beside them, if any."""
    return (
        s.real[r, c.FIXED]
        + sequences * s.real[r, c.PER_SEQUENCE]
        + products(s, r, tokens)
        + s.real[r, c.READ]
        + prefill_s
    )


def steps_until(first: float, slope: float, seconds: float) -> int:
    """Smallest k ≥ 1 with k first + slope k (k − 1) / 2 ≥ seconds."""
    if slope * seconds < 1e-12 * first * first:
        steps = seconds / first
    else:
        half = first - slope / 2.0
        steps = (math.sqrt(half * half + 2.0 * slope * seconds) - half) / slope
    k = max(1, int(steps))
    while k * first + slope * k * (k - 1) / 2.0 < seconds:
        k += 1
    return k
