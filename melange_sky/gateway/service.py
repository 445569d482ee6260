"""One model of the plan as it is served now: its backends, their health, and who waits for a place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from melange_sky.gateway.client_request import Refusal
from melange_sky.gateway.outliers import is_outlier
from melange_sky.gateway.tokens import TokenCounter
from melange_sky.routing import policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from melange_sky.gateway.backend import Backend
    from melange_sky.gateway.client_request import ClientRequest
    from melange_sky.gateway.seating import Seating
    from melange_sky.gateway.sessions import Session
    from melange_sky.gateway.settings import Settings
    from melange_sky.routing import Router

log = logging.getLogger(__name__)


class RequestSize(NamedTuple):
    """What is known of a request: prompt tokens, the longest output asked for, and its session.

    `input_tokens` are those of one prompt, on average; `longest_tokens` of the longest with its output.
    A replica works on `sequences` of them: `prompts`, times the choices of each. `estimated_from_bytes`
    is 0 where a tokenizer counted. `max_tokens` None where none was given, `session` None where there is none.
    """

    input_tokens: int
    longest_tokens: int
    max_tokens: int | None
    prompts: int
    sequences: int
    estimated_from_bytes: int
    session: Session | None = None


class Lease(NamedTuple):
    """A place at a replica, held while a request is there. `trial`: the replica was left out before."""

    service: Service
    backend: Backend
    offset: int
    needs: tuple[float, ...]
    request_class: int
    router: Router
    trial: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A request in the queue: `attempt` asks the policy again, `future` gets what it said."""

    size: RequestSize
    tried: Sequence[Backend]
    attempt: Callable[[], Lease | int]
    future: asyncio.Future[Lease | int]


