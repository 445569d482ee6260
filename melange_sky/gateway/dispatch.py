"""From a request to a replica: choose one, wait for one while all are full, give it back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from melange_sky.gateway.client_request import Refusal
from melange_sky.gateway.service import Lease, Waiting
from melange_sky.routing import policy

if TYPE_CHECKING:
    from melange_sky.gateway.backend import Backend
    from melange_sky.gateway.metrics import Metrics
    from melange_sky.gateway.service import RequestSize, Service
    from melange_sky.gateway.sessions import Sessions
    from melange_sky.gateway.settings import Settings


class Dispatcher:
    """Hands out leases. One per gateway."""

    def __init__(self, settings: Settings, metrics: Metrics, sessions: Sessions) -> None:
        """Start with empty queues; call within a running loop."""
        self._loop = asyncio.get_running_loop()
        self._settings, self._metrics, self._sessions = settings, metrics, sessions
        self._finished_per_s = 0.0
        self._last_finish_s: float | None = None

    async def lease(self, service: Service, size: RequestSize, tried: Sequence[Backend]) -> Lease:
        """Return a place at the replica that the policy chooses; waits while all are full, or a balancer has none.

        Raises Refusal: 429 with Retry-After where the queue is full or the wait too long, 503 where no
        replica that was not yet `tried` is healthy.
        """
        place = self._try(service, size, tried)
        if place == policy.FULL:
            place = await self._queue(service, size, tried)
        if isinstance(place, Lease):
            return place
        raise self._without_replica()

    def _without_replica(self) -> Refusal:
        return Refusal(
            503,
            "no healthy replica serves this model now",
            "no_replica",
            retry_after_s=math.ceil(self._settings.probe_every_s),
        )

    def _try(self, service: Service, size: RequestSize, tried: Sequence[Backend]) -> Lease | int:
        router = service.router
        request_class = router.class_of(size.input_tokens, size.max_tokens)
        longest = size.longest_tokens
        session = 0 if size.session is None else size.session.number
        slot, need, reason = self._kept(service, size, tried)
        if slot < 0 and tried:  # better one whose last request went well
            doubtful = [b for b in service.backends if b.suspect or b in tried]
            slot, need, reason = router.route(request_class, longest, _slots(doubtful), session)
        if slot < 0:
            slot, need, reason = router.route(request_class, longest, _slots(tried), session)
        if reason == policy.DOWN:
            with service.last_resort(tried) as opened:
                if opened:
                    slot, need, reason = router.route(
                        request_class, longest, _slots(tried), session
                    )
        if slot < 0:
            return policy.FULL if service.is_vacant(tried) else reason
        backend = service.by_slot[slot]
        trial = service.begin(backend, self._loop.time())
        self._metrics.decisions.add(service.name, backend.option, policy.REASONS[reason])
        if size.session is not None:
            how = self._sessions.went(size.session, backend, router.place)
            self._metrics.affinity.add(service.name, backend.option, how)
        more = (router.add(request_class, slot) for _ in range(size.sequences - 1))
        offset = slot - backend.slots[0]
        return Lease(service, backend, offset, (need, *more), request_class, router, trial)

    @staticmethod
    def _kept(
        service: Service, size: RequestSize, tried: Sequence[Backend]
    ) -> tuple[int, float, int]:
        """Go to the replica that keeps what the request goes on from, which no other has."""
        keeper = None if size.session is None else size.session.keeper
        if keeper is not None and keeper not in tried:
            request_class = service.router.class_of(size.input_tokens, size.max_tokens)
            for slot in keeper.slots:
                if service.router.state.healthy[slot]:
                    return slot, service.router.add(request_class, slot), policy.PLANNED
        return -1, 0.0, policy.FULL

    async def _queue(
        self, service: Service, size: RequestSize, tried: Sequence[Backend]
    ) -> Lease | int:
        """Wait for a place; places are handed over in order of arrival (see `Service.wake`)."""
        if len(service.waiting) >= self._settings.queue_length:
            raise self._overloaded(service)
        future: asyncio.Future[Lease | int] = self._loop.create_future()
        waiting = Waiting(size, tried, lambda: self._try(service, size, tried), future)
        service.waiting.append(waiting)
        queued = self._metrics.queued
        queued.add(service.name)
        try:
            # Not wait_for: in Python 3.10 and 3.11 it can swallow a cancellation.
            await asyncio.wait([future], timeout=self._settings.queue_wait_s)
            if not future.done():
                raise self._overloaded(service)
            return future.result()
        except asyncio.CancelledError:
            place = future.result() if future.done() else None
            if isinstance(place, Lease):  # goes to the next
                service.end_trial(place, self._loop.time())
                self.release(place)
            raise
        finally:
            queued.add(service.name, amount=-1)
            if waiting in service.waiting:
                service.waiting.remove(waiting)

    def _overloaded(self, service: Service) -> Refusal:
        if service.is_vacant(()):
            return self._without_replica()
        return Refusal(
            429,
            "all replicas that serve this model are full; try again later",
            "overloaded",
            retry_after_s=self.retry_after_s(len(service.waiting)),
        )

    def retry_after_s(self, ahead: int) -> int:
        """Return when to come back: the time that the queue takes at the rate seen, 1 to 60 s."""
        rate = max(self._finished_per_s, 0.1)
        return max(1, min(60, math.ceil((ahead + 1) / rate)))

    def release(self, lease: Lease) -> None:
        """Give a place back, however the request ended."""
        backend, service = lease.backend, lease.service
        backend.in_flight -= 1
        now_s = self._loop.time()
        if self._last_finish_s is not None:
            gap_s = max(now_s - self._last_finish_s, 1e-6)
            weight = min(1.0, gap_s / 10)
            self._finished_per_s += weight * (1 / gap_s - self._finished_per_s)
        self._last_finish_s = now_s
        if backend.slots:  # none: a reload took the backend out of the plan
            for need in lease.needs:
                service.router.finish(backend.slots[lease.offset], need)
        service.wake()


def _slots(backends: Sequence[Backend]) -> list[int]:
    return [slot for backend in backends for slot in backend.slots]
