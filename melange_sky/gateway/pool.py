"""The plan and its backends as they are now, and what changes when either is replaced."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from melange_sky.engines import engine_named
from melange_sky.errors import InputError, did_you_mean
from melange_sky.gateway.backend import Backend, parse_backends
from melange_sky.gateway.metrics import bucket_labels
from melange_sky.gateway.tokens import TokenCounter
from melange_sky.routing import Router, policy

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from melange_sky.gateway.dispatch import Waiting
    from melange_sky.gateway.settings import Settings
    from melange_sky.plans import ModelPlan, Plan


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


class Fleet:
    """All services of the plan, by the model names that clients use."""

    def __init__(self, rng: random.Random, settings: Settings, tokenizer: Path | None) -> None:
        """Start empty; `load` fills it."""
        self._rng, self._settings = rng, settings
        self._tokenizer = tokenizer
        self._counter = TokenCounter(tokenizer) if tokenizer is not None else None
        self.services: dict[str, Service] = {}
        self.by_model: dict[str, Service] = {}
        self.created = 0

    @property
    def backends(self) -> list[Backend]:
        """All backends."""
        return [b for service in self.services.values() for b in service.backends]

    def prepare(
        self, plan: Plan, urls_by_option: Mapping[str, Sequence[str]]
    ) -> dict[str, tuple[ModelPlan, list[Backend]]]:
        """Check a plan and its backends and pair them; known backends are kept. Changes nothing.

        Raises InputError where a backend's option is not in the plan.
        """
        known = {backend.key: backend for backend in self.backends}
        split = _split(plan.models, urls_by_option)
        return {
            each.name: (
                each,
                [known.get(b.key, b) for b in parse_backends(each.name, split[each.name])],
            )
            for each in plan.models
        }

    def load(self, prepared: Mapping[str, tuple[ModelPlan, list[Backend]]]) -> None:
        """Take over what `prepare` returned, at once: no request sees half of it."""
        services: dict[str, Service] = {}
        by_model: dict[str, Service] = {}
        for name, (plan, backends) in prepared.items():
            service = self.services.get(name) or Service(plan, self._rng, self._settings)
            service.take(plan, backends)
            if self._counter is not None:
                service.counter = self._counter
            services[name] = service
            for model in service.model_names:
                by_model.setdefault(model, service)
        gone = [s for name, s in self.services.items() if name not in services]
        self.services, self.by_model = services, by_model
        for service in gone:
            service.wake()

    def find(self, model: str | None) -> Service | None:
        """Return the service of a model; without a name, the only one there is."""
        if model is not None:
            return self.by_model.get(model)
        return next(iter(self.services.values())) if len(self.services) == 1 else None


def _split(
    plans: Sequence[ModelPlan], urls_by_option: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, list[str]]]:
    """Sort URLs by plan and option: keys are OPTION, or PLAN/OPTION."""
    names: dict[str, list[tuple[str, str]]] = {}
    for plan in plans:
        for allocation in plan.allocations:
            option = allocation.candidate.option.name
            names.setdefault(option, []).append((plan.name, option))
            names.setdefault(f"{plan.name}/{option}", []).append((plan.name, option))
    split: dict[str, dict[str, list[str]]] = {plan.name: {} for plan in plans}
    for key, urls in urls_by_option.items():
        places = names.get(key, [])
        if not places:
            raise InputError(
                f"backend: the plan has no option '{key[:80]}'{did_you_mean(key, names)}; "
                f"it has {', '.join(sorted(names)[:12])}"
            )
        if len(places) > 1:
            raise InputError(
                f"backend: option '{key[:80]}' is planned for several models; "
                f"write {' or '.join(f'{plan}/{option}' for plan, option in places[:4])}"
            )
        plan_name, option = places[0]
        split[plan_name].setdefault(option, []).extend(urls)
    return split


def served_names(plan: ModelPlan) -> list[str]:
    """Return the names by which the replicas know the model: those of the engine's flag, else its id."""
    flags = engine_named(plan.engine.name).flags
    return flags.served_names(plan.engine.args) or [plan.model]
