"""What sampled requests share, where only figures tell of it: each goes on with an earlier one, or begins anew.

Sizes and arrivals stay as they were drawn. Which requests go on follows the figures: as many that an endless
cache finds what it should (or as many as sessions have turns), and each with one whose last request is as long ago as the
stack-distance curve (or the think time) says. What a request goes on with must fit into its prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.prefixes.sessions import paths_of_sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from melange_sky.reuse import PrefixPaths, Reuse

    Whole = NDArray[np.int64]
    Floats = NDArray[np.float64]

LIKELY = 0.5
"""A session goes on after a time that is off the drawn one by no more than this part of it."""

MOST_OPEN = 4096
"""Sessions that are waiting to be gone on with; the oldest beyond that ended."""


@dataclass(slots=True, kw_only=True)
class _Open:
    """Sessions that may go on, as a ring: time of their last request, tokens by then, and which it was."""

    at_s: Floats = field(default_factory=lambda: np.full(MOST_OPEN, -np.inf))
    tokens: Whole = field(default_factory=lambda: np.full(MOST_OPEN, np.iinfo(np.int64).max))
    request: Whole = field(default_factory=lambda: np.full(MOST_OPEN, -1))
    next: int = 0

    def put(self, at_s: float, tokens: int, request: int, place: int | None) -> None:
        if place is None:
            place, self.next = self.next, (self.next + 1) % MOST_OPEN
        self.at_s[place], self.tokens[place], self.request[place] = at_s, tokens, request

    def nearest(self, now_s: float, lag_s: float, most_tokens: int) -> int | None:
        """Return the place of the session whose last request is nearest to `lag_s` ago, of those that fit.

        None where the nearest is no likely one.
        """
        off = np.where(self.tokens <= most_tokens, np.abs(self.at_s - (now_s - lag_s)), np.inf)
        place = int(np.argmin(off))
        return place if off[place] <= LIKELY * lag_s else None


def sampled_paths(
    arrival_s: Floats,
    input_tokens: Whole,
    output_tokens: Whole,
    reuse: Reuse,
    rng: np.random.Generator,
) -> PrefixPaths:
    """Return what N requests with rising arrivals share by the figures of `reuse`; arrays of shape (N,)."""
    count = len(arrival_s)
    before, session = np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=np.int64)
    waiting, sessions = _Open(), 0
    lag_s = _lags(arrival_s, input_tokens, output_tokens, reuse, rng)
    turns = 1.0 if reuse.session_turns is None else reuse.session_turns.mean
    prompts = found = 0
    rows = zip(
        arrival_s.tolist(),
        input_tokens.tolist(),
        (input_tokens + output_tokens).tolist(),
        strict=True,
    )
    for i, (at_s, given, whole) in enumerate(rows):
        prompts += given
        shared = min(reuse.shared_prefix_tokens, given)
        place = None
        if reuse.stack_distance:
            is_due = found + shared < reuse.infinite_hit * prompts
        else:
            is_due = i - sessions < (1.0 - 1.0 / turns) * i
        if is_due:
            place = waiting.nearest(at_s, lag_s(), given - 1)
        if place is None:
            session[i] = sessions
            sessions += 1
            found += shared if i else 0
        else:
            before[i] = waiting.request[place]
            session[i] = session[before[i]]
            found += int(waiting.tokens[place])
        waiting.put(at_s, whole, i, place)
    return paths_of_sessions(
        session, input_tokens, output_tokens, reuse.shared_prefix_tokens, turn_of=before
    )


def _lags(
    arrival_s: Floats,
    input_tokens: Whole,
    output_tokens: Whole,
    reuse: Reuse,
    rng: np.random.Generator,
) -> Callable[[], float]:
    """Return what draws how long ago the request was that the next one goes on with, in seconds."""
    think = reuse.think_time_s
    span_s = float(arrival_s[-1] - arrival_s[0]) if len(arrival_s) > 1 else 0.0
    if reuse.stack_distance:
        tokens, fractions = (np.array(column) for column in zip(*reuse.stack_distance, strict=True))
        # Of the prompts since then about half as much was found within that time as such a memory finds.
        used = input_tokens.sum() * (1 - fractions / 2) + output_tokens.sum()
        lags_s = tokens * (span_s / np.maximum(used, 1.0))
        # what all share is found at once and says nothing of sessions
        lowest = min(reuse.shared_fraction, float(fractions[-1]))
        return lambda: float(np.interp(rng.uniform(lowest, fractions[-1]), fractions, lags_s))
    if think is None:
        return lambda: span_s
    sigma = _sigma(think.p95 / think.mean)
    return lambda: float(rng.lognormal(math.log(think.mean) - sigma**2 / 2, sigma))


def _sigma(ratio: float) -> float:
    """Return the sigma of a log-normal law whose 95th percentile is `ratio` times its mean."""
    z = 1.6448536
    return z - math.sqrt(max(z * z - 2 * math.log(max(ratio, 1.0)), 0.0))
