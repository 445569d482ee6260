"""Until when a solve may go on: one reading of one clock, handed to everything that takes time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

T = TypeVar("T")


class TimeUpError(Exception):
    """The deadline passed before there was an answer. Never leaves the optimizer and the planner."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A reading of `clock` in seconds past which no more work is begun; `math.inf` for never."""

    at_s: float
    clock: Callable[[], float] = field(default=time.perf_counter, repr=False, compare=False)

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.perf_counter) -> Deadline:
        """Return the deadline so many seconds from now."""
        return cls(clock() + seconds, clock)

    @property
    def left_s(self) -> float:
        """Seconds until then, 0 once it has passed."""
        return max(0.0, self.at_s - self.clock())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.clock() >= self.at_s

    def check(self) -> None:
        """Raise TimeUpError where no time is left."""
        if self.passed:
            raise TimeUpError

    def within(self, seconds: float) -> Deadline:
        """Return the sooner of this deadline and the one so many seconds from now."""
        return replace(self, at_s=min(self.at_s, self.clock() + seconds))

    def at_least(self, seconds: float) -> Deadline:
        """Return the later of this deadline and the one so many seconds from now."""
        return replace(self, at_s=max(self.at_s, self.clock() + seconds))

    def share(self, fraction: float) -> Deadline:
        """Return the deadline after this fraction of the time that is left."""
        now = self.clock()
        return replace(self, at_s=now + fraction * max(0.0, self.at_s - now))

    def of_one(self, left: int) -> Deadline:
        """Return the deadline of the next of so many pieces of work: twice its even part, for most need little."""
        return self.share(2 / (left + 1))

    def of_each(self, pieces: Sequence[T]) -> Iterator[tuple[T, Deadline]]:
        """Yield pieces of work one after the other, each with its part of what the ones before left."""
        for left, piece in zip(range(len(pieces), 0, -1), pieces, strict=True):
            yield piece, self.of_one(left)


NEVER = Deadline(math.inf)
"""No limit of time."""