class Service:
    """One model of the plan: its router, its backends and the requests that wait for a free one."""

    def __init__(self, new: Seating, backends: Sequence[Backend], settings: Settings) -> None:
        """Start with a plan and its backends."""
        self._settings = settings
        self.backends: list[Backend] = []
        self.by_slot: list[Backend] = []
        self.counter = TokenCounter()
        self.waiting: list[Waiting] = []
        self._take(new, backends, None)

    def take(self, new: Seating, backends: Sequence[Backend]) -> None:
        """Replace plan and backends; requests in flight stay counted where they are."""
        new.router.adopt(self.router)
        self._take(new, backends, self.router)

    def _take(self, new: Seating, backends: Sequence[Backend], old: Router | None) -> None:
        kept_out = [b for b in self.backends if b not in backends]
        self.seating, self.backends = new, list(backends)
        self.name, self.plan, self.router = new.plan.name, new.plan, new.router
        self.by_slot = []
        for backend in kept_out:
            backend.slots = ()
        for backend in (b for option in new.options for b in backends if b.option == option):
            self._seat(backend, new.router, old)
        self.refresh_health(asyncio.get_running_loop().time())

    async def size_of(self, request: ClientRequest, session: Session | None = None) -> RequestSize:
        """Return a request's size. Raises Refusal where it is beyond what the model can take."""
        sequences = request.prompts * request.choices
        most_choices, most_sequences = self.seating.most_choices, self.seating.most_sequences
        if request.choices > most_choices or sequences > most_sequences:
            raise Refusal(
                400,
                f"asks for {sequences} answers at once; this model takes n up to {most_choices} "
                f"and {most_sequences} answers in all",
                "invalid_value",
                param="n" if request.choices > 1 else "prompt",
            )
        count = await self.counter.count(request)
        return RequestSize(
            input_tokens=max(1, round(count.tokens / request.prompts)),
            longest_tokens=count.longest + (request.max_tokens or 1),
            max_tokens=request.max_tokens,
            prompts=request.prompts,
            sequences=sequences,
            estimated_from_bytes=count.estimated_from_bytes,
            session=session,
        )

    def _seat(self, backend: Backend, router: Router, old: Router | None) -> None:
        before, first = backend.slots, len(self.by_slot)
        backend.slots = tuple(range(first, first + backend.replicas))
        self.by_slot += [backend] * backend.replicas
        if old is None:
            return
        for was, now in zip(before, backend.slots, strict=False):
            router.restore(now, old.state.load[was], old.state.in_flight[was])

    def refresh_health(self, now_s: float) -> None:
        """Tell the router which backends may get requests, and wake who waits for one.

        Requests not begun at a backend that has fallen silent go elsewhere, if there is an elsewhere.
        """
        elsewhere = False
        for backend in self.backends:
            self._set_health(backend, healthy := backend.healthy(now_s))
            elsewhere |= healthy
        for backend in self.backends:
            if backend.silent and elsewhere:
                backend.give_up_unstarted()
        self.wake()

    def _set_health(self, backend: Backend, healthy: bool) -> None:
        for slot in backend.slots:
            self.router.set_health(slot, healthy)

    def succeeded(self, lease: Lease, now_s: float) -> None:
        """Count a request that a backend served to its end; one on trial brings it back."""
        backend = lease.backend
        backend.suspect = False
        if not backend.ejection.out:
            backend.outcomes.add(now_s, good=True)
        elif lease.trial:
            backend.ejection.end(now_s)
            backend.outcomes.clear()
            log.info("%r serves again", backend)

    def failed(self, lease: Lease, now_s: float) -> None:
        """Count a request that a backend failed by its own fault, and leave it out if it stands out."""
        backend = lease.backend
        if lease.trial:
            backend.ejection.begin(now_s)
            return
        if backend.ejection.out:
            return
        backend.outcomes.add(now_s, good=False)
        if self._stands_out(backend, now_s):
            backend.ejection.begin(now_s)
            log.warning("%r fails more than the others, left out for a while", backend)
            self._set_health(backend, False)

    def _stands_out(self, backend: Backend, now_s: float) -> bool:
        others = [b for b in self.backends if b is not backend]
        out = sum(b.ejection.out for b in others) + 1
        if out > self._settings.ejected_part * len(self.backends):
            return False
        outcomes = (b.outcomes for b in others if not b.ejection.out)
        return is_outlier(backend.outcomes, outcomes, now_s, self._settings)

    def begin(self, backend: Backend, now_s: float) -> bool:
        """Count a request as sent; return whether it is a trial, during which no other is sent."""
        backend.in_flight += 1
        trial = backend.ejection.out and not backend.ejection.trying
        if trial:
            backend.ejection.trying = True
            self._set_health(backend, False)
        return trial

    def end_trial(self, lease: Lease, now_s: float) -> None:
        """Let the next request try a backend, or all if it is back in use."""
        if lease.trial:
            lease.backend.ejection.trying = False
            self._set_health(lease.backend, lease.backend.healthy(now_s))

    @contextlib.contextmanager
    def last_resort(self, tried: Sequence[Backend]) -> Iterator[bool]:
        """Open backends that are left out, where no other is left: better one in doubt than none.

        Those that answer probes come first. Yields whether there are any.
        """
        closed = [
            b for b in self.backends if b not in tried and b.slots and b.vacant_since_s is None
        ]
        opened = [b for b in closed if b.answers_probes] or closed
        slots = [s for b in opened for s in b.slots if not self.router.state.healthy[s]]
        for slot in slots:
            self.router.set_health(slot, True)
        try:
            yield bool(slots)
        finally:
            for slot in slots:
                self.router.set_health(slot, False)

    def is_vacant(self, tried: Sequence[Backend]) -> bool:
        """Return whether no backend takes requests, and one is a balancer that may soon have a replica again."""
        left = [b for b in self.backends if b not in tried and b.slots]
        return any(b.vacant_since_s is not None for b in left) and not any(
            b.answers_probes for b in left
        )

    def wake(self) -> None:
        """Hand free places to the requests that wait, in order of arrival.

        Each may need another option, so all are asked for; but once one finds no place, neither will a
        later one of its class that is as long, nor be asked for.
        """
        full: dict[tuple[int, ...], int] = {}
        for waiting in tuple(self.waiting):
            size = waiting.size
            kind = (
                self.router.class_of(size.input_tokens, size.max_tokens),
                *map(id, waiting.tried),
            )
            longest = size.longest_tokens
            if waiting.future.done() or longest >= full.get(kind, longest + 1):
                continue
            place = waiting.attempt()
            if place == policy.FULL:
                full[kind] = longest
            else:
                self.waiting.remove(waiting)
                waiting.future.set_result(place)
