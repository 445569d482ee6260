"""One model of the plan as it is served now: its router, its backends, and who waits for a place."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.engines import engine_named
from melange_sky.gateway.metrics import bucket_labels
from melange_sky.gateway.tokens import TokenCounter
from melange_sky.routing import Router, policy

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from melange_sky.gateway.backend import Backend
    from melange_sky.gateway.settings import Settings
    from melange_sky.plans import ModelPlan


@dataclass(frozen=True, slots=True)
class RequestSize:
    """What is known of a request's size: prompt tokens, and the longest output asked for.

    `estimated_from_bytes` is 0 where a tokenizer counted. `max_tokens` None where none was given.
    """

    input_tokens: int
    max_tokens: int | None
    choices: int
    estimated_from_bytes: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A place at a replica, held while a request is there."""

    service: Service
    backend: Backend
    offset: int
    need: float
    request_class: int
    router: Router


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A request in the queue: `attempt` asks the policy again, `future` gets what it said."""

    size: RequestSize
    tried: Sequence[Backend]
    attempt: Callable[[], Lease | int]
    future: asyncio.Future[Lease | int]


class Service:
    """One model of the plan: its router, its backends and the requests that wait for a free one."""

    def __init__(self, plan: ModelPlan, rng: random.Random, settings: Settings) -> None:
        """Start without backends."""
        self._rng, self._settings = rng, settings
        self.name = plan.name
        self.backends: list[Backend] = []
        self.by_slot: list[Backend] = []
        self.counter = TokenCounter()
        self.waiting: list[Waiting] = []
        self.take(plan, [])

    def take(self, plan: ModelPlan, backends: Sequence[Backend]) -> None:
        """Replace plan and backends; requests in flight stay counted where they are."""
        old_router: Router | None = getattr(self, "router", None)
        kept_out = [b for b in self.backends if b not in backends]
        self.plan, self.backends = plan, list(backends)
        self.model_names = served_names(plan)
        self.input_buckets, self.output_buckets = bucket_labels(plan.workload)
        options = [a.candidate.option.name for a in plan.allocations]
        grouped = [[b for b in backends if b.option == option] for option in options]
        router = Router(
            plan,
            self._rng,
            replicas=[sum(b.replicas for b in group) for group in grouped],
            routers=self._settings.gateways,
        )
        if old_router is not None:
            router.adopt(old_router)
        self.by_slot = []
        for backend in kept_out:
            backend.slots = ()
        for backend in (b for group in grouped for b in group):
            self._seat(backend, router, old_router)
        self.router = router
        self.refresh_health(asyncio.get_running_loop().time())

    def _seat(self, backend: Backend, router: Router, old: Router | None) -> None:
        before, first = backend.slots, len(self.by_slot)
        backend.slots = tuple(range(first, first + backend.replicas))
        self.by_slot += [backend] * backend.replicas
        if old is None:
            return
        for was, now in zip(before, backend.slots, strict=False):
            router.restore(now, old.state.load[was], old.state.in_flight[was])

    def refresh_health(self, now_s: float) -> None:
        """Tell the router which backends may get requests, and wake who waits for one."""
        for backend in self.backends:
            healthy = backend.healthy(now_s)
            for slot in backend.slots:
                self.router.set_health(slot, healthy)
            if not healthy:
                backend.give_up_unstarted()
        self.wake()

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
            longest = size.input_tokens + (size.max_tokens or 1)
            if waiting.future.done() or longest >= full.get(kind, longest + 1):
                continue
            place = waiting.attempt()
            if place == policy.FULL:
                full[kind] = longest
            else:
                self.waiting.remove(waiting)
                waiting.future.set_result(place)


def served_names(plan: ModelPlan) -> list[str]:
    """Return the names by which the replicas know the model: those of the engine's flag, else its id."""
    flags = engine_named(plan.engine.name).flags
    return flags.served_names(plan.engine.args) or [plan.model]
