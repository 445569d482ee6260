"""Whether requests still have the sizes that fleets are reckoned for: a test of what they cost to serve. Pure.

What counts is not how the sizes are spread but what a request takes of a replica: the load of the mix that was seen ÷
that of the mix in force, on each option that runs. A mix has moved where that is off by a part that matters, and by
more than so many requests drawn from one mix differ by chance, in two windows in a row where requests became heavier,
in all of an hour where they became lighter: real traffic wanders by a tenth within half an hour (Azure's trace of 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

WINDOW_S = 600.0
LEAST_REQUESTS = 1000.0
"""A window is as long as it takes for both."""

MATTERS = 0.05
SURE = 4.0
"""Standard deviations: a few requests of a bursty client are no new mix."""
HEAVIER_WINDOWS, LIGHTER_WINDOWS = 2, 6
"""So many windows in a row must agree."""
LONGEST_LOOK_S = 900.0


@dataclass(slots=True)
class MixLog:
    """The sizes of a fleet's requests over windows of time.

    `now` is the mix in force, at first the plan's: shares of the requests by size, (inputs × outputs of the plan's
    grid), that add up to 1. `loads` are replica-seconds of a request by option, (inputs × outputs), NaN where that is
    not known. `last` tells of the last window: the logarithm of how much heavier its requests were, 0 where not surely.
    """

    now: Floats
    loads: Mapping[str, Floats]
    last: float = 0.0
    _looked_s: float | None = None
    _begun_s: float = 0.0
    _seen: Floats = field(init=False)
    _agreeing: list[Floats] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin the first window."""
        self._seen = np.zeros_like(self.now)

    def add(self, time_s: float, rates: Floats | None, live: Iterable[str]) -> bool:
        """Take in a look's rates by size; return whether the mix in force moved. `live`: options that run."""
        looked_s, self._looked_s = self._looked_s, time_s
        if looked_s is None or not looked_s < time_s <= looked_s + LONGEST_LOOK_S:
            self._begin(time_s)
            return False
        if rates is None or rates.shape != self._seen.shape:
            return False
        self._seen += rates * (time_s - looked_s)
        requests = float(self._seen.sum())
        if time_s - self._begun_s < WINDOW_S or requests < LEAST_REQUESTS:
            return False
        before, self.last = self.last, self.off(self._seen, live)
        if before * self.last <= 0:
            self._agreeing.clear()
        if self.last:
            self._agreeing.append(self._seen)
        self._begin(time_s)
        return self._moves()

    def _moves(self) -> bool:
        """Take the mix of windows that agree, the last one's where requests became heavier, all of theirs else."""
        is_heavier = self.last > 0
        if len(self._agreeing) < (HEAVIER_WINDOWS if is_heavier else LIGHTER_WINDOWS):
            return False
        seen = self._agreeing[-1] if is_heavier else sum(self._agreeing[1:], self._agreeing[0])
        self.now, self.last = seen / seen.sum(), 0.0
        self._agreeing.clear()
        return True

    def off(self, requests: Floats, live: Iterable[str]) -> float:
        """Return the logarithm of how much heavier requests are than the mix in force, 0 where not surely.

        Of several options' the one that is furthest off.
        """
        found = [0.0]
        count = float(requests.sum())
        for load in (self.loads[name] for name in live if name in self.loads):
            if not np.isfinite(load).any():
                continue
            costs = np.where(
                np.isfinite(load), load, np.nanmax(load)
            )  # not known: no less than any
            mean = float((self.now * costs).sum())
            spread = math.sqrt(max(float((self.now * (costs - mean) ** 2).sum()), 0.0))
            ratio = float((requests * costs).sum()) / count / mean
            if abs(ratio - 1) > max(MATTERS, SURE * spread / mean / math.sqrt(count)):
                found.append(math.log(max(ratio, 1e-9)))
        return max(found, key=abs)

    def _begin(self, time_s: float) -> None:
        self._begun_s = time_s
        self._seen = np.zeros_like(self._seen)
