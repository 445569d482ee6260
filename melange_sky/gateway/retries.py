"""How many requests may be tried again at once: a failure of everything must not multiply the load."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from melange_sky.gateway.settings import Settings


class RetryBudget:
    """Places for second and later attempts, for the whole gateway: a share of the requests under way.

    A retry without a place waits for one, so that a burst of failures is paced rather than lost.
    """

    def __init__(self, settings: Settings, under_way: Callable[[], int]) -> None:
        """Start with all places free; `under_way` tells how many requests there are now."""
        self._settings, self._under_way = settings, under_way
        self.taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def _free(self) -> bool:
        share = int(self._settings.retry_share * self._under_way())
        return self.taken < max(self._settings.retries_least, share)

    async def take(self) -> bool:
        """Take a place, after a wait if there is none; False where none came free in time."""
        if not self._waiting and self._free():
            self.taken += 1
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await asyncio.wait([future], timeout=self._settings.queue_wait_s)
        except asyncio.CancelledError:
            if future.done():
                self.give_back()
            raise
        finally:
            if not future.done():
                self._waiting.remove(future)
        return future.done()

    def give_back(self) -> None:
        """Give a place back; it goes to who has waited longest."""
        self.taken -= 1
        while self._waiting and self._free():
            self.taken += 1
            self._waiting.popleft().set_result(None)
