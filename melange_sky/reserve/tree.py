"""Where a search over boxes of purchases stands."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from melange_sky.reserve.ascent import Climb
    from melange_sky.reserve.bounding import Shade
    from melange_sky.reserve.levels import Box

    Floats = NDArray[np.float64]


@dataclass(slots=True, kw_only=True)
class Tree:
    """The best purchase so far, the boxes that wait, least bound first, and the least bound of those done with.

    `here` is the bound of the box that is looked at, inf for none, `least` what no purchase of all comes below.
    """

    units: Floats
    value: float
    least: float = -np.inf
    done: float = np.inf
    here: float = np.inf
    waiting: list[tuple[float, int, Box, Shade | Climb | None]] = field(default_factory=list)
    order: Iterator[int] = field(default_factory=count)

    @property
    def floor(self) -> float:
        """What no purchase comes below."""
        boxes = [self.done, self.here, *(first[0] for first in self.waiting[:1])]
        return min(self.value, max(self.least, min(boxes)))

    def put(self, least: float, box: Box, shade: Shade | Climb | None = None) -> None:
        """Let a box wait."""
        heapq.heappush(self.waiting, (least, next(self.order), box, shade))

    def take(self) -> tuple[float, int, Box, Shade | Climb | None]:
        """Return the box that waits first, which waits no more."""
        return heapq.heappop(self.waiting)
