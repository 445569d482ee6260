"""The plan and its backends as they are now, and what changes when either is replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.errors import InputError, did_you_mean
from melange_sky.gateway.backend import Backend, parse_backends
from melange_sky.gateway.seating import Seating, seating
from melange_sky.gateway.service import Service
from melange_sky.gateway.tokens import TokenCounter

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from melange_sky.gateway.settings import Settings
    from melange_sky.plans import ModelPlan, Plan

LEAST_BODY_BYTES = 4 * 1024 * 1024
_BYTES_PER_TOKEN = 16
"""Text of about two bytes a character, each written as an escape of six."""


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
        self.body_bytes = settings.body_bytes or LEAST_BODY_BYTES
        """The largest body: as set, else what the longest context takes, written as JSON."""

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
                [
                    known.get(b.key, b)
                    for b in parse_backends(each.name, split[each.name], self._settings)
                ],
            )
            for each in plan.models
        }

    def load(self, prepared: Mapping[str, tuple[ModelPlan, list[Backend]]]) -> None:
        """Take over what `prepare` returned, at once: no request sees half of it.

        Raises InputError before anything is changed, where two models would answer to one name.
        """
        seats = {
            name: seating(plan, backends, self._rng, self._settings)
            for name, (plan, backends) in prepared.items()
        }
        by_model = plan_by_model(seats)
        services: dict[str, Service] = {}
        for name, (_, backends) in prepared.items():
            known = self.services.get(name)
            if known is None:
                services[name] = Service(seats[name], backends, self._settings)
                if self._counter is not None:
                    services[name].counter = self._counter
            else:
                services[name] = known
                known.take(seats[name], backends)
        gone = [s for name, s in self.services.items() if name not in services]
        self.services = services
        if self._settings.body_bytes is None:
            longest = max((seat.most_tokens for seat in seats.values()), default=0)
            self.body_bytes = max(LEAST_BODY_BYTES, _BYTES_PER_TOKEN * longest)
        self.by_model = {model: services[name] for model, name in by_model.items()}
        for service in gone:
            service.wake()

    def find(self, model: str | None) -> Service | None:
        """Return the service of a model; without a name, the only one there is."""
        if model is not None:
            return self.by_model.get(model)
        return next(iter(self.services.values())) if len(self.services) == 1 else None


def plan_by_model(seats: Mapping[str, Seating]) -> dict[str, str]:
    """Return the plan's name by the name that clients use."""
    plans: dict[str, str] = {}
    for name, seat in seats.items():
        for model in seat.model_names:
            if plans.setdefault(model, name) != name:
                raise InputError(
                    f"plan: '{model[:80]}' is the name of {plans[model]} and of {name}; "
                    "give one of them another in engine.args"
                )
    return plans


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
