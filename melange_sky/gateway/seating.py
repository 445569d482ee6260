"""What a model's plan means to its service: the router, the names and the limits. Made before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.engines import engine_named
from melange_sky.errors import InputError
from melange_sky.gateway.affinity import Affinity
from melange_sky.gateway.metrics import bucket_labels
from melange_sky.routing import Router

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from melange_sky.gateway.backend import Backend
    from melange_sky.gateway.settings import Settings
    from melange_sky.plans import ModelPlan

_DEFAULT_SEATS = 256
_LEAST_SEQUENCES = 2048
"""As many prompts as OpenAI takes in one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seating:
    """A plan, its router over the backends there are, and what follows from it.

    A request may ask for `most_choices` answers to a prompt, and for `most_sequences` in all; the longest
    prompt has `most_tokens`, 0 where that is not known. `affinity` says which requests are kept together.
    """

    plan: ModelPlan
    router: Router
    options: tuple[str, ...]
    model_names: tuple[str, ...]
    input_buckets: list[str]
    output_buckets: list[str]
    most_choices: int
    most_sequences: int
    most_tokens: int
    affinity: Affinity


def seating(
    plan: ModelPlan, backends: Sequence[Backend], rng: random.Random, settings: Settings
) -> Seating:
    """Return the seating of a plan over backends. Raises InputError where the plan has no option."""
    if not plan.allocations:
        raise InputError(f"plan of {plan.name[:80]}: has no option; nothing can be served by it")
    options = tuple(a.candidate.option.name for a in plan.allocations)
    engines = [a.candidate.option.engine for a in plan.allocations]
    most_choices = max(
        (engine.max_num_seqs for engine in engines if engine is not None), default=_DEFAULT_SEATS
    )
    inputs, outputs = bucket_labels(plan.workload)
    seated = [[b for b in backends if b.option == option] for option in options]
    planned = Affinity.OFF if plan.reuse is None else Affinity(plan.reuse.affinity)
    affinity = settings.affinity or planned
    names = [f"{b.url}*{n}" for group in seated for b in group for n in range(b.replicas)]
    return Seating(
        plan=plan,
        router=Router(
            plan,
            rng,
            replicas=[sum(b.replicas for b in group) for group in seated],
            routers=settings.gateways,
            names=None if affinity is Affinity.OFF else names,
        ),
        options=options,
        model_names=tuple(served_names(plan)),
        input_buckets=inputs,
        output_buckets=outputs,
        most_choices=most_choices,
        most_sequences=max(_LEAST_SEQUENCES, 4 * most_choices),
        most_tokens=max(
            (engine.max_model_len for engine in engines if engine is not None), default=0
        ),
        affinity=affinity,
    )


def served_names(plan: ModelPlan) -> list[str]:
    """Return the names by which replicas know the model: those of the engine's flags, adapters included."""
    flags, args = engine_named(plan.engine.name).flags, plan.engine.args
    return [*(flags.served_names(args) or [plan.model]), *flags.adapters(args)]
